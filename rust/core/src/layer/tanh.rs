//! Tanh: y = tanh z (in [`math`](crate::math)); dz = dy·(1 − y²).

use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, y: S::V) -> S::V {
    s.mul(dy, s.fma(s.neg(y), y, s.splat(T::ONE)))
}
