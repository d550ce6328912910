//! Sigmoid: y = 1/(1 + e⁻ᶻ) (in [`math`](crate::math)); dz = dy·y·(1 − y); φ″ = y·(1 − y)·(1 − 2y);
//! φ‴ = y·(1 − y)·(1 − 6·y·(1 − y)).

use super::Function;
use crate::element::Element;
use crate::math;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Sigmoid;

impl Function for Sigmoid {
    const NAME: &'static str = "Sigmoid";

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [math::sigmoid(s, z), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        s.mul(dy, s.mul(y, s.sub(s.splat(T::ONE), y)))
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let (y, one) = (math::sigmoid(s, z), s.splat(T::ONE));
        let slope = s.mul(y, s.sub(one, y));
        let second = s.mul(slope, s.fma(s.splat(T::lit(-2.0)), y, one));
        [slope, second, s.mul(slope, s.fma(s.splat(T::lit(-6.0)), slope, one))]
    }
}
