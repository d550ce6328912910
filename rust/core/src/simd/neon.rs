//! 128-bit vectors of aarch64.

use std::arch::aarch64::*;

use super::{Isa, Op, Simd};
use crate::element::Element;

/// Token of [`Isa::Neon`].
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The token; every aarch64 CPU that runs this code has NEON in its baseline.
    #[inline]
    pub fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    #[target_feature(enable = "neon")]
    fn enter<T: Element, O: Op<T>>(self, op: O) -> O::Output
    where
        Self: Simd<T>,
    {
        op.eval(self)
    }
}

// SAFETY, for every block in this macro: the token proves that the CPU has NEON, so the intrinsics may run;
// pointers are valid for as many elements as are used, which the contract of `Simd` demands of the caller.
macro_rules! neon {
    ($t:ident, $n:literal, $v:ident, $m:ident, $dup:ident, $ld1:ident, $st1:ident,
     $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident, $fma:ident,
     $clt:ident, $bsl:ident, $abs:ident, $rnd:ident, $addv:ident, $maxnmv:ident,
     $dup_bits:ident, $as_float:ident, $as_int:ident, $cvt:ident, $add_int:ident, $sub_int:ident, $shl:ident, $shr:ident,
     $and_int:ident, $or_int:ident, $from_int:ident, $dup_int:ident, $bits:ident, $mantissa:literal, $bias:literal) => {
        type V = $v;
        type M = $m;
        const N: usize = $n;
        const FUSED: bool = true;
        const ISA: Isa = Isa::Neon;

        #[inline(always)]
        fn run<O: Op<$t>>(self, op: O) -> O::Output {
            // SAFETY: see above.
            unsafe { self.enter(op) }
        }
        #[inline(always)]
        unsafe fn load_ptr(self, p: *const $t) -> Self::V {
            // SAFETY: see above.
            unsafe { $ld1(p) }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut $t, v: Self::V) {
            // SAFETY: see above.
            unsafe { $st1(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(self, p: *const $t, n: usize) -> Self::V {
            let mut lanes = [0.0; $n];
            for (i, x) in lanes.iter_mut().enumerate() {
                if i < n {
                    // SAFETY: i < n, and n elements are readable.
                    *x = unsafe { *p.add(i) };
                }
            }
            // SAFETY: see above.
            unsafe { $ld1(lanes.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut $t, n: usize, v: Self::V) {
            let mut lanes = [0.0; $n];
            // SAFETY: see above.
            unsafe { $st1(lanes.as_mut_ptr(), v) };
            for (i, x) in lanes.into_iter().enumerate() {
                if i < n {
                    // SAFETY: i < n, and n elements are writable.
                    unsafe { *p.add(i) = x };
                }
            }
        }

        lanewise! {
            fn splat(x: $t) -> $v = $dup(x);
            fn add(a: $v, b: $v) -> $v = $add(a, b);
            fn sub(a: $v, b: $v) -> $v = $sub(a, b);
            fn mul(a: $v, b: $v) -> $v = $mul(a, b);
            fn div(a: $v, b: $v) -> $v = $div(a, b);
            fn sqrt(a: $v) -> $v = $sqrt(a);
            fn fma(a: $v, b: $v, c: $v) -> $v = $fma(c, a, b);
            // A select, because NEON's own maximum treats NaN differently from x86's.
            fn max(a: $v, b: $v) -> $v = $bsl($clt(b, a), a, b);
            fn min(a: $v, b: $v) -> $v = $bsl($clt(a, b), a, b);
            fn abs(a: $v) -> $v = $abs(a);
            fn copysign(a: $v, sign: $v) -> $v = $bsl($dup_bits((-0.0 as $t).to_bits()), sign, a);
            fn round(a: $v) -> $v = $rnd(a);
            fn scale(a: $v, n: $v) -> $v = $mul(a, $as_float($shl::<$mantissa>($add_int($cvt(n), $dup_int($bias)))));
            fn split_exponent(a: $v) -> ($v, $v) = {
                let bits = $as_int(a);
                let mantissa = $and_int(bits, $dup_int((1 << $mantissa) - 1));
                let m = $or_int(mantissa, $dup_int((1.0 as $t).to_bits() as $bits));
                // The sign bit is zero (a > 0), so the arithmetic shift acts as a logical one.
                ($as_float(m), $from_int($sub_int($shr::<$mantissa>(bits), $dup_int($bias))))
            };
            fn lt(a: $v, b: $v) -> $m = $clt(a, b);
            fn select(m: $m, yes: $v, no: $v) -> $v = $bsl(m, yes, no);
            fn reduce_add(v: $v) -> $t = $addv(v);
            fn reduce_max(v: $v) -> $t = $maxnmv(v);
        }
    };
}

impl Simd<f32> for Neon {
    neon!(
        f32,
        4,
        float32x4_t,
        uint32x4_t,
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        vaddq_f32,
        vsubq_f32,
        vmulq_f32,
        vdivq_f32,
        vsqrtq_f32,
        vfmaq_f32,
        vcltq_f32,
        vbslq_f32,
        vabsq_f32,
        vrndnq_f32,
        vaddvq_f32,
        vmaxnmvq_f32,
        vdupq_n_u32,
        vreinterpretq_f32_s32,
        vreinterpretq_s32_f32,
        vcvtnq_s32_f32,
        vaddq_s32,
        vsubq_s32,
        vshlq_n_s32,
        vshrq_n_s32,
        vandq_s32,
        vorrq_s32,
        vcvtq_f32_s32,
        vdupq_n_s32,
        i32,
        23,
        127
    );
}

impl Simd<f64> for Neon {
    neon!(
        f64,
        2,
        float64x2_t,
        uint64x2_t,
        vdupq_n_f64,
        vld1q_f64,
        vst1q_f64,
        vaddq_f64,
        vsubq_f64,
        vmulq_f64,
        vdivq_f64,
        vsqrtq_f64,
        vfmaq_f64,
        vcltq_f64,
        vbslq_f64,
        vabsq_f64,
        vrndnq_f64,
        vaddvq_f64,
        vmaxnmvq_f64,
        vdupq_n_u64,
        vreinterpretq_f64_s64,
        vreinterpretq_s64_f64,
        vcvtnq_s64_f64,
        vaddq_s64,
        vsubq_s64,
        vshlq_n_s64,
        vshrq_n_s64,
        vandq_s64,
        vorrq_s64,
        vcvtq_f64_s64,
        vdupq_n_s64,
        i64,
        52,
        1023
    );
}
