//! 512-bit vectors with masks.

use std::arch::x86_64::*;
use std::sync::LazyLock;

use super::{Isa, Op, Simd};
use crate::element::Element;

/// Token of [`Isa::Avx512`].
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if this CPU has AVX-512 F, BW, DQ and VL (and AVX2 with FMA, as they imply).
    #[inline]
    pub fn new() -> Option<Self> {
        // One check instead of six: every call of a kernel begins here.
        static HERE: LazyLock<bool> = LazyLock::new(|| {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
        });
        HERE.then_some(Avx512(()))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn enter<T: Element, O: Op<T>>(self, op: O) -> O::Output
    where
        Self: Simd<T>,
    {
        op.eval(self)
    }
}

// SAFETY, for every block in this macro: the token proves that the CPU has the AVX-512 subsets named above,
// so the intrinsics may run; pointers are valid for as many elements as are used, which the contract of
// `Simd` demands of the caller.
macro_rules! avx512 {
    ($t:ident, $n:literal, $v:ident, $m:ident,
     $set1:ident, $loadu:ident, $storeu:ident, $maskload:ident, $maskstore:ident,
     $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident, $fmadd:ident, $max:ident, $min:ident,
     $abs:ident, $and:ident, $or:ident, $round:ident, $scalef:ident, $getmant:ident, $getexp:ident,
     $cmp:ident, $blend:ident, $reduce_add:ident, $reduce_max:ident) => {
        type V = $v;
        type M = $m;
        const N: usize = $n;
        const FUSED: bool = true;
        const FREE_MASKS: bool = true;
        const ISA: Isa = Isa::Avx512;

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
            // SAFETY: see above; masked lanes are not read.
            unsafe { $maskload(((1u32 << n) - 1) as $m, p) }
        }
        #[inline(always)]
        unsafe fn store_first(self, p: *mut $t, n: usize, v: Self::V) {
            debug_assert!(n <= $n);
            // SAFETY: see above; masked lanes are not written.
            unsafe { $maskstore(p, ((1u32 << n) - 1) as $m, v) }
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
            fn abs(a: $v) -> $v = $abs(a);
            fn copysign(a: $v, sign: $v) -> $v = $or($abs(a), $and($set1(-0.0), sign));
            fn round(a: $v) -> $v = $round::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            fn scale(a: $v, n: $v) -> $v = $scalef(a, n);
            fn split_exponent(a: $v) -> ($v, $v) = ($getmant::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a), $getexp(a));
            fn lt(a: $v, b: $v) -> $m = $cmp::<_CMP_LT_OQ>(a, b);
            fn select(m: $m, yes: $v, no: $v) -> $v = $blend(m, no, yes);
            fn reduce_add(v: $v) -> $t = $reduce_add(v);
            fn reduce_max(v: $v) -> $t = $reduce_max(v);
        }
    };
}

impl Simd<f32> for Avx512 {
    avx512!(
        f32,
        16,
        __m512,
        __mmask16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_maskz_loadu_ps,
        _mm512_mask_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_sqrt_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_abs_ps,
        _mm512_and_ps,
        _mm512_or_ps,
        _mm512_roundscale_ps,
        _mm512_scalef_ps,
        _mm512_getmant_ps,
        _mm512_getexp_ps,
        _mm512_cmp_ps_mask,
        _mm512_mask_blend_ps,
        _mm512_reduce_add_ps,
        _mm512_reduce_max_ps
    );

    /// Newton's method from a 14-bit estimate, since the divider takes sixteen cycles per vector.
    #[inline(always)]
    fn quotient(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let r = _mm512_rcp14_ps(b);
            let r = _mm512_fmadd_ps(_mm512_fnmadd_ps(b, r, _mm512_set1_ps(1.0)), r, r);
            let q = _mm512_mul_ps(a, r);
            _mm512_fmadd_ps(_mm512_fnmadd_ps(b, q, a), r, q)
        }
    }

    #[inline(always)]
    fn pieces<const K: usize>(self, a: __m512, table: &[[f32; 32]; K]) -> Option<[__m512; K]> {
        /// Bits of ⅛, down to the upper two of the mantissa, minus one for the column below ⅛.
        const FIRST: i32 = (127 - 3) * 4 - 1;
        // SAFETY: as in the macro above; rows of the table have two vectors.
        unsafe {
            let quarters = _mm512_srli_epi32::<21>(_mm512_castps_si512(a));
            let column = _mm512_sub_epi32(quarters, _mm512_set1_epi32(FIRST));
            let column = _mm512_max_epi32(column, _mm512_setzero_si512());
            let mut found = [_mm512_setzero_ps(); K];
            for (found, row) in found.iter_mut().zip(table) {
                let (low, high) = (_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16)));
                *found = _mm512_permutex2var_ps(low, column, high);
            }
            Some(found)
        }
    }

    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_row: usize,
        to: *mut f32,
        to_row: usize,
        rows: usize,
        cols: usize,
    ) {
        // Four rounds of a butterfly: round b exchanges bit b of an element's lane index with bit b of its
        // vector index.
        // SAFETY: the token proves that the CPU has the instructions; only `cols` lanes of `rows` rows are
        // read and only their transpose is written, which the caller promises to be valid.
        unsafe {
            let read = ((1u32 << cols) - 1) as __mmask16;
            let mut v = [_mm512_setzero_ps(); 16];
            for (i, v) in v.iter_mut().enumerate() {
                if i < rows {
                    *v = _mm512_maskz_loadu_ps(read, from.add(i * from_row));
                }
            }
            let mut t = v;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
            }
            for i in 0..4 {
                let d = |x| _mm512_castps_pd(x);
                v[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(t[4 * i]), d(t[4 * i + 2])));
                v[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(t[4 * i]), d(t[4 * i + 2])));
                v[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(d(t[4 * i + 1]), d(t[4 * i + 3])));
                v[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(d(t[4 * i + 1]), d(t[4 * i + 3])));
            }
            for i in 0..4 {
                t[i] = _mm512_shuffle_f32x4::<0x88>(v[i], v[i + 4]);
                t[i + 4] = _mm512_shuffle_f32x4::<0xdd>(v[i], v[i + 4]);
                t[i + 8] = _mm512_shuffle_f32x4::<0x88>(v[i + 8], v[i + 12]);
                t[i + 12] = _mm512_shuffle_f32x4::<0xdd>(v[i + 8], v[i + 12]);
            }
            for i in 0..8 {
                v[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[i + 8]);
                v[i + 8] = _mm512_shuffle_f32x4::<0xdd>(t[i], t[i + 8]);
            }
            let write = ((1u32 << rows) - 1) as __mmask16;
            for (j, v) in v.iter().enumerate() {
                if j < cols {
                    _mm512_mask_storeu_ps(to.add(j * to_row), write, *v);
                }
            }
        }
    }
}

impl Simd<f64> for Avx512 {
    avx512!(
        f64,
        8,
        __m512d,
        __mmask8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_maskz_loadu_pd,
        _mm512_mask_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_sqrt_pd,
        _mm512_fmadd_pd,
        _mm512_max_pd,
        _mm512_min_pd,
        _mm512_abs_pd,
        _mm512_and_pd,
        _mm512_or_pd,
        _mm512_roundscale_pd,
        _mm512_scalef_pd,
        _mm512_getmant_pd,
        _mm512_getexp_pd,
        _mm512_cmp_pd_mask,
        _mm512_mask_blend_pd,
        _mm512_reduce_add_pd,
        _mm512_reduce_max_pd
    );
}
