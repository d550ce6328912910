//! The thread pool: runs the phases of a job on several threads, with as little waiting as possible.
//!
//! A [`Job`] is a sequence of phases; a phase is a number of items that may run in any order, on any thread.
//! A phase begins when all items of the previous one are done.
//!
//! * **Nobody waits for a thread, only for work that a thread has begun.** Items are claimed one by one, so a
//!   worker that the operating system has suspended holds back nothing that it has not begun, and the caller
//!   can finish alone.
//! * Each thread has a share of the items, the same in every phase with the same number of items, so that the
//!   same rows tend to find the same cache. A thread that is done helps the others if they do not finish soon
//!   after.
//! * Workers spin for some tens of microseconds after their last item, then park.
//! * If the pool is busy with another caller's job, the job runs on the caller alone.
//!
//! Results cannot depend on who runs an item: items are independent, and the order of work within each is
//! fixed.
//!
//! This module has what callers need: the number of threads, and [`run`]. `pool` has the threads and their
//! protocol; `trial` finds out whether a short job should run on several threads at all.

#![allow(unsafe_code)] // a job is lent to threads that outlive the borrow, which waits for them

mod pool;
#[cfg(test)]
mod tests;
mod trial;
#[cfg(test)]
pub(crate) mod witness;

use std::cell::Cell;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicUsize, Ordering};

use self::pool::Pool;
pub use self::trial::Trial;
use crate::simd::FlushDenormals;

/// Work divided into phases of independent items.
pub trait Job: Sync {
    /// Number of phases.
    fn phases(&self) -> usize;
    /// Number of items in a phase.
    fn items(&self, phase: usize) -> usize;
    /// Runs an item, on thread `worker` (the caller is 0).
    ///
    /// # Safety
    /// All items of earlier phases must have ended, and no other thread may run this item, an item of another
    /// phase, or any item under the same `worker` number.
    unsafe fn run(&self, phase: usize, item: usize, worker: usize);
}

/// Largest number of threads of a region (one call of [`run`]).
pub const MAX_THREADS: usize = 256;

static REQUESTED: AtomicUsize = AtomicUsize::new(0);

/// Where the number of threads came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadsFrom {
    /// [`set_num_threads`].
    Call,
    /// An environment variable.
    Environment(&'static str),
    /// [`limit_own_threads`], since other threads call at the same time.
    Share,
    /// The CPUs that this process may use: affinity and control-group quota.
    Cpus,
}

thread_local! {
    /// Upper limit on the threads of regions that the calling thread starts.
    static OWN: Cell<usize> = const { Cell::new(MAX_THREADS) };
}

/// How many threads a region of the calling thread may use, and where that number came from.
pub fn num_threads() -> (usize, ThreadsFrom) {
    match (requested(), OWN.get()) {
        ((n, _), own) if own < n => (own, ThreadsFrom::Share),
        (requested, _) => requested,
    }
}

/// Environment variables that say how many threads, in the order in which they are looked at.
const VARIABLES: [&str; 2] = ["THALWEG_NUM_THREADS", "OMP_NUM_THREADS"];

/// The number of threads where no call has set it, times 4, and which variable it is from: its place plus 1,
/// or 0 for the number of CPUs. 0 before it is known.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

fn requested() -> (usize, ThreadsFrom) {
    let n = REQUESTED.load(Ordering::Relaxed);
    if n > 0 {
        return (n, ThreadsFrom::Call);
    }
    let mut known = DEFAULT.load(Ordering::Relaxed);
    if known == 0 {
        known = default();
        DEFAULT.store(known, Ordering::Relaxed);
    }
    let from = (known % 4).checked_sub(1);
    (known / 4, from.map_or(ThreadsFrom::Cpus, |place| ThreadsFrom::Environment(VARIABLES[place])))
}

fn default() -> usize {
    for (place, name) in VARIABLES.into_iter().enumerate() {
        // OpenMP allows a list, one number per nesting level; the first is ours.
        let value = std::env::var(name).ok();
        let first = value.as_deref().and_then(|v| v.split(',').next());
        if let Some(n) = first.and_then(|v| v.trim().parse::<usize>().ok()).filter(|&n| n > 0) {
            return 4 * n.min(MAX_THREADS) + place + 1;
        }
    }
    4 * available_cpus().min(MAX_THREADS)
}

/// CPUs that this process may use.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Sets how many threads regions may use, from 1 to [`MAX_THREADS`].
///
/// # Panics
/// If `n` is outside that range.
pub fn set_num_threads(n: usize) {
    assert!((1..=MAX_THREADS).contains(&n));
    REQUESTED.store(n, Ordering::Relaxed);
}

/// Limits how many threads regions of the calling thread may use, so that threads that call at the same time
/// get CPUs too.
///
/// # Panics
/// If `n` is 0.
pub fn limit_own_threads(n: usize) {
    assert!(n > 0);
    OWN.set(n);
}

/// Forgets the pool, whose threads do not survive a fork, and how many CPUs there were: programs that fork
/// often bind each child to some of them. To be called in the child process.
pub fn after_fork() {
    Pool::forget();
    DEFAULT.store(0, Ordering::Relaxed);
}

/// Runs all phases of `job` on at most `threads` threads, the caller among them.
///
/// Denormal numbers are flushed to zero meanwhile; the caller's mode is restored afterwards.
///
/// # Panics
/// With the first panic of an item, after all threads have left the job; later phases do not begin.
pub fn run(job: &dyn Job, threads: usize) {
    let _mode = FlushDenormals::new();
    #[cfg(test)]
    if witness::run(job, threads) {
        return;
    }
    if threads > 1 {
        let pool = Pool::get();
        let region = match pool.region().try_lock() {
            // A job of another caller panicked, after all threads had left it: the pool itself is intact.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            other => other.ok(),
        };
        if let Some(_region) = region {
            return pool.run(job, threads.min(MAX_THREADS));
        }
    }
    for phase in 0..job.phases() {
        for item in 0..job.items(phase) {
            // SAFETY: this thread runs all items, one after the other and phase by phase.
            unsafe { job.run(phase, item, 0) };
        }
    }
}
