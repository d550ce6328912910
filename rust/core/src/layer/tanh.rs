//! Tanh: y = tanh z (in [`math`](crate::math)); dz = dy·(1 − y²); φ″ = −2y·(1 − y²);
//! φ‴ = (6y² − 2)·(1 − y²).

use super::Function;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Tanh;

impl Function for Tanh {
    const NAME: &'static str = "Tanh";

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [T::tanh(s, z), z]
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        s.mul(dy, s.fma(s.neg(y), y, s.splat(T::ONE)))
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        let y = T::tanh(s, z);
        let slope = s.fma(s.neg(y), y, s.splat(T::ONE));
        let minus_two = s.splat(T::lit(-2.0));
        let third = s.fma(s.mul(s.splat(T::lit(6.0)), y), y, minus_two);
        [slope, s.mul(s.mul(minus_two, y), slope), s.mul(third, slope)]
    }
}
