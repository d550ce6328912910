//! A pass over the network, as a [`Job`]: what the items of a plan do.
//!
//! This is the one place where the plan's disjoint parts turn into `&mut`. The rules that make it sound:
//!
//! * packing writes transposed weights, each item its own panels, and reads parameters;
//! * a block writes its rows of activations, gradients and their copies in panels, and its thread's own
//!   scratch; it reads parameters and transposed weights;
//! * a tile writes its part of gradients, parameters and optimizer state, and its thread's scratch; it
//!   reads activations and their gradients.
//!
//! No phase reads what another item of it writes, [`threads::run`](crate::threads::run) separates the
//! phases, and an item runs on one thread at a time.
//!
//! Here is what a pass is and what it does with rows; `norms`, `encode` and `weights` have the rest.

mod encode;
mod norms;
mod weights;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::along::Company;
use crate::arena::{Shared, padded};
use crate::data::Samples;
use crate::element::Element;
use crate::gemm::pack::{PANEL, Panels, pack_rows, pack_transposed};
use crate::gemm::{Epilogue, Gemm, Init, Lhs, Rhs};
use crate::layer::dropout::{self, Draw};
use crate::layer::{Activation, Power};
use crate::loss::{self, Goals, Objective, RowLoss};
use crate::network::{Network, Stage};
use crate::optim;
use crate::plan::{Columns, Mode, PanelItem, Phase, Plan, RowStep, StagePlan};
use crate::simd::{Isa, Op, Simd, all_finite, dispatch, max_abs, zip_map};
use crate::threads::Job;
use crate::view::{MatMut, MatRef};
use crate::workspace::{Layout, Workspace};

/// Which rows of the data make the batch.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row r of the batch is row `start + r` of the data.
    From(usize),
    /// Row r of the batch is row `order[r]` of the data.
    Listed(&'a [u32]),
}

impl Rows<'_> {
    /// The row of the data.
    pub fn at(&self, r: usize) -> usize {
        match self {
            Rows::From(start) => start + r,
            Rows::Listed(order) => order[r] as usize,
        }
    }
}

/// Loss and targets of a pass.
#[derive(Clone, Copy)]
pub struct LossTask<'a, T> {
    /// Which loss.
    pub objective: &'a Objective<T>,
    /// The data's targets; rows as for the input.
    pub goals: Goals<'a, T>,
    /// Factor of the gradient.
    pub scale: f64,
    /// Whether the pass goes on backward from the loss.
    pub backward: bool,
}

/// Gradients and update of a pass.
#[derive(Clone, Copy)]
pub struct WeightTask<'a, T> {
    /// The gradient arena. Not written to if there is an update: the gradient is used up on the spot.
    pub grads: Shared<'a, T>,
    /// Whether gradients add to what is there.
    pub accumulate: bool,
    /// Raised to the bits of the largest absolute gradient, in double precision, if anybody asks.
    pub size: Option<&'a AtomicU64>,
    /// What the optimizer does to which parameters, if there is one: none are wanted of those that it
    /// leaves alone.
    pub steps: Option<optim::Steps<'a>>,
    /// The optimizer's state, if the parameters are to be updated; then nothing accumulates.
    pub update: Option<[Shared<'a, T>; optim::MAX_STATE]>,
    /// What goes along with an update.
    pub along: Option<Company<'a, T>>,
}

impl<T: Element> WeightTask<'_, T> {
    /// Whether gradients of the block that starts there are wanted.
    fn wants(&self, block: usize) -> bool {
        self.steps.is_none_or(|steps| steps.at(block).is_some())
    }

    /// Raises [`size`](Self::size) to that of some gradients.
    fn note_size(&self, isa: Isa, grads: &[T]) {
        if let Some(size) = self.size {
            // The bits of numbers ≥ 0 are in the order of the numbers, NaN above all.
            size.fetch_max(max_abs(isa, grads).to_f64().abs().to_bits(), Ordering::Relaxed);
        }
    }
}

