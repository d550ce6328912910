//! Decides how a pass over the network runs, from the network's structure, the number of rows, the ISA and
//! the number of threads. A plan is plain data; nothing is computed here.
//!
//! A pass consists of **phases**, separated by barriers; within a phase, **items** run in any order on any
//! thread:
//!
//! ```text
//! pack      transposes the weights that gradients of inputs will read                     item: some panels
//! rows      takes blocks of rows through the layers: forward, the loss, and back          item: a block
//! columns   what a normalization must know of all rows: statistics, sums of gradients     item: a panel
//! weights   gradient of a part of a weight matrix, or table, over these rows, its update  item: a tile
//! ```
//!
//! Weights that are too large for a cache are not packed: the product transposes them on the fly. A tile that
//! updates weights also writes their transposes, so that the next step has nothing to pack unless the parameters
//! were changed in between (see [`Parameters`](crate::parameters)).
//!
//! What a block does is a list of **steps**. `rows` runs all of them at once, unless a normalization splits
//! the list, once on the way forward and once on the way back.
//!
//! A fused step of many rows runs in **waves**: some rows go through `rows` and `weights`, then the next
//! rows, so that activations never leave the second-level cache. Gradients are summed from wave to wave, and
//! the last wave does the update.
//!
//! A training pass of a network with few weights runs in **shards** instead. A shard goes through all layers,
//! forward and back, one block of rows after the other, and computes the gradients of all weights over its
//! rows. Then each part of the parameters sums the gradients of the shards and is updated:
//!
//! ```text
//! rows      a shard: weights transposed for the thread, forward, the loss, back, gradients   item: a shard
//! update    gradients of the shards added up, and the update                                  item: a part
//! ```
//!
//! So all that passes from core to core is a copy of the gradients and the new weights, with one barrier
//! between, and a step keeps the activations of only one block per thread. Those transfers can still take
//! longer than the arithmetic that a second core saves: writing what another core has read means waiting for
//! that core, which may be on another chip.
//!
//! In a precision that splits numbers (see [`gemm::split`](crate::gemm::split)), the products of dense layers
//! that are large enough use split numbers: `pack` splits weights, both as they are and transposed, and
//! blocks of rows split the layers' inputs and gradients.
//!
//! This module defines plans and makes them; `cut` decides how the batch is divided, `explain` puts a plan
//! into words.
//!
//! Only two choices here can change a result's bits: the precision, and the number of shards, which depends
//! on shapes alone. Products are the same for any tiling (see [`gemm`](crate::gemm)), rows are independent of
//! each other, and sums over rows are taken in order, those of shards in the order of the shards.

mod cut;
mod explain;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use self::explain::Then;

use self::cut::Cut;
use crate::arena::padded;
use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::gemm::plan::{GemmShape, LONG_STRIDE, TileShape};
use crate::gemm::{FEW_STEPS, GemmPlan, Precision};
use crate::layer::{Category, TabularInput};
use crate::network::Network;
use crate::simd::Isa;

/// Most rows of a tile of weights: with these, its part of the layer's input stays in the second-level cache.
const TILE_ROWS: usize = 448;
/// The same where gradients take so few steps that they are soon written: with these, they stay in the
/// first-level cache until the update reads them.
const TILE_ROWS_OF_FEW: usize = 128;
/// Elements of a tile of weights: at most, and at least, since fewer are not worth handing out.
const TILE_ELEMENTS: (usize, usize) = (32 * 1024, 1024);
/// Number of multiply-adds that take as long as the gradient and update of one element of a table.
const TABLE_WORK: usize = 32;
/// Least number of elements of a part of a table per row of the batch.
const TABLE_ELEMENTS_A_ROW: usize = 32;
/// Tiles that each thread should get, so that all finish at about the same time.
const TILES_A_THREAD: usize = 6;
/// Elements of a packing item.
const PANEL_ELEMENTS: usize = 16 * 1024;
/// Bytes above which a weight matrix is transposed within the product: writing down the transpose of a matrix
/// that does not stay in a second-level cache and reading it again costs more than transposing it for each
/// block of rows.
const TRANSPOSED_BYTES: usize = 2 << 20;

/// Inputs, outputs and rows from which products use parts: with fewer, tiles would be half empty.
const SPLIT_LEAST: usize = 32;

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Outputs only; nothing is kept.
    Inference,
    /// Forward, loss, backward and update in one pass. Activations are not kept longer than needed.
    Step,
    /// The same without the update, for gradients that are added to others and wait for one. It is not in waves:
    /// a later wave could stop the pass when the gradients of the first have already been added.
    Gather,
    /// Forward and backward as separate passes, with activations kept in between; the gradient with respect
    /// to the input is also wanted.
    Apart,
    /// The same in evaluation mode: normalizations use their running averages and nothing is dropped, so that
    /// rows are independent.
    Frozen,
}

