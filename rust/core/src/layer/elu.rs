//! ELU: y = z for z > 0, else α·(eᶻ − 1); φ′ = 1 for z > 0, else α·eᶻ.
//!
//! φ′ = y + α for z ≤ 0, but that cancels where y is near −α: φ′ is saved instead, as accurate as eᶻ.
//! Clevert, Unterthiner & Hochreiter, arXiv:1511.07289.

use super::Function;
use crate::element::Element;
use crate::math::expm1;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Elu(pub f64);

impl Function for Elu {
    const NAME: &'static str = "ELU";
    const SAVES_DERIVATIVE: bool = true;

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = self.0 >= 0.0 && self.0.is_finite();
        (!fits).then_some(("alpha", self.0, "a number >= 0 is needed"))
    }

    fn piece(self, y: f64) -> Option<u8> {
        (self.0 != 1.0).then_some(u8::from(y > 0.0))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        scaled(s, z, z, 1.0, self.0, self.0)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let slope = self.forward(s, z)[1];
        // Left of 0 eᶻ is its own derivative.
        let left = s.select(s.lt(s.splat(T::ZERO), z), s.splat(T::ZERO), slope);
        [slope, left, left]
    }
}

/// [φ, φ′] of φ(z) = right·z for z > 0, else left·(eᵘ − 1), whose derivative is slope·eᵘ.
#[inline(always)]
pub(super) fn scaled<T: Element, S: Simd<T>>(
    s: S,
    z: S::V,
    u: S::V,
    right: f64,
    left: f64,
    slope: f64,
) -> [S::V; 2] {
    let [right, left, slope] = [right, left, slope].map(|x| s.splat(T::lit(x)));
    let (minus_one, e) = expm1::not_above_zero(s, u);
    let positive = s.lt(s.splat(T::ZERO), z);
    [s.select(positive, s.mul(right, z), s.mul(left, minus_one)), s.select(positive, right, s.mul(slope, e))]
}