/// A pass: which of forward, loss, backward and update are done, on what.
pub struct Pass<'a, T> {
    /// The network.
    pub network: &'a Network,
    /// The plan.
    pub plan: &'a Plan,
    /// Where its data are.
    pub layout: &'a Layout,
    /// The workspace.
    pub values: Shared<'a, T>,
    /// Where each row's loss goes.
    pub losses: Shared<'a, RowLoss>,
    /// The parameter arena.
    pub params: Shared<'a, T>,
    /// Running averages of normalizations.
    pub averages: &'a [T],
    /// The data, whole; `None` if the pass goes on from an earlier one (backward only).
    pub input: Option<Samples<'a, T>>,
    /// Which rows of the data.
    pub rows: Rows<'a>,
    /// What a training pass draws from.
    pub draw: Draw,
    /// Whether the rows are copied into the workspace even if they lie in order, because the data will
    /// be gone when a later pass goes backward.
    pub keep_input: bool,
    /// Whether NaN and infinity in the input, or in the loss, stop the pass before the update.
    pub check_finite: bool,
    /// Where outputs go in inference, rows × outputs; empty if nobody wants them.
    pub output: Option<Shared<'a, T>>,
    /// Loss, if there is one.
    pub loss: Option<LossTask<'a, T>>,
    /// What is taken of each row's gradient by scale and shift of a normalization before it is summed.
    pub power: Power,
    /// The gradient by the outputs, where it is given instead of computed from a loss.
    pub output_gradient: Option<MatRef<'a, T>>,
    /// Where the gradient by the input goes, rows × inputs.
    pub input_gradient: Option<Shared<'a, T>>,
    /// Gradients by parameters, if wanted.
    pub weights: Option<WeightTask<'a, T>>,
    /// Set by the pass if it met something that is not finite; the update is then not done.
    pub stopped: AtomicBool,
}

impl<'a, T: Element> Pass<'a, T> {
    /// A forward pass over rows of `input`, or over what an earlier pass left, with nothing behind it: to
    /// be completed with `..`.
    pub fn new(
        network: &'a Network,
        workspace: &'a mut Workspace<T>,
        params: Shared<'a, T>,
        averages: &'a [T],
        input: Option<Samples<'a, T>>,
        rows: Rows<'a>,
    ) -> Self {
        let Workspace { plan, layout, values, losses } = workspace;
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
            output: None,
            loss: None,
            power: Power::One,
            output_gradient: None,
            input_gradient: None,
            weights: None,
            stopped: AtomicBool::new(false),
        }
    }
}

impl<T: Element> Job for Pass<'_, T> {
    fn phases(&self) -> usize {
        self.plan.phases.len()
    }

    fn items(&self, phase: usize) -> usize {
        match &self.plan.phases[phase] {
            Phase::Pack => self.plan.panels.len(),
            Phase::Rows { blocks, steps } => {
                let any = self.plan.steps[steps.clone()].iter().any(|step| self.does(*step));
                if any { blocks.len() } else { 0 }
            }
            Phase::Columns { stage, what } => {
                let wanted = match what {
                    Columns::Averages => true,
                    Columns::Statistics => self.input.is_some(),
                    Columns::Gradients => self.goes_back(),
                };
                if wanted { self.network.stages()[*stage].outputs.div_ceil(PANEL) } else { 0 }
            }
            Phase::Weights { .. } if self.weights.is_some() => self.plan.tiles.len() + self.plan.apart.len(),
            Phase::Weights { .. } => 0,
        }
    }

    fn run(&self, phase: usize, item: usize, worker: usize) {
        match &self.plan.phases[phase] {
            Phase::Pack => self.pack(item),
            Phase::Rows { blocks, steps } => {
                self.block(&self.plan.block(blocks.start + item), steps.clone(), worker)
            }
            Phase::Columns { stage, what } => self.columns(*stage, *what, item),
            Phase::Weights { rows, first, last } => match self.plan.tiles.get(item) {
                Some(tile) => self.tile(tile, rows, *first, *last, worker),
                None if *last => self.apart(self.plan.apart[item - self.plan.tiles.len()]),
                None => {}
            },
        }
    }
}

/// A range of rows of a wave, numbered from its start, and how many rows the wave has.
#[derive(Clone)]
struct Local {
    rows: Range<usize>,
    wave: usize,
}

