//! sin x and cos x, both from one reduction.
//!
//! |x| = n·π/2 + r with integer n and |r| ≤ π/4; then sin |x| is sin r, cos r, −sin r or −cos r, depending on
//! n mod 4, and cos |x| is the next one in that cycle. π/2 is split in four parts. The first three have so
//! few bits that their products with n are exact, and so are the differences as far as they cancel (Cody and
//! Waite, "Software Manual for the Elementary Functions", 1980), so the relative error of r is small even
//! next to multiples of π/2.
//!
//! That holds as long as n has 11 bits, in double precision 20. Larger arguments, |x| > 3200 or 1 600 000,
//! are rare and take another path: `libm`, in double precision, with as many digits of π as necessary (Payne
//! and Hanek, 1983). A vector without such arguments skips that path; one with some is slow, and its other
//! lanes are unaffected.
//!
//! Error: rounding r in two of the four steps gives up to 1 ulp of r, which may be 1.8 ulp of sin r if r is
//! just above one half and sin r below; the last addition gives 0.5. Of all numbers in single precision,
//! 2228.8975 has the largest error, 2.321 ulp of cos, whether multiply-add is fused or not.
//!
//! sin is odd, including the sign of 0; cos is even. Both are NaN for infinity.

use crate::element::Element;
use crate::simd::{MAX_LANES, Simd};

use super::{constant, polynomial};

/// Largest error of [`sin_cos`] in `f32`, in ulps.
pub const MAX_ULP_F32: f64 = 2.33;
/// Largest error of [`sin_cos`] in `f64`, in ulps.
pub const MAX_ULP_F64: f64 = 2.33;

/// p(z) of sin r = r + r³·p(r²) for |r| ≤ π/4; relative error 3.8e-9.
const SIN32: [f64; 3] = [-0.1666665454, 0.00833215617, -0.0001951464415];
/// q(z) of cos r = 1 − r²/2 + r⁴·q(r²); relative error 1.2e-10.
const COS32: [f64; 3] = [0.04166664556, -0.001388731001, 2.443243024e-5];
/// p(z); relative error 3.7e-18.
const SIN64: [f64; 6] = [
    -0.1666666666666663,
    0.008333333333322023,
    -0.00019841269829507232,
    2.755731359115091e-06,
    -2.505074278397469e-08,
    1.5895928511976092e-10,
];
/// q(z); relative error 5.7e-20.
const COS64: [f64; 6] = [
    0.041666666666666595,
    -0.0013888888888872906,
    2.4801587288753905e-05,
    -2.7557314150015875e-07,
    2.0875696736467044e-09,
    -1.1358318025649523e-11,
];
/// π/2 in parts of 13, 13, 13 and 24 bits.
const PARTS32: [f64; 4] =
    [1.570556640625, 0.0002396702766418457, 1.5890691429376602e-08, 2.5633440682570896e-12];
/// π/2 in parts of 33, 33, 33 and 53 bits.
const PARTS64: [f64; 4] =
    [1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32];

/// `(sin x, cos x)`
#[inline(always)]
pub fn sin_cos<T: Element, S: Simd<T>>(s: S, x: S::V) -> (S::V, S::V) {
    let (one, zero) = (s.splat(T::ONE), s.splat(T::ZERO));
    let limit = constant(s, 3200.0, 1.6e6);
    let far = s.lt(limit, s.abs(x));
    // In this order, min keeps a NaN.
    let u = s.min(limit, s.abs(x));
    let n = s.round(s.mul(u, s.splat(T::lit(std::f64::consts::FRAC_2_PI))));
    let mut r = u;
    for (part32, part64) in PARTS32.into_iter().zip(PARTS64) {
        r = s.fma(n, constant(s, -part32, -part64), r);
    }
    let z = s.mul(r, r);
    let sin = s.fma(s.mul(r, z), polynomial(s, z, SIN32, SIN64), r);
    let half = s.mul(z, s.splat(T::lit(0.5)));
    let cos = s.sub(one, s.fma(s.neg(s.mul(z, z)), polynomial(s, z, COS32, COS64), half));

    // n mod 4, from −2 to 2, where −2 and 2 are the same.
    let four = s.splat(T::lit(4.0));
    let quarter = s.fma(s.round(s.mul(n, s.splat(T::lit(0.25)))), s.neg(four), n);
    let (low, high) = (s.splat(T::lit(-0.5)), s.splat(T::lit(1.5)));
    let odd = s.lt(s.abs(s.sub(s.abs(quarter), one)), s.splat(T::lit(0.5)));
    let minus = s.neg(one);
    let sin_sign = s.select(s.lt(quarter, low), minus, s.select(s.lt(high, quarter), minus, one));
    let cos_sign = s.select(s.lt(s.abs(s.add(quarter, s.splat(T::lit(0.5)))), one), one, minus);
    let sin_x = s.mul(s.mul(s.select(odd, cos, sin), sin_sign), s.copysign(one, x));
    let cos_x = s.mul(s.select(odd, sin, cos), cos_sign);

    if s.reduce_max(s.select(far, one, zero)) > T::ZERO {
        let (mut sines, mut cosines) = ([T::ZERO; MAX_LANES], [T::ZERO; MAX_LANES]);
        s.store(&mut sines, x);
        exactly(&mut sines[..S::N], &mut cosines[..S::N]);
        return (s.select(far, s.load(&sines), sin_x), s.select(far, s.load(&cosines), cos_x));
    }
    (sin_x, cos_x)
}

/// x ← sin x, and cos x, for arguments of any size.
#[cold]
#[inline(never)]
fn exactly<T: Element>(x: &mut [T], cosines: &mut [T]) {
    for (x, cos) in x.iter_mut().zip(cosines) {
        let (s, c) = libm::sincos(x.to_f64());
        (*x, *cos) = (T::lit(s), T::lit(c));
    }
}
