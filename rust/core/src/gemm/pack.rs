//! Operands in the order in which a kernel reads them.
//!
//! A right operand, k × n, lies in **panels** of [`PANEL`] columns, one after the other, each k-major:
//! `panel[p · width + j]`. The last panel is only as wide as necessary, so that the panels take k · n
//! elements and a matrix with few columns lies as it would without panels. Weights are always kept this way:
//! inputs × outputs, as the forward product reads them and the weight gradient writes them.
//!
//! A left operand, m × k, is copied into panels with the rows of a tile: `panel[p · rows + i]`.

use crate::element::Element;
use crate::simd::{Isa, Op, Simd, dispatch, prefetch_later};
use crate::view::{MatMut, MatRef};

/// Columns of a panel: two of the widest vectors, and a multiple of every kernel's width.
pub const PANEL: usize = 32;

/// A k × n matrix in panels.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a, T> {
    data: &'a [T],
    k: usize,
    n: usize,
}

impl<'a, T: Element> Panels<'a, T> {
    /// Views `data` as the panels of a k × n matrix.
    ///
    /// # Panics
    /// If there are not k · n elements.
    pub fn new(data: &'a [T], k: usize, n: usize) -> Self {
        assert_eq!(data.len(), k * n);
        Panels { data, k, n }
    }

    /// Rows of the matrix.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Columns of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }
    /// All elements.
    pub fn data(&self) -> &'a [T] {
        self.data
    }

    /// Where row `p` of the panel that begins with column `j` lies, or would lie if it existed.
    pub(super) fn square(&self, j: usize, p: usize) -> *const T {
        self.data.as_ptr().wrapping_add(j * self.k + p * PANEL.min(self.n.saturating_sub(j)))
    }
}

/// An m × k matrix in panels of rows.
#[derive(Clone, Copy, Debug)]
pub struct LhsPanels<'a, T> {
    data: &'a [T],
    m: usize,
    rows: usize,
    /// Steps of k in each panel,
    depth: usize,
    /// and the selected ones: the first, and how many.
    from: usize,
    k: usize,
}

impl<'a, T: Element> LhsPanels<'a, T> {
    /// Views `data` as the panels, of `rows` rows each, of an m × k matrix.
    ///
    /// # Panics
    /// If there are not m · k elements.
    pub fn new(data: &'a [T], m: usize, k: usize, rows: usize) -> Self {
        assert_eq!(data.len(), m * k);
        LhsPanels { data, m, rows, depth: k, from: 0, k }
    }

    /// The rows `from .. from + m`.
    ///
    /// # Panics
    /// If `from` is not the start of a panel, or the rows do not end with a panel.
    pub fn block(self, from: usize, m: usize) -> Self {
        assert!(from.is_multiple_of(self.rows) && from + m <= self.m);
        assert!(m.is_multiple_of(self.rows) || from + m == self.m);
        LhsPanels { data: &self.data[from * self.depth..(from + m) * self.depth], m, ..self }
    }

    /// The steps `from .. from + k`.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn steps(self, from: usize, k: usize) -> Self {
        assert!(from + k <= self.k);
        LhsPanels { from: self.from + from, k, ..self }
    }

    /// Where step `p` of the panel with `rows` rows that starts at row `i` lies.
    pub(super) fn at(&self, i: usize, p: usize, rows: usize) -> *const T {
        self.data.as_ptr().wrapping_add(i * self.depth + (self.from + p) * rows)
    }

    /// Rows of the matrix.
    pub fn m(&self) -> usize {
        self.m
    }
    /// Columns of the matrix.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Rows of a panel.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Where element (p, j) of a k × n matrix lies in its panels.
#[inline]
pub fn offset(k: usize, n: usize, p: usize, j: usize) -> usize {
    let panel = j / PANEL * PANEL;
    panel * k + p * PANEL.min(n - panel) + j % PANEL
}

/// Copies columns `from ..` of the transpose of `b`, k × n in panels, into panels, as many columns as `into`
/// holds; `from` must be the start of a panel.
///
/// # Panics
/// If `into` does not end with a whole panel.
pub fn pack_transposed<T: Element>(isa: Isa, b: Panels<'_, T>, from: usize, into: &mut [T]) {
    struct Run<'a, 'i, T>(Panels<'a, T>, usize, &'i mut [T]);
    impl<T: Element> Op<T> for Run<'_, '_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let Run(b, from, mut into) = self;
            assert!(from.is_multiple_of(PANEL));
            for i in (from..b.k).step_by(PANEL) {
                let width = PANEL.min(b.k - i);
                if into.is_empty() {
                    break;
                }
                let (panel, rest) = into.split_at_mut(width * b.n);
                pack_transposed_panel(s, b, (0, b.n), (i, width), panel);
                into = rest;
            }
            assert!(into.is_empty());
        }
    }
    dispatch(isa, Run(b, from, into));
}

