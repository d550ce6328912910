//! Squared error: ℓ = Σ (oⱼ − tⱼ)², ∂ℓ/∂oⱼ = 2·(oⱼ − tⱼ), ∂²ℓ/∂oⱼ² = 2.

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
    let d = s.sub(o, t);
    ([s.mul(d, d)], [s.add(d, d)])
}

/// ∂²ℓ/∂oⱼ²
pub const BEND: f64 = 2.0;
