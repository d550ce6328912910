//! A pass over the network, as a [`Job`]: what the items of a plan do.
//!
//! This is the one place where the plan's disjoint parts turn into `&mut`. The rules that make it sound:
//!
//! * phase 1 writes packed weights, each item its own panels, and reads parameters;
//! * phase 2 writes rows of activations and gradients, each item the rows of its block, and its
//!   thread's own scratch; it reads parameters and packed weights;
//! * phase 3 writes gradients, parameters and optimizer state, each item its own tile, and its
//!   thread's scratch; it reads activations and their gradients.
//!
//! No phase reads what another item of it writes, [`threads::run`](crate::threads::run) separates the
//! phases, and an item runs on one thread at a time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::arena::{Shared, padded};
use crate::element::Element;
use crate::gemm::pack::{PackedRhs, pack_rhs};
use crate::gemm::{Epilogue, Gemm, Init, Rhs};
use crate::layer::Activation;
use crate::loss::{Loss, RowLoss, Targets};
use crate::network::{Network, Stage};
use crate::optim;
use crate::plan::{Direction, Mode, Plan, StagePlan, TileItem};
use crate::simd::{Isa, Op, Simd, all_finite, dispatch, max_abs, zip_map};
use crate::threads::Job;
use crate::view::{MatMut, MatRef};
use crate::workspace::{Layout, StageSlots};

/// Which rows of the data make the batch.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row r of the batch is row `start + r` of the data.
    From(usize),
    /// Row r of the batch is row `order[r]` of the data.
    Listed(&'a [u32]),
}

impl Rows<'_> {
    fn at(&self, r: usize) -> usize {
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
    pub loss: Loss,
    /// The data's targets; rows as for the input.
    pub targets: Targets<'a, T>,
    /// Where each row's loss goes.
    pub losses: Shared<'a, RowLoss>,
    /// Whether the pass goes on backward from the loss.
    pub backward: bool,
}

/// Gradients and update of a pass.
#[derive(Clone, Copy)]
pub struct TileTask<'a, T> {
    /// The gradient arena. Not written to if there is an update: the gradient is used up on the spot.
    pub grads: Shared<'a, T>,
    /// Whether gradients add to what is there.
    pub accumulate: bool,
    /// Raised to the bits of the largest absolute gradient, in double precision, if anybody asks.
    pub size: Option<&'a AtomicU64>,
    /// The optimizer's step and state, if the parameters are to be updated; then nothing accumulates.
    pub update: Option<(optim::Step, [Shared<'a, T>; optim::MAX_STATE])>,
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
    /// The parameter arena.
    pub params: Shared<'a, T>,
    /// The data, whole; `None` if the pass goes on from an earlier one (backward only).
    pub input: Option<MatRef<'a, T>>,
    /// Which rows of the data.
    pub rows: Rows<'a>,
    /// Whether the rows are copied into the workspace even if they lie in order, because the data will
    /// be gone when a later pass goes backward.
    pub keep_input: bool,
    /// Whether NaN and infinity in the input, or in the loss, stop the pass before the update.
    pub check_finite: bool,
    /// Where outputs go in inference, rows × outputs; empty if nobody wants them.
    pub output: Option<Shared<'a, T>>,
    /// Loss, if there is one.
    pub loss: Option<LossTask<'a, T>>,
    /// The gradient by the outputs, where it is given instead of computed from a loss.
    pub output_gradient: Option<MatRef<'a, T>>,
    /// Where the gradient by the input goes, rows × inputs.
    pub input_gradient: Option<Shared<'a, T>>,
    /// Gradients by parameters, if wanted.
    pub tiles: Option<TileTask<'a, T>>,
    /// Set by the pass if it met something that is not finite; the update is then not done.
    pub stopped: AtomicBool,
}

impl<T: Element> Job for Pass<'_, T> {
    fn phases(&self) -> usize {
        3
    }

    fn items(&self, phase: usize) -> usize {
        match phase {
            0 => self.plan.panels.len(),
            1 => self.plan.blocks,
            _ if self.tiles.is_some() => self.plan.tiles.len(),
            _ => 0,
        }
    }

    fn run(&self, phase: usize, item: usize, worker: usize) {
        match phase {
            0 => self.pack(item),
            1 => self.block(self.plan.block(item), worker),
            _ => self.tile(&self.plan.tiles[item], worker),
        }
    }
}

