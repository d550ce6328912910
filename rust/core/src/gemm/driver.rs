//! The loops around the micro-kernel.
//!
//! ```text
//! for k0 in blocks of kc                     sums over earlier blocks wait in C
//!   for i0 in blocks of mc                   [pack this block of A]
//!     for j in panels of nr                  [pack this panel of B]
//!       for i in tiles of mr: kernel; on the last k0: epilogue
//! ```

use super::kernel::{self, Last, Start, Tile};
use super::pack::{self, PANEL};
use super::{Ahead, Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::element::Element;
use crate::layer::Activation;
use crate::simd::{Op, Simd, prefetch_later};
use crate::view::{MatMut, MatRef};

#[inline(always)]
pub(super) fn run<T: Element, S: Simd<T>>(s: S, gemm: Gemm<'_, T>, plan: &GemmPlan, scratch: &mut [T]) {
    check::<T, S>(&gemm, plan);
    let Gemm { a, b, mut c, init, mut epilogue, ahead } = gemm;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let (a_scratch, b_scratch) = scratch.split_at_mut(plan.a_scratch());
    let b_scratch = &mut b_scratch[..plan.b_scratch()];
    let nr = S::NV * S::N;
    // The kernel's wide tiles cover all rows of A, so the plan's tile must, too.
    let wide = if plan.pack_b || plan.rows < m { &[] } else { kernel::wide(m) };
    let (c_ptr, c_row) = (c.as_mut_ptr(), c.row_stride());
    let tiles = m.div_ceil(plan.rows) * n.div_ceil(nr) * k.div_ceil(plan.kc);
    let mut hints = Hints { spans: ahead, tiles, tile: 0 };

    let mut k0 = 0;
    loop {
        let kc = plan.kc.min(k - k0);
        let last_block = k0 + kc == k;
        for i0 in (0..m).step_by(plan.mc) {
            let mc = plan.mc.min(m - i0);
            if plan.pack_a
                && let Lhs::Plain(a) = a
            {
                pack::pack_lhs(s, a.block(i0, mc, k0, kc), plan.rows, a_scratch);
            }
            let mut j0 = 0;
            while j0 < n {
                // A wide tile is a part of a panel or several whole ones, and none of a last panel that is
                // narrower than the others.
                let fits = |&cols: &usize| {
                    (PANEL.is_multiple_of(cols) || cols.is_multiple_of(PANEL)) && n - n % PANEL >= j0 + cols
                };
                let cols = wide.iter().map(|nv| nv * S::N).find(fits).unwrap_or(nr.min(n - j0));
                let (b_ptr, b_step, b_panel) = match &b {
                    Rhs::Panels(b) => {
                        let start = b.data().as_ptr().wrapping_add(pack::offset(k, n, k0, j0));
                        (start, PANEL.min(n - j0 / PANEL * PANEL), PANEL * k)
                    }
                    Rhs::Plain(plain) => {
                        let part = plain.block(k0, kc, j0, cols);
                        if plan.pack_b {
                            pack::pack_rhs(s, part, &mut b_scratch[..cols * kc]);
                            (b_scratch.as_ptr(), cols, 0)
                        } else {
                            assert!(plain.col_stride() == 1);
                            (part.as_ptr(), part.row_stride(), PANEL)
                        }
                    }
                    Rhs::Transposed(b) => {
                        pack::pack_transposed_panel(s, *b, (k0, kc), (j0, cols), &mut b_scratch[..cols * kc]);
                        (b_scratch.as_ptr(), cols, 0)
                    }
                    Rhs::Split(_) => unreachable!("refused above"),
                };
                let start = if k0 == 0 { Start::at(&init, j0) } else { Start::Accumulate };
                // The next panel of B follows this one, unless a new block of k begins.
                let (next, next_bytes): (*const u8, usize) = match &b {
                    Rhs::Panels(_) if ahead.is_empty() && (j0 + cols).is_multiple_of(PANEL) => {
                        (b_ptr.wrapping_add(b_panel).cast(), kc * b_step * size_of::<T>())
                    }
                    _ => (b_ptr.cast(), 0),
                };
                let count = mc.div_ceil(plan.rows);
                for (t, i) in (0..mc).step_by(plan.rows).enumerate() {
                    let rows = plan.rows.min(mc - i);
                    let (a_ptr, a_row, a_step) = match &a {
                        Lhs::Panels(a) => (a.at(i0 + i, k0, rows), 1, rows),
                        Lhs::Plain(_) if plan.pack_a => (a_scratch[i * kc..].as_ptr(), 1, rows),
                        Lhs::Plain(a) => {
                            let a = a.block(i0 + i, rows, k0, kc);
                            (a.as_ptr(), a.row_stride(), a.col_stride())
                        }
                        Lhs::Split(_) => panic!("parts are for products of parts"),
                    };
                    let (hint, bytes) = match &b {
                        _ if !ahead.is_empty() => hints.next(),
                        // The squares that make up the next panel, or as many of them as there are tiles.
                        Rhs::Transposed(b) => {
                            let square = b.square(k0 + kc / PANEL * t / count * PANEL, j0 + cols);
                            (square.cast(), cols * PANEL * size_of::<T>())
                        }
                        _ => (next.wrapping_add(next_bytes / count * t), next_bytes / count),
                    };
                    let c_tile = c_ptr.wrapping_add((i0 + i) * c_row + j0);
                    if k0 > 0 {
                        // The sums that the next tile continues.
                        for r in 0..rows {
                            let row = c_tile.wrapping_add((rows + r) * c_row);
                            prefetch_later::<T, false>(row);
                            prefetch_later::<T, false>(row.wrapping_add(cols - 1));
                        }
                    }
                    let in_registers = if last_block { epilogue.in_registers(i0 + i, j0) } else { None };
                    let tile = Tile {
                        k: kc,
                        a: a_ptr,
                        a_row,
                        a_step,
                        b: b_ptr,
                        b_step,
                        b_panel,
                        c: c_tile,
                        c_row,
                        start,
                        last: in_registers.unwrap_or(Last::Nothing),
                        cols,
                        ahead: hint,
                        ahead_write: !ahead.is_empty(),
                        ahead_step: bytes.div_ceil(kc.max(1)),
                    };
                    // SAFETY: rows × cols of C, rows × kc of A and kc × cols of B lie inside the views (or
                    // their packed copies), whose shapes were checked above; `c` is a `MatMut`, so C is
                    // exclusively ours.
                    unsafe { s.tile(rows, tile) };
                    if last_block && in_registers.is_none() {
                        let tile = Place { row: i0 + i, rows, col: j0, cols };
                        s.run(Finish(&mut epilogue, &mut c, tile));
                    }
                }
                j0 += cols;
            }
        }
        k0 += kc;
        if last_block {
            break;
        }
    }
}

/// Checks that a product's shapes agree with each other and with the plan.
#[inline(always)]
fn check<T: Element, S: Simd<T>>(gemm: &Gemm<'_, T>, plan: &GemmPlan) {
    let Gemm { a, b, c, init, epilogue, .. } = gemm;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let (bk, bn) = match b {
        Rhs::Plain(b) => (b.rows(), b.cols()),
        Rhs::Panels(b) => (b.k(), b.n()),
        Rhs::Transposed(b) => {
            assert!(plan.pack_b, "a plan for another right operand");
            (b.n(), b.k())
        }
        Rhs::Split(_) => panic!("parts are for products of parts"),
    };
    assert!(a.rows() == m && bn == n && bk == k, "({} × {k}) · ({bk} × {bn}) → {m} × {n}", a.rows());
    assert_eq!((plan.tile.mr, plan.tile.nr), (S::MR, S::NV * S::N), "a plan for another ISA or type");
    assert!(plan.rows <= S::MR && plan.mc.is_multiple_of(plan.rows));
    if let Lhs::Panels(a) = a {
        assert_eq!(a.rows(), plan.rows);
    }
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n);
    }
    epilogue.check(m, n);
}

