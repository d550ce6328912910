//! What is done with all gradients or parameters at once: clipping and the optimizer's step, where gradients
//! are not applied tile by tile, and averages of parameters over the steps.
//!
//! ```text
//! norm    g ← g · min(1, c/(‖g‖ + 10⁻⁶)),  ‖g‖ over all parameters together
//! value   g ← max(−c, min(c, g))           element by element
//! ```
//!
//! PyTorch's `clip_grad_norm_` (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063), with its 10⁻⁶, and
//! `clip_grad_value_`.

#![allow(unsafe_code)] // disjoint runs for threads

use crate::along::Company;
use crate::arena::Buffer;
use crate::element::{Dtype, Element};
use crate::error::Error;
use crate::optim::{self, Optimizer};
use crate::parallel::{self, RUN};
use crate::simd::{self, Isa, Op, Simd, all_finite, dispatch, stream_map, sum_of, zip_map};

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Limits their norm.
    Norm(f64),
    /// Limits the absolute value of each.
    Value(f64),
}

impl Clip {
    /// Checks the limit.
    ///
    /// # Errors
    /// If it is not above 0.
    pub fn check(self) -> Result<(), Error> {
        let (name, limit) = match self {
            Clip::Norm(limit) => ("clip_grad_norm", limit),
            Clip::Value(limit) => ("clip_grad_value", limit),
        };
        if limit > 0.0 && limit.is_finite() {
            return Ok(());
        }
        Err(Error::argument(name, limit, "a number > 0 is needed"))
    }
}

/// The norm of gradients, combined from those of runs in their order and in double precision, so that it is
/// the same for any number of threads. Infinite or NaN if a gradient is.
pub fn norm<T: Element>(isa: Isa, grads: &[T]) -> f64 {
    let sum = squares(isa, grads, 1.0);
    // Where squares overflow, or so many of them may be denormal, and lost, that the sum misses something, the
    // numbers are scaled first; a power of two changes none of their digits.
    let power = 2f64.powi(if T::DTYPE == Dtype::F32 { 80 } else { 600 });
    let scale = match sum {
        _ if !sum.is_finite() => 1.0 / power,
        _ if sum < grads.len() as f64 * (T::TINY / T::EPSILON) => power,
        _ => return sum.sqrt(),
    };
    squares(isa, grads, scale).sqrt() / scale
}

/// Two numbers to multiply by, one after the other, for factor·a/b: this and 1, or twice its root where it is
/// so small that it would be flushed to zero.
pub fn factors<T: Element>(factor: f64, a: f64, b: f64) -> [f64; 2] {
    let whole = factor * (a / b);
    if whole < T::TINY { [(factor * a).sqrt() / b.sqrt(); 2] } else { [whole, 1.0] }
}

/// The sum of (scale·g)².
fn squares<T: Element>(isa: Isa, grads: &[T], scale: f64) -> f64 {
    parallel::sum(grads.len(), |run| dispatch(isa, Squares(&grads[run], scale)))
}

/// Whether all numbers are finite.
pub fn is_finite<T: Element>(isa: Isa, of: &[T]) -> bool {
    parallel::sum(of.len(), |run| f64::from(u8::from(!all_finite(isa, &of[run])))) == 0.0
}

/// Copies a buffer to another of the same length, on all threads: one alone does not saturate the memory
/// bandwidth.
pub fn copy<T: Element>(into: &mut [T], from: &[T]) {
    assert_eq!(into.len(), from.len());
    parallel::runs_mut(into, RUN, |run, into| into.copy_from_slice(&from[run]));
}

/// Adds a buffer to another of the same length, on all threads.
pub fn add<T: Element>(isa: Isa, into: &mut [T], from: &[T]) {
    assert_eq!(into.len(), from.len());
    parallel::runs_mut(into, RUN, |run, into| simd::add(isa, into, &from[run]));
}

/// Multiplies gradients by `factor` and clips them; `norm` is their norm before.
pub fn clip<T: Element>(isa: Isa, grads: &mut [T], factor: f64, norm: f64, clip: Option<Clip>) {
    let (factors, limit) = match clip {
        Some(Clip::Norm(most)) if factor * norm + 1e-6 > most => {
            (factors::<T>(factor, most, factor * norm + 1e-6), f64::INFINITY)
        }
        Some(Clip::Value(most)) => ([factor, 1.0], most),
        _ => ([factor, 1.0], f64::INFINITY),
    };
    if factors != [1.0; 2] || limit.is_finite() {
        parallel::runs_mut(grads, RUN, |_, grads| dispatch(isa, Limit { grads, factors, limit }));
    }
}

