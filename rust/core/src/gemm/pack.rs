//! Copies of operands in the order in which a kernel reads them.
//!
//! A panel of A holds `mr` rows, k-major: `panel[p · mr + i]`; a panel of B `nr` columns:
//! `panel[p · nr + j]`. The last panel is padded with zeros, whose products are not stored.

use super::plan::TileShape;
use crate::element::Element;
use crate::view::MatRef;

/// A k × n matrix in panels; see [`pack_rhs`].
#[derive(Clone, Copy, Debug)]
pub struct PackedRhs<'a, T> {
    panels: &'a [T],
    k: usize,
    n: usize,
    nr: usize,
}

impl<'a, T: Element> PackedRhs<'a, T> {
    /// Elements that the panels of a k × n matrix take.
    pub fn len(tile: TileShape, k: usize, n: usize) -> usize {
        n.next_multiple_of(tile.nr) * k
    }

    /// Takes panels that [`pack_rhs`] filled for the same tile and shape.
    ///
    /// # Panics
    /// If the length is not that of [`len`](Self::len).
    pub fn new(panels: &'a [T], tile: TileShape, k: usize, n: usize) -> Self {
        assert_eq!(panels.len(), Self::len(tile, k, n));
        PackedRhs { panels, k, n, nr: tile.nr }
    }

    /// Rows of the matrix.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Columns of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Columns of a panel.
    pub fn nr(&self) -> usize {
        self.nr
    }
    /// The panel of columns `j · nr ..`, from row `p` on.
    pub fn panel(&self, j: usize, p: usize) -> &'a [T] {
        let start = j * self.nr * self.k;
        &self.panels[start + p * self.nr..start + self.nr * self.k]
    }
}

/// Packs the columns `panels · nr ..` of `b` (k × n) that fit into `into`, panel by panel.
///
/// # Panics
/// If `into` is not a whole number of panels.
pub fn pack_rhs<T: Element>(b: MatRef<'_, T>, nr: usize, first_panel: usize, into: &mut [T]) {
    let (k, n) = (b.rows(), b.cols());
    if k == 0 {
        return;
    }
    assert_eq!(into.len() % (nr * k), 0);
    for (j, panel) in into.chunks_exact_mut(nr * k).enumerate() {
        let from = (first_panel + j) * nr;
        let width = nr.min(n.saturating_sub(from));
        copy_panel(b.block(0, k, from.min(n), width).t(), nr, panel);
    }
}

/// Packs the rows of `a` (m × k) into panels of `mr`.
///
/// # Panics
/// If `into` is shorter than that.
pub fn pack_lhs<T: Element>(a: MatRef<'_, T>, mr: usize, into: &mut [T]) {
    let (m, k) = (a.rows(), a.cols());
    if k == 0 {
        return;
    }
    for (i, panel) in into.chunks_exact_mut(mr * k).take(m.div_ceil(mr)).enumerate() {
        copy_panel(a.block(i * mr, mr.min(m - i * mr), 0, k), mr, panel);
    }
}

/// `panel[p · width + i] = m[i, p]`, zero for the lanes that `m` does not have.
fn copy_panel<T: Element>(m: MatRef<'_, T>, width: usize, panel: &mut [T]) {
    let (lanes, k) = (m.rows(), m.cols());
    if lanes < width {
        panel.fill(T::ZERO);
    }
    if lanes == 0 {
        return;
    }
    if m.row_stride() == 1 {
        // Lanes are neighbours in memory: copy a run per step.
        for (p, run) in panel.chunks_exact_mut(width).enumerate() {
            // SAFETY: lane i < lanes = m.rows() of column p < k; the lanes are contiguous.
            let from = unsafe { std::slice::from_raw_parts(m.as_ptr().add(p * m.col_stride()), lanes) };
            run[..lanes].copy_from_slice(from);
        }
        return;
    }
    // Transpose in squares, so that both the lines read and the lines written stay in cache.
    const SQUARE: usize = 16;
    for p0 in (0..k).step_by(SQUARE) {
        let depth = SQUARE.min(k - p0);
        let target = &mut panel[p0 * width..(p0 + depth) * width];
        for i in 0..lanes {
            // SAFETY: row i and columns p0 .. p0 + depth lie inside of m.
            let row = unsafe { m.as_ptr().add(i * m.row_stride() + p0 * m.col_stride()) };
            for (p, run) in target.chunks_exact_mut(width).enumerate() {
                // SAFETY: p < depth, see above.
                run[i] = unsafe { *row.add(p * m.col_stride()) };
            }
        }
    }
}
