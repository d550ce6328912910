//! Stochastic gradient descent with momentum.
//!
//! PyTorch's convention, and Optax', which has no dampening:
//!
//! ```text
//! g ← g + wd·θ
//! v ← g                                   at the first step (dampening is skipped)
//! v ← momentum·v + (1 − dampening)·g      later
//! θ ← θ − lr·(g + momentum·v)             Nesterov
//! θ ← θ − lr·v                            else
//! ```
//!
//! Textbooks (Polyak 1964; Sutskever et al. 2013; Goodfellow, Bengio & Courville 2016, algorithms 8.2 and
//! 8.3, at the point at which Nesterov's gradient is taken) and Keras include the learning rate in the
//! velocity, which makes a difference when it changes:
//!
//! ```text
//! v ← momentum·v − lr·g
//! θ ← θ + momentum·v − lr·g               Nesterov
//! θ ← θ + v                               else
//! ```
//!
//! "ema" averages gradients: v ← momentum·v + (1 − momentum)·g starting from 0, θ ← θ − lr·v.

use super::MAX_STATE;
use super::method::{
    Convention, Decay, Formula, Method, Scalars, Slot, absent, fraction, non_negative, options,
};
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
    /// Dampening of the gradient in the momentum; PyTorch's convention only.
    pub dampening: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// Nesterov's form; needs momentum > 0 and dampening = 0.
    pub nesterov: bool,
    /// Any convention.
    pub convention: Convention,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd {
            lr: 1e-3,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    lr: f64,
    momentum: f64,
    /// Factor of the gradient in the velocity.
    take: f64,
    /// Factors of velocity and gradient in what is added to θ.
    along: [f64; 2],
}

impl Method for Sgd {
    type Step = Step;

    options!(lr, momentum, dampening, weight_decay, nesterov, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("momentum", self.momentum)?;
        non_negative("weight_decay", self.weight_decay)?;
        if !self.dampening.is_finite() {
            return Err(Error::argument("dampening", self.dampening, "a finite number is needed"));
        }
        if self.convention != Convention::Torch {
            absent("dampening", self.dampening, self.convention)?;
        }
        if self.nesterov && self.convention == Convention::Ema {
            let accepted = "the convention \"ema\" has no Nesterov form: it must be False";
            return Err(Error::argument("nesterov", "True", accepted));
        }
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            let accepted = format!(
                "it needs momentum > 0 and dampening = 0, but momentum is {} and dampening {}",
                self.momentum, self.dampening
            );
            return Err(Error::argument("nesterov", "True", accepted));
        }
        Ok(())
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("momentum_buffer").only_if(self.momentum != 0.0)]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let &Sgd { lr, momentum, nesterov, convention, .. } = self;
        let (take, along) = match convention {
            Convention::Keras | Convention::Textbook if nesterov => (-lr, [momentum, -lr]),
            Convention::Keras | Convention::Textbook => (-lr, [1.0, 0.0]),
            Convention::Ema => (1.0 - momentum, [-lr, 0.0]),
            _ => {
                let take = if t == 1 { 1.0 } else { 1.0 - self.dampening };
                (take, if nesterov { [-lr * momentum, -lr] } else { [-lr, 0.0] })
            }
        };
        // Without momentum, decoupled decay is the same.
        let decoupled = convention == Convention::Keras && momentum != 0.0;
        let decay = Decay::new(self.weight_decay, decoupled, lr);
        Step { decay, lr, momentum, take, along }
    }
}

impl Formula for Step {
    #[inline(always)]
    fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        [velocity, ..]: [&mut [T]; MAX_STATE],
    ) {
        if self.momentum == 0.0 {
            let [rate, l2] = [-self.lr, self.decay.l2].map(|x| s.splat(T::lit(x)));
            return stream_map(
                s,
                [params],
                [grads],
                #[inline(always)]
                |[p], [g]| [s.fma(rate, s.fma(l2, p, g), p)],
            );
        }
        let decay = self.decay.splat(s);
        let [keep, take, along_v, along_g] =
            [self.momentum, self.take, self.along[0], self.along[1]].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, velocity],
            [grads],
            #[inline(always)]
            |[p, v], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let v = s.fma(keep, v, s.mul(take, g));
                [s.fma(along_v, v, s.fma(along_g, g, p)), v]
            },
        );
    }
}