/// The optimizer's step over the whole arena, and what accompanies it.
///
/// If the optimizer does not work element by element, nothing can accompany the step: `along` must be `None`.
///
/// # Panics
/// If the optimizer's state was made for an arena of another length.
pub fn step<T: Element>(
    isa: Isa,
    params: &mut Buffer<T>,
    grads: &[T],
    optimizer: &mut Optimizer<T>,
    along: Option<Company<'_, T>>,
) {
    if !optimizer.is_elementwise() {
        debug_assert!(along.is_none(), "`Along::check` refuses it before gradients are gathered");
        return optim::step(isa, params, grads, optimizer);
    }
    let (steps, state) = optimizer.begin();
    let params = params.share();
    parallel::runs(grads.len(), RUN, |run| {
        for (range, step) in steps.parts(run) {
            let Some(step) = step else { continue };
            // SAFETY: runs are disjoint, and each has its own range of parameters, state and the company's
            // arrays.
            unsafe {
                let params = params.slice_mut(range.clone());
                let state = state.map(|s| s.slice_mut_or_empty(range.clone()));
                let grads = &grads[range.clone()];
                match &along {
                    None => step.update(isa, params, grads, state),
                    Some(along) => along.step(isa, step, range, params, grads, state),
                }
            }
        }
    });
    optimizer.advance();
}

/// How parameters are averaged over the steps: ā ← ā + w·(θ − ā), starting with ā = θ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Averaging {
    /// w = 1 − decay: an exponential moving average.
    Exponential(f64),
    /// w = 1/n for the n-th: the mean of all.
    Equal,
}

/// An average of parameters.
pub struct Average<T> {
    /// The kind of average.
    pub averaging: Averaging,
    /// Updates to skip at the start.
    pub start: u64,
    /// Number of updates from `start` to the first that is included, and from there to the next.
    pub every: u64,
    /// The average, in the arena's order.
    pub values: Buffer<T>,
    /// How many updates' parameters it includes.
    pub count: u64,
}

impl<T: Element> Average<T> {
    /// Includes the parameters after `updates` updates, if it is their turn and they are finite: an average
    /// that was infinite once would stay so forever, and the next pass reports the problem anyway.
    pub fn follow(&mut self, isa: Isa, params: &[T], updates: u64) {
        if updates <= self.start || !(updates - self.start).is_multiple_of(self.every) {
            return;
        }
        if !is_finite(isa, params) {
            return;
        }
        self.count += 1;
        let part = match self.averaging {
            _ if self.count == 1 => 1.0,
            Averaging::Exponential(decay) => 1.0 - decay,
            Averaging::Equal => 1.0 / self.count as f64,
        };
        parallel::runs_mut(&mut self.values, RUN, |run, into| {
            dispatch(isa, Blend { into, from: &params[run], part });
        });
    }
}

/// a ← a + part·(b − a)
struct Blend<'a, T> {
    into: &'a mut [T],
    from: &'a [T],
    part: f64,
}

impl<T: Element> Op<T> for Blend<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let part = s.splat(T::lit(self.part));
        stream_map(
            s,
            [self.into],
            [self.from],
            #[inline(always)]
            |[a], [b]| [s.fma(part, s.sub(b, a), a)],
        );
    }
}

/// Sum of the squares of scaled numbers, within blocks in the numbers' precision and over blocks in double
/// precision.
struct Squares<'a, T>(&'a [T], f64);

impl<T: Element> Op<T> for Squares<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let scale = s.splat(T::lit(self.1));
        sum_of(
            s,
            [self.0],
            #[inline(always)]
            |[x], sum| {
                let x = s.mul(scale, x);
                s.fma(x, x, sum)
            },
        )
    }
}

/// g ← max(−limit, min(limit, (factors₁·g)·factors₂))
struct Limit<'a, T> {
    grads: &'a mut [T],
    factors: [f64; 2],
    limit: f64,
}

