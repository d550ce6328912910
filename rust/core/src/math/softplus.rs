//! Softplus, ln(1 + eˣ), and its derivative σ(x) = 1/(1 + e⁻ˣ), found from the value.
//!
//! ln(1 + eˣ) = max(0, x) + ln(1 + e) with e = e^(−|x|) in (0, 1]: nothing overflows, and for x < 0, where
//! the first term is 0, the relative error of the second is small even where 1 + e rounds to 1. With
//! s = e/(2 + e), which is at most ⅓, ln(1 + e) is 2·atanh s = 2s + s³·l(s²), computed as in
//! [`ln`](mod@super::ln) as a correction to e: e − (h − s·(h + s²·l(s²))), h = e²/2. Since 1 + e is never formed,
//! it needs no reduction; instead l has a few more terms.
//!
//! In terms of y = softplus(x), the derivative is 1 − e⁻ʸ. Computed as written this would cancel for small y,
//! but with −y = n·ln 2 + r as in [`exp`](mod@super::exp) it is (1 − 2ⁿ) − 2ⁿ·(eʳ − 1), which for n = 0 has a
//! small relative error. A relative error of y is not magnified: its factor y/(eʸ − 1) is at most 1.
//!
//! Error of the value: e has up to 1 ulp, which enters with the factor 1/(1 + e); the correction is up to
//! 0.44 of the result, and its roundings count in that proportion; half an ulp comes from the last
//! subtraction, for x > 0 another from the sum with x. Error of the derivative: that of y, half an ulp from
//! the multiply-add, and about one ulp of eʳ − 1, times 2ⁿ; 1 − 2ⁿ is exact except where it is next to 1.
//!
//! softplus(−∞) = 0, softplus(∞) = ∞, where the derivative is 0 and 1.

use crate::element::Element;
use crate::simd::Simd;

use super::exp::{decay, decayed, minus_one, reduce};
use super::{constant, polynomial};

/// Largest error of [`softplus`] in `f32`, and of [`derivative`] of its result, in ulps.
pub const MAX_ULP_F32: f64 = 2.5;
/// Largest error of [`softplus`] in `f64`, and of [`derivative`] of its result, in ulps.
pub const MAX_ULP_F64: f64 = 2.5;

/// l(z) = (2·atanh(√z)/√z − 2)/z for z ≤ 1/9; relative error of ln(1 + e) 4.5e-9.
const L32: [f64; 4] = [0.6666641644, 0.4002152214, 0.2800184356, 0.2801195293];
/// l(z); relative error of ln(1 + e) 1.3e-18.
const L64: [f64; 10] = [
    0.6666666666666631,
    0.40000000000155117,
    0.2857142854811774,
    0.22222223953663978,
    0.1818174447839929,
    0.15386548408394093,
    0.13301121155238343,
    0.12104946808572217,
    0.08344962630269086,
    0.1700977400525974,
];

/// ln(1 + eˣ)
#[inline(always)]
pub fn softplus<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let half = s.splat(T::lit(0.5));
    let (lifted, lower) = decay(s, s.min(decayed(s), s.abs(x)));
    let e = s.mul(lifted, lower);
    // Where e is too small for `quotient`, h and with it the correction vanish.
    let r = s.quotient(e, s.add(s.splat(T::lit(2.0)), e));
    let h = s.mul(half, s.mul(e, e));
    let z = s.mul(r, r);
    let correction = s.fma(s.neg(r), s.fma(z, polynomial(s, z, L32, L64), h), h);
    s.add(s.max(s.splat(T::ZERO), x), s.sub(e, correction))
}

/// σ(x) = 1 − e⁻ʸ from y = softplus(x).
#[inline(always)]
pub fn derivative<T: Element, S: Simd<T>>(s: S, y: S::V) -> S::V {
    let one = s.splat(T::ONE);
    // Beyond the limit the result rounds to 1.
    let (n, r) = reduce(s, s.neg(s.min(constant(s, 20.0, 40.0), y)));
    let power = s.scale(one, n);
    s.fma(s.neg(power), minus_one(s, r), s.sub(one, power))
}
