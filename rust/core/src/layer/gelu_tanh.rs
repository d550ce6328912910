//! GELU's approximation: y = z/2·(1 + tanh u) = z·σ(2u), u = √(2/π)·(z + a·z³), a = 0.044715;
//! φ′ = σ(2u) + z·σ(2u)·(1 − σ(2u))·2u′, u′ = √(2/π)·(1 + 3a·z²).
//!
//! In terms of σ nothing cancels where tanh u is close to −1. Both factors of σ(1 − σ) come from one
//! exponential: with e = e^(−2|u|), σ is 1/(1 + e) or e/(1 + e), and 1 − σ is the other one.
//! Hendrycks & Gimpel, arXiv:1606.08415; PyTorch's `approximate="tanh"`.

use super::Function;
use crate::element::Element;
use crate::math;
use crate::simd::Simd;

/// 2·√(2/π)
const TWICE: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044715;
/// From here on e^(−2|u|) is 0, so u is not needed.
const END: f64 = 30.0;

#[derive(Clone, Copy)]
pub struct GeluTanh;

impl Function for GeluTanh {
    const NAME: &'static str = "GELU";
    const SAVES_DERIVATIVE: bool = true;

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let (one, zero) = (s.splat(T::ONE), s.splat(T::ZERO));
        let twice = s.splat(T::lit(TWICE));
        // Avoids −∞·0.
        let x = s.max(s.splat(T::lit(-END)), z);
        let a = s.min(s.splat(T::lit(END)), s.abs(z));
        let square = s.mul(a, a);
        let u = s.mul(s.mul(twice, a), s.fma(s.splat(T::lit(CUBIC)), square, one));
        let slope = s.mul(twice, s.fma(s.splat(T::lit(3.0 * CUBIC)), square, one));
        let e = math::exp(s, s.neg(u));
        let right = s.div(one, s.add(one, e));
        let left = s.mul(e, right);
        let negative = s.lt(z, zero);
        let sigma = s.select(negative, left, right);
        let rest = s.select(negative, right, left);
        let z = s.copysign(a, z);
        [s.mul(x, sigma), s.mul(sigma, s.fma(s.mul(z, slope), rest, one))]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        // With v = 2u, q = σ·(1 − σ) and o = 1 − 2σ, σ(v) has the derivatives q·v′, q·(o·v′² + v″) and q·((1
        // − 6q)·v′³ + 3o·v′·v″ + v‴). The n-th derivative of z·σ is n times the previous one of σ, plus z
        // times the n-th.
        let (one, end) = (s.splat(T::ONE), s.splat(T::lit(END)));
        let z = s.max(s.neg(end), s.min(end, z));
        let (square, twice) = (s.mul(z, z), s.splat(T::lit(TWICE)));
        let v = s.mul(s.mul(twice, z), s.fma(s.splat(T::lit(CUBIC)), square, one));
        let slope = s.mul(twice, s.fma(s.splat(T::lit(3.0 * CUBIC)), square, one));
        let bend = s.mul(s.splat(T::lit(6.0 * CUBIC * TWICE)), z);
        let (sigma, rest) = (math::sigmoid(s, v), math::sigmoid(s, s.neg(v)));
        let (q, odd, three) = (s.mul(sigma, rest), s.sub(rest, sigma), s.splat(T::lit(3.0)));
        let inner = s.fma(s.mul(odd, slope), slope, bend);
        let even = s.fma(s.splat(T::lit(-6.0)), q, one);
        let cubed = s.mul(s.mul(even, slope), s.mul(slope, slope));
        let crossed = s.fma(s.mul(three, odd), s.mul(slope, bend), s.splat(T::lit(6.0 * CUBIC * TWICE)));
        [
            s.fma(z, s.mul(q, slope), sigma),
            s.mul(q, s.fma(z, inner, s.add(slope, slope))),
            s.mul(q, s.fma(z, s.add(cubed, crossed), s.mul(three, inner))),
        ]
    }
}
