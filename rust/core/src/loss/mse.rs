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
    // Squares are summed in double precision: few per row, and the loss curve is what people read.
    let sum: f64 = output.iter().zip(target).map(|(o, t)| (o.to_f64() - t.to_f64()).powi(2)).sum();
    RowLoss { loss: sum / n, correct: false }
}
