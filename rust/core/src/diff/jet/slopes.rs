//! First derivatives of the outputs with respect to all inputs, by going back from each output, and the
//! parameters' gradients of functions of these: double backpropagation (Drucker & LeCun 1992, "Improving
//! generalization performance using double backpropagation"), as for gradient penalties. The cost grows with
//! the number of outputs, and not with that of inputs as for a [`Jet`](super::Jet).
//!
//! With g the gradients of output k with respect to a stage's output y, and p those with respect to z:
//!
//! ```text
//! forward    z = x·W + b        y = φ(z)
//! back       p = φ′·g           gradient with respect to x: p·Wᵀ
//! ```
//!
//! Now let c be the gradient of a loss with respect to the derivatives of output k, which for each row is a
//! direction of the inputs. The gradient of the parameters that goes through these is that of the derivative of
//! output k along c, so a dot marks derivatives along it. With sums over the outputs k:
//!
//! ```text
//! along c    ż = ẋ·W            ẏ = φ′·ż
//! gradients  dz = φ′·dy + Σ φ″·g·ż        dx = dz·Wᵀ        dW = xᵀ·dz + Σ ẋᵀ·p
//! ```
//!
//! where dy begins as the gradient of the loss with respect to the outputs themselves. Nothing is computed
//! twice: y, φ′, φ″·g and p are kept from one call to the next, which is 6 products per layer for one output.
//!
//! Between z and φ there may be a normalization over rows, whose formulas are in [`norm`](crate::diff::norm):
//! it takes the same four ways, with derivatives along c as tangents, while its own parameters stay.

use super::kernels::{Along, Bent, Pull};
use super::shards::{self, Get, Rows, Shard, share};
use super::stages::{Place, acts};
use super::{refuse, too_large};
use crate::data::Samples;
use crate::diff::block::outer;
use crate::diff::gather::{self, Part, add_rows};
use crate::diff::norm::{Affine, Of, OfDots, OfRows, Task, Work};
use crate::diff::{Weights, team};
use crate::element::Element;
use crate::error::Error;
use crate::layer::RowNorm;
use crate::model::{Model, check_output};
use crate::network::{Network, Over, Stage};
use crate::parallel;
use crate::simd::{add, all_finite, dispatch, max_abs};
use crate::view::{MatMut, MatRef};

/// Derivatives of each output with respect to the inputs, and what the way back needs of the rows that went
/// forward last.
pub struct Slopes<T> {
    /// Number of rows that went forward.
    pending: Option<usize>,
    at: Option<Weights<T>>,
    /// By stage, the tangents of its normalization's parameters: 0.
    still: Vec<Affine<T>>,
    shards: Vec<Shard<T, Block<T>, Desk<T>>>,
}

/// Some rows, and what is kept of them: parts, one after the other. Where there is a part for each output, one
/// for the numbers may come before them.
#[derive(Default)]
struct Block<T> {
    rows: usize,
    /// x, and c of each output.
    x: Vec<T>,
    /// By stage, y, and ẏ of each output.
    y: Vec<Vec<T>>,
    /// By stage with an activation, φ′.
    slope: Vec<Vec<T>>,
    /// By stage with an activation, φ″·g of each output; φ″ is in the last part until that is computed.
    turn: Vec<Vec<T>>,
    /// By stage, dz, and p of each output.
    dz: Vec<Vec<T>>,
    /// By stage, what its normalization needs.
    norms: Vec<Normed<T>>,
    /// The derivatives of each output with respect to x.
    dx: Vec<T>,
}

/// What is kept for a normalization.
#[derive(Default)]
struct Normed<T> {
    /// ẑ, and ẑ˙ of each output.
    hat: Vec<T>,
    /// φ′·g of each output.
    du: Vec<T>,
    /// What is known of the rows, for each output.
    of: Vec<OfRows<T>>,
    /// The gradients of β and γ.
    sums: [Vec<T>; 2],
}

/// What is not kept.
#[derive(Default)]
struct Desk<T> {
    /// Gradients with respect to a stage's output.
    back: Vec<T>,
    /// φ‴, which nobody reads; and the gradients of one output that are added to those of others.
    third: Vec<T>,
    /// Sums over rows.
    sums: [Vec<T>; 2],
    /// Scratch for products.
    scratch: Vec<T>,
}

