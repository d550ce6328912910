//! Operands in parts, in the order in which tiles are read.
//!
//! A left operand is m × k, a right one k × n; both are seen here as **lanes** (rows of A, columns of B) of k
//! numbers. Panels of [`LANES`] lanes come one after the other, each
//!
//! ```text
//! for each step of DEPTH of k; for each part; for each half of the lanes: a tile of 1 KB
//! ```
//!
//! A tile of A has a row per lane, one of B a row per pair of neighbours in k, and both hold such pairs:
//! `A[i][p] = (a(i, 2p), a(i, 2p+1))`, `B[p][j] = (b(2p, j), b(2p+1, j))`. What is beyond the last lane or the last
//! of k is 0.

use std::ops::Range;

use super::{DEPTH, LANES};
use crate::element::{Dtype, Element};
use crate::gemm::pack::{PANEL, Panels};
use crate::simd::Amx;
use crate::view::MatRef;

/// Which operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    A,
    /// The right one.
    B,
}

/// Elements, of four bytes, of the panels of an operand.
pub fn split_len(lanes: usize, k: usize, parts: usize) -> usize {
    lanes.next_multiple_of(LANES) * k.next_multiple_of(DEPTH) * parts / 2
}

/// An operand in panels.
#[derive(Clone, Copy, Debug)]
pub struct SplitPanels<'a, T> {
    data: &'a [T],
    lanes: usize,
    k: usize,
    parts: usize,
}

impl<'a, T: Element> SplitPanels<'a, T> {
    /// Takes the panels of so many lanes of k numbers.
    ///
    /// # Panics
    /// If there are not [`split_len`] elements.
    pub fn new(data: &'a [T], lanes: usize, k: usize, parts: usize) -> Self {
        assert_eq!(data.len(), split_len(lanes, k, parts));
        SplitPanels { data, lanes, k, parts }
    }

    /// The lanes `from .. from + lanes`.
    ///
    /// # Panics
    /// If `from` is not the start of a panel, or the lanes do not end with one.
    pub fn block(self, from: usize, lanes: usize) -> Self {
        assert!(from.is_multiple_of(LANES) && from + lanes <= self.lanes);
        assert!(lanes.is_multiple_of(LANES) || from + lanes == self.lanes);
        let at = |lanes| split_len(lanes, self.k, self.parts);
        SplitPanels { data: &self.data[at(from)..at(from + lanes)], lanes, ..self }
    }

    /// Lanes.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
    /// Numbers of a lane.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Parts of a number.
    pub fn parts(&self) -> usize {
        self.parts
    }
    /// All elements.
    pub fn data(&self) -> &'a [T] {
        self.data
    }
}