/// How a stage's products run. Stages without a dense layer have none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StagePlan {
    /// y from x.
    pub forward: GemmPlan,
    /// dx from dy; `None` where no gradient is needed further back.
    pub backward: Option<GemmPlan>,
    /// dW from x and dy.
    pub weight: GemmPlan,
    /// Whether x is copied, transposed, for the weight gradient, because reading down its columns is slow.
    pub pack_input: bool,
    /// Whether dy is copied into panels for the weight gradient.
    pub pack_delta: bool,
}

/// What a block of rows does, in order. The numbers are those of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStep {
    /// Takes the block's rows of the data.
    Input,
    /// The dense layer, and the activation if no normalization comes between.
    Forward(usize),
    /// Sums over the block's groups of rows, for the statistics of a normalization.
    Measure(usize),
    /// The normalization, using what is known of all rows, and the activation.
    Normalize(usize),
    /// The loss, and its gradient with respect to the output.
    Loss,
    /// The gradient with respect to the output, back through the last activation.
    Slope(usize),
    /// Sums over the block's groups of rows, for the gradients of a normalization.
    Collect(usize),
    /// The gradient, back through a normalization.
    Denormalize(usize),
    /// The gradient with respect to the stage's input, back through the activation before it.
    Backward(usize),
    /// Transposes weights for the thread's own use.
    Transpose,
    /// Gradients of all weights over the block's rows.
    Gradients,
}

/// What a normalization needs from all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Nothing: it uses its running averages.
    Averages,
    /// Mean and variance of its input.
    Statistics,
    /// Gradients of its scale and shift.
    Gradients,
}

/// What runs between two barriers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Weights are transposed or split.
    Pack,
    /// Blocks of rows, or shards, go through the layers.
    Rows {
        /// Which blocks or shards.
        blocks: Range<usize>,
        /// Which of the plan's steps.
        steps: Range<usize>,
    },
    /// A stage's normalization reduces its columns over all rows.
    Columns {
        /// The stage.
        stage: usize,
        /// What it needs.
        what: Columns,
    },
    /// Gradients of weights over the rows of a wave are taken.
    Weights {
        /// The rows.
        rows: Range<usize>,
        /// Whether this is the first wave (otherwise gradients add to those of earlier waves).
        first: bool,
        /// Whether this is the last wave, which completes them.
        last: bool,
    },
    /// Gradients of the shards are summed, and parameters updated.
    Update,
}

/// A packing item: some panels of one weight matrix, for one of the products that read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanelItem {
    /// The stage.
    pub stage: usize,
    /// Whether they are for the forward product, or transposed for the backward one.
    pub forward: bool,
    /// Which columns of that product; whole panels.
    pub cols: Range<usize>,
}

/// A tile of weights: rows (inputs) and columns (outputs) of one matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileItem {
    /// The stage.
    pub stage: usize,
    /// Inputs.
    pub rows: Range<usize>,
    /// Outputs; whole panels.
    pub cols: Range<usize>,
    /// Whether this tile also handles the bias of its columns.
    pub bias: bool,
}

/// A part of the table of one category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableItem {
    /// Which category.
    pub category: usize,
    /// Where its vectors begin in the output of the first stage.
    pub first: usize,
    /// Codes; whole panels.
    pub codes: Range<usize>,
}

/// The plan of a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What the pass does.
    pub mode: Mode,
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// Precision of the products; if it is not [`Full`](Precision::Full), that of the large stages only.
    pub precision: Precision,
    /// Rows of the batch.
    pub rows: usize,
    /// Threads that the plan was allowed.
    pub asked: usize,
    /// Threads that take part.
    pub threads: usize,
    /// Multiply-adds of all products.
    pub work: usize,
    /// Multiply-adds that take as long as the products and the tables: what decides on threads.
    pub effort: usize,
    /// The register tile.
    pub tile: TileShape,
    /// Rows of a block.
    pub block_rows: usize,
    /// Parts of the batch that compute gradients separately, which are summed afterwards; 1 if the pass does
    /// not run in shards.
    pub shards: usize,
    /// Rows of a wave, whole blocks; no fewer than the batch if there is one wave.
    pub wave_rows: usize,
    /// How each stage runs; `None` for stages without a dense layer.
    pub stages: Vec<Option<StagePlan>>,
    /// What runs, in order.
    pub phases: Vec<Phase>,
    /// What a block of rows does.
    pub steps: Vec<RowStep>,
    /// Parts of tables, which run in the weight phases after the tiles.
    pub tables: Vec<TableItem>,
    /// Stages whose normalization has a scale and shift to train, which run after those.
    pub norms: Vec<usize>,
    /// The packing items.
    pub panels: Vec<PanelItem>,
    /// Tiles of weights, all of which run in each weight phase.
    pub tiles: Vec<TileItem>,
    /// Elements of a tile of weights.
    pub tile_elements: usize,
    /// Most columns of a panel of weights whose gradient is computed as its transpose.
    pub narrow: usize,
    /// Elements of scratch that each thread needs for packing.
    pub scratch: usize,
    /// Elements of the largest gradient that a tile works on at once, plus its bias.
    pub tile_scratch: usize,
}