impl<T: Element> Slopes<T> {
    /// For that network.
    ///
    /// # Errors
    /// If there is a layer that derivatives do not go through.
    pub fn new(network: &Network) -> Result<Self, Error> {
        refuse(network, true)?;
        let still = network.stages().iter().map(|stage| {
            let n = if stage.norm.is_some() { stage.outputs } else { 0 };
            [vec![T::ZERO; n], vec![T::ZERO; n]]
        });
        Ok(Slopes { pending: None, at: None, still: still.collect(), shards: Vec::new() })
    }

    /// Computes the outputs, rows × outputs, and the derivatives of the first output, rows × inputs, followed
    /// by those of the others.
    ///
    /// # Errors
    /// If the input has another width, no rows, or NaN or infinity in it, or something overflows.
    ///
    /// # Panics
    /// If `output` or `slopes` has another length, or the network differs from the one that this was made for.
    pub fn forward(
        &mut self,
        model: &Model<T>,
        x: MatRef<'_, T>,
        output: &mut [T],
        slopes: &mut [T],
    ) -> Result<(), Error> {
        self.pending = None;
        let (network, isa, rows) = (model.network(), model.isa(), x.rows());
        network.check_input(Samples::from(x))?;
        Samples::from(x).check_finite("x", isa)?;
        let (inputs, outputs) = (network.inputs(), network.outputs());
        assert_eq!((output.len(), slopes.len()), (rows * outputs, outputs * rows * inputs));
        let write = |into: &mut [T]| into.copy_from_slice(&model.params);
        let at = Weights::new(network, isa, self.at.take(), T::ONE, Some(0), write)?;
        let place = Place { network, isa, at: &at, averages: &model.averages };
        share(&mut self.shards, network, rows, 1 + outputs)?;
        parallel::pieces(&mut self.shards, team(network, rows * (1 + outputs)), |shard| {
            let mut first = shard.rows.start;
            for block in &mut shard.blocks {
                copy_rows(x, first, &mut block.x[..block.rows * inputs]);
                block.forward(&place, &mut shard.desk);
                block.pull(&place, &mut shard.desk);
                first += block.rows;
            }
        });
        let mut write = |block: &Block<T>, first: usize| {
            let y = block.y.last().expect("there are stages");
            output[first * outputs..][..block.rows * outputs].copy_from_slice(&y[..block.rows * outputs]);
            for (of_all, of_block) in
                slopes.chunks_exact_mut(rows * inputs).zip(block.dx.chunks_exact(block.rows * inputs))
            {
                of_all[first * inputs..][..of_block.len()].copy_from_slice(of_block);
            }
        };
        for Shard { blocks, rows: own, .. } in &self.shards {
            let mut first = own.start;
            for block in blocks {
                write(block, first);
                first += block.rows;
            }
        }
        check_output(isa, output, outputs)?;
        if !all_finite(isa, slopes) {
            return Err(too_large("a derivative of the outputs with respect to the inputs"));
        }
        (self.at, self.pending) = (Some(at), Some(rows));
        Ok(())
    }

