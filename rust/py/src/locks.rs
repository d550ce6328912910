//! Locks that a fork waits for, and that threads get in turn. A child process has none of its parent's
//! threads: what one of them had locked would stay locked and half changed. So `fork` waits for all calls to
//! end, and holds up new ones meanwhile, as C libraries do for their memory; Python calls [`before_fork`] and
//! [`after_fork`] around it.
//!
//! A thread that takes one step after the other would take a plain lock back before a waiting thread is awake:
//! an actor would wait for hundreds of the learner's steps.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use pyo3::prelude::*;
use thalweg_core::threads;

/// Number of threads that hold locks.
static HOLDERS: AtomicUsize = AtomicUsize::new(0);
/// Number of forks in progress.
static FORKS: AtomicUsize = AtomicUsize::new(0);
/// How often either is polled.
const POLL: Duration = Duration::from_micros(50);

thread_local! {
    /// Number of locks that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Keeps a fork waiting while it exists.
struct Hold;

impl Hold {
    fn new() -> Self {
        let held = HELD.get();
        HELD.set(held + 1);
        if held > 0 {
            return Hold; // A fork waits for this thread, which must go on.
        }
        loop {
            // We count first and look for forks then, and a fork announces itself first and looks then: one
            // of the two sees the other.
            HOLDERS.fetch_add(1, SeqCst);
            if FORKS.load(SeqCst) == 0 {
                return Hold;
            }
            HOLDERS.fetch_sub(1, SeqCst);
            // Detached, even if it was before: the thread that forks has to attach before it can go on.
            Python::attach(|py| py.detach(|| std::thread::sleep(POLL)));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            HOLDERS.fetch_sub(1, SeqCst);
        }
    }
}

/// A lock that is held.
pub struct Guard<'a, T> {
    // In this order: the field that keeps a fork waiting is dropped last.
    data: MutexGuard<'a, T>,
    _hold: Hold,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// A lock.
pub struct Lock<T> {
    data: Mutex<T>,
    /// Threads that found it taken.
    waiting: AtomicUsize,
    /// Held by the one of them that is next.
    gate: Mutex<()>,
}

impl<T> Lock<T> {
    pub const fn new(data: T) -> Self {
        Lock { data: Mutex::new(data), waiting: AtomicUsize::new(0), gate: Mutex::new(()) }
    }

    /// Waits for the lock and takes it, even after a panic of its last holder: the data behind our locks are
    /// plain numbers.
    pub fn lock(&self) -> Guard<'_, T> {
        let hold = Hold::new();
        if self.waiting.load(Relaxed) == 0 {
            match self.data.try_lock() {
                Ok(data) => return Guard { data, _hold: hold },
                Err(TryLockError::Poisoned(error)) => {
                    return Guard { data: error.into_inner(), _hold: hold };
                }
                Err(TryLockError::WouldBlock) => {}
            }
        }
        // Whoever has just released it comes here, too, and finds the gate closed.
        self.waiting.fetch_add(1, Relaxed);
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Relaxed);
        drop(gate);
        Guard { data, _hold: hold }
    }
}

/// Lets others fork while a function of the user's runs, in the middle of a call. For calls whose locks nobody
/// else takes: in a child process, they stay locked.
pub fn aside<R>(function: impl FnOnce() -> R) -> R {
    /// Comes back even from a panic.
    struct Back(usize);
    impl Drop for Back {
        fn drop(&mut self) {
            std::mem::forget(Hold::new());
            HELD.set(self.0);
        }
    }
    let held = HELD.replace(0);
    debug_assert!(held > 0, "a call is under way");
    HOLDERS.fetch_sub(1, SeqCst);
    let _back = Back(held);
    function()
}

/// 1 if this thread is among the holders, because it forks in a function that one of our calls called.
fn own() -> usize {
    usize::from(HELD.get() > 0)
}

/// Waits until no other call is in progress, and holds up new ones. Detached, since calls may have to attach
/// before they end.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    FORKS.fetch_add(1, SeqCst);
    py.detach(|| {
        while HOLDERS.load(SeqCst) > own() {
            std::thread::sleep(POLL);
        }
    });
}

/// Lets calls go on; in the child, with new threads.
#[pyfunction]
pub fn after_fork(child: bool) {
    if child {
        threads::after_fork();
        // Also resets what other threads, now gone, had counted: forks they were about to make, and locks
        // they held.
        FORKS.store(0, SeqCst);
        HOLDERS.store(own(), SeqCst);
    } else {
        FORKS.fetch_sub(1, SeqCst);
    }
}
