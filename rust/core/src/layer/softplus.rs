//! Softplus: y = ln(1 + e^(βz))/β (in [`math`](crate::math)); dz = dy·σ(βz) = dy·(1 − e^(−βy));
//! φ″ = β·σ(βz)·σ(−βz); φ‴ = β·φ″·(σ(−βz) − σ(βz)).
//!
//! φ is increasing, so nothing needs to be saved; computed without cancellation, 1 − e⁻ʸ has about the
//! relative error of y.
//!
//! There is no threshold beyond which y is z: PyTorch has one to avoid overflow, which does not happen here,
//! and its default of 20 causes an error of e⁻²⁰/β.

use super::Function;
use crate::element::Element;
use crate::math::{self, softplus};
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Softplus(pub f64);

impl Function for Softplus {
    const NAME: &'static str = "Softplus";

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 > 0.0 && self.0.is_finite();
        (!fits).then_some(("beta", self.0, "a number > 0 is needed"))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let y = softplus::softplus(s, s.mul(z, s.splat(T::lit(self.0))));
        [s.mul(y, s.splat(T::lit(1.0 / self.0))), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        s.mul(dy, softplus::derivative(s, s.mul(y, s.splat(T::lit(self.0)))))
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let beta = s.splat(T::lit(self.0));
        let u = s.mul(beta, z);
        let (slope, rest) = (math::sigmoid(s, u), math::sigmoid(s, s.neg(u)));
        let second = s.mul(beta, s.mul(slope, rest));
        [slope, second, s.mul(beta, s.mul(second, s.sub(rest, slope)))]
    }
}
