//! CELU: y = z for z > 0, else α·(e^(z/α) − 1); φ′ = 1 for z > 0, else e^(z/α), saved as for
//! [ELU](super::elu); φ″ = φ′/α and φ‴ = φ″/α for z ≤ 0.
//!
//! Unlike ELU, it has no kink at 0 for any α. Barron, arXiv:1704.07483.

use super::{Function, elu};
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Celu(pub f64);

impl Function for Celu {
    const NAME: &'static str = "CELU";
    const SAVES_DERIVATIVE: bool = true;

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 > 0.0 && self.0.is_finite();
        (!fits).then_some(("alpha", self.0, "a number > 0 is needed"))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        elu::scaled(s, z, s.div(z, s.splat(T::lit(self.0))), 1.0, self.0, 1.0)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let slope = self.forward(s, z)[1];
        let zero = s.splat(T::ZERO);
        let per_alpha = s.select(s.lt(zero, z), zero, s.splat(T::lit(1.0 / self.0)));
        let second = s.mul(slope, per_alpha);
        [slope, second, s.mul(second, per_alpha)]
    }
}
