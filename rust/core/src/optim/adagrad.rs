//! Adagrad (Duchi, Hazan & Singer 2011, JMLR 12), with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ
//! a ← a + g²                       from a = initial_accumulator_value
//! θ ← θ − lr/(1 + (t − 1)·lr_decay) · g/(√a + ε)
//! ```
//!
//! Optax and Keras divide by √(a + ε); Keras decouples the weight decay, θ ← (1 − lr·wd)·θ.

use super::MAX_STATE;
use super::method::{Convention, Decay, Eps, Formula, Method, Scalars, Slot, non_negative, options};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// How fast the learning rate falls, ≥ 0.
    pub lr_decay: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// The sum of squares before the first step, ≥ 0.
    pub initial_accumulator_value: f64,
    /// Keeps the denominator from 0, ≥ 0.
    pub eps: f64,
    /// PyTorch's, Optax' or Keras'.
    pub convention: Convention,
}

impl Default for Adagrad {
    fn default() -> Self {
        Adagrad {
            lr: 1e-2,
            lr_decay: 0.0,
            weight_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    eps: Eps,
    rate: f64,
}

impl Method for Adagrad {
    type Step = Step;

    options!(lr, lr_decay, weight_decay, initial_accumulator_value, eps, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        non_negative("lr_decay", self.lr_decay)?;
        non_negative("weight_decay", self.weight_decay)?;
        non_negative("initial_accumulator_value", self.initial_accumulator_value)?;
        non_negative("eps", self.eps)?;
        self.convention.among(&[Convention::Torch, Convention::Optax, Convention::Keras])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::positive("sum").from(self.initial_accumulator_value)]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        Step {
            decay: Decay::new(self.weight_decay, self.convention == Convention::Keras, self.lr),
            eps: Eps::new(self.eps, self.convention),
            rate: -self.lr / (1.0 + (t - 1) as f64 * self.lr_decay),
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
        [sum, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, eps, rate) = (self.decay.splat(s), self.eps.splat(s), s.splat(T::lit(self.rate)));
        stream_map(
            s,
            [params, sum],
            [grads],
            #[inline(always)]
            |[p, a], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let a = s.fma(g, g, a);
                [s.fma(rate, eps.divide(s, g, a), p), a]
            },
        );
    }
}