impl<'a, T: Element> Pass<'a, T> {
    fn stages(&self) -> impl DoubleEndedIterator<Item = (usize, &'a Stage, StageSlots)> + use<'a, T> {
        let (stages, slots) = (self.network.stages(), &self.layout.stages);
        (0..stages.len()).map(move |i| (i, &stages[i], slots[i]))
    }

    /// A thread's scratch.
    fn scratch(&self, worker: usize) -> &'a mut [T] {
        let from = self.layout.scratch + worker * self.layout.scratch_len;
        // SAFETY: every thread of a region has another number, and runs one item at a time.
        unsafe { self.values.slice_mut(from..from + self.layout.scratch_len) }
    }

    // --- Phase 1 -------------------------------------------------------------------------------

    fn pack(&self, item: usize) {
        let item = &self.plan.panels[item];
        let (stage, slots) = (&self.network.stages()[item.stage], &self.layout.stages[item.stage]);
        let dense = stage.dense.expect("only dense layers are packed");
        // SAFETY: parameters are only read in phases 1 and 2.
        let weight = unsafe { self.params.mat(dense.weight, stage.inputs, stage.outputs, stage.outputs) };
        let (start, matrix) = match item.direction {
            Direction::Forward => (slots.packed_forward, weight),
            Direction::Backward => (slots.packed_backward, weight.t()),
        };
        let panel = self.plan.tile.nr * matrix.rows();
        let range = start + item.panels.start * panel..start + item.panels.end * panel;
        // SAFETY: the item's own panels.
        let into = unsafe { self.values.slice_mut(range) };
        pack_rhs(matrix, self.plan.tile.nr, item.panels.start, into);
    }

