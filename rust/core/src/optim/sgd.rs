//! Stochastic gradient descent, with PyTorch's conventions:
//!
//! ```text
//! g ← g + wd·θ
//! v ← g                             at the first step (dampening is skipped)
//! v ← momentum·v + (1 − dampening)·g      later
//! θ ← θ − lr·(g + momentum·v)       Nesterov
//! θ ← θ − lr·v                      else
//! ```
//!
//! The learning rate multiplies v, it is not folded into it: it matters when lr changes.

use super::{fraction, non_negative};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Momentum, in [0, 1).
    pub momentum: f64,
    /// Dampening of the gradient in the momentum.
    pub dampening: f64,
    /// Nesterov's form; needs momentum > 0 and dampening = 0.
    pub nesterov: bool,
    /// Weight decay, added to the gradient.
    pub weight_decay: f64,
}

/// Constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    config: Sgd,
    first: bool,
}

impl Sgd {
    pub(super) fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("momentum", self.momentum)?;
        non_negative("weight_decay", self.weight_decay)?;
        if !self.dampening.is_finite() {
            let value = self.dampening.to_string();
            return Err(Error::Argument {
                name: "dampening",
                value,
                accepted: "a finite number is needed".into(),
            });
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            let accepted = format!(
                "it needs momentum > 0 and dampening = 0, but momentum is {} and dampening {}",
                self.momentum, self.dampening
            );
            return Err(Error::Argument { name: "nesterov", value: "True".into(), accepted });
        }
        Ok(())
    }

    pub(super) fn at(self, t: u64) -> Step {
        Step { config: self, first: t == 1 }
    }
}

impl Step {
    #[inline(always)]
    pub(super) fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        velocity: &mut [T],
    ) {
        let c = &self.config;
        let [lr, decay, momentum] = [-c.lr, c.weight_decay, c.momentum].map(|x| s.splat(T::lit(x)));
        if c.momentum == 0.0 {
            return stream_map(
                s,
                [params],
                [grads],
                #[inline(always)]
                |[p], [g]| [s.fma(lr, s.fma(decay, p, g), p)],
            );
        }
        let (keep, take) = if self.first { (0.0, 1.0) } else { (c.momentum, 1.0 - c.dampening) };
        let [keep, take] = [keep, take].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, velocity],
            [grads],
            #[inline(always)]
            |[p, v], [g]| {
                let g = s.fma(decay, p, g);
                let v = s.fma(keep, v, s.mul(take, g));
                let direction = if c.nesterov { s.fma(momentum, v, g) } else { v };
                [s.fma(lr, direction, p), v]
            },
        );
    }
}
