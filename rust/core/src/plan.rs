//! What will run: a plan for a network, a number of rows and a number of threads.
//!
//! A plan is plain data, made without touching a number of the network. It splits a pass into up to
//! three phases of independent items (see [`threads`](crate::threads)):
//!
//! 1. **Panels.** Weights that a kernel wants in another order are packed, once for all rows.
//! 2. **Blocks.** A block of rows goes through all layers, the loss, and all layers back: activations
//!    and their gradients never leave the thread that made them.
//! 3. **Tiles.** A tile of a weight matrix gets its gradient, over all rows, and its update, while
//!    the gradient is in cache.
//!
//! Nothing here can change a result's bits: products are the same for any tiling
//! (see [`gemm`](crate::gemm)), rows do not know each other, and sums over rows are taken in order.

use std::fmt;
use std::ops::Range;

use crate::arena::padded;
use crate::element::Element;
use crate::gemm::GemmPlan;
use crate::gemm::pack::PackedRhs;
use crate::gemm::plan::{GemmShape, TileShape};
use crate::network::Network;
use crate::simd::Isa;

/// Rows of a block: enough to reuse a panel of weights, few enough that the block's activations stay
/// in the second-level cache.
const BLOCK_ROWS: usize = 128;
/// Rows of a block where layers are so wide that activations leave that cache anyway, and weights are
/// what passes by.
const WIDE_BLOCK_ROWS: usize = 256;
/// Layers from this width on are wide.
const WIDE: usize = 1024;
/// Elements of a weight tile: its gradient, parameters and two states fit the second-level cache.
const TILE_ELEMENTS: usize = 16 * 1024;
/// Most rows and columns of a tile of a wide weight matrix, for whose gradient both operands are packed:
/// enough of each to use a packed panel often.
const WIDE_TILE: (usize, usize) = (448, 512);
/// Columns from which a weight matrix is cut into such tiles.
const WIDE_TILE_FROM: usize = 512;
/// Elements of a packing item.
const PANEL_ELEMENTS: usize = 64 * 1024;
/// Multiply-adds that a thread must get before waking it pays (some tens of microseconds).
const WORK_PER_THREAD: usize = 2_000_000;

/// What a pass does with the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Outputs, and nothing kept.
    Inference,
    /// Everything that a gradient needs; `input_gradient` also by the input.
    Training {
        /// Whether the gradient by the input is wanted.
        input_gradient: bool,
    },
}

/// Which product a packed weight serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// y = x·Wᵀ
    Forward,
    /// dx = dy·W
    Backward,
}

/// How a stage's products run. Stages without a dense layer have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StagePlan {
    /// y from x.
    pub forward: GemmPlan,
    /// Whether that reads packed weights.
    pub forward_packed: bool,
    /// dx from dy, always from packed weights; `None` where no gradient is needed further back.
    pub backward: Option<GemmPlan>,
    /// dW from x and dy.
    pub weight: GemmPlan,
}

/// An item of the first phase: some panels of one weight matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanelItem {
    /// The stage.
    pub stage: usize,
    /// What for.
    pub direction: Direction,
    /// Which panels.
    pub panels: Range<usize>,
}

/// An item of the third phase: rows (inputs) and columns (outputs) of one weight matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileItem {
    /// The stage.
    pub stage: usize,
    /// Inputs.
    pub rows: Range<usize>,
    /// Outputs.
    pub cols: Range<usize>,
    /// Whether this tile also serves the bias of its columns.
    pub bias: bool,
}

/// The plan of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the pass does.
    pub mode: Mode,
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// Rows of the batch.
    pub rows: usize,
    /// Threads that it was allowed.
    pub asked: usize,
    /// Threads that take part.
    pub threads: usize,
    /// The register tile.
    pub tile: TileShape,
    /// Rows of a block.
    pub block_rows: usize,
    /// How each stage runs; `None` for stages without a dense layer.
    pub stages: Vec<Option<StagePlan>>,
    /// Items of the first phase.
    pub panels: Vec<PanelItem>,
    /// Number of items of the second phase.
    pub blocks: usize,
    /// Items of the third phase.
    pub tiles: Vec<TileItem>,
    /// Elements of scratch that each thread needs for packing.
    pub scratch: usize,
    /// Elements of the largest tile's gradient, weights and bias.
    pub tile_scratch: usize,
}

