//! Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2); Optax and Keras agree with the paper:
//!
//! ```text
//! θ ← (1 − lr·wd)·θ
//! θ ← θ − lr·sign(β₁·m + (1 − β₁)·g)
//! m ← β₂·m + (1 − β₂)·g
//! ```

use super::MAX_STATE;
use super::method::{Average, Decay, Formula, Method, Scalars, Slot, fraction, non_negative, options, sign};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the average used in the step, in [0, 1).
    pub beta1: f64,
    /// Decay of the average that is kept, in [0, 1).
    pub beta2: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    rate: f64,
    /// The averages used in the step, and kept.
    means: [Average; 2],
}

impl Method for Lion {
    type Step = Step;

    options!(lr, beta1, beta2, weight_decay);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("weight_decay", self.weight_decay)
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg")]
    }

    fn at(&self, _: u64, _: &Scalars) -> Step {
        Step {
            decay: Decay::new(self.weight_decay, true, self.lr),
            rate: -self.lr,
            means: [self.beta1, self.beta2].map(Average::new),
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
        [means, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, rate) = (self.decay.splat(s), s.splat(T::lit(self.rate)));
        let [ahead, kept] = self.means.map(|mean| mean.splat(s));
        stream_map(
            s,
            [params, means],
            [grads],
            #[inline(always)]
            |[p, m], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let direction = sign(s, ahead.mean(s, m, g));
                [s.fma(rate, direction, p), kept.mean(s, m, g)]
            },
        );
    }
}
