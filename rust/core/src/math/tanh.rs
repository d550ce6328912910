//! tanh x
//!
//! tanh |x| = t/(t + 2) with t = e^(2|x|) − 1 = 2ⁿ·(eʳ − 1) + (2ⁿ − 1), where 2|x| = n·ln 2 + r as
//! in [`exp`](super::exp). Near 0, n = 0 and t = eʳ − 1 is accurate relative to itself, so tanh is.
//!
//! Error: t has up to 1.5 ulp (the sum at n = 1, where the terms may have opposite signs), of which
//! the quotient takes the part 2/(t + 2); t + 2 and the quotient round with half an ulp each.
//!
//! tanh is odd, also in −0, and ±1 from where 1 − tanh|x| is below half an ulp.

use crate::element::Element;
use crate::simd::Simd;

use super::constant;
use super::exp::{minus_one, reduce};

/// Largest error of [`f32()`] in ulps.
pub const MAX_ULP_F32: f64 = 2.5;
/// Largest error of [`f64()`] in ulps.
pub const MAX_ULP_F64: f64 = 2.6;

#[inline(always)]
fn any<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let (one, two) = (s.splat(T::ONE), s.splat(T::lit(2.0)));
    // Behind the limit the quotient rounds to 1.
    let a = s.min(constant(s, 10.0, 20.0), s.abs(x));
    let (n, r) = reduce(s, s.add(a, a));
    let power = s.scale(one, n);
    let t = s.fma(power, minus_one(s, r), s.sub(power, one));
    s.copysign(s.quotient(t, s.add(t, two)), x)
}

/// tanh x in single precision.
#[inline(always)]
pub fn f32<S: Simd<f32>>(s: S, x: S::V) -> S::V {
    any(s, x)
}

/// tanh x in double precision.
#[inline(always)]
pub fn f64<S: Simd<f64>>(s: S, x: S::V) -> S::V {
    any(s, x)
}
