//! SiLU: y = z·σ(z) with σ(z) = 1/(1 + e⁻ᶻ); φ′ = σ(z)·(1 + z·(1 − σ(z)));
//! φ″ = q·(2 + z·(1 − 2σ(z))) with q = σ(z)·(1 − σ(z)); φ‴ = q·(3·(1 − 2σ(z)) + z·(1 − 6q)).
//!
//! φ is not monotonic, so φ′ cannot be computed from y: the forward pass saves it, dz = dy·φ′.
//! Elfwing, Uchibe & Doya, arXiv:1702.03118; Ramachandran, Zoph & Le call it Swish, arXiv:1710.05941.

use super::Function;
use crate::element::Element;
use crate::math;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Silu;

impl Function for Silu {
    const NAME: &'static str = "SiLU";
    const SAVES_DERIVATIVE: bool = true;

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        math::silu::with_derivative(s, z).into()
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (sigma, rest) = (math::sigmoid(s, z), math::sigmoid(s, s.neg(z)));
        let (q, odd) = (s.mul(sigma, rest), s.sub(rest, sigma));
        let second = s.fma(z, odd, s.splat(T::lit(2.0)));
        let even = s.fma(s.splat(T::lit(-6.0)), q, s.splat(T::ONE));
        let third = s.fma(z, even, s.mul(s.splat(T::lit(3.0)), odd));
        [self.forward(s, z)[1], s.mul(q, second), s.mul(q, third)]
    }
}
