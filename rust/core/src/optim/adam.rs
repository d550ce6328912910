//! Adam (Kingma & Ba, arXiv:1412.6980), AdamW (Loshchilov & Hutter, arXiv:1711.05101) and AMSGrad (Reddi,
//! Kale & Kumar, arXiv:1904.09237), with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ                    Adam
//! θ ← (1 − lr·wd)·θ               AdamW: the decay is decoupled
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! u ← max(u, v)                   AMSGrad: u stands for v below
//! θ ← θ − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! ε is added after the bias correction and outside the root. Keras adds it before the correction (ε̂ in the
//! paper), θ ← θ − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + ε), and always decouples the decay. Optax takes the
//! maximum of the corrected squares, u ← max(u, v/(1 − β₂ᵗ)). AMSGrad's paper ("textbook") has no correction,
//! θ ← θ − lr·m/(√u + ε); without AMSGrad, that convention is Adam as PyTorch has it.

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
pub struct Adam {
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
    /// Whether to divide by the largest average so far (AMSGrad).
    pub amsgrad: bool,
    /// Whether weight decay is decoupled (AdamW).
    pub decoupled_weight_decay: bool,
    /// PyTorch's, Optax', Keras' or the paper's.
    pub convention: Convention,
}

impl Default for Adam {
    fn default() -> Self {
        Adam {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
            decoupled_weight_decay: false,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    pub(super) decay: Decay,
    /// Factor of m over the denominator, in the step of θ.
    pub(super) rate: f64,
    pub(super) mean: Average,
    pub(super) square: Average,
    pub(super) amsgrad: bool,
    /// Factor of v, before the maximum is taken.
    pub(super) unbias: f64,
    /// Factor of the root.
    pub(super) correction: f64,
    pub(super) eps: f64,
}

impl Method for Adam {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay, amsgrad, decoupled_weight_decay, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        let known = [Convention::Torch, Convention::Optax, Convention::Keras, Convention::Textbook];
        self.convention.among(&known)
    }

    fn slots(&self) -> Vec<Slot> {
        let greatest = Slot::positive("max_exp_avg_sq").only_if(self.amsgrad);
        vec![Slot::signed("exp_avg"), Slot::positive("exp_avg_sq"), greatest]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let (mean, square) = (filled(self.beta1, t), filled(self.beta2, t));
        let corrected = (1.0 / mean, 1.0, 1.0 / square.sqrt());
        let (gain, unbias, correction) = match self.convention {
            Convention::Keras => (square.sqrt() / mean, 1.0, 1.0),
            Convention::Optax if self.amsgrad => (1.0 / mean, 1.0 / square, 1.0),
            Convention::Textbook if self.amsgrad => (1.0, 1.0, 1.0),
            _ => corrected,
        };
        let decoupled = self.decoupled_weight_decay || self.convention == Convention::Keras;
        Step {
            decay: Decay::new(self.weight_decay, decoupled, self.lr),
            rate: -self.lr * gain,
            mean: Average::new(self.beta1),
            square: Average::new(self.beta2),
            amsgrad: self.amsgrad,
            unbias,
            correction,
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
        [means, squares, greatest, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, mean, square) = (self.decay.splat(s), self.mean.splat(s), self.square.splat(s));
        let [rate, unbias, correction, eps] =
            [self.rate, self.unbias, self.correction, self.eps].map(|x| s.splat(T::lit(x)));
        if self.amsgrad {
            return stream_map(
                s,
                [params, means, squares, greatest],
                [grads],
                #[inline(always)]
                |[p, m, v, u], [g]| {
                    let (p, g) = decay.apply(s, p, g);
                    let (m, v) = (mean.mean(s, m, g), square.square(s, v, g));
                    let u = s.max(u, s.mul(v, unbias));
                    let denominator = s.fma(s.sqrt(u), correction, eps);
                    [s.fma(rate, ratio(s, m, denominator), p), m, v, u]
                },
            );
        }
        stream_map(
            s,
            [params, means, squares],
            [grads],
            #[inline(always)]
            |[p, m, v], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let (m, v) = (mean.mean(s, m, g), square.square(s, v, g));
                let denominator = s.fma(s.sqrt(v), correction, eps);
                [s.fma(rate, ratio(s, m, denominator), p), m, v]
            },
        );
    }
}
