//! Rows go forward: from the data through the stages to the loss.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Local, Pass, Rows, finite};
use crate::arena::padded;
use crate::element::Element;
use crate::gemm::split::Side;
use crate::gemm::{Epilogue, Gemm, Init, Lhs, Precision};
use crate::layer::{Activation, dropout, skip};
use crate::loss;
use crate::plan::Mode;
use crate::view::{MatMut, MatRef};

/// How many rows ahead of the copied one are prefetched, if rows are in no order.
const AHEAD: usize = 4;

impl<'a, T: Element> Pass<'a, T> {
    /// Gathers a block's rows of the data, unless they can be read where they lie, and checks that they are
    /// finite.
    pub(super) fn gather(&self, rows: &Range<usize>, local: &Local) {
        let Some(data) = self.input else { return };
        if !self.in_place() {
            // SAFETY: the block's own rows, to which this item has no other reference here.
            let mut into = unsafe { self.rows_mut(self.layout.input, local, self.network.inputs()) };
            let at = |r: usize| self.rows.at(rows.start + r);
            if let Rows::Listed(_) = self.rows {
                (0..AHEAD.min(rows.len())).for_each(|r| data.prefetch_row(at(r)));
            }
            for r in 0..rows.len() {
                if let (Rows::Listed(_), true) = (self.rows, r + AHEAD < rows.len()) {
                    data.prefetch_row(at(r + AHEAD));
                }
                data.copy_row(at(r), into.row_mut(r));
            }
        }
        if self.check_finite && !self.checked && !finite(self.plan.isa, self.input_rows(rows, local)) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Whether rows of the data are read where they lie.
    fn in_place(&self) -> bool {
        let native = self.input.is_some_and(|data| data.native().is_some());
        native && matches!(self.rows, Rows::From(_)) && !self.keep_input
    }

    /// Rows of the data, in place or gathered.
    fn input_rows(&self, rows: &Range<usize>, local: &Local) -> MatRef<'a, T> {
        match (self.input.and_then(|data| data.native()), self.rows) {
            (Some(data), Rows::From(start)) if self.in_place() => {
                data.block(start + rows.start, rows.len(), 0, data.cols())
            }
            _ => self.rows_ref(self.layout.input, local, self.network.inputs()),
        }
    }

    /// What a stage reads.
    pub(super) fn stage_input(&self, index: usize, rows: &Range<usize>, local: &Local) -> MatRef<'a, T> {
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
    pub(super) fn forward(&self, index: usize, rows: &Range<usize>, local: &Local, worker: usize) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let x = self.stage_input(index, rows, local);
        if let Some(planned) = self.plan.stages[index]
            && planned.pack_input
        {
            match planned.weight.precision {
                Precision::Full => self.pack_rows(x, planned.weight.rows, slots.input_panels, local),
                precision => self.split_rows(x, Side::A, precision, slots.input_panels, local),
            }
        }
        let (y, act, saved) = match slots.before_norm {
            Some(start) => (start, Activation::Identity, None),
            None => (slots.output, stage.act, slots.saved),
        };
        // SAFETY: the block's own rows, in two different slots; what the stage reads is in other slots.
        let y = unsafe { self.rows_mut(y, local, stage.outputs) };
        // SAFETY: likewise.
        let saved = saved.map(|start| unsafe { self.rows_mut(start, local, stage.outputs) });
        match (act, saved) {
            (Activation::Dropout(p), Some(factors)) => {
                let p = if self.plan.mode == Mode::Frozen { 0.0 } else { p };
                let mut y = y;
                (0..x.rows()).for_each(|r| y.row_mut(r).copy_from_slice(x.row(r)));
                dropout::forward(self.plan.isa, (p, self.draw, index, rows.start), y, factors);
            }
            (_, saved) => {
                let beside = stage.skip.map(|first| self.stage_input(first, rows, local));
                // SAFETY: the thread's own scratch, to which this item has no other reference.
                let scratch = unsafe { self.scratch(worker) };
                self.through(index, x, beside, y, act, saved, scratch);
            }
        }
    }

    /// The dense layer of a stage, or the end of a block whose input is `beside`, if it is either, and an
    /// activation.
    #[allow(clippy::too_many_arguments)]
    fn through(
        &self,
        index: usize,
        x: MatRef<'_, T>,
        beside: Option<MatRef<'_, T>>,
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
            skip::join(self.plan.isa, beside, x, y.reborrow());
            return act.forward(self.plan.isa, y, saved);
        };
        let init = match dense.bias {
            // SAFETY: parameters are written only in the pass's last phase (weights or update), and this is
            // another.
            Some(start) => Init::Bias(unsafe { self.params.slice(start..start + stage.outputs) }),
            None => Init::Zero,
        };
        let gemm = Gemm {
            a: Lhs::Plain(x),
            b: self.weights_for(index, true, 0),
            c: y,
            init,
            epilogue: Epilogue::Activate(act, saved),
            ahead: &[],
        };
        gemm.run(self.plan.isa, &self.planned(index).forward, scratch);
    }

    /// A block in inference: activations alternate between two buffers in the thread's scratch.
    pub(super) fn infer(&self, rows: &Range<usize>, worker: usize) {
        let Some(data) = self.input else { return };
        let Rows::From(start) = self.rows else { unreachable!("inference takes rows in order") };
        let m = rows.len();
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let half = padded::<T>(self.plan.block_rows * self.network.max_width());
        // SAFETY: the thread's own scratch, to which this item has no other reference.
        let scratch = unsafe { self.scratch(worker) };
        let depth = self.network.depth();
        let (scratch, halves) = scratch.split_at_mut(scratch.len() - (2 + depth) * half);
        let (mut front, halves) = halves.split_at_mut(half);
        let (mut back, blocks) = halves.split_at_mut(half);
        // Inputs of the blocks of layers that have not ended yet, outermost first.
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
            let beside = stage.skip.map(|first| {
                waiting -= 1;
                let width = self.network.stages()[first].inputs;
                MatRef::new(&blocks[waiting * half..][..m * width], m, width)
            });
            let mut y = match self.output {
                Some(output) if index == last => {
                    // SAFETY: these rows of the output belong to this block alone.
                    unsafe { output.mat_mut(rows.start * n, m, n, n) }
                }
                _ => MatMut::new(&mut front[..m * n], m, n),
            };
            if stage.norm.is_none() {
                self.through(index, x, beside, y.reborrow(), stage.act, None, scratch);
            } else {
                self.through(index, x, beside, y.reborrow(), Activation::Identity, None, scratch);
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

    pub(super) fn losses(&self, output: MatRef<'_, T>, grad: Option<MatMut<'_, T>>, rows: &Range<usize>) {
        let Some(task) = &self.loss else { return };
        // SAFETY: the losses of these rows belong to this block alone.
        let losses = unsafe { self.losses.slice_mut(rows.clone()) };
        let chosen = self.rows.skip(rows.start);
        let rows = loss::Rows { output, goals: task.goals, chosen, scale: task.scale };
        task.objective.rows(self.plan.isa, &rows, grad, losses);
        if self.check_finite && !losses.iter().all(|row| row.loss.is_finite()) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }
}
