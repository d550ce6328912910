//! Exact derivatives beyond the gradient: forward mode, and products of matrices of second derivatives with
//! vectors.
//!
//! * **Tangents** ([`jvp`]): every number of a pass is accompanied by its derivative in a direction v, marked
//!   by a dot: for a dense layer z = x·W + b, ż = ẋ·W + x·Ẇ + ḃ.
//! * **The Hessian times v** ([`product`](Curvature::product)) is the derivative of the gradient in the direction v. So the
//!   backward pass carries tangents, too: where dW = xᵀ·dz, the tangent is ẋᵀ·dz + xᵀ·dz˙. (Pearlmutter 1994,
//!   "Fast exact multiplication by the Hessian", calls this the R-operator; elsewhere it is called forward
//!   over reverse.)
//! * **The Gauss-Newton matrix times v**, Jᵀ·H·J·v with J the Jacobian of the outputs with respect to the
//!   parameters and H the second derivatives of the loss with respect to the outputs, is computed the same
//!   way with a gradient of 0: only the tangent H·ẏ goes back (Schraudolph 2002, "Fast curvature
//!   matrix-vector products"). With the Fisher information of the outputs as H, the result is that of the
//!   parameters.
//!
//! No finite differences are used. Where a gradient takes 3 matrix products per layer, a product takes 6,
//! once what depends only on the point is available: outputs, gradients and the derivatives φ′ and φ″, which
//! a [`Curvature`] keeps from one product to the next. Rows that are independent are processed in waves.
//!
//! * **Sums of squared per-row gradients** ([`squares`]), such as the diagonal of the Fisher information for
//!   a [`likelihood`] of the outputs: they take one product of squared matrices per layer.
//! * **Kronecker factors** ([`kronecker`]) of each dense layer's block of the Fisher information: two
//!   products per layer.
//! * **Derivatives with respect to the inputs** up to the second ([`jet`]), and the gradients of functions of
//!   them.
//!
//! Passes that train are fused (`pass`); these are not. A `point` is a network on a batch; `block` processes
//! a stage for some rows, `tangent` the accompanying tangents, `norm` has the formulas of normalizations, and
//! `gather` the last part. [`Replay`] runs only the numbers again and again, for differences. As in `pass`,
//! every number is computed by one thread in an order that depends on shapes only.

mod block;
mod encode;
mod gather;
pub mod jet;
pub mod kronecker;
pub mod likelihood;
mod norm;
mod point;
mod replay;
pub mod squares;
pub mod sweep;
mod tangent;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::arena::{Buffer, check_fits, zeros};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::{Panels, pack_transposed};
use crate::layer::Activation;
use crate::layer::dropout::Draw;
use crate::model::{Model, check_flat};
use crate::network::{Network, Norm, Over};
use crate::parallel;
use crate::simd::{Isa, all_finite, dispatch};
use crate::threads;
use crate::view::MatRef;

use block::{BLOCK, Block, dense_len};
use norm::{Affine, Columns, Task, Work, inverse};

pub use point::Curvature;
pub use replay::Replay;

/// Which matrix a vector is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Second derivatives of the loss with respect to the parameters.
    Hessian,
    /// Jᵀ·H·J with the second derivatives H of the loss with respect to the outputs.
    GaussNewton,
    /// Jᵀ·F·J with the Fisher information F of the outputs.
    Fisher,
}

/// Rows that are processed at the same time, if rows are independent.
const WAVE: usize = 2048;
/// Multiply-adds from which a further thread pays.
const WORK_PER_THREAD: usize = 1 << 17;

