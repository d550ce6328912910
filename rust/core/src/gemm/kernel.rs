//! The micro-kernel: one register tile of C over a block of k.
//!
//! ```text
//! acc[i][j] = C[i, j]                                 (or the bias, or zero)
//! for p in 0..k:
//!     b[j] = B[p, j]            NV vectors
//!     for i in 0..MR:
//!         acc[i][j] = fma(splat(A[i, p]), b[j], acc[i][j])
//! C[i, j] = acc[i][j]
//! ```
//!
//! `MR × NV` accumulators, `NV` vectors of B and one broadcast of A fill the register file of the ISA.
//! Narrower edges use smaller instantiations of the same code; the last vector is masked. One and two rows
//! have wider tiles: `MR · NV` independent chains of additions must hide the latency of one addition, and
//! with so few rows they must lie side by side.
//!
//! A tile also prefetches memory that a later one will need: one cache line, or a part of one, per step.

use super::Init;
use crate::element::Element;
use crate::layer::{Function, relu::Relu, tanh::Tanh};
use crate::simd::{Op, Portable, Simd, prefetch_later};

use super::pack::PANEL;

/// Where a tile's operands are.
#[derive(Clone, Copy)]
pub(super) struct Tile<T> {
    pub k: usize,
    pub a: *const T,
    /// Elements from one row of A to the next.
    pub a_row: usize,
    /// Elements from one step of k to the next.
    pub a_step: usize,
    pub b: *const T,
    pub b_step: usize,
    /// Elements from one panel of B to the next.
    pub b_panel: usize,
    pub c: *mut T,
    pub c_row: usize,
    pub start: Start<T>,
    /// What is done to complete sums before they are stored.
    pub last: Last<T>,
    /// Columns of the tile.
    pub cols: usize,
    /// Address to prefetch, which need not be valid, and the bytes by which it advances in every step.
    pub ahead: *const u8,
    pub ahead_step: usize,
    /// Whether that memory will be written. (Only tiles whose rows of A are adjacent look at this.)
    pub ahead_write: bool,
}

/// What is done to a tile while it is in registers: the epilogues that take a few instructions. The pointers
/// are to the tile's first element in another matrix, and come with that matrix's row stride.
#[derive(Clone, Copy)]
pub(super) enum Last<T> {
    Nothing,
    /// ReLU forward,
    Relu,
    /// ReLU backward, from the layer's output,
    ReluSlope(*const T, usize),
    /// and tanh backward, from the layer's output.
    TanhSlope(*const T, usize),
}

/// [`Init`] for one tile: pointers are to the tile's first column.
#[derive(Clone, Copy)]
pub(super) enum Start<T> {
    Zero,
    Bias(*const T),
    Accumulate,
}

impl<T: Element> Start<T> {
    /// At column `j`, which must be less than the number of columns.
    pub fn at(init: &Init<'_, T>, j: usize) -> Self {
        match init {
            Init::Zero => Start::Zero,
            Init::Bias(bias) => Start::Bias(bias[j..].as_ptr()),
            Init::Accumulate => Start::Accumulate,
        }
    }
}

/// The tile shapes of an ISA, implemented for each token according to its number of registers.
pub trait Kernels<T: Element>: Sized {
    /// Rows of the full tile.
    const MR: usize;
    /// Vectors in a row of the full tile.
    const NV: usize;
    /// Computes a tile of at most [`MR`](Self::MR) rows, and of columns that fill at most `NV` vectors, or
    /// exactly one of the [`wide`] tiles for that number of rows.
    ///
    /// # Safety
    /// All elements that the tile refers to must be valid, those of C for writing.
    #[doc(hidden)]
    #[allow(private_interfaces)]
    unsafe fn tile(self, rows: usize, tile: Tile<T>);
}

/// Vectors of the tiles of `rows` rows that are wider than `NV`, the widest first: as many chains as it takes
/// for two multiply-adds per cycle with latency four, or as near as the columns left allow.
pub(super) fn wide(rows: usize) -> &'static [usize] {
    match rows {
        1 => &[8, 6, 4],
        2 => &[4],
        _ => &[],
    }
}

/// One instantiation: `MR` rows, `NV` vectors. `MASKED`: the last vector is partial. `UNIT`: rows of A are
/// adjacent in memory (packed or transposed), so that their offsets are immediates. `WRITE`: what is
/// prefetched will be written.
struct TileOp<T, const MR: usize, const NV: usize, const MASKED: bool, const UNIT: bool, const WRITE: bool>(
    Tile<T>,
);

