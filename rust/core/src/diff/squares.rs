//! Sums over samples of the squares, or absolute values, of each sample's own gradient, without computing
//! that gradient.
//!
//! The gradient of a weight for sample n is a product, δ_no·a_ni, of the slope with respect to the layer's
//! output and the layer's input. So is its square, and the sum over the samples is one matrix product, as for
//! the usual gradient (Goodfellow 2015, arXiv:1510.01799):
//!
//! ```text
//! Σ_n g_n²  = (δ²)ᵀ·(a²)      Σ_n |g_n| = |δ|ᵀ·|a|      biases: Σ_n δ_n², Σ_n |δ_n|
//! ```
//!
//! If each sample has several slopes k with respect to the outputs (see [`likelihood`](super::likelihood)),
//! δ² is Σ_k δ_k²: only the slopes go back through the network again, and there is still one product per
//! layer.
//!
//! What a pass left in its workspace is squared element by element, whatever its layout, and then the usual
//! weight phase runs over it. The passes are those of a [`sweep`](super::sweep), so each row's gradient is
//! its own.

#![allow(unsafe_code)] // disjoint blocks of rows for threads

use std::ops::Range;

use super::likelihood::Slopes;
use super::sweep::Sweep;
use crate::arena::{Buffer, zeros};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::PANEL;
use crate::layer::Power;
use crate::layer::batch_norm::GROUP;
use crate::loss::Targets;
use crate::model::Model;
use crate::network::Network;
use crate::parallel;
use crate::pass::WeightTask;
use crate::simd::{Op, Simd, dispatch, zip_map};
use crate::threads;

/// Elements of a piece of work.
const RUN: usize = 16 * 1024;

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Squares of each sample's gradient, over the samples.
    Squares,
    /// Absolute values of each sample's gradient, over the samples.
    Sizes,
    /// Squares of the mean gradient of all samples that are added together, over such batches.
    Batches,
    /// Absolute values of that gradient, over such batches.
    BatchSizes,
}

impl Sum {
    /// What is done to slopes and inputs before the product.
    fn power(self) -> Power {
        match self {
            Sum::Squares => Power::Square,
            Sum::Sizes => Power::Size,
            Sum::Batches | Sum::BatchSizes => Power::One,
        }
    }

    /// Whether the sum is over batches rather than samples.
    pub fn over_batches(self) -> bool {
        matches!(self, Sum::Batches | Sum::BatchSizes)
    }
}

/// A sum in progress.
pub struct Squares<T: Element> {
    sum: Sum,
    sweep: Sweep<T>,
    /// Where in the workspace the inputs of weights' gradients lie, in runs.
    inputs: Vec<Range<usize>>,
    /// Slopes, to which the power has not been applied, and sums over groups of rows, to which it has.
    deltas: Vec<(Range<usize>, bool)>,
    /// Their sums over the slopes of the current rows, one run after another.
    kept: Buffer<T>,
    grads: Buffer<T>,
    total: Buffer<f64>,
    /// Number of samples, or their weight, or number of batches.
    count: f64,
}

