//! The micro-kernel without tiles: the same sums in vectors of AVX-512 BF16, each instruction of which adds
//! the products of two neighbours in k for sixteen columns. Panels lie as they do for tiles: a row of a tile
//! of A has the pairs of one lane, and a row of a tile of B a pair of each lane.

use std::arch::x86_64::*;

use super::kernel::{Block, Operands, Start};
use super::{DEPTH, LANES};
use crate::simd::Bf16;

/// Rows whose sums are in registers at once, two vectors each.
const ROWS: usize = 8;
/// Lanes of a tile, pairs of a step, and elements of a vector.
const HALF: usize = 16;
const TILE: usize = HALF * HALF;
/// Which parts of A and B are multiplied, in the order of the tile unit's kernel: small products first.
const PRODUCTS: [&[(usize, usize)]; 3] =
    [&[(0, 0)], &[(1, 0), (0, 0), (0, 1)], &[(2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0)]];

/// C = start + the sums over some steps of k, one after the other.
///
/// # Safety
/// Both panels must have `steps` steps from there on, and both `start` and C must be 32 × 32 elements, C's
/// for writing.
pub(super) unsafe fn multiply(_: Bf16, operands: Operands, start: Start, c: Block) {
    // SAFETY: the token proves that the CPU has the instructions; the caller promises the memory.
    unsafe { block(operands, start, c) }
}

/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn block(Operands { parts, steps, a, b, ahead }: Operands, start: Start, c: Block) {
    const { assert!(LANES == 2 * HALF && DEPTH == 2 * HALF) };
    for first in (0..LANES).step_by(ROWS) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        // SAFETY: all accesses are to rows of `start`, C and the panels, which the caller promises; panels
        // have two tiles per part and step.
        unsafe {
            for (i, row) in sums.iter_mut().enumerate() {
                let from = start.data.add((first + i) * start.row);
                *row = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(HALF))];
            }
            for step in 0..steps {
                let lines = ahead.wrapping_add((step * LANES / ROWS + first / ROWS) * 64);
                _mm_prefetch::<_MM_HINT_T1>(lines.cast());
                let (a, b) = (a.add(step * parts * 2 * TILE), b.add(step * parts * 2 * TILE));
                for &(of_a, of_b) in PRODUCTS[parts - 1] {
                    let a = a.add((2 * of_a + first / HALF) * TILE + first % HALF * HALF);
                    let b = b.add(2 * of_b * TILE);
                    for pair in 0..HALF {
                        let columns = [0, TILE].map(|tile| vector(b.add(tile + pair * HALF)));
                        for (i, row) in sums.iter_mut().enumerate() {
                            // Two numbers of one lane of A, for all columns.
                            let lane = _mm512_castsi512_ps(_mm512_set1_epi32(
                                a.add(i * HALF + pair).cast::<i32>().read_unaligned(),
                            ));
                            let lane = std::mem::transmute::<__m512, __m512bh>(lane);
                            row[0] = _mm512_dpbf16_ps(row[0], lane, columns[0]);
                            row[1] = _mm512_dpbf16_ps(row[1], lane, columns[1]);
                        }
                    }
                }
            }
            for (i, row) in sums.iter().enumerate() {
                let into = c.data.add((first + i) * c.row);
                _mm512_storeu_ps(into, row[0]);
                _mm512_storeu_ps(into.add(HALF), row[1]);
            }
        }
    }
}

/// Loads thirty-two bfloat16 numbers.
///
/// # Safety
/// They must be readable at `from`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn vector(from: *const f32) -> __m512bh {
    // SAFETY: the caller promises that 512 bits are readable; in both types every pattern of them is valid.
    unsafe { std::mem::transmute(_mm512_loadu_ps(from)) }
}
