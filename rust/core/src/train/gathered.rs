//! Gradients of several batches that wait for one update.

use crate::along::{self, Along};
use crate::arena::Buffer;
use crate::element::Element;
use crate::error::Error;
use crate::optim::Optimizer;
use crate::simd::{Isa, max_abs};
use crate::update::{self, Clip};

/// The sum of some batches' gradients.
pub(super) struct Gathered<T> {
    pub grads: Buffer<T>,
    pub batches: usize,
}

impl<T: Element> Gathered<T> {
    /// An update from the mean of what was gathered.
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
    ) -> Result<(), Error> {
        let mut factor = 1.0 / std::mem::take(&mut self.batches) as f64;
        // What is clipped is all of the gradient; some optimizers need to see all of it anyway.
        let ahead = (clip.is_some() || !optimizer.is_elementwise()) && along.penalty.is_some();
        if let Some(penalty) = along.penalty.as_ref().filter(|_| ahead) {
            update::clip(isa, &mut self.grads, std::mem::replace(&mut factor, 1.0), 0.0, None);
            along::add_penalty(isa, penalty, params, &mut self.grads);
            optimizer.frozen().for_each(|range| self.grads[range].fill(T::ZERO));
        }
        let norm = match clip {
            Some(Clip::Norm(_)) => update::norm(isa, &self.grads),
            _ => max_abs(isa, &self.grads).to_f64(), // only whether it is finite
        };
        if !norm.is_finite() {
            let (step, lr) = (optimizer.steps, optimizer.config.lr());
            return Err(Error::Diverged { loss: f64::INFINITY, step, lr });
        }
        update::clip(isa, &mut self.grads, factor, norm, clip);
        update::step(isa, params, &self.grads, optimizer, along.share(!ahead));
        Ok(())
    }
}
