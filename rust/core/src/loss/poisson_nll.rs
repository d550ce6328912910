//! Negative log-likelihood of counts t under Poisson distributions. The output is the logarithm of the rate,
//! ℓ = Σ e^oⱼ − tⱼ·oⱼ, ∂ℓ/∂oⱼ = e^oⱼ − tⱼ, or the rate, ℓ = Σ oⱼ − tⱼ·ln(oⱼ + ε), ∂ℓ/∂oⱼ = 1 − tⱼ/(oⱼ + ε).
//!
//! The omitted term, ln t!, depends only on the target. If `full`, Stirling's approximation t·ln t − t + ½·ln
//! 2πt is added for t > 1, as in PyTorch.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::math;
use crate::simd::Simd;

#[inline(always)]
pub fn log_rate<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, full: bool) -> RowLoss {
    let [loss] = elements(
        s,
        [row.output, row.target],
        row.grad.map(|g| [g]),
        row.scale,
        #[inline(always)]
        |[o, t]| {
            let e = math::exp(s, o);
            ([counted(s, t, full, s.sub(e, s.mul(t, o)))], [s.sub(e, t)])
        },
    );
    RowLoss { loss, right: 0.0 }
}

#[inline(always)]
pub fn rate<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, full: bool, eps: f64) -> RowLoss {
    let (eps, one) = (s.splat(T::lit(eps)), s.splat(T::ONE));
    let [loss] = elements(
        s,
        [row.output, row.target],
        row.grad.map(|g| [g]),
        row.scale,
        #[inline(always)]
        |[o, t]| {
            let x = s.add(o, eps);
            let value = s.sub(o, s.mul(t, math::ln(s, x)));
            ([counted(s, t, full, value)], [s.sub(one, s.div(t, x))])
        },
    );
    RowLoss { loss, right: 0.0 }
}

/// The value with Stirling's approximation, if wanted; NaN for a negative count.
#[inline(always)]
fn counted<T: Element, S: Simd<T>>(s: S, t: S::V, full: bool, value: S::V) -> S::V {
    let (zero, one, half) = (s.splat(T::ZERO), s.splat(T::ONE), s.splat(T::lit(0.5)));
    let mut value = value;
    if full {
        let tau = s.splat(T::lit(std::f64::consts::TAU.ln()));
        let ln = math::ln(s, t);
        let more = s.fma(t, ln, s.sub(s.mul(half, s.add(tau, ln)), t));
        value = s.add(value, s.select(s.lt(one, t), more, zero));
    }
    s.select(s.lt(t, zero), s.splat(T::lit(f64::NAN)), value)
}

/// ∂²ℓ/∂oⱼ² where the output is the logarithm of the rate: e^oⱼ, for any target.
pub fn log_rate_bend(o: f64) -> f64 {
    libm::exp(o)
}

/// ∂²ℓ/∂oⱼ² where the output is the rate: tⱼ/(oⱼ + ε)².
pub fn rate_bend(o: f64, t: f64, eps: f64) -> f64 {
    t / ((o + eps) * (o + eps))
}
