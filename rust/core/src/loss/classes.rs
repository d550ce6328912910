//! Rows of numbers, one per class, in vectors: the largest, and where it is, among the classes that take part.

use crate::element::Element;
use crate::simd::Simd;

/// The vector of numbers starting at place j, with −∞ beyond the last and for classes that do not take part:
/// `weights` has one per number, or none.
#[inline(always)]
pub fn vector<T: Element, S: Simd<T>>(s: S, lanes: S::V, values: &[T], weights: &[T], j: usize) -> S::V {
    let (lowest, whole) = (s.splat(T::lit(f64::NEG_INFINITY)), values.len() - j >= S::N);
    let mut v = if whole {
        s.load(&values[j..])
    } else {
        let inside = s.lt(lanes, s.splat(T::lit((values.len() - j) as f64)));
        s.select(inside, s.load_partial(&values[j..]), lowest)
    };
    if !weights.is_empty() {
        let weights = if whole { s.load(&weights[j..]) } else { s.load_partial(&weights[j..]) };
        v = s.select(s.lt(weights, s.splat(T::ZERO)), lowest, v);
    }
    v
}

/// Index of the first element that is not below `max`, as for `argmax`, among the classes that take part.
#[inline(always)]
pub fn first_of<T: Element, S: Simd<T>>(s: S, values: &[T], weights: &[T], max: T) -> T {
    let lowest = s.splat(T::lit(f64::NEG_INFINITY));
    let (lanes, max) = (s.lanes(), s.splat(max));
    let mut first = T::lit(f64::NEG_INFINITY);
    for j in (0..values.len()).step_by(S::N) {
        let below = s.lt(vector(s, lanes, values, weights, j), max);
        let place = s.neg(s.add(lanes, s.splat(T::lit(j as f64))));
        let nearest = s.reduce_max(s.select(below, lowest, place));
        first = if nearest > first { nearest } else { first };
    }
    T::ZERO - first
}

/// The largest element, among the classes that take part.
#[inline(always)]
pub fn max_of<T: Element, S: Simd<T>>(s: S, values: &[T], weights: &[T]) -> T {
    let lanes = s.lanes();
    let mut top = s.splat(T::lit(f64::NEG_INFINITY));
    for j in (0..values.len()).step_by(S::N) {
        top = s.max(top, vector(s, lanes, values, weights, j));
    }
    s.reduce_max(top)
}