/// Computes outputs, and their derivative in a direction of parameters and, if there is an `x_dot`, of
/// inputs.
///
/// # Errors
/// If shapes do not fit, or something is not finite.
///
/// # Panics
/// If the length of v is not the number of parameters, or that of `output` or `dot` is not rows × outputs.
pub fn jvp<T: Element>(
    model: &mut Model<T>,
    x: MatRef<'_, T>,
    x_dot: Option<MatRef<'_, T>>,
    training: bool,
    v: &[T],
    [output, dot]: [&mut [T]; 2],
) -> Result<(), Error> {
    let (network, isa) = (model.network(), model.isa());
    network.check_input(x.into())?;
    check_flat("v", v)?;
    check_rows(model, x, training)?;
    let at = Weights::new(network, isa, None, T::ONE, None, |into| into.copy_from_slice(&model.params))?;
    let way = Weights::new(network, isa, None, T::ZERO, None, |into| network.import(isa, v, into))?;
    let site = Site {
        network,
        isa,
        at: &at,
        averages: &model.averages,
        training,
        draw: model.draw,
        rows: x.rows(),
        curved: false,
        back: false,
        plain: false,
        threads: team(network, x.rows()),
    };
    let (last, n) = (network.stages().len() - 1, network.outputs());
    let (mut columns, mut spare) = (site.columns(), Vec::new());
    for wave in site.waves() {
        let mut blocks = site.blocks(x, x_dot, wave, &mut spare)?;
        site.values(&mut blocks, &mut columns, |_| {});
        site.check(&blocks)?;
        site.tangents(&way, &mut blocks, &columns, |_| {});
        for block in &blocks {
            let range = block.first * n..(block.first + block.rows) * n;
            let [y, y_dot] = block.outputs(last);
            if !all_finite(isa, y_dot) {
                return Err(too_large("the derivative of the outputs in the direction v"));
            }
            output[range.clone()].copy_from_slice(y);
            dot[range].copy_from_slice(y_dot);
        }
        spare = blocks;
    }
    Ok(())
}

pub(crate) fn too_large(what: &str) -> Error {
    Error::Mismatch(format!(
        "{what} is not finite: the weights, x, or what they are multiplied by, are too large for this precision; \
         use smaller ones, or a model with dtype=\"float64\""
    ))
}

/// Checks samples.
fn check_rows<T: Element>(model: &Model<T>, x: MatRef<'_, T>, training: bool) -> Result<(), Error> {
    crate::data::Samples::from(x).check_finite("x", model.isa())?;
    if training { model.network().check_training_rows(x.rows()) } else { Ok(()) }
}

/// How many threads are worthwhile.
fn team(network: &Network, rows: usize) -> usize {
    let work = rows * network.stages().iter().map(dense_len).sum::<usize>();
    threads::num_threads().0.min(work / WORK_PER_THREAD).max(1)
}

/// Parameters, or a direction in parameter space, as blocks read them.
struct Weights<T> {
    /// In the order of the arena.
    arena: Buffer<T>,
    /// The normalization's scale and shift, by stage.
    affine: Vec<Affine<T>>,
    /// Transposed weights by stage, where gradients go back to the stage's input.
    transposed: Vec<Vec<T>>,
}

impl<T: Element> Weights<T> {
    /// Makes those that `write` provides in the order of the arena, reusing the memory of others. `scale` is
    /// the scale of normalizations without one; `back` is the first stage that gradients go back through, if
    /// there is one.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn new(
        network: &Network,
        isa: Isa,
        spare: Option<Self>,
        scale: T,
        back: Option<usize>,
        write: impl FnOnce(&mut [T]),
    ) -> Result<Self, Error> {
        let len = network.arena_len();
        let (mut arena, mut transposed) = match spare.filter(|spare| spare.arena.len() == len) {
            Some(Weights { mut arena, transposed, .. }) => {
                arena.fill(T::ZERO); // padding between blocks is 0
                (arena, transposed)
            }
            None => (Buffer::zeroed("parameters", len)?, Vec::new()),
        };
        write(&mut arena);
        let affine = network.stages().iter().map(|stage| {
            let part = |start: Option<usize>, n: usize, else_: T| match start {
                Some(start) => arena[start..start + n].to_vec(),
                None => vec![else_; n],
            };
            let of = |norm: Norm| {
                [part(norm.scale, stage.outputs, scale), part(norm.shift, stage.outputs, T::ZERO)]
            };
            stage.norm.map_or([Vec::new(), Vec::new()], of)
        });
        let affine = affine.collect();
        transposed.resize(network.stages().len(), Vec::new());
        for (index, (stage, into)) in network.stages().iter().zip(&mut transposed).enumerate() {
            let Some(dense) = stage.dense.filter(|_| back.is_some_and(|first| index >= first)) else {
                continue;
            };
            let len = stage.inputs * stage.outputs;
            let weight = Panels::new(&arena[dense.weight..dense.weight + len], stage.inputs, stage.outputs);
            if into.len() != len {
                *into = zeros("transposed weights", len)?;
            }
            pack_transposed(isa, weight, 0, into);
        }
        Ok(Weights { arena, affine, transposed })
    }
}

