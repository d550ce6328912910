//! Sharpness-aware minimization: the gradient is taken where the batch's loss is about largest nearby.
//!
//! ```text
//! g = ∇L(θ),  ε = ρ·g/(‖g‖ + 10⁻¹²);  adaptive: ε = ρ·θ²g/(‖|θ|g‖ + 10⁻¹²);  the update is from ∇L(θ + ε)
//! ```
//!
//! Foret, Kleiner, Mobahi and Neyshabur 2021, arXiv:2010.01412; adaptive: Kwon, Kim, Park and Choi 2021,
//! arXiv:2102.11600.

use std::ops::Range;

use crate::arena::Buffer;
use crate::element::Element;
use crate::error::{Error, non_negative};
use crate::parallel::{self, RUN};
use crate::simd::Isa;
use crate::update::{copy, factors, norm};

/// How far away the gradient is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sam {
    /// The radius ρ.
    pub rho: f64,
    /// Whether the radius is relative to the size of each parameter.
    pub adaptive: bool,
}

impl Sam {
    /// Checks the radius.
    ///
    /// # Errors
    /// If it is negative or not finite.
    pub fn check(self) -> Result<(), Error> {
        non_negative("rho", self.rho)
    }
}

/// The step to θ + ε, and back.
pub(crate) struct Ascent<T> {
    sam: Sam,
    /// Gradients at the parameters.
    pub grads: Buffer<T>,
    params: Buffer<T>,
    averages: Buffer<T>,
}

impl<T: Element> Ascent<T> {
    pub fn new(sam: Sam, params: usize, averages: usize) -> Result<Self, Error> {
        Ok(Ascent {
            sam,
            grads: Buffer::zeroed("gradients at the parameters", params)?,
            params: Buffer::zeroed("a copy of the parameters", params)?,
            averages: Buffer::zeroed("a copy of the running averages", averages)?,
        })
    }

    /// Number of elements that it holds.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.grads.len() + self.params.len() + self.averages.len()
    }

    /// Moves the parameters by ε, except for the `frozen` ones. Returns false if the gradient is not finite.
    pub fn up(
        &mut self,
        isa: Isa,
        params: &mut Buffer<T>,
        averages: &[T],
        frozen: impl Iterator<Item = Range<usize>>,
    ) -> bool {
        copy(&mut self.params, params);
        self.averages.copy_from_slice(averages);
        frozen.for_each(|range| self.grads[range].fill(T::ZERO));
        let size_of = |p: T| if p < T::ZERO { -p } else { p };
        if self.sam.adaptive {
            let params = &self.params;
            parallel::runs_mut(&mut self.grads, RUN, |run, grads| {
                grads.iter_mut().zip(&params[run]).for_each(|(g, p)| *g = *g * size_of(*p));
            });
        }
        let size = norm(isa, &self.grads);
        if !size.is_finite() {
            return false;
        }
        let [first, second] = factors::<T>(1.0, self.sam.rho, size + 1e-12).map(T::lit);
        let (adaptive, grads) = (self.sam.adaptive, &self.grads);
        parallel::runs_mut(params, RUN, |run, params| {
            for (p, g) in params.iter_mut().zip(&grads[run]) {
                let weight = if adaptive { size_of(*p) } else { T::ONE };
                *p += first * weight * *g * second;
            }
        });
        true
    }

    /// Restores the parameters exactly.
    pub fn down(&self, params: &mut Buffer<T>) {
        copy(params, &self.params);
    }

    /// The same after an error, and restores the running averages.
    pub fn undo(&self, params: &mut Buffer<T>, averages: &mut Buffer<T>) {
        self.down(params);
        averages.copy_from_slice(&self.averages);
    }
}
