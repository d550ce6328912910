//! Hardswish: y = z·min(max(z/6 + ½, 0), 1); φ′ = 0 for z ≤ −3, 1 for z ≥ 3, and z/3 + ½ in between; φ″ = 1/3
//! in between, else 0.
//!
//! φ is not monotonic: φ′ is saved. Howard et al., arXiv:1905.02244.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Hardswish;

impl Function for Hardswish {
    const NAME: &'static str = "Hardswish";
    const SAVES_DERIVATIVE: bool = true;

    fn piece(self, y: f64) -> Option<u8> {
        // y is exactly 0 left of −3, and otherwise only at z = 0.
        Some(u8::from(y != 0.0) + u8::from(y >= 3.0))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let (zero, one, three) = (s.splat(T::ZERO), s.splat(T::ONE), s.splat(T::lit(3.0)));
        let line = s.mul(s.add(z, three), s.splat(T::lit(1.0 / 6.0)));
        // Avoids −∞·0; in this order, a NaN stays a NaN.
        let y = s.mul(s.max(s.neg(three), z), s.min(one, s.max(zero, line)));
        let slope = s.fma(z, s.splat(T::lit(1.0 / 3.0)), s.splat(T::lit(0.5)));
        let slope = s.select(s.lt(z, three), slope, one);
        [y, s.select(s.lt(s.neg(three), z), slope, zero)]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (zero, three, third) = (s.splat(T::ZERO), s.splat(T::lit(3.0)), s.splat(T::lit(1.0 / 3.0)));
        let inside = s.select(s.lt(s.neg(three), z), s.select(s.lt(z, three), third, zero), zero);
        [self.forward(s, z)[1], inside, zero]
    }
}
