//! A pass over the network, as a [`Job`]: what the items of a plan do.
//!
//! Only here do the plan's disjoint parts turn into `&mut`. The rules that make this sound:
//!
//! * a packing item writes its own panels of weights, transposed or split into parts, and reads parameters;
//! * a block writes its rows of activations, gradients and their copies in panels, and its thread's own
//!   scratch; it reads parameters and transposed weights;
//! * a tile writes its part of gradients, parameters, optimizer state and transposed weights, and its thread's
//!   scratch; it reads activations and their gradients;
//! * a shard is a sequence of blocks, which take turns in rows of the thread's own if nobody needs them
//!   later, and which also write the thread's transposed weights and the shard's gradients; a part of the
//!   update writes its part of parameters and state, and reads the gradients of all shards.
//!
//! No item reads what another item of the same phase writes, [`threads::run`] separates the phases, and each
//! item runs on one thread only.
//!
//! This module defines passes and assigns the work: `forward` and `backward` take rows through the stages,
//! `norms` and `encode` do what is special to some stages, and `weights` takes gradients and updates.

#![allow(unsafe_code)] // disjoint parts of a workspace for threads

mod backward;
mod encode;
mod forward;
mod norms;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::along::Company;
use crate::arena::Shared;
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::gemm::pack::{PANEL, Panels, pack_rows, pack_transposed};
use crate::gemm::split::{DEPTH, LANES, Side, SplitPanels, split, split_len, split_weight};
use crate::gemm::{Precision, Rhs};
use crate::layer::Power;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, RowLoss};
use crate::network::{Network, Stage};
use crate::optim;
use crate::plan::{Columns, Mode, PanelItem, Phase, Plan, RowStep, StagePlan};
use crate::simd::{Bf16, Isa, all_finite, max_abs};
use crate::threads::{self, Job, Trial};
use crate::view::{MatMut, MatRef};
use crate::workspace::{Layout, Workspace};

/// Loss and targets of a pass.
#[derive(Clone, Copy)]
pub struct LossTask<'a, T> {
    /// Which loss.
    pub objective: &'a Objective<T>,
    /// The data's targets; their rows are chosen as for the input.
    pub goals: Goals<'a, T>,
    /// Factor of the gradient.
    pub scale: f64,
    /// Whether the pass continues backward from the loss.
    pub backward: bool,
}

/// Gradients and update of a pass.
#[derive(Clone, Copy)]
pub struct WeightTask<'a, T> {
    /// The gradient arena. Not written to if there is an update, which uses each gradient as soon as it is
    /// computed.
    pub grads: Shared<'a, T>,
    /// Whether gradients are added to what is there.
    pub accumulate: bool,
    /// If present, raised to the bits of the largest absolute gradient, in double precision.
    pub size: Option<&'a AtomicU64>,
    /// What the optimizer does to which parameters, if there is one; gradients of parameters that it leaves
    /// alone are not taken.
    pub steps: Option<optim::Steps<'a>>,
    /// The optimizer's state, if the parameters are to be updated; gradients are then not accumulated.
    pub update: Option<[Shared<'a, T>; optim::MAX_STATE]>,
    /// What accompanies an update.
    pub along: Option<Company<'a, T>>,
}

impl<'a, T: Element> WeightTask<'a, T> {
    /// Gradients only, of all parameters, replacing what is there.
    pub fn gradients(grads: Shared<'a, T>) -> Self {
        WeightTask { grads, accumulate: false, size: None, steps: None, update: None, along: None }
    }

    /// Whether gradients of the block that starts at this offset are wanted.
    fn wants(&self, block: usize) -> bool {
        self.steps.is_none_or(|steps| steps.at(block).is_some())
    }

    /// Raises [`size`](Self::size) to the size of some gradients.
    fn note_size(&self, isa: Isa, grads: &[T]) {
        if let Some(size) = self.size {
            // As integers, the bits of numbers ≥ 0 have the order of the numbers, with NaN above all.
            size.fetch_max(max_abs(isa, grads).to_f64().abs().to_bits(), Ordering::Relaxed);
        }
    }
}

