//! The parameters of a model, with a stamp that tells whether they may have been changed.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{Buffer, Shared};

/// The latest stamp of any parameters.
static STAMPS: AtomicU64 = AtomicU64::new(0);

/// The parameter arena. Whoever can write to it gets it by [`DerefMut`], which renews the stamp: what was
/// derived from the parameters and bears their stamp is up to date.
pub struct Parameters<T> {
    values: Buffer<T>,
    stamp: u64,
}

impl<T> Parameters<T> {
    /// Parameters with these values.
    pub fn new(values: Buffer<T>) -> Self {
        Parameters { values, stamp: fresh() }
    }

    /// Identifies these values: no other parameters, and none with other values, have had this stamp.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// For passes that only read; others use [`Buffer::share`], which renews the stamp.
    pub fn lend(&mut self) -> Shared<'_, T> {
        Shared::new(&mut self.values)
    }
}

fn fresh() -> u64 {
    STAMPS.fetch_add(1, Ordering::Relaxed) + 1
}

impl<T> Deref for Parameters<T> {
    type Target = Buffer<T>;
    fn deref(&self) -> &Buffer<T> {
        &self.values
    }
}

impl<T> DerefMut for Parameters<T> {
    fn deref_mut(&mut self) -> &mut Buffer<T> {
        self.stamp = fresh();
        &mut self.values
    }
}
