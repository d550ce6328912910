//! What passes a block of layers by: the block's input, which is added to its output or put in front of it.

use crate::element::Element;
use crate::gemm::Init;
use crate::simd::{Isa, add};
use crate::view::{MatMut, MatRef};

/// y ← skip + x, or y ← (skip, x) where y is wider than x. Without a `skip`, y ← x.
pub fn join<T: Element>(isa: Isa, skip: Option<MatRef<'_, T>>, x: MatRef<'_, T>, mut y: MatMut<'_, T>) {
    let front = y.cols() - x.cols();
    for r in 0..x.rows() {
        let (before, after) = y.row_mut(r).split_at_mut(front);
        after.copy_from_slice(x.row(r));
        match skip {
            Some(skip) if front == 0 => add(isa, after, skip.row(r)),
            Some(skip) => before.copy_from_slice(skip.row(r)),
            None => {}
        }
    }
}

/// Copies rows if nothing is there yet, otherwise adds them.
pub fn put<T: Element>(isa: Isa, rows: MatRef<'_, T>, into: &mut MatMut<'_, T>, init: &mut Init<'_, T>) {
    for r in 0..rows.rows() {
        let (into, row) = (into.row_mut(r), rows.row(r));
        match init {
            Init::Accumulate => add(isa, into, row),
            _ => into.copy_from_slice(row),
        }
    }
    *init = Init::Accumulate;
}
