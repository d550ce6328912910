//! What both micro-kernels do: 32 × 32 sums over some steps of k, in `tiles` where there are such, else in
//! `vectors`.

use super::{tiles::Tiles, vectors};
use crate::simd::{Amx, Bf16};

/// A block of C, row by row.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub data: *mut f32,
    /// Elements from one row to the next.
    pub row: usize,
}

/// What sums start from: as many numbers a row, and elements from one row to the next, which may be none.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub data: *const f32,
    pub row: usize,
}

/// What one product of steps takes.
pub(super) struct Operands {
    /// Parts of a number.
    pub parts: usize,
    /// Steps of k.
    pub steps: usize,
    /// Where they start in a panel of A,
    pub a: *const f32,
    /// and in one of B.
    pub b: *const f32,
    /// Memory that will be needed later, which need not exist: lines of it are asked for one after the
    /// other, a quarter as many as one of the operands has.
    pub ahead: *const u8,
}

/// What multiplies.
pub(super) enum Unit {
    Tiles(Tiles),
    Vectors(Bf16),
}

impl Unit {
    /// The one that a plan is for.
    pub fn of(bf16: Bf16, tiles: bool) -> Self {
        match tiles {
            true => Unit::Tiles(Tiles::configure(Amx::new().expect("planned where there are tiles"))),
            false => Unit::Vectors(bf16),
        }
    }

    /// C = start + the sums over some steps of k, one after the other.
    ///
    /// # Safety
    /// Both panels must have so many steps there, and both `start` and C be 32 × 32 elements, C's for
    /// writing.
    #[inline]
    pub unsafe fn multiply(&self, operands: Operands, start: Start, c: Block) {
        // SAFETY: handed on from the caller.
        unsafe {
            match self {
                Unit::Tiles(tiles) => tiles.multiply(operands, start, c),
                Unit::Vectors(bf16) => vectors::multiply(*bf16, operands, start, c),
            }
        }
    }
}