impl<T: Element, const MR: usize, const NV: usize, const MASKED: bool, const UNIT: bool, const WRITE: bool>
    Op<T> for TileOp<T, MR, NV, MASKED, UNIT, WRITE>
{
    type Output = ();

    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Tile { k, a, a_row, a_step, mut b, b_step, b_panel, c, c_row, start, cols, .. } = self.0;
        let Tile { mut ahead, ahead_step, .. } = self.0;
        // A wide tile spans several panels.
        let panel = |j: usize| if NV <= 2 { j * S::N } else { j * S::N / PANEL * b_panel + j * S::N % PANEL };
        // Rows that are apart: one pointer per three rows, whose offsets the addressing modes can express.
        // The pointers are made opaque, in every step: otherwise the compiler would derive them all from one
        // stride by a chain of additions, and wait for it; with a common counter it would keep a pointer per
        // row, more than there are registers for.
        let group = |g: usize| if UNIT { a } else { opaque(a.wrapping_add(3 * g * a_row)) };
        let (mut a0, mut a1, mut a2, mut a3, mut a4) = (group(0), group(1), group(2), group(3), group(4));
        let last = if MASKED { cols - (NV - 1) * S::N } else { S::N };
        let mut acc = [[s.splat(T::ZERO); NV]; MR];
        // SAFETY: the caller of `Kernels::tile` promises that the tile's elements are valid; masked loads and
        // stores touch only the first `last` columns of the last vector.
        unsafe {
            match start {
                Start::Zero => {}
                Start::Bias(bias) => {
                    for j in 0..NV {
                        let v = load::<T, S, NV, MASKED>(s, bias, j, last);
                        for row in &mut acc {
                            row[j] = v;
                        }
                    }
                }
                Start::Accumulate => {
                    for (i, row) in acc.iter_mut().enumerate() {
                        for (j, x) in row.iter_mut().enumerate() {
                            *x = load::<T, S, NV, MASKED>(s, c.add(i * c_row), j, last);
                        }
                    }
                }
            }
            for _ in 0..k {
                let mut bv = [s.splat(T::ZERO); NV];
                for (j, x) in bv.iter_mut().enumerate() {
                    let p = b.wrapping_add(panel(j));
                    *x = if MASKED && j == NV - 1 { s.load_first(p, last) } else { s.load_ptr(p) };
                }
                prefetch_later::<u8, WRITE>(ahead);
                ahead = ahead.wrapping_add(ahead_step);
                // Unrolled by hand: as a loop it is too large for the compiler to unroll, and accumulators
                // that are not unrolled live in memory.
                macro_rules! rows {
                    ($($i:literal $group:ident)*) => {$(
                        if $i < MR {
                            let av = s.splat(if UNIT { *a0.add($i) } else { *$group.add($i % 3 * a_row) });
                            for (x, b) in acc[$i].iter_mut().zip(bv) {
                                *x = s.fma(av, b, *x);
                            }
                        }
                    )*};
                }
                rows!(0 a0 1 a0 2 a0 3 a1 4 a1 5 a1 6 a2 7 a2 8 a2 9 a3 10 a3 11 a3 12 a4 13 a4);
                let next = |a: *const T| match UNIT {
                    true => a.wrapping_add(a_step),
                    false => opaque(a.wrapping_add(a_step)),
                };
                (a0, a1, a2, a3, a4) = (next(a0), next(a1), next(a2), next(a3), next(a4));
                b = b.wrapping_add(b_step);
            }
            macro_rules! slopes {
                ($from:ident, $row:ident, $function:expr) => {
                    for (i, row) in acc.iter_mut().enumerate() {
                        for (j, x) in row.iter_mut().enumerate() {
                            let y = load::<T, S, NV, MASKED>(s, $from.add(i * $row), j, last);
                            *x = $function.backward(s, *x, y);
                        }
                    }
                };
            }
            match self.0.last {
                Last::Nothing => {}
                Last::Relu => acc.iter_mut().flatten().for_each(|x| *x = Relu.forward(s, *x)[0]),
                Last::ReluSlope(from, row) => slopes!(from, row, Relu),
                Last::TanhSlope(from, row) => slopes!(from, row, Tanh),
            }
            for (i, row) in acc.iter().enumerate() {
                for (j, x) in row.iter().enumerate() {
                    let p = c.add(i * c_row + j * S::N);
                    if MASKED && j == NV - 1 { s.store_first(p, last, *x) } else { s.store_ptr(p, *x) }
                }
            }
        }
    }
}