    /// Adds the parameters' gradients to the model's, for the parameters as they were on the way forward, given
    /// those with respect to all that [`forward`](Self::forward) computed, laid out like that.
    ///
    /// # Errors
    /// If nothing went forward before, or a gradient has another shape or is not finite; nothing is changed
    /// then.
    ///
    /// # Panics
    /// If the network differs from the one that this was made for.
    pub fn backward(
        &mut self,
        model: &mut Model<T>,
        by_output: MatRef<'_, T>,
        by_slopes: MatRef<'_, T>,
    ) -> Result<(), Error> {
        let isa = model.isa();
        let model_parts = model.still_parts();
        let network = model_parts.network;
        let (inputs, outputs) = (network.inputs(), network.outputs());
        let Some((rows, at)) = self.pending.zip(self.at.as_ref()) else {
            return Err(Error::Mismatch("backward needs a forward pass before it".into()));
        };
        for (gradient, expected) in [(by_output, (rows, outputs)), (by_slopes, (outputs * rows, inputs))] {
            let found = (gradient.rows(), gradient.cols());
            if found != expected {
                return Err(Error::GradientShape { found, expected });
            }
            Samples::from(gradient).check_finite("the gradient", isa)?;
        }
        let place = Place { network, isa, at, averages: model_parts.averages };
        let still = &self.still;
        parallel::pieces(&mut self.shards, team(network, rows * (1 + outputs)), |shard| {
            shard.grads.fill(T::ZERO);
            let mut parts = gather::parts(network, &mut shard.grads);
            let mut first = shard.rows.start;
            for block in &mut shard.blocks {
                for (k, into) in block.x.chunks_exact_mut(block.rows * inputs).skip(1).enumerate() {
                    copy_rows(by_slopes, k * rows + first, into);
                }
                block.along(&place, still, &mut shard.desk);
                copy_rows(by_output, first, &mut shard.desk.back[..block.rows * outputs]);
                block.backward(&place, still, &mut shard.desk);
                for (index, part, into) in &mut parts {
                    block.gather(&place, &mut shard.desk, *index, *part, into);
                }
                first += block.rows;
            }
        });
        shards::add(isa, &self.shards, model_parts.grads);
        let size = max_abs(isa, model_parts.grads).to_f64();
        model.note_gradients(size);
        Ok(())
    }
}

/// A stage's normalization, which is over rows if there is one.
fn row_norm(stage: &Stage) -> Option<&RowNorm> {
    stage.norm.as_ref().map(|norm| match &norm.over {
        Over::Row(layer) => layer,
        Over::Batch { .. } => unreachable!("refused when this was made"),
    })
}

/// Copies rows from the `first` on, as many as fit.
fn copy_rows<T: Element>(from: MatRef<'_, T>, first: usize, into: &mut [T]) {
    for (r, into) in into.chunks_exact_mut(from.cols()).enumerate() {
        into.copy_from_slice(from.row(first + r));
    }
}

impl<T: Element> Rows<T> for Block<T> {
    type Desk = Desk<T>;

    fn rows(&mut self) -> &mut usize {
        &mut self.rows
    }

    fn rooms(&mut self, network: &Network, parts: usize, get: &mut Get<'_, T>) -> Result<(), Error> {
        let (stages, rows, ways) = (network.stages(), self.rows, parts - 1);
        get(&mut self.x, parts * rows * network.inputs())?;
        get(&mut self.dx, ways * rows * network.inputs())?;
        for of in [&mut self.y, &mut self.slope, &mut self.turn, &mut self.dz] {
            of.resize_with(stages.len(), Vec::new);
        }
        self.norms.resize_with(stages.len(), Normed::default);
        for (index, stage) in stages.iter().enumerate() {
            let (part, acting) = (rows * stage.outputs, usize::from(acts(stage)));
            get(&mut self.y[index], parts * part)?;
            get(&mut self.dz[index], parts * part)?;
            get(&mut self.slope[index], acting * part)?;
            get(&mut self.turn[index], acting * ways * part)?;
            let normed = usize::from(stage.norm.is_some());
            let Normed { hat, du, of, sums } = &mut self.norms[index];
            get(hat, normed * parts * part)?;
            get(du, normed * ways * part)?;
            of.resize_with(normed * ways, OfRows::default);
            for OfRows { inverse, along, slope } in of {
                [inverse, along, slope].into_iter().try_for_each(|known| get(known, rows))?;
            }
            sums.iter_mut().try_for_each(|sums| get(sums, normed * stage.outputs))?;
        }
        Ok(())
    }

    fn desk(
        desk: &mut Desk<T>,
        rows: usize,
        network: &Network,
        parts: usize,
        get: &mut Get<'_, T>,
    ) -> Result<(), Error> {
        get(&mut desk.back, (parts - 1) * rows * network.max_width())?;
        get(&mut desk.third, rows * network.max_width())?;
        desk.sums.iter_mut().try_for_each(|sums| get(sums, network.max_width()))
    }
}

