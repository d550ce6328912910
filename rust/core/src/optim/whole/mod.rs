//! Methods that cannot work element by element: they need a norm of a block, sums over its rows and columns,
//! products of matrices, or one number for all parameters.
//!
//! Such a step runs after the pass, when all gradients are known, as a job of several [phases](threads::Job).
//! Most phases go over *pieces*, runs of elements of one block. What pieces compute for a later phase are
//! sums; each piece records its own in double precision, and they are added in the order of the pieces, so
//! results are the same for any number of threads. All intermediate memory is allocated once, in a [`Room`].
//!
//! A block is a weight or a vector. Weights lie as inputs × outputs in panels of 32 outputs (see
//! [`crate::gemm::pack`]); a piece of a weight is a run of rows of one panel.

#![allow(unsafe_code)] // disjoint pieces for threads

mod adafactor;
mod dense;
mod eigen;
mod lamb;
mod muon;
mod prodigy;
mod shampoo;
mod work;

pub use adafactor::Adafactor;
pub use lamb::Lamb;
pub use muon::Muon;
pub use prodigy::Prodigy;
pub use shampoo::Shampoo;
pub(super) use work::{Own, Work};

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Extent, MAX_STATE, Optimizer};
use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::PANEL;
use crate::network::{Block, Network};
use crate::parallel::RUN;
use crate::simd::Isa;
use crate::threads;

/// Most sums that a piece records.
const SUMS: usize = 2;
/// Rows and columns of the tiles of a product.
const TILE: usize = 256;

/// What the items of a phase are.
pub(super) enum Items {
    /// Pieces of blocks.
    Pieces,
    /// Blocks.
    Blocks,
    /// Tiles of products of matrices.
    Tiles(Product),
    /// Sides of blocks: what a block keeps for its inputs, and for its outputs.
    Sides,
    /// A single item for everything.
    Once,
}

/// A product of a block's matrices, named after the shape of its result. The long side of a weight is called
/// tall.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Product {
    /// Wide × wide.
    Wide,
    /// Tall × wide.
    Mixed,
    /// Tall × tall.
    Tall,
}

/// One step of such a method. No item of a phase may use what another item of the phase writes.
///
/// What items do is `unsafe`, since it rests on what the caller of [`threads::Job::run`] promises.
pub(super) trait Whole<T: Element> {
    /// How many phases it takes.
    fn phases(&self) -> usize;

    /// What the items of a phase are.
    fn items(&self, _phase: usize) -> Items {
        Items::Pieces
    }