impl<T: Element> Op<T> for Limit<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [first, second] = self.factors.map(|x| s.splat(T::lit(x)));
        let [high, low] = [self.limit, -self.limit].map(|x| s.splat(T::lit(x)));
        zip_map(
            s,
            [self.grads],
            [],
            #[inline(always)]
            |[g], []| [s.max(low, s.min(high, s.mul(second, s.mul(first, g))))],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads;

    fn gradients<T: Element>(n: usize) -> Vec<T> {
        (0..n).map(|i| T::lit((1.3 * i as f64).sin())).collect()
    }

    #[test]
    fn copies_and_sums_are_whole() {
        for n in [0, 1, 1000, 3 * RUN + 5] {
            let from = gradients::<f64>(n);
            let mut into = vec![f64::NAN; n];
            copy(&mut into, &from);
            assert_eq!(into, from);
            for isa in Isa::available() {
                into.fill(0.5);
                add(isa, &mut into, &from);
                assert!(into.iter().zip(&from).all(|(sum, x)| *sum == 0.5 + x), "{isa} {n}");
            }
        }
    }

    #[test]
    fn norms_and_limits_are_those_of_the_formulas() {
        for isa in Isa::available() {
            for n in [1, 7, 1000, 3 * RUN + 5] {
                let before = gradients::<f64>(n);
                let exact = before.iter().map(|g| g * g).sum::<f64>().sqrt();
                let found = norm(isa, &before);
                assert!((found - exact).abs() <= 1e-13 * exact, "{isa} {n}: {found} {exact}");
                for (factor, most) in [(1.0, 0.5), (0.25, 1e9), (1.0, exact)] {
                    let mut after = before.clone();
                    clip(isa, &mut after, factor, found, Some(Clip::Norm(most)));
                    let scale = factor * (most / (factor * exact + 1e-6)).min(1.0);
                    // The scale is only as accurate as the norm.
                    let close = |(a, b): (&f64, &f64)| (a - scale * b).abs() <= 2e-13 * b.abs();
                    assert!(after.iter().zip(&before).all(close), "{isa} {n} {factor} {most}");
                }
                let mut after = before.clone();
                clip(isa, &mut after, 2.0, found, Some(Clip::Value(0.75)));
                assert!(after.iter().zip(&before).all(|(a, b)| *a == (2.0 * b).clamp(-0.75, 0.75)));
                let mut after = before.clone();
                clip(isa, &mut after, 1.0, found, None);
                assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let _turn = crate::tests::THREADS.lock().unwrap();
        let before = threads::num_threads().0;
        let grads = gradients::<f32>(5 * RUN + 17);
        let found: Vec<u64> = [1, 2, 3, 8]
            .into_iter()
            .map(|n| {
                threads::set_num_threads(n);
                norm(Isa::Scalar, &grads).to_bits()
            })
            .collect();
        threads::set_num_threads(before);
        assert!(found.iter().all(|bits| *bits == found[0]));
    }

    /// Gradients (3, −4, 0)·size, whose norm is 5·size.
    fn of_size<T: Element>(isa: Isa, size: f64, limit: f64) {
        let close = |found: f64, exact: f64| (found - exact).abs() <= 8.0 * T::EPSILON * exact.abs();
        let before = [3.0, -4.0, 0.0].map(|g| T::lit(g * size));
        let (found, least) = (norm(isa, &before), 5.0 * size + 1e-6);
        assert!(close(found, 5.0 * size), "{isa} {size}: {found}");
        let mut after = before;
        clip(isa, &mut after, 1.0, found, Some(Clip::Norm(limit)));
        for (a, b) in after.iter().zip(&before) {
            // In an order in which nothing is denormal.
            let exact = if least > limit { b.to_f64() / least * limit } else { b.to_f64() };
            assert!(close(a.to_f64(), exact), "{isa} {size}: {a} {exact}");
        }
    }

    #[test]
    fn norms_of_huge_and_of_tiny_gradients_are_those_of_the_formula() {
        // Of the squares, the numbers themselves, or the factor, some overflow or are denormal.
        for (isa, limit) in Isa::available().into_iter().flat_map(|isa| [(isa, 0.5), (isa, 1e-3)]) {
            for size in [8e37, 2e37, 1e36, 3e25, 1e18, 1e-15, 1e-18, 1e-20, 1e-30, 1e-37] {
                of_size::<f32>(isa, size, limit);
            }
            for size in [3e307, 1e304, 1e300, 1e160, 1e150, 1e-145, 1e-155, 1e-200, 1e-307] {
                of_size::<f64>(isa, size, limit);
            }
        }
        // Many whose squares are denormal, and which count beside one whose square is not.
        let mut many = vec![1e-19f32; 1_000_000];
        many[7] = 1e-15;
        let exact = (1e-38 * 999_999.0 + 1e-30f64).sqrt();
        for isa in Isa::available() {
            assert!((norm(isa, &many) / exact - 1.0).abs() < 1e-6);
            for bad in [f32::NAN, f32::INFINITY] {
                assert!(!norm(isa, &[1.0, bad, 2.0]).is_finite());
                assert!(!norm(isa, &[3e38, bad, 2.0]).is_finite());
            }
        }
    }
}
