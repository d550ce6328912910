//! Derivatives beyond the gradient, exact ones: forward mode, and products of matrices of second derivatives with
//! vectors.
//!
//! * **Tangents** ([`jvp`]): every number of a pass goes along with its derivative in one direction v, marked by a
//!   dot: for a dense layer z = x·W + b, ż = ẋ·W + x·Ẇ + ḃ.
//! * **The Hessian times v** ([`product`]) is the derivative of the gradient in the direction v. So the backward
//!   pass goes along with its tangents, too: where dW = xᵀ·dz, the tangent is ẋᵀ·dz + xᵀ·dz˙. (Pearlmutter 1994,
//!   "Fast exact multiplication by the Hessian", calls it the R-operator; elsewhere it is forward over reverse.)
//! * **The Gauss-Newton matrix times v**, Jᵀ·H·J·v with J the Jacobian of the outputs by the parameters and H the
//!   second derivatives of the loss by the outputs, goes the same way with a gradient of 0: what comes back from
//!   H·ẏ is its tangent alone (Schraudolph 2002, "Fast curvature matrix-vector products"). With the Fisher
//!   information of the outputs for H it is the Fisher information of the parameters.
//!
//! Nothing here is a difference. Beside 3 matrix products a layer for a gradient there are 8 here, and some of
//! the parameters' size in memory 4 times; rows that do not depend on each other go by in waves.
//!
//! * **Sums of squared gradients of single rows** ([`squares`]), such as the diagonal of the Fisher information
//!   for what [`likelihood`] says of the outputs: they take one product of squared matrices per layer.
//! * **Kronecker factors** ([`kronecker`]) of each dense layer's block of that matrix: two products per layer.
//!
//! Passes that train are fused ([`pass`](crate::pass)); these are not. `block` does a stage of some rows, `norm`
//! is what normalizations add, `each` runs blocks on threads. As there, every number is computed by one thread in an
//! order that shapes alone decide.

mod block;
mod each;
mod encode;
pub mod kronecker;
pub mod likelihood;
mod norm;
pub mod squares;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::arena::Buffer;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::{PANEL, Panels, pack_transposed};
use crate::layer::Category;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, RowLoss, Rows, Second};
use crate::model::Model;
use crate::network::{Encoder, Network, Norm, Over};
use crate::simd::{Isa, Op, Simd, all_finite, dispatch};
use crate::threads;
use crate::train::Trainer;
use crate::view::{MatMut, MatRef};

use block::{BLOCK, Block, dense_len};
use each::each;
use norm::{Affine, Moments, Sums};

/// Which matrix a vector is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Second derivatives of the loss by the parameters.
    Hessian,
    /// Jᵀ·H·J with the second derivatives H of the loss by the outputs.
    GaussNewton,
    /// Jᵀ·F·J with the Fisher information F of the outputs.
    Fisher,
}

/// Rows that are at work at the same time, if rows do not depend on each other.
const WAVE: usize = 2048;
/// Multiply-adds from which a further thread pays.
const WORK_PER_THREAD: usize = 1 << 17;
/// Rows of a weight that are worked on together.
const TILE: usize = 256;

/// A network at its parameters, and a direction.
struct Linearization<'a, T> {
    network: &'a Network,
    isa: Isa,
    /// The parameter arena, and the direction in the same order.
    params: &'a [T],
    dots: &'a [T],
    averages: &'a [T],
    /// Whether statistics are those of the batch, and elements are dropped.
    training: bool,
    draw: Draw,
    /// Rows of the batch.
    rows: usize,
    /// Whether gradients go along with their tangents.
    curved: bool,
    /// For each dense stage but the first, transposed weight and its direction.
    transposed: Vec<Option<[Vec<T>; 2]>>,
    threads: usize,
}

