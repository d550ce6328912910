//! Mish: y = z·tanh ln(1 + eᶻ); Misra, arXiv:1908.08681.
//!
//! With e = eᶻ and n = e·(e + 2), tanh ln(1 + e) = n/(n + 2) and φ′ = n/(n + 2) + 4z·e·(1 + e)/(n + 2)², in
//! which nothing cancels except the two terms of φ′ near its zero, z = −1.192. φ is not monotonic: φ′ is
//! saved.

use super::Function;
use crate::element::{Dtype, Element};
use crate::math;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Mish;

impl Function for Mish {
    const NAME: &'static str = "Mish";
    const SAVES_DERIVATIVE: bool = true;

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let (one, two) = (s.splat(T::ONE), s.splat(T::lit(2.0)));
        // From `high` on, y = z and φ′ = 1 to all digits; below `low`, eᶻ = 0, and −∞·0 is avoided.
        let (high, low) = match T::DTYPE {
            Dtype::F32 => (15.0, -100.0),
            Dtype::F64 => (30.0, -750.0),
        };
        let u = s.max(s.splat(T::lit(low)), s.min(s.splat(T::lit(high)), z));
        let e = math::exp(s, u);
        let n = s.mul(e, s.add(e, two));
        let r = s.div(one, s.add(n, two));
        let t = s.mul(n, r);
        let second = s.mul(s.mul(s.splat(T::lit(4.0)), s.mul(u, e)), s.mul(s.add(e, one), s.mul(r, r)));
        [s.mul(s.max(s.splat(T::lit(low)), z), t), s.add(t, second)]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        // With t = tanh ln(1 + e), a = t′ = 4e·(1 + e)/(n + 2)² and b = 1 − σ − 2t·σ = t″/a:
        // φ′ = t + z·a, φ″ = a·(2 + z·b), φ‴ = a·(3b + z·(b² + b′)), b′ = −(1 + 2t)·σ·(1 − σ) − 2a·σ.
        let (one, two) = (s.splat(T::ONE), s.splat(T::lit(2.0)));
        let u = s.max(s.splat(T::lit(-100.0)), s.min(s.splat(T::lit(30.0)), z));
        let e = math::exp(s, u);
        let n = s.mul(e, s.add(e, two));
        let r = s.div(one, s.add(n, two));
        let (t, sigma) = (s.mul(n, r), math::sigmoid(s, u));
        // In an order in which nothing overflows.
        let a = s.mul(s.mul(s.splat(T::lit(4.0)), s.mul(e, r)), s.mul(s.add(e, one), r));
        let b = s.fma(s.mul(two, t), s.neg(sigma), s.sub(one, sigma));
        let factor = s.fma(s.fma(two, t, one), s.sub(one, sigma), s.mul(two, a));
        let along = s.fma(b, b, s.neg(s.mul(sigma, factor)));
        let third = s.fma(u, along, s.mul(s.splat(T::lit(3.0)), b));
        [s.fma(u, a, t), s.mul(a, s.fma(u, b, two)), s.mul(a, third)]
    }
}