impl<T: Element> Block<T> {
    /// Takes the rows forward: computes y, φ′ and φ″.
    fn forward(&mut self, place: &Place<'_, T>, desk: &mut Desk<T>) {
        for (index, stage) in place.network.stages().iter().enumerate() {
            let part = self.rows * stage.outputs;
            let (before, rest) = self.y.split_at_mut(index);
            let taken = |stage: usize| match stage {
                0 => &self.x[..self.rows * place.network.inputs()],
                _ => &before[stage - 1][..self.rows * place.network.stages()[stage - 1].outputs],
            };
            let y = &mut rest[0][..part];
            place.values(stage, taken(index), stage.skip.map(taken), y, &mut desk.scratch);
            if let Some(norm) = row_norm(stage) {
                let Normed { hat, of, .. } = &mut self.norms[index];
                let (first, others) = of.split_first_mut().expect("there are outputs");
                let (hat, affine) = (&mut hat[..part], &place.at.affine[index]);
                let forward = Task::Forward { z: &mut *y, hat, of: Of::Rows(norm, first), affine };
                dispatch(place.isa, Work(stage.outputs, forward));
                others.iter_mut().for_each(|of| of.inverse.copy_from_slice(&first.inverse));
            }
            if acts(stage) {
                let turn = &mut self.turn[index];
                let second = turn.len() - part;
                let slopes = [&mut self.slope[index][..], &mut turn[second..], &mut desk.third[..part]];
                let [first, second, third] = slopes;
                stage.act.jet(place.isa, [y, first, second, third]);
            }
        }
    }

    /// Goes back from each output to the inputs.
    fn pull(&mut self, place: &Place<'_, T>, desk: &mut Desk<T>) {
        let outputs = place.network.outputs();
        let g = &mut desk.back[..outputs * self.rows * outputs];
        g.fill(T::ZERO);
        for (k, g) in g.chunks_exact_mut(self.rows * outputs).enumerate() {
            g.iter_mut().skip(k).step_by(outputs).for_each(|g| *g = T::ONE);
        }
        for (index, stage) in place.network.stages().iter().enumerate().rev() {
            let (part, rows) = (self.rows * stage.outputs, self.rows);
            let (z, p) = (&self.y[index][..part], &mut self.dz[index][part..]);
            let g = &desk.back[..p.len()];
            match acts(stage) {
                true => {
                    dispatch(
                        place.isa,
                        Pull { slope: &self.slope[index], turn: &mut self.turn[index], g, p },
                    );
                }
                false => p.copy_from_slice(g),
            }
            if let Some(norm) = row_norm(stage) {
                let Normed { hat, du, of, .. } = &mut self.norms[index];
                let each = p.chunks_exact_mut(part).zip(du.chunks_exact_mut(part)).zip(of);
                for ((dz, du), of) in each {
                    let (hat, of, affine) = (&hat[..part], Of::Rows(norm, of), &place.at.affine[index]);
                    dispatch(place.isa, Work(stage.outputs, Task::Backward { dz, du, hat, of, affine }));
                }
            }
            let p = |stage: usize| &self.dz[stage][rows * place.network.stages()[stage].outputs..];
            let dx = match index {
                0 => &mut self.dx[..],
                _ => &mut desk.back[..outputs * rows * stage.inputs],
            };
            place.back(index, z, p, dx, &mut desk.scratch);
        }
    }

    /// Takes derivatives along c forward: computes ẏ, and Σ φ″·g·ż in the place of dz.
    fn along(&mut self, place: &Place<'_, T>, still: &[Affine<T>], desk: &mut Desk<T>) {
        let last = place.network.stages().len() - 1;
        for (index, stage) in place.network.stages().iter().enumerate() {
            if index == last && !acts(stage) && stage.norm.is_none() {
                return; // nobody needs its ẏ
            }
            let part = self.rows * stage.outputs;
            let (before, rest) = self.y.split_at_mut(index);
            let taken = |stage: usize| match stage {
                0 => &self.x[self.rows * place.network.inputs()..],
                _ => &before[stage - 1][self.rows * place.network.stages()[stage - 1].outputs..],
            };
            let (z, dots) = rest[0].split_at_mut(part);
            place.dots(stage, taken(index), stage.skip.map(taken), z, dots, &mut desk.scratch);
            if let Some(norm) = row_norm(stage) {
                let Normed { hat, of, .. } = &mut self.norms[index];
                let (hat, hat_dots) = hat.split_at_mut(part);
                let each = dots.chunks_exact_mut(part).zip(hat_dots.chunks_exact_mut(part)).zip(of);
                for ((dot, hat_dot), of) in each {
                    let (hat, of) = ([&mut *hat, hat_dot], OfDots::Rows(norm, of));
                    let affine = [&place.at.affine[index], &still[index]];
                    dispatch(place.isa, Work(stage.outputs, Task::Tangent { dot, hat, of, affine }));
                }
            }
            if acts(stage) {
                let (slope, turn) = (&self.slope[index], &self.turn[index]);
                dispatch(place.isa, Along { slope, turn, dots, bent: &mut self.dz[index][..part] });
            }
        }
    }

