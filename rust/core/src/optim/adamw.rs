//! AdamW (Loshchilov & Hutter, arXiv:1711.05101): [Adam](super::adam) without decay in the gradient,
//! after θ ← (1 − lr·wd)·θ; PyTorch's convention, in which the decay is multiplied by lr.

use super::adam::{self, Adam};
use crate::element::Element;
use crate::simd::Simd;

/// Hyper-parameters: Adam's, with the weight decay decoupled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW(pub Adam);

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step(adam::Step);

impl AdamW {
    pub(super) fn at(self, t: u64) -> Step {
        let mut step = self.0.at(t);
        step.shrink = 1.0 - self.0.lr * self.0.weight_decay;
        step.decay = 0.0;
        Step(step)
    }
}

impl Step {
    #[inline(always)]
    pub(super) fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        p: &mut [T],
        g: &[T],
        m: &mut [T],
        v: &mut [T],
    ) {
        self.0.update(s, p, g, m, v);
    }
}
