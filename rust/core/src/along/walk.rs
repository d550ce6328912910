//! How far the moves of each parameter have carried, measured by the Fisher information: RWalk's score.
//!
//! ```text
//! F ← α·g² + (1 − α)·F     at every update; at the very first F = g²
//! ω ← ω − g·Δθ
//! every Δt updates:  s ← s + ω/(½·F·(θ − θ̂)² + ε),  ω ← 0,  θ̂ ← θ
//! ```
//!
//! with the gradient g of the loss only. Chaudhry, Dokania, Ajanthan and Torr 2018, arXiv:1801.10112,
//! equations 6 and 7. All this happens while a tile's gradient and parameters are in the cache.

use std::ops::Range;

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::model::Model;
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};

/// Number of arrays in [`Walk::parts`].
pub const PARTS: usize = 4;

/// Scores in progress.
pub struct Walk<T> {
    /// F, ω, s and θ̂, in the arena's order.
    pub parts: [Buffer<T>; PARTS],
    /// α
    pub alpha: f64,
    /// ε
    pub eps: f64,
    /// Δt
    pub every: u64,
    /// Number of the optimizer's updates when this began.
    pub begun: u64,
    /// Whether there was no F then.
    pub fresh: bool,
}

impl<T: Element> Walk<T> {
    /// Scores that start at the current parameters.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(model: &Model<T>, (alpha, eps): (f64, f64), every: u64, begun: u64) -> Result<Self, Error> {
        let zeros = || Buffer::zeroed("scores of parameters", model.params.len());
        let mut parts = [zeros()?, zeros()?, zeros()?, zeros()?];
        parts[3].copy_from_slice(&model.params);
        Ok(Walk { parts, alpha, eps, every: every.max(1), begun, fresh: true })
    }

    /// Lends this to the threads of a region, for the update that comes after `updates` others.
    pub fn share(&mut self, updates: u64) -> Pace<'_, T> {
        self.begun = self.begun.min(updates); // the optimizer's count may have been reset
        let since = updates - self.begun;
        let part = if self.fresh && since == 0 { 1.0 } else { self.alpha };
        let ends = (since + 1).is_multiple_of(self.every);
        Pace { parts: self.parts.each_mut().map(Buffer::share), part, eps: self.eps, ends }
    }
}

/// [`Walk`], lent to threads.
#[derive(Clone, Copy)]
pub struct Pace<'a, T> {
    parts: [Shared<'a, T>; PARTS],
    part: f64,
    eps: f64,
    ends: bool,
}

impl<T: Element> Pace<'_, T> {
    /// Includes an update of a range.
    ///
    /// # Safety
    /// Nobody else may use this range of the arrays meanwhile.
    pub unsafe fn step(&self, isa: Isa, range: Range<usize>, slope: &[T], before: &[T], after: &[T]) {
        // SAFETY: the caller promises that nobody else uses this range.
        let [fisher, gain, score, from] = self.parts.map(|p| unsafe { p.slice_mut(range.clone()) });
        dispatch(isa, Gather { fisher, gain: &mut *gain, slope, before, after, part: self.part });
        if self.ends {
            dispatch(isa, Score { score, gain, from, fisher, after, eps: self.eps });
        }
    }
}

/// F ← F + α·(g² − F), ω ← ω + g·(θ before − θ after)
struct Gather<'a, T> {
    fisher: &'a mut [T],
    gain: &'a mut [T],
    slope: &'a [T],
    before: &'a [T],
    after: &'a [T],
    part: f64,
}

impl<T: Element> Op<T> for Gather<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Gather { fisher, gain, slope, before, after, part } = self;
        let [new, old] = [part, 1.0 - part].map(|x| s.splat(T::lit(x)));
        zip_map(
            s,
            [fisher, gain],
            [slope, before, after],
            #[inline(always)]
            |[f, w], [g, before, after]| {
                [s.fma(s.mul(new, g), g, s.mul(old, f)), s.fma(g, s.sub(before, after), w)]
            },
        );
    }
}

/// s ← s + ω/(½·F·(θ − θ̂)² + ε), ω ← 0, θ̂ ← θ
struct Score<'a, T> {
    score: &'a mut [T],
    gain: &'a mut [T],
    from: &'a mut [T],
    fisher: &'a [T],
    after: &'a [T],
    eps: f64,
}

impl<T: Element> Op<T> for Score<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Score { score, gain, from, fisher, after, eps } = self;
        let [half, eps, zero] = [0.5, eps, 0.0].map(|x| s.splat(T::lit(x)));
        zip_map(
            s,
            [score, gain, from],
            [fisher, after],
            #[inline(always)]
            |[score, w, from], [f, now]| {
                let d = s.sub(now, from);
                let length = s.fma(s.mul(half, f), s.mul(d, d), eps);
                [s.add(score, s.div(w, length)), zero, now]
            },
        );
    }
}
