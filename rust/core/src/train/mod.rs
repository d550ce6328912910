//! Training: steps, epochs, evaluation. Everything per batch happens here, nothing in Python.
//!
//! Here is what a trainer is; `batch` has its steps, `gathered` the updates that wait for more batches, `fit` its
//! epochs and `snapshot` the way back from them, `evaluate` what it gives without learning, and `tally` the
//! sums of losses that all of them give.

mod batch;
mod evaluate;
mod fit;
mod gathered;
mod snapshot;
mod tally;

pub use self::fit::{DataSet, EpochRecord, Fit, FitOptions, shuffle};
pub use self::tally::Tally;

use self::gathered::Gathered;
use self::snapshot::Snapshot;
use crate::along::Along;
use crate::arena::Buffer;
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Precision;
use crate::loss::{Goals, Objective};
use crate::model::{Model, Workspaces};
use crate::network::Network;
use crate::optim::Optimizer;
use crate::plan::{Mode, Plan};
use crate::project::Projection;
use crate::sam::{Ascent, Sam};
use crate::simd::Isa;
use crate::threads;
use crate::update::{Average, Clip};
use crate::workspace;

/// Runs steps with one loss, keeping the memory of its plans.
pub struct Trainer<T: Element> {
    objective: Objective<T>,
    options: StepOptions,
    workspaces: Workspaces<T>,
    /// Gradients on their way from batches to an update, where the two are apart.
    gathered: Gathered<T>,
    /// Where gradients are taken, if not at the parameters.
    ascent: Option<Ascent<T>>,
    /// An average of the parameters over the steps, if one is wanted.
    pub average: Option<Average<T>>,
    /// What goes along with its updates.
    pub along: Along<T>,
    /// What gradients are kept from, if anything.
    pub projection: Option<Projection<T>>,
    /// Memory of the last fit's [`Snapshot`], for the next.
    spare: Option<Snapshot<T>>,
}

/// What comes between a batch's gradient and the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// Whether and how gradients are clipped.
    pub clip: Option<Clip>,
    /// Batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// Whether gradients are taken where the loss is about largest near by.
    pub sam: Option<Sam>,
    /// How the products of steps are computed; losses without learning are in full precision.
    pub precision: Precision,
}

impl Default for StepOptions {
    /// An update for every batch, from its gradient as it is.
    fn default() -> Self {
        StepOptions { clip: None, accumulate: 1, sam: None, precision: Precision::Full }
    }
}

impl StepOptions {
    /// Whether gradients are used up while they are computed: nothing has to be known of all of them.
    fn fused<T: Element>(&self, optimizer: &Optimizer<T>) -> bool {
        let StepOptions { clip, accumulate, sam, .. } = self;
        clip.is_none() && *accumulate == 1 && sam.is_none() && optimizer.is_elementwise()
    }
}

impl<T: Element> Trainer<T> {
    /// A trainer for a loss, with an update for every batch.
    pub fn new(objective: impl Into<Objective<T>>) -> Self {
        Self::plain(objective.into(), StepOptions::default())
    }

    /// A trainer for a loss.
    ///
    /// # Errors
    /// If a limit is not a number above 0, or this machine does not have the precision.
    pub fn with_options(objective: impl Into<Objective<T>>, options: StepOptions) -> Result<Self, Error> {
        if let Some(clip) = options.clip {
            clip.check()?;
        }
        if let Some(sam) = options.sam {
            sam.check()?;
        }
        options.precision.check::<T>(Isa::detect().map_err(Error::Unsupported)?)?;
        Ok(Self::plain(objective.into(), options))
    }

    fn plain(objective: Objective<T>, options: StepOptions) -> Self {
        let gathered = Gathered { grads: Buffer::empty(), batches: 0, loss: Buffer::empty(), norm: None };
        Trainer {
            objective,
            options,
            workspaces: Workspaces::of(options.precision),
            gathered,
            ascent: None,
            average: None,
            along: Along::default(),
            projection: None,
            spare: None,
        }
    }

