//! A step in progress, as its items see it: what they read and write of parameters, state and scratch.
//!
//! All safety here rests on one rule, which the methods in this directory must keep: within a phase, no item
//! touches what another one writes. Pieces have no element of parameters and state in common; sums are
//! recorded in one phase and read in later ones. What writes is therefore `unsafe`: its caller names the part
//! as its item's own. What only reads relies on the writers' promises.

use std::ops::Range;

use super::{Piece, Place, Plan};
use crate::arena::Shared;
use crate::element::Element;
use crate::optim::{MAX_STATE, Scalars, Steps};
use crate::simd::Isa;
use crate::view::{MatMut, MatRef};

/// What belongs to a piece, and so to the one item of the phase that works on it.
pub(in crate::optim) struct Own<'i, T> {
    pub(super) params: &'i mut [T],
    pub(super) grads: &'i [T],
    /// State arrays that have an element for each of these parameters; others are empty.
    pub(super) state: [&'i mut [T]; MAX_STATE],
}

/// See the module documentation.
pub(in crate::optim) struct Work<'a, T> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) steps: Steps<'a>,
    pub(super) params: Shared<'a, T>,
    pub(super) grads: &'a [T],
    pub(super) state: [Shared<'a, T>; MAX_STATE],
    pub(super) sums: Shared<'a, f64>,
    pub(super) scratch: Shared<'a, T>,
    pub(super) packs: Shared<'a, T>,
    /// Elements of `packs` for each thread.
    pub(super) pack: usize,
    pub(super) scalars: Shared<'a, f64>,
}

