//! Leaky ReLU: y = z for z > 0, else slope·z; dz = dy for y > 0, else slope·dy.
//!
//! With slope ≥ 0 the sign of y tells the branch, so that nothing need be saved.

use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: S::V, slope: S::V) -> S::V {
    s.select(s.lt(s.splat(T::ZERO), z), z, s.mul(slope, z))
}

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, y: S::V, slope: S::V) -> S::V {
    s.select(s.lt(s.splat(T::ZERO), y), dy, s.mul(slope, dy))
}
