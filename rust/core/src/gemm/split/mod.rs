//! Products of float32 matrices, computed with bfloat16 products.
//!
//! A number is written as a sum of parts with eight bits each, x = x₀ + x₁ + x₂ + …, where each part is what
//! the earlier ones left over, rounded to bfloat16. A product of two numbers is then the sum of the products
//! of their parts, of which the small ones are left out:
//!
//! ```text
//!                                                                       error of a product, at most
//! bfloat16   1 part     x₀y₀                                              2·2⁻⁸
//! bf16x3     2 parts    x₁y₀ + x₀y₁ + x₀y₀                                3·2⁻¹⁶
//! bf16x6     3 parts    x₂y₀ + x₁y₀ + x₁y₁ + x₀y₁ + x₀y₂ + x₀y₀           4·2⁻²⁴
//! ```
//!
//! Products of parts are exact in float32, in which they are summed. With three parts, sums are as good as
//! those of float32, as Henry, Tang & Heinecke 2019 found ("Leveraging the bfloat16 artificial intelligence
//! datatype for higher-precision computations", arXiv:1904.06376), and since a tile unit does sixteen times
//! as many products per cycle, a gain of about two remains. AVX-512 BF16 vectors do only twice as many
//! products as float32 vectors: with them one part gains, and more parts would lose.
//!
//! Every element of C is one chain of the unit's steps, starting from its initial value, in the order of k:
//! the same bits for every partition of the work. Numbers below 2⁻¹²⁶ count as 0, and so do parts that are
//! too small. With one part, numbers above 3.39·10³⁸ round to infinity, and infinity stays infinite; with
//! more parts it gives NaN, since infinity minus itself is NaN.
//!
//! Modules: `panels` describes how operands lie in memory, `pack` splits them into that layout, `kernel`
//! multiplies one block, in `tiles` or `vectors`, `driver` has the loops; `absent` replaces them on platforms
//! with neither.

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

/// Lanes of a panel, rows of A or columns of B: two tiles of sixteen.
pub const LANES: usize = 32;
/// Steps of k in a tile.
pub const DEPTH: usize = 32;
/// Steps of k that are processed together: their panels stay in the second-level cache.
pub const BLOCK: usize = 256;

/// How the products of a network's dense layers are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// In the network's own type.
    #[default]
    Full,
    /// Operands are rounded to bfloat16.
    Bf16,
    /// Operands are split into two parts, and three products of parts are taken.
    Bf16x3,
    /// Operands are split into three parts, and six products of parts are taken.
    Bf16x6,
}

impl Precision {
    /// All precisions that split operands.
    pub const SPLIT: [Precision; 3] = [Precision::Bf16, Precision::Bf16x3, Precision::Bf16x6];

    /// The name that users write; for `Full`, that of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Full => "full",
            Precision::Bf16 => "bfloat16",
            Precision::Bf16x3 => "bf16x3",
            Precision::Bf16x6 => "bf16x6",
        }
    }

    /// Checks that this machine can compute products of `T` this way with kernels of `isa`.
    ///
    /// # Errors
    /// If it cannot; the error says what is missing.
    pub fn check<T: Element>(self, isa: Isa) -> Result<(), Error> {
        let name = self.name();
        let failed = |why: String| Err(Error::Unsupported(why));
        if self == Precision::Full {
            Ok(())
        } else if T::DTYPE != Dtype::F32 {
            failed(format!(
                "precision {name:?} is for models with dtype=\"float32\"; this model has {}",
                T::DTYPE.name()
            ))
        } else if Bf16::new().is_none() {
            failed(format!(
                "precision {name:?} needs a CPU with AVX-512 BF16, which this one lacks: use \"float32\""
            ))
        } else if self.parts() > 1 && Amx::new().is_none() {
            failed(format!(
                "precision {name:?} needs a CPU with AMX-BF16 (tiles of bfloat16) and an operating system that lets \
                 programs use it; without it, \"float32\" is faster and more exact, and \"bfloat16\" is faster still"
            ))
        } else if isa != Isa::Avx512 {
            failed(format!(
                "precision {name:?} needs the kernels of avx512, but THALWEG_ISA limits this process to {isa}: \
                 unset it, or use \"float32\""
            ))
        } else {
            Ok(())
        }
    }

    /// Parts of an operand; 0 if it stays whole.
    pub const fn parts(self) -> usize {
        match self {
            Precision::Full => 0,
            Precision::Bf16 => 1,
            Precision::Bf16x3 => 2,
            Precision::Bf16x6 => 3,
        }
    }
}
