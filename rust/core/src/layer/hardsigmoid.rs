//! Hardsigmoid: y = min(max(z/6 + ½, 0), 1); dz = dy/6 for 0 < y < 1, else 0.

use super::Function;
use super::hardtanh::Hardtanh;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Hardsigmoid;

const CLAMP: Hardtanh = Hardtanh(0.0, 1.0);

impl Function for Hardsigmoid {
    const NAME: &'static str = "Hardsigmoid";

    fn piece(self, y: f64) -> Option<u8> {
        CLAMP.piece(y)
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        // (z + 3)/6, where the sum is exact if it is small.
        let line = s.mul(s.add(z, s.splat(T::lit(3.0))), s.splat(T::lit(1.0 / 6.0)));
        CLAMP.forward(s, line)
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        CLAMP.backward(s, s.mul(dy, s.splat(T::lit(1.0 / 6.0))), y)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        [self.backward(s, s.splat(T::ONE), self.forward(s, z)[0]), s.splat(T::ZERO), s.splat(T::ZERO)]
    }
}
