//! Huber loss (Huber 1964, "Robust estimation of a location parameter"): with d = oⱼ − tⱼ and c = min(|d|,
//! δ), ℓ = Σ c·(|d| − c/2), which is d²/2 up to δ and linear beyond; ∂ℓ/∂oⱼ = c·sign d.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, delta: f64) -> RowLoss {
    let delta = s.splat(T::lit(delta));
    let [loss] = elements(
        s,
        [row.output, row.target],
        row.grad.map(|g| [g]),
        row.scale,
        #[inline(always)]
        |pair| element(s, pair, delta),
    );
    RowLoss { loss, right: 0.0 }
}

#[inline(always)]
pub fn element<T: Element, S: Simd<T>>(s: S, [o, t]: [S::V; 2], delta: S::V) -> ([S::V; 1], [S::V; 1]) {
    let d = s.sub(o, t);
    let size = s.abs(d);
    let c = s.min(delta, size); // NaN where d is
    let half = s.splat(T::lit(0.5));
    ([s.mul(c, s.sub(size, s.mul(half, c)))], [s.copysign(c, d)])
}

/// ∂²ℓ/∂oⱼ²: 1 up to δ, 0 beyond.
pub fn bend(o: f64, t: f64, delta: f64) -> f64 {
    f64::from((o - t).abs() <= delta)
}
