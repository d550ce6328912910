//! Cross-entropy of a label c under softmax: with m = max oⱼ and Z = Σ e^(oⱼ−m),
//! ℓ = ln Z + m − o_c,  ∂ℓ/∂oⱼ = e^(oⱼ−m)/Z − [j = c].

use super::RowLoss;
use crate::element::Element;
use crate::simd::{MAX_LANES, Simd, zip_map};

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(
    s: S,
    output: &[T],
    label: usize,
    grad: Option<&mut [T]>,
    scale: f64,
) -> RowLoss {
    let full = output.chunks_exact(S::N);
    // The last, partial vector is filled up with −∞: no maximum, and e^−∞ = 0.
    let mut tail = [T::lit(f64::NEG_INFINITY); MAX_LANES];
    let rest = full.remainder();
    tail[..rest.len()].copy_from_slice(rest);

    let mut top = s.load(&tail);
    for o in full.clone() {
        top = s.max(top, s.load(o));
    }
    let max = s.reduce_max(top);
    let shift = s.splat(max);
    let mut sum = T::exp(s, s.sub(s.load(&tail), shift));
    for o in full {
        sum = s.add(sum, T::exp(s, s.sub(s.load(o), shift)));
    }
    let z = s.reduce_add(sum).to_f64();
    let chosen = output[label];
    let loss = z.ln() + max.to_f64() - chosen.to_f64();

    if let Some(grad) = grad {
        let factor = s.splat(T::lit(scale / z));
        zip_map(
            s,
            [&mut *grad],
            [output],
            #[inline(always)]
            |_, [o]| [s.mul(T::exp(s, s.sub(o, shift)), factor)],
        );
        grad[label] = grad[label] - T::lit(scale);
    }
    // The first of equal maxima counts, as for `argmax`.
    let correct = chosen == max && !output[..label].contains(&max);
    RowLoss { loss, correct }
}
