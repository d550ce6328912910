//! A weight as a dense matrix with its long side first, tall × wide; and tiles of products of such matrices.
//!
//! A weight lies in panels of outputs, but products want rows. The weight is written either as (out, in) or
//! transposed, whichever is not wider than tall, so that what follows only deals with one orientation.

use super::{Piece, Place, TILE, Tile};
use crate::element::Element;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs, plan::GemmShape};
use crate::simd::Isa;
use crate::view::{MatMut, MatRef};

/// The shape of such a matrix.
#[derive(Clone, Copy)]
pub(super) struct Dense {
    pub(super) tall: usize,
    pub(super) wide: usize,
    /// Whether it holds W as (out, in), rather than the transpose.
    pub(super) turned: bool,
}

impl Dense {
    pub(super) fn of(place: &Place) -> Self {
        let (tall, wide) = (place.inputs.max(place.outputs), place.inputs.min(place.outputs));
        Dense { tall, wide, turned: place.inputs < place.outputs }
    }

    /// Number of elements.
    pub(super) fn len(self) -> usize {
        self.tall * self.wide
    }

    /// Where a row of a piece lies in the matrix that starts at `start`, and the distance of its elements.
    pub(super) fn row(self, start: usize, piece: &Piece, input: usize) -> (usize, usize) {
        match self.turned {
            true => (start + piece.column * self.wide + input, self.wide),
            false => (start + input * self.wide + piece.column, 1),
        }
    }

    /// The same for the transposed matrix.
    pub(super) fn row_of_transpose(self, start: usize, piece: &Piece, input: usize) -> (usize, usize) {
        match self.turned {
            true => (start + input * self.tall + piece.column, 1),
            false => (start + piece.column * self.tall + input, self.tall),
        }
    }
}

/// An `m` × `n` tile of a product over `k` of matrices with rows of the given lengths; the left one
/// transposed or not.
pub(super) fn shape(
    (m, n, k): (usize, usize, usize),
    (left, right): (usize, usize),
    transposed: bool,
) -> GemmShape {
    let (a_row_stride, a_col_stride) = if transposed { (1, left) } else { (left, 1) };
    GemmShape { m, n, k, a_row_stride, a_col_stride, b_row_stride: Some(right) }
}

/// Scratch that a thread needs to multiply such tiles and the remainders at the edges, on any instruction
/// set.
pub(super) fn packs<T: Element>(shapes: &[GemmShape]) -> usize {
    let len = |isa| shapes.iter().map(move |shape| GemmPlan::choose::<T>(isa, *shape).scratch_len());
    Isa::available().into_iter().flat_map(len).max().unwrap_or(0)
}

/// Computes the tile `c` of a product, with a thread's scratch.
pub(super) fn multiply<T: Element>(
    isa: Isa,
    (left, right): (MatRef<'_, T>, MatRef<'_, T>),
    tile: &Tile,
    c: MatMut<'_, T>,
    init: Init<'_, T>,
    pack: &mut [T],
) {
    let (m, n, k) = (tile.rows.len(), tile.cols.len(), left.cols());
    let transposed = left.col_stride() != 1;
    let long = left.row_stride().max(left.col_stride());
    // Tiles at the edges use the plan of a full tile, too, since the scratch is sized for it.
    let full = (m.max(TILE.min(left.rows())), n.max(TILE.min(right.cols())), k);
    let plan = GemmPlan::choose::<T>(isa, shape(full, (long, right.row_stride()), transposed));
    let gemm = Gemm {
        a: Lhs::Plain(left.block(tile.rows.start, m, 0, k)),
        b: Rhs::Plain(right.block(0, k, tile.cols.start, n)),
        c,
        init,
        epilogue: Epilogue::None,
        ahead: &[],
    };
    gemm.run(isa, &plan, pack);
}
