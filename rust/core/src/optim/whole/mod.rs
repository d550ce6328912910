//! Methods that cannot work element by element: they need a norm of a block, sums over its rows and columns,
//! a product of matrices, or one number for all parameters.
//!
//! Such a step runs behind the pass, when all gradients are there, as a job of several [phases](threads::Job).
//! A phase goes over *pieces*, runs of one block's elements. What pieces find out for a later phase are sums,
//! which each notes in double precision and which are added up in the order of the pieces: results are the
//! same for any number of threads. Everything that is needed in between is allocated once, in a [`Room`].
//!
//! A block is a weight or a vector. Weights lie by input and output in panels of 32 outputs (see
//! [`crate::gemm::pack`]); a piece of one is a run of rows of one panel.

mod lamb;

pub use lamb::Lamb;

use std::ops::Range;

use super::{MAX_STATE, Optimizer, Steps};
use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::PANEL;
use crate::network::{Block, Network};
use crate::simd::Isa;
use crate::threads;
use crate::update::RUN;

/// Sums that a piece notes at most.
const SUMS: usize = 2;

/// One step of such a method.
pub(super) trait Whole<T: Element> {
    /// How many phases it takes.
    fn phases(&self) -> usize;

    /// What a phase does to a piece. No two pieces share an element.
    fn piece(&self, phase: usize, piece: &Piece, work: &Work<'_, T>);
}

/// The step of an optimizer that does not work element by element.
///
/// # Panics
/// If it does, or was made for an arena of another length.
pub fn step<T: Element>(isa: Isa, params: &mut Buffer<T>, grads: &[T], optimizer: &mut Optimizer<T>) {
    let mut room = optimizer.room.take().expect("of such a method");
    let (steps, state) = optimizer.begin();
    let Room { plan, sums, .. } = &mut room;
    let work = Work { isa, plan, steps, params: params.share(), grads, state, sums: sums.share() };
    let method = work.steps.usual.0.whole::<T>().expect("of such a method");
    let threads = threads::num_threads().0.min(grads.len().div_ceil(RUN));
    threads::run(&Job { phases: method.phases(), work }, threads);
    optimizer.room = Some(room);
    optimizer.advance();
}

/// Where such a method works.
pub(super) struct Room<T> {
    plan: Plan,
    sums: Buffer<f64>,
    life: std::marker::PhantomData<T>,
}

/// How the arena is cut.
struct Plan {
    /// In the order of the arena.
    pieces: Vec<Piece>,
    places: Vec<Place>,
}

/// A run of elements of a block.
pub(super) struct Piece {
    /// Its number.
    index: usize,
    /// Number of its block.
    block: usize,
    /// Its place in the arena.
    range: Range<usize>,
}

/// A block.
struct Place {
    /// Where it starts in the arena.
    start: usize,
    /// Its pieces.
    pieces: Range<usize>,
}

impl<T: Element> Room<T> {
    /// For a network.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(network: &Network) -> Result<Self, Error> {
        let mut plan = Plan { pieces: Vec::new(), places: Vec::new() };
        network.blocks().iter().for_each(|block| plan.add(block));
        let sums = Buffer::zeroed("sums of an optimizer", SUMS * plan.pieces.len())?;
        Ok(Room { plan, sums, life: std::marker::PhantomData })
    }
}

impl Plan {
    fn add(&mut self, block: &Block) {
        let (number, first) = (self.places.len(), self.pieces.len());
        // A vector is a single row of one panel.
        let (inputs, outputs, panel) = match block.shape[..] {
            [outputs, inputs] => (inputs, outputs, PANEL),
            _ => (1, block.len(), RUN),
        };
        let mut start = block.offset;
        for column in (0..outputs).step_by(panel) {
            let width = panel.min(outputs - column);
            for row in (0..inputs).step_by(RUN / panel) {
                let len = width * (RUN / panel).min(inputs - row);
                let index = self.pieces.len();
                self.pieces.push(Piece { index, block: number, range: start..start + len });
                start += len;
            }
        }
        self.places.push(Place { start: block.offset, pieces: first..self.pieces.len() });
    }
}

/// A step under way, as its pieces see it.
pub(super) struct Work<'a, T> {
    /// The instruction set.
    pub isa: Isa,
    plan: &'a Plan,
    steps: Steps<'a>,
    params: Shared<'a, T>,
    grads: &'a [T],
    state: [Shared<'a, T>; MAX_STATE],
    sums: Shared<'a, f64>,
}

impl<'a, T: Element> Work<'a, T> {
    /// Parameters, gradients and state of a piece.
    fn parts(&self, piece: &Piece) -> (&'a mut [T], &'a [T], [&'a mut [T]; MAX_STATE]) {
        let range = piece.range.clone();
        // SAFETY: pieces share no element, and each is run by one thread in a phase.
        unsafe {
            let state = self.state.map(|s| s.slice_mut_or_empty(range.clone()));
            (self.params.slice_mut(range.clone()), &self.grads[range], state)
        }
    }

    /// Notes sums of a piece, for a later phase.
    fn note<const K: usize>(&self, piece: &Piece, sums: [f64; K]) {
        for (k, sum) in sums.into_iter().enumerate() {
            let at = k * self.plan.pieces.len() + piece.index;
            // SAFETY: the piece's own; no method reads sums in the phase that notes them.
            unsafe { self.sums.slice_mut(at..at + 1)[0] = sum };
        }
    }

    /// What the pieces of a piece's block noted as their `k`-th sum, together.
    fn total(&self, piece: &Piece, k: usize) -> f64 {
        let Range { start, end } = self.plan.places[piece.block].pieces;
        let from = k * self.plan.pieces.len();
        // SAFETY: as above.
        unsafe { self.sums.slice(from + start..from + end) }.iter().sum()
    }
}

struct Job<'a, T> {
    phases: usize,
    work: Work<'a, T>,
}

impl<T: Element> threads::Job for Job<'_, T> {
    fn phases(&self) -> usize {
        self.phases
    }
    fn items(&self, _: usize) -> usize {
        self.work.plan.pieces.len()
    }
    fn run(&self, phase: usize, item: usize, _: usize) {
        let Plan { pieces, places } = self.work.plan;
        let piece = &pieces[item];
        // Parameters that are frozen have no step.
        if let Some(method) = self.work.steps.at(places[piece.block].start).and_then(|s| s.0.whole::<T>()) {
            method.piece(phase, piece, &self.work);
        }
    }
}
