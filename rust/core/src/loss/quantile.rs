//! Pinball loss (Koenker & Bassett 1978, "Regression quantiles"): the outputs are a block of columns for
//! each quantile q, and with u = tⱼ − oⱼ, ℓ = Σ max(q·u, (q − 1)·u), ∂ℓ/∂oⱼ = −q for u > 0, 1 − q for u < 0,
//! 0 where they are equal.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::simd::Simd;

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, quantiles: &[T]) -> RowLoss {
    let zero = s.splat(T::ZERO);
    let k = row.target.len();
    let mut loss = 0.0;
    let mut grad = row.grad;
    for (i, q) in quantiles.iter().enumerate() {
        let block = i * k..(i + 1) * k;
        let (above, below) = (s.splat(T::ZERO - *q), s.splat(T::ONE - *q));
        let [sum] = elements(
            s,
            [&row.output[block.clone()], row.target],
            grad.as_mut().map(|g| [&mut g[block]]),
            row.scale,
            #[inline(always)]
            |[o, t]| {
                let d = s.sub(o, t);
                let slope = s.select(s.lt(d, zero), above, s.select(s.lt(zero, d), below, zero));
                ([s.mul(slope, d)], [slope])
            },
        );
        loss += sum;
    }
    RowLoss { loss, right: 0.0 }
}
