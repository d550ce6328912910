//! The error function erf x = 2/√π · ∫₀ˣ exp(−t²) dt
//!
//! Below a cut, erf |x| = |x| + |x|·p(x²), with a small relative error down to 0. Above it, erf |x| = 1 −
//! exp(b(|x|)) with the polynomial b ≈ ln erfc, which only has to be as accurate as erfc matters relative to
//! 1; this needs no division and no second rounding of x². Both are computed, and one is selected.
//!
//! Error: half an ulp from the last addition of each branch; below the cut up to 0.3 ulp more from the
//! product, above it the errors of b and of the exponential, damped by erfc/erf < 0.3.
//!
//! erf is odd, including the sign of 0, and ±1 where erfc is below half an ulp.

use crate::element::Element;
use crate::simd::Simd;

use super::{constant, exp, polynomial};

/// Largest error of [`erf()`] in single precision, in ulps.
pub const MAX_ULP_F32: f64 = 1.5;
/// Largest error of [`erf()`] in double precision, in ulps.
pub const MAX_ULP_F64: f64 = 1.5;

/// p(z) = erf(√z)/√z − 1 below 0.875²; relative error of erf 8.5e-9.
const SMALL32: [f64; 6] =
    [0.1283791575, -0.3761255051, 0.1128245561, -0.0267914685, 0.005032184387, -0.0006203251628];
/// b(x) = ln erfc x on [0.875, 4]; relative error of erf 1.9e-9.
const BIG32: [f64; 7] = [
    -0.0001335745989,
    -1.127936128,
    -0.6367372268,
    -0.1043275081,
    0.02242021947,
    -0.003092292619,
    0.0002009962774,
];
/// p(z) below 1; relative error of erf 7.3e-18.
const SMALL64: [f64; 12] = [
    0.12837916709551256,
    -0.3761263890318352,
    0.112837916709442,
    -0.026866170643113408,
    0.005223977606130835,
    -0.0008548325929766198,
    0.00012055293586936808,
    -1.4924712439534493e-05,
    1.6447132699786026e-06,
    -1.6206318752968292e-07,
    1.371098870418941e-08,
    -7.779462971760782e-10,
];
/// b(x) on [1, 6]; relative error of erf 1.2e-18.
const BIG64: [f64; 19] = [
    -1.7960157879259282e-07,
    -1.1283773294473873,
    -0.6366284880799863,
    -0.1027472544830799,
    0.019078159529405714,
    0.00028048336295111165,
    -0.0017689950947208425,
    0.0006411680680748733,
    -4.4819415656726946e-05,
    -7.0368209371261e-05,
    4.503801443754923e-05,
    -1.6514146423278495e-05,
    4.32709778318253e-06,
    -8.505866933352e-07,
    1.2570718453862577e-07,
    -1.3627003968641831e-08,
    1.0257287287845756e-09,
    -4.7961953775872904e-11,
    1.0496621726865691e-12,
];

/// erf x
#[inline(always)]
pub fn erf<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    // Beyond the limit, where the fit ends, 1 − erfc rounds to 1.
    let a = s.min(constant(s, 4.0, 6.0), s.abs(x));
    let small = s.fma(a, polynomial(s, s.mul(a, a), SMALL32, SMALL64), a);
    let erfc = exp::moderate(s, polynomial(s, a, BIG32, BIG64));
    let big = s.sub(s.splat(T::ONE), erfc);
    s.copysign(s.select(s.lt(a, constant(s, 0.875, 1.0)), small, big), x)
}