/// (∂²L/∂θ²)·v or what else [`Matrix`] says, into `into`; both in public order. L is the loss of the batch as a
/// training step takes it; `training` says whether the network is as in training, with statistics of the batch and
/// with what the next pass would drop, or as in evaluation.
///
/// # Errors
/// If shapes, labels or weights do not fit, or something is not finite, or there is no Fisher information.
///
/// # Panics
/// If v or `into` has another length than the number of parameters.
pub fn product<'t, T: Element + 't>(
    model: &mut Model<T>,
    objective: &Objective<T>,
    x: MatRef<'_, T>,
    y: impl Into<Goals<'t, T>>,
    matrix: Matrix,
    training: bool,
    v: &[T],
    into: &mut [T],
) -> Result<(), Error> {
    let goals = y.into();
    let uneven = Trainer::new(objective.clone()).check(model, x.into(), &goals)?;
    objective.check_values(&goals, model.isa())?;
    if matrix == Matrix::Fisher {
        objective.check_fisher()?;
    }
    let totals = objective.totals(&goals, |r| r, x.rows(), model.network().outputs(), uneven);
    if totals.loss == 0.0 {
        return Err(Error::NothingCounts);
    }
    let dots = direction(model, v)?;
    let net = Linearization::new(model, &dots, x, training, matrix == Matrix::Hessian, true)?;
    let mut result = Buffer::zeroed("a product with a vector", net.network.arena_len())?;
    let last = net.network.stages().len() - 1;
    let scale = objective.scale(totals);
    for wave in net.waves() {
        let mut blocks = net.blocks(x, None, wave);
        let columns = net.forward(&mut blocks);
        net.check(&blocks)?;
        each(&mut blocks, net.threads, |block| {
            let n = net.network.outputs();
            let [output, dot] = block.slots[last].y.each_ref().map(|y| MatRef::new(y, block.rows, n));
            let rows = Rows { output, goals, at: &|r| block.first + r, scale };
            let [dy, dy_dot] = block.back.each_mut().map(|b| &mut b[..block.rows * n]);
            if net.curved {
                let grad = MatMut::new(dy, block.rows, n);
                let mut losses = vec![RowLoss::default(); block.rows];
                dispatch(net.isa, Slopes { objective, rows: &rows, grad, losses: &mut losses });
            } else {
                dy.fill(T::ZERO);
            }
            let second = if matrix == Matrix::Fisher { Second::Fisher } else { Second::Hessian };
            objective.second(second, &rows, dot, MatMut::new(dy_dot, block.rows, n));
        });
        net.backward(&mut blocks, &columns);
        net.gather(&blocks, &mut result);
    }
    if !all_finite(model.isa(), &result) {
        return Err(Error::Mismatch(
            "the product with v is not finite: v, or the weights, are too large for this precision".into(),
        ));
    }
    model.network().export(&result, into);
    Ok(())
}

/// Outputs, and their derivative in a direction of parameters and, if there is a `x_dot`, inputs.
///
/// # Errors
/// If shapes do not fit, or something is not finite.
///
/// # Panics
/// If v has another length than the number of parameters, or `output` or `dot` than rows × outputs.
pub fn jvp<T: Element>(
    model: &mut Model<T>,
    x: MatRef<'_, T>,
    x_dot: Option<MatRef<'_, T>>,
    training: bool,
    v: &[T],
    [output, dot]: [&mut [T]; 2],
) -> Result<(), Error> {
    model.network().check_input(x.into())?;
    let dots = direction(model, v)?;
    let net = Linearization::new(model, &dots, x, training, false, false)?;
    let (last, n) = (net.network.stages().len() - 1, net.network.outputs());
    for wave in net.waves() {
        let mut blocks = net.blocks(x, x_dot, wave);
        net.forward(&mut blocks);
        net.check(&blocks)?;
        for block in &blocks {
            let range = block.first * n..(block.first + block.rows) * n;
            output[range.clone()].copy_from_slice(&block.slots[last].y[0]);
            dot[range].copy_from_slice(&block.slots[last].y[1]);
        }
    }
    Ok(())
}