    /// Goes back from the gradient with respect to the outputs: computes dz.
    fn backward(&mut self, place: &Place<'_, T>, still: &[Affine<T>], desk: &mut Desk<T>) {
        let first = place.first_that_learns();
        for (index, stage) in place.network.stages().iter().enumerate().skip(first).rev() {
            let (part, rows) = (self.rows * stage.outputs, self.rows);
            let dz = &mut self.dz[index][..part];
            let dy = &desk.back[..part];
            match acts(stage) {
                true => dispatch(place.isa, Bent { slope: &self.slope[index], dy, dz }),
                false => dz.copy_from_slice(dy),
            }
            if let Some(norm) = row_norm(stage) {
                self.normalize_back(place, index, norm, &still[index], desk);
            }
            if index > first {
                let dz = |stage: usize| &self.dz[stage][..rows * place.network.stages()[stage].outputs];
                let dx = &mut desk.back[..rows * stage.inputs];
                place.back(index, &self.y[index][..part], dz, dx, &mut desk.scratch);
            }
        }
    }

    /// Goes back through a stage's normalization, in the place of dz, and sums the gradients of β and γ.
    fn normalize_back(
        &mut self,
        place: &Place<'_, T>,
        index: usize,
        norm: &RowNorm,
        still: &Affine<T>,
        desk: &mut Desk<T>,
    ) {
        let n = place.network.stages()[index].outputs;
        let part = self.rows * n;
        let Normed { hat, du, of, sums } = &mut self.norms[index];
        let (hat, hat_dots) = hat.split_at(part);
        let (dz, p) = self.dz[index].split_at_mut(part);
        dispatch(place.isa, Work(n, Task::Collect { a: dz, hat, with: None, into: &mut *sums }));
        let each = du.chunks_exact(part).zip(hat_dots.chunks_exact(part)).zip(p.chunks_exact(part)).zip(of);
        for (k, (((du, hat_dot), p), of)) in each.enumerate() {
            let into = &mut desk.sums;
            into.iter_mut().for_each(|sums| sums.resize(n, T::ZERO));
            dispatch(place.isa, Work(n, Task::Collect { a: du, hat: hat_dot, with: None, into: &mut *into }));
            add(place.isa, &mut sums[1], &into[1]);
            // Linear in dz: what it adds to 0 is added for the outputs after the first.
            let more = &mut desk.third[..part];
            more.fill(T::ZERO);
            let dz_dot = if k == 0 { &mut *dz } else { &mut *more };
            let (slope, of) = (Some([du, p, hat_dot]), OfDots::Rows(norm, of));
            let affine = [&place.at.affine[index], still];
            dispatch(place.isa, Work(n, Task::Curve { dz_dot, slope, hat, of, affine }));
            if k > 0 {
                add(place.isa, dz, more);
            }
        }
    }

    /// Adds the block's contribution to a piece of the gradients of a stage's parameters.
    fn gather(&self, place: &Place<'_, T>, desk: &mut Desk<T>, index: usize, part: Part, into: &mut [T]) {
        let (outputs, dz) = (place.network.stages()[index].outputs, &self.dz[index]);
        let x = if index == 0 { &self.x } else { &self.y[index - 1] };
        match part {
            Part::Weight { from, col, n } => {
                let into = MatMut::new(into, into.len() / n, n);
                outer(place.isa, [x, dz], dz.len() / outputs, [from, col], into, &mut desk.scratch);
            }
            Part::Bias => add_rows(into, &dz[..self.rows * outputs]),
            Part::Shift => add(place.isa, into, &self.norms[index].sums[0]),
            Part::Scale => add(place.isa, into, &self.norms[index].sums[1]),
            Part::Table { .. } => unreachable!("refused when this was made"),
        }
    }
}
