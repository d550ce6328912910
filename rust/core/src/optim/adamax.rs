//! Adamax (Kingma & Ba, arXiv:1412.6980, algorithm 2), with PyTorch's conventions, and Optax':
//!
//! ```text
//! g ← g + wd·θ
//! m ← m + (1 − β₁)·(g − m)
//! u ← max(β₂·u, |g| + ε)
//! θ ← θ − lr/(1 − β₁ᵗ) · m/u
//! ```
//!
//! Keras has u ← max(β₂·u, |g|), divides by u + ε, and decouples the weight decay, θ ← (1 − lr·wd)·θ. The
//! paper has no ε.

use super::MAX_STATE;
use super::method::{
    Average, Convention, Decay, Formula, Method, Scalars, Slot, filled, fraction, non_negative, options,
    ratio,
};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adamax {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the largest gradient, in [0, 1).
    pub beta2: f64,
    /// Keeps the denominator from 0, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// PyTorch's, Optax' or Keras'.
    pub convention: Convention,
}

impl Default for Adamax {
    fn default() -> Self {
        Adamax {
            lr: 2e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    rate: f64,
    mean: Average,
    beta2: f64,
    /// Added to |g|, and to u.
    eps: [f64; 2],
}

impl Method for Adamax {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        self.convention.among(&[Convention::Torch, Convention::Optax, Convention::Keras])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::positive("exp_inf")]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let keras = self.convention == Convention::Keras;
        Step {
            decay: Decay::new(self.weight_decay, keras, self.lr),
            rate: -self.lr / filled(self.beta1, t),
            mean: Average::new(self.beta1),
            beta2: self.beta2,
            eps: if keras { [0.0, self.eps] } else { [self.eps, 0.0] },
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
        [means, largest, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, mean) = (self.decay.splat(s), self.mean.splat(s));
        let [rate, beta2] = [self.rate, self.beta2].map(|x| s.splat(T::lit(x)));
        let [inner, outer] = self.eps.map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, means, largest],
            [grads],
            #[inline(always)]
            |[p, m, u], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let m = mean.mean(s, m, g);
                let u = s.max(s.mul(beta2, u), s.add(s.abs(g), inner));
                [s.fma(rate, ratio(s, m, s.add(u, outer)), p), m, u]
            },
        );
    }
}
