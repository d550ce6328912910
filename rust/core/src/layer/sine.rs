//! Sine: y = sin ωz; φ′ = ω·cos ωz, saved; φ″ = −ω²·sin ωz; φ‴ = −ω³·cos ωz.
//!
//! The activation of SIREN: Sitzmann, Martel, Bergman, Lindell & Wetzstein, arXiv:2006.09661. It goes with
//! the initializations [`Init::SirenFirst`](super::Init::SirenFirst) and [`Init::Siren`](super::Init::Siren).

use super::Function;
use crate::element::Element;
use crate::math::sin;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Sine(pub f64);

impl Function for Sine {
    const NAME: &'static str = "Sine";
    const SAVES_DERIVATIVE: bool = true;

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 > 0.0 && self.0.is_finite();
        (!fits).then_some(("omega", self.0, "a number > 0 is needed"))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let omega = s.splat(T::lit(self.0));
        let (y, cos) = sin::sin_cos(s, s.mul(omega, z));
        [y, s.mul(omega, cos)]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let omega = s.splat(T::lit(self.0));
        let (sin, cos) = sin::sin_cos(s, s.mul(omega, z));
        let square = s.neg(s.mul(omega, omega));
        let slope = s.mul(omega, cos);
        [slope, s.mul(square, sin), s.mul(square, slope)]
    }
}
