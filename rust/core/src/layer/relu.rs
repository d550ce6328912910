//! ReLU: y = max(0, z); dz = dy where y > 0, else 0. At z = 0 the derivative is 0, as in PyTorch.

use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: S::V) -> S::V {
    s.max(s.splat(T::ZERO), z) // in this order a NaN stays a NaN
}

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, y: S::V) -> S::V {
    let zero = s.splat(T::ZERO);
    s.select(s.lt(zero, y), dy, zero)
}
