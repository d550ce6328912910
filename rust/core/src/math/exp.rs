//! eˣ
//!
//! x = n·ln 2 + r with integer n and |r| ≤ ½ ln 2, so eˣ = 2ⁿ·eʳ and eʳ = 1 + (r + r²·q(r)). ln 2 is split in
//! two: n·LN2_HIGH is exact, because LN2_HIGH has few bits, and x − n·LN2_HIGH is exact, because the two are
//! close; so r has an error of only half an ulp of itself (Cody and Waite, "Software Manual for the
//! Elementary Functions", 1980).
//!
//! Error: rounding r gives up to 0.25 ulp of eʳ, r + r²·q another 0.25, the last addition 0.5, the
//! polynomial 0.01. Scaling by 2ⁿ is exact.
//!
//! Results below the smallest normal number are 0, those above the largest are ∞.

use crate::element::Element;
use crate::simd::Simd;

use super::{constant, polynomial};

/// Largest error of [`exp()`] in single precision, in ulps.
pub const MAX_ULP_F32: f64 = 1.0;
/// Largest error of [`exp()`] in double precision, in ulps.
pub const MAX_ULP_F64: f64 = 1.1;

/// q(r) = (eʳ − 1 − r)/r²; relative error 2.4e-10.
const Q32: [f64; 6] =
    [0.5000000044, 0.1666666636, 0.04166635991, 0.008333390407, 0.001394071766, 0.0001984549784];
/// q(r); relative error 2.6e-19.
const Q64: [f64; 11] = [
    0.5,
    0.16666666666666677,
    0.041666666666666505,
    0.00833333333332161,
    0.0013888888888962893,
    0.00019841269886201602,
    2.480158717184886e-05,
    2.7557244111238835e-06,
    2.7557402943798213e-07,
    2.5109078729032336e-08,
    2.087532498859476e-09,
];

/// `(n, r)` with x = n·ln 2 + r, for |x| up to about 2¹⁰.
#[inline(always)]
pub(super) fn reduce<T: Element, S: Simd<T>>(s: S, x: S::V) -> (S::V, S::V) {
    let n = s.round(s.mul(x, s.splat(T::lit(std::f64::consts::LOG2_E))));
    // −ln 2 = −high − low. `high` has 9 bits and n has 8 in f32; 22 and 11 in f64.
    let r = s.fma(n, constant(s, -0.693359375, -0.6931471824645996), x);
    (n, s.fma(n, constant(s, 2.1219444005469058e-4, 1.904654299957768e-09), r))
}

/// eʳ − 1 for |r| ≤ ½ ln 2, with a small relative error even near 0.
#[inline(always)]
pub(super) fn minus_one<T: Element, S: Simd<T>>(s: S, r: S::V) -> S::V {
    s.fma(s.mul(r, r), polynomial(s, r, Q32, Q64), r)
}

/// eˣ for x such that neither x/ln 2 nor eˣ is near the limits of the exponent.
#[inline(always)]
pub(super) fn moderate<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let (n, r) = reduce(s, x);
    s.scale(s.add(s.splat(T::ONE), minus_one(s, r)), n)
}

/// The largest argument of [`decay`]: there e⁻ᵘ, and even u·e⁻ᵘ, is far below the smallest denormal number.
#[inline(always)]
pub(super) fn decayed<T: Element, S: Simd<T>>(s: S) -> S::V {
    constant(s, 120.0, 760.0)
}

/// `(2ᵏ·e⁻ᵘ, 2⁻ᵏ)` for 0 ≤ u ≤ [`decayed`]. k is such that the first loses no bit to underflow, so that it
/// can be multiplied by something large before the second scales it down.
#[inline(always)]
pub(super) fn decay<T: Element, S: Simd<T>>(s: S, u: S::V) -> (S::V, S::V) {
    let (n, r) = reduce(s, s.neg(u));
    let y = s.add(s.splat(T::ONE), minus_one(s, r));
    let k = constant(s, 64.0, 128.0);
    (s.scale(y, s.add(n, k)), constant(s, f64::exp2(-64.0), f64::exp2(-128.0)))
}

/// eˣ
#[inline(always)]
pub fn exp<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    // Bounds of x: from `low` on eˣ is a normal number; at `high` it is infinite.
    let low = constant(s, -87.33654, -708.396418532264);
    let high = constant(s, 89.0, 710.0);
    let (n, r) = reduce(s, s.max(low, s.min(high, x)));
    let y = s.add(s.splat(T::ONE), minus_one(s, r));
    // n may be one above the largest exponent: the last doubling is done separately.
    let m = s.min(constant(s, 127.0, 1023.0), n);
    let y = s.scale(y, m);
    let y = s.fma(y, s.sub(n, m), y);
    s.select(s.lt(x, low), s.splat(T::ZERO), y)
}
