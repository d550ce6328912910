//! What is done with all gradients or parameters at once: clipping and the optimizer's step, where
//! gradients are not used up tile by tile, and averages of parameters over the steps.
//!
//! ```text
//! norm    g ← g · min(1, c/(‖g‖ + 10⁻⁶)),  ‖g‖ over all parameters together
//! value   g ← max(−c, min(c, g))           one by one
//! ```
//!
//! PyTorch's `clip_grad_norm_` (Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063), with its 10⁻⁶, and
//! `clip_grad_value_`.

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::optim::{self, Optimizer, Steps};
use crate::simd::{Isa, Op, Simd, dispatch, stream_map, zip_map};
use crate::threads::{self, Job};

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// Their norm to at most this.
    Norm(f64),
    /// Each to at most this in size.
    Value(f64),
}

impl Clip {
    /// Checks the limit.
    ///
    /// # Errors
    /// If it is not a number above 0.
    pub fn check(self) -> Result<(), Error> {
        let (name, limit) = match self {
            Clip::Norm(limit) => ("clip_grad_norm", limit),
            Clip::Value(limit) => ("clip_grad_value", limit),
        };
        if limit > 0.0 && limit.is_finite() {
            return Ok(());
        }
        Err(Error::Argument { name, value: limit.to_string(), accepted: "a number > 0 is needed".into() })
    }
}

/// Elements of a run, which one thread takes: large enough that starting one costs nothing beside it.
const RUN: usize = 64 * 1024;

/// Multiplies gradients by `factor` and clips them. Gives their norm in between.
///
/// The norm is put together from those of runs, in their order, in double precision: the same bits for any
/// number of threads. If it is not finite, gradients stay as they are.
pub fn clip<T: Element>(isa: Isa, grads: &mut [T], factor: f64, clip: Option<Clip>) -> f64 {
    let mut sums = [0.0; MAX_SUMS];
    let run = RUN.max(grads.len().div_ceil(MAX_SUMS));
    let items = grads.len().div_ceil(run);
    let sums = Shared::new(&mut sums);
    let job = Clipping { isa, run, clip, factor, grads: Shared::new(grads), sums };
    threads::run(&job, threads::num_threads().0.min(items));
    job.norm()
}

/// The optimizer's step over the whole arena.
///
/// # Panics
/// If the optimizer's state was made for an arena of another length.
pub fn step<T: Element>(isa: Isa, params: &mut Buffer<T>, grads: &[T], optimizer: &mut Optimizer<T>) {
    let (steps, state) = optimizer.begin();
    let job = Apply { isa, steps, params: params.share(), grads, state };
    threads::run(&job, threads::num_threads().0.min(job.items(0)));
    optimizer.advance();
}

struct Apply<'a, T> {
    isa: Isa,
    steps: Steps<'a>,
    params: Shared<'a, T>,
    grads: &'a [T],
    state: [Shared<'a, T>; optim::MAX_STATE],
}

impl<T: Element> Job for Apply<'_, T> {
    fn phases(&self) -> usize {
        1
    }
    fn items(&self, _: usize) -> usize {
        self.grads.len().div_ceil(RUN)
    }
    fn run(&self, _: usize, item: usize, _: usize) {
        let run = item * RUN..self.grads.len().min((item + 1) * RUN);
        for (range, step) in self.steps.parts(run) {
            let Some(step) = step else { continue };
            // SAFETY: every item has its own run of parameters and state.
            unsafe {
                let params = self.params.slice_mut(range.clone());
                let state = self.state.map(|s| s.slice_mut_or_empty(range.clone()));
                step.update(self.isa, params, &self.grads[range], state);
            }
        }
    }
}

/// How parameters are averaged over the steps: ā ← ā + w·(θ − ā), at first ā = θ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Averaging {
    /// w = 1 − decay: an exponential moving average.
    Exponential(f64),
    /// w = 1/n for the n-th: the mean of all.
    Equal,
}

/// An average of parameters.
pub struct Average<T> {
    /// How.
    pub averaging: Averaging,
    /// Updates to let pass first.
    pub start: u64,
    /// Updates from one to the next that is taken in.
    pub every: u64,
    /// The average, in the arena's order.
    pub values: Buffer<T>,
    /// How many it is of.
    pub count: u64,
}

impl<T: Element> Average<T> {
    /// Takes the parameters after so many updates in, if it is their turn.
    pub fn follow(&mut self, isa: Isa, params: &[T], updates: u64) {
        if updates <= self.start || !(updates - self.start - 1).is_multiple_of(self.every) {
            return;
        }
        self.count += 1;
        let part = match self.averaging {
            _ if self.count == 1 => 1.0,
            Averaging::Exponential(decay) => 1.0 - decay,
            Averaging::Equal => 1.0 / self.count as f64,
        };
        let job = Follow { isa, part, params, values: self.values.share() };
        threads::run(&job, threads::num_threads().0.min(job.items(0)));
    }
}

struct Follow<'a, T> {
    isa: Isa,
    part: f64,
    params: &'a [T],
    values: Shared<'a, T>,
}

