//! Cross-entropy of a label c under softmax: with m = max oⱼ and Z = Σ e^(oⱼ−m),
//! ℓ = ln Z + m − o_c,  ∂ℓ/∂oⱼ = e^(oⱼ−m)/Z − [j = c].

use super::{Objective, RowLoss, Rows, first_of, heads, lanes, vector};
use crate::element::Element;
use crate::simd::{MAX_LANES, Simd, zip_map};
use crate::view::MatMut;

#[inline(always)]
pub fn rows<T: Element, S: Simd<T>>(
    s: S,
    objective: &Objective<T>,
    rows: &Rows<'_, T>,
    labels: &[i64],
    mut grad: Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
) {
    let lanes = lanes(s);
    // Logarithms are taken of many rows at once.
    for (chunk, losses) in losses.chunks_mut(S::N).enumerate() {
        let mut sums = [T::ONE; MAX_LANES];
        let mut weights = [0.0; MAX_LANES];
        for (i, (into, sum)) in losses.iter_mut().zip(&mut sums).enumerate() {
            let r = chunk * S::N + i;
            let (label, importance) = (labels[(rows.at)(r)], rows.weight(r));
            let (counts, weight) = objective.label_weight(label);
            let weight = weight * importance;
            let mut grad = grad.as_mut().map(|g| g.row_mut(r));
            if counts {
                let output = rows.output.row(r);
                let (head, of_classes) = objective.head(label as usize, output.len());
                let (output, label) = (&output[head.clone()], label as usize - head.start);
                let grad = grad.map(|g| heads::within(g, &head));
                (*into, *sum) = row(s, lanes, output, of_classes, label, grad, rows.scale * weight);
                into.right *= importance;
            } else {
                grad.iter_mut().for_each(|g| g.fill(T::ZERO));
                *into = RowLoss::default();
            }
            weights[i] = weight;
        }
        let logarithms = T::ln(s, s.load(&sums));
        s.store(&mut sums, logarithms);
        for ((loss, ln), weight) in losses.iter_mut().zip(sums).zip(weights) {
            loss.loss = weight * (loss.loss + ln.to_f64());
        }
    }
}

/// The loss of a row but for its logarithm, whose argument comes beside it.
#[inline(always)]
fn row<T: Element, S: Simd<T>>(
    s: S,
    lanes: S::V,
    output: &[T],
    weights: &[T],
    label: usize,
    grad: Option<&mut [T]>,
    scale: f64,
) -> (RowLoss, T) {
    let full = output.len() - output.len() % S::N;
    // The last, partial vector is filled up with −∞: no maximum, and e^−∞ = 0.
    let tail = match full < output.len() {
        true => vector(s, lanes, output, weights, full),
        false => s.splat(T::lit(f64::NEG_INFINITY)),
    };

    let mut top = tail;
    for j in (0..full).step_by(S::N) {
        top = s.max(top, vector(s, lanes, output, weights, j));
    }
    let max = s.reduce_max(top);
    let shift = s.splat(max);
    let mut sum = s.splat(T::ZERO);
    let last = T::exp(s, s.sub(tail, shift));
    let sum = match grad {
        None => {
            for j in (0..full).step_by(S::N) {
                sum = s.add(sum, T::exp(s, s.sub(vector(s, lanes, output, weights, j), shift)));
            }
            s.reduce_add(s.add(sum, last))
        }
        Some(grad) => {
            // The exponentials wait in the gradient's place until their sum is known.
            let (places, end) = grad.split_at_mut(full);
            for (j, place) in places.chunks_exact_mut(S::N).enumerate() {
                let e = T::exp(s, s.sub(vector(s, lanes, output, weights, j * S::N), shift));
                s.store(place, e);
                sum = s.add(sum, e);
            }
            let sum = s.reduce_add(s.add(sum, last));
            let factor = s.splat(T::lit(scale / sum.to_f64()));
            zip_map(
                s,
                [places],
                [],
                #[inline(always)]
                |[e], []| [s.mul(e, factor)],
            );
            s.store_partial(end, s.mul(last, factor));
            grad[label] = grad[label] - T::lit(scale);
            sum
        }
    };
    let chosen = output[label];
    let right = chosen == max && first_of(s, output, weights, max) == T::lit(label as f64);
    (RowLoss { loss: max.to_f64() - chosen.to_f64(), right: f64::from(right) }, sum)
}
