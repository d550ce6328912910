//! Identity: y = z; dz = dy.

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Identity;

impl Function for Identity {
    const NAME: &'static str = "Identity";

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, _: S, z: S::V) -> [S::V; 2] {
        [z, z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, _: S, dy: S::V, _: S::V) -> S::V {
        dy
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, _: S::V) -> [S::V; 3] {
        [s.splat(T::ONE), s.splat(T::ZERO), s.splat(T::ZERO)]
    }
}
