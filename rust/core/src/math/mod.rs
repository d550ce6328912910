//! Vector functions of one argument, one per file: accurate to a stated number of ulps, and written in safe
//! code.
//!
//! Each file states its formula, its range reduction and its error analysis. Its functions serve every ISA and
//! both precisions, with polynomials of the degree that the type needs; only tanh has another algorithm for
//! each, [`Element::tanh`]. `MAX_ULP_F32` and `MAX_ULP_F64` bound the error, |result − exact| in units in the last place of
//! the exact result, on every ISA for which the file does not name another bound. In single precision they are
//! the largest errors over all 2³² arguments, rounded up; in double precision the largest over a million
//! arguments, with a margin. The tests check these bounds.
//!
//! All of them share these properties:
//! - NaN gives NaN, and a NaN in one lane leaves the others alone.
//! - No lane branches: all cases are computed and selected, so the time does not depend on the data.
//! - Where the CPU flushes denormals, denormal arguments and results count as zero.
//!
//! The coefficients come from `fit.py` beside this file.

pub mod erf;
pub mod exp;
pub mod expm1;
pub mod gelu;
pub mod ln;
pub mod sigmoid;
pub mod silu;
pub mod sin;
pub mod softplus;
pub mod tanh;

use crate::element::{Dtype, Element};
use crate::simd::Simd;

pub use erf::erf;
pub use exp::exp;
pub use ln::ln;
pub use sigmoid::sigmoid;

/// The constant for the type.
#[inline(always)]
fn constant<T: Element, S: Simd<T>>(s: S, c32: f64, c64: f64) -> S::V {
    s.splat(T::lit(match T::DTYPE {
        Dtype::F32 => c32,
        Dtype::F64 => c64,
    }))
}

/// The polynomial for the type; see [`Simd::polynomial`].
#[inline(always)]
fn polynomial<T: Element, S: Simd<T>, const K32: usize, const K64: usize>(
    s: S,
    x: S::V,
    c32: [f64; K32],
    c64: [f64; K64],
) -> S::V {
    match T::DTYPE {
        Dtype::F32 => s.polynomial(x, c32),
        Dtype::F64 => s.polynomial(x, c64),
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
