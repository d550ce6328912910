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
    let mut sum = s.splat(T::ZERO);
    let z = match grad {
        None => {
            for o in full {
                sum = s.add(sum, T::exp(s, s.sub(s.load(o), shift)));
            }
            sum = s.add(sum, T::exp(s, s.sub(s.load(&tail), shift)));
            s.reduce_add(sum).to_f64()
        }
        Some(grad) => {
            // The exponentials wait in the gradient's place until their sum is known.
            let mut places = grad.chunks_exact_mut(S::N);
            for (o, place) in full.zip(&mut places) {
                let e = T::exp(s, s.sub(s.load(o), shift));
                s.store(place, e);
                sum = s.add(sum, e);
            }
            let e = T::exp(s, s.sub(s.load(&tail), shift));
            s.store_partial(places.into_remainder(), e);
            let z = s.reduce_add(s.add(sum, e)).to_f64();
            let factor = s.splat(T::lit(scale / z));
            zip_map(
                s,
                [&mut *grad],
                [],
                #[inline(always)]
                |[e], []| [s.mul(e, factor)],
            );
            grad[label] = grad[label] - T::lit(scale);
            z
        }
    };
    let chosen = output[label];
    let loss = z.ln() + max.to_f64() - chosen.to_f64();
    // The first of equal maxima counts, as for `argmax`.
    let correct = chosen == max && !output[..label].contains(&max);
    RowLoss { loss, correct }
}
