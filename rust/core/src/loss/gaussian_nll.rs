//! Negative log-likelihood under a normal distribution with mean mⱼ and log-variance sⱼ, the two halves of
//! the output: with d = mⱼ − tⱼ and v = max(e^sⱼ, ε), ℓ = ½·Σ (ln v + d²/v), plus ½·ln 2π per element if
//! `full`.
//!
//! ∂ℓ/∂mⱼ = d/v,  ∂ℓ/∂sⱼ = ½·(1 − d²/v)·e^sⱼ/v. Where v = ε this is not the derivative, which would be 0 and
//! leave the variance where it is: as in PyTorch, the gradient passes through the bound.
//!
//! (Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution";
//! log-variances: Kendall & Gal 2017.) Only 1/v and e^s/v are computed, which are finite for every s.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::math;
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
            let inverse = math::exp(s, s.neg(bound));
            let square = s.mul(s.mul(d, d), inverse);
            let value = s.mul(half, s.add(bound, square));
            let through = math::exp(s, s.min(zero, s.sub(log, bound)));
            let slope = s.mul(s.mul(half, s.sub(one, square)), through);
            ([value], [s.mul(d, inverse), slope])
        },
    );
    let constant = if full { 0.5 * std::f64::consts::TAU.ln() * k as f64 } else { 0.0 };
    RowLoss { loss: loss + constant, right: 0.0 }
}

/// ∂²ℓ/∂m², ∂²ℓ/∂m∂s and ∂²ℓ/∂s²: with q = d²/v and r = e^s/v they are 1/v, −d·r/v and ½·(2q − 1)·r² + ½·(1 −
/// q)·r. Where the variance is above its bound, r is 1 and the last one q/2; where it is not, these are the
/// derivatives of the gradient that passes through.
pub fn bends(mean: f64, log: f64, t: f64, eps: f64) -> [f64; 3] {
    let (inverse, r) = bounded(log, eps);
    let d = mean - t;
    let q = d * d * inverse;
    [inverse, -d * inverse * r, 0.5 * (2.0 * q - 1.0) * r * r + 0.5 * (1.0 - q) * r]
}

/// Their means over targets from the distribution itself, for which the mean of q is 1: the Fisher
/// information.
pub fn fisher(log: f64, eps: f64) -> [f64; 3] {
    let (inverse, r) = bounded(log, eps);
    [inverse, 0.0, 0.5 * r * r]
}

/// 1/v and e^s/v
fn bounded(log: f64, eps: f64) -> (f64, f64) {
    let bound = log.max(eps.ln());
    (libm::exp(-bound), libm::exp(log - bound))
}