impl<T: Element> Job for Follow<'_, T> {
    fn phases(&self) -> usize {
        1
    }
    fn items(&self, _: usize) -> usize {
        self.params.len().div_ceil(RUN)
    }
    fn run(&self, _: usize, item: usize, _: usize) {
        let range = item * RUN..self.params.len().min((item + 1) * RUN);
        // SAFETY: every item has its own run.
        let values = unsafe { self.values.slice_mut(range.clone()) };
        dispatch(self.isa, Blend { into: values, from: &self.params[range], part: self.part });
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

/// Most runs that sums are kept of.
const MAX_SUMS: usize = 1024;

struct Clipping<'a, T> {
    isa: Isa,
    run: usize,
    clip: Option<Clip>,
    factor: f64,
    grads: Shared<'a, T>,
    sums: Shared<'a, f64>,
}

impl<T: Element> Clipping<'_, T> {
    /// The norm, once all sums are there.
    fn norm(&self) -> f64 {
        // SAFETY: sums are written in the first phase only, which is over.
        let sums = unsafe { self.sums.slice(0..self.items(0)) };
        self.factor * sums.iter().sum::<f64>().sqrt()
    }
}

impl<T: Element> Job for Clipping<'_, T> {
    fn phases(&self) -> usize {
        2
    }

    fn items(&self, _: usize) -> usize {
        self.grads.len().div_ceil(self.run)
    }

    fn run(&self, phase: usize, item: usize, _: usize) {
        let range = item * self.run..self.grads.len().min((item + 1) * self.run);
        // SAFETY: every item has its own run.
        let grads = unsafe { self.grads.slice_mut(range) };
        if phase == 0 {
            // SAFETY: every item has its own sum.
            unsafe { self.sums.slice_mut(item..item + 1)[0] = dispatch(self.isa, Squares(grads)) };
            return;
        }
        let norm = self.norm();
        if !norm.is_finite() {
            return;
        }
        let (factor, limit) = match self.clip {
            Some(Clip::Norm(most)) => (self.factor * (most / (norm + 1e-6)).min(1.0), f64::INFINITY),
            Some(Clip::Value(most)) => (self.factor, most),
            None => (self.factor, f64::INFINITY),
        };
        if factor != 1.0 || limit.is_finite() {
            dispatch(self.isa, Limit { grads, factor, limit });
        }
    }
}

/// Sum of squares, of blocks in single precision and over blocks in double.
struct Squares<'a, T>(&'a [T]);

impl<T: Element> Op<T> for Squares<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let mut total = 0.0;
        for block in self.0.chunks(64 * S::N) {
            let mut sums = [s.splat(T::ZERO); 4];
            for (i, x) in block.chunks(S::N).enumerate() {
                let x = if x.len() == S::N { s.load(x) } else { s.load_partial(x) };
                sums[i % 4] = s.fma(x, x, sums[i % 4]);
            }
            total += s.reduce_add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))).to_f64();
        }
        total
    }
}

/// g ← max(−limit, min(limit, factor·g))
struct Limit<'a, T> {
    grads: &'a mut [T],
    factor: f64,
    limit: f64,
}

impl<T: Element> Op<T> for Limit<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [factor, high, low] = [self.factor, self.limit, -self.limit].map(|x| s.splat(T::lit(x)));
        zip_map(
            s,
            [self.grads],
            [],
            #[inline(always)]
            |[g], []| [s.max(low, s.min(high, s.mul(factor, g)))],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradients<T: Element>(n: usize) -> Vec<T> {
        (0..n).map(|i| T::lit((1.3 * i as f64).sin())).collect()
    }

    #[test]
    fn norms_and_limits_are_those_of_the_formulas() {
        for isa in Isa::available() {
            for n in [1, 7, 1000, 3 * RUN + 5] {
                let before = gradients::<f64>(n);
                let norm = before.iter().map(|g| g * g).sum::<f64>().sqrt();
                for (factor, most) in [(1.0, 0.5), (0.25, 1e9), (1.0, norm)] {
                    let mut after = before.clone();
                    let got = clip(isa, &mut after, factor, Some(Clip::Norm(most)));
                    assert!((got - factor * norm).abs() <= 1e-13 * norm, "{isa} {n}: {got} {norm}");
                    let scale = factor * (most / (factor * norm + 1e-6)).min(1.0);
                    // The scale is as accurate as the norm.
                    let close = |(a, b): (&f64, &f64)| (a - scale * b).abs() <= 2e-13 * b.abs();
                    assert!(after.iter().zip(&before).all(close), "{isa} {n} {factor} {most}");
                }
                let mut after = before.clone();
                clip(isa, &mut after, 2.0, Some(Clip::Value(0.75)));
                assert!(after.iter().zip(&before).all(|(a, b)| *a == (2.0 * b).clamp(-0.75, 0.75)));
                let mut after = before.clone();
                clip(isa, &mut after, 1.0, None);
                assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn the_norm_is_the_same_for_any_number_of_threads() {
        let before = threads::num_threads().0;
        let results: Vec<(u64, Vec<f32>)> = [1, 2, 3, 8]
            .into_iter()
            .map(|n| {
                threads::set_num_threads(n);
                let mut grads = gradients::<f32>(5 * RUN + 17);
                let norm = clip(Isa::Scalar, &mut grads, 1.0, Some(Clip::Norm(1.0)));
                (norm.to_bits(), grads)
            })
            .collect();
        threads::set_num_threads(before);
        assert!(results.iter().all(|r| *r == results[0]));
    }

    #[test]
    fn gradients_that_are_not_finite_are_left_alone() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut grads = vec![1.0, bad, 2.0];
            assert!(!clip(Isa::Scalar, &mut grads, 1.0, Some(Clip::Norm(0.1))).is_finite());
            assert_eq!((grads[0], grads[2]), (1.0, 2.0));
        }
    }
}
