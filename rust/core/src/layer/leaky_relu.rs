//! Leaky ReLU: y = z for z > 0, else slope·z; dz = dy for y > 0, else slope·dy.
//!
//! With slope ≥ 0, the sign of y tells the branch, so nothing needs to be saved.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct LeakyRelu(pub f64);

impl Function for LeakyRelu {
    const NAME: &'static str = "LeakyReLU";

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 >= 0.0 && self.0.is_finite();
        (!fits).then_some(("negative_slope", self.0, "a number >= 0 is needed"))
    }

    fn piece(self, y: f64) -> Option<u8> {
        Some(u8::from(y > 0.0))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [s.select(s.lt(s.splat(T::ZERO), z), z, s.mul(s.splat(T::lit(self.0)), z)), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        s.select(s.lt(s.splat(T::ZERO), y), dy, s.mul(s.splat(T::lit(self.0)), dy))
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
        [s.select(s.lt(zero, z), one, s.splat(T::lit(self.0))), zero, zero]
    }
}