impl<'a, T: Element> Pass<'a, T> {
    /// A thread's scratch.
    fn scratch(&self, worker: usize) -> &'a mut [T] {
        let from = self.layout.scratch + worker * self.layout.scratch_len;
        // SAFETY: every thread of a region has another number, and runs one item at a time.
        unsafe { self.values.slice_mut(from..from + self.layout.scratch_len) }
    }

    /// Rows of the batch as rows of their wave.
    fn local(&self, rows: &Range<usize>) -> Local {
        let start = rows.start / self.plan.wave_rows * self.plan.wave_rows;
        let wave = self.plan.wave_rows.min(self.plan.rows - start);
        Local { rows: rows.start - start..rows.end - start, wave }
    }

    // --- Packing -------------------------------------------------------------------------------

    fn pack(&self, item: usize) {
        let PanelItem { stage: index, cols } = &self.plan.panels[item];
        let stage = &self.network.stages()[*index];
        let start = self.layout.stages[*index].transposed;
        let range = start + cols.start * stage.outputs..start + cols.end * stage.outputs;
        // SAFETY: the item's own panels.
        let into = unsafe { self.values.slice_mut(range) };
        pack_transposed(self.plan.isa, self.weight(stage), cols.start, into);
    }

    /// The weight of a dense stage, to be read while rows go through it.
    fn weight(&self, stage: &Stage) -> Panels<'a, T> {
        let dense = stage.dense.expect("only dense layers have weights");
        let len = stage.inputs * stage.outputs;
        // SAFETY: parameters are written in the last phase of weights only, and not read there.
        let data = unsafe { self.params.slice(dense.weight..dense.weight + len) };
        Panels::new(data, stage.inputs, stage.outputs)
    }

    // --- Rows ----------------------------------------------------------------------------------

    /// Whether the pass goes back from the output.
    fn goes_back(&self) -> bool {
        self.output_gradient.is_some() || self.loss.is_some_and(|task| task.backward)
    }

    /// Whether a step is a part of this pass.
    fn does(&self, step: RowStep) -> bool {
        match step {
            RowStep::Input | RowStep::Forward(_) | RowStep::Measure(_) | RowStep::Normalize(_) => {
                self.input.is_some()
            }
            RowStep::Loss => self.loss.is_some(),
            RowStep::Slope(_) | RowStep::Collect(_) | RowStep::Denormalize(_) | RowStep::Backward(_) => {
                self.goes_back()
            }
        }
    }

    fn block(&self, rows: &Range<usize>, steps: Range<usize>, worker: usize) {
        let local = self.local(rows);
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
                    let delta = self.rows_mut(self.layout.stages[last].delta, &local, outputs);
                    let output = self.rows_ref(self.layout.stages[last].output, &local, outputs);
                    self.losses(output, self.goes_back().then_some(delta), rows);
                }
                RowStep::Slope(index) => self.slope(index, rows, &local),
                RowStep::Denormalize(index) => self.denormalize(index, &local),
                RowStep::Backward(index) => self.propagate(index, rows, &local, worker),
            }
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Copies a block's rows into the panels, of `width` columns, of all rows of the wave.
    fn pack_rows(&self, part: MatRef<'_, T>, width: usize, start: usize, local: &Local) {
        let into = self.values.ptr(start..start + local.wave * part.cols());
        // SAFETY: the block's own rows of the panels, which lie inside of the range.
        unsafe { pack_rows(self.plan.isa, part, width, (local.rows.start, local.wave), into) };
    }

    /// Copies a block's rows of the data together, unless they can be read where they lie; and looks for
    /// what is not finite.
    fn gather(&self, rows: &Range<usize>, local: &Local) {
        let Some(data) = self.input else { return };
        if !self.in_place() {
            let mut into = self.rows_mut(self.layout.input, local, data.cols());
            for r in 0..rows.len() {
                data.copy_row(self.rows.at(rows.start + r), into.row_mut(r));
            }
        }
        if self.check_finite && !finite(self.plan.isa, self.input_rows(rows, local)) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Whether rows of the data are read where they lie.
    fn in_place(&self) -> bool {
        let native = self.input.is_some_and(|data| data.native().is_some());
        native && matches!(self.rows, Rows::From(_)) && !self.keep_input
    }

    /// Rows of the data, in place or as gathered.
    fn input_rows(&self, rows: &Range<usize>, local: &Local) -> MatRef<'a, T> {
        match (self.input.and_then(|data| data.native()), self.rows) {
            (Some(data), Rows::From(start)) if self.in_place() => {
                data.block(start + rows.start, rows.len(), 0, data.cols())
            }
            _ => self.rows_ref(self.layout.input, local, self.network.inputs()),
        }
    }

    /// What a stage reads.
    fn stage_input(&self, index: usize, rows: &Range<usize>, local: &Local) -> MatRef<'a, T> {
        match index {
            0 => self.input_rows(rows, local),
            _ => self.rows_ref(
                self.layout.stages[index - 1].output,
                local,
                self.network.stages()[index - 1].outputs,
            ),
        }
    }

    /// A stage forward, up to its normalization if it has one.
    fn forward(&self, index: usize, rows: &Range<usize>, local: &Local, worker: usize) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let x = self.stage_input(index, rows, local);
        if let Some(planned) = self.plan.stages[index]
            && planned.pack_input
        {
            self.pack_rows(x, planned.weight.rows, slots.input_panels, local);
        }
        let (y, act, saved) = match slots.before_norm {
            Some(start) => (start, Activation::Identity, None),
            None => (slots.output, stage.act, slots.saved),
        };
        let y = self.rows_mut(y, local, stage.outputs);
        let saved = saved.map(|start| self.rows_mut(start, local, stage.outputs));
        match (act, saved) {
            (Activation::Dropout(p), Some(factors)) => {
                let p = if self.plan.mode == Mode::Frozen { 0.0 } else { p };
                let (draw, layer, first) = (self.draw, index, rows.start);
                dispatch(self.plan.isa, DropOut { p, draw, layer, first, x, y, factors });
            }
            (_, saved) => {
                let skip = stage.skip.map(|first| self.stage_input(first, rows, local));
                self.through(index, x, skip, y, act, saved, self.scratch(worker));
            }
        }
    }

    /// The dense layer of a stage, or the sum with `skip`, if it has one, and an activation.
    #[allow(clippy::too_many_arguments)]
    fn through(
        &self,
        index: usize,
        x: MatRef<'_, T>,
        skip: Option<MatRef<'_, T>>,
        mut y: MatMut<'_, T>,
        act: Activation,
        saved: Option<MatMut<'_, T>>,
        scratch: &mut [T],
    ) {
        let stage = &self.network.stages()[index];
        if let Some(encoder) = stage.encoder {
            return self.encode(encoder, x, y);
        }
        let Some(dense) = stage.dense else {
            for r in 0..x.rows() {
                y.row_mut(r).copy_from_slice(x.row(r));
            }
            if let Some(skip) = skip {
                dispatch(self.plan.isa, Add { rows: skip, into: y.reborrow() });
            }
            return activate(self.plan.isa, act, y, saved);
        };
        let init = match dense.bias {
            // SAFETY: parameters are written in the last phase of weights only.
            Some(start) => Init::Bias(unsafe { self.params.slice(start..start + stage.outputs) }),
            None => Init::Zero,
        };
        let gemm = Gemm {
            a: Lhs::Plain(x),
            b: Rhs::Panels(self.weight(stage)),
            c: y,
            init,
            epilogue: Epilogue::Activate(act, saved),
            ahead: &[],
        };
        gemm.run(self.plan.isa, &self.planned(index).forward, scratch);
    }

    /// A block in inference: activations take turns in the thread's scratch.
    fn infer(&self, rows: &Range<usize>, worker: usize) {
        let Some(data) = self.input else { return };
        let Rows::From(start) = self.rows else { unreachable!("inference takes rows in order") };
        let m = rows.len();
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let half = padded::<T>(self.plan.block_rows * self.network.max_width());
        let scratch = self.scratch(worker);
        let depth = self.network.depth();
        let (scratch, halves) = scratch.split_at_mut(self.layout.scratch_len - (2 + depth) * half);
        let (mut front, halves) = halves.split_at_mut(half);
        let (mut back, blocks) = halves.split_at_mut(half);
        // Inputs of the blocks that are not at their end yet, the outermost first.
        let mut waiting = 0;
        let width = data.cols();
        let mut x = match data.native() {
            Some(data) => data.block(start + rows.start, m, 0, width),
            None => {
                for (r, row) in back[..m * width].chunks_exact_mut(width).enumerate() {
                    data.copy_row(start + rows.start + r, row);
                }
                MatRef::new(&back[..m * width], m, width)
            }
        };
        if self.check_finite && !finite(self.plan.isa, x) {
            return self.stopped.store(true, Ordering::Relaxed);
        }
        let last = self.network.stages().len() - 1;
        for (index, stage) in self.network.stages().iter().enumerate() {
            let n = stage.outputs;
            for _ in self.network.ends(index) {
                for (r, row) in
                    blocks[waiting * half..][..m * x.cols()].chunks_exact_mut(x.cols()).enumerate()
                {
                    row.copy_from_slice(x.row(r));
                }
                waiting += 1;
            }
            let skip = stage.skip.map(|_| {
                waiting -= 1;
                MatRef::new(&blocks[waiting * half..][..m * n], m, n)
            });
            let mut y = match self.output {
                Some(output) if index == last => {
                    // SAFETY: the block's own rows of the output.
                    unsafe { output.mat_mut(rows.start * n, m, n, n) }
                }
                _ => MatMut::new(&mut front[..m * n], m, n),
            };
            if stage.norm.is_none() {
                self.through(index, x, skip, y.reborrow(), stage.act, None, scratch);
            } else {
                self.through(index, x, skip, y.reborrow(), Activation::Identity, None, scratch);
                self.normalize_rows(index, None, y.reborrow(), None, None);
            }
            if index == last {
                if self.loss.is_some() {
                    self.losses(y.as_ref(), None, rows);
                }
                return;
            }
            std::mem::swap(&mut front, &mut back);
            x = MatRef::new(&back[..m * n], m, n);
        }
    }

    fn losses(&self, output: MatRef<'_, T>, grad: Option<MatMut<'_, T>>, rows: &Range<usize>) {
        let Some(task) = &self.loss else { return };
        // SAFETY: the block's own rows.
        let losses = unsafe { self.losses.slice_mut(rows.clone()) };
        let at = |r| self.rows.at(rows.start + r);
        let rows = loss::Rows { output, goals: task.goals, at: &at, scale: task.scale };
        let op = Losses { objective: task.objective, rows, grad, into: losses };
        if !dispatch(self.plan.isa, op) && self.check_finite {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// The gradient by the output, given or left by the loss, through the last activation.
    fn slope(&self, index: usize, rows: &Range<usize>, local: &Local) {
        let outputs = self.network.stages()[index].outputs;
        let mut delta = self.rows_mut(self.layout.stages[index].delta, local, outputs);
        if let Some(gradient) = self.output_gradient {
            for r in 0..rows.len() {
                delta.row_mut(r).copy_from_slice(gradient.row(rows.start + r));
            }
        }
        self.through_activation(index, local, &mut delta);
    }

    /// Gradient by a stage's input, times the derivative of the activation before it.
    fn propagate(&self, index: usize, rows: &Range<usize>, local: &Local, worker: usize) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages);
        let delta = self.rows_ref(slots[index].delta, local, stage.outputs);
        if self.plan.stages[index].is_some_and(|p| p.pack_delta) {
            self.pack_rows(delta, PANEL, slots[index].delta_panels, local);
        }
        let mut into = if index > 0 {
            self.rows_mut(slots[index - 1].delta, local, stage.inputs)
        } else {
            let Some(gradient) = self.input_gradient else { return };
            // SAFETY: the block's own rows.
            unsafe { gradient.mat_mut(rows.start * stage.inputs, rows.len(), stage.inputs, stage.inputs) }
        };
        // Where a block begins, the gradient of its output comes along the sum, too.
        let mut init = Init::Zero;
        for end in self.network.ends(index) {
            let along = self.rows_ref(slots[end].delta, local, stage.inputs);
            self.put(along, &mut into, &mut init);
        }
        if stage.encoder.is_some() {
            if let Init::Zero = init {
                (0..rows.len()).for_each(|r| into.row_mut(r).fill(T::ZERO));
            }
            self.decode(index, local, delta, &mut into);
            if index > 0 {
                self.through_activation(index - 1, local, &mut into);
            }
            return;
        }
        if stage.dense.is_none() {
            self.put(delta, &mut into, &mut init);
            if index > 0 {
                self.through_activation(index - 1, local, &mut into);
            }
            return;
        }
        let (start, len) = (self.layout.stages[index].transposed, stage.inputs * stage.outputs);
        // SAFETY: written while packing only.
        let transposed = unsafe { self.values.slice(start..start + len) };
        let epilogue = match index {
            0 => Epilogue::None,
            _ => {
                Epilogue::Derivative(self.network.stages()[index - 1].act, self.derivative(index - 1, local))
            }
        };
        let plan = self.planned(index).backward.expect("planned where it is needed");
        let gemm = Gemm {
            a: Lhs::Plain(delta),
            b: Rhs::Panels(Panels::new(transposed, stage.outputs, stage.inputs)),
            c: into,
            init,
            epilogue,
            ahead: &[],
        };
        gemm.run(self.plan.isa, &plan, self.scratch(worker));
    }

    /// Puts rows where nothing is yet, or else adds them.
    fn put(&self, rows: MatRef<'_, T>, into: &mut MatMut<'_, T>, init: &mut Init<'_, T>) {
        if let Init::Accumulate = init {
            return dispatch(self.plan.isa, Add { rows, into: into.reborrow() });
        }
        for r in 0..rows.rows() {
            into.row_mut(r).copy_from_slice(rows.row(r));
        }
        *init = Init::Accumulate;
    }

    /// What the derivative of a stage's activation is read from.
    fn derivative(&self, index: usize, local: &Local) -> MatRef<'a, T> {
        let slots = &self.layout.stages[index];
        self.rows_ref(slots.saved.unwrap_or(slots.output), local, self.network.stages()[index].outputs)
    }

    /// delta ← delta · φ′ of a stage.
    fn through_activation(&self, index: usize, local: &Local, delta: &mut MatMut<'_, T>) {
        struct Through<'m, T>(Activation, MatMut<'m, T>, MatRef<'m, T>);
        impl<T: Element> Op<T> for Through<'_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                self.0.backward(s, self.1, self.2);
            }
        }
        let act = self.network.stages()[index].act;
        if act != Activation::Identity {
            dispatch(self.plan.isa, Through(act, delta.reborrow(), self.derivative(index, local)));
        }
    }

    /// Gradients and updates of what is no weight of a dense layer.
    fn apart(&self, index: usize) {
        match self.network.stages()[index].encoder {
            Some(_) => self.tables(index),
            None => self.norm(index),
        }
    }

    // --- Views ---------------------------------------------------------------------------------

    fn planned(&self, index: usize) -> StagePlan {
        self.plan.stages[index].expect("planned for dense layers")
    }

    fn rows_ref(&self, start: usize, Local { rows, .. }: &Local, width: usize) -> MatRef<'a, T> {
        // SAFETY: while rows go through, the block's own; in phases of weights nobody writes rows.
        unsafe { self.values.mat(start + rows.start * width, rows.len(), width, width) }
    }

    fn rows_mut(&self, start: usize, Local { rows, .. }: &Local, width: usize) -> MatMut<'a, T> {
        // SAFETY: called while rows go through only, for the block's own.
        unsafe { self.values.mat_mut(start + rows.start * width, rows.len(), width, width) }
    }
}