impl Plan {
    /// Plans a pass of `rows` rows through `network` on at most `threads` threads.
    pub fn new<T: Element>(network: &Network, mode: Mode, rows: usize, isa: Isa, threads: usize) -> Self {
        let tile = TileShape::of::<T>(isa);
        let work: usize =
            network.stages().iter().filter(|s| s.dense.is_some()).map(|s| s.inputs * s.outputs).sum();
        let passes = if mode == Mode::Inference { 1 } else { 3 };
        let asked = threads;
        let threads = threads.min(rows * work * passes / WORK_PER_THREAD).max(1);

        let most = if network.max_width() >= WIDE { WIDE_BLOCK_ROWS } else { BLOCK_ROWS };
        let mut blocks = rows.div_ceil(most).max(1);
        if threads > 1 {
            blocks = blocks.next_multiple_of(threads);
        }
        let even = rows.div_ceil(blocks);
        // Whole tiles of rows, unless a block is all there is or too low for two.
        let block_rows =
            if blocks > 1 && even > tile.mr { even.next_multiple_of(tile.mr) } else { even.max(1) };
        let blocks = rows.div_ceil(block_rows);

        let mut plan = Plan {
            mode,
            isa,
            rows,
            asked,
            threads,
            tile,
            block_rows,
            stages: Vec::new(),
            panels: Vec::new(),
            blocks,
            tiles: Vec::new(),
            scratch: 0,
            tile_scratch: 0,
        };
        for (index, stage) in network.stages().iter().enumerate() {
            let dense = stage.dense.map(|_| plan.plan_dense::<T>(index, stage.inputs, stage.outputs));
            plan.stages.push(dense);
        }
        if mode == Mode::Inference {
            // Activations take turns in two buffers of the thread's own.
            plan.scratch = padded::<T>(plan.scratch);
            plan.scratch += 2 * padded::<T>(plan.block_rows * network.max_width());
        }
        plan
    }

    fn plan_dense<T: Element>(&mut self, index: usize, inputs: usize, outputs: usize) -> StagePlan {
        let (isa, m) = (self.isa, self.block_rows);
        let plain = GemmPlan::choose::<T>(
            isa,
            GemmShape {
                m,
                n: outputs,
                k: inputs,
                a_row_stride: inputs,
                a_col_stride: 1,
                b_row_stride: Some(outputs),
            },
        );
        // Where a block would pack the weights for itself, they are packed once for all blocks.
        let forward_packed = plain.pack_b;
        let forward = GemmPlan { pack_b: false, ..plain };
        if forward_packed {
            self.add_panels(index, Direction::Forward, inputs, outputs);
        }
        let wants_input_gradient = match self.mode {
            Mode::Inference => false,
            Mode::Training { input_gradient } => index > 0 || input_gradient,
        };
        let backward = wants_input_gradient.then(|| {
            self.add_panels(index, Direction::Backward, outputs, inputs);
            let shape = GemmShape {
                m,
                n: inputs,
                k: outputs,
                a_row_stride: outputs,
                a_col_stride: 1,
                b_row_stride: None,
            };
            GemmPlan::choose::<T>(isa, shape)
        });
        if self.mode != Mode::Inference {
            self.add_tiles(index, inputs, outputs);
        }
        let weight = GemmPlan::choose::<T>(
            isa,
            GemmShape {
                m: tile_shape(inputs, outputs, self.tile).0,
                n: tile_shape(inputs, outputs, self.tile).1,
                k: self.rows,
                a_row_stride: 1,
                a_col_stride: inputs,
                b_row_stride: Some(outputs),
            },
        );
        for plan in [Some(forward), backward, Some(weight)].into_iter().flatten() {
            self.scratch = self.scratch.max(plan.scratch_len());
        }
        StagePlan { forward, forward_packed, backward, weight }
    }

    fn add_panels(&mut self, stage: usize, direction: Direction, k: usize, n: usize) {
        let step = (PANEL_ELEMENTS / (self.tile.nr * k)).max(1);
        let count = n.div_ceil(self.tile.nr);
        for from in (0..count).step_by(step) {
            self.panels.push(PanelItem { stage, direction, panels: from..count.min(from + step) });
        }
    }

    fn add_tiles(&mut self, stage: usize, inputs: usize, outputs: usize) {
        let (rows, cols) = tile_shape(inputs, outputs, self.tile);
        self.tile_scratch = self.tile_scratch.max((rows.min(inputs) + 1) * cols.min(outputs));
        for col in (0..outputs).step_by(cols) {
            for row in (0..inputs).step_by(rows) {
                self.tiles.push(TileItem {
                    stage,
                    rows: row..inputs.min(row + rows),
                    cols: col..outputs.min(col + cols),
                    bias: row == 0,
                });
            }
        }
    }

    /// Rows of block `item`.
    pub fn block(&self, item: usize) -> Range<usize> {
        let from = item * self.block_rows;
        from..self.rows.min(from + self.block_rows)
    }

    /// Elements of a packed weight matrix of k rows and n columns.
    pub fn packed_len<T: Element>(&self, k: usize, n: usize) -> usize {
        PackedRhs::<T>::len(self.tile, k, n)
    }
}