    /// Its loss.
    pub fn objective(&self) -> &Objective<T> {
        &self.objective
    }

    /// Goes on with another loss; not while a fit is under way.
    ///
    /// # Errors
    /// If the model's outputs do not suit it; nothing is changed then.
    pub fn set_objective(&mut self, objective: Objective<T>, model: &Model<T>) -> Result<(), Error> {
        objective.check_outputs(model.network().outputs())?;
        self.objective = objective;
        Ok(())
    }

    /// The sum of gradients that were gathered for an update to come, in public order, and of how many batches.
    pub fn gathered(&self, network: &Network, isa: Isa) -> Option<(Vec<T>, usize)> {
        let Gathered { grads, batches, .. } = &self.gathered;
        (*batches > 0).then(|| {
            let mut flat = vec![T::ZERO; network.num_parameters()];
            network.export(isa, grads, &mut flat);
            (flat, *batches)
        })
    }

    /// Goes on from such gradients.
    ///
    /// # Errors
    /// If one is not finite, they would have been an update long ago, or there is not enough memory; nothing is changed
    /// then.
    ///
    /// # Panics
    /// If they are not as many as the parameters.
    pub fn set_gathered(
        &mut self,
        network: &Network,
        isa: Isa,
        flat: &[T],
        batches: usize,
    ) -> Result<(), Error> {
        if batches >= self.options.accumulate || !flat.iter().all(|g| g.is_finite()) {
            let of = self.options.accumulate;
            let text = format!(
                "gradients of {batches} batches cannot wait for an update of {of}, or are not finite"
            );
            return Err(Error::Mismatch(text));
        }
        let mut grads = Buffer::zeroed("gradients", network.arena_len())?;
        network.import(isa, flat, &mut grads);
        (self.gathered.grads, self.gathered.batches) = (grads, batches);
        Ok(())
    }

    /// Norm of the gradient of the latest update, before it was clipped; of trainers that clip by the norm.
    pub fn grad_norm(&self) -> Option<f64> {
        self.gathered.norm
    }

    /// Forgets gradients that were gathered for an update to come.
    pub fn forget(&mut self) {
        self.gathered.batches = 0;
    }

    /// Checks shapes, labels and weights of a batch or a data set. Gives whether some row may count more
    /// than another.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, model: &Model<T>, x: Samples<'_, T>, y: &Goals<'_, T>) -> Result<bool, Error> {
        model.network().check_input(x)?;
        self.objective.check(y, x.rows(), model.network().outputs())
    }

    /// The penalty of a model's parameters, if there is one.
    pub fn penalty(&mut self, model: &Model<T>) -> Option<f64> {
        let (network, isa, params) = (model.network(), model.isa(), &model.params);
        let alone = self.along.penalty.as_ref().map(|p| p.value(isa, params));
        let coupled = self.along.coupled.as_mut().map(|c| c.value(network, isa, params));
        alone.into_iter().chain(coupled).reduce(|a, b| a + b)
    }

    /// See [`Workspace::poison`].
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        self.workspaces.poison();
    }

    /// The plan of a training step on `rows` rows, and the bytes of its workspace.
    pub fn plan(&self, model: &Model<T>, rows: usize) -> (Plan, usize) {
        let threads = threads::num_threads().0;
        let target = (model.isa(), self.options.precision);
        let plan = Plan::in_precision::<T>(model.network(), Mode::Step, rows, target, threads);
        let bytes = workspace::elements::<T>(model.network(), &plan) * size_of::<T>();
        (plan, bytes)
    }
}

/// Checks that a data set is finite, and its targets such as the loss takes them.
fn check_values<T: Element>(
    objective: &Objective<T>,
    isa: Isa,
    x: Samples<'_, T>,
    y: &Goals<'_, T>,
) -> Result<(), Error> {
    x.check_finite("x", isa)?;
    objective.check_values(y, isa)
}