/// Splits the numbers `from ..` of lanes of `k`, `m`, to where they belong in panels that start at `into`. `from` is
/// a multiple of [`DEPTH`]; all of the last step is written, so that the numbers behind it are none or go
/// on from the next step.
///
/// # Safety
/// The elements of the panels must be valid for writing, and those of these steps be nobody else's.
pub unsafe fn split<T: Element>(
    amx: Amx,
    m: MatRef<'_, T>,
    side: Side,
    parts: usize,
    (from, k): (usize, usize),
    into: *mut T,
) {
    assert!(T::DTYPE == Dtype::F32 && from.is_multiple_of(DEPTH) && from + m.cols() <= k);
    assert!(m.row_stride() == 1 || m.col_stride() == 1);
    #[cfg(target_arch = "x86_64")]
    {
        let lanes = Lanes {
            data: m.as_ptr().cast(),
            lanes: m.rows(),
            k: m.cols(),
            lane_stride: m.row_stride(),
            // A single lane may have any stride of k: it is read along k.
            along: m.col_stride() == 1,
            k_stride: m.col_stride(),
        };
        let panel = split_len(LANES, k, parts);
        let into = into.wrapping_add(from / DEPTH * split_len(LANES, DEPTH, parts)).cast::<f32>();
        // SAFETY: the token proves AVX-512 with bfloat16; the caller promised the memory.
        unsafe {
            match parts {
                1 => x86::split::<1>(amx, lanes, side, panel, into),
                2 => x86::split::<2>(amx, lanes, side, panel, into),
                _ => x86::split::<3>(amx, lanes, side, panel, into),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (side, parts, into);
        match amx {}
    }
}

/// Splits the columns `cols`, whole panels, of a weight matrix in panels, or of its transpose, to `into`.
///
/// # Safety
/// As [`split`].
pub unsafe fn split_weight<T: Element>(
    weight: Panels<'_, T>,
    forward: bool,
    cols: &Range<usize>,
    parts: usize,
    into: *mut T,
) {
    const { assert!(PANEL == LANES && PANEL == DEPTH) };
    let amx = Amx::new().expect("planned where there are tiles");
    let (k, n) = (weight.k(), weight.n());
    let panel = |j: usize| {
        let width = PANEL.min(n - j);
        MatRef::new(&weight.data()[j * k..(j + width) * k], k, width)
    };
    if forward {
        for j in cols.clone().step_by(PANEL) {
            let into = into.wrapping_add(split_len(j - cols.start, k, parts));
            // SAFETY: handed on from the caller.
            unsafe { split(amx, panel(j).t(), Side::B, parts, (0, k), into) };
        }
    } else {
        for j in (0..n).step_by(PANEL) {
            let rows = panel(j).block(cols.start, cols.len(), 0, PANEL.min(n - j));
            // SAFETY: handed on from the caller.
            unsafe { split(amx, rows, Side::B, parts, (j, n), into) };
        }
    }
}

/// Lanes in memory.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Lanes {
    data: *const f32,
    lanes: usize,
    k: usize,
    lane_stride: usize,
    /// Whether numbers of a lane are neighbours; else lanes are.
    along: bool,
    k_stride: usize,
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{DEPTH, LANES, Lanes, Side};
    use crate::simd::{Amx, Simd};

    /// Lanes of a tile, pairs of one, and elements of a row of one.
    const HALF: usize = 16;
    const TILE: usize = HALF * HALF;

    /// As [`super::split`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    pub(super) unsafe fn split<const PARTS: usize>(
        amx: Amx,
        m: Lanes,
        side: Side,
        panel: usize,
        into: *mut f32,
    ) {
        // Rows of a tile are what lies in memory as it is, or have to be turned.
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
                // SAFETY: lanes × depth numbers are inside of what the caller promised, and so are the tiles.
                unsafe {
                    if m.along {
                        along::<PARTS>(data, m.lane_stride, lanes, depth, to, part);
                    } else {
                        down::<PARTS>(data, m.k_stride, lanes, depth, to, part);
                    }
                    if turned {
                        for part in 0..PARTS {
                            let (from, into) = (to.add(part * TILE), into.add(part * 2 * TILE));
                            amx.avx512().transpose(from, HALF, into, HALF, HALF, HALF);
                        }
                    }
                }
            }
        }
    }

    /// Tiles on their way.
    #[repr(align(64))]
    struct Aside([f32; 3 * TILE]);

    /// What bfloat16 makes of each number, and what is left of it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    fn cut(x: __m512) -> (__m256i, __m512) {
        // SAFETY: both are 256 bits of anything.
        let high: __m256i = unsafe { std::mem::transmute(_mm512_cvtneps_pbh(x)) };
        let value = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
        (high, _mm512_sub_ps(x, _mm512_castsi512_ps(value)))
    }

    fn first(n: usize) -> __mmask16 {
        ((1u32 << n.min(HALF)) - 1) as __mmask16
    }

    /// A row per lane, pairs of neighbours in k: numbers as they lie. A tile per part, so far apart.
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
            // SAFETY: masked loads of what the caller promised, and a row of its tiles.
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

    /// A row per pair of neighbours in k, a pair per lane: of two rows in memory. Tiles as above.
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
            // SAFETY: masked loads of what the caller promised, and a row of its tiles.
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
}