impl Plan {
    /// Plans a pass of `rows` rows through `network` on at most `threads` threads, in full precision.
    pub fn new<T: Element>(network: &Network, mode: Mode, rows: usize, isa: Isa, threads: usize) -> Self {
        Self::in_precision::<T>(network, mode, rows, (isa, Precision::Full), threads)
    }

    /// The same in another precision, which is used only for training.
    pub fn in_precision<T: Element>(
        network: &Network,
        mode: Mode,
        rows: usize,
        (isa, precision): (Isa, Precision),
        threads: usize,
    ) -> Self {
        let precision = match mode {
            Mode::Step | Mode::Gather | Mode::Apart if rows >= SPLIT_LEAST => precision,
            _ => Precision::Full,
        };
        let tile = TileShape::of::<T>(isa);
        let each = if mode == Mode::Inference { 1 } else { 3 };
        let work = weights(network).saturating_mul(rows).saturating_mul(each);
        let tables = network.table().map_or(0, |t| t.categories.iter().map(|c| c.codes * c.dim).sum());
        let effort = work.saturating_add(if mode == Mode::Inference { 0 } else { TABLE_WORK * tables });
        let cut = Cut::new::<T>(network, mode, rows, effort, precision, threads);
        let Cut { threads: used, shards, block_rows, wave_rows } = cut;
        let mut plan = Plan {
            mode,
            isa,
            precision,
            rows,
            asked: threads,
            threads: used,
            work,
            effort,
            tile,
            block_rows,
            shards,
            wave_rows,
            stages: Vec::new(),
            phases: Vec::new(),
            steps: Vec::new(),
            tables: Vec::new(),
            norms: Vec::new(),
            panels: Vec::new(),
            tiles: Vec::new(),
            tile_elements: match if shards > 1 { 1 } else { used } {
                1 => TILE_ELEMENTS.0,
                n => (weights(network) / (n * TILES_A_THREAD)).clamp(TILE_ELEMENTS.1, TILE_ELEMENTS.0),
            },
            // From half a vector of outputs on, vectors along the outputs are as good.
            narrow: tile.nr / 2 - 1,
            scratch: 0,
            tile_scratch: 0,
        };
        for (index, stage) in network.stages().iter().enumerate() {
            let dense = stage.dense.map(|_| plan.plan_dense::<T>(index, stage.inputs, stage.outputs));
            plan.stages.push(dense);
        }
        if let Some(table) = network.table().filter(|_| mode != Mode::Inference) {
            plan.add_tables(table);
        }
        if mode == Mode::Inference {
            // Activations alternate between two buffers of the thread; inputs of blocks of layers wait in the
            // others.
            plan.scratch = padded::<T>(plan.scratch);
            plan.scratch += (2 + network.depth()) * padded::<T>(plan.block_rows * network.max_width());
        } else if shards == 1 {
            plan.phases.push(Phase::Pack);
        }
        let cuts = plan.add_steps(network);
        plan.add_phases(&cuts);
        plan
    }

    /// Lists the phases, given where the list of steps is cut by phases that need all rows.
    fn add_phases(&mut self, cuts: &[(usize, Phase)]) {
        for start in (0..self.rows).step_by(self.wave_rows) {
            let end = self.rows.min(start + self.wave_rows);
            let blocks = match self.in_shards() {
                true => 0..self.shards,
                false => start / self.block_rows..end.div_ceil(self.block_rows),
            };
            let mut from = 0;
            for (to, cut) in cuts {
                self.phases.push(Phase::Rows { blocks: blocks.clone(), steps: from..*to });
                self.phases.push(cut.clone());
                from = *to;
            }
            self.phases.push(Phase::Rows { blocks, steps: from..self.steps.len() });
            if self.in_shards() {
                self.phases.push(Phase::Update);
            } else if self.mode != Mode::Inference {
                let (first, last) = (start == 0, end == self.rows);
                self.phases.push(Phase::Weights { rows: start..end, first, last });
            }
        }
    }

