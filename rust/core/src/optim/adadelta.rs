//! Adadelta (Zeiler 2012, arXiv:1212.5701, algorithm 1), with a learning rate as in PyTorch, Optax and Keras:
//!
//! ```text
//! g ← g + wd·θ
//! v ← ρ·v + (1 − ρ)·g²
//! δ ← √(u + ε)/√(v + ε) · g
//! u ← ρ·u + (1 − ρ)·δ²
//! θ ← θ − lr·δ
//! ```
//!
//! Keras decouples the weight decay, θ ← (1 − lr·wd)·θ.

use super::MAX_STATE;
use super::method::{
    Average, Convention, Decay, Formula, Method, Scalars, Slot, fraction, non_negative, options, ratio,
};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, stream_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adadelta {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the averages, in [0, 1).
    pub rho: f64,
    /// Added under both roots, ≥ 0; with 0, nothing ever moves.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// PyTorch's, Optax' or Keras'.
    pub convention: Convention,
}

impl Default for Adadelta {
    fn default() -> Self {
        Adadelta { lr: 1.0, rho: 0.9, eps: 1e-6, weight_decay: 0.0, convention: Convention::Torch }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    decay: Decay,
    square: Average,
    rate: f64,
    eps: f64,
}

impl Method for Adadelta {
    type Step = Step;

    options!(lr, rho, eps, weight_decay, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("rho", self.rho)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        self.convention.among(&[Convention::Torch, Convention::Optax, Convention::Keras])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::positive("square_avg"), Slot::positive("acc_delta")]
    }

    fn at(&self, _: u64, _: &Scalars) -> Step {
        let decay = Decay::new(self.weight_decay, self.convention == Convention::Keras, self.lr);
        Step { decay, square: Average::new(self.rho), rate: -self.lr, eps: self.eps }
    }
}

impl Formula for Step {
    #[inline(always)]
    fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        [squares, moved, ..]: [&mut [T]; MAX_STATE],
    ) {
        let (decay, square) = (self.decay.splat(s), self.square.splat(s));
        let [rate, eps] = [self.rate, self.eps].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [params, squares, moved],
            [grads],
            #[inline(always)]
            |[p, v, u], [g]| {
                let (p, g) = decay.apply(s, p, g);
                let v = square.square(s, v, g);
                let delta = s.mul(ratio(s, s.sqrt(s.add(u, eps)), s.sqrt(s.add(v, eps))), g);
                let u = square.square(s, u, delta);
                [s.fma(rate, delta, p), v, u]
            },
        );
    }
}
