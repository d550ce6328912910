//! Schedule-Free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1), as in the authors' code and
//! Optax: Adam without a running mean, whose momentum comes from averaging. There are three sequences:
//! gradients are taken at y = (1 − β₁)·z + β₁·x, z takes the steps, and x, the average of z, is the result.
//!
//! ```text
//! v ← β₂·v + (1 − β₂)·g²
//! u = lr·(g/(√(v/(1 − β₂ᵗ)) + ε) + wd·y)
//! z ← z − u
//! x ← (1 − c)·x + c·z                 c = w/Σw,  w = (the largest lr so far)ʳ
//! y ← (1 − β₁)·z + β₁·x
//! ```
//!
//! The parameters are y. What is kept is δ = z − y, which is 0 at first and determines x = y − δ·(1 − β₁)/β₁.
//! In terms of δ, the last three lines are
//!
//! ```text
//! δ′ = (1 − c)·(δ − β₁·u),   y ← y + δ − u − δ′
//! ```

use super::MAX_STATE;
use super::method::{
    Average, Formula, Method, Scalar, Scalars, Slot, filled, fraction, non_negative, options, ratio,
};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleFree {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Point between z and x at which gradients are taken, in (0, 1).
    pub beta1: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Added to the root, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// r, ≥ 0.
    pub weight_lr_power: f64,
}

impl Default for ScheduleFree {
    fn default() -> Self {
        ScheduleFree {
            lr: 2.5e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            weight_lr_power: 2.0,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    lr: f64,
    beta1: f64,
    square: Average,
    correction: f64,
    eps: f64,
    weight_decay: f64,
    /// 1 − c
    keep: f64,
}

impl Method for ScheduleFree {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay, weight_lr_power);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        if self.beta1 == 0.0 {
            return Err(Error::argument("betas[0]", 0, "a number in (0, 1) is needed"));
        }
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        non_negative("weight_lr_power", self.weight_lr_power)
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::positive("exp_avg_sq"), Slot::signed("z_minus_y")]
    }

    fn scalars(&self) -> Vec<Scalar> {
        ["lr_max", "weight_sum"].map(|name| Scalar { name, initial: 0.0, range: (0.0, f64::INFINITY) }).into()
    }

    fn advance(&self, _: u64, [largest, total]: &mut Scalars) {
        *largest = largest.max(self.lr);
        *total += largest.powf(self.weight_lr_power);
    }

    fn at(&self, t: u64, [largest, total]: &Scalars) -> Step {
        let weight = largest.powf(self.weight_lr_power);
        Step {
            lr: self.lr,
            beta1: self.beta1,
            square: Average::new(self.beta2),
            correction: 1.0 / filled(self.beta2, t).sqrt(),
            eps: self.eps,
            weight_decay: self.weight_decay,
            keep: if *total > 0.0 { 1.0 - weight / total } else { 1.0 },
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
        [squares, ahead, ..]: [&mut [T]; MAX_STATE],
    ) {
        let square = self.square.splat(s);
        let [lr, beta1, keep] = [self.lr, self.beta1, self.keep].map(|x| s.splat(T::lit(x)));
        let [correction, eps, decay] =
            [self.correction, self.eps, self.weight_decay].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, squares, ahead],
            [grads],
            #[inline(always)]
            |[y, v, d], [g]| {
                let v = square.square(s, v, g);
                let u = s.fma(decay, y, ratio(s, g, s.fma(s.sqrt(v), correction, eps)));
                let u = s.mul(lr, u);
                let next = s.mul(keep, s.sub(d, s.mul(beta1, u)));
                [s.add(y, s.sub(s.sub(d, u), next)), v, next]
            },
        );
    }
}
