//! LAMB (You et al. 2020, arXiv:1904.00962, algorithm 2), as Optax computes it: Adam's direction, scaled to
//! the length of each block of parameters.
//!
//! ```text
//! m ← m + (1 − β₁)·(g − m)
//! v ← β₂·v + (1 − β₂)·g²
//! u = (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε) + wd·θ
//! θ ← θ − lr·‖θ‖/‖u‖ · u            norms of a block; the ratio is 1 where one of them is 0
//! ```
//!
//! The first phase computes the averages and both norms, the second one computes u again and updates θ.

use super::{Own, Piece, Whole, Work};
use crate::element::Element;
use crate::error::Error;
use crate::optim::MAX_STATE;
use crate::optim::method::{Average, Method, Scalars, Slot, filled, fraction, non_negative, options, ratio};
use crate::simd::{Op, Simd, dispatch, stream_map, stream_sum};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb {
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
}

impl Default for Lamb {
    fn default() -> Self {
        Lamb { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay: 0.01 }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    lr: f64,
    mean: Average,
    square: Average,
    /// Bias corrections of m and of the root.
    corrections: [f64; 2],
    eps: f64,
    weight_decay: f64,
}

impl Method for Lamb {
    type Step = Step;

    options!(lr, beta1, beta2, eps, weight_decay);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("exp_avg"), Slot::positive("exp_avg_sq")]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        Step {
            lr: self.lr,
            mean: Average::new(self.beta1),
            square: Average::new(self.beta2),
            corrections: [1.0 / filled(self.beta1, t), 1.0 / filled(self.beta2, t).sqrt()],
            eps: self.eps,
            weight_decay: self.weight_decay,
        }
    }
}

impl Step {
    /// u as a function of θ, m and v.
    #[inline(always)]
    fn direction<T: Element, S: Simd<T>>(&self, s: S) -> impl Fn(S::V, S::V, S::V) -> S::V {
        let [mean, root] = self.corrections.map(|x| s.splat(T::lit(x)));
        let [eps, decay] = [self.eps, self.weight_decay].map(|x| s.splat(T::lit(x)));
        #[inline(always)]
        move |p, m, v| s.fma(decay, p, ratio(s, s.mul(mean, m), s.fma(s.sqrt(v), root, eps)))
    }
}

impl<T: Element> Whole<T> for Step {
    fn phases(&self) -> usize {
        2
    }

    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>) {
        let Own { params, grads, state } = own;
        if phase == 0 {
            let sums = dispatch(work.isa, Look { step: self, params, grads, state });
            // SAFETY: the item's own sums, which only the second phase reads.
            unsafe { work.note(piece, sums) };
        } else {
            let [size, length] = [0, 1].map(|k| work.total(piece, k).sqrt());
            let trust = if size == 0.0 || length == 0.0 { 1.0 } else { size / length };
            dispatch(work.isa, Go { step: self, rate: -self.lr * trust, params, state });
        }
    }
}

/// Updates the averages; computes the sums of θ² and u².
struct Look<'a, T> {
    step: &'a Step,
    params: &'a [T],
    grads: &'a [T],
    state: [&'a mut [T]; MAX_STATE],
}

impl<T: Element> Op<T> for Look<'_, T> {
    type Output = [f64; 2];
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> [f64; 2] {
        let [means, squares, ..] = self.state;
        let (mean, square) = (self.step.mean.splat(s), self.step.square.splat(s));
        let direction = self.step.direction::<T, S>(s);
        stream_sum(
            s,
            [means, squares],
            [self.params, self.grads],
            #[inline(always)]
            |[m, v], [p, g]| {
                let (m, v) = (mean.mean(s, m, g), square.square(s, v, g));
                let u = direction(p, m, v);
                ([m, v], [s.mul(p, p), s.mul(u, u)])
            },
        )
    }
}

/// θ ← θ + rate·u
struct Go<'a, T> {
    step: &'a Step,
    rate: f64,
    params: &'a mut [T],
    state: [&'a mut [T]; MAX_STATE],
}

impl<T: Element> Op<T> for Go<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [means, squares, ..] = self.state;
        let (direction, rate) = (self.step.direction::<T, S>(s), s.splat(T::lit(self.rate)));
        stream_map(
            s,
            [self.params],
            [&*means, &*squares],
            #[inline(always)]
            |[p], [m, v]| [s.fma(rate, direction(p, m, v), p)],
        );
    }
}
