//! Sums over the elements of a row, together with their gradients, in one loop.

use super::{RowLoss, Rows};
use crate::data;
use crate::element::Element;
use crate::simd::{MAX_LANES, Simd};
use crate::view::{MatMut, MatRef};

/// Goes through rows of few elements, several of them in each vector; `f` is as for [`elements`]. Returns false,
/// and does nothing, if that is not possible: rows that are weighted, or too long, or not dense.
#[inline(always)]
pub fn few<T: Element, S: Simd<T>, const N: usize>(
    s: S,
    rows: &Rows<'_, T>,
    targets: MatRef<'_, T>,
    grad: &mut Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
    f: impl Fn([S::V; 2]) -> ([S::V; N], [S::V; 1]),
) -> bool {
    let (output, cols) = (rows.output, rows.output.cols());
    let dense = output.is_dense() && grad.as_ref().is_none_or(MatMut::is_dense);
    if 2 * cols > S::N || targets.cols() != cols || rows.goals.weights.is_some() || !dense {
        return false;
    }
    // Lengths known in advance: loops and copies of unknown length take several times as long as the rest.
    match cols {
        1 => known(s, rows, targets, grad, losses, 1, f),
        2 => known(s, rows, targets, grad, losses, 2, f),
        3 => known(s, rows, targets, grad, losses, 3, f),
        _ => known(s, rows, targets, grad, losses, cols, f),
    }
    true
}

/// [`few`] for rows of `cols` elements.
#[inline(always)]
fn known<T: Element, S: Simd<T>, const N: usize>(
    s: S,
    rows: &Rows<'_, T>,
    targets: MatRef<'_, T>,
    grad: &mut Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
    cols: usize,
    f: impl Fn([S::V; 2]) -> ([S::V; N], [S::V; 1]),
) {
    let factor = s.splat(T::lit(rows.scale));
    let at_once = S::N / cols.max(1);
    let output = rows.output;
    for (chunk, losses) in losses.chunks_mut(at_once).enumerate() {
        let (first, n) = (chunk * at_once, losses.len());
        let goals = match rows.chosen {
            // The targets lie as the outputs do.
            data::Rows::From(start) if targets.is_dense() => {
                s.load_partial(targets.block(start + first, n, 0, cols).joined().row(0))
            }
            chosen => {
                let mut goals = [T::ZERO; MAX_LANES];
                for (i, goal) in goals[..n * cols].chunks_exact_mut(cols).enumerate() {
                    goal.copy_from_slice(targets.row(chosen.at(first + i)));
                }
                s.load(&goals)
            }
        };
        let part = output.block(first, n, 0, cols).joined().row(0);
        let (values, [slope]) = f([s.load_partial(part), goals]);
        if let Some(grad) = grad {
            let mut part = grad.block(first, n, 0, cols);
            s.store_partial(part.joined().row_mut(0), s.mul(slope, factor));
        }
        let mut sums = [[T::ZERO; MAX_LANES]; N];
        for (sums, values) in sums.iter_mut().zip(values) {
            s.store(sums, values);
        }
        for (i, into) in losses.iter_mut().enumerate() {
            let sum = |values: &[T; MAX_LANES]| {
                values[i * cols..(i + 1) * cols].iter().fold(T::ZERO, |sum, x| sum + *x).to_f64()
            };
            *into = RowLoss { loss: sum(&sums[0]), right: sums.get(1).map_or(0.0, sum) };
        }
    }
}

/// Goes through slices of the same length together: for each place, `f` returns the N values to be summed,
/// and the slopes with respect to the outputs, which are stored in `grads` times `scale`.
#[inline(always)]
pub fn elements<T: Element, S: Simd<T>, const R: usize, const N: usize, const W: usize>(
    s: S,
    reads: [&[T]; R],
    mut grads: Option<[&mut [T]; W]>,
    scale: f64,
    f: impl Fn([S::V; R]) -> ([S::V; N], [S::V; W]),
) -> [f64; N] {
    let len = reads[0].len();
    assert!(reads.iter().all(|r| r.len() == len));
    let full = len - len % S::N;
    let factor = s.splat(T::lit(scale));
    let mut sums = [s.splat(T::ZERO); N];
    for i in (0..full).step_by(S::N) {
        let (values, slopes) = f(reads.map(|r| s.load(&r[i..])));
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = s.add(*sum, value);
        }
        for (grad, slope) in grads.iter_mut().flatten().zip(slopes) {
            s.store(&mut grad[i..], s.mul(slope, factor));
        }
    }
    if full < len {
        let (values, slopes) = f(reads.map(|r| s.load_partial(&r[full..])));
        let inside = s.lt(s.lanes(), s.splat(T::lit((len - full) as f64)));
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = s.add(*sum, s.select(inside, value, s.splat(T::ZERO)));
        }
        for (grad, slope) in grads.iter_mut().flatten().zip(slopes) {
            s.store_partial(&mut grad[full..], s.mul(slope, factor));
        }
    }
    sums.map(|sum| s.reduce_add(sum).to_f64())
}
