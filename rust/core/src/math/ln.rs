//! ln x
//!
//! x = 2ᵏ·m with m in [√½, √2), and with f = m − 1, s = f/(2 + f): ln m = 2·atanh s = 2s + s³·l(s²). Because
//! 2s = f − s·f, and f² = s·f·(2 + f), that is f − (h − s·(h + s²·l(s²))) with h = f²/2: f, which is exact,
//! with a correction, so the relative error is small even near x = 1 (the form is that of FreeBSD's msun
//! `log`). k·ln 2 is added in two parts, of which the larger is exact.
//!
//! Error: half an ulp from the last addition, the rest from the correction, which is at most a fifth of f.
//!
//! ln 0 = −∞, ln of a negative number is NaN, and denormal arguments are handled exactly.

use crate::element::Element;
use crate::simd::Simd;

use super::{constant, polynomial};

/// Largest error of [`ln()`] in single precision, in ulps.
pub const MAX_ULP_F32: f64 = 0.9;
/// Largest error of [`ln()`] in double precision, in ulps.
pub const MAX_ULP_F64: f64 = 0.9;

/// l(z) = (2·atanh(√z)/√z − 2)/z; relative error of ln m 8.1e-10.
const L32: [f64; 3] = [0.6666677636, 0.3997754161, 0.2987174963];
/// l(z); relative error of ln m 1.2e-18.
const L64: [f64; 7] = [
    0.6666666666666734,
    0.3999999999941468,
    0.2857142874238762,
    0.22222198573173213,
    0.1818356432716127,
    0.15314050515141758,
    0.14795950168931568,
];

const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// ln x
#[inline(always)]
pub fn ln<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let (zero, one, half) = (s.splat(T::ZERO), s.splat(T::ONE), s.splat(T::lit(0.5)));
    // Denormal numbers are made normal first.
    let smallest = constant(s, f32::MIN_POSITIVE.into(), f64::MIN_POSITIVE);
    let tiny = s.lt(x, smallest);
    let (m, k) = s.split_exponent(s.select(tiny, s.mul(x, s.splat(T::lit(TWO_64))), x));
    let k = s.select(tiny, s.sub(k, s.splat(T::lit(64.0))), k);
    // m from [1, 2) to [√½, √2).
    let upper = s.lt(s.splat(T::lit(std::f64::consts::SQRT_2)), m);
    let m = s.select(upper, s.mul(m, half), m);
    let k = s.select(upper, s.add(k, one), k);

    let f = s.sub(m, one);
    let r = s.div(f, s.add(s.splat(T::lit(2.0)), f));
    let h = s.mul(half, s.mul(f, f));
    let z = s.mul(r, r);
    let tail = s.mul(z, polynomial(s, z, L32, L64));
    // ln 2 = high + low, so that k·high is exact.
    let high = constant(s, 0.693359375, 0.6931471824645996);
    let low = constant(s, -2.1219444005469058e-4, -1.904654299957768e-09);
    let correction = s.sub(h, s.fma(r, s.add(h, tail), s.mul(k, low)));
    let y = s.fma(k, high, s.sub(f, correction));

    let y = s.select(s.lt(zero, x), y, s.splat(T::lit(f64::NEG_INFINITY)));
    let y = s.select(s.lt(x, zero), s.splat(T::lit(f64::NAN)), y);
    // ∞ and NaN are returned as they are.
    s.select(s.lt(x, s.splat(T::lit(f64::INFINITY))), y, x)
}
