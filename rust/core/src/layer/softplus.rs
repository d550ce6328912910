//! Softplus: y = ln(1 + eᶻ) (in [`math`](crate::math)); dz = dy·σ(z) = dy·(1 − e⁻ʸ).
//!
//! φ grows everywhere, so that nothing need be saved; computed without cancellation, 1 − e⁻ʸ has
//! about the relative error of y.
//!
//! PyTorch's with β = 1. There is no threshold beyond which y is z: PyTorch has it against overflow, which
//! does not happen here, and its default of 20 is off by e⁻²⁰.

use crate::element::Element;
use crate::math;
use crate::simd::Simd;

#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: S::V) -> S::V {
    math::softplus::softplus(s, z)
}

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, y: S::V) -> S::V {
    s.mul(dy, math::softplus::derivative(s, y))
}
