//! The micro-kernel of the tile unit: sums take four of the eight tile registers.
//!
//! Two tiles of A and two of B take the other four. The products of parts are ordered so that each one loads
//! at most one of the operands anew, small products first.

use std::marker::PhantomData;

use super::kernel::{Block, Operands, Start};
use super::{DEPTH, LANES};
use crate::simd::Amx;

/// Tile registers in use: until this is dropped, each is 16 rows of 64 bytes.
pub(super) struct Tiles {
    /// Registers and their configuration belong to the thread, so this must not move to another.
    thread: PhantomData<*const ()>,
}

impl Tiles {
    pub fn configure(_: Amx) -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(16);
        let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the token proves that the CPU has tiles and that this process may use them; the
        // configuration is valid for palette 1.
        unsafe {
            std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(readonly, nostack, preserves_flags));
        }
        Tiles { thread: PhantomData }
    }

    /// C = start + the sums over some steps of k, one after the other.
    ///
    /// # Safety
    /// Both panels must have `steps` steps from there on, and both `start` and C must be 32 × 32 elements,
    /// C's for writing.
    #[inline]
    pub unsafe fn multiply(&self, Operands { parts, steps, a, b, ahead }: Operands, start: Start, c: Block) {
        const { assert!(LANES == 32 && DEPTH == 32) };
        assert!(steps > 0);
        // Loads both halves of a part of an operand, and adds the products of the parts that are loaded.
        macro_rules! a {
            ($part:literal) => {
                concat!(
                    concat!("tileloadd tmm4, [{a} + {row}*1 + 2048*", $part, "]\n"),
                    concat!("tileloadd tmm5, [{a} + {row}*1 + 2048*", $part, " + 1024]")
                )
            };
        }
        macro_rules! b {
            ($part:literal) => {
                concat!(
                    concat!("tileloadd tmm6, [{b} + {row}*1 + 2048*", $part, "]\n"),
                    concat!("tileloadd tmm7, [{b} + {row}*1 + 2048*", $part, " + 1024]")
                )
            };
        }
        macro_rules! add {
            () => {
                concat!(
                    "tdpbf16ps tmm0, tmm4, tmm6\n prefetcht1 [{ahead}]\n",
                    "tdpbf16ps tmm1, tmm4, tmm7\n prefetcht1 [{ahead} + 64]\n",
                    "tdpbf16ps tmm2, tmm5, tmm6\n prefetcht1 [{ahead} + 128]\n",
                    "tdpbf16ps tmm3, tmm5, tmm7\n prefetcht1 [{ahead} + 192]\n",
                    "add {ahead}, 256"
                )
            };
        }
        // Prefetches four more lines, where there are fewer products than lines per part.
        macro_rules! more {
            () => {
                concat!(
                    "prefetcht1 [{ahead}]\n prefetcht1 [{ahead} + 64]\n",
                    "prefetcht1 [{ahead} + 128]\n prefetcht1 [{ahead} + 192]\n add {ahead}, 256"
                )
            };
        }
        macro_rules! block {
            ($parts:literal: $($step:expr),*) => {
                // SAFETY: `self` proves that this thread's tiles are configured, and the caller promises the
                // panels, `start` and C; `ahead` is only prefetched.
                unsafe {
                    std::arch::asm!(
                        "tileloadd tmm0, [{from} + {from_row}*4]",
                        "tileloadd tmm1, [{from} + {from_row}*4 + 64]",
                        "tileloadd tmm2, [{below} + {from_row}*4]",
                        "tileloadd tmm3, [{below} + {from_row}*4 + 64]",
                        "2:",
                        $($step,)*
                        concat!("add {a}, 2048*", $parts),
                        concat!("add {b}, 2048*", $parts),
                        "dec {n}",
                        "jnz 2b",
                        "tilestored [{c} + {c_row}*4], tmm0",
                        "tilestored [{c} + {c_row}*4 + 64], tmm1",
                        "tilestored [{c_below} + {c_row}*4], tmm2",
                        "tilestored [{c_below} + {c_row}*4 + 64], tmm3",
                        n = inout(reg) steps => _,
                        a = inout(reg) a => _,
                        b = inout(reg) b => _,
                        ahead = inout(reg) ahead => _,
                        row = in(reg) 64_usize,
                        from = in(reg) start.data,
                        below = in(reg) start.data.wrapping_add(LANES / 2 * start.row),
                        from_row = in(reg) start.row,
                        c = in(reg) c.data,
                        c_below = in(reg) c.data.wrapping_add(LANES / 2 * c.row),
                        c_row = in(reg) c.row,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack),
                    )
                }
            };
        }
        match parts {
            1 => block!("1": a!("0"), b!("0"), add!(), more!()),
            2 => block!("2": a!("1"), b!("0"), add!(), a!("0"), add!(), b!("1"), add!(), more!()),
            _ => block!("3":
                a!("2"), b!("0"), add!(), a!("1"), add!(), b!("1"), add!(), a!("0"), add!(),
                b!("2"), add!(), b!("0"), add!()),
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `configure` set the tiles up, and nobody reads them any more.
        unsafe {
            std::arch::asm!("tilerelease", options(nostack, preserves_flags));
        }
    }
}
