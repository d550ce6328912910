//! Splits operands into parts, in the order of their panels.

use std::arch::x86_64::*;
use std::ops::Range;

use super::panels::{Side, split_len};
use super::{DEPTH, LANES};
use crate::element::{Dtype, Element};
use crate::gemm::pack::{PANEL, Panels};
use crate::simd::{Bf16, Simd};
use crate::view::MatRef;

/// Splits `m`, the numbers `from ..` of lanes that have `k` numbers, into their place in the panels that
/// start at `into`. `from` must be a multiple of [`DEPTH`]; the last step is written whole, so `m` must end
/// with the lanes or at the end of a step.
///
/// # Safety
/// The elements of the panels must be valid for writing, and nobody else may use those of these steps
/// meanwhile.
pub unsafe fn split<T: Element>(
    bf16: Bf16,
    m: MatRef<'_, T>,
    side: Side,
    parts: usize,
    (from, k): (usize, usize),
    into: *mut T,
) {
    assert!(T::DTYPE == Dtype::F32 && from.is_multiple_of(DEPTH) && from + m.cols() <= k);
    assert!(m.row_stride() == 1 || m.col_stride() == 1);
    let lanes = Lanes {
        data: m.as_ptr().cast(),
        lanes: m.rows(),
        k: m.cols(),
        lane_stride: m.row_stride(),
        along: m.col_stride() == 1,
        k_stride: m.col_stride(),
    };
    let panel = split_len(LANES, k, parts);
    let into = into.wrapping_add(from / DEPTH * split_len(LANES, DEPTH, parts)).cast::<f32>();
    // SAFETY: the token proves that the CPU has AVX-512 and bfloat16; the caller promises that the memory is
    // valid.
    unsafe {
        match parts {
            1 => split_lanes::<1>(bf16, lanes, side, panel, into),
            2 => split_lanes::<2>(bf16, lanes, side, panel, into),
            _ => split_lanes::<3>(bf16, lanes, side, panel, into),
        }
    }
}

/// Splits columns `cols`, whole panels, of a weight matrix in panels, or of its transpose, into `into`.
///
/// # Safety
/// As [`split`].
pub unsafe fn split_weight<T: Element>(
    bf16: Bf16,
    weight: Panels<'_, T>,
    forward: bool,
    cols: &Range<usize>,
    parts: usize,
    into: *mut T,
) {
    const { assert!(PANEL == LANES && PANEL == DEPTH) };
    let (k, n) = (weight.k(), weight.n());
    let panel = |j: usize| {
        let width = PANEL.min(n - j);
        MatRef::new(&weight.data()[j * k..(j + width) * k], k, width)
    };
    if forward {
        for j in cols.clone().step_by(PANEL) {
            let into = into.wrapping_add(split_len(j - cols.start, k, parts));
            // SAFETY: the caller promises that `into` is valid and ours.
            unsafe { split(bf16, panel(j).t(), Side::B, parts, (0, k), into) };
        }
    } else {
        for j in (0..n).step_by(PANEL) {
            let rows = panel(j).block(cols.start, cols.len(), 0, PANEL.min(n - j));
            // SAFETY: the caller promises that `into` is valid and ours.
            unsafe { split(bf16, rows, Side::B, parts, (j, n), into) };
        }
    }
}

/// Lanes, as they lie in memory.
#[derive(Clone, Copy)]
struct Lanes {
    data: *const f32,
    lanes: usize,
    k: usize,
    lane_stride: usize,
    /// Whether the numbers of a lane are adjacent; otherwise lanes are.
    along: bool,
    k_stride: usize,
}

/// Lanes of a tile, pairs in a row of one, and elements of one.
const HALF: usize = 16;
const TILE: usize = HALF * HALF;