/// Returns the same pointer, but hides from the compiler where it came from.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // there is no instruction that could read through it
fn opaque<T>(p: *const T) -> *const T {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut p = p;
        // SAFETY: the assembly contains no instruction.
        unsafe { std::arch::asm!("/* {} */", inout(reg) p, options(pure, nomem, nostack, preserves_flags)) };
        p
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    p
}

/// Vector `j` of a row of the tile.
#[inline(always)]
unsafe fn load<T: Element, S: Simd<T>, const NV: usize, const MASKED: bool>(
    s: S,
    row: *const T,
    j: usize,
    last: usize,
) -> S::V {
    // SAFETY: the caller's row has NV vectors, the last of them with `last` elements if masked.
    unsafe {
        let p = row.add(j * S::N);
        if MASKED && j == NV - 1 { s.load_first(p, last) } else { s.load_ptr(p) }
    }
}

/// Picks the instantiation for a tile with `MR` rows.
#[inline(always)]
unsafe fn pick<T: Element, S: Simd<T>, const MR: usize>(s: S, t: Tile<T>) {
    const { assert!(S::NV == 2 && PANEL.is_multiple_of(2 * S::N)) };
    if t.cols > 2 * S::N {
        return match (MR, t.cols / S::N) {
            (1, 8) => s.run(TileOp::<T, 1, 8, false, true, false>(t)),
            (1, 6) => s.run(TileOp::<T, 1, 6, false, true, false>(t)),
            (1, 4) => s.run(TileOp::<T, 1, 4, false, true, false>(t)),
            (2, 4) => s.run(TileOp::<T, 2, 4, false, false, false>(t)),
            (rows, vectors) => unreachable!("a tile of {rows} rows and {vectors} vectors"),
        };
    }
    // Where masks are free, one instantiation handles full and partial tiles.
    let masked = S::FREE_MASKS || !t.cols.is_multiple_of(S::N);
    match (t.cols > S::N, masked) {
        (true, true) => walk::<T, S, MR, 2, true>(s, t),
        (false, true) => walk::<T, S, MR, 1, true>(s, t),
        (true, false) if !S::FREE_MASKS => walk::<T, S, MR, 2, false>(s, t),
        _ if !S::FREE_MASKS => walk::<T, S, MR, 1, false>(s, t),
        _ => unreachable!(),
    }
}

/// Picks the instantiation by the layout of A and the purpose of the prefetch.
#[inline(always)]
fn walk<T: Element, S: Simd<T>, const MR: usize, const NV: usize, const MASKED: bool>(s: S, t: Tile<T>) {
    match (t.a_row == 1 || MR == 1, t.ahead_write) {
        (false, _) => s.run(TileOp::<T, MR, NV, MASKED, false, false>(t)),
        (true, false) => s.run(TileOp::<T, MR, NV, MASKED, true, false>(t)),
        (true, true) => s.run(TileOp::<T, MR, NV, MASKED, true, true>(t)),
    }
}

macro_rules! kernels {
    ($token:ty, $mr:literal: $($rows:literal)*) => {
        kernels!(@for f32, $token, $mr: $($rows)*);
        kernels!(@for f64, $token, $mr: $($rows)*);
    };
    (@for $t:ty, $token:ty, $mr:literal: $($rows:literal)*) => {
        impl Kernels<$t> for $token {
            const MR: usize = $mr;
            const NV: usize = 2;
            #[inline]
            #[allow(private_interfaces)]
            unsafe fn tile(self, rows: usize, tile: Tile<$t>) {
                match rows {
                    // SAFETY: the caller makes the promise that `pick` needs.
                    $($rows => unsafe { pick::<$t, Self, $rows>(self, tile) },)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }
        }
    };
}

// 16 registers: 4·2 accumulators, 2 for B, 1 for A, and room for the unfused products.
kernels!(Portable, 4: 1 2 3 4);
// 16 registers: 6·2 + 2 + 1.
#[cfg(target_arch = "x86_64")]
kernels!(crate::simd::Avx2, 6: 1 2 3 4 5 6);
// 32 registers: 14·2 + 2 + 1.
#[cfg(target_arch = "x86_64")]
kernels!(crate::simd::Avx512, 14: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
// 32 registers: 12·2 + 2 + 1.
#[cfg(target_arch = "aarch64")]
kernels!(crate::simd::Neon, 12: 1 2 3 4 5 6 7 8 9 10 11 12);