impl<T: Element> Epilogue<'_, T> {
    /// What the kernel does with the tile at (i, j) while it is in registers; `None` if the epilogue is
    /// applied later.
    #[inline(always)]
    fn in_registers(&self, i: usize, j: usize) -> Option<Last<T>> {
        let at = |y: &MatRef<'_, T>| y.as_ptr().wrapping_add(i * y.row_stride() + j);
        match self {
            Epilogue::None => Some(Last::Nothing),
            Epilogue::Activate(Activation::Identity, _) => Some(Last::Nothing),
            Epilogue::Derivative(Activation::Identity, _) => Some(Last::Nothing),
            Epilogue::Activate(Activation::Relu, _) => Some(Last::Relu),
            Epilogue::Derivative(Activation::Relu, y) => Some(Last::ReluSlope(at(y), y.row_stride())),
            Epilogue::Derivative(Activation::Tanh, y) => Some(Last::TanhSlope(at(y), y.row_stride())),
            _ => None,
        }
    }
}

/// Distributes spans of memory evenly over the tiles of a product, to be prefetched.
pub(super) struct Hints<'a> {
    pub spans: &'a [Ahead],
    pub tiles: usize,
    pub tile: usize,
}

impl Hints<'_> {
    pub fn next(&mut self) -> (*const u8, usize) {
        let rounds = self.tiles.div_ceil(self.spans.len()).max(1);
        let (round, span) = (self.tile / self.spans.len(), &self.spans[self.tile % self.spans.len()]);
        self.tile += 1;
        let part = span.bytes.div_ceil(rounds);
        (span.start.wrapping_add(part * round), part)
    }
}

/// A tile of C.
pub(super) struct Place {
    pub row: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

/// The epilogue on one tile that is still in the first-level cache. A separate function, so that the loops
/// above stay small.
pub(super) struct Finish<'f, 'a, T>(pub &'f mut Epilogue<'a, T>, pub &'f mut MatMut<'a, T>, pub Place);

impl<T: Element> Op<T> for Finish<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Finish(epilogue, c, Place { row, rows, col, cols }) = self;
        let c = c.block(row, rows, col, cols);
        match epilogue {
            Epilogue::None => {}
            Epilogue::Activate(act, saved) => {
                act.forward_in(s, c, saved.as_mut().map(|m| m.block(row, rows, col, cols)));
            }
            Epilogue::Derivative(act, from) => act.backward(s, c, from.block(row, rows, col, cols)),
        }
    }
}