impl<T: Element> Squares<T> {
    /// A sum over nothing yet.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(model: &Model<T>, sum: Sum, slopes: Slopes) -> Result<Self, Error> {
        let len = model.network().arena_len();
        Ok(Squares {
            sum,
            sweep: Sweep::new(slopes),
            inputs: Vec::new(),
            deltas: Vec::new(),
            kept: Buffer::empty(),
            grads: Buffer::zeroed("squared gradients", len)?,
            total: Buffer::zeroed("sums of squared gradients", len)?,
            count: 0.0,
        })
    }

    /// Adds some rows of the data, which must have been checked (see [`Sweep::forward`]); targets and weights
    /// are those of all rows. A row counts as much as its weight, which is that of its loss in a batch.
    ///
    /// # Errors
    /// If something is not finite; nothing is added then.
    pub fn add<'s>(
        &mut self,
        model: &mut Model<T>,
        x: impl Into<Samples<'s, T>>,
        rows: Range<usize>,
        y: Option<&Targets<'_, T>>,
        weights: Option<&[T]>,
    ) -> Result<(), Error> {
        let (isa, power, sum) = (model.isa(), self.sum.power(), self.sum);
        let own = weights.map(|weights| &weights[rows.clone()]);
        let weight = own.map_or(rows.len() as f64, |own| own.iter().map(|w| w.to_f64()).sum());
        if weight == 0.0 {
            return Ok(());
        }
        let factor = |r: usize| {
            let w = own.map_or(1.0, |own| own[r].to_f64());
            match sum {
                Sum::Squares => w.sqrt(),
                Sum::Sizes => w,
                Sum::Batches | Sum::BatchSizes => w / weight,
            }
        };
        if self.sweep.forward(model, x.into(), rows)? {
            self.prepare(model.network())?;
        }
        let count = self.sweep.count();
        for k in 0..count {
            self.sweep.backward(model, k, factor, y, power);
            let turn = match (k, count) {
                (_, 1) => Turn::Only,
                (0, _) => Turn::First,
                _ if k + 1 == count => Turn::Last,
                _ => Turn::Other,
            };
            let (deltas, kept) = (&self.deltas, self.kept.share());
            let values = self.sweep.workspace().values.share();
            parallel::each(deltas.len(), |item| {
                let (run, raw) = deltas[item].clone();
                let power = if raw { power } else { Power::One };
                let to = item * RUN..item * RUN + run.len();
                // SAFETY: the runs of both buffers are disjoint, and every item has its own.
                let (values, kept) = unsafe { (values.slice_mut(run), kept.slice_mut_or_empty(to)) };
                dispatch(isa, Add { power, turn, values, kept });
            });
        }
        if power != Power::One {
            let (inputs, values) = (&self.inputs, self.sweep.workspace().values.share());
            parallel::each(inputs.len(), |item| {
                // SAFETY: runs are disjoint, and every item has its own.
                let values = unsafe { values.slice_mut(inputs[item].clone()) };
                dispatch(isa, Add { power, turn: Turn::Only, values, kept: &mut [] });
            });
        }

        let task = WeightTask::gradients(self.grads.share());
        self.sweep.weights(model, task);
        let mut parts: Vec<_> = self.total.chunks_mut(RUN).zip(self.grads.chunks(RUN)).collect();
        parallel::pieces(&mut parts, threads::num_threads().0, |(total, grads)| {
            for (total, grad) in total.iter_mut().zip(*grads) {
                let grad = grad.to_f64();
                *total += match sum {
                    Sum::Squares | Sum::Sizes => grad,
                    Sum::Batches => grad * grad,
                    Sum::BatchSizes => grad.abs(),
                };
            }
        });
        self.count += if sum.over_batches() { 1.0 } else { weight };
        Ok(())
    }

    /// The mean over everything that was added, in public order.
    ///
    /// # Errors
    /// If it is not finite (the slopes are too large for the model's precision), or there is not enough
    /// memory.
    pub fn mean(&self, network: &Network) -> Result<Vec<f64>, Error> {
        let mut flat = zeros("a mean of squared gradients", network.num_parameters())?;
        network.translate(|public, inner| flat[public] = self.total[inner] / self.count);
        if flat.iter().all(|x| x.is_finite()) {
            return Ok(flat);
        }
        let text =
            "squares of gradients are too large for this precision: use a model with dtype=\"float64\"";
        Err(Error::Mismatch(text.into()))
    }

    /// Finds what of a new workspace is squared.
    fn prepare(&mut self, network: &Network) -> Result<(), Error> {
        let workspace = self.sweep.workspace();
        let rows = workspace.plan.rows;
        let (mut inputs, mut deltas) = (Vec::new(), Vec::new());
        let runs = |start: usize, len: usize| {
            (start..start + len).step_by(RUN).map(move |from| from..(from + RUN).min(start + len))
        };
        // What the weight phase reads: of operands that were copied into panels, the copies, except the
        // inputs of a last panel that is narrow.
        let mut input = (workspace.layout.input, network.inputs());
        let planned = workspace.plan.stages.iter().zip(&workspace.layout.stages);
        for (stage, (plan, slots)) in network.stages().iter().zip(planned) {
            let n = stage.outputs;
            let packed = plan.is_some_and(|p| p.pack_input);
            let narrow = (1..=workspace.plan.narrow).contains(&(n % PANEL));
            if packed {
                inputs.extend(runs(slots.input_panels, rows * stage.inputs));
            }
            // The input of an encoder is in no product: codes of categories stay codes.
            if plan.is_some() && stage.encoder.is_none() && (!packed || narrow) {
                inputs.extend(runs(input.0, rows * input.1));
            }
            input = (slots.output, n);
            if plan.is_some_and(|p| p.pack_delta) {
                deltas.extend(runs(slots.delta_panels, rows * n).map(|run| (run, true)));
            } else {
                deltas.extend(runs(slots.delta, rows * n).map(|run| (run, true)));
            }
            if stage.norm.is_some_and(|norm| norm.scale.is_some()) {
                deltas.extend(runs(slots.groups, rows.div_ceil(GROUP) * 2 * n).map(|run| (run, false)));
            }
        }
        let kept = if self.sweep.count() > 1 { deltas.len() * RUN } else { 0 };
        self.kept = Buffer::zeroed("squared slopes", kept)?;
        (self.inputs, self.deltas) = (inputs, deltas);
        Ok(())
    }
}

/// Which of a row's slopes this is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Only,
    First,
    Other,
    Last,
}

/// Applies the power to numbers, and adds them to earlier ones; the last turn leaves the sum in their place.
struct Add<'a, T> {
    power: Power,
    turn: Turn,
    values: &'a mut [T],
    kept: &'a mut [T],
}

impl<T: Element> Op<T> for Add<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Add { power, turn, values, kept } = self;
        match turn {
            Turn::Only => zip_map(
                s,
                [values],
                [],
                #[inline(always)]
                |[v], []| [power.of(s, v)],
            ),
            Turn::First => zip_map(
                s,
                [kept],
                [&*values],
                #[inline(always)]
                |_, [v]| [power.of(s, v)],
            ),
            Turn::Other => zip_map(
                s,
                [kept],
                [&*values],
                #[inline(always)]
                |[k], [v]| [s.add(k, power.of(s, v))],
            ),
            Turn::Last => zip_map(
                s,
                [values],
                [&*kept],
                #[inline(always)]
                |[v], [k]| [s.add(k, power.of(s, v))],
            ),
        }
    }
}
