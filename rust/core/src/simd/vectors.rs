//! Common operations on arrays of numbers.

use super::{Isa, Op, Simd, dispatch, stream_map};
use crate::element::Element;

/// into ← into + from
///
/// # Panics
/// If they differ in length.
pub fn add<T: Element>(isa: Isa, into: &mut [T], from: &[T]) {
    struct Add<'a, T>(&'a mut [T], &'a [T]);
    impl<T: Element> Op<T> for Add<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            stream_map(
                s,
                [self.0],
                [self.1],
                #[inline(always)]
                |[y], [x]| [s.add(y, x)],
            );
        }
    }
    dispatch(isa, Add(into, from));
}

/// into ← into + factor·from
///
/// # Panics
/// If they differ in length.
pub fn add_scaled<T: Element>(isa: Isa, into: &mut [T], factor: f64, from: &[T]) {
    struct AddScaled<'a, T>(&'a mut [T], f64, &'a [T]);
    impl<T: Element> Op<T> for AddScaled<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let factor = s.splat(T::lit(self.1));
            stream_map(
                s,
                [self.0],
                [self.2],
                #[inline(always)]
                |[y], [x]| [s.fma(factor, x, y)],
            );
        }
    }
    dispatch(isa, AddScaled(into, factor, from));
}

/// into ← (1 − τ)·into + τ·from, which is `from` itself for τ = 1
///
/// # Panics
/// If they differ in length.
pub fn lerp<T: Element>(isa: Isa, into: &mut [T], tau: f64, from: &[T]) {
    struct Lerp<'a, T>(&'a mut [T], f64, &'a [T]);
    impl<T: Element> Op<T> for Lerp<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let (tau, rest) = (s.splat(T::lit(self.1)), s.splat(T::lit(1.0 - self.1)));
            stream_map(
                s,
                [self.0],
                [self.2],
                #[inline(always)]
                |[y], [x]| [s.fma(tau, x, s.mul(rest, y))],
            );
        }
    }
    dispatch(isa, Lerp(into, tau, from));
}

/// Whether all elements are finite.
pub fn all_finite<T: Element>(isa: Isa, values: &[T]) -> bool {
    struct AllFinite<'a, T>(&'a [T]);
    impl<T: Element> Op<T> for AllFinite<'_, T> {
        type Output = bool;
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) -> bool {
            // x·0 is 0 for finite x and NaN otherwise, and a NaN survives addition.
            let zero = s.splat(T::ZERO);
            let mut sums = [zero; 4];
            let blocks = self.0.chunks_exact(4 * S::N);
            let rest = blocks.remainder();
            for block in blocks {
                for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::N)) {
                    *sum = s.fma(s.load(x), zero, *sum);
                }
            }
            for x in rest.chunks(S::N) {
                sums[0] = s.fma(s.load_partial(x), zero, sums[0]);
            }
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            s.reduce_add(sum) == T::ZERO
        }
    }
    dispatch(isa, AllFinite(values))
}

/// The largest absolute value, or 0 if there are no elements; not finite if an element is not.
pub fn max_abs<T: Element>(isa: Isa, values: &[T]) -> T {
    struct MaxAbs<'a, T>(&'a [T]);
    impl<T: Element> Op<T> for MaxAbs<'_, T> {
        type Output = T;
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) -> T {
            let mut top = s.splat(T::ZERO);
            let mut nan = s.splat(T::ZERO);
            let blocks = self.0.chunks_exact(S::N);
            let rest = s.load_partial(blocks.remainder());
            for x in blocks.map(|b| s.load(b)).chain([rest]) {
                top = s.max(s.abs(x), top); // a NaN does not replace the maximum,
                nan = s.fma(x, s.splat(T::ZERO), nan); // but stays here
            }
            s.reduce_max(top) + s.reduce_add(nan)
        }
    }
    dispatch(isa, MaxAbs(values))
}