/// A direction in the order of the arena.
fn direction<T: Element>(model: &Model<T>, v: &[T]) -> Result<Buffer<T>, Error> {
    if let Some(column) = v.iter().position(|x| !x.is_finite()) {
        return Err(Error::NotFinite { argument: "v", row: 0, column, value: v[column].to_f64() });
    }
    let mut dots = Buffer::zeroed("a direction", model.network().arena_len())?;
    model.network().import(v, &mut dots);
    Ok(dots)
}

impl<'a, T: Element> Linearization<'a, T> {
    fn new(
        model: &'a Model<T>,
        dots: &'a [T],
        x: MatRef<'_, T>,
        training: bool,
        curved: bool,
        back: bool,
    ) -> Result<Self, Error> {
        let (network, isa) = (model.network(), model.isa());
        crate::data::Samples::from(x).check_finite("x", isa)?;
        if training {
            network.check_training_rows(x.rows())?;
        }
        let work = x.rows() * network.stages().iter().map(dense_len).sum::<usize>();
        let transpose = |arena: &[T], start: usize, inputs: usize, outputs: usize| {
            let weight = Panels::new(&arena[start..start + inputs * outputs], inputs, outputs);
            let mut into = vec![T::ZERO; inputs * outputs];
            pack_transposed(isa, weight, 0, &mut into);
            into
        };
        let transposed = network.stages().iter().enumerate().map(|(index, stage)| {
            let dense = stage.dense.filter(|_| back && index > 0)?;
            let of = |arena: &[T]| transpose(arena, dense.weight, stage.inputs, stage.outputs);
            Some([of(&model.params), if curved { of(dots) } else { Vec::new() }])
        });
        Ok(Linearization {
            network,
            isa,
            params: &model.params,
            dots,
            averages: &model.averages,
            training,
            draw: model.draw,
            rows: x.rows(),
            curved,
            transposed: transposed.collect(),
            threads: threads::num_threads().0.min(work / WORK_PER_THREAD).max(1),
        })
    }

