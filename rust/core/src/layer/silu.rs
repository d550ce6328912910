//! SiLU: y = z·σ(z) with σ(z) = 1/(1 + e⁻ᶻ); φ′ = σ(z)·(1 + z·(1 − σ(z)));
//! φ″ = σ(z)·(1 − σ(z))·(2 + z·(1 − 2σ(z))).
//!
//! φ is not monotonic, so φ′ cannot be had from y: the forward pass saves it, dz = dy·φ′.
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
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let (sigma, rest) = (T::sigmoid(s, z), T::sigmoid(s, s.neg(z)));
        let bend = s.fma(z, s.sub(rest, sigma), s.splat(T::lit(2.0)));
        [self.forward(s, z)[1], s.mul(s.mul(sigma, rest), bend)]
    }
}
