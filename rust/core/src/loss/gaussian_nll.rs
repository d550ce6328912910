//! Negative log-likelihood under a normal distribution of mean mⱼ and log-variance sⱼ, the two halves of
//! the output: with d = mⱼ − tⱼ and v = max(e^sⱼ, ε), ℓ = ½·Σ (ln v + d²/v), and ½·ln 2π more if it is full.
//!
//! ∂ℓ/∂mⱼ = d/v,  ∂ℓ/∂sⱼ = ½·(1 − d²/v)·e^sⱼ/v. Where v = ε that is not the derivative, which would be 0 and
//! leave the variance where it is: as PyTorch does, the gradient passes through the bound.
//!
//! (Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution";
//! log-variances: Kendall & Gal 2017.) Only 1/v and e^s/v are formed, which no s makes infinite.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, full: bool, eps: f64) -> RowLoss {
    let k = row.target.len();
    let (means, logs) = row.output.split_at(k);
    let grads = row.grad.map(|g| g.split_at_mut(k).into());
    let (one, half) = (s.splat(T::ONE), s.splat(T::lit(0.5)));
    let lowest = s.splat(T::lit(eps.ln()));
    let zero = s.splat(T::ZERO);
    let [loss] = elements(
        s,
        [means, logs, row.target],
        grads,
        row.scale,
        #[inline(always)]
        |[m, log, t]| {
            let d = s.sub(m, t);
            let bound = s.max(lowest, log);
            let inverse = T::exp(s, s.neg(bound));
            let square = s.mul(s.mul(d, d), inverse);
            let value = s.mul(half, s.add(bound, square));
            let through = T::exp(s, s.min(zero, s.sub(log, bound)));
            let slope = s.mul(s.mul(half, s.sub(one, square)), through);
            ([value], [s.mul(d, inverse), slope])
        },
    );
    let constant = if full { 0.5 * std::f64::consts::TAU.ln() * k as f64 } else { 0.0 };
    RowLoss { loss: loss + constant, right: 0.0 }
}
