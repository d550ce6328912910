//! GELU: y = z·Φ(z) with Φ(z) = ½(1 + erf(z/√2)); φ′ = Φ(z) + z·e^(−z²/2)/√(2π).
//!
//! φ is not monotonic, so φ′ cannot be had from y: the forward pass saves it, dz = dy·φ′.
//! Hendrycks & Gimpel, arXiv:1606.08415; PyTorch's `approximate="none"`.

use crate::element::Element;
use crate::math;
use crate::simd::Simd;

/// [φ(z), φ′(z)]
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: S::V) -> [S::V; 2] {
    let (y, derivative) = math::gelu::with_derivative(s, z);
    [y, derivative]
}

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, derivative: S::V) -> S::V {
    s.mul(dy, derivative)
}
