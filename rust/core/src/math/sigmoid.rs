//! The logistic function σ(x) = 1/(1 + e⁻ˣ)
//!
//! Computed as written: for x ≪ 0 it is 1/e⁻ˣ, with a small relative error down to where e⁻ˣ overflows, just
//! below the smallest normal number; from there on it is 0.
//!
//! Error: that of [`exp`](mod@super::exp), and half an ulp each for the sum and the quotient; an ulp of the
//! denominator may be up to two of the quotient if one is just above a power of two and the other just below.

use crate::element::Element;
use crate::simd::Simd;

/// Largest error of [`sigmoid()`] in single precision, in ulps.
pub const MAX_ULP_F32: f64 = 2.5;
/// Largest error of [`sigmoid()`] in double precision, in ulps.
pub const MAX_ULP_F64: f64 = 2.6;

/// σ(x)
#[inline(always)]
pub fn sigmoid<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let one = s.splat(T::ONE);
    s.div(one, s.add(one, super::exp(s, s.neg(x))))
}
