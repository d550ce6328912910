//! How a batch is divided: into shards or waves, those into blocks, and for how many threads.

use super::{Mode, weights};
use crate::element::Element;
use crate::gemm::Precision;
use crate::gemm::split::DEPTH;
use crate::layer::batch_norm::GROUP;
use crate::network::Network;

/// Rows of a block: enough to reuse a panel of weights, few enough for the block's activations to stay in the
/// second-level cache.
const BLOCK_ROWS: usize = 128;
/// Rows of a block where layers are so wide that activations leave that cache anyway: then more rows share
/// each read of the weights.
const WIDE_BLOCK_ROWS: usize = 256;
/// Layers from this width on are wide.
const WIDE: usize = 1024;
/// Bytes that the activations of a thread's rows of a wave, and their gradients, may take: most of a
/// second-level cache of 2 MB, or more than all of one of 1 MB.
const WAVE_BYTES: usize = 3 << 19;
/// Rows of a wave that each thread must get, since every wave reads and writes all weight gradients.
const WAVE_ROWS: usize = 128;
/// Rows up to which one thread takes all rows of a step through the layers, if the weights fit caches: half of
/// them have just been written by another core, and each thread that reads them takes longer for that than for
/// the products of these rows. The others help with the weight gradients.
pub(super) const FEW_ROWS: usize = 8;
/// Bytes of weights up to which that was measured to be faster, on cores with 1 MiB of second-level cache each
/// (784-640-640-10, with 3.5 MiB; not 784-2000-2000-10, with 22). Others come from further away anyway, and
/// several threads read them faster.
const CACHED_BYTES: usize = 4 << 20;
/// Multiply-adds that each thread must get for waking it to pay off (some tens of microseconds).
pub(super) const WORK_PER_THREAD: usize = 4_000_000;
/// Multiply-adds of a step from which a second thread may pay off if it is awake and near; trials find out
/// whether it does. Some microseconds.
pub(super) const PAIR_WORK: usize = 300_000;
/// Multiply-adds from which several threads pay off wherever they run, even if they have to be woken: some
/// 200 microseconds.
pub(super) const SURE_WORK: usize = 40_000_000;
/// Multiply-adds from which a pass runs in shards: a second thread is then worth a copy of the gradients.
pub(super) const SHARDED_WORK: usize = 1_000_000;
/// The same with fewer than [`MANY_ROWS`] rows.
const SHARDED_WORK_OF_FEW: usize = 2_000_000;
/// Rows from which copying the gradients costs little compared with computing them.
const MANY_ROWS: usize = 96;
/// Least and largest number of shards, if there are shards.
pub(super) const SHARDS: (usize, usize) = (2, 64);
/// No more threads than shards take part, and a pass has a `u64` with a bit for each of them (`transposing`).
const _: () = assert!(SHARDS.1 <= u64::BITS as usize);
/// Least number of rows per shard: for the first two shards; for up to [`SHARDS_FOR_THREADS`], where a copy
/// of the gradients costs little; and for more, where it costs next to nothing.
const SHARD_ROWS: [usize; 3] = [16, 128, 256];
/// Enough shards for as many threads to take part; more only balance their work.
const SHARDS_FOR_THREADS: usize = 8;
/// Most weights of a network whose passes run in shards, so that copies of the gradients cost little compared
/// with the products.
const SHARDED_WEIGHTS: usize = 32 * 1024;

/// How a batch is cut up.
pub(super) struct Cut {
    /// Threads that take part.
    pub threads: usize,
    /// Shards; 1 if there are none.
    pub shards: usize,
    /// Rows of a block.
    pub block_rows: usize,
    /// Rows of a wave, whole blocks; no fewer than the batch if there is one wave.
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
        let least = if matches!(mode, Mode::Step | Mode::Gather) && work >= PAIR_WORK { 2 } else { 1 };
        let threads = threads.min(enough.max(least));
        // As few waves as fit the cache, of equally many rows; only one if weights outweigh activations so
        // much that fewer rows would fit than make a wave worthwhile.
        let row: usize = network.stages().iter().map(|s| 2 * s.outputs).sum::<usize>() + network.inputs();
        let fit = WAVE_BYTES / (row * size_of::<T>());
        // A normalization has to see all rows first; gradients of tables are taken over all rows at once.
        let together = network.couples_rows() || network.table().is_some();
        let waves = match mode {
            Mode::Step if shards == 1 && fit >= WAVE_ROWS && !together => rows.div_ceil(fit * threads),
            _ => 1,
        };
        let share = rows.div_ceil(waves * shards);
        // Blocks of equally many rows, and equally many blocks for each thread.
        let most = if network.max_width() >= WIDE { WIDE_BLOCK_ROWS } else { BLOCK_ROWS };
        let cached = weights(network) * size_of::<T>() <= CACHED_BYTES;
        let alone = shards > 1 || (mode == Mode::Step && rows <= FEW_ROWS && cached);
        let blocks = share.div_ceil(most).max(1).next_multiple_of(if alone { 1 } else { threads });
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

/// How many shards a pass has. This depends on shapes alone, since sums round differently for each number of
/// shards.
fn shards(network: &Network, mode: Mode, rows: usize, work: usize) -> usize {
    let training = matches!(mode, Mode::Step | Mode::Gather | Mode::Apart);
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