/// Copies a part of the transpose of `b`, `k` rows from `k0` and `n` columns from `j0`, as one panel.
///
/// # Panics
/// If `k0` is not the start of a panel of `b`, or `k0 + k` not the end of one.
#[inline(always)]
pub(super) fn pack_transposed_panel<T: Element, S: Simd<T>>(
    s: S,
    b: Panels<'_, T>,
    (k0, k): (usize, usize),
    (j0, n): (usize, usize),
    panel: &mut [T],
) {
    assert!(k0.is_multiple_of(PANEL) && (k.is_multiple_of(PANEL) || k0 + k == b.n));
    for p in (0..k).step_by(PANEL) {
        let depth = PANEL.min(k - p);
        let square = &b.data[offset(b.k, b.n, j0, k0 + p)..][..n * depth];
        if p + 2 * PANEL < k {
            // Squares are a panel apart, too far for the hardware prefetcher.
            let ahead = b.square(k0 + p + 2 * PANEL, j0);
            for line in (0..n * PANEL).step_by(64 / size_of::<T>()) {
                prefetch_later::<T, false>(ahead.wrapping_add(line));
            }
        }
        copy_panel(s, MatRef::new(square, n, depth), &mut panel[p * n..(p + depth) * n]);
    }
}

/// Copies a matrix with contiguous rows, transposed: `into[j · rows + i] = m[i, j]`.
///
/// # Panics
/// If `into` and the matrix differ in the number of elements.
pub fn transpose<T: Element>(isa: Isa, m: MatRef<'_, T>, into: &mut [T]) {
    struct Run<'a, 'i, T>(MatRef<'a, T>, &'i mut [T]);
    impl<T: Element> Op<T> for Run<'_, '_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            copy_panel(s, self.0, self.1);
        }
    }
    dispatch(isa, Run(m, into));
}

/// Copies `part`, rows `from ..` of a row-major k × n matrix, to its place in the panels, `width` columns
/// each, of the whole matrix, which start at `into`.
///
/// # Safety
/// The k · n elements at `into` must be valid, and nobody else may use those of these rows meanwhile.
pub unsafe fn pack_rows<T: Element>(
    isa: Isa,
    part: MatRef<'_, T>,
    width: usize,
    (from, k): (usize, usize),
    into: *mut T,
) {
    struct Run<'a, T>(MatRef<'a, T>, usize, usize, usize, *mut T);
    impl<T: Element> Op<T> for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            /// Rows copied at once: this many runs go to each panel, and each cache line of a row is read
            /// once.
            const ROWS: usize = 32;
            let Run(part, width, from, k, into) = self;
            let n = part.cols();
            for r in (0..part.rows()).step_by(ROWS) {
                for j in (0..n).step_by(width) {
                    let w = width.min(n - j);
                    for r in r..part.rows().min(r + ROWS) {
                        // SAFETY: w elements of row from + r of panel j / width, which the caller of
                        // `pack_rows` gave us.
                        unsafe { copy_run(s, &part.row(r)[j..j + w], into.add(j * k + (from + r) * w)) };
                    }
                }
            }
        }
    }
    assert!(from + part.rows() <= k && part.col_stride() == 1);
    dispatch(isa, Run(part, width, from, k, into));
}

/// Copies all columns of `b` into panels.
///
/// # Panics
/// If `into` and `b` differ in the number of elements.
#[inline(always)]
pub fn pack_rhs<T: Element, S: Simd<T>>(s: S, b: MatRef<'_, T>, mut into: &mut [T]) {
    let (k, n) = (b.rows(), b.cols());
    for j in (0..n).step_by(PANEL) {
        let width = PANEL.min(n - j);
        let (panel, rest) = into.split_at_mut(width * k);
        copy_panel(s, b.block(0, k, j, width).t(), panel);
        into = rest;
    }
    assert!(into.is_empty());
}

