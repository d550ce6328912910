//! GELU: y = z·Φ(z) with Φ(z) = ½(1 + erf(z/√2)); φ′ = Φ(z) + z·e^(−z²/2)/√(2π).
//!
//! φ is not monotonic, so φ′ cannot be had from y: the forward pass saves it, dz = dy·φ′.
//! Hendrycks & Gimpel, arXiv:1606.08415; PyTorch's `approximate="none"`.

use super::Function;
use crate::element::Element;
use crate::math;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Gelu;

impl Function for Gelu {
    const NAME: &'static str = "GELU";
    const SAVES_DERIVATIVE: bool = true;

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        math::gelu::with_derivative(s, z).into()
    }
}