/// As [`split`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn split_lanes<const PARTS: usize>(bf16: Bf16, m: Lanes, side: Side, panel: usize, into: *mut f32) {
    // Rows of a tile are as they lie in memory, or have to be transposed.
    let turned = m.along == (side == Side::B);
    let mut aside = Aside([0.0; 3 * TILE]);
    for first in (0..m.lanes.next_multiple_of(LANES)).step_by(HALF) {
        let (group, half) = (first / LANES, first % LANES / HALF);
        let lanes = HALF.min(m.lanes.saturating_sub(first));
        for from in (0..m.k).step_by(DEPTH) {
            let depth = DEPTH.min(m.k - from);
            let into = into.wrapping_add(group * panel + (from / DEPTH * PARTS * 2 + half) * TILE);
            let data = m.data.wrapping_add(first * m.lane_stride + from * m.k_stride);
            let (to, part) = if turned { (aside.0.as_mut_ptr(), TILE) } else { (into, 2 * TILE) };
            // SAFETY: the lanes × depth numbers are inside `m`, and the tiles inside the panels that the
            // caller promised.
            unsafe {
                if m.along {
                    along::<PARTS>(data, m.lane_stride, lanes, depth, to, part);
                } else {
                    down::<PARTS>(data, m.k_stride, lanes, depth, to, part);
                }
                if turned {
                    for part in 0..PARTS {
                        let (from, into) = (to.add(part * TILE), into.add(part * 2 * TILE));
                        bf16.avx512().transpose(from, HALF, into, HALF, HALF, HALF);
                    }
                }
            }
        }
    }
}

/// Tiles that are still to be transposed.
#[repr(align(64))]
struct Aside([f32; 3 * TILE]);

/// Each number rounded to bfloat16, and what is left of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn cut(x: __m512) -> (__m256i, __m512) {
    // SAFETY: both types have 256 bits, of which every pattern is valid.
    let high: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) };
    let value = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
    (high, _mm512_sub_ps(x, _mm512_castsi512_ps(value)))
}

fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(HALF)) - 1) as __mmask16
}

/// Tiles with a row per lane, made of pairs adjacent in k, as the numbers lie in memory. One tile per part,
/// `apart` elements from each other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn along<const PARTS: usize>(
    data: *const f32,
    stride: usize,
    lanes: usize,
    depth: usize,
    into: *mut f32,
    apart: usize,
) {
    let (low, high) = (first(depth), first(depth.saturating_sub(HALF)));
    for i in 0..HALF {
        let row = data.wrapping_add(i * stride);
        let (low, high) = if i < lanes { (low, high) } else { (0, 0) };
        // SAFETY: masked loads from `m`, and stores to a row of the tiles, both of which the caller promises
        // to be valid.
        unsafe {
            let mut x = _mm512_maskz_loadu_ps(low, row);
            let mut y = _mm512_maskz_loadu_ps(high, row.wrapping_add(HALF));
            for part in 0..PARTS {
                let ((a, left), (b, right)) = (cut(x), cut(y));
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
                _mm512_storeu_si512(into.add(part * apart + i * HALF).cast(), both);
                (x, y) = (left, right);
            }
        }
    }
}

/// Tiles with a row per pair of neighbours in k, made from two rows in memory, a pair per lane. Tiles as
/// above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn down<const PARTS: usize>(
    data: *const f32,
    stride: usize,
    lanes: usize,
    depth: usize,
    into: *mut f32,
    apart: usize,
) {
    let mask = first(lanes);
    for p in 0..HALF {
        let row = data.wrapping_add(2 * p * stride);
        let of = |k: usize| if k < depth { mask } else { 0 };
        // SAFETY: masked loads from `m`, and stores to a row of the tiles, both of which the caller promises
        // to be valid.
        unsafe {
            let mut x = _mm512_maskz_loadu_ps(of(2 * p), row);
            let mut y = _mm512_maskz_loadu_ps(of(2 * p + 1), row.wrapping_add(stride));
            for part in 0..PARTS {
                let ((a, left), (b, right)) = (cut(x), cut(y));
                let b = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(b));
                let both = _mm512_or_si512(_mm512_cvtepu16_epi32(a), b);
                _mm512_storeu_si512(into.add(part * apart + p * HALF).cast(), both);
                (x, y) = (left, right);
            }
        }
    }
}