    /// What a phase does to a piece.
    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>);

    /// What a phase does to a block.
    unsafe fn block(&self, _phase: usize, _place: &Place, _work: &Work<'_, T>) {}

    /// What a phase does to a tile, with the thread's scratch for products.
    unsafe fn tile(&self, _phase: usize, _place: &Place, _tile: &Tile, _work: &Work<'_, T>, _pack: &mut [T]) {
    }

    /// What a phase does that has a single item.
    unsafe fn once(&self, _phase: usize, _work: &Work<'_, T>) {}

    /// What a phase does to a side of a block, the wide or the tall one, with the thread's scratch for
    /// products.
    unsafe fn side(&self, _phase: usize, _place: &Place, _tall: bool, _work: &Work<'_, T>, _pack: &mut [T]) {}

    /// Elements of scratch that it needs for a block.
    fn scratch(&self, _place: &Place) -> usize {
        0
    }

    /// Products of the block's matrices that it needs.
    fn products(&self, _place: &Place) -> &[Product] {
        &[]
    }

    /// Whether it does something to each side of the block.
    fn has_sides(&self, _place: &Place) -> bool {
        false
    }

    /// Elements of scratch that a thread needs for products.
    fn packs(&self, _place: &Place) -> usize {
        0
    }

    /// Whether it makes no sense without a matrix to work on.
    fn needs_matrices(&self) -> bool {
        false
    }
}

/// A run of elements of a block.
pub(super) struct Piece {
    /// Its number.
    index: usize,
    /// Number of its block.
    block: usize,
    /// Its place in the arena.
    range: Range<usize>,
    /// Its range of inputs.
    rows: Range<usize>,
    /// Its first output, and how many it has.
    column: usize,
    width: usize,
    /// How many pieces of its panel precede it.
    chunk: usize,
}

/// A block; a vector is one row of outputs.
pub(super) struct Place {
    /// Its number.
    number: usize,
    shape: Vec<usize>,
    inputs: usize,
    outputs: usize,
    len: usize,
    /// Whether it is a weight, and neither the first nor the last.
    hidden: bool,
    /// Where it starts in the arena.
    start: usize,
    /// Its pieces, and how many of them a panel has.
    pieces: Range<usize>,
    chunks: usize,
    /// Where its elements start in each state array.
    state: Vec<usize>,
    /// Which of those arrays have an element for each of its own, in the same order.
    mirrored: [bool; MAX_STATE],
    /// Where its scratch starts.
    scratch: usize,
}

/// A part of a product.
pub(super) struct Tile {
    block: usize,
    rows: Range<usize>,
    cols: Range<usize>,
}

/// How the arena is divided.
#[derive(Default)]
struct Plan {
    pieces: Vec<Piece>,
    places: Vec<Place>,
    wide: Vec<Tile>,
    mixed: Vec<Tile>,
    tall: Vec<Tile>,
    /// Blocks that have sides.
    sides: Vec<usize>,
}

/// Workspace of such a method.
pub(super) struct Room<T> {
    plan: Plan,
    /// Sums recorded by pieces.
    sums: Buffer<f64>,
    scratch: Buffer<T>,
    /// Scratch for products, for each thread.
    packs: Buffer<T>,
    threads: usize,
    lacks_matrices: bool,
}

impl<T: Element> Room<T> {
    /// For an optimizer and its network; `None` if the optimizer works element by element.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(optimizer: &mut Optimizer<T>, network: &Network) -> Result<Option<Self>, Error> {
        let slots = optimizer.config.slots();
        let config = optimizer.config;
        let (steps, _) = optimizer.begin();
        let Some(method) = steps.usual.0.whole::<T>() else { return Ok(None) };
        let weight = |block: &&Block| block.shape.len() == 2;
        let first = network.blocks().iter().find(weight).map(|block| block.offset);
        let last = network.blocks().iter().rfind(weight).map(|block| block.offset);
        let (mut plan, mut scratch, mut packs) = (Plan::default(), 0, 0);
        let mut ends = vec![0; slots.len()];
        for block in network.blocks() {
            plan.add(block);
            let place = plan.places.last_mut().expect("just added");
            place.hidden = weight(&block) && ![first, last].contains(&Some(block.offset));
            for ((slot, end), mirrored) in slots.iter().zip(&mut ends).zip(&mut place.mirrored) {
                *mirrored = config.mirrors(slot, block);
                place.state.push(if slot.extent == Extent::Arena { block.offset } else { *end });
                *end += config.share(slot, block);
            }
            // Frozen parameters have no step.
            let Some(step) = steps.at(block.offset).and_then(|step| step.0.whole::<T>()) else { continue };
            place.scratch = scratch;
            scratch += step.scratch(place);
            packs = packs.max(step.packs(place));
            let (number, products, has_sides) = (place.number, step.products(place), step.has_sides(place));
            plan.sides.extend(has_sides.then_some(number));
            products.iter().for_each(|product| plan.multiply(*product));
        }
        let lacks_matrices = method.needs_matrices() && plan.mixed.is_empty();
        let threads = threads::num_threads().0.max(threads::available_cpus());
        let sums = SUMS * plan.pieces.len();
        Ok(Some(Room {
            plan,
            sums: Buffer::zeroed("sums of the optimizer", sums)?,
            scratch: Buffer::zeroed("the optimizer's workspace", scratch)?,
            packs: Buffer::zeroed("the optimizer's workspace", packs * threads)?,
            threads,
            lacks_matrices,
        }))
    }

    /// Whether there is work for the method.
    ///
    /// # Errors
    /// If it needs matrices and has none.
    pub fn check(&self) -> Result<(), Error> {
        if !self.lacks_matrices {
            return Ok(());
        }
        Err(Error::Mismatch(
            "Muon has no weight to work on: by default it takes hidden weights, those between the first and the \
             last Linear; choose others with matrices=\"all\" or add_group(pattern, muon=True)"
                .into(),
        ))
    }
}

impl Plan {
    fn add(&mut self, block: &Block) {
        let (number, first) = (self.places.len(), self.pieces.len());
        let (inputs, outputs, panel) = match block.shape[..] {
            [outputs, inputs] => (inputs, outputs, PANEL),
            _ => (1, block.len(), RUN),
        };
        let mut start = block.offset;
        for column in (0..outputs).step_by(panel) {
            let width = panel.min(outputs - column);
            for (chunk, row) in (0..inputs).step_by(RUN / panel).enumerate() {
                let rows = row..inputs.min(row + RUN / panel);
                let range = start..start + width * rows.len();
                start = range.end;
                let index = self.pieces.len();
                self.pieces.push(Piece { index, block: number, range, rows, column, width, chunk });
            }
        }
        self.places.push(Place {
            number,
            shape: block.shape.clone(),
            inputs,
            outputs,
            len: block.len(),
            hidden: false,
            start: block.offset,
            pieces: first..self.pieces.len(),
            chunks: inputs.div_ceil(RUN / panel),
            state: Vec::new(),
            mirrored: [false; MAX_STATE],
            scratch: 0,
        });
    }

    /// Cuts a product of the last block's matrices into tiles.
    fn multiply(&mut self, product: Product) {
        let block = self.places.len() - 1;
        let Place { inputs, outputs, .. } = self.places[block];
        let (tall, wide) = (inputs.max(outputs), inputs.min(outputs));
        let (height, width, tiles) = match product {
            Product::Wide => (wide, wide, &mut self.wide),
            Product::Mixed => (tall, wide, &mut self.mixed),
            Product::Tall => (tall, tall, &mut self.tall),
        };
        for row in (0..height).step_by(TILE) {
            for col in (0..width).step_by(TILE) {
                let (rows, cols) = (row..height.min(row + TILE), col..width.min(col + TILE));
                tiles.push(Tile { block, rows, cols });
            }
        }
    }

    fn tiles(&self, product: Product) -> &[Tile] {
        match product {
            Product::Wide => &self.wide,
            Product::Mixed => &self.mixed,
            Product::Tall => &self.tall,
        }
    }
}

/// Takes a step with an optimizer that does not work element by element.
///
/// # Panics
/// If the optimizer does work element by element, or was made for an arena of another length.
pub fn step<T: Element>(isa: Isa, params: &mut Buffer<T>, grads: &[T], optimizer: &mut Optimizer<T>) {
    let mut room = optimizer.room.take().expect("of such a method");
    let mut scalars = optimizer.scalars;
    let (steps, state) = optimizer.begin();
    let Room { plan, sums, scratch, packs, threads, .. } = &mut room;
    let items = [grads.len().div_ceil(RUN), plan.mixed.len(), 2 * plan.sides.len()];
    let wanted = items.into_iter().fold(1, usize::max).min(*threads);
    let work = Work {
        isa,
        plan,
        steps,
        params: params.share(),
        grads,
        state,
        sums: sums.share(),
        scratch: scratch.share(),
        pack: packs.len() / *threads,
        packs: packs.share(),
        scalars: Shared::new(&mut scalars),
    };
    let threads = threads::num_threads().0.min(wanted);
    // The room goes back also after a panic of an item, so that the optimizer stays usable.
    let ended = catch_unwind(AssertUnwindSafe(|| threads::run(&Job(work), threads)));
    (optimizer.room, optimizer.scalars) = (Some(room), scalars);
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
    optimizer.advance();
}

struct Job<'a, T>(Work<'a, T>);

