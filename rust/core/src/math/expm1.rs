//! eˣ − 1 and eˣ for x ≤ 0, both from one reduction.
//!
//! With x = n·ln 2 + r as in [`exp`](mod@super::exp), eˣ − 1 = 2ⁿ·(eʳ − 1) + (2ⁿ − 1). The last term is exact
//! and, for n = 0, zero, so the relative error is small even near 0.
//!
//! Error: eʳ − 1 has about 0.8 ulp; for n = −1 the two terms have opposite signs if r > 0, and the result is
//! at least a quarter of the larger; the sum rounds with half an ulp.
//!
//! For x > 0 the results are those for 0. eˣ is 0 where it would be below the smallest normal number.

use crate::element::Element;
use crate::simd::Simd;

use super::constant;
use super::exp::{minus_one, reduce};

/// Largest error of [`not_above_zero`] in `f32`, in ulps.
pub const MAX_ULP_F32: f64 = 2.0;
/// Largest error of [`not_above_zero`] in `f64`, in ulps.
pub const MAX_ULP_F64: f64 = 2.0;

/// `(eˣ − 1, eˣ)` of min(0, x).
#[inline(always)]
pub fn not_above_zero<T: Element, S: Simd<T>>(s: S, x: S::V) -> (S::V, S::V) {
    let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
    let low = constant(s, -87.33654, -708.396418532264);
    // In this order, a NaN stays a NaN.
    let x = s.min(zero, x);
    let (n, r) = reduce(s, s.max(low, x));
    let (power, m) = (s.scale(one, n), minus_one(s, r));
    let e = s.fma(power, m, power);
    (s.fma(power, m, s.sub(power, one)), s.select(s.lt(x, low), zero, e))
}
