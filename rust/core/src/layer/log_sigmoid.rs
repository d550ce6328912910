//! Log-sigmoid: y = ln 1/(1 + e⁻ᶻ) = −softplus(−z) (in [`math`](crate::math)); dz = dy·(1 − eʸ);
//! φ″ = −eʸ·(1 − eʸ); φ‴ = φ″·(1 − 2eʸ).

use super::Function;
use crate::element::Element;
use crate::math::{self, softplus};
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct LogSigmoid;

impl Function for LogSigmoid {
    const NAME: &'static str = "LogSigmoid";

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [s.neg(softplus::softplus(s, s.neg(z))), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        s.mul(dy, softplus::derivative(s, s.neg(y)))
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (slope, sigma) = (math::sigmoid(s, s.neg(z)), math::sigmoid(s, z));
        let second = s.neg(s.mul(slope, sigma));
        [slope, second, s.mul(second, s.sub(slope, sigma))]
    }
}
