//! Absolute error: ℓ = Σ |oⱼ − tⱼ|, ∂ℓ/∂oⱼ = sign(oⱼ − tⱼ), 0 where they are equal.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>) -> RowLoss {
    let [loss] = elements(
        s,
        [row.output, row.target],
        row.grad.map(|g| [g]),
        row.scale,
        #[inline(always)]
        |pair| element(s, pair),
    );
    RowLoss { loss, right: 0.0 }
}

#[inline(always)]
pub fn element<T: Element, S: Simd<T>>(s: S, [o, t]: [S::V; 2]) -> ([S::V; 1], [S::V; 1]) {
    let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
    let size = s.abs(s.sub(o, t));
    ([size], [s.select(s.lt(zero, size), s.copysign(one, s.sub(o, t)), zero)])
}
