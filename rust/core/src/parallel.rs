//! Loops on all threads: over long arrays in runs, and over independent pieces of work. Each run or piece is
//! processed by one thread, independently of all others, so results cannot depend on the number of threads.

#![allow(unsafe_code)] // disjoint runs for threads

use std::ops::Range;
use std::sync::Mutex;

use crate::arena::Shared;
use crate::threads::{self, Job};

/// Elements of a run: so many that the cost of starting one is negligible.
pub const RUN: usize = 64 * 1024;
/// Most runs for which sums are kept.
const MAX_SUMS: usize = 1024;

struct Loop<F>(usize, F);

impl<F: Fn(usize) + Sync> Job for Loop<F> {
    fn phases(&self) -> usize {
        1
    }
    fn items(&self, _: usize) -> usize {
        self.0
    }
    unsafe fn run(&self, _: usize, item: usize, _: usize) {
        self.1(item);
    }
}

/// Calls `f` with each of `0..count`.
pub fn each(count: usize, f: impl Fn(usize) + Sync) {
    threads::run(&Loop(count, f), threads::num_threads().0.min(count));
}

/// Calls `f` with each run of `0..len`; all but the last have `run` elements.
pub fn runs(len: usize, run: usize, f: impl Fn(Range<usize>) + Sync) {
    each(len.div_ceil(run), |item| f(item * run..len.min((item + 1) * run)));
}

/// The same, also passing the part of a slice that belongs to the run.
pub fn runs_mut<T: Send + Sync>(slice: &mut [T], run: usize, f: impl Fn(Range<usize>, &mut [T]) + Sync) {
    let (len, shared) = (slice.len(), Shared::new(slice));
    // SAFETY: `runs` calls `f` once for each run, and runs do not overlap.
    runs(len, run, |range| f(range.clone(), unsafe { shared.slice_mut(range) }));
}

/// Sums what `f` returns for each run of `0..len`, in the order of the runs.
pub fn sum(len: usize, f: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    let run = RUN.max(len.div_ceil(MAX_SUMS));
    let mut sums = [0.0; MAX_SUMS];
    let sums = &mut sums[..len.div_ceil(run)];
    runs_mut(sums, 1, |item, sum| sum[0] = f(item.start * run..len.min(item.end * run)));
    sums.iter().sum()
}

/// Calls `f` with each of the pieces of work, on at most `threads` threads.
pub fn pieces<W: Send>(pieces: &mut [W], threads: usize, f: impl Fn(&mut W) + Sync) {
    let pieces: Vec<_> = pieces.iter_mut().map(Mutex::new).collect();
    // The lock is never contended: each piece is an item, and an item runs once.
    let job = Loop(pieces.len(), |item: usize| f(&mut pieces[item].lock().expect("an item runs once")));
    threads::run(&job, threads);
}
