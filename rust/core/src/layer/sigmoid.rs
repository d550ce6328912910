//! Sigmoid: y = 1/(1 + e⁻ᶻ) (in [`math`](crate::math)); dz = dy·y·(1 − y).

use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, y: S::V) -> S::V {
    s.mul(dy, s.mul(y, s.sub(s.splat(T::ONE), y)))
}
