//! Products of float32 numbers by those of bfloat16.
//!
//! A number is written as a sum of parts with eight bits each, x = x₀ + x₁ + x₂ + …, every part what bfloat16
//! makes of what the earlier ones left over. A product of two numbers is then the sum of products of
//! parts, of which the small ones are left out:
//!
//! ```text
//!                                                                       error of a product, at most
//! bfloat16   1 part     x₀y₀                                              2·2⁻⁸
//! bf16x3     2 parts    x₁y₀ + x₀y₁ + x₀y₀                                3·2⁻¹⁶
//! bf16x6     3 parts    x₂y₀ + x₁y₀ + x₁y₁ + x₀y₁ + x₀y₂ + x₀y₀           4·2⁻²⁴
//! ```
//!
//! Products of parts are exact in float32, where they are added up. With three parts sums are as good as those of
//! float32, as Henry, Tang & Heinecke 2019 found ("Leveraging
//! the bfloat16 artificial intelligence datatype for higher-precision computations", arXiv:1904.06376), and
//! the sixteen times as many products a cycle of a tile unit leave a gain of two or so. Vectors of AVX-512 BF16 take
//! twice as many as those of float32: there one part gains, and more would lose.
//!
//! Every element of C is one chain of what the unit does in a step, begun from its initial value, in the order of
//! k: the same bits for every partition of the work. Numbers below 2⁻¹²⁶ count as 0, parts that are too small
//! likewise. In one part, numbers above 3.39·10³⁸ round to infinity, and what is infinite stays so; in more, it gives
//! NaN, which is infinite minus itself.
//!
//! Rooms: `panels` says how operands lie, `pack` splits them so, `kernel` multiplies one block of them, in `tiles` or
//! `vectors`, `driver` loops; `absent` stands for them where there can be neither.

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod driver;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pack;
mod panels;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(not(target_arch = "x86_64"))]
use absent as pack;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use absent::run;
#[cfg(target_arch = "x86_64")]
pub(super) use driver::run;
pub use pack::{split, split_weight};
pub use panels::{Side, SplitPanels, split_len};

use crate::element::{Dtype, Element};
use crate::error::Error;
use crate::simd::{Amx, Bf16, Isa};

/// Lanes of a panel: rows of A or columns of B, two tiles of sixteen.
pub const LANES: usize = 32;
/// Steps of k in a tile.
pub const DEPTH: usize = 32;
/// Steps of k that are taken together: their panels stay in the second-level cache.
pub const BLOCK: usize = 256;

/// How the products of a network's dense layers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// In the network's own type.
    #[default]
    Full,
    /// Operands are rounded to bfloat16.
    Bf16,
    /// Operands are split into two parts, three products of which are taken.
    Bf16x3,
    /// Into three parts, and six products.
    Bf16x6,
}

impl Precision {
    /// All that split operands.
    pub const SPLIT: [Precision; 3] = [Precision::Bf16, Precision::Bf16x3, Precision::Bf16x6];

    /// The name that users write; of `Full` that of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Full => "full",
            Precision::Bf16 => "bfloat16",
            Precision::Bf16x3 => "bf16x3",
            Precision::Bf16x6 => "bf16x6",
        }
    }

    /// Checks that products of `T` with kernels of `isa` can be taken so on this machine.
    ///
    /// # Errors
    /// What is missing.
    pub fn check<T: Element>(self, isa: Isa) -> Result<(), Error> {
        let name = self.name();
        let failed = |why: String| Err(Error::Unsupported(why));
        if self == Precision::Full {
            Ok(())
        } else if T::DTYPE != Dtype::F32 {
            failed(format!(
                "precision {name:?} is for models of float32, and this one is of {}",
                T::DTYPE.name()
            ))
        } else if Bf16::new().is_none() {
            failed(format!(
                "precision {name:?} needs a CPU with AVX-512 BF16, and here there is none: take \"float32\""
            ))
        } else if self.parts() > 1 && Amx::new().is_none() {
            failed(format!(
                "precision {name:?} needs a CPU with AMX-BF16 (tiles of bfloat16), and a system that lets \
                 programs use it; here \"float32\" is faster and more exact, and \"bfloat16\" faster yet"
            ))
        } else if isa != Isa::Avx512 {
            failed(format!("precision {name:?} needs kernels of avx512, and THALWEG_ISA keeps to {isa}"))
        } else {
            Ok(())
        }
    }

    /// Parts of an operand; none if it stays whole.
    pub const fn parts(self) -> usize {
        match self {
            Precision::Full => 0,
            Precision::Bf16 => 1,
            Precision::Bf16x3 => 2,
            Precision::Bf16x6 => 3,
        }
    }
}
