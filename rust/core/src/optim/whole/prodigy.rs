//! Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101, algorithm 4, Adam's form), as in the authors' code
//! and, with bias correction, in Optax: Adam whose learning rate follows from an estimate d of the distance
//! to the solution.
//!
//! ```text
//! a = d·lr, with bias correction times √(1 − β₂ᵗ)/(1 − β₁ᵗ)
//! m ← β₁·m + (1 − β₁)·d·g
//! v ← β₂·v + (1 − β₂)·d²·g²
//! s ← β₃·s + (d/d₀)·a·g                     with safeguarded warm-up, d in place of a
//! r ← β₃·r + (d/d₀)·a·⟨g, θ₀ − θ⟩
//! d′ = max(d, c·r/‖s‖₁)                     over all parameters
//! θ ← θ − a·(m/(√v + d′·ε) + wd·θ)
//! d ← d′
//! ```
//!
//! Instead of θ₀, θ₀ − θ is kept, as it would be if θ were not rounded: the first steps, of about d₀, may be
//! less than a unit in the last place of θ, and d would not grow if they did not count. The first phase does
//! everything up to the sums, the second adds them up, the third updates θ.

use super::{Items, Own, Piece, Whole, Work};
use crate::element::Element;
use crate::error::Error;
use crate::optim::MAX_STATE;
use crate::optim::method::{
    Average, Method, Scalar, Scalars, Slot, filled, fraction, non_negative, options, ratio,
};
use crate::simd::{Op, Simd, dispatch, stream_map, stream_sum};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prodigy {
    /// Factor of the learning rate that is found, ≥ 0.
    pub lr: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean square, in [0, 1).
    pub beta2: f64,
    /// Decay of r and s, in [0, 1); √β₂ by default.
    pub beta3: Option<f64>,
    /// Added to the root, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// The first estimate, above 0.
    pub d0: f64,
    /// Factor c of estimates, above 0.
    pub d_coef: f64,
    /// Whether the rate is bias-corrected as in Adam.
    pub use_bias_correction: bool,
    /// Whether s omits the learning rate.
    pub safeguard_warmup: bool,
}

impl Default for Prodigy {
    fn default() -> Self {
        Prodigy {
            lr: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            beta3: None,
            eps: 1e-8,
            weight_decay: 0.0,
            d0: 1e-6,
            d_coef: 1.0,
            use_bias_correction: false,
            safeguard_warmup: false,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    d: f64,
    /// β₃·r
    kept: f64,
    /// a
    rate: f64,
    mean: Average,
    square: Average,
    beta3: f64,
    /// Factor of g in s.
    gain: f64,
    /// Factor of ⟨g, θ₀ − θ⟩ in r.
    weight: f64,
    eps: f64,
    weight_decay: f64,
    d_coef: f64,
}

impl Method for Prodigy {
    type Step = Step;

    options!(lr, beta1, beta2, beta3, eps, weight_decay, d0, d_coef, use_bias_correction, safeguard_warmup);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        fraction("betas[1]", self.beta2)?;
        fraction("beta3", self.beta3.unwrap_or(0.0))?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        for (name, value) in [("d0", self.d0), ("d_coef", self.d_coef)] {
            non_negative(name, value)?;
            if value == 0.0 {
                return Err(Error::argument(name, "0", "a number > 0 is needed"));
            }
        }
        Ok(())
    }

    fn slots(&self) -> Vec<Slot> {
        let [m, s, way] = ["exp_avg", "s", "p0_minus_p"].map(Slot::signed);
        vec![m, Slot::positive("exp_avg_sq"), s, way]
    }

    fn scalars(&self) -> Vec<Scalar> {
        let d = Scalar { name: "d", initial: self.d0, range: (0.0, f64::INFINITY) };
        let any = (f64::NEG_INFINITY, f64::INFINITY);
        vec![d, Scalar { name: "d_numerator", initial: 0.0, range: any }]
    }

    fn at(&self, t: u64, [d, numerator]: &Scalars) -> Step {
        let correction = match self.use_bias_correction {
            true => filled(self.beta2, t).sqrt() / filled(self.beta1, t),
            false => 1.0,
        };
        let rate = d * self.lr * correction;
        let beta3 = self.beta3.unwrap_or(self.beta2.sqrt());
        Step {
            d: *d,
            kept: beta3 * numerator,
            rate,
            mean: Average::new(self.beta1),
            square: Average::new(self.beta2),
            beta3,
            gain: d / self.d0 * if self.safeguard_warmup { *d } else { rate },
            weight: d / self.d0 * rate,
            eps: self.eps,
            weight_decay: self.weight_decay,
            d_coef: self.d_coef,
        }
    }
}

impl<T: Element> Whole<T> for Step {
    fn phases(&self) -> usize {
        3
    }

    fn items(&self, phase: usize) -> Items {
        if phase == 1 { Items::Once } else { Items::Pieces }
    }

    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>) {
        let Own { params, grads, state } = own;
        if phase == 0 {
            let [toward, size] = dispatch(work.isa, Look { step: self, grads, state });
            // SAFETY: the item's own sums, which only the second phase reads.
            unsafe { work.note(piece, [self.weight * toward, size]) };
        } else {
            let [d, _] = work.scalars();
            dispatch(work.isa, Go { step: self, eps: d * self.eps, params, state });
        }
    }

    unsafe fn once(&self, _: usize, work: &Work<'_, T>) {
        let [toward, size] = [0, 1].map(|k| work.total_of_all(k));
        let numerator = self.kept + toward;
        // As long as all gradients, or all learning rates, have been 0, there is nothing to estimate from.
        let found = if size > 0.0 { self.d_coef * numerator / size } else { 0.0 };
        // SAFETY: this is the single item of its phase.
        unsafe { work.set_scalars([self.d.max(found), numerator]) };
    }
}

/// Updates the averages; computes ⟨g, θ₀ − θ⟩ and ‖s‖₁.
struct Look<'a, T> {
    step: &'a Step,
    grads: &'a [T],
    state: [&'a mut [T]; MAX_STATE],
}

impl<T: Element> Op<T> for Look<'_, T> {
    type Output = [f64; 2];
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> [f64; 2] {
        let [means, squares, sums, way] = self.state;
        let (mean, square) = (self.step.mean.splat(s), self.step.square.splat(s));
        let [d, keep, gain] = [self.step.d, self.step.beta3, self.step.gain].map(|x| s.splat(T::lit(x)));
        stream_sum(
            s,
            [means, squares, sums],
            [self.grads, &*way],
            #[inline(always)]
            |[m, v, sum], [g, way]| {
                let scaled = s.mul(d, g);
                let sum = s.fma(keep, sum, s.mul(gain, g));
                let averages = [mean.mean(s, m, scaled), square.square(s, v, scaled), sum];
                (averages, [s.mul(g, way), s.abs(sum)])
            },
        )
    }
}

/// The step of θ.
struct Go<'a, T> {
    step: &'a Step,
    /// d′·ε
    eps: f64,
    params: &'a mut [T],
    state: [&'a mut [T]; MAX_STATE],
}

impl<T: Element> Op<T> for Go<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [means, squares, _, way] = self.state;
        let [rate, eps, decay] =
            [self.step.rate, self.eps, self.step.weight_decay].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [self.params, way],
            [&*means, &*squares],
            #[inline(always)]
            |[p, way], [m, v]| {
                let u = s.mul(rate, s.fma(decay, p, ratio(s, m, s.add(s.sqrt(v), eps))));
                [s.sub(p, u), s.add(way, u)]
            },
        );
    }
}
