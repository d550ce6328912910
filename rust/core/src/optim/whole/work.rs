//! A step in progress, as its items see it: what they read and write of parameters, state and scratch.
//!
//! All safety here rests on one rule, which the methods in this directory must keep: within a phase, no item
//! touches what another one writes. Pieces have no element of parameters and state in common; sums are
//! recorded in one phase and read in later ones.

use std::ops::Range;

use super::{Piece, Place, Plan};
use crate::arena::Shared;
use crate::element::Element;
use crate::optim::{MAX_STATE, Scalars, Steps};
use crate::simd::Isa;
use crate::view::{MatMut, MatRef};

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

    /// Parameters and gradients of a piece.
    pub(super) fn own(&self, piece: &Piece) -> (&'a mut [T], &'a [T]) {
        let range = piece.range.clone();
        // SAFETY: pieces are disjoint, and a phase over pieces runs one item per piece.
        (unsafe { self.params.slice_mut(range.clone()) }, &self.grads[range])
    }

    /// State of a piece, for arrays that have an element for each parameter.
    pub(super) fn state(&self, piece: &Piece) -> [&'a mut [T]; MAX_STATE] {
        // SAFETY: pieces are disjoint, and a phase over pieces runs one item per piece.
        self.state.map(|s| unsafe { s.slice_mut_or_empty(piece.range.clone()) })
    }

    /// State of a piece, for an array that has an element for each parameter of some blocks.
    pub(super) fn rest(&self, piece: &Piece, state: usize) -> &'a mut [T] {
        let place = self.place(piece);
        let from = place.state[state] + piece.range.start - place.start;
        // SAFETY: pieces are disjoint, and a phase over pieces runs one item per piece.
        unsafe { self.state[state].slice_mut(from..from + piece.range.len()) }
    }

    /// A state array of a factored block, for writing by the block's own item.
    pub(super) fn kept_mut(&self, place: &Place, state: usize) -> &'a mut [T] {
        // SAFETY: blocks have disjoint parts of the array, and a phase over blocks runs one item per block.
        unsafe { self.state[state].slice_mut(self.kept_at(place, state)) }
    }

    /// The same, for reading by the block's pieces.
    pub(super) fn kept(&self, place: &Place, state: usize) -> &'a [T] {
        // SAFETY: this part is written only by `kept_mut`, in phases over blocks.
        unsafe { self.state[state].slice(self.kept_at(place, state)) }
    }

    fn kept_at(&self, place: &Place, state: usize) -> Range<usize> {
        let from = place.state[state];
        from..from + if state == 0 { place.outputs } else { place.inputs }
    }

    /// A square matrix in a state array, `from` elements after the start of the block's state, for reading.
    pub(super) fn square(&self, place: &Place, state: usize, from: usize, n: usize) -> MatRef<'a, T> {
        // SAFETY: the matrix is written only in other phases, which is up to the method (see the module).
        unsafe { self.state[state].mat(place.state[state] + from, n, n, n) }
    }

    /// An `m` × `n` part of such a matrix, in rows of `stride`, for writing by the item that owns it.
    pub(super) fn part_of_square(
        &self,
        place: &Place,
        state: usize,
        from: usize,
        (m, n, stride): (usize, usize, usize),
    ) -> MatMut<'a, T> {
        // SAFETY: the part belongs to the calling item alone, which is up to the method (see the module).
        unsafe { self.state[state].mat_mut(place.state[state] + from, m, n, stride) }
    }

    /// Records sums of a piece, starting with its first.
    pub(super) fn note<const K: usize>(&self, piece: &Piece, sums: [f64; K]) {
        sums.into_iter().enumerate().for_each(|(k, sum)| self.set_sum(k, piece.index, sum));
    }

    /// Records the second sum of a piece.
    pub(super) fn note_second(&self, piece: &Piece, sum: f64) {
        self.set_sum(1, piece.index, sum);
    }

    /// The total of the `k`-th sums of all pieces of a piece's block.
    pub(super) fn total(&self, piece: &Piece, k: usize) -> f64 {
        self.sum(k, self.place(piece).pieces.clone())
    }

    /// The total of the `k`-th sums of all pieces.
    pub(super) fn total_of_all(&self, k: usize) -> f64 {
        self.sum(k, 0..self.plan.pieces.len())
    }

    fn set_sum(&self, k: usize, index: usize, sum: f64) {
        let at = k * self.plan.pieces.len() + index;
        // SAFETY: every piece has its own element, and sums are read in later phases only.
        unsafe { self.sums.slice_mut(at..at + 1)[0] = sum };
    }

    fn sum(&self, k: usize, Range { start, end }: Range<usize>) -> f64 {
        let from = k * self.plan.pieces.len();
        // SAFETY: sums are written only in earlier phases.
        unsafe { self.sums.slice(from + start..from + end) }.iter().sum()
    }

    /// A part of the scratch that no other item of the phase uses.
    pub(super) fn scratch_mut(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: the range belongs to the calling item alone, which is up to the method (see the module).
        unsafe { self.scratch.slice_mut(range) }
    }

    /// Writes one number of the scratch, which no other item of the phase uses.
    pub(super) fn set(&self, at: usize, value: T) {
        // SAFETY: the element belongs to the calling item alone, which is up to the method (see the module).
        unsafe { self.scratch.slice_mut(at..at + 1)[0] = value };
    }

    /// Reads one number of the scratch, which no item of the phase writes.
    pub(super) fn get(&self, at: usize) -> T {
        // SAFETY: the element is written only in other phases, which is up to the method (see the module).
        unsafe { self.scratch.slice(at..at + 1)[0] }
    }

    /// A matrix in the scratch, which no item of the phase writes.
    pub(super) fn mat(&self, start: usize, rows: usize, cols: usize) -> MatRef<'a, T> {
        // SAFETY: the matrix is written only in other phases, which is up to the method (see the module).
        unsafe { self.scratch.mat(start, rows, cols, cols) }
    }

    /// A part of a matrix in the scratch, which no other item of the phase uses.
    pub(super) fn mat_mut(&self, start: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'a, T> {
        // SAFETY: the part belongs to the calling item alone, which is up to the method (see the module).
        unsafe { self.scratch.mat_mut(start, rows, cols, stride) }
    }

    /// A thread's scratch for products.
    pub(super) fn pack(&self, worker: usize) -> &'a mut [T] {
        // SAFETY: threads have disjoint parts, and a thread runs one item at a time.
        unsafe { self.packs.slice_mut(worker * self.pack..(worker + 1) * self.pack) }
    }

    /// The optimizer's scalars.
    pub(super) fn scalars(&self) -> Scalars {
        // SAFETY: scalars are written only in phases with a single item.
        unsafe { self.scalars.slice(0..self.scalars.len()) }.try_into().expect("as many")
    }

    /// Sets the scalars, in a phase with a single item.
    pub(super) fn set_scalars(&self, scalars: Scalars) {
        // SAFETY: there is no other item in the phase.
        unsafe { self.scalars.slice_mut(0..scalars.len()) }.copy_from_slice(&scalars);
    }
}
