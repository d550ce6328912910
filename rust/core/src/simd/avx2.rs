//! 256-bit vectors with fused multiply-add.

use std::arch::x86_64::*;

use super::{Isa, Op, Simd};
use crate::element::Element;

/// Token of [`Isa::Avx2`].
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if this CPU has AVX2 and FMA.
    #[inline]
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }

    #[target_feature(enable = "avx2,fma")]
    fn enter<T: Element, O: Op<T>>(self, op: O) -> O::Output
    where
        Self: Simd<T>,
    {
        op.eval(self)
    }
}

// Loading 8 (or 4) elements from index 8 − n (or 4 − n) gives a mask of the first n lanes.
static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

// SAFETY, for every block in this macro: the token proves that the CPU has AVX2 and FMA, so the intrinsics
// may run; pointers are valid for as many elements as are used, which the contract of `Simd` demands of the
// caller.
macro_rules! avx2 {
    ($t:ident, $n:literal, $v:ident, $mask:ident, $maskload:ident, $maskstore:ident,
     $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
     $sqrt:ident, $fmadd:ident, $max:ident, $min:ident, $and:ident, $andnot:ident, $or:ident,
     $round:ident, $cmp:ident, $blendv:ident) => {
        type V = $v;
        type M = $v;
        const N: usize = $n;
        const FUSED: bool = true;
        const ISA: Isa = Isa::Avx2;

        #[inline(always)]
        fn run<O: Op<$t>>(self, op: O) -> O::Output {
            // SAFETY: see above.
            unsafe { self.enter(op) }
        }
        #[inline(always)]
        unsafe fn load_ptr(self, p: *const $t) -> Self::V {
            // SAFETY: see above.
            unsafe { $loadu(p) }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut $t, v: Self::V) {
            // SAFETY: see above.
            unsafe { $storeu(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(self, p: *const $t, n: usize) -> Self::V {
            debug_assert!(n <= $n);
            // SAFETY: see above; n ≤ N keeps the read of the mask inside its table.
            unsafe { $maskload(p, _mm256_loadu_si256($mask.as_ptr().add($n - n).cast())) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut $t, n: usize, v: Self::V) {
            debug_assert!(n <= $n);
            // SAFETY: see above; n ≤ N keeps the read of the mask inside its table.
            unsafe { $maskstore(p, _mm256_loadu_si256($mask.as_ptr().add($n - n).cast()), v) }
        }

        lanewise! {
            fn splat(x: $t) -> $v = $set1(x);
            fn add(a: $v, b: $v) -> $v = $add(a, b);
            fn sub(a: $v, b: $v) -> $v = $sub(a, b);
            fn mul(a: $v, b: $v) -> $v = $mul(a, b);
            fn div(a: $v, b: $v) -> $v = $div(a, b);
            fn sqrt(a: $v) -> $v = $sqrt(a);
            fn fma(a: $v, b: $v, c: $v) -> $v = $fmadd(a, b, c);
            fn max(a: $v, b: $v) -> $v = $max(a, b);
            fn min(a: $v, b: $v) -> $v = $min(a, b);
            fn abs(a: $v) -> $v = $andnot($set1(-0.0), a);
            fn copysign(a: $v, sign: $v) -> $v = $or($andnot($set1(-0.0), a), $and($set1(-0.0), sign));
            fn round(a: $v) -> $v = $round::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            fn lt(a: $v, b: $v) -> $v = $cmp::<_CMP_LT_OQ>(a, b);
            fn select(m: $v, yes: $v, no: $v) -> $v = $blendv(no, yes, m);
        }
    };
}

impl Simd<f32> for Avx2 {
    avx2!(
        f32,
        8,
        __m256,
        MASK32,
        _mm256_maskload_ps,
        _mm256_maskstore_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_sqrt_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_and_ps,
        _mm256_andnot_ps,
        _mm256_or_ps,
        _mm256_round_ps,
        _mm256_cmp_ps,
        _mm256_blendv_ps
    );

    lanewise! {
        fn scale(a: Self::V, n: Self::V) -> Self::V = {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        };
        fn split_exponent(a: Self::V) -> (Self::V, Self::V) = {
            let bits = _mm256_castps_si256(a);
            let mantissa = _mm256_and_si256(bits, _mm256_set1_epi32(0x007f_ffff));
            let m = _mm256_or_si256(mantissa, _mm256_set1_epi32(0x3f80_0000));
            let e = _mm256_sub_epi32(_mm256_srli_epi32::<23>(bits), _mm256_set1_epi32(127));
            (_mm256_castsi256_ps(m), _mm256_cvtepi32_ps(e))
        };
        fn reduce_add(v: Self::V) -> f32 = {
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        };
        fn reduce_max(v: Self::V) -> f32 = {
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        };
    }
}

impl Simd<f64> for Avx2 {
    avx2!(
        f64,
        4,
        __m256d,
        MASK64,
        _mm256_maskload_pd,
        _mm256_maskstore_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_div_pd,
        _mm256_sqrt_pd,
        _mm256_fmadd_pd,
        _mm256_max_pd,
        _mm256_min_pd,
        _mm256_and_pd,
        _mm256_andnot_pd,
        _mm256_or_pd,
        _mm256_round_pd,
        _mm256_cmp_pd,
        _mm256_blendv_pd
    );

    lanewise! {
        fn scale(a: Self::V, n: Self::V) -> Self::V = {
            let exponent = _mm256_cvtepi32_epi64(_mm_add_epi32(_mm256_cvtpd_epi32(n), _mm_set1_epi32(1023)));
            _mm256_mul_pd(a, _mm256_castsi256_pd(_mm256_slli_epi64::<52>(exponent)))
        };
        fn split_exponent(a: Self::V) -> (Self::V, Self::V) = {
            let bits = _mm256_castpd_si256(a);
            let mantissa = _mm256_and_si256(bits, _mm256_set1_epi64x(0x000f_ffff_ffff_ffff));
            let m = _mm256_or_si256(mantissa, _mm256_set1_epi64x(0x3ff0_0000_0000_0000));
            // ORing the biased exponent into the low bits of 2⁵² and subtracting 2⁵² turns it into a
            // floating-point number.
            let magic = _mm256_set1_epi64x(0x4330_0000_0000_0000);
            let e = _mm256_castsi256_pd(_mm256_or_si256(_mm256_srli_epi64::<52>(bits), magic));
            (_mm256_castsi256_pd(m), _mm256_sub_pd(e, _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0)))
        };
        fn reduce_add(v: Self::V) -> f64 = {
            let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
        };
        fn reduce_max(v: Self::V) -> f64 = {
            let v = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
            _mm_cvtsd_f64(_mm_max_sd(v, _mm_unpackhi_pd(v, v)))
        };
    }
}