impl<T: Element> Job<'_, T> {
    fn method(&self) -> &dyn Whole<T> {
        self.0.steps.usual.0.whole::<T>().expect("of such a method")
    }

    /// The block and its method, unless the block is frozen.
    fn of(&self, block: usize) -> Option<(&Place, &dyn Whole<T>)> {
        let place = &self.0.plan.places[block];
        self.0.steps.at(place.start).and_then(|step| step.0.whole::<T>()).map(|method| (place, method))
    }
}

impl<T: Element> threads::Job for Job<'_, T> {
    fn phases(&self) -> usize {
        self.method().phases()
    }

    fn items(&self, phase: usize) -> usize {
        let plan = self.0.plan;
        match self.method().items(phase) {
            Items::Pieces => plan.pieces.len(),
            Items::Blocks => plan.places.len(),
            Items::Tiles(product) => plan.tiles(product).len(),
            Items::Sides => 2 * plan.sides.len(),
            Items::Once => 1,
        }
    }

    unsafe fn run(&self, phase: usize, item: usize, worker: usize) {
        let (work, plan) = (&self.0, self.0.plan);
        // SAFETY: the caller makes the promises that items rest on, and nothing else asks for what belongs to
        // a piece or to a thread.
        unsafe {
            match self.method().items(phase) {
                Items::Pieces => {
                    let piece = &plan.pieces[item];
                    if let Some((_, method)) = self.of(piece.block) {
                        method.piece(phase, piece, work.own(piece), work);
                    }
                }
                Items::Blocks => {
                    if let Some((place, method)) = self.of(item) {
                        method.block(phase, place, work);
                    }
                }
                Items::Tiles(product) => {
                    let tile = &plan.tiles(product)[item];
                    if let Some((place, method)) = self.of(tile.block) {
                        method.tile(phase, place, tile, work, work.pack(worker));
                    }
                }
                Items::Sides => {
                    let (block, tall) = (plan.sides[item / 2], item % 2 == 1);
                    if let Some((place, method)) = self.of(block) {
                        method.side(phase, place, tall, work, work.pack(worker));
                    }
                }
                Items::Once => self.method().once(phase, work),
            }
        }
    }
}
