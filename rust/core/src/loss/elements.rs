//! Sums over the elements of a row, together with their gradients, in one loop.

use super::lanes;
use crate::element::Element;
use crate::simd::Simd;

/// Goes through slices of the same length together: for each place, `f` returns the N values to be summed,
/// and the slopes with respect to the outputs, which are stored in `grads` times `scale`.
#[inline(always)]
pub fn elements<T: Element, S: Simd<T>, const R: usize, const N: usize, const W: usize>(
    s: S,
    reads: [&[T]; R],
    mut grads: Option<[&mut [T]; W]>,
    scale: f64,
    f: impl Fn([S::V; R]) -> ([S::V; N], [S::V; W]),
) -> [f64; N] {
    let len = reads[0].len();
    assert!(reads.iter().all(|r| r.len() == len));
    let full = len - len % S::N;
    let factor = s.splat(T::lit(scale));
    let mut sums = [s.splat(T::ZERO); N];
    for i in (0..full).step_by(S::N) {
        let (values, slopes) = f(reads.map(|r| s.load(&r[i..])));
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = s.add(*sum, value);
        }
        for (grad, slope) in grads.iter_mut().flatten().zip(slopes) {
            s.store(&mut grad[i..], s.mul(slope, factor));
        }
    }
    if full < len {
        let (values, slopes) = f(reads.map(|r| s.load_partial(&r[full..])));
        let inside = s.lt(lanes(s), s.splat(T::lit((len - full) as f64)));
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum = s.add(*sum, s.select(inside, value, s.splat(T::ZERO)));
        }
        for (grad, slope) in grads.iter_mut().flatten().zip(slopes) {
            s.store_partial(&mut grad[full..], s.mul(slope, factor));
        }
    }
    sums.map(|sum| s.reduce_add(sum).to_f64())
}
