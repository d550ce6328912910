//! Cross-entropy of a label c under softmax: with m = max oⱼ and Z = Σ e^(oⱼ−m),
//! ℓ = ln Z + m − o_c,  ∂ℓ/∂oⱼ = e^(oⱼ−m)/Z − [j = c].

use super::classes::{first_of, lanes, vector};
use super::{Class, Objective, RowLoss, Rows, heads};
use crate::element::Element;
use crate::gemm::pack::copy_panel;
use crate::simd::{MAX_LANES, Simd, zip_map};
use crate::view::{MatMut, MatRef};

#[inline(always)]
pub fn rows<T: Element, S: Simd<T>>(
    s: S,
    objective: &Objective<T>,
    rows: &Rows<'_, T>,
    labels: &[i64],
    mut grad: Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
) {
    let plain = objective.heads.is_empty() && objective.constants.is_empty();
    if plain && rows.output.cols() <= S::N && grad.as_ref().is_none_or(MatMut::is_dense) {
        return few(s, objective, rows, labels, grad, losses);
    }
    let lanes = lanes(s);
    // Logarithms are computed for many rows at once.
    for (chunk, losses) in losses.chunks_mut(S::N).enumerate() {
        let mut sums = [T::ONE; MAX_LANES];
        let mut weights = [0.0; MAX_LANES];
        for (i, (into, sum)) in losses.iter_mut().zip(&mut sums).enumerate() {
            let r = chunk * S::N + i;
            let (label, importance) = (labels[rows.chosen.at(r)], rows.weight(r));
            let output = rows.output.row(r);
            let mut grad = grad.as_mut().map(|g| g.row_mut(r));
            match objective.class(label, output.len()) {
                Class::Wrong => (*into, weights[i]) = (RowLoss::WRONG, 1.0),
                Class::Is(class) if importance != 0.0 => {
                    weights[i] = objective.class_weight(class) * importance;
                    let (head, of_classes) = objective.head(class, output.len());
                    let (output, label) = (&output[head.clone()], class - head.start);
                    let grad = grad.map(|g| heads::within(g, &head));
                    (*into, *sum) = row(s, lanes, output, of_classes, label, grad, rows.scale * weights[i]);
                    into.right *= importance;
                }
                _ => {
                    grad.iter_mut().for_each(|g| g.fill(T::ZERO));
                    *into = RowLoss::default();
                }
            }
        }
        let logarithms = T::ln(s, s.load(&sums));
        s.store(&mut sums, logarithms);
        for ((loss, ln), weight) in losses.iter_mut().zip(sums).zip(weights) {
            loss.loss = weight * (loss.loss + ln.to_f64());
        }
    }
}

/// Rows with few classes, without heads or class weights: many rows at once, one in each lane.
#[inline(always)]
fn few<T: Element, S: Simd<T>>(
    s: S,
    objective: &Objective<T>,
    rows: &Rows<'_, T>,
    labels: &[i64],
    mut grad: Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
) {
    let classes = rows.output.cols();
    let mut columns = [T::ZERO; MAX_LANES * MAX_LANES];
    for (chunk, losses) in losses.chunks_mut(S::N).enumerate() {
        let (first, n) = (chunk * S::N, losses.len());
        let output = rows.output.block(first, n, 0, classes);
        let columns = &mut columns[..classes * n];
        copy_panel(s, output, columns);
        let (mut scales, mut taken) = ([T::lit(rows.scale); MAX_LANES], [(0, 1.0); MAX_LANES]);
        for (i, (label, weight)) in taken[..n].iter_mut().enumerate() {
            let row = rows.chosen.at(first + i);
            *label = labels[row];
            if let Some(weights) = rows.goals.weights {
                *weight = weights[row].to_f64();
                scales[i] = T::lit(rows.scale * *weight);
            }
        }

        let mut top = s.load_partial(&columns[..n]);
        for j in 1..classes {
            top = s.max(top, s.load_partial(&columns[j * n..(j + 1) * n]));
        }
        let (mut sum, mut best) = (s.splat(T::ZERO), s.splat(T::ZERO));
        for j in (0..classes).rev() {
            let o = s.load_partial(&columns[j * n..(j + 1) * n]);
            best = s.select(s.lt(o, top), best, s.splat(T::lit(j as f64))); // the first, in the end
            let e = T::exp(s, s.sub(o, top));
            s.store_partial(&mut columns[j * n..(j + 1) * n], e);
            sum = s.add(sum, e);
        }
        let ln = T::ln(s, sum);
        let factor = s.div(s.load(&scales), sum);
        let [mut tops, mut lns, mut bests] = [[T::ZERO; MAX_LANES]; 3];
        s.store(&mut tops, top);
        s.store(&mut lns, ln);
        s.store(&mut bests, best);
        if let Some(grad) = &mut grad {
            for j in 0..classes {
                let slope = s.mul(s.load_partial(&columns[j * n..(j + 1) * n]), factor);
                s.store_partial(&mut columns[j * n..(j + 1) * n], slope);
            }
            let mut part = grad.block(first, n, 0, classes);
            copy_panel(s, MatRef::new(columns, classes, n), part.joined().row_mut(0));
        }
        for (i, (into, (label, weight))) in losses.iter_mut().zip(taken).enumerate() {
            let slope = grad.as_mut().map(|grad| grad.row_mut(first + i));
            match objective.class(label, classes) {
                Class::Wrong => *into = RowLoss::WRONG,
                Class::Is(class) if weight != 0.0 => {
                    if let Some(row) = slope {
                        row[class] = row[class] - scales[i];
                    }
                    let chosen = output.at(i, class);
                    let loss = tops[i].to_f64() - chosen.to_f64() + lns[i].to_f64();
                    let right = chosen == tops[i] && bests[i] == T::lit(class as f64);
                    *into = RowLoss { loss: weight * loss, right: weight * f64::from(right) };
                }
                _ => {
                    slope.into_iter().for_each(|row| row.fill(T::ZERO));
                    *into = RowLoss::default();
                }
            }
        }
    }
}

/// The loss of a row without its logarithm, whose argument is returned as well.
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
    // The last, partial vector is padded with −∞: never the maximum, and e^−∞ = 0.
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
            // The exponentials are stored in the gradient's place until their sum is known.
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