/// A network at its parameters on a batch: what blocks of rows need to know.
struct Site<'a, T> {
    network: &'a Network,
    isa: Isa,
    at: &'a Weights<T>,
    averages: &'a [T],
    /// Whether statistics are those of the batch, and elements are dropped.
    training: bool,
    draw: Draw,
    /// Rows of the batch.
    rows: usize,
    /// Whether gradients are computed, and carry tangents.
    curved: bool,
    /// Whether anything goes backward.
    back: bool,
    /// Whether only outputs are wanted, and no derivatives.
    plain: bool,
    threads: usize,
}

/// An action on a block, at a stage.
#[derive(Clone, Copy)]
enum Act {
    Enter(usize),
    Leave(usize),
    /// Takes what comes in at the outputs.
    Turn,
    LeaveBack(usize),
    EnterBack(usize),
}

impl<T: Element> Site<'_, T> {
    fn is_identity(&self, act: Activation) -> bool {
        match act {
            Activation::Identity => true,
            Activation::Dropout(_) => !self.training,
            _ => false,
        }
    }

    /// Whether φ″ is 0 everywhere.
    fn is_linear(&self, act: Activation) -> bool {
        matches!(act, Activation::Identity | Activation::Dropout(_))
    }

    /// Whether a stage computes statistics over the batch.
    fn couples(&self, index: usize) -> bool {
        self.training && self.network.stages()[index].norm.is_some_and(|norm| norm.over_batch())
    }

    /// Ranges of rows that can go through the network independently.
    fn waves(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let rows = self.rows;
        let wave = if self.training && self.network.couples_rows() { rows } else { WAVE };
        (0..rows).step_by(wave.max(1)).map(move |start| start..rows.min(start + wave))
    }

    /// Blocks of a wave's rows, in the memory of old blocks, which are taken from `spare`.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn blocks(
        &self,
        x: MatRef<'_, T>,
        x_dot: Option<MatRef<'_, T>>,
        wave: Range<usize>,
        spare: &mut Vec<Block<T>>,
    ) -> Result<Vec<Block<T>>, Error> {
        let x = x.block(0, wave.end, 0, x.cols());
        let mut blocks = Vec::with_capacity(wave.len().div_ceil(BLOCK));
        for first in wave.step_by(BLOCK) {
            blocks.push(Block::new(self, x, x_dot, first, spare.pop().unwrap_or_default())?);
            if let [block] = &blocks[..] {
                // The first one is the largest.
                let new = (blocks.capacity() - 1).saturating_sub(spare.len());
                check_fits::<T>(block::WHAT, new * block.len())?;
            }
        }
        Ok(blocks)
    }

    /// All actions on a block, in order, divided into runs. Every run but the last ends where a batch
    /// normalization needs sums over all blocks.
    fn runs(&self, back: bool) -> Vec<Vec<Act>> {
        let (count, mut runs) = (self.network.stages().len(), vec![Vec::new()]);
        let mut act = |act: Act, ends: bool| {
            runs.last_mut().expect("there is one").push(act);
            if ends {
                runs.push(Vec::new());
            }
        };
        for index in 0..count {
            act(Act::Enter(index), self.couples(index));
            act(Act::Leave(index), false);
        }
        if back {
            act(Act::Turn, false);
            for index in (0..count).rev() {
                act(Act::LeaveBack(index), self.couples(index));
                act(Act::EnterBack(index), false);
            }
        }
        runs
    }

    /// What is known of the normalizations' columns before a pass, by stage: in evaluation, those with
    /// running averages.
    fn columns(&self) -> Vec<Columns<T>> {
        let of = |stage: &crate::network::Stage| {
            let Some(Norm { over: Over::Batch { layer, running }, .. }) = stage.norm else {
                return Columns::default();
            };
            let n = stage.outputs;
            let part = |start: usize| &self.averages[start..start + n];
            let factor = part(running.1).iter().map(|v| T::lit(inverse(v.to_f64(), layer.eps)));
            Columns { mean: part(running.0).to_vec(), factor: factor.collect(), ..Columns::zeros(n) }
        };
        self.network.stages().iter().map(of).collect()
    }

    /// Computes the numbers of blocks: forward, and if gradients are wanted, backward from what `turn`
    /// writes.
    fn values(
        &self,
        blocks: &mut [Block<T>],
        columns: &mut [Columns<T>],
        turn: impl Fn(&mut Block<T>) + Sync,
    ) {
        for run in self.runs(self.curved) {
            parallel::pieces(blocks, self.threads, |block| {
                for act in &run {
                    match *act {
                        Act::Enter(index) => block.enter(self, index),
                        Act::Leave(index) => block.leave(self, index, &columns[index]),
                        Act::Turn => turn(block),
                        Act::LeaveBack(index) => block.leave_back(self, index),
                        Act::EnterBack(index) => block.enter_back(self, index, &columns[index]),
                    }
                }
            });
            match run.last() {
                Some(&Act::Enter(index)) => self.measure(blocks, index, &mut columns[index]),
                Some(&Act::LeaveBack(index)) => {
                    columns[index].slope = [0, 1].map(|which| self.means(blocks, index, which));
                }
                _ => {}
            }
        }
    }

    /// Computes the tangents of blocks in a direction: forward, and if anything goes backward, back from what
    /// `turn` writes.
    fn tangents(
        &self,
        way: &Weights<T>,
        blocks: &mut [Block<T>],
        columns: &[Columns<T>],
        turn: impl Fn(&mut Block<T>) + Sync,
    ) {
        let zeros = |stage: &crate::network::Stage| {
            Columns::zeros(if stage.norm.is_some() { stage.outputs } else { 0 })
        };
        let mut dots: Vec<_> = self.network.stages().iter().map(zeros).collect();
        for run in self.runs(self.back) {
            parallel::pieces(blocks, self.threads, |block| {
                for act in &run {
                    let known = |index: usize| [&columns[index], &dots[index]];
                    match *act {
                        Act::Enter(index) => {
                            block.enter_dot(self, way, index);
                            if self.couples(index) {
                                block.measure_dot(self, index);
                            }
                        }
                        Act::Leave(index) => block.leave_dot(self, way, index, known(index)),
                        Act::Turn => turn(block),
                        Act::LeaveBack(index) => block.leave_back_dot(self, index),
                        Act::EnterBack(index) => block.enter_back_dot(self, way, index, known(index)),
                    }
                }
            });
            match run.last() {
                Some(&Act::Enter(index)) => {
                    dots[index].mean = self.means(blocks, index, 0);
                    dots[index].factor = self.means(blocks, index, 1);
                }
                Some(&Act::LeaveBack(index)) => {
                    dots[index].slope = [0, 1].map(|which| self.means(blocks, index, which));
                }
                _ => {}
            }
        }
    }

    /// The batch means of what blocks have summed.
    fn means(&self, blocks: &[Block<T>], index: usize, which: usize) -> Vec<T> {
        gather::sums(blocks, index, which).iter().map(|sum| T::lit(sum / self.rows as f64)).collect()
    }

    /// Computes the statistics of a batch normalization over all rows: means first, then squared distances
    /// from them.
    fn measure(&self, blocks: &mut [Block<T>], index: usize, columns: &mut Columns<T>) {
        let stage = &self.network.stages()[index];
        let Some(Norm { over: Over::Batch { layer, .. }, .. }) = stage.norm else { return };
        let n = stage.outputs;
        parallel::pieces(blocks, self.threads, |block| {
            let slots = &mut block.slots[index];
            let z = &slots.y[..block.rows * n];
            dispatch(self.isa, Work(n, Task::Sums { z, into: &mut slots.sums[0] }));
        });
        columns.mean = self.means(blocks, index, 0);
        parallel::pieces(blocks, self.threads, |block| {
            let slots = &mut block.slots[index];
            let (z, mean) = (&slots.y[..block.rows * n], &columns.mean);
            dispatch(self.isa, Work(n, Task::Squares { z, mean, into: &mut slots.sums[0] }));
        });
        let squares = gather::sums(blocks, index, 0);
        let rows = self.rows as f64;
        columns.factor = squares.iter().map(|sum| T::lit(inverse(sum / rows, layer.eps))).collect();
    }

    /// Checks that the outputs of some rows are finite.
    fn check(&self, blocks: &[Block<T>]) -> Result<(), Error> {
        let (last, n) = (self.network.stages().len() - 1, self.network.outputs());
        for block in blocks {
            let output = block.output(last);
            if !all_finite(self.isa, output) {
                let place = output.iter().position(|x| !x.is_finite()).unwrap_or(0);
                let (row, column) = (block.first + place / n, place % n);
                return Err(Error::Overflow { row, column, value: output[place].to_f64() });
            }
        }
        Ok(())
    }
}
