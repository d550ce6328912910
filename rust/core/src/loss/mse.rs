//! Mean squared error: ℓ = (1/n)·Σ (oⱼ − tⱼ)², ∂ℓ/∂oⱼ = (2/n)·(oⱼ − tⱼ), n the number of outputs.

use super::{RowLoss, Rows};
use crate::element::Element;
use crate::simd::{Simd, zip_map};
use crate::view::MatMut;

#[inline(always)]
pub fn rows<'t, T: Element, S: Simd<T>>(
    s: S,
    rows: &Rows<'_, T>,
    target: impl Fn(usize) -> &'t [T],
    mut grad: Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
) {
    let n = rows.output.cols() as f64;
    for (r, into) in losses.iter_mut().enumerate() {
        let grad = grad.as_mut().map(|g| g.row_mut(r));
        let sum = row(s, rows.output.row(r), target(r), grad, 2.0 * rows.scale / n);
        *into = RowLoss { loss: sum.to_f64() / n, correct: false };
    }
}

/// Sum of squared differences; and `grad` ← factor · differences.
#[inline(always)]
fn row<T: Element, S: Simd<T>>(s: S, output: &[T], target: &[T], grad: Option<&mut [T]>, factor: f64) -> T {
    if let Some(grad) = grad {
        let factor = s.splat(T::lit(factor));
        zip_map(
            s,
            [grad],
            [output, target],
            #[inline(always)]
            |_, [o, t]| [s.mul(s.sub(o, t), factor)],
        );
    }
    let mut sum = s.splat(T::ZERO);
    let (o, t) = (output.chunks(S::N), target.chunks(S::N));
    for (o, t) in o.zip(t) {
        let d = if o.len() == S::N {
            s.sub(s.load(o), s.load(t))
        } else {
            s.sub(s.load_partial(o), s.load_partial(t))
        };
        sum = s.fma(d, d, sum);
    }
    s.reduce_add(sum)
}
