//! Products of few steps: a sum of few outer products, as the weight gradient of a few rows is.
//!
//! The micro-kernel keeps a tile of C in registers while the steps go by. If there are only a few, calling it
//! takes longer than what it does: so here the rows of B stay in registers, and the rows of C go by.
//!
//! Nothing is prefetched here: there are too few instructions between which a prefetch would cost nothing.

use std::array::from_fn;

use super::Init;
use crate::element::Element;
use crate::simd::Simd;
use crate::view::{MatMut, MatRef};

/// Most steps of such a product.
pub const FEW_STEPS: usize = 8;

/// C = init + A·B.
#[inline(always)]
pub(super) fn run<T: Element, S: Simd<T>>(
    s: S,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    init: Init<'_, T>,
) {
    assert!(a.rows() == c.rows() && a.cols() == b.rows() && b.cols() == c.cols());
    let n = c.cols();
    for j in (0..n).step_by(2 * S::N) {
        let cols = (n - j).min(2 * S::N);
        let (b, c) = (b.block(0, b.rows(), j, cols), c.block(0, c.rows(), j, cols));
        let init = match init {
            Init::Bias(bias) => Init::Bias(&bias[j..j + cols]),
            other => other,
        };
        match b.rows() {
            0 => panel::<T, S, 0>(s, a, b, c, init),
            1 => panel::<T, S, 1>(s, a, b, c, init),
            2 => panel::<T, S, 2>(s, a, b, c, init),
            3 => panel::<T, S, 3>(s, a, b, c, init),
            4 => panel::<T, S, 4>(s, a, b, c, init),
            5 => panel::<T, S, 5>(s, a, b, c, init),
            6 => panel::<T, S, 6>(s, a, b, c, init),
            7 => panel::<T, S, 7>(s, a, b, c, init),
            FEW_STEPS => panel::<T, S, FEW_STEPS>(s, a, b, c, init),
            steps => panic!("{steps} steps are not few"),
        }
    }
}

/// At most two vectors of columns, with `K` steps.
#[inline(always)]
fn panel<T: Element, S: Simd<T>, const K: usize>(
    s: S,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    init: Init<'_, T>,
) {
    let b: [[S::V; 2]; K] = from_fn(|p| load(s, b.row(p)));
    let start = match init {
        Init::Bias(bias) => load(s, bias),
        _ => [s.splat(T::ZERO); 2],
    };
    for i in 0..c.rows() {
        let row = c.row_mut(i);
        let mut sums = if let Init::Accumulate = init { load(s, row) } else { start };
        for (p, b) in b.iter().enumerate() {
            let a = s.splat(a.at(i, p));
            sums = [s.fma(a, b[0], sums[0]), s.fma(a, b[1], sums[1])];
        }
        match row.split_at_mut_checked(S::N) {
            None => s.store_partial(row, sums[0]),
            Some((first, rest)) => {
                s.store(first, sums[0]);
                if rest.len() == S::N { s.store(rest, sums[1]) } else { s.store_partial(rest, sums[1]) }
            }
        }
    }
}

/// At most two vectors, zero behind the end.
#[inline(always)]
fn load<T: Element, S: Simd<T>>(s: S, row: &[T]) -> [S::V; 2] {
    match row.split_at_checked(S::N) {
        None => [s.load_partial(row), s.splat(T::ZERO)],
        Some((first, rest)) if rest.len() == S::N => [s.load(first), s.load(rest)],
        Some((first, rest)) => [s.load(first), s.load_partial(rest)],
    }
}
