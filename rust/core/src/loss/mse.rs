//! Mean squared error: ℓ = (1/n)·Σ (oⱼ − tⱼ)², ∂ℓ/∂oⱼ = (2/n)·(oⱼ − tⱼ), n the number of outputs.

use super::RowLoss;
use crate::element::Element;
use crate::simd::{Simd, zip_map};

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(
    s: S,
    output: &[T],
    target: &[T],
    grad: Option<&mut [T]>,
    scale: f64,
) -> RowLoss {
    let n = output.len() as f64;
    if let Some(grad) = grad {
        let factor = s.splat(T::lit(2.0 * scale / n));
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
    RowLoss { loss: s.reduce_add(sum).to_f64() / n, correct: false }
}
