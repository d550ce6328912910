//! NAdam (Dozat 2016, "Incorporating Nesterov momentum into Adam"), with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ, or θ ← (1 − lr·wd)·θ if the decay is decoupled
//! μₜ = β₁·(1 − 0.96^(t·ψ)/2),   Πₜ = μ₁·…·μₜ
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! θ ← θ − lr·(μₜ₊₁/(1 − Πₜ₊₁)·m + (1 − μₜ)/(1 − Πₜ)·g) / (√(v/(1 − β₂ᵗ)) + ε)
//! ```
//!
//! Keras has ψ = 1 fixed and always decouples the decay. Optax has no schedule, μₜ = β₁.

use super::MAX_STATE;
use super::method::{
    Average, Convention, Decay, Formula, Method, Scalar, Scalars, Slot, absent, filled, fraction,
    non_negative, options, ratio,
};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nadam {
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
    /// ψ ≥ 0; 0 in Optax' convention.
    pub momentum_decay: f64,
    /// As in AdamW.
    pub decoupled_weight_decay: bool,
    /// PyTorch's, Optax' or Keras'.
    pub convention: Convention,
}

impl Default for Nadam {
    fn default() -> Self {
        Nadam {
            lr: 2e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum_decay: 4e-3,
            decoupled_weight_decay: false,
            convention: Convention::Torch,
        }
    }
}

impl Nadam {
    /// μₜ
    fn momentum(&self, t: u64) -> f64 {
        match self.convention {
            Convention::Optax => self.beta1,
            _ => self.beta1 * (1.0 - 0.5 * 0.96f64.powf(t as f64 * self.momentum_decay)),
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    /// Factors of mean and gradient, over the denominator, in the step of θ.
    rates: [f64; 2],
    mean: Average,
    square: Average,
    correction: f64,
    eps: f64,
}

impl Method for Nadam {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled_weight_decay, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        non_negative("momentum_decay", self.momentum_decay)?;
        if self.convention == Convention::Optax {
            absent("momentum_decay", self.momentum_decay, self.convention)?;
        }
        self.convention.among(&[Convention::Torch, Convention::Optax, Convention::Keras])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::positive("exp_avg_sq")]
    }

    fn scalars(&self) -> Vec<Scalar> {
        vec![Scalar { name: "mu_product", initial: 1.0, range: (0.0, 1.0) }]
    }

    fn advance(&self, t: u64, [product, ..]: &mut Scalars) {
        *product *= self.momentum(t);
    }

    fn at(&self, t: u64, [product, ..]: &Scalars) -> Step {
        let (now, next) = (self.momentum(t), self.momentum(t + 1));
        let decoupled = self.decoupled_weight_decay || self.convention == Convention::Keras;
        Step {
            decay: Decay::new(self.weight_decay, decoupled, self.lr),
            rates: [next / (1.0 - product * next), (1.0 - now) / (1.0 - product)].map(|x| -self.lr * x),
            mean: Average::new(self.beta1),
            square: Average::new(self.beta2),
            correction: 1.0 / filled(self.beta2, t).sqrt(),
            eps: self.eps,
        }
    }
}

impl Formula for Step {
    #[inline(always)]
    fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        [means, squares, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, mean, square) = (self.decay.splat(s), self.mean.splat(s), self.square.splat(s));
        let [rate_m, rate_g] = self.rates.map(|x| s.splat(T::lit(x)));
        let [correction, eps] = [self.correction, self.eps].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, means, squares],
            [grads],
            #[inline(always)]
            |[p, m, v], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let (m, v) = (mean.mean(s, m, g), square.square(s, v, g));
                let direction = s.fma(rate_m, m, s.mul(rate_g, g));
                [s.add(p, ratio(s, direction, s.fma(s.sqrt(v), correction, eps))), m, v]
            },
        );
    }
}
