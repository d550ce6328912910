//! Rows as blocks and shards.

use std::ops::Range;

use crate::arena::{Buffer, check_fits, reserve};
use crate::diff::block::WHAT;
use crate::element::Element;
use crate::error::Error;
use crate::network::Network;
use crate::parallel::{self, RUN};
use crate::simd::Isa;
use crate::update;

/// Rows of a block, over all parts: few enough for their numbers to stay in a second-level cache.
const BLOCK: usize = 192;
/// Most shards: each has a copy of the gradients.
const SHARDS: usize = 16;
/// Rows of x from which they are divided into more blocks, for more threads.
const LEAST_ROWS: usize = 32;
/// This many shards are allowed, if there are enough blocks, however large these copies are.
const LEAST_SHARDS: usize = 4;

/// Rows that one thread processes at a time; the gradients of shards are summed in their order.
pub struct Shard<T, B, D> {
    pub rows: Range<usize>,
    pub blocks: Vec<B>,
    pub desk: D,
    /// Sums over the rows of the shard, in the order of the arena.
    pub grads: Buffer<T>,
}

/// A block of rows.
pub trait Rows<T>: Default {
    /// What a thread needs to process a block, and need not be kept.
    type Desk: Default;

    /// Number of rows.
    fn rows(&mut self) -> &mut usize;

    /// Passes all vectors that the block needs, and how many values each of them will hold, to `get`, which
    /// makes room for them. They may hold anything: it is overwritten before it is read.
    ///
    /// # Errors
    /// Those of `get`.
    fn rooms(&mut self, network: &Network, parts: usize, get: &mut Get<'_, T>) -> Result<(), Error>;

    /// The same for a desk, for blocks of at most so many rows.
    ///
    /// # Errors
    /// Those of `get`.
    fn desk(
        desk: &mut Self::Desk,
        rows: usize,
        network: &Network,
        parts: usize,
        get: &mut Get<'_, T>,
    ) -> Result<(), Error>;
}

/// Makes room for so many values.
pub type Get<'g, T> = dyn FnMut(&mut Vec<T>, usize) -> Result<(), Error> + 'g;

/// Distributes rows, each with so many parts, depending only on their number and the network, so that sums do
/// not depend on who takes which.
///
/// # Errors
/// If there is not enough memory.
pub fn share<T: Element, B: Rows<T>>(
    shards: &mut Vec<Shard<T, B, B::Desk>>,
    network: &Network,
    rows: usize,
    parts: usize,
) -> Result<(), Error> {
    let most = (BLOCK / parts).max(1);
    // Blocks of equally many rows, and enough of them for several threads.
    let least = LEAST_SHARDS.min(rows.div_ceil(LEAST_ROWS));
    let block_rows = rows.div_ceil(rows.div_ceil(most).max(least));
    let blocks = rows.div_ceil(block_rows);
    // Copies of the gradients should not be larger than everything else.
    let kept = rows * parts * network.stages().iter().map(|s| s.outputs).sum::<usize>();
    let most = SHARDS.min((kept / network.arena_len()).max(LEAST_SHARDS));
    let shard_rows = blocks.div_ceil(most) * block_rows;
    shards.truncate(rows.div_ceil(shard_rows));
    while shards.len() < rows.div_ceil(shard_rows) {
        let grads = Buffer::zeroed("gradients of some rows", network.arena_len())?;
        shards.push(Shard { rows: 0..0, blocks: Vec::new(), desk: B::Desk::default(), grads });
    }
    for (shard, first) in shards.iter_mut().zip((0..rows).step_by(shard_rows)) {
        shard.rows = first..rows.min(first + shard_rows);
        shard.blocks.resize_with(shard.rows.len().div_ceil(block_rows), B::default);
        let mut left = shard.rows.len();
        for block in &mut shard.blocks {
            *block.rows() = block_rows.min(left);
            left -= *block.rows();
        }
    }
    let mut all = |get: &mut Get<'_, T>| {
        shards.iter_mut().try_for_each(|Shard { blocks, desk, .. }| {
            blocks.iter_mut().try_for_each(|block| block.rooms(network, parts, get))?;
            B::desk(desk, *blocks[0].rows(), network, parts, get) // the first one is the largest
        })
    };
    let mut missing = 0;
    all(&mut |room, len| {
        missing += len.saturating_sub(room.capacity());
        Ok(())
    })?;
    check_fits::<T>(WHAT, missing)?;
    all(&mut |room, len| {
        reserve(WHAT, room, len)?;
        room.resize(len, T::ZERO);
        Ok(())
    })
}

/// Adds the gradients of all shards to those in the order of the arena.
pub fn add<T: Element, B: Sync, D: Sync>(isa: Isa, shards: &[Shard<T, B, D>], grads: &mut [T]) {
    parallel::runs_mut(grads, RUN, |run, into| {
        shards.iter().for_each(|shard| update::add(isa, into, &shard.grads[run.clone()]));
    });
}
