//! GELU, x·Φ(x) with the normal distribution Φ, and its derivative Φ(x) + x·φ(x)
//! (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, arXiv:1606.08415; the exact form, not the tanh one).
//!
//! The usual x/2·(1 + erf(x/√2)) suffers cancellation for x < 0. Here the small tail is computed first: with
//! u = |x|, Φ(−u) = exp(−u²/2)·t·w(t − ½), t = 1/(1 + c·u), where w is a polynomial. Then Φ(x) is Φ(−u) for x
//! < 0 and 1 − Φ(−u) otherwise, and the same exponential gives φ(x) = exp(−u²/2)/√(2π). The rounding error ε
//! of u², which the exponential would magnify, is found with a fused multiply-add and corrected: exp(−(u² +
//! ε)/2) ≈ exp(−u²/2)·(1 − ε/2). Where the ISA cannot fuse, ε comes out as 0, and an error of up to x²/2 ulp
//! remains in the tail.
//!
//! Error: GELU has a small relative error on both sides. The derivative has a zero near −0.752; its error is
//! small relative to the larger of |gelu'(x)| and |x|·φ(x), its larger term. Where Φ(x) is below the smallest
//! normal number (x < −12.9, in double precision x < −37.5) both may be 0, an absolute error of at most 40
//! times that number.
//!
//! In the limits: gelu(−∞) = −0, not the NaN of −∞·0; gelu(∞) = ∞; the derivative is 0 and 1.

use crate::element::Element;
use crate::simd::Simd;

use super::{constant, polynomial};

/// Largest error of [`with_derivative`] in `f32`, in ulps as defined above, with fused arithmetic.
pub const MAX_ULP_F32: f64 = 10.0;
/// Largest error of [`with_derivative`] in `f64`, in ulps as defined above, with fused arithmetic. The
/// largest found is 10.3, of the derivative at −0.351334, where half of Φ(x) and x·φ(x) cancels.
pub const MAX_ULP_F64: f64 = 12.0;

/// w(v) for c = 0.265625, u ≤ 14; relative error 1.2e-8.
const W32: [f64; 9] = [
    0.1993808898,
    0.3131313323,
    0.3772311692,
    0.3263967294,
    0.1647846068,
    -0.00659956403,
    -0.07124277031,
    -0.01963145837,
    0.030669877,
];
/// w(v) for c = 0.234375, u ≤ 39; relative error 8.3e-18.
const W64: [f64; 23] = [
    0.17808198724090546,
    0.2935312900871137,
    0.3939333376272964,
    0.41763127990706106,
    0.326181425069728,
    0.15185269398600326,
    -0.007268273771779612,
    -0.0646621140316305,
    -0.026537750151660072,
    0.02201584324059204,
    0.01974282474989793,
    -0.008956248967486964,
    -0.01265569078762523,
    0.005409223106661215,
    0.008097098931750651,
    -0.004665421089114437,
    -0.004948435035936851,
    0.004528937590785176,
    0.0023267065569991955,
    -0.003888328456203919,
    -8.34261277021123e-05,
    0.0020411127974488846,
    -0.0008294413023647156,
];

/// `(gelu(x), gelu'(x))`; a result that is not used costs nothing.
#[inline(always)]
pub fn with_derivative<T: Element, S: Simd<T>>(s: S, x: S::V) -> (S::V, S::V) {
    let (zero, one, half) = (s.splat(T::ZERO), s.splat(T::ONE), s.splat(T::lit(0.5)));
    // Below −limit the exponential is 0; the fit of w ends at the limit.
    let limit = constant(s, 14.0, 39.0);
    let u = s.min(limit, s.abs(x));
    let square = s.mul(u, u);
    let error = s.fma(u, u, s.neg(square));
    let e = super::exp(s, s.mul(square, s.neg(half)));
    let e = s.fma(s.mul(e, half), s.neg(error), e);
    let t = s.div(one, s.fma(u, constant(s, 0.265625, 0.234375), one));
    let tail = s.mul(s.mul(e, t), polynomial(s, s.sub(t, half), W32, W64));
    let cdf = s.select(s.lt(x, zero), tail, s.sub(one, tail));
    // Avoids −∞·0: below −limit the tail is 0 whatever x is.
    let gelu = s.mul(s.max(s.neg(limit), x), cdf);
    let density = s.mul(e, s.splat(T::lit(FRAC_1_SQRT_2PI)));
    (gelu, s.fma(s.copysign(u, x), density, cdf))
}

/// 1/√(2π)
pub const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;