/// A pass: which of forward, loss, backward and update are done, and on what.
pub struct Pass<'a, T> {
    /// The network.
    pub network: &'a Network,
    /// The plan.
    pub plan: &'a Plan,
    /// Where the plan's data lie in the workspace.
    pub layout: &'a Layout,
    /// The workspace.
    pub values: Shared<'a, T>,
    /// Where each row's loss goes.
    pub losses: Shared<'a, RowLoss>,
    /// The parameter arena.
    pub params: Shared<'a, T>,
    /// Running averages of normalizations.
    pub averages: &'a [T],
    /// The whole data; `None` if the pass continues an earlier one (backward only).
    pub input: Option<Samples<'a, T>>,
    /// Which rows of the data.
    pub rows: Rows<'a>,
    /// The source of a training pass's random numbers.
    pub draw: Draw,
    /// Whether the rows are copied into the workspace even if they lie in order, because the data will be
    /// gone by the time a later pass goes backward.
    pub keep_input: bool,
    /// Whether NaN or infinity in the input or the loss stops the pass before the update.
    pub check_finite: bool,
    /// Whether the input is known to be finite, so that it is not checked again.
    pub checked: bool,
    /// Where outputs go in inference, rows × outputs; `None` if nobody wants them.
    pub output: Option<Shared<'a, T>>,
    /// Loss, if there is one.
    pub loss: Option<LossTask<'a, T>>,
    /// Power to which each row's gradient of a normalization's scale and shift is raised before it is summed.
    pub power: Power,
    /// The stamp of the parameters whose transposed weights an earlier pass left.
    pub transposed: Option<u64>,
    /// Whether those are the weights of this pass, which then does not transpose them.
    pub packed: bool,
    /// Threads that have transposed the weights for their shards, one bit each.
    pub transposing: AtomicU64,
    /// The gradient with respect to the outputs, if it is given instead of computed from a loss.
    pub output_gradient: Option<MatRef<'a, T>>,
    /// Where the gradient with respect to the input goes, rows × inputs.
    pub input_gradient: Option<Shared<'a, T>>,
    /// Gradients of the parameters, if wanted.
    pub weights: Option<WeightTask<'a, T>>,
    /// Set by the pass if it met something that is not finite; the update is then skipped.
    pub stopped: AtomicBool,
    /// Finds out on how many threads the pass should run, if that is not clear.
    pub trial: Option<&'a mut Trial>,
}

impl<'a, T: Element> Pass<'a, T> {
    /// A forward pass over rows of `input`, or over what an earlier pass left, and nothing else: to be
    /// completed with `..`.
    pub fn new(
        network: &'a Network,
        workspace: &'a mut Workspace<T>,
        params: Shared<'a, T>,
        averages: &'a [T],
        input: Option<Samples<'a, T>>,
        rows: Rows<'a>,
    ) -> Self {
        let tried = workspace.turn();
        let transposed = workspace.transposed.take();
        let Workspace { plan, layout, values, losses, trials: [forth, back], .. } = workspace;
        let trial = if input.is_some() { forth } else { back };
        Pass {
            network,
            plan,
            layout,
            values: values.share(),
            losses: Shared::new(losses),
            params,
            averages,
            input,
            rows,
            draw: Draw::default(),
            keep_input: false,
            check_finite: true,
            checked: false,
            output: None,
            loss: None,
            power: Power::One,
            transposed,
            packed: false,
            transposing: AtomicU64::new(0),
            output_gradient: None,
            input_gradient: None,
            weights: None,
            stopped: AtomicBool::new(false),
            trial: tried.then_some(trial),
        }
    }

    /// Runs the pass on the threads of its plan, or on one alone.
    pub fn run(&mut self) {
        match self.trial.take() {
            None => threads::run(self, self.plan.threads),
            Some(trial) => {
                let threads = if trial.alone() { 1 } else { self.plan.threads };
                trial.run(|| threads::run(self, threads));
            }
        }
    }
}