/// Whether no element of a matrix is NaN or infinite.
pub fn finite<T: Element>(isa: Isa, m: MatRef<'_, T>) -> bool {
    match m.as_slice() {
        Some(all) => all_finite(isa, all),
        None => (0..m.rows()).all(|i| all_finite(isa, m.row(i))),
    }
}

/// An activation on some rows.
fn activate<T: Element>(isa: Isa, act: Activation, rows: MatMut<'_, T>, saved: Option<MatMut<'_, T>>) {
    struct Activate<'r, T>(Activation, MatMut<'r, T>, Option<MatMut<'r, T>>);
    impl<T: Element> Op<T> for Activate<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            self.0.forward(s, self.1, self.2);
        }
    }
    dispatch(isa, Activate(act, rows, saved));
}

/// into ← into + rows.
struct Add<'r, T> {
    rows: MatRef<'r, T>,
    into: MatMut<'r, T>,
}

impl<T: Element> Op<T> for Add<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { rows, mut into } = self;
        for r in 0..rows.rows() {
            zip_map(
                s,
                [into.row_mut(r)],
                [rows.row(r)],
                #[inline(always)]
                |[y], [x]| [s.add(y, x)],
            );
        }
    }
}

/// [`dropout::forward`] of rows.
struct DropOut<'r, T> {
    p: f64,
    draw: Draw,
    layer: usize,
    first: usize,
    x: MatRef<'r, T>,
    y: MatMut<'r, T>,
    factors: MatMut<'r, T>,
}

