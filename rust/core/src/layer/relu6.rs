//! ReLU6: y = min(max(z, 0), 6), [Hardtanh](super::hardtanh) from 0 to 6.

use super::Function;
use super::hardtanh::Hardtanh;
use crate::element::Element;
use crate::simd::Simd;

#[derive(Clone, Copy)]
pub struct Relu6;

const SAME: Hardtanh = Hardtanh(0.0, 6.0);

impl Function for Relu6 {
    const NAME: &'static str = "ReLU6";

    fn piece(self, y: f64) -> Option<u8> {
        SAME.piece(y)
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        SAME.forward(s, z)
    }

    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, y: S::V) -> S::V {
        SAME.backward(s, dy, y)
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3] {
        SAME.slopes(s, z)
    }
}