impl<T: Element> Job for Pass<'_, T> {
    fn phases(&self) -> usize {
        self.plan.phases.len()
    }

    fn items(&self, phase: usize) -> usize {
        match &self.plan.phases[phase] {
            Phase::Pack if self.packed || !self.plan.panels.iter().any(|item| self.packs(item)) => 0,
            Phase::Pack => self.plan.panels.len(),
            Phase::Rows { blocks, steps } => {
                let any = self.plan.steps[steps.clone()].iter().any(|step| self.does(*step));
                if any { blocks.len() } else { 0 }
            }
            Phase::Columns { stage, what } => {
                let wanted = match what {
                    Columns::Averages => true,
                    Columns::Statistics => self.input.is_some(),
                    Columns::Gradients => self.goes_back() && self.goes_beyond(*stage + 1),
                };
                if wanted { self.network.stages()[*stage].outputs.div_ceil(PANEL) } else { 0 }
            }
            Phase::Weights { .. } if self.weights.is_some() => {
                self.plan.tiles.len() + self.plan.tables.len() + self.plan.norms.len()
            }
            Phase::Weights { .. } => 0,
            Phase::Update if self.weights.is_some() && self.goes_back() => self.plan.threads,
            Phase::Update => 0,
        }
    }

    unsafe fn run(&self, phase: usize, item: usize, worker: usize) {
        match &self.plan.phases[phase] {
            Phase::Pack => self.pack(item, worker),
            Phase::Rows { steps, .. } if self.plan.in_shards() => {
                self.plan.shard(item).for_each(|rows| self.block(&rows, steps.clone(), worker));
            }
            Phase::Rows { blocks, steps } => {
                self.block(&self.plan.block(blocks.start + item), steps.clone(), worker)
            }
            Phase::Columns { stage, what } => self.columns(*stage, *what, item),
            Phase::Weights { rows, first, last } => {
                let Plan { tiles, tables, norms, .. } = self.plan;
                if let Some(tile) = tiles.get(item) {
                    self.tile(tile, rows, self.sums(*first), *last, worker);
                } else if *last {
                    match tables.get(item - tiles.len()) {
                        Some(table) => self.table(table, worker),
                        None => self.norm(norms[item - tiles.len() - tables.len()]),
                    }
                }
            }
            Phase::Update => self.combine(item, worker),
        }
    }
}

/// Rows of the batch, as rows of the workspace.
#[derive(Clone)]
struct Local {
    /// Their positions in the wave, or in the thread's own rows.
    rows: Range<usize>,
    /// Number of rows in the wave.
    wave: usize,
    /// Start of the workspace part from which places are counted.
    base: usize,
}