    /// Lists what a block does; returns where the list is cut by phases that need all rows.
    fn add_steps(&mut self, network: &Network) -> Vec<(usize, Phase)> {
        let stages = network.stages();
        let mut cuts = Vec::new();
        self.steps.push(RowStep::Input);
        for (index, stage) in stages.iter().enumerate() {
            self.steps.push(RowStep::Forward(index));
            let Some(norm) = stage.norm else { continue };
            match self.mode {
                _ if !norm.over_batch() => {}
                Mode::Inference | Mode::Frozen => {
                    self.phases.push(Phase::Columns { stage: index, what: Columns::Averages })
                }
                Mode::Step | Mode::Gather | Mode::Apart => {
                    self.steps.push(RowStep::Measure(index));
                    let what = Columns::Statistics;
                    cuts.push((self.steps.len(), Phase::Columns { stage: index, what }));
                }
            }
            self.steps.push(RowStep::Normalize(index));
        }
        self.steps.push(RowStep::Loss);
        if self.mode == Mode::Inference {
            return cuts;
        }
        self.steps.push(RowStep::Slope(stages.len() - 1));
        if self.in_shards() {
            self.steps.push(RowStep::Transpose);
        }
        for (index, stage) in stages.iter().enumerate().rev() {
            if let Some(norm) = stage.norm {
                let coupled = norm.over_batch() && self.mode != Mode::Frozen;
                if coupled || norm.scale.is_some() {
                    self.steps.push(RowStep::Collect(index));
                }
                if coupled {
                    let what = Columns::Gradients;
                    cuts.push((self.steps.len(), Phase::Columns { stage: index, what }));
                }
                self.steps.push(RowStep::Denormalize(index));
                if norm.scale.is_some() {
                    self.norms.push(index);
                }
            }
            self.steps.push(RowStep::Backward(index));
        }
        if self.in_shards() {
            self.steps.push(RowStep::Gradients);
        }
        cuts
    }

