//! Locks that a fork waits for. A child process has none of its parent's threads: what one of them had locked would
//! stay so, and be half changed. So `fork` lets all calls end before it, and holds new ones up meanwhile, as C
//! libraries do for their memory; Python calls [`before_fork`] and [`after_fork`] around it.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use thalweg_core::threads;

/// Threads that hold locks.
static HOLDERS: AtomicUsize = AtomicUsize::new(0);
/// Forks that are under way.
static FORKS: AtomicUsize = AtomicUsize::new(0);
/// How often either is looked at.
const POLL: Duration = Duration::from_micros(50);

thread_local! {
    /// Locks that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// What keeps a fork waiting.
struct Hold;

impl Hold {
    fn new() -> Self {
        let held = HELD.get();
        HELD.set(held + 1);
        if held > 0 {
            return Hold; // It is waited for, and must go on.
        }
        loop {
            // Counted before it looks, and a fork looks after it has said so: one of the two sees the other.
            HOLDERS.fetch_add(1, SeqCst);
            if FORKS.load(SeqCst) == 0 {
                return Hold;
            }
            HOLDERS.fetch_sub(1, SeqCst);
            // Detached, also if it was not: who forks has to attach before it can go on.
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
    // In this order: what keeps a fork waiting goes last.
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

/// Takes a lock, also after a panic of its last holder: the data behind our locks are plain numbers.
pub fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    let hold = Hold::new();
    Guard { data: mutex.lock().unwrap_or_else(PoisonError::into_inner), _hold: hold }
}

/// Whether this thread is among the holders: it forks in a function that a call of ours called.
fn own() -> usize {
    usize::from(HELD.get() > 0)
}

/// Waits until no other call is under way, and holds new ones up. Detached, since calls may have to attach before they end.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    FORKS.fetch_add(1, SeqCst);
    py.detach(|| {
        while HOLDERS.load(SeqCst) > own() {
            std::thread::sleep(POLL);
        }
    });
}

/// Goes on: in the child with threads of its own.
#[pyfunction]
pub fn after_fork(child: bool) {
    if child {
        threads::after_fork();
        // Also those of other threads, which are gone: forks that they were about to make, looks that they had.
        FORKS.store(0, SeqCst);
        HOLDERS.store(own(), SeqCst);
    } else {
        FORKS.fetch_sub(1, SeqCst);
    }
}