impl<'a, T: Element> Pass<'a, T> {
    /// A thread's scratch.
    ///
    /// # Safety
    /// The calling thread must be running an item under this number, with no other reference to its scratch.
    unsafe fn scratch(&self, worker: usize) -> &'a mut [T] {
        // SAFETY: threads of a region have different numbers, and the caller promises that there is no other
        // reference; the layout places nothing else there.
        unsafe { self.values.slice_mut(self.layout.scratch(worker)) }
    }

    /// Converts rows of the batch to rows of the workspace.
    fn local(&self, rows: &Range<usize>, worker: usize) -> Local {
        if self.plan.by_turns() {
            return Local { rows: 0..rows.len(), wave: rows.len(), base: self.layout.own(worker) };
        }
        let start = rows.start / self.plan.wave_rows * self.plan.wave_rows;
        let wave = self.plan.wave_rows.min(self.plan.rows - start);
        Local { rows: rows.start - start..rows.end - start, wave, base: 0 }
    }

    // --- Packing -------------------------------------------------------------------------------

    /// Whether this pass needs a packing item.
    fn packs(&self, item: &PanelItem) -> bool {
        if item.forward { self.input.is_some() } else { self.goes_back() && self.goes_beyond(item.stage) }
    }

    /// Where a stage's weights lie for a product that does not read them from the parameter arena.
    fn weights_at(&self, index: usize, forward: bool, worker: usize) -> Range<usize> {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let (k, n) = if forward { (stage.inputs, stage.outputs) } else { (stage.outputs, stage.inputs) };
        let len = match self.planned(index).forward.precision.parts() {
            0 => k * n,
            parts => split_len(n, k, parts),
        };
        let start = match self.plan.in_shards() {
            _ if forward => slots.split,
            true => self.layout.own(worker) + slots.transposed,
            false => slots.transposed,
        };
        start..start + len
    }

    /// The right operand, made of a stage's weights, of a product.
    fn weights_for(&self, index: usize, forward: bool, worker: usize) -> Rhs<'a, T> {
        let stage = &self.network.stages()[index];
        let (k, n) = if forward { (stage.inputs, stage.outputs) } else { (stage.outputs, stage.inputs) };
        let parts = self.planned(index).forward.precision.parts();
        if forward && parts == 0 {
            return Rhs::Panels(self.weight(stage));
        }
        if !forward && self.planned(index).backward.is_some_and(|b| b.pack_b) {
            return Rhs::Transposed(self.weight(stage));
        }
        // SAFETY: written only in the packing phase, before any phase that reads it; or, in shards, by this
        // thread, before it reads it.
        let data = unsafe { self.values.slice(self.weights_at(index, forward, worker)) };
        match parts {
            0 => Rhs::Panels(Panels::new(data, k, n)),
            _ => Rhs::Split(SplitPanels::new(data, n, k, parts)),
        }
    }

    /// Whether the pass leaves the transposes of all weights that are packed. If it also updates weights, it
    /// renews those, tile by tile.
    pub fn keeps_transposes(&self) -> bool {
        self.plan.renews_transposes() && self.plan.panels.iter().all(|item| self.packs(item))
    }

    /// Transposes all weights for the shards that this thread takes, once per pass.
    fn transpose(&self, worker: usize) {
        let bit = 1 << worker;
        if self.transposing.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            (0..self.plan.panels.len()).for_each(|item| self.pack(item, worker));
        }
    }

    fn pack(&self, item: usize, worker: usize) {
        let item = &self.plan.panels[item];
        if !self.packs(item) {
            return;
        }
        let PanelItem { stage: index, forward, cols } = item;
        let weight = self.weight(&self.network.stages()[*index]);
        let parts = self.planned(*index).forward.precision.parts();
        let whole = self.weights_at(*index, *forward, worker);
        if parts == 0 {
            let k = weight.n();
            // SAFETY: these panels belong to this item alone, or, in shards, to this thread; nobody reads
            // them yet.
            let into =
                unsafe { self.values.slice_mut(whole.start + cols.start * k..whole.start + cols.end * k) };
            return pack_transposed(self.plan.isa, weight, cols.start, into);
        }
        let k = if *forward { weight.k() } else { weight.n() };
        let into = whole.start + split_len(cols.start, k, parts);
        let into = into..into + split_len(cols.len(), k, parts);
        let into = self.values.ptr(into.clone(), std::iter::once(0..into.len()));
        // SAFETY: the range was checked by `Shared::ptr`, and these panels belong to this item alone; nobody
        // reads them yet.
        unsafe { split_weight(bf16(), weight, *forward, cols, parts, into) };
    }

    /// The weight of a dense stage, for reading while rows go through it.
    fn weight(&self, stage: &Stage) -> Panels<'a, T> {
        let dense = stage.dense.expect("only dense layers have weights");
        let len = stage.inputs * stage.outputs;
        // SAFETY: parameters are written only in the pass's last phase (weights or update), which does not
        // call this.
        let data = unsafe { self.params.slice(dense.weight..dense.weight + len) };
        Panels::new(data, stage.inputs, stage.outputs)
    }

    // --- Rows ----------------------------------------------------------------------------------

    /// Whether the pass goes backward from the output.
    fn goes_back(&self) -> bool {
        self.output_gradient.is_some() || self.loss.is_some_and(|task| task.backward)
    }

    /// Whether anybody wants what goes back through a stage: its input's gradient, or that of a parameter in
    /// an earlier stage. Nobody does if all those parameters are frozen.
    fn goes_beyond(&self, index: usize) -> bool {
        if self.input_gradient.is_some() {
            return true;
        }
        // Without a weight task, the gradients `delta` at all stages are what is wanted.
        let Some(task) = self.weights else { return index > 0 };
        let mut before = self.network.stages()[..index].iter();
        before.any(|stage| self.network.starts(stage).any(|start| task.wants(start)))
    }

    /// Whether this pass includes a step.
    fn does(&self, step: RowStep) -> bool {
        match step {
            RowStep::Input | RowStep::Forward(_) | RowStep::Measure(_) | RowStep::Normalize(_) => {
                self.input.is_some()
            }
            RowStep::Loss => self.loss.is_some(),
            RowStep::Slope(_) | RowStep::Transpose => self.goes_back(),
            // What goes back beyond the stage passes through its normalization; the gradient of its own
            // parameters comes from there.
            RowStep::Collect(index) | RowStep::Denormalize(index) | RowStep::Backward(index) => {
                self.goes_back() && self.goes_beyond(index + 1)
            }
            RowStep::Gradients => self.weights.is_some() && self.goes_back(),
        }
    }

    fn block(&self, rows: &Range<usize>, steps: Range<usize>, worker: usize) {
        let local = self.local(rows, worker);
        if self.plan.mode == Mode::Inference {
            return self.infer(rows, worker);
        }
        for step in &self.plan.steps[steps] {
            if !self.does(*step) {
                continue;
            }
            match *step {
                RowStep::Input => self.gather(rows, &local),
                RowStep::Forward(index) => self.forward(index, rows, &local, worker),
                RowStep::Measure(index) | RowStep::Collect(index) => {
                    self.sum_groups(*step, index, rows, &local);
                }
                RowStep::Normalize(index) => self.normalize(index, &local),
                RowStep::Loss => {
                    let last = self.layout.stages.len() - 1;
                    let outputs = self.network.outputs();
                    // SAFETY: the block's own rows; `output` is another slot.
                    let delta = unsafe { self.rows_mut(self.layout.stages[last].delta, &local, outputs) };
                    let output = self.rows_ref(self.layout.stages[last].output, &local, outputs);
                    self.losses(output, self.goes_back().then_some(delta), rows);
                }
                RowStep::Slope(index) => self.slope(index, rows, &local),
                RowStep::Denormalize(index) => self.denormalize(index, &local),
                RowStep::Backward(index) => self.propagate(index, rows, &local, worker),
                RowStep::Transpose => self.transpose(worker),
                RowStep::Gradients => self.gradients(rows, worker),
            }
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Copies a block's rows into the panels, `width` columns wide, of all rows of the wave.
    fn pack_rows(&self, part: MatRef<'_, T>, width: usize, start: usize, local: &Local) {
        let (start, cols) = (local.base + start, part.cols());
        let runs = (0..cols).step_by(width).map(|col| {
            let width = width.min(cols - col);
            col * local.wave + local.rows.start * width..col * local.wave + local.rows.end * width
        });
        let into = self.values.ptr(start..start + local.wave * cols, runs);
        // SAFETY: these rows of the panels belong to this block alone; `Shared::ptr` checked that they are
        // inside the range.
        unsafe { pack_rows(self.plan.isa, part, width, (local.rows.start, local.wave), into) };
    }

    /// Splits a block's rows into their place in the panels, as an operand that is summed over all rows of
    /// the wave.
    fn split_rows(&self, part: MatRef<'_, T>, side: Side, precision: Precision, start: usize, local: &Local) {
        let (lanes, parts) = (part.cols(), precision.parts());
        let step = split_len(LANES, DEPTH, parts);
        let runs = (0..lanes).step_by(LANES).map(|lane| {
            let panel = split_len(lane, local.wave, parts);
            panel + local.rows.start / DEPTH * step..panel + local.rows.end.div_ceil(DEPTH) * step
        });
        let into = self.values.ptr(start..start + split_len(lanes, local.wave, parts), runs);
        // SAFETY: these steps of the panels belong to this block alone, since blocks consist of whole steps,
        // except the last; `Shared::ptr` checked that they are inside the range.
        unsafe { split(bf16(), part.t(), side, parts, (local.rows.start, local.wave), into) };
    }

    // --- Views ---------------------------------------------------------------------------------

    fn planned(&self, index: usize) -> &'a StagePlan {
        self.plan.stages[index].as_ref().expect("planned for dense layers")
    }

    /// Rows of a slot, for reading: the block's own while rows go through; any rows in phases of weights, in
    /// which nobody writes rows.
    fn rows_ref(&self, start: usize, Local { rows, base, .. }: &Local, width: usize) -> MatRef<'a, T> {
        // SAFETY: while rows go through, only the block itself (or the thread that owns them) writes these
        // rows; in phases of weights nobody writes rows.
        unsafe { self.values.mat(base + start + rows.start * width, rows.len(), width, width) }
    }

    /// The same, for writing.
    ///
    /// # Safety
    /// The rows must belong to the block of the calling item, which must have no other reference to them in
    /// this slot.
    unsafe fn rows_mut(&self, start: usize, Local { rows, base, .. }: &Local, width: usize) -> MatMut<'a, T> {
        // SAFETY: the caller promises that these rows are the item's own, without another reference.
        unsafe { self.values.mat_mut(base + start + rows.start * width, rows.len(), width, width) }
    }
}

/// The bfloat16 token, in passes that use it.
fn bf16() -> Bf16 {
    Bf16::new().expect("planned where there is bfloat16")
}

/// Whether no element of a matrix is NaN or infinite.
pub fn finite<T: Element>(isa: Isa, m: MatRef<'_, T>) -> bool {
    match m.as_slice() {
        Some(all) => all_finite(isa, all),
        None => (0..m.rows()).all(|i| all_finite(isa, m.row(i))),
    }
}