impl<T: Element> Op<T> for DropOut<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { p, draw, layer, first, x, mut y, mut factors } = self;
        for r in 0..x.rows() {
            y.row_mut(r).copy_from_slice(x.row(r));
        }
        dropout::forward(s, p, draw, layer, first, &mut y, &mut factors);
    }
}

/// Losses of a block of rows; gives whether all are finite.
struct Losses<'l, T> {
    objective: &'l Objective<T>,
    rows: loss::Rows<'l, T>,
    grad: Option<MatMut<'l, T>>,
    into: &'l mut [RowLoss],
}

impl<T: Element> Op<T> for Losses<'_, T> {
    type Output = bool;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> bool {
        self.objective.rows(s, &self.rows, self.grad, self.into);
        self.into.iter().all(|l| l.loss.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use crate::layer::{Activation, Init, Layer, Linear};
    use crate::optim::{Config, Optimizer, Sgd};
    use crate::simd::Isa;
    use crate::view::MatRef;
    use crate::{Model, Trainer, loss::Loss, loss::Targets};

    /// Parameters after two steps; `poison` fills the workspaces with NaN before the second.
    fn two_steps(isa: Isa, act: Activation, poison: bool) -> Vec<f64> {
        let linear = |inputs, outputs| {
            Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
        };
        let layers = vec![
            linear(600, 33),
            Layer::Activation(act),
            Layer::Activation(Activation::Gelu),
            linear(33, 600),
            Layer::Activation(act),
            linear(600, 3),
        ];
        let mut model = Model::<f64>::with_isa(layers, 0, isa).unwrap();
        let mut trainer = Trainer::new(Loss::CROSS_ENTROPY);
        let config = Config::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() });
        let mut optimizer = Optimizer::new(config, model.network()).unwrap();
        let rows = 150;
        let x: Vec<f64> = (0..rows * 600).map(|i| (i as f64).sin()).collect();
        let y: Vec<i64> = (0..rows as i64).map(|i| i % 3).collect();
        let x = MatRef::new(&x, rows, 600);
        trainer.step(&mut model, &mut optimizer, x, Targets::Labels(&y)).unwrap();
        if poison {
            trainer.poison();
        }
        trainer.step(&mut model, &mut optimizer, x, Targets::Labels(&y)).unwrap();
        trainer.evaluate(&mut model, x, Targets::Labels(&y)).unwrap();
        if poison {
            trainer.poison();
        }
        let tally = trainer.evaluate(&mut model, x, Targets::Labels(&y)).unwrap();
        let mut flat = vec![0.0; model.network().num_parameters()];
        model.parameters(&mut flat);
        flat.push(tally.loss);
        flat
    }

    #[test]
    fn a_pass_reads_nothing_of_its_workspace_that_it_did_not_write() {
        for isa in Isa::available() {
            for act in [Activation::Relu, Activation::Gelu, Activation::Tanh] {
                let clean = two_steps(isa, act, false);
                assert!(clean.iter().all(|x| x.is_finite()));
                assert_eq!(clean, two_steps(isa, act, true), "{isa} {}", act.name());
            }
        }
    }
}
