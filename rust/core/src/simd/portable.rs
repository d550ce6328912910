//! The plain ISA: short arrays that the compiler maps to whatever the platform's baseline offers.

use super::{Isa, Op, Simd};

/// Token of [`Isa::Scalar`]; every CPU has it.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

macro_rules! portable {
    ($t:ident, $n:literal, $int:ident, $magic:expr, $bias:literal, $mantissa:literal) => {
        impl Simd<$t> for Portable {
            type V = [$t; $n];
            type M = [bool; $n];
            const N: usize = $n;
            const FUSED: bool = false;
            const ISA: Isa = Isa::Scalar;

            #[inline(always)]
            fn run<O: Op<$t>>(self, op: O) -> O::Output {
                // A separate function, as for ISAs with target features: otherwise operations that run others
                // would grow without limit.
                #[inline(never)]
                fn enter<O: Op<$t>>(s: Portable, op: O) -> O::Output {
                    op.eval(s)
                }
                enter(self, op)
            }
            #[inline(always)]
            fn splat(self, x: $t) -> Self::V {
                [x; $n]
            }
            #[inline(always)]
            unsafe fn load_ptr(self, p: *const $t) -> Self::V {
                // SAFETY: N elements are readable, by the caller's promise; arrays need no vector alignment.
                unsafe { p.cast::<Self::V>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn store_ptr(self, p: *mut $t, v: Self::V) {
                // SAFETY: N elements are writable, by the caller's promise.
                unsafe { p.cast::<Self::V>().write_unaligned(v) }
            }
            #[inline(always)]
            unsafe fn load_first(self, p: *const $t, n: usize) -> Self::V {
                let mut v = [0.0; $n];
                for (i, x) in v.iter_mut().enumerate() {
                    if i < n {
                        // SAFETY: i < n, and n elements are readable.
                        *x = unsafe { *p.add(i) };
                    }
                }
                v
            }
            #[inline(always)]
            unsafe fn store_first(self, p: *mut $t, n: usize, v: Self::V) {
                for (i, x) in v.into_iter().enumerate() {
                    if i < n {
                        // SAFETY: i < n, and n elements are writable.
                        unsafe { *p.add(i) = x };
                    }
                }
            }
            #[inline(always)]
            fn add(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            fn sub(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            fn mul(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            fn div(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            fn sqrt(self, a: Self::V) -> Self::V {
                a.map($t::sqrt)
            }
            #[inline(always)]
            fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                // Not fused: without the instruction, a fused result would take a library call per lane.
                std::array::from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            fn max(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn min(self, a: Self::V, b: Self::V) -> Self::V {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn abs(self, a: Self::V) -> Self::V {
                a.map($t::abs)
            }
            #[inline(always)]
            fn copysign(self, a: Self::V, sign: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i].copysign(sign[i]))
            }
            #[inline(always)]
            fn round(self, a: Self::V) -> Self::V {
                // Adding 1.5·2^mantissa leaves no bits for a fraction; the hardware rounds ties to even.
                a.map(|x| (x + $magic) - $magic)
            }
            #[inline(always)]
            fn scale(self, a: Self::V, n: Self::V) -> Self::V {
                std::array::from_fn(|i| a[i] * $t::from_bits(((n[i] as $int) + $bias << $mantissa) as _))
            }
            #[inline(always)]
            fn split_exponent(self, a: Self::V) -> (Self::V, Self::V) {
                let mantissa = (1 << $mantissa) - 1;
                let one = (1.0 as $t).to_bits();
                (
                    a.map(|x| $t::from_bits(x.to_bits() & mantissa | one)),
                    a.map(|x| ((x.to_bits() >> $mantissa) as $int - $bias) as $t),
                )
            }
            #[inline(always)]
            fn lt(self, a: Self::V, b: Self::V) -> Self::M {
                std::array::from_fn(|i| a[i] < b[i])
            }
            #[inline(always)]
            fn select(self, m: Self::M, yes: Self::V, no: Self::V) -> Self::V {
                std::array::from_fn(|i| if m[i] { yes[i] } else { no[i] })
            }
            #[inline(always)]
            fn reduce_add(self, v: Self::V) -> $t {
                let mut v = v;
                let mut half = $n / 2;
                while half > 0 {
                    for i in 0..half {
                        v[i] += v[i + half];
                    }
                    half /= 2;
                }
                v[0]
            }
            #[inline(always)]
            fn reduce_max(self, v: Self::V) -> $t {
                v.into_iter().fold(v[0], |a, b| if a > b { a } else { b })
            }
        }
    };
}

portable!(f32, 4, i32, 12_582_912.0, 127, 23);
portable!(f64, 2, i64, 6_755_399_441_055_744.0, 1023, 52);
