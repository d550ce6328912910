//! SELU: y = λ·z for z > 0, else λα·(eᶻ − 1); φ′ = λ for z > 0, else λα·eᶻ, saved as for [ELU](super::elu).
//!
//! λ and α are chosen so that mean 0 and variance 1 are a fixed point of a layer with weights of variance
//! 1/in (`lecun_normal`). Klambauer, Unterthiner, Mayr & Hochreiter, arXiv:1706.02515, eq. 14.

use super::{Function, elu};
use crate::element::Element;
use crate::simd::Simd;

const LAMBDA: f64 = 1.0507009873554805;
const ALPHA: f64 = 1.6732632423543772;

#[derive(Clone, Copy)]
pub struct Selu;

impl Function for Selu {
    const NAME: &'static str = "SELU";
    const SAVES_DERIVATIVE: bool = true;

    fn piece(self, y: f64) -> Option<u8> {
        Some(u8::from(y > 0.0))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        elu::scaled(s, z, z, LAMBDA, LAMBDA * ALPHA, LAMBDA * ALPHA)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let slope = self.forward(s, z)[1];
        // Left of 0 eᶻ is its own derivative.
        let left = s.select(s.lt(s.splat(T::ZERO), z), s.splat(T::ZERO), slope);
        [slope, left, left]
    }
}
