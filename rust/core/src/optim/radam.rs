//! RAdam (Liu et al. 2020, arXiv:1908.03265), with PyTorch's conventions: [Adam](super::adam) with
//!
//! ```text
//! ρ∞ = 2/(1 − β₂) − 1,   ρ = ρ∞ − 2·t·β₂ᵗ/(1 − β₂ᵗ)
//! r = √((ρ − 4)·(ρ − 2)·ρ∞ / ((ρ∞ − 4)·(ρ∞ − 2)·ρ))
//! θ ← θ − lr/(1 − β₁ᵗ) · m · r·√(1 − β₂ᵗ)/(√v + ε)       if ρ > 5
//! θ ← θ − lr/(1 − β₁ᵗ) · m                               else
//! ```
//!
//! Optax adds ε after the bias correction, r/(√(v/(1 − β₂ᵗ)) + ε). The paper has ρ > 4 and no ε.

use super::adam::Step;
use super::method::{
    Average, Convention, Decay, Method, Scalars, Slot, filled, fraction, non_negative, options,
};
use crate::error::Error;

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Radam {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Added to the root, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// As in AdamW.
    pub decoupled_weight_decay: bool,
    /// PyTorch's or Optax'.
    pub convention: Convention,
}

impl Default for Radam {
    fn default() -> Self {
        Radam {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled_weight_decay: false,
            convention: Convention::Torch,
        }
    }
}

impl Method for Radam {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        self.convention.among(&[Convention::Torch, Convention::Optax])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::positive("exp_avg_sq")]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let (mean, square) = (filled(self.beta1, t), filled(self.beta2, t));
        let longest = 2.0 / (1.0 - self.beta2) - 1.0;
        let length = longest - 2.0 * t as f64 * (1.0 - square) / square;
        let (gain, correction, eps) = if length > 5.0 {
            let rectified = ((length - 4.0) * (length - 2.0) * longest
                / ((longest - 4.0) * (longest - 2.0) * length))
                .sqrt();
            match self.convention {
                Convention::Torch => (rectified * square.sqrt(), 1.0, self.eps),
                _ => (rectified, 1.0 / square.sqrt(), self.eps),
            }
        } else {
            (1.0, 0.0, 1.0) // a denominator of 1
        };
        Step {
            decay: Decay::new(self.weight_decay, self.decoupled_weight_decay, self.lr),
            rate: -self.lr / mean * gain,
            mean: Average::new(self.beta1),
            square: Average::new(self.beta2),
            amsgrad: false,
            unbias: 1.0,
            correction,
            eps,
        }
    }
}
