//! What both micro-kernels do: 32 × 32 sums over some steps of k, in `tiles` where the CPU has them,
//! otherwise in `vectors`.

use super::{tiles::Tiles, vectors};
use crate::simd::{Amx, Bf16};

/// A block of C, row by row.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub data: *mut f32,
    /// Elements from the start of one row to that of the next.
    pub row: usize,
}

/// What sums start from: rows as long as C's, and the elements from one row to the next, which may be 0.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub data: *const f32,
    pub row: usize,
}

/// The operands of one product over some steps of k.
pub(super) struct Operands {
    /// Parts of a number.
    pub parts: usize,
    /// Steps of k.
    pub steps: usize,
    /// Where they start in a panel of A,
    pub a: *const f32,
    /// and in one of B.
    pub b: *const f32,
    /// Memory that will be needed later and need not exist: a quarter as many cache lines of it as an operand
    /// has are prefetched in sequence.
    pub ahead: *const u8,
}

/// What does the multiplication.
pub(super) enum Unit {
    Tiles(Tiles),
    Vectors(Bf16),
}

impl Unit {
    /// The unit that a plan is for.
    pub fn of(bf16: Bf16, tiles: bool) -> Self {
        match tiles {
            true => Unit::Tiles(Tiles::configure(Amx::new().expect("planned where there are tiles"))),
            false => Unit::Vectors(bf16),
        }
    }

    /// C = start + the sums over some steps of k, one after the other.
    ///
    /// # Safety
    /// Both panels must have `steps` steps from there on, and both `start` and C must be 32 × 32 elements,
    /// C's for writing.
    #[inline]
    pub unsafe fn multiply(&self, operands: Operands, start: Start, c: Block) {
        // SAFETY: the caller makes the promise that both units need.
        unsafe {
            match self {
                Unit::Tiles(tiles) => tiles.multiply(operands, start, c),
                Unit::Vectors(bf16) => vectors::multiply(*bf16, operands, start, c),
            }
        }
    }
}
