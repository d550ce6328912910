//! Softsign: y = z/(1 + |z|); φ′ = 1/(1 + |z|)², saved, since (1 − |y|)² cancels for large |z|;
//! φ″ = −2·sign(z)/(1 + |z|)³; φ‴ = 6/(1 + |z|)⁴.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Softsign;

impl Function for Softsign {
    const NAME: &'static str = "Softsign";
    const SAVES_DERIVATIVE: bool = true;

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        let one = s.splat(T::ONE);
        let d = s.add(one, s.abs(z));
        let r = s.div(one, d);
        [s.div(z, d), s.mul(r, r)]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let r = s.div(s.splat(T::ONE), s.add(s.splat(T::ONE), s.abs(z)));
        let slope = s.mul(r, r);
        let second = s.copysign(s.mul(s.splat(T::lit(2.0)), s.mul(slope, r)), s.neg(z));
        [slope, second, s.mul(s.splat(T::lit(6.0)), s.mul(slope, slope))]
    }
}
