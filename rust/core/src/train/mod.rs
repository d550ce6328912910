//! Training: steps, epochs, evaluation. All work per batch happens here, none in Python.
//!
//! This module defines the trainer. `batch` has its steps, `gathered` the updates that wait for more batches,
//! `fit` its epochs and `snapshot` the way back from them, `evaluate` losses without learning, and `tally`
//! sums of losses.

mod batch;
mod evaluate;
mod explain;
mod fit;
mod gathered;
mod snapshot;
mod tally;

pub use self::evaluate::{Evaluation, PART_ROWS};
pub use self::fit::{DataSet, EpochRecord, Fit, FitOptions, shuffle};
pub use self::tally::Tally;

use self::gathered::Gathered;
use self::snapshot::Snapshot;
use crate::along::Along;
use crate::arena::{Buffer, zeros};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Precision;
use crate::loss::{Goals, Objective};
use crate::model::Model;
use crate::network::Network;
use crate::plan::Mode;
use crate::project::Projection;
use crate::sam::{Ascent, Sam};
use crate::simd::Isa;
use crate::update::{Average, Clip};
use crate::workspace::Workspaces;

/// Runs steps with one loss, and keeps the memory of its plans.
pub struct Trainer<T: Element> {
    objective: Objective<T>,
    options: StepOptions,
    workspaces: Workspaces<T>,
    /// Gradients gathered for an update, if batches and updates are separate.
    gathered: Gathered<T>,
    /// Where gradients are taken, if not at the parameters (SAM).
    ascent: Option<Ascent<T>>,
    /// A running average of the parameters, if one is wanted.
    pub average: Option<Average<T>>,
    /// What accompanies its updates.
    pub along: Along<T>,
    /// What gradients are projected away from, if anything.
    pub projection: Option<Projection<T>>,
    /// Memory of the last fit's [`Snapshot`], for reuse.
    spare: Option<Snapshot<T>>,
}

/// What happens between a batch's gradient and the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// Whether and how gradients are clipped.
    pub clip: Option<Clip>,
    /// Number of batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// Whether gradients are taken where the loss is about largest nearby.
    pub sam: Option<Sam>,
    /// How the products of steps are computed; losses without learning use full precision.
    pub precision: Precision,
}

impl Default for StepOptions {
    /// An update after every batch, from its gradient as it is.
    fn default() -> Self {
        StepOptions { clip: None, accumulate: 1, sam: None, precision: Precision::Full }
    }
}

impl StepOptions {
    /// What a batch's pass is.
    fn mode(&self) -> Mode {
        if self.accumulate > 1 { Mode::Gather } else { Mode::Step }
    }
}

impl<T: Element> Trainer<T> {
    /// A trainer for a loss, with an update after every batch.
    pub fn new(objective: impl Into<Objective<T>>) -> Self {
        Self::plain(objective.into(), StepOptions::default())
    }

    /// A trainer for a loss.
    ///
    /// # Errors
    /// If a limit is not above 0, or this machine does not support the precision.
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

    /// Continues with another loss; must not be called during a fit.
    ///
    /// # Errors
    /// If the model's outputs do not suit the loss; nothing is changed then.
    pub fn set_objective(&mut self, objective: Objective<T>, model: &Model<T>) -> Result<(), Error> {
        objective.check_outputs(model.network().outputs())?;
        self.objective = objective;
        Ok(())
    }

    /// The sum of the gradients gathered for the next update, in public order, and of how many batches it is.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn gathered(&self, network: &Network, isa: Isa) -> Result<Option<(Vec<T>, usize)>, Error> {
        let Gathered { grads, batches, .. } = &self.gathered;
        if *batches == 0 {
            return Ok(None);
        }
        let mut flat = zeros("a copy of gathered gradients", network.num_parameters())?;
        network.export(isa, grads, &mut flat);
        Ok(Some((flat, *batches)))
    }

    /// Restores such gradients.
    ///
    /// # Errors
    /// If one is not finite, so many batches would already have made an update, or there is not enough
    /// memory; nothing is changed then.
    ///
    /// # Panics
    /// If their number is not that of the parameters.
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
                "gathered gradients must be finite and of fewer batches than an update takes, {of}; got {batches}"
            );
            return Err(Error::Mismatch(text));
        }
        let mut grads = Buffer::zeroed("gradients", network.arena_len())?;
        network.import(isa, flat, &mut grads);
        (self.gathered.grads, self.gathered.batches) = (grads, batches);
        Ok(())
    }

    /// Norm of the latest update's gradient before clipping, for trainers that clip by norm.
    pub fn grad_norm(&self) -> Option<f64> {
        self.gathered.norm
    }

    /// Discards gradients gathered for the next update.
    pub fn forget(&mut self) {
        self.gathered.batches = 0;
    }

    /// Checks shapes, labels and weights of a batch or a data set. Returns whether some rows may count more
    /// than others.
    ///
    /// # Errors
    /// If something does not fit.
    pub fn check(&self, model: &Model<T>, x: Samples<'_, T>, y: &Goals<'_, T>) -> Result<bool, Error> {
        model.network().check_input(x)?;
        self.objective.check(y, x.rows(), model.network().outputs())
    }

    /// The penalty on a model's parameters, if there is one.
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

    /// Bytes of memory that its steps hold.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let gathered = self.gathered.grads.len() + self.gathered.loss.len();
        let ascent = self.ascent.as_ref().map_or(0, Ascent::len);
        self.workspaces.held() + (gathered + ascent) * size_of::<T>()
    }

    /// The stamp of the parameters whose transposes the latest pass left.
    #[cfg(test)]
    pub fn transposed(&self) -> Option<u64> {
        self.workspaces.transposed()
    }
}

/// Checks that a data set is finite, and that its targets are permitted by the loss.
fn check_values<T: Element>(
    objective: &Objective<T>,
    isa: Isa,
    x: Samples<'_, T>,
    y: &Goals<'_, T>,
) -> Result<(), Error> {
    x.check_finite("x", isa)?;
    objective.check_values(y, isa)
}