impl<'a, T: Element> Work<'a, T> {
    /// A piece's block.
    pub(super) fn place(&self, piece: &Piece) -> &'a Place {
        &self.plan.places[piece.block]
    }

    /// What belongs to a piece.
    ///
    /// # Safety
    /// The caller must be the one item of the phase that works on this piece, and must call this only once.
    pub(super) unsafe fn own(&self, piece: &Piece) -> Own<'a, T> {
        let (place, range) = (self.place(piece), piece.range.clone());
        let array = |k: usize| match place.mirrored[k] {
            true => place.state[k] + range.start - place.start..place.state[k] + range.end - place.start,
            false => 0..0,
        };
        // SAFETY: pieces have disjoint parts of the parameters and of arrays that mirror them, and the caller
        // promises that nobody else has this piece's.
        unsafe {
            Own {
                params: self.params.slice_mut(range.clone()),
                grads: &self.grads[range.clone()],
                state: std::array::from_fn(|k| self.state[k].slice_mut_or_empty(array(k))),
            }
        }
    }

    /// A state array of a factored block, for writing.
    ///
    /// # Safety
    /// No other item of the phase may use this array's part for the block, nor the calling one through
    /// another reference.
    pub(super) unsafe fn kept_mut(&self, place: &Place, state: usize) -> &'a mut [T] {
        // SAFETY: blocks have disjoint parts of the array, and the caller promises that nobody else has this
        // one's.
        unsafe { self.state[state].slice_mut(self.kept_at(place, state)) }
    }

    /// The same, for reading.
    pub(super) fn kept(&self, place: &Place, state: usize) -> &'a [T] {
        // SAFETY: only `kept_mut` writes this part, whose callers promise that no other item uses it.
        unsafe { self.state[state].slice(self.kept_at(place, state)) }
    }

    fn kept_at(&self, place: &Place, state: usize) -> Range<usize> {
        let from = place.state[state];
        from..from + if state == 0 { place.outputs } else { place.inputs }
    }

    /// A square matrix in a state array, `from` elements after the start of the block's state, for reading.
    pub(super) fn square(&self, place: &Place, state: usize, from: usize, n: usize) -> MatRef<'a, T> {
        // SAFETY: only `part_of_square` writes it, whose callers promise that no other item uses that part.
        unsafe { self.state[state].mat(place.state[state] + from, n, n, n) }
    }

    /// An `m` × `n` part of such a matrix, in rows of `stride`, for writing.
    ///
    /// # Safety
    /// No other item of the phase may use this part, nor the calling one through another reference.
    pub(super) unsafe fn part_of_square(
        &self,
        place: &Place,
        state: usize,
        from: usize,
        (m, n, stride): (usize, usize, usize),
    ) -> MatMut<'a, T> {
        // SAFETY: the caller makes the promise that `mat_mut` asks for.
        unsafe { self.state[state].mat_mut(place.state[state] + from, m, n, stride) }
    }

    /// Records sums of a piece, starting with its first.
    ///
    /// # Safety
    /// Only the piece's own item may call this, and no item of the phase may ask for totals of these sums.
    pub(super) unsafe fn note<const K: usize>(&self, piece: &Piece, sums: [f64; K]) {
        // SAFETY: the caller makes the promise.
        sums.into_iter().enumerate().for_each(|(k, sum)| unsafe { self.set_sum(k, piece.index, sum) });
    }

    /// Records the second sum of a piece.
    ///
    /// # Safety
    /// As for [`note`](Self::note).
    pub(super) unsafe fn note_second(&self, piece: &Piece, sum: f64) {
        // SAFETY: the caller makes the promise.
        unsafe { self.set_sum(1, piece.index, sum) };
    }

    /// The total of the `k`-th sums of all pieces of a piece's block.
    pub(super) fn total(&self, piece: &Piece, k: usize) -> f64 {
        self.sum(k, self.place(piece).pieces.clone())
    }

    /// The total of the `k`-th sums of all pieces.
    pub(super) fn total_of_all(&self, k: usize) -> f64 {
        self.sum(k, 0..self.plan.pieces.len())
    }

    /// # Safety
    /// As for [`note`](Self::note).
    unsafe fn set_sum(&self, k: usize, index: usize, sum: f64) {
        let at = k * self.plan.pieces.len() + index;
        // SAFETY: every piece has its own element, and the caller promises that nobody else uses this one.
        unsafe { self.sums.slice_mut(at..at + 1)[0] = sum };
    }

    fn sum(&self, k: usize, Range { start, end }: Range<usize>) -> f64 {
        let from = k * self.plan.pieces.len();
        // SAFETY: sums are written only by `note`, whose callers promise that nobody reads them meanwhile.
        unsafe { self.sums.slice(from + start..from + end) }.iter().sum()
    }

    /// A part of the scratch.
    ///
    /// # Safety
    /// No other item of the phase may use this part, nor the calling one through another reference.
    pub(super) unsafe fn scratch_mut(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: the caller makes the promise that `slice_mut` asks for.
        unsafe { self.scratch.slice_mut(range) }
    }

    /// Writes one number of the scratch.
    ///
    /// # Safety
    /// As for [`scratch_mut`](Self::scratch_mut).
    pub(super) unsafe fn set(&self, at: usize, value: T) {
        // SAFETY: the caller makes the promise that `slice_mut` asks for.
        unsafe { self.scratch.slice_mut(at..at + 1)[0] = value };
    }

    /// Reads one number of the scratch.
    pub(super) fn get(&self, at: usize) -> T {
        // SAFETY: whoever writes a part of the scratch promises that no other item uses it.
        unsafe { self.scratch.slice(at..at + 1)[0] }
    }

    /// A matrix in the scratch, for reading.
    pub(super) fn mat(&self, start: usize, rows: usize, cols: usize) -> MatRef<'a, T> {
        // SAFETY: whoever writes a part of the scratch promises that no other item uses it.
        unsafe { self.scratch.mat(start, rows, cols, cols) }
    }

    /// A part of a matrix in the scratch, for writing.
    ///
    /// # Safety
    /// As for [`scratch_mut`](Self::scratch_mut).
    pub(super) unsafe fn mat_mut(
        &self,
        start: usize,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> MatMut<'a, T> {
        // SAFETY: the caller makes the promise that `mat_mut` asks for.
        unsafe { self.scratch.mat_mut(start, rows, cols, stride) }
    }

    /// A thread's scratch for products.
    ///
    /// # Safety
    /// The calling thread must be running an item under this number, with no other reference to its scratch.
    pub(super) unsafe fn pack(&self, worker: usize) -> &'a mut [T] {
        // SAFETY: threads have disjoint parts, and the caller promises that there is no other reference.
        unsafe { self.packs.slice_mut(worker * self.pack..(worker + 1) * self.pack) }
    }

    /// The optimizer's scalars.
    pub(super) fn scalars(&self) -> Scalars {
        // SAFETY: scalars are written only by `set_scalars`, in phases with a single item.
        unsafe { self.scalars.slice(0..self.scalars.len()) }.try_into().expect("as many")
    }

    /// Sets the scalars.
    ///
    /// # Safety
    /// The phase must have a single item.
    pub(super) unsafe fn set_scalars(&self, scalars: Scalars) {
        // SAFETY: the caller promises that there is no other item.
        unsafe { self.scalars.slice_mut(0..scalars.len()) }.copy_from_slice(&scalars);
    }
}