    /// Scale and shift of a normalization of n columns, with their directions.
    fn affine(&self, norm: &Norm, n: usize) -> Affine<'a, T> {
        let part = |start: usize| [self.params, self.dots].map(|of| &of[start..start + n]);
        Affine { scale: norm.scale.map(part), shift: norm.shift.map(part) }
    }

    /// Whether a stage takes statistics over the batch.
    fn couples(&self, index: usize) -> bool {
        self.training && self.network.stages()[index].norm.is_some_and(|norm| norm.over_batch())
    }

    /// Rows that can go through the network on their own.
    fn waves(&self) -> impl Iterator<Item = Range<usize>> + use<T> {
        let rows = self.rows;
        let wave = if self.training && self.network.couples_rows() { rows } else { WAVE };
        (0..rows).step_by(wave).map(move |start| start..rows.min(start + wave))
    }

    fn blocks(&self, x: MatRef<'_, T>, x_dot: Option<MatRef<'_, T>>, wave: Range<usize>) -> Vec<Block<T>> {
        let x = x.block(0, wave.end, 0, x.cols());
        wave.step_by(BLOCK).map(|first| Block::new(self, x, x_dot, first)).collect()
    }

    /// Forward with tangents; gives the moments of batch normalizations, by stage.
    fn forward(&self, blocks: &mut [Block<T>]) -> Vec<Moments> {
        let stages = 0..self.network.stages().len();
        let stage = |index: usize| {
            if !self.couples(index) {
                let columns = self.averages_of(index);
                each(blocks, self.threads, |block| {
                    block.enter(self, index);
                    block.leave(self, index, &columns);
                });
                return columns;
            }
            each(blocks, self.threads, |block| block.enter(self, index));
            let columns = self.measure(blocks, index);
            each(blocks, self.threads, |block| block.leave(self, index, &columns));
            columns
        };
        stages.map(stage).collect()
    }

    /// The moments of a batch normalization over all rows.
    fn measure(&self, blocks: &[Block<T>], index: usize) -> Moments {
        let stage = &self.network.stages()[index];
        let Some(Norm { over: Over::Batch { layer, .. }, .. }) = stage.norm else {
            return Moments::default();
        };
        let (n, rows) = (stage.outputs, self.rows as f64);
        let sums = |f: &(dyn Fn(usize, f64, f64) -> [f64; 2] + Sync)| {
            let mut parts: Vec<_> = blocks.iter().map(|block| (block, [Vec::new(), Vec::new()])).collect();
            each(&mut parts, self.threads, |(block, sums)| {
                let [z, dot] = block.output(index);
                *sums = norm::column_sums(z, dot, n, f);
            });
            norm::add_up(n, parts.iter().map(|(_, sums)| sums)).map(|mut sum| {
                sum.iter_mut().for_each(|x| *x /= rows);
                sum
            })
        };
        let [mean, mean_dot] = sums(&|_, z, dot| [z, dot]);
        let [variance, along] = sums(&|j, z, dot| {
            let d = z - mean[j];
            [d * d, d * (dot - mean_dot[j])]
        });
        let inverse: Vec<f64> = variance.iter().map(|v| 1.0 / (v + layer.eps).sqrt()).collect();
        let along = along.iter().zip(&inverse).map(|(a, s)| a * s).collect();
        Moments { mean, mean_dot, inverse, along }
    }

    /// The moments that a batch normalization has in evaluation: constants.
    fn averages_of(&self, index: usize) -> Moments {
        let stage = &self.network.stages()[index];
        let Some(Norm { over: Over::Batch { layer, running }, .. }) = stage.norm else {
            return Moments::default();
        };
        let n = stage.outputs;
        let of = |start: usize| self.averages[start..start + n].iter().map(|x| x.to_f64());
        let inverse = of(running.1).map(|v| 1.0 / (v + layer.eps).sqrt()).collect();
        Moments { mean: of(running.0).collect(), inverse, ..Moments::zeros(n) }
    }

    /// Checks that the outputs of some rows are finite.
    fn check(&self, blocks: &[Block<T>]) -> Result<(), Error> {
        let (last, n) = (self.network.stages().len() - 1, self.network.outputs());
        for block in blocks {
            let [output, dot] = block.output(last);
            if !all_finite(self.isa, output) {
                let place = output.iter().position(|x| !x.is_finite()).unwrap_or(0);
                let (row, column) = (block.first + place / n, place % n);
                return Err(Error::Overflow { row, column, value: output[place].to_f64() });
            }
            if !all_finite(self.isa, dot) {
                let text = "the derivative of the outputs in the direction v is not finite: v is too large";
                return Err(Error::Mismatch(text.into()));
            }
        }
        Ok(())
    }

    /// Backward with tangents, from what `back` of each block holds.
    fn backward(&self, blocks: &mut [Block<T>], columns: &[Moments]) {
        for index in (0..self.network.stages().len()).rev() {
            let norm = self.network.stages()[index].norm;
            let finish = |block: &mut Block<T>, means: &[[f64; 4]]| {
                if let Some(norm) = &norm {
                    block.through_norm(self, index, norm, &columns[index], means);
                }
                if index > 0 {
                    block.enter_back(self, index);
                }
            };
            match norm.filter(|_| self.couples(index)) {
                Some(norm) => {
                    each(blocks, self.threads, |block| block.leave_back(self, index));
                    let affine = self.affine(&norm, self.network.stages()[index].outputs);
                    let means = norm::column_means(&self.sums(blocks, index), self.rows, &affine);
                    each(blocks, self.threads, |block| finish(block, &means));
                }
                None => each(blocks, self.threads, |block| {
                    block.leave_back(self, index);
                    finish(block, &[]);
                }),
            }
        }
    }

    /// What a normalization collected, over all blocks.
    fn sums(&self, blocks: &[Block<T>], index: usize) -> Sums {
        norm::add_up(self.network.stages()[index].outputs, blocks.iter().map(|b| &b.slots[index].sums))
    }

    /// Adds the tangents of the gradients by the parameters, over the rows of the blocks.
    fn gather(&self, blocks: &[Block<T>], result: &mut [T]) {
        let mut parts = Vec::new();
        let (mut rest, mut at) = (result, 0);
        for (index, stage) in self.network.stages().iter().enumerate() {
            let mut take = |start: usize, len: usize| {
                let (part, after) = std::mem::take(&mut rest)[start - at..].split_at_mut(len);
                (rest, at) = (after, start + len);
                part
            };
            if let Some(Encoder::Tabular { layer, starts, .. }) =
                stage.encoder.map(|encoder| &self.network.encoders()[encoder])
            {
                layer.each_category(|k, category, first| {
                    let into = take(starts[k], category.codes * category.dim);
                    parts.push((index, Part::Table { category: *category, first }, into));
                });
            }
            if let Some(dense) = stage.dense {
                let mut weight = take(dense.weight, stage.inputs * stage.outputs);
                for col in (0..stage.outputs).step_by(PANEL) {
                    let n = PANEL.min(stage.outputs - col);
                    for from in (0..stage.inputs).step_by(TILE) {
                        let (part, after) = weight.split_at_mut(TILE.min(stage.inputs - from) * n);
                        weight = after;
                        parts.push((index, Part::Weight { from, col, n }, part));
                    }
                }
                if let Some(bias) = dense.bias {
                    parts.push((index, Part::Bias, take(bias, stage.outputs)));
                }
            }
            if let Some(norm) = stage.norm {
                for (start, part) in [(norm.scale, Part::Scale), (norm.shift, Part::Shift)] {
                    start.into_iter().for_each(|start| parts.push((index, part, take(start, stage.outputs))));
                }
            }
        }
        each(&mut parts, self.threads, |(index, part, into)| {
            let n = self.network.stages()[*index].outputs;
            match *part {
                Part::Weight { from, col, n } => {
                    let (rows, mut scratch) = (into.len() / n, Vec::new());
                    for block in blocks {
                        let into = MatMut::new(into, rows, n);
                        block.weights(self, *index, (from, col), into, &mut scratch);
                    }
                }
                Part::Table { category, first } => {
                    blocks.iter().for_each(|block| block.table(self, *index, &category, first, into));
                }
                Part::Bias => {
                    for row in blocks.iter().flat_map(|b| b.slots[*index].delta[1].chunks_exact(n)) {
                        into.iter_mut().zip(row).for_each(|(into, d)| *into += *d);
                    }
                }
                Part::Scale | Part::Shift => {
                    let which = if let Part::Scale = part { 3 } else { 2 };
                    let total = &self.sums(blocks, *index)[which];
                    into.iter_mut().zip(total).for_each(|(into, d)| *into += T::lit(*d));
                }
            }
        });
    }
}

/// What a piece of the result belongs to.
#[derive(Clone, Copy)]
enum Part {
    /// Vectors of a category, which stand in the output from a column on.
    Table { category: Category, first: usize },
    /// Rows of a panel of a weight.
    Weight { from: usize, col: usize, n: usize },
    /// A bias.
    Bias,
    /// γ
    Scale,
    /// β
    Shift,
}

/// Gradients of losses by the outputs.
struct Slopes<'l, 'r, T> {
    objective: &'l Objective<T>,
    rows: &'l Rows<'r, T>,
    grad: MatMut<'l, T>,
    losses: &'l mut [RowLoss],
}

impl<T: Element> Op<T> for Slopes<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        self.objective.rows(s, self.rows, Some(self.grad), self.losses);
    }
}
