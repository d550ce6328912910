//! The numbers that networks are made of: `f32` and `f64`.

use std::fmt;

use crate::math;
use crate::simd::{Isa, MAX_LANES, Op, Simd, dispatch_body};

/// The data types of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Dtype {
    /// NumPy's name.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
        }
    }
}
mod sealed {
    /// Sealed: buffers and casts rely on there being only these two types, for which zero bytes are a valid
    /// number.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A floating-point type that the core computes with. Implemented for `f32` and `f64` only.
///
/// Besides plain arithmetic, it has the one vector function of [`math`] whose algorithm depends on the
/// precision.
pub trait Element:
    sealed::Sealed
    + Copy
    + Default
    + PartialEq
    + PartialOrd
    + Send
    + Sync
    + fmt::Debug
    + fmt::Display
    + std::ops::Add<Output = Self>
    + std::ops::AddAssign
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + 'static
{
    /// Which type this is.
    const DTYPE: Dtype;
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// 0, 1, 2, … for the lanes of a vector.
    const LANES: [Self; MAX_LANES];
    /// The distance from 1 to the next number, ε.
    const EPSILON: f64;
    /// The smallest normal number.
    const TINY: f64;
    /// The nearest number to `x`.
    fn lit(x: f64) -> Self;
    /// The nearest number to `x`: itself.
    fn from_f32(x: f32) -> Self;
    /// The same number in double precision.
    fn to_f64(self) -> f64;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// `self · b + c`, rounded once if `fused`: what [`Simd::fma`] does in one lane.
    fn mul_add(self, b: Self, c: Self, fused: bool) -> Self;

    /// Runs `op` with the token of `isa`; see [`simd::dispatch`](crate::simd::dispatch).
    fn dispatch<O: Op<Self>>(isa: Isa, op: O) -> O::Output;

    /// tanh x
    fn tanh<S: Simd<Self>>(s: S, x: S::V) -> S::V;
}

macro_rules! element {
    ($t:ident, $dtype:ident) => {
        impl Element for $t {
            const DTYPE: Dtype = Dtype::$dtype;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LANES: [Self; MAX_LANES] =
                [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
            const EPSILON: f64 = $t::EPSILON as f64;
            const TINY: f64 = $t::MIN_POSITIVE as f64;
            #[inline(always)]
            fn lit(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $t::from(x)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self, fused: bool) -> Self {
                if fused { $t::mul_add(self, b, c) } else { self * b + c }
            }
            #[inline]
            fn dispatch<O: Op<Self>>(isa: Isa, op: O) -> O::Output {
                dispatch_body!(isa, op)
            }
            #[inline(always)]
            fn tanh<S: Simd<Self>>(s: S, x: S::V) -> S::V {
                math::tanh::$t(s, x)
            }
        }
    };
}

element!(f32, F32);
element!(f64, F64);
