//! RMSprop (Tieleman & Hinton 2012, lecture 6.5), with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ
//! v ← α·v + (1 − α)·g²
//! m ← α·m + (1 − α)·g             centered (Graves 2013, arXiv:1308.0850): v − m² replaces v below
//! b ← momentum·b + g/(√v + ε)
//! θ ← θ − lr·b
//! ```
//!
//! Optax and Keras divide by √(v + ε) and apply the learning rate in the buffer, b ← momentum·b + lr·g/√(v +
//! ε), θ ← θ − b; Keras decouples the weight decay, θ ← (1 − lr·wd)·θ.
//!
//! If rounding makes v − m² negative, it counts as 0.

use super::MAX_STATE;
use super::method::{
    Average, Convention, Decay, Eps, Formula, Method, Scalars, Slot, fraction, non_negative, options,
};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rmsprop {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the averages, in [0, 1).
    pub alpha: f64,
    /// Keeps the denominator from 0, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// Momentum, in [0, 1).
    pub momentum: f64,
    /// Whether gradients are divided by their standard deviation instead of their root mean square.
    pub centered: bool,
    /// PyTorch's, Optax' or Keras'.
    pub convention: Convention,
}

impl Default for Rmsprop {
    fn default() -> Self {
        Rmsprop {
            lr: 1e-2,
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    average: Average,
    eps: Eps,
    centered: bool,
    momentum: f64,
    /// Factors of the scaled gradient in the buffer, and of the buffer in the step of θ.
    rates: [f64; 2],
}

impl Method for Rmsprop {
    type Step = Step;

    options!(lr, alpha, eps, weight_decay, momentum, centered, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("alpha", self.alpha)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        fraction("momentum", self.momentum)?;
        self.convention.among(&[Convention::Torch, Convention::Optax, Convention::Keras])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot::positive("square_avg"),
            Slot::signed("momentum_buffer").only_if(self.momentum > 0.0),
            Slot::signed("grad_avg").only_if(self.centered),
        ]
    }

    fn at(&self, _: u64, _: &Scalars) -> Step {
        Step {
            decay: Decay::new(self.weight_decay, self.convention == Convention::Keras, self.lr),
            average: Average::new(self.alpha),
            eps: Eps::new(self.eps, self.convention),
            centered: self.centered,
            momentum: self.momentum,
            rates: if self.convention == Convention::Torch { [1.0, -self.lr] } else { [self.lr, -1.0] },
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
        [squares, buffer, means, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, average, eps) = (self.decay.splat(s), self.average.splat(s), self.eps.splat(s));
        let [gain, along] = self.rates.map(|x| s.splat(T::lit(x)));
        let [momentum, rate] = [self.momentum, self.rates[0] * self.rates[1]].map(|x| s.splat(T::lit(x)));
        match (self.momentum > 0.0, self.centered) {
            (false, false) => stream_map(
                s,
                [params, squares],
                [grads],
                #[inline(always)]
                |[p, v], [g]| {
                    let (p, g) = decay.apply(s, p, g);
                    let v = average.square(s, v, g);
                    [s.fma(rate, eps.divide(s, g, v), p), v]
                },
            ),
            (false, true) => stream_map(
                s,
                [params, squares, means],
                [grads],
                #[inline(always)]
                |[p, v, m], [g]| {
                    let (p, g) = decay.apply(s, p, g);
                    let (v, m) = (average.square(s, v, g), average.mean(s, m, g));
                    [s.fma(rate, eps.divide(s, g, variance(s, v, m)), p), v, m]
                },
            ),
            (true, false) => stream_map(
                s,
                [params, squares, buffer],
                [grads],
                #[inline(always)]
                |[p, v, b], [g]| {
                    let (p, g) = decay.apply(s, p, g);
                    let v = average.square(s, v, g);
                    let b = s.fma(momentum, b, s.mul(gain, eps.divide(s, g, v)));
                    [s.fma(along, b, p), v, b]
                },
            ),
            (true, true) => stream_map(
                s,
                [params, squares, buffer, means],
                [grads],
                #[inline(always)]
                |[p, v, b, m], [g]| {
                    let (p, g) = decay.apply(s, p, g);
                    let (v, m) = (average.square(s, v, g), average.mean(s, m, g));
                    let b = s.fma(momentum, b, s.mul(gain, eps.divide(s, g, variance(s, v, m))));
                    [s.fma(along, b, p), v, b, m]
                },
            ),
        }
    }
}

/// v − m², not below 0.
#[inline(always)]
fn variance<T: Element, S: Simd<T>>(s: S, v: S::V, m: S::V) -> S::V {
    s.max(s.splat(T::ZERO), s.fma(s.neg(m), m, v)) // in this order, a NaN stays a NaN
}
