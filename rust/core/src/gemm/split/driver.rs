//! The loops around the micro-kernel.
//!
//! ```text
//! for k0 in blocks of BLOCK                  sums over earlier blocks wait in C
//!   [split this block of A]
//!   for j in panels of B
//!     for i in panels of A: kernel, and its sums to C; on the last k0: epilogue
//! ```

use super::kernel::{Block, Operands, Start, Unit};
use super::pack::split;
use super::panels::{Side, split_len};
use super::{BLOCK, DEPTH, LANES};
use crate::element::{Dtype, Element};
use crate::gemm::driver::{Finish, Hints, Place};
use crate::gemm::{Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::simd::{Bf16, Simd};

/// Space for a block that is not whole in C, with cache lines of its own.
#[repr(align(64))]
struct Aside<T>([T; LANES * LANES]);

/// A row of zeros to start from.
static ZEROS: Aside<f32> = Aside([0.0; LANES * LANES]);

#[inline(always)]
pub fn run<T: Element, S: Simd<T>>(s: S, bf16: Bf16, gemm: Gemm<'_, T>, plan: &GemmPlan, scratch: &mut [T]) {
    let Gemm { a, b, mut c, init, mut epilogue, ahead } = gemm;
    let (m, n, k, parts) = (c.rows(), c.cols(), a.cols(), plan.precision.parts());
    let Rhs::Split(b) = b else { panic!("the right operand comes in parts") };
    assert!(T::DTYPE == Dtype::F32 && b.parts() == parts);
    if let Lhs::Split(a) = &a {
        assert_eq!(a.parts(), parts);
    }
    assert!(
        a.rows() == m && b.lanes() == n && b.k() == k,
        "({} × {k}) · ({} × {}) → {m} × {n}",
        a.rows(),
        b.k(),
        b.lanes()
    );
    if let Init::Bias(bias) = init {
        assert_eq!(bias.len(), n);
    }
    epilogue.check(m, n);
    let unit = Unit::of(bf16, plan.tiles);
    let mut aside = Aside([T::ZERO; LANES * LANES]);
    let step = split_len(LANES, DEPTH, parts);
    let panel = split_len(LANES, k, parts);
    let tiles_of_c = m.div_ceil(LANES) * n.div_ceil(LANES) * k.div_ceil(BLOCK);
    let mut hints = Hints { spans: ahead, tiles: tiles_of_c, tile: 0 };
    let mut k0 = 0;
    loop {
        let kc = BLOCK.min(k - k0);
        let (steps, last) = (kc.div_ceil(DEPTH), k0 + kc == k);
        let (a_data, a_panel) = match &a {
            Lhs::Split(a) => (a.data()[k0 / DEPTH * step..].as_ptr(), panel),
            Lhs::Plain(a) => {
                let block = &mut scratch[..split_len(m, kc, parts)];
                // SAFETY: the panels of this block are a slice of our scratch of exactly the length that
                // `split` fills.
                unsafe { split(bf16, a.block(0, m, k0, kc), Side::A, parts, (0, kc), block.as_mut_ptr()) };
                (block.as_ptr(), split_len(LANES, kc, parts))
            }
            Lhs::Panels(_) => panic!("the left operand comes as it is or in parts"),
        };
        let goes_on = k0 > 0 || matches!(init, Init::Accumulate);
        for (jp, j) in (0..n).step_by(LANES).enumerate() {
            let b_data = b.data()[jp * panel + k0 / DEPTH * step..].as_ptr();
            for (ip, i) in (0..m).step_by(LANES).enumerate() {
                let place = Place { row: i, rows: LANES.min(m - i), col: j, cols: LANES.min(n - j) };
                let operands = Operands {
                    parts,
                    steps,
                    a: a_data.wrapping_add(ip * a_panel).cast(),
                    b: b_data.cast(),
                    // The next panel of B, unless the caller asked for something else.
                    ahead: match ahead {
                        [] => b_data.wrapping_add(panel + ip * steps * step / 4).cast(),
                        _ => hints.next().0,
                    },
                };
                let bias = if let Init::Bias(bias) = init { Some(&bias[j..j + place.cols]) } else { None };
                let mut block = c.block(i, place.rows, j, place.cols);
                if place.rows == LANES && place.cols == LANES {
                    let into = Block { data: block.as_mut_ptr().cast(), row: block.row_stride() };
                    let start = match bias {
                        _ if goes_on => Start { data: into.data, row: into.row },
                        Some(bias) => Start { data: bias.as_ptr().cast(), row: 0 },
                        None => Start { data: ZEROS.0.as_ptr(), row: 0 },
                    };
                    // SAFETY: both panels have `steps` steps from there on, since `a` and `b` have k steps of
                    // four-byte elements; C has a whole block here, and so does `start`.
                    unsafe { unit.multiply(operands, start, into) };
                } else {
                    for (r, row) in aside.0.chunks_exact_mut(LANES).take(place.rows).enumerate() {
                        let row = &mut row[..place.cols];
                        match bias {
                            _ if goes_on => row.copy_from_slice(block.row_mut(r)),
                            Some(bias) => row.copy_from_slice(bias),
                            None => row.fill(T::ZERO),
                        }
                    }
                    let into = Block { data: aside.0.as_mut_ptr().cast(), row: LANES };
                    // SAFETY: as above, and the block is our own `aside`.
                    unsafe { unit.multiply(operands, Start { data: into.data, row: into.row }, into) };
                    for (r, row) in aside.0.chunks_exact(LANES).take(place.rows).enumerate() {
                        block.row_mut(r).copy_from_slice(&row[..place.cols]);
                    }
                }
                if last {
                    s.run(Finish(&mut epilogue, &mut c, place));
                }
            }
        }
        k0 += kc;
        if last {
            break;
        }
    }
}
