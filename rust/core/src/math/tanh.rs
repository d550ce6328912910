//! tanh x
//!
//! tanh |x| = t/(t + 2) with t = e^(2|x|) − 1 = 2ⁿ·(eʳ − 1) + (2ⁿ − 1), where 2|x| = n·ln 2 + r as in
//! [`exp`](mod@super::exp). Near 0, n = 0 and t = eʳ − 1 has a small relative error, so tanh has, too.
//!
//! Error: t has up to 1.5 ulp (the sum at n = 1, where the terms may have opposite signs), which enters the
//! quotient with the factor 2/(t + 2); t + 2 and the quotient round with half an ulp each.
//!
//! tanh is odd, including the sign of 0, and ±1 where 1 − tanh|x| is below half an ulp.
//!
//! Where 32 numbers can be looked up in registers (single precision, AVX-512), tanh |x| is instead a
//! polynomial in |x| − m on each quarter octave from ⅛ to 10, an odd polynomial below, and 1 beyond. |x| − m
//! is exact, since m is in the same quarter. Error: half an ulp from the last addition and little more, since
//! m is chosen where tanh m is almost a single-precision number; in total 1.1 ulp.

use crate::element::Element;
use crate::simd::Simd;

use super::constant;
use super::exp::{minus_one, reduce};

/// Largest error of [`f32()`] in ulps.
pub const MAX_ULP_F32: f64 = 2.5;
/// Largest error of [`f64()`] in ulps.
pub const MAX_ULP_F64: f64 = 2.6;

/// Aligned so that rows are whole cache lines.
#[repr(align(64))]
struct Table([[f32; 32]; 7]);

/// Each column has m, then the coefficients.
#[rustfmt::skip]
#[allow(clippy::excessive_precision)] // nine digits identify every number, some in more than one way
static PIECES: Table = Table([
    [
        0.0, 0.139923096, 0.172393799, 0.203948975, 0.233917236, 0.279663086, 0.345153809, 0.405212402,
        0.467163086, 0.563598633, 0.687011719, 0.813354492, 0.94128418, 1.12963867, 1.37670898, 1.61938477,
        1.87841797, 2.24316406, 2.75878906, 3.23828125, 3.75097656, 4.48144531, 5.51855469, 6.49902344,
        7.51269531, 8.9375, 8.9375, 8.9375, 8.9375, 8.9375, 8.9375, 8.9375,
    ],
    [
        0.0, 0.139017031, 0.170706034, 0.201167479, 0.229742154, 0.27259323, 0.332070708, 0.38440004,
        0.435904294, 0.510642587, 0.596058845, 0.671436607, 0.73581171, 0.810895564, 0.880212189, 0.924534917,
        0.954351187, 0.977726991, 0.992000994, 0.996926544, 0.998896598, 0.999743871, 0.999967813, 0.99999547,
        0.999999404, 0.999999965, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
    ],
    [
        0.999999999, 0.980674265, 0.97085945, 0.959531645, 0.947218542, 0.925692931, 0.889729045, 0.852236609,
        0.809987446, 0.73924415, 0.644713853, 0.549172882, 0.458581126, 0.342448357, 0.225226494, 0.145235193,
        0.0892138105, 0.0440498958, 0.0159340465, 0.00613745255, 0.00220558669, 0.000512159989, 6.43774462e-5, 9.05927081e-6,
        1.19302753e-6, 6.89749615e-8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    [
        4.44365896e-7, -0.136330423, -0.165731564, -0.19302656, -0.217616026, -0.252337589, -0.295452917, -0.327599752,
        -0.353076977, -0.37748923, -0.384287295, -0.368734839, -0.337429501, -0.277692337, -0.198248608, -0.134275566,
        -0.085141391, -0.043067239, -0.0158054025, -0.00611807295, -0.00220294199, -0.000511244799, -6.42676714e-5, -9.04436843e-6,
        -1.19103069e-6, -6.72469457e-8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    [
        -0.333359473, -0.307939131, -0.29532849, -0.281013299, -0.265743903, -0.239778254, -0.198465784, -0.158149204,
        -0.116087602, -0.0536545074, 0.0141528181, 0.0645243075, 0.0954255815, 0.111037969, 0.0994275893, 0.0757289644,
        0.051517325, 0.0274284867, 0.0103664962, 0.00405475099, 0.00146536814, 0.000341340925, 4.27629221e-5, 6.03107209e-6,
        7.93059543e-7, 4.61539972e-8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    [
        0.000513691319, 0.0882348806, 0.105637913, 0.120850696, 0.133566678, 0.149371364, 0.164286443, 0.169896116,
        0.168214343, 0.153011459, 0.119591286, 0.0796304853, 0.0423587622, 0.00295596027, -0.0211767195, -0.0251598965,
        -0.020770387, -0.0125262174, -0.00506690275, -0.00202470906, -0.000738443932, -0.000178925048, -2.2532491e-5, -3.17366124e-6,
        -4.17829557e-7, -2.77833989e-8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
    [
        0.129841041, 0.111989888, 0.102179033, 0.0910124309, 0.0787784308, 0.0591721998, 0.0320505174, 0.00600422692,
        -0.0171014351, -0.0433412898, -0.0615180995, -0.0626643041, -0.053074468, -0.0321103436, -0.00955468985, 0.00137858857,
        0.00459587226, 0.00397613998, 0.00191674502, 0.000771510659, 0.000293064057, 6.8704547e-5, 9.33460499e-6, 1.26396986e-6,
        1.71071965e-7, 9.79949249e-9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
    ],
]);

#[inline(always)]
fn any<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let (one, two) = (s.splat(T::ONE), s.splat(T::lit(2.0)));
    // Beyond the limit the quotient rounds to 1.
    let a = s.min(constant(s, 10.0, 20.0), s.abs(x));
    let (n, r) = reduce(s, s.add(a, a));
    let power = s.scale(one, n);
    let t = s.fma(power, minus_one(s, r), s.sub(power, one));
    s.copysign(s.quotient(t, s.add(t, two)), x)
}

/// tanh x in single precision.
#[inline(always)]
pub fn f32<S: Simd<f32>>(s: S, x: S::V) -> S::V {
    // In this order, a NaN stays a NaN.
    let a = s.min(s.splat(10.0), s.abs(x));
    let Some([m, c0, c1, c2, c3, c4, c5]) = s.pieces(a, &PIECES.0) else { return any(s, x) };
    let t = s.sub(a, m);
    let y = s.fma(t, s.fma(t, s.fma(t, s.fma(t, s.fma(t, c5, c4), c3), c2), c1), c0);
    s.copysign(y, x)
}

/// tanh x in double precision.
#[inline(always)]
pub fn f64<S: Simd<f64>>(s: S, x: S::V) -> S::V {
    any(s, x)
}