/// Rows and columns of the tiles of a weight matrix.
fn tile_shape(inputs: usize, outputs: usize, tile: TileShape) -> (usize, usize) {
    /// Cuts `n` into equal parts of at most `most`, whole register tiles each.
    fn even(n: usize, most: usize, unit: usize) -> usize {
        n.div_ceil(n.div_ceil(most)).next_multiple_of(unit).min(n)
    }
    if outputs >= WIDE_TILE_FROM {
        (even(inputs, WIDE_TILE.0, tile.mr), even(outputs, WIDE_TILE.1, tile.nr))
    } else {
        (even(inputs, (TILE_ELEMENTS / outputs).max(4 * tile.mr), tile.mr), outputs)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Inference => "inference",
            Mode::Training { .. } => "training",
        };
        writeln!(
            f,
            "{mode} of {} rows on {} thread{}, {} kernels of {}×{}",
            self.rows,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.isa,
            self.tile.mr,
            self.tile.nr
        )?;
        if !self.panels.is_empty() {
            writeln!(f, "1. panels: {} items pack weights", self.panels.len())?;
        }
        writeln!(f, "2. blocks: {} of {} rows through all layers", self.blocks, self.block_rows)?;
        for (i, stage) in self.stages.iter().enumerate() {
            let Some(stage) = stage else {
                writeln!(f, "   stage {i}: element by element")?;
                continue;
            };
            let describe = |g: &GemmPlan, packed: bool| {
                let a =
                    if g.pack_a { format!("packed in blocks of {}×{}", g.mc, g.kc) } else { "plain".into() };
                format!("rows {a}, weights {}", if packed { "packed" } else { "plain" })
            };
            write!(f, "   stage {i}: forward {}", describe(&stage.forward, stage.forward_packed))?;
            match &stage.backward {
                Some(backward) => writeln!(f, "; backward {}", describe(backward, true))?,
                None => writeln!(f)?,
            }
        }
        if !self.tiles.is_empty() {
            writeln!(f, "3. tiles: {} items, each a weight gradient and its update", self.tiles.len())?;
        }
        write!(f, "scratch: {} elements a thread", self.scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Activation, Init, Layer, Linear};

    fn network(widths: &[usize]) -> Network {
        let layers = widths.windows(2).flat_map(|w| {
            let linear = Linear { inputs: w[0], outputs: w[1], bias: true, init: Init::KaimingUniform };
            [Layer::Linear(linear), Layer::Activation(Activation::Relu)]
        });
        Network::new(layers.collect()).unwrap()
    }

    const TRAINING: Mode = Mode::Training { input_gradient: false };

    #[test]
    fn small_work_stays_on_the_caller() {
        let plan = Plan::new::<f32>(&network(&[4, 64, 64, 2]), TRAINING, 64, Isa::Scalar, 8);
        assert_eq!((plan.threads, plan.blocks), (1, 1));
        let plan = Plan::new::<f32>(&network(&[784, 400, 400, 10]), TRAINING, 128, Isa::Scalar, 2);
        assert_eq!((plan.threads, plan.blocks, plan.block_rows), (2, 2, 64));
    }

    #[test]
    fn blocks_and_tiles_cover_everything_once() {
        for widths in [&[1, 1][..], &[4, 64, 64, 2], &[784, 400, 400, 10], &[5, 3000, 7]] {
            for rows in [1, 2, 13, 14, 15, 127, 128, 129, 1000] {
                for threads in [1, 2, 3, 64] {
                    let network = network(widths);
                    let plan = Plan::new::<f32>(&network, TRAINING, rows, Isa::Scalar, threads);
                    let mut next = 0;
                    for block in 0..plan.blocks {
                        assert_eq!(plan.block(block).start, next);
                        assert!(!plan.block(block).is_empty());
                        next = plan.block(block).end;
                    }
                    assert_eq!(next, rows);
                    for (index, stage) in network.stages().iter().enumerate() {
                        let mut seen = vec![0u8; stage.inputs * stage.outputs];
                        let mut biases = vec![0u8; stage.outputs];
                        for t in plan.tiles.iter().filter(|t| t.stage == index) {
                            for j in t.cols.clone() {
                                biases[j] += u8::from(t.bias);
                                t.rows.clone().for_each(|i| seen[i * stage.outputs + j] += 1);
                            }
                        }
                        assert!(seen.iter().chain(&biases).all(|&n| n == 1));
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_layer_needs_no_input_gradient() {
        let plan = Plan::new::<f32>(&network(&[784, 128, 10]), TRAINING, 128, Isa::Scalar, 1);
        assert!(plan.stages[0].unwrap().backward.is_none());
        assert!(plan.stages[1].unwrap().backward.is_some());
        assert!(plan.panels.iter().all(|p| p.stage == 1));
    }

    #[test]
    fn a_plan_prints_what_will_run() {
        let plan = Plan::new::<f32>(&network(&[784, 400, 10]), TRAINING, 128, Isa::Scalar, 2);
        let text = plan.to_string();
        assert!(text.starts_with("training of 128 rows on 2 threads, scalar kernels of 4×8"), "{text}");
        assert!(text.contains("2. blocks: 2 of 64 rows"), "{text}");
    }
}
