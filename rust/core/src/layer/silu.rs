//! SiLU: y = z·σ(z) with σ(z) = 1/(1 + e⁻ᶻ); φ′ = σ(z)·(1 + z·(1 − σ(z))).
//!
//! φ is not monotonic, so φ′ cannot be had from y: the forward pass saves it, dz = dy·φ′.
//! Elfwing, Uchibe & Doya, arXiv:1702.03118; Ramachandran, Zoph & Le call it Swish, arXiv:1710.05941.

use crate::element::Element;
use crate::math;
use crate::simd::Simd;

/// [φ(z), φ′(z)]
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: S::V) -> [S::V; 2] {
    let (y, derivative) = math::silu::with_derivative(s, z);
    [y, derivative]
}

#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, dy: S::V, derivative: S::V) -> S::V {
    s.mul(dy, derivative)
}
