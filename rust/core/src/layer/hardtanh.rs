//! Hardtanh: y = min(max(z, low), high); dz = dy strictly between, else 0, as in PyTorch.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Hardtanh(pub f64, pub f64);

impl Function for Hardtanh {
    const NAME: &'static str = "Hardtanh";

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 < self.1 && self.0.is_finite() && self.1.is_finite();
        (!fits).then_some(("max_val", self.1, "a number > min_val is needed"))
    }

    fn piece(self, y: f64) -> Option<u8> {
        Some(u8::from(y > self.0) + u8::from(y >= self.1))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        // In this order, a NaN stays a NaN.
        [s.min(s.splat(T::lit(self.1)), s.max(s.splat(T::lit(self.0)), z)), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        let zero = s.splat(T::ZERO);
        let below = s.select(s.lt(y, s.splat(T::lit(self.1))), dy, zero);
        s.select(s.lt(s.splat(T::lit(self.0)), y), below, zero)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        [self.backward(s, s.splat(T::ONE), self.forward(s, z)[0]), s.splat(T::ZERO), s.splat(T::ZERO)]
    }
}
