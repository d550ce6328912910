//! Cross-entropy of the probability t under σ(o) = 1/(1 + e⁻ᵒ), with weight p for positives: ℓ = Σ
//! pⱼ·tⱼ·softplus(−oⱼ) + (1 − tⱼ)·softplus(oⱼ),  ∂ℓ/∂oⱼ = (1 − tⱼ)·σ(oⱼ) − pⱼ·tⱼ·σ(−oⱼ).
//!
//! Since softplus(±o) = max(±o, 0) + softplus(−|o|), and no term is negative, nothing overflows or cancels.
//! An output is right if it is > 0 for t > ½, or ≤ 0 for t ≤ ½.

use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::math::softplus::{derivative, softplus};
use crate::simd::Simd;

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, pos_weight: &[T]) -> RowLoss {
    let (reads, grads) = ([row.output, row.target], row.grad.map(|g| [g]));
    let [loss, right] = if pos_weight.is_empty() {
        let one = s.splat(T::ONE);
        elements(
            s,
            reads,
            grads,
            row.scale,
            #[inline(always)]
            |pair| element(s, pair, one),
        )
    } else {
        elements(
            s,
            [reads[0], reads[1], pos_weight],
            grads,
            row.scale,
            #[inline(always)]
            |[o, t, p]| element(s, [o, t], p),
        )
    };
    RowLoss { loss, right }
}

#[inline(always)]
pub fn element<T: Element, S: Simd<T>>(s: S, [o, t]: [S::V; 2], p: S::V) -> ([S::V; 2], [S::V; 1]) {
    let (zero, one) = (s.splat(T::ZERO), s.splat(T::ONE));
    let lower = softplus(s, s.neg(s.abs(o)));
    let [below, above] = [s.add(s.max(s.neg(o), zero), lower), s.add(s.max(o, zero), lower)];
    let (yes, no) = (s.mul(p, t), s.sub(one, t));
    let value = s.fma(yes, below, s.mul(no, above));
    // σ(−|o|) is at most ½, so the difference does not make the other inaccurate.
    let small = derivative(s, lower);
    let large = s.sub(one, small);
    let negative = s.lt(o, zero);
    let (sigma, rest) = (s.select(negative, small, large), s.select(negative, large, small));
    let slope = s.sub(s.mul(no, sigma), s.mul(yes, rest));

    let nan = s.splat(T::lit(f64::NAN));
    let value = s.select(s.lt(t, zero), nan, s.select(s.lt(one, t), nan, value));
    let said = s.select(s.lt(zero, o), one, zero);
    let right = s.select(s.lt(s.splat(T::lit(0.5)), t), said, s.sub(one, said));
    ([value, right], [slope])
}

/// ∂²ℓ/∂oⱼ² = (1 − tⱼ + pⱼ·tⱼ)·σ(oⱼ)·σ(−oⱼ)
pub fn bend(o: f64, t: f64, p: f64) -> f64 {
    let e = libm::exp(-o.abs());
    (1.0 - t + p * t) * e / ((1.0 + e) * (1.0 + e))
}
