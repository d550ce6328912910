//! Rprop (Riedmiller & Braun 1993; without weight-backtracking: Igel & Hüsken 2000, iRprop⁻), as in PyTorch:
//!
//! ```text
//! c = sign(g·h)                         h: the gradient of the previous step
//! s ← clamp(s·η₊ if c > 0, s·η₋ if c < 0, s else; low, high)     s = lr before the first step
//! g ← 0                                 if c < 0
//! θ ← θ − s·sign(g)
//! h ← g
//! ```

use super::MAX_STATE;
use super::method::{Formula, Method, Scalars, Slot, non_negative, options, sign};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rprop {
    /// The initial step size, ≥ 0; without effect later.
    pub lr: f64,
    /// η₋, in (0, 1).
    pub eta1: f64,
    /// η₊ > 1.
    pub eta2: f64,
    /// The smallest step, ≥ 0.
    pub step_size1: f64,
    /// The largest step.
    pub step_size2: f64,
}

impl Default for Rprop {
    fn default() -> Self {
        Rprop { lr: 1e-2, eta1: 0.5, eta2: 1.2, step_size1: 1e-6, step_size2: 50.0 }
    }
}

/// A step's constants.
#[derive(Clone, Copy)]
pub struct Step {
    config: Rprop,
    /// Whether this is the first step, which starts from the learning rate at that time.
    first: bool,
}

impl Method for Rprop {
    type Step = Step;

    options!(lr, eta1, eta2, step_size1, step_size2);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        if !(self.eta1 > 0.0 && self.eta1 < 1.0) {
            return Err(Error::argument("etas[0]", self.eta1.to_string(), "a number in (0, 1) is needed"));
        }
        if !(self.eta2 > 1.0 && self.eta2.is_finite()) {
            return Err(Error::argument("etas[1]", self.eta2.to_string(), "a number > 1 is needed"));
        }
        non_negative("step_sizes[0]", self.step_size1)?;
        non_negative("step_sizes[1]", self.step_size2)?;
        if self.step_size1 > self.step_size2 {
            let accepted = format!("a number >= step_sizes[0] = {} is needed", self.step_size1);
            return Err(Error::argument("step_sizes[1]", self.step_size2.to_string(), accepted));
        }
        Ok(())
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("prev"), Slot::positive("step_size")]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        Step { config: *self, first: t == 1 }
    }
}

impl Formula for Step {
    #[inline(always)]
    fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        [before, sizes, ..]: [&mut [T]; MAX_STATE],
    ) {
        let Step { config: Rprop { lr, eta1, eta2, step_size1, step_size2 }, first } = *self;
        let [lr, shrink, grow, low, high] =
            [lr, eta1, eta2, step_size1, step_size2].map(|x| s.splat(T::lit(x)));
        let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
        stream_map(
            s,
            [params, before, sizes],
            [grads],
            #[inline(always)]
            |[p, h, size], [g]| {
                let change = s.mul(sign(s, g), sign(s, h)); // signs, since g·h might underflow
                let (same, turned) = (s.lt(zero, change), s.lt(change, zero));
                let factor = s.select(same, grow, s.select(turned, shrink, one));
                let size = if first { lr } else { size };
                let size = s.min(s.max(s.mul(size, factor), low), high);
                let g = s.select(turned, zero, g);
                [s.sub(p, s.mul(size, sign(s, g))), g, size]
            },
        );
    }
}
