//! How a batch is cut up: into shards or waves, those into blocks, and for how many threads.

use super::{Mode, weights};
use crate::element::Element;
use crate::gemm::Precision;
use crate::gemm::split::DEPTH;
use crate::layer::batch_norm::GROUP;
use crate::network::Network;

/// Rows of a block: enough to reuse a panel of weights, few enough that the block's activations stay
/// in the second-level cache.
const BLOCK_ROWS: usize = 128;
/// Rows of a block where layers are so wide that activations leave that cache anyway, and weights are
/// what passes by.
const WIDE_BLOCK_ROWS: usize = 256;
/// Layers from this width on are wide.
const WIDE: usize = 1024;
/// Bytes of activations and their gradients that a thread's rows of a wave may take: the larger part of
/// a second-level cache of 2 MB, or all of one of 1 MB.
const WAVE_BYTES: usize = 3 << 19;
/// Rows that a thread must get of a wave, since every wave reads and writes all weight gradients.
const WAVE_ROWS: usize = 128;
/// Multiply-adds that a thread must get before waking it pays (some tens of microseconds).
pub(super) const WORK_PER_THREAD: usize = 4_000_000;
/// Multiply-adds of a step from which a second thread may pay, if it is awake and near by, which is found out by trying:
/// some microseconds.
pub(super) const PAIR_WORK: usize = 300_000;
/// Multiply-adds from which several threads pay wherever they are, and even if they have to be woken: some 200
/// microseconds.
pub(super) const SURE_WORK: usize = 40_000_000;
/// Multiply-adds from which a pass is in shards: a second thread pays for the copy of the gradients.
const SHARDED_WORK: usize = 1_000_000;
/// From where it pays with fewer rows than [`MANY_ROWS`].
const SHARDED_WORK_OF_FEW: usize = 2_000_000;
/// Rows from which a copy of the gradients is little beside the work on them.
const MANY_ROWS: usize = 96;
/// Shards of a pass that is in shards, at least and at most.
const SHARDS: (usize, usize) = (2, 64);
/// Rows of each, at least: of the first two; of others up to [`SHARDS_FOR_THREADS`], when a copy of the gradients is
/// little; and of more, when it is next to nothing.
const SHARD_ROWS: [usize; 3] = [16, 128, 256];
/// Shards that let as many threads take part; more even their work out.
const SHARDS_FOR_THREADS: usize = 8;
/// Weights of a network whose passes are in shards, at most: so that copies of their gradients cost little
/// beside the products.
const SHARDED_WEIGHTS: usize = 32 * 1024;

/// How a batch is cut up.
pub(super) struct Cut {
    /// Threads that take part.
    pub threads: usize,
    /// Shards; 1 if there are none.
    pub shards: usize,
    /// Rows of a block.
    pub block_rows: usize,
    /// Rows of a wave, whole blocks; at least the batch if there is one wave.
    pub wave_rows: usize,
}

impl Cut {
    pub fn new<T: Element>(
        network: &Network,
        mode: Mode,
        rows: usize,
        work: usize,
        precision: Precision,
        threads: usize,
    ) -> Self {
        let shards = match precision {
            Precision::Full => shards(network, mode, rows, work),
            _ => 1,
        };
        let enough =
            if shards > 1 { shards.min(work * SHARDS.0 / SHARDED_WORK) } else { work / WORK_PER_THREAD };
        let least = if mode == Mode::Step && work >= PAIR_WORK { 2 } else { 1 };
        let threads = threads.min(enough.max(least));
        // As few waves as fit the cache, of equal rows; one if weights outweigh activations so far that
        // fewer rows than are worth a wave would fit.
        let row: usize = network.stages().iter().map(|s| 2 * s.outputs).sum::<usize>() + network.inputs();
        let fit = WAVE_BYTES / (row * size_of::<T>());
        // A normalization has to see all rows first; gradients of tables are taken over all at once.
        let together = network.couples_rows() || network.table().is_some();
        let waves = match mode {
            Mode::Step if shards == 1 && fit >= WAVE_ROWS && !together => rows.div_ceil(fit * threads),
            _ => 1,
        };
        let share = rows.div_ceil(waves * shards);
        // Blocks of equal rows, as many for each thread.
        let most = if network.max_width() >= WIDE { WIDE_BLOCK_ROWS } else { BLOCK_ROWS };
        let blocks = share.div_ceil(most).max(1).next_multiple_of(if shards > 1 { 1 } else { threads });
        let mut block_rows = share.div_ceil(blocks).max(1);
        if network.has_norms() && block_rows < rows {
            block_rows = block_rows.next_multiple_of(GROUP); // sums are over whole groups of rows
        }
        if precision != Precision::Full {
            block_rows = block_rows.next_multiple_of(DEPTH); // no two blocks write to one tile
        }
        let wave_rows = match shards {
            1 => block_rows * share.div_ceil(block_rows).max(1),
            _ => rows,
        };
        Cut { threads, shards, block_rows, wave_rows }
    }
}

/// In how many shards a pass is: a question of shapes alone, since sums are rounded otherwise in each.
fn shards(network: &Network, mode: Mode, rows: usize, work: usize) -> usize {
    let training = matches!(mode, Mode::Step | Mode::Apart);
    let dense = !network.has_norms() && network.table().is_none();
    let least = if rows >= MANY_ROWS { SHARDED_WORK } else { SHARDED_WORK_OF_FEW };
    let small = weights(network) <= SHARDED_WEIGHTS;
    if !(training && dense && small && work >= least && rows >= SHARDS.0 * SHARD_ROWS[0]) {
        return 1;
    }
    // A power of two, which threads can share evenly.
    let shards = (rows / SHARD_ROWS[1]).min(SHARDS_FOR_THREADS).max(rows / SHARD_ROWS[2]);
    let shards = shards.clamp(SHARDS.0, SHARDS.1).ilog2();
    rows.div_ceil(rows.div_ceil(1 << shards))
}
