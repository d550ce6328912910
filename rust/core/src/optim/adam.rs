//! Adam (Kingma & Ba, arXiv:1412.6980), with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! θ ← θ − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! ε is added after the bias correction and outside of the root.

use super::{fraction, non_negative};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Added to the root, ≥ 0.
    pub eps: f64,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// θ is multiplied by this first; 1 in Adam.
    pub(super) shrink: f64,
    /// Weight decay added to the gradient; 0 in AdamW.
    pub(super) decay: f64,
    /// −lr/(1 − β₁ᵗ)
    rate: f64,
    take1: f64,
    beta2: f64,
    /// 1/√(1 − β₂ᵗ)
    correction: f64,
    eps: f64,
}

impl Adam {
    pub(super) fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)
    }

    pub(super) fn at(self, t: u64) -> Step {
        let power = |beta: f64| 1.0 - beta.powf(t as f64);
        Step {
            shrink: 1.0,
            decay: self.weight_decay,
            rate: -self.lr / power(self.beta1),
            take1: 1.0 - self.beta1,
            beta2: self.beta2,
            correction: 1.0 / power(self.beta2).sqrt(),
            eps: self.eps,
        }
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
        let [shrink, decay, rate, take1] =
            [self.shrink, self.decay, self.rate, self.take1].map(|x| s.splat(T::lit(x)));
        let [beta2, take2, correction, eps] =
            [self.beta2, 1.0 - self.beta2, self.correction, self.eps].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [p, m, v],
            [g],
            #[inline(always)]
            |[p, m, v], [g]| {
                let p = s.mul(p, shrink);
                let g = s.fma(decay, p, g);
                let m = s.fma(take1, s.sub(g, m), m);
                let v = s.fma(beta2, v, s.mul(take2, s.mul(g, g)));
                let denominator = s.fma(s.sqrt(v), correction, eps);
                [s.fma(rate, s.div(m, denominator), p), m, v]
            },
        );
    }
}
