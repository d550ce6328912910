//! The loops around the micro-kernel.
//!
//! ```text
//! for k0 in blocks of kc                     sums over earlier blocks wait in C
//!   for i0 in blocks of mc                   [pack this block of A]
//!     for j in panels of nr                  [pack this panel of B]
//!       for i in tiles of mr: kernel; on the last k0: epilogue
//! ```

use super::kernel::{Start, Tile};
use super::{Epilogue, Gemm, GemmPlan, Init, Rhs, pack};
use crate::element::Element;
use crate::simd::{Op, Simd};
use crate::view::MatMut;

#[inline(always)]
pub(super) fn run<T: Element, S: Simd<T>>(s: S, gemm: Gemm<'_, T>, plan: &GemmPlan, scratch: &mut [T]) {
    let Gemm { a, b, mut c, init, mut epilogue } = gemm;
    let (m, n, k) = (c.rows(), c.cols(), a.cols());
    let (bk, bn) = match &b {
        Rhs::Plain(b) => (b.rows(), b.cols()),
        Rhs::Packed(b) => (b.k(), b.n()),
    };
    assert!(a.rows() == m && bn == n && bk == k, "({} × {k}) · ({bk} × {bn}) → {m} × {n}", a.rows());
    assert_eq!((plan.tile.mr, plan.tile.nr), (S::MR, S::NV * S::N), "a plan for another ISA or type");
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n);
    }
    match &epilogue {
        Epilogue::Activate(_, Some(saved)) => assert!(saved.rows() == m && saved.cols() == n),
        Epilogue::Derivative(_, from) => {
            assert!(from.rows() == m && from.cols() == n && from.col_stride() == 1)
        }
        _ => {}
    }
    let (a_scratch, b_scratch) = scratch.split_at_mut(plan.a_scratch());
    let b_scratch = &mut b_scratch[..plan.b_scratch()];
    let (mr, nr) = (S::MR, S::NV * S::N);
    // The wide tile of a single row, which is for weights as they lie.
    let plain = matches!(b, Rhs::Plain(_)) && !plan.pack_b;
    let wide = if m == 1 && plain { S::WIDE_NV * S::N } else { usize::MAX };
    let (c_ptr, c_row) = (c.as_mut_ptr(), c.row_stride());

    let mut k0 = 0;
    loop {
        let kc = plan.kc.min(k - k0);
        let last_block = k0 + kc == k;
        for i0 in (0..m).step_by(plan.mc) {
            let mc = plan.mc.min(m - i0);
            let a_block = a.block(i0, mc, k0, kc);
            if plan.pack_a {
                pack::pack_lhs(a_block, mr, a_scratch);
            }
            let mut j0 = 0;
            while j0 < n {
                let cols = if n - j0 >= wide { wide } else { nr.min(n - j0) };
                let (b_ptr, b_step) = match &b {
                    Rhs::Packed(packed) => (packed.panel(j0 / nr, k0).as_ptr(), nr),
                    Rhs::Plain(plain) => {
                        let panel = plain.block(k0, kc, j0, cols);
                        if plan.pack_b {
                            pack::pack_rhs(panel, nr, 0, &mut b_scratch[..nr * kc]);
                            (b_scratch.as_ptr(), nr)
                        } else {
                            assert!(plain.col_stride() == 1);
                            (panel.as_ptr(), panel.row_stride())
                        }
                    }
                };
                let start = if k0 == 0 { Start::at(&init, j0) } else { Start::Accumulate };
                let mut i = 0;
                while i < mc {
                    let rows = S::tile_rows(mr.min(mc - i));
                    let (a_ptr, a_row, a_step) = if plan.pack_a {
                        (a_scratch[(i - i % mr) * kc + i % mr..].as_ptr(), 1, mr)
                    } else {
                        (
                            a_block.as_ptr().wrapping_add(i * a_block.row_stride()),
                            a_block.row_stride(),
                            a_block.col_stride(),
                        )
                    };
                    let c_tile = c_ptr.wrapping_add((i0 + i) * c_row + j0);
                    let tile = Tile {
                        k: kc,
                        a: a_ptr,
                        a_row,
                        a_step,
                        b: b_ptr,
                        b_step,
                        c: c_tile,
                        c_row,
                        start,
                        cols,
                    };
                    // SAFETY: rows × cols of C, rows × kc of A and kc × cols of B lie inside the views (or
                    // their packed copies) whose shapes were checked above; C is exclusively ours.
                    unsafe { s.tile(rows, tile) };
                    if last_block {
                        let tile = Place { row: i0 + i, rows, col: j0, cols };
                        s.run(Finish(&mut epilogue, &mut c, tile));
                    }
                    i += rows;
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

/// A tile of C.
struct Place {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

/// The epilogue on one tile, still in the first-level cache. A function of its own, so that the
/// loops above stay small.
struct Finish<'f, 'a, T>(&'f mut Epilogue<'a, T>, &'f mut MatMut<'a, T>, Place);

impl<T: Element> Op<T> for Finish<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Finish(epilogue, c, Place { row, rows, col, cols }) = self;
        let whole = cols == c.cols();
        let cols = col..col + cols;
        match epilogue {
            Epilogue::None => {}
            Epilogue::Activate(act, saved) => {
                // Narrow layers: full rows without gaps are one run, which wastes fewer lanes.
                if whole && let Some(c) = c.rows_slice_mut(row, rows) {
                    match saved.as_mut().map(|m| m.rows_slice_mut(row, rows)) {
                        None => return act.forward(s, c, None),
                        Some(Some(saved)) => return act.forward(s, c, Some(saved)),
                        Some(None) => {}
                    }
                }
                for i in row..row + rows {
                    let saved = saved.as_mut().map(|m| &mut m.row_mut(i)[cols.clone()]);
                    act.forward(s, &mut c.row_mut(i)[cols.clone()], saved);
                }
            }
            Epilogue::Derivative(act, from) => {
                let width = from.cols();
                if whole
                    && let Some(c) = c.rows_slice_mut(row, rows)
                    && let Some(from) = from.block(row, rows, 0, width).as_slice()
                {
                    return act.backward(s, c, from);
                }
                for i in row..row + rows {
                    act.backward(s, &mut c.row_mut(i)[cols.clone()], &from.row(i)[cols.clone()]);
                }
            }
        }
    }
}
