//! ReLU: y = max(0, z); dz = dy where y > 0, else 0. At z = 0 the derivative is 0, as in PyTorch.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Relu;

impl Function for Relu {
    const NAME: &'static str = "ReLU";

    fn piece(self, y: f64) -> Option<u8> {
        Some(u8::from(y > 0.0))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [s.max(s.splat(T::ZERO), z), z] // in this order, a NaN stays a NaN
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        let zero = s.splat(T::ZERO);
        s.select(s.lt(zero, y), dy, zero)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
        [s.select(s.lt(zero, z), one, zero), zero, zero]
    }
}
