//! Gradients of several batches that wait for a common update.

use crate::along::{self, Along};
use crate::arena::Buffer;
use crate::element::Element;
use crate::error::Error;
use crate::optim::Optimizer;
use crate::project::Projection;
use crate::simd::Isa;
use crate::update::{self, Clip};

/// The sum of the gradients of some batches.
pub(super) struct Gathered<T> {
    pub grads: Buffer<T>,
    pub batches: usize,
    /// The gradient of the loss itself, where the update's gradient differs from it.
    pub loss: Buffer<T>,
    /// Norm of the latest update's gradient before clipping, if clipping needs it.
    pub norm: Option<f64>,
}

impl<T: Element> Gathered<T> {
    /// Makes room for a batch's gradients. Nobody writes those of frozen parameters, whose old values must
    /// not count.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn make_room(&mut self, len: usize, optimizer: &Optimizer<T>) -> Result<(), Error> {
        if self.grads.len() != len {
            self.grads = Buffer::zeroed("gradients", len)?;
        }
        if self.batches == 0 {
            optimizer.frozen().for_each(|range| self.grads[range].fill(T::ZERO));
        }
        Ok(())
    }

    /// Adds the gradients of a batch.
    ///
    /// # Panics
    /// If their number differs.
    pub fn add(&mut self, isa: Isa, grads: &[T]) {
        if self.batches == 0 {
            update::copy(&mut self.grads, grads);
        } else {
            update::add(isa, &mut self.grads, grads);
        }
        self.batches += 1;
    }

    /// Makes an update from the mean of what was gathered.
    ///
    /// # Errors
    /// If a gradient is not finite; nothing is changed then.
    pub fn update(
        &mut self,
        isa: Isa,
        clip: Option<Clip>,
        params: &mut Buffer<T>,
        optimizer: &mut Optimizer<T>,
        along: &mut Along<T>,
        mut projection: Option<&mut Projection<T>>,
    ) -> Result<(), Error> {
        let mut factor = 1.0 / std::mem::take(&mut self.batches) as f64;
        // Projection and clipping apply to the whole gradient; some optimizers need all of it anyway.
        let whole = clip.is_some() || projection.is_some() || !optimizer.is_elementwise();
        let (ahead, follows) = (whole && along.pulls(), whole && along.follows());
        if ahead || follows || projection.is_some() {
            update::clip(isa, &mut self.grads, std::mem::replace(&mut factor, 1.0), 0.0, None);
        }
        if follows {
            if self.loss.len() != self.grads.len() {
                self.loss = Buffer::zeroed("gradients of the loss", self.grads.len())?;
            }
            update::copy(&mut self.loss, &self.grads);
        }
        if ahead {
            if let Some(penalty) = &along.penalty {
                along::add_penalty(isa, penalty, params, &mut self.grads);
            }
            if let Some(coupled) = &along.coupled {
                update::add(isa, &mut self.grads, &coupled.shift); // computed in advance
            }
            optimizer.frozen().for_each(|range| self.grads[range].fill(T::ZERO));
        }
        let projected = projection.as_mut().is_none_or(|p| p.apply(isa, &mut self.grads));
        let norm = match clip {
            Some(Clip::Norm(_)) => update::norm(isa, &self.grads),
            _ if update::is_finite(isa, &self.grads) => 0.0, // not used
            _ => f64::NAN,
        };
        if !projected || !norm.is_finite() {
            return Err(overflow(optimizer));
        }
        self.norm = matches!(clip, Some(Clip::Norm(_))).then_some(norm * factor);
        update::clip(isa, &mut self.grads, factor, norm, clip);
        let made = whole.then_some(&*self.loss);
        let company = along.share(made, optimizer.steps);
        update::step(isa, params, &self.grads, optimizer, company);
        projection.into_iter().for_each(Projection::advance);
        Ok(())
    }
}

/// The error of gradients that are not finite.
pub fn overflow<T: Element>(optimizer: &Optimizer<T>) -> Error {
    Error::StepOverflow { what: "a gradient", step: optimizer.steps + 1, lr: optimizer.config.lr() }
}
