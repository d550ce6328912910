//! GELU: y = z·Φ(z) with Φ(z) = ½(1 + erf(z/√2)); φ′ = Φ(z) + z·e^(−z²/2)/√(2π);
//! φ″ = (2 − z²)·e^(−z²/2)/√(2π); φ‴ = z·(z² − 4)·e^(−z²/2)/√(2π).
//!
//! φ is not monotonic, so φ′ cannot be computed from y: the forward pass saves it, dz = dy·φ′.
//! Hendrycks & Gimpel, arXiv:1606.08415; PyTorch's `approximate="none"`.

use super::Function;
use crate::element::Element;
use crate::math::{self, gelu::FRAC_1_SQRT_2PI};
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

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        // Beyond this e^(−z²/2) is 0; avoids −∞·0.
        let u = s.min(s.splat(T::lit(40.0)), s.abs(z));
        let square = s.mul(u, u);
        let density =
            s.mul(math::exp(s, s.mul(square, s.splat(T::lit(-0.5)))), s.splat(T::lit(FRAC_1_SQRT_2PI)));
        let second = s.mul(density, s.sub(s.splat(T::lit(2.0)), square));
        let third = s.mul(s.mul(density, u), s.sub(square, s.splat(T::lit(4.0))));
        // φ‴ is odd: computed for |z|, then given the sign of z.
        [self.forward(s, z)[1], second, s.select(s.lt(z, s.splat(T::ZERO)), s.neg(third), third)]
    }
}