    fn packed(&self, start: usize, k: usize, n: usize) -> Rhs<'a, T> {
        let len = self.plan.packed_len::<T>(k, n);
        // SAFETY: packed weights are only read in phase 2.
        let panels = unsafe { self.values.slice(start..start + len) };
        Rhs::Packed(PackedRhs::new(panels, self.plan.tile, k, n))
    }

    // --- Phase 2 -------------------------------------------------------------------------------

    fn block(&self, rows: Range<usize>, worker: usize) {
        let Some(data) = self.input else {
            return self.backward(rows, worker);
        };
        let Some(input) = self.gather(data, &rows) else { return };
        if self.plan.mode == Mode::Inference {
            return self.infer(input, rows, worker);
        }
        let last = self.layout.stages.len() - 1;
        let mut x = input;
        for (index, stage, slots) in self.stages() {
            let y = self.rows_mut(slots.output, &rows, stage.outputs);
            let saved = slots.saved.map(|start| self.rows_mut(start, &rows, stage.outputs));
            self.forward(index, stage, x, y, saved, self.scratch(worker));
            x = self.rows_ref(slots.output, &rows, stage.outputs);
        }
        if let Some(task) = self.loss {
            let delta = self.rows_mut(self.layout.stages[last].delta, &rows, x.cols());
            self.losses(&task, x, task.backward.then_some(delta), &rows);
            if !task.backward || self.stopped.load(Ordering::Relaxed) {
                return;
            }
            self.backward(rows, worker);
        }
    }

    /// The block's rows of the data: where they lie if that is in order, else copied together. `None`
    /// if something in them is not finite.
    fn gather(&self, data: MatRef<'a, T>, rows: &Range<usize>) -> Option<MatRef<'a, T>> {
        let width = data.cols();
        let input = match self.rows {
            Rows::From(start) if !self.keep_input => data.block(start + rows.start, rows.len(), 0, width),
            _ => {
                let mut into = self.rows_mut(self.layout.input, rows, width);
                for r in 0..rows.len() {
                    into.row_mut(r).copy_from_slice(data.row(self.rows.at(rows.start + r)));
                }
                self.rows_ref(self.layout.input, rows, width)
            }
        };
        if self.check_finite && !finite(self.plan.isa, input) {
            self.stopped.store(true, Ordering::Relaxed);
            return None;
        }
        Some(input)
    }

    /// One stage forward.
    fn forward(
        &self,
        index: usize,
        stage: &Stage,
        x: MatRef<'_, T>,
        mut y: MatMut<'_, T>,
        mut saved: Option<MatMut<'_, T>>,
        scratch: &mut [T],
    ) {
        let Some(dense) = stage.dense else {
            for r in 0..x.rows() {
                y.row_mut(r).copy_from_slice(x.row(r));
                activate(self.plan, stage, y.row_mut(r), saved.as_mut().map(|s| s.row_mut(r)));
            }
            return;
        };
        let (k, n) = (stage.inputs, stage.outputs);
        let planned = self.planned(index);
        let b = if planned.forward_packed {
            self.packed(self.layout.stages[index].packed_forward, k, n)
        } else {
            // SAFETY: parameters are only read in phases 1 and 2.
            Rhs::Plain(unsafe { self.params.mat(dense.weight, k, n, n) })
        };
        let init = match dense.bias {
            // SAFETY: as above.
            Some(start) => Init::Bias(unsafe { self.params.slice(start..start + n) }),
            None => Init::Zero,
        };
        let epilogue = Epilogue::Activate(stage.act, saved);
        Gemm { a: x, b, c: y, init, epilogue }.run(self.plan.isa, &planned.forward, scratch);
    }

    /// A block in inference: activations take turns in the thread's scratch.
    fn infer(&self, input: MatRef<'a, T>, rows: Range<usize>, worker: usize) {
        let m = rows.len();
        let half = padded::<T>(self.plan.block_rows * self.network.max_width());
        let scratch = self.scratch(worker);
        let (scratch, halves) = scratch.split_at_mut(self.layout.scratch_len - 2 * half);
        let (mut front, mut back) = halves.split_at_mut(half);
        let last = self.network.stages().len() - 1;
        let mut x = input;
        for (index, stage, _) in self.stages() {
            let n = stage.outputs;
            let mut y = match self.output {
                Some(output) if index == last => {
                    // SAFETY: the block's own rows of the output.
                    unsafe { output.mat_mut(rows.start * n, m, n, n) }
                }
                _ => MatMut::new(&mut front[..m * n], m, n),
            };
            self.forward(index, stage, x, y.reborrow(), None, scratch);
            if index == last {
                if let Some(task) = self.loss {
                    self.losses(&task, y.as_ref(), None, &rows);
                }
                return;
            }
            std::mem::swap(&mut front, &mut back);
            x = MatRef::new(&back[..m * n], m, n);
        }
    }

    fn losses(
        &self,
        task: &LossTask<'a, T>,
        output: MatRef<'_, T>,
        grad: Option<MatMut<'_, T>>,
        rows: &Range<usize>,
    ) {
        // SAFETY: the block's own rows.
        let losses = unsafe { task.losses.slice_mut(rows.clone()) };
        let scale = 1.0 / self.plan.rows as f64;
        let op = Losses { task, output, grad, losses, rows: &self.rows, first: rows.start, scale };
        if !dispatch(self.plan.isa, op) && self.check_finite {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// A block from the gradient by the output, back through all stages.
    fn backward(&self, rows: Range<usize>, worker: usize) {
        let m = rows.len();
        let (stages, slots) = (self.network.stages(), &self.layout.stages);
        let last = stages.len() - 1;
        let mut delta = self.rows_mut(slots[last].delta, &rows, stages[last].outputs);
        if let Some(gradient) = self.output_gradient {
            for r in 0..m {
                delta.row_mut(r).copy_from_slice(gradient.row(rows.start + r));
            }
        }
        self.through_activation(last, &rows, &mut delta);
        for index in (0..=last).rev() {
            let stage = &stages[index];
            let delta = self.rows_ref(slots[index].delta, &rows, stage.outputs);
            let (into, act) = if index > 0 {
                let into = self.rows_mut(slots[index - 1].delta, &rows, stage.inputs);
                (into, stages[index - 1].act)
            } else {
                let Some(gradient) = self.input_gradient else { return };
                // SAFETY: the block's own rows.
                let into =
                    unsafe { gradient.mat_mut(rows.start * stage.inputs, m, stage.inputs, stage.inputs) };
                (into, Activation::Identity)
            };
            self.propagate(index, delta, into, act, &rows, worker);
        }
    }

    /// Gradient by a stage's input, times the derivative of the activation before it.
    fn propagate(
        &self,
        index: usize,
        delta: MatRef<'_, T>,
        mut into: MatMut<'_, T>,
        act: Activation,
        rows: &Range<usize>,
        worker: usize,
    ) {
        let stage = &self.network.stages()[index];
        if stage.dense.is_none() {
            for r in 0..rows.len() {
                into.row_mut(r).copy_from_slice(delta.row(r));
            }
            if index > 0 {
                self.through_activation(index - 1, rows, &mut into);
            }
            return;
        }
        let (k, n) = (stage.outputs, stage.inputs);
        let b = self.packed(self.layout.stages[index].packed_backward, k, n);
        let epilogue = if index == 0 {
            Epilogue::None
        } else {
            Epilogue::Derivative(act, self.derivative(index - 1, rows))
        };
        let plan = self.planned(index).backward.expect("planned where it is needed");
        Gemm { a: delta, b, c: into, init: Init::Zero, epilogue }.run(
            self.plan.isa,
            &plan,
            self.scratch(worker),
        );
    }

    /// What the derivative of a stage's activation is read from.
    fn derivative(&self, index: usize, rows: &Range<usize>) -> MatRef<'a, T> {
        let slots = &self.layout.stages[index];
        self.rows_ref(slots.saved.unwrap_or(slots.output), rows, self.network.stages()[index].outputs)
    }

    /// delta ← delta · φ′ of a stage.
    fn through_activation(&self, index: usize, rows: &Range<usize>, delta: &mut MatMut<'_, T>) {
        struct Through<'t, 'm, 'f, T>(Activation, &'t mut MatMut<'m, T>, MatRef<'f, T>);
        impl<T: Element> Op<T> for Through<'_, '_, '_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                for r in 0..self.2.rows() {
                    self.0.backward(s, self.1.row_mut(r), self.2.row(r));
                }
            }
        }
        let act = self.network.stages()[index].act;
        if act != Activation::Identity {
            dispatch(self.plan.isa, Through(act, delta, self.derivative(index, rows)));
        }
    }

    // --- Phase 3 -------------------------------------------------------------------------------

    fn tile(&self, item: &TileItem, worker: usize) {
        let Some(task) = self.tiles else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[item.stage];
        let dense = stage.dense.expect("only dense layers have tiles");
        let (m, n) = (item.rows.len(), item.cols.len());
        let all = 0..self.plan.rows;
        let x = if item.stage > 0 {
            self.rows_ref(self.layout.stages[item.stage - 1].output, &all, stage.inputs)
        } else {
            match (self.input, self.rows) {
                (Some(data), Rows::From(start)) => data.block(start, all.len(), 0, stage.inputs),
                _ => self.rows_ref(self.layout.input, &all, stage.inputs),
            }
        };
        let delta = self.rows_ref(self.layout.stages[item.stage].delta, &all, stage.outputs);
        let delta = delta.block(0, all.len(), item.cols.start, n);
        let start = dense.weight + item.rows.start * stage.outputs + item.cols.start;
        let bias = dense.bias.filter(|_| item.bias).map(|b| b + item.cols.start);
        let (scratch, own) = self.scratch(worker).split_at_mut(padded::<T>(self.plan.scratch));
        let (own_weight, own_bias) = own[..(m + 1) * n].split_at_mut(m * n);

        // A gradient that is used up by an update stays in the thread's scratch, and so in its cache.
        let (c, into): (MatMut<'_, T>, &mut [T]) = if task.update.is_some() {
            (MatMut::new(own_weight, m, n), own_bias)
        } else {
            // SAFETY: the tile of this item, and the bias of its columns, which no other serves.
            unsafe {
                let bias = bias.map_or(0..0, |b| b..b + n);
                (task.grads.mat_mut(start, m, n, stage.outputs), task.grads.slice_mut(bias))
            }
        };
        let gemm = Gemm {
            a: x.block(0, all.len(), item.rows.start, m).t(),
            b: Rhs::Plain(delta),
            c,
            init: if task.accumulate { Init::Accumulate } else { Init::Zero },
            epilogue: Epilogue::None,
        };
        gemm.run(self.plan.isa, &self.planned(item.stage).weight, scratch);
        if bias.is_some() {
            if !task.accumulate {
                into.fill(T::ZERO);
            }
            dispatch(self.plan.isa, SumRows { rows: delta, into: &mut *into });
        }

        if let Some(size) = task.size {
            // SAFETY: as above; the views of it are gone.
            let rows = (0..m).map(|i| unsafe {
                task.grads.slice(start + i * stage.outputs..start + i * stage.outputs + n)
            });
            let weight = rows.map(|row| max_abs(self.plan.isa, row).to_f64().abs().to_bits()).max();
            let bias = bias.map(|_| max_abs(self.plan.isa, into).to_f64().abs().to_bits());
            // The bits of numbers ≥ 0 are in the order of the numbers, NaN above all.
            size.fetch_max(weight.max(bias).unwrap_or(0), Ordering::Relaxed);
        }

        if let Some((step, state)) = &task.update {
            let update = |start: usize, grads: &[T]| {
                let range = start..start + grads.len();
                // SAFETY: this item's elements, in parameters and state alike; optimizers without state
                // share an empty buffer.
                let (params, state) = unsafe {
                    (self.params.slice_mut(range.clone()), state.map(|s| s.slice_mut_or_empty(range.clone())))
                };
                step.update(self.plan.isa, params, grads, state);
            };
            if n == stage.outputs {
                update(start, own_weight);
            } else {
                own_weight
                    .chunks_exact(n)
                    .enumerate()
                    .for_each(|(i, row)| update(start + i * stage.outputs, row));
            }
            if let Some(bias) = bias {
                update(bias, own_bias);
            }
        }
    }

    // --- Views ---------------------------------------------------------------------------------

    fn planned(&self, index: usize) -> StagePlan {
        self.plan.stages[index].expect("planned for dense layers")
    }

    fn rows_ref(&self, start: usize, rows: &Range<usize>, width: usize) -> MatRef<'a, T> {
        // SAFETY: in phase 2 the block's own rows; in phase 3 nobody writes rows.
        unsafe { self.values.mat(start + rows.start * width, rows.len(), width, width) }
    }

    fn rows_mut(&self, start: usize, rows: &Range<usize>, width: usize) -> MatMut<'a, T> {
        // SAFETY: called in phase 2 only, for the block's own rows.
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