    fn plan_dense<T: Element>(&mut self, index: usize, inputs: usize, outputs: usize) -> StagePlan {
        let (isa, m) = (self.isa, self.block_rows);
        let precision = match inputs.min(outputs) >= SPLIT_LEAST {
            true => self.precision,
            false => Precision::Full,
        };
        let split = precision != Precision::Full;
        let product = |k: usize, n: usize| match split {
            true => GemmPlan::split::<T>(isa, precision, (m, k), true),
            false => {
                let shape = GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: None };
                GemmPlan::choose::<T>(isa, shape)
            }
        };
        let forward = product(inputs, outputs);
        if split {
            self.add_panels(index, true, inputs, outputs);
        }
        let wants_input_gradient = match self.mode {
            Mode::Inference => false,
            Mode::Step | Mode::Gather => index > 0,
            Mode::Apart | Mode::Frozen => true,
        };
        let backward = wants_input_gradient.then(|| {
            if !split && inputs * outputs * size_of::<T>() > TRANSPOSED_BYTES {
                return product(outputs, inputs).transposing();
            }
            self.add_panels(index, false, outputs, inputs);
            product(outputs, inputs)
        });
        let depth = if self.in_shards() { self.block_rows } else { self.kept_rows() };
        let few = depth <= FEW_STEPS;
        let long = |width: usize| !few && width * size_of::<T>() >= LONG_STRIDE;
        let pack_input = split || long(inputs) && outputs > 2 * PANEL;
        let pack_delta = split || long(outputs) && inputs > 2 * self.tile.mr;
        // Tiles of equally many rows, whole register tiles each; fewer rows if panels alone are too few to
        // share.
        let most = if few { TILE_ROWS_OF_FEW } else { TILE_ROWS };
        let most = (self.tile_elements / PANEL.min(outputs)).clamp(4 * self.tile.mr, most);
        let part = inputs.div_ceil(inputs.div_ceil(most));
        let weight = match split {
            true => GemmPlan::split::<T>(isa, precision, (part, depth), false),
            false => GemmPlan::gradient::<T>(isa, part, depth),
        };
        // Copies of the input are in whole register tiles; otherwise tiles do not write to the same cache lines of
        // transposed weights, except in a last panel that is narrow.
        let high = if pack_input { part.next_multiple_of(weight.rows) } else { padded::<T>(part) };
        let high = high.min(inputs);
        if self.mode != Mode::Inference {
            self.add_tiles(index, (inputs, outputs), high, !split && weight.kc < depth);
            let last = outputs % PANEL;
            if last <= self.narrow && !split {
                self.scratch = self.scratch.max(high * last);
            }
        }
        for plan in [Some(forward), backward, Some(weight)].into_iter().flatten() {
            self.scratch = self.scratch.max(plan.scratch_len());
        }
        StagePlan { forward, backward, weight, pack_input, pack_delta }
    }

    /// Adds the items that pack a k × n weight matrix for a product.
    fn add_panels(&mut self, stage: usize, forward: bool, k: usize, n: usize) {
        // No thread should wait for another that packs all of a small matrix.
        let step = (PANEL_ELEMENTS / k).clamp(1, n.div_ceil(self.threads)).next_multiple_of(PANEL);
        for from in (0..n).step_by(step) {
            self.panels.push(PanelItem { stage, forward, cols: from..n.min(from + step) });
        }
    }

    /// Adds the tiles, each of `rows` rows, of a weight matrix. `whole`: a tile works on all its panels in
    /// turn.
    fn add_tiles(&mut self, stage: usize, (inputs, outputs): (usize, usize), rows: usize, whole: bool) {
        let (panels, most) = (outputs.div_ceil(PANEL), (self.tile_elements / (rows * PANEL)).max(1));
        let cols = panels.div_ceil(panels.div_ceil(most)) * PANEL;
        let panel = PANEL.min(outputs);
        self.tile_scratch = self.tile_scratch.max(panel + rows * if whole { cols } else { panel });
        for row in (0..inputs).step_by(rows) {
            for col in (0..outputs).step_by(cols) {
                self.tiles.push(TileItem {
                    stage,
                    rows: row..inputs.min(row + rows),
                    cols: col..outputs.min(col + cols),
                    bias: row == 0,
                });
            }
        }
    }

    /// Adds the parts of the tables of the first stage; whole panels of codes.
    fn add_tables(&mut self, table: &TabularInput) {
        // Every part reads the codes of all rows, so it should have more work to do on its own elements.
        let most = TILE_ELEMENTS.0.max(TABLE_ELEMENTS_A_ROW * self.rows);
        table.each_category(|category, &Category { codes, dim, .. }, first| {
            let step = (most / dim).max(1).next_multiple_of(PANEL).min(codes);
            self.tile_scratch = self.tile_scratch.max(step * dim);
            for from in (0..codes).step_by(step) {
                self.tables.push(TableItem { category, first, codes: from..codes.min(from + step) });
            }
        });
    }

    /// Whether the plan has several threads, but so little work for them that a single one may be sooner.
    pub fn is_short(&self) -> bool {
        let trains = matches!(self.mode, Mode::Step | Mode::Gather | Mode::Apart);
        self.threads > 1 && self.effort < cut::SURE_WORK && trains
    }

    /// Number of blocks of rows.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block_rows)
    }

    /// Rows of block `item`.
    pub fn block(&self, item: usize) -> Range<usize> {
        let from = item * self.block_rows;
        from..self.rows.min(from + self.block_rows)
    }

    /// Rows of a shard.
    pub fn shard_rows(&self) -> usize {
        self.rows.div_ceil(self.shards)
    }

    /// Rows of shard `item`, block by block.
    pub fn shard(&self, item: usize) -> impl Iterator<Item = Range<usize>> {
        let (from, rows) = (item * self.shard_rows(), self.block_rows);
        let end = self.rows.min(from + self.shard_rows());
        (from..end).step_by(rows).map(move |from| from..end.min(from + rows))
    }

    /// Whether blocks take turns in the thread's own memory, because nobody needs their rows later.
    pub fn by_turns(&self) -> bool {
        self.in_shards() && matches!(self.mode, Mode::Step | Mode::Gather)
    }

    /// Rows that are in the workspace, or in each thread's part of it, at the same time.
    pub fn kept_rows(&self) -> usize {
        if self.by_turns() { self.block_rows } else { self.wave_rows.min(self.rows) }
    }

    /// Whether gradients are taken shard by shard and summed afterwards.
    pub fn in_shards(&self) -> bool {
        self.shards > 1
    }

    /// Whether tiles that update weights also write their transposes.
    pub fn renews_transposes(&self) -> bool {
        self.precision == Precision::Full && !self.in_shards()
    }

    /// Whether gradients are summed over several waves.
    pub fn in_waves(&self) -> bool {
        self.wave_rows < self.rows
    }
}

/// Number of weights of all dense layers.
fn weights(network: &Network) -> usize {
    network.stages().iter().filter(|s| s.dense.is_some()).map(|s| s.inputs * s.outputs).sum()
}
