//! Cross-entropy of a label c under softmax: with m = max oⱼ and Z = Σ e^(oⱼ−m),
//! ℓ = ln Z + m − o_c,  ∂ℓ/∂oⱼ = e^(oⱼ−m)/Z − [j = c].

use super::classes::{first_of, vector};
use super::{Class, Objective, RowLoss, Rows, heads};
use crate::element::Element;
use crate::gemm::pack::transpose_square;
use crate::math;
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
    let lanes = s.lanes();
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
        let logarithms = math::ln(s, s.load(&sums));
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
    let number = |j: usize| s.splat(T::lit(j as f64));
    let half = s.splat(T::lit(0.5));
    // A column of outputs, later of exponentials, in each row.
    let mut square = Square([[T::ZERO; MAX_LANES]; MAX_LANES]);
    let columns = &mut square.0[..classes];
    for (chunk, losses) in losses.chunks_mut(S::N).enumerate() {
        let (first, n) = (chunk * S::N, losses.len());
        let lanes = MatMut::strided(columns.as_flattened_mut(), classes, n, MAX_LANES);
        transpose_square(s, rows.output.block(first, n, 0, classes), lanes);
        let (mut scales, mut weights) = ([T::lit(rows.scale); MAX_LANES], [1.0; MAX_LANES]);
        let mut numbers = [T::ZERO; MAX_LANES];
        let mut wrong = [false; MAX_LANES];
        for i in 0..n {
            let row = rows.chosen.at(first + i);
            if let Some(given) = rows.goals.weights {
                weights[i] = given[row].to_f64();
                scales[i] = T::lit(rows.scale * weights[i]);
            }
            match objective.class(labels[row], classes) {
                Class::Is(class) => numbers[i] = T::lit(class as f64),
                Class::Wrong => wrong[i] = true,
                Class::Ignored => weights[i] = 0.0,
            }
        }

        let mut top = s.load(&columns[0]);
        for column in &columns[1..] {
            top = s.max(top, s.load(column));
        }
        let label = s.load(&numbers);
        let [mut sum, mut best, mut chosen] = [s.splat(T::ZERO); 3];
        for (j, column) in columns.iter_mut().enumerate().rev() {
            let o = s.load(column);
            best = s.select(s.lt(o, top), best, number(j)); // the first, in the end
            let this = s.lt(s.abs(s.sub(label, number(j))), half);
            chosen = s.select(this, o, chosen);
            let e = math::exp(s, s.sub(o, top));
            s.store(column, e);
            sum = s.add(sum, e);
        }
        let ln = math::ln(s, sum);
        if let Some(grad) = &mut grad {
            let scale = s.load(&scales);
            let factor = s.div(scale, sum);
            for (j, column) in columns.iter_mut().enumerate() {
                let slope = s.mul(s.load(column), factor);
                let this = s.lt(s.abs(s.sub(label, number(j))), half);
                s.store(column, s.select(this, s.sub(slope, scale), slope));
            }
            let lanes = MatRef::strided(columns.as_flattened(), classes, n, MAX_LANES, 1);
            transpose_square(s, lanes, grad.block(first, n, 0, classes));
        }
        let [mut tops, mut lns, mut bests, mut chosens] = [[T::ZERO; MAX_LANES]; 4];
        s.store(&mut tops, top);
        s.store(&mut lns, ln);
        s.store(&mut bests, best);
        s.store(&mut chosens, chosen);
        for (i, into) in losses.iter_mut().enumerate() {
            let loss = tops[i].to_f64() - chosens[i].to_f64() + lns[i].to_f64();
            let right = chosens[i] == tops[i] && bests[i] == numbers[i];
            *into = RowLoss { loss: weights[i] * loss, right: weights[i] * f64::from(right) };
            if wrong[i] {
                *into = RowLoss::WRONG;
            } else if weights[i] == 0.0 {
                *into = RowLoss::default();
                if let Some(grad) = &mut grad {
                    grad.row_mut(first + i).fill(T::ZERO);
                }
            }
        }
    }
}

/// Memory for a square of lanes, on cache lines of its own.
#[repr(align(64))]
struct Square<T>([[T; MAX_LANES]; MAX_LANES]);

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
    let last = math::exp(s, s.sub(tail, shift));
    let sum = match grad {
        None => {
            for j in (0..full).step_by(S::N) {
                sum = s.add(sum, math::exp(s, s.sub(vector(s, lanes, output, weights, j), shift)));
            }
            s.reduce_add(s.add(sum, last))
        }
        Some(grad) => {
            // The exponentials are stored in the gradient's place until their sum is known.
            let (places, end) = grad.split_at_mut(full);
            for (j, place) in places.chunks_exact_mut(S::N).enumerate() {
                let e = math::exp(s, s.sub(vector(s, lanes, output, weights, j * S::N), shift));
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