/// Copies the rows of `a` (m × k) into panels of `rows` rows; the last has the rows that are left.
///
/// # Panics
/// If `into` is shorter than `a`.
#[inline(always)]
pub fn pack_lhs<T: Element, S: Simd<T>>(s: S, a: MatRef<'_, T>, rows: usize, into: &mut [T]) {
    let (m, k) = (a.rows(), a.cols());
    for i in (0..m).step_by(rows) {
        let height = rows.min(m - i);
        copy_panel(s, a.block(i, height, 0, k), &mut into[i * k..(i + height) * k]);
    }
}

/// `panel[p · lanes + i] = m[i, p]`, where `lanes` is the number of rows of `m`.
///
/// # Panics
/// If the panel and the matrix differ in the number of elements.
#[inline(always)]
pub(crate) fn copy_panel<T: Element, S: Simd<T>>(s: S, m: MatRef<'_, T>, panel: &mut [T]) {
    let (lanes, k) = (m.rows(), m.cols());
    assert_eq!(panel.len(), lanes * k);
    if panel.is_empty() {
        return;
    }
    if m.row_stride() == 1 && m.col_stride() != 1 {
        // Lanes are adjacent in memory: copy one run per step.
        for (p, run) in panel.chunks_exact_mut(lanes).enumerate() {
            // SAFETY: lane i < lanes = m.rows() of column p < k; the lanes are contiguous.
            unsafe {
                let from = std::slice::from_raw_parts(m.as_ptr().add(p * m.col_stride()), lanes);
                copy_run(s, from, run.as_mut_ptr());
            }
        }
        return;
    }
    // SAFETY: the panel has room for the transpose, as was checked above.
    unsafe { squares(s, m, panel.as_mut_ptr(), lanes) }
}

/// `into[p · step + i] = m[i, p]`, for a part of a panel: `step` is the width of the panel.
///
/// # Safety
/// Those elements must be valid for writing.
pub unsafe fn transpose_part<T: Element>(isa: Isa, m: MatRef<'_, T>, into: *mut T, step: usize) {
    struct Run<'a, T>(MatRef<'a, T>, *mut T, usize);
    impl<T: Element> Op<T> for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            // SAFETY: the caller of `transpose_part` promises that the elements can be written.
            unsafe { squares(s, self.0, self.1, self.2) }
        }
    }
    dispatch(isa, Run(m, into, step));
}

/// `into[p · step + i] = m[i, p]`, in squares, so that both the cache lines read and those written stay in the
/// cache.
///
/// # Safety
/// Those elements must be valid for writing.
#[inline(always)]
unsafe fn squares<T: Element, S: Simd<T>>(s: S, m: MatRef<'_, T>, into: *mut T, step: usize) {
    assert_eq!(m.col_stride(), 1);
    for p in (0..m.cols()).step_by(S::N) {
        for i in (0..m.rows()).step_by(S::N) {
            let (rows, cols) = (S::N.min(m.rows() - i), S::N.min(m.cols() - p));
            // SAFETY: the square lies inside `m`, and the caller promises that its transpose can be written.
            unsafe {
                let from = m.as_ptr().add(i * m.row_stride() + p);
                s.transpose(from, m.row_stride(), into.add(p * step + i), step, rows, cols);
            }
        }
    }
}

/// `into[j, i] = from[i, j]`, for at most as many rows and columns as a vector has lanes.
#[inline(always)]
pub(crate) fn transpose_square<T: Element, S: Simd<T>>(s: S, from: MatRef<'_, T>, mut into: MatMut<'_, T>) {
    let (rows, cols) = (from.rows(), from.cols());
    assert!(rows <= S::N && cols <= S::N && from.col_stride() == 1);
    assert_eq!([into.rows(), into.cols()], [cols, rows]);
    // SAFETY: both views are of this shape.
    unsafe { s.transpose(from.as_ptr(), from.row_stride(), into.as_mut_ptr(), into.row_stride(), rows, cols) }
}

/// Copies a short run of elements.
///
/// # Safety
/// `from.len()` elements must be valid for writing at `into`.
#[inline(always)]
unsafe fn copy_run<T: Element, S: Simd<T>>(s: S, from: &[T], into: *mut T) {
    let full = from.len() - from.len() % S::N;
    // SAFETY: all accesses are inside the slice, or inside the elements that the caller promised.
    unsafe {
        let mut i = 0;
        while i < full {
            s.store_ptr(into.add(i), s.load_ptr(from.as_ptr().add(i)));
            i += S::N;
        }
        if i < from.len() {
            let n = from.len() - i;
            s.store_first(into.add(i), n, s.load_first(from.as_ptr().add(i), n));
        }
    }
}