/// A stage without a dense layer, on one row.
fn activate<T: Element>(plan: &Plan, stage: &Stage, row: &mut [T], saved: Option<&mut [T]>) {
    struct Activate<'r, T>(Activation, &'r mut [T], Option<&'r mut [T]>);
    impl<T: Element> Op<T> for Activate<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            self.0.forward(s, self.1, self.2);
        }
    }
    dispatch(plan.isa, Activate(stage.act, row, saved));
}

/// Losses of a block of rows; gives whether all are finite.
struct Losses<'l, 'a, T> {
    task: &'l LossTask<'a, T>,
    output: MatRef<'l, T>,
    grad: Option<MatMut<'l, T>>,
    losses: &'l mut [RowLoss],
    rows: &'l Rows<'a>,
    first: usize,
    scale: f64,
}

impl<T: Element> Op<T> for Losses<'_, '_, T> {
    type Output = bool;
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) -> bool {
        let mut finite = true;
        for (r, into) in self.losses.iter_mut().enumerate() {
            let grad = self.grad.as_mut().map(|g| g.row_mut(r));
            let target = self.rows.at(self.first + r);
            *into = self.task.loss.row(s, self.output.row(r), &self.task.targets, target, grad, self.scale);
            finite &= into.loss.is_finite();
        }
        finite
    }
}

/// into ← into + the sum of rows, in their order.
struct SumRows<'r, T> {
    rows: MatRef<'r, T>,
    into: &'r mut [T],
}

impl<T: Element> Op<T> for SumRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        for r in 0..self.rows.rows() {
            zip_map(
                s,
                [&mut *self.into],
                [self.rows.row(r)],
                #[inline(always)]
                |[sum], [x]| [s.add(sum, x)],
            );
        }
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
        let mut trainer = Trainer::new(Loss::CrossEntropy);
        let config =
            Config::Sgd(Sgd { lr: 0.1, momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 0.0 });
        let mut optimizer = Optimizer::new(config, model.network().arena_len()).unwrap();
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
