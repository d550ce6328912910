//! What a pass does for weights: gradients over the rows of a wave, tile by tile, and updates.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Pass, WeightTask};
use crate::arena::padded;
use crate::element::Element;
use crate::gemm::pack::{LhsPanels, PANEL, offset, transpose};
use crate::gemm::{Ahead, Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::optim;
use crate::plan::TileItem;
use crate::simd::{Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

impl<'a, T: Element> Pass<'a, T> {
    /// A tile of weights, panel by panel: gradient over the rows of a wave and, if that completes it,
    /// update.
    pub(super) fn tile(&self, item: &TileItem, rows: &Range<usize>, first: bool, last: bool, worker: usize) {
        let Some(task) = self.weights else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[item.stage];
        let dense = stage.dense.expect("only dense layers have tiles");
        let wanted = task.wants(dense.weight);
        let dense_bias = dense.bias.filter(|&b| item.bias && task.wants(b));
        if !wanted && dense_bias.is_none() {
            return;
        }
        let planned = self.planned(item.stage);
        let slots = &self.layout.stages[item.stage];
        let all = self.local(rows);
        let (m, k) = (item.rows.len(), all.wave);
        let x = self.stage_input(item.stage, rows, &all).block(0, k, item.rows.start, m);
        let a = if planned.pack_input {
            // SAFETY: written while rows went through.
            let panels =
                unsafe { self.values.slice(slots.input_panels..slots.input_panels + k * stage.inputs) };
            Lhs::Panels(
                LhsPanels::new(panels, stage.inputs, k, planned.weight.rows).block(item.rows.start, m),
            )
        } else {
            Lhs::Plain(x.t())
        };
        let delta = self.rows_ref(slots.delta, &all, stage.outputs);
        // A gradient that is used up by an update, and complete with this wave's rows, stays in the thread's
        // scratch, and so in its cache.
        let (grads, base) = match task.update {
            Some(_) if self.plan.in_waves() => (Some(self.values), self.layout.gradients.start),
            Some(_) => (None, 0),
            None => (Some(task.grads), 0),
        };
        let init = if task.accumulate || !first { Init::Accumulate } else { Init::Zero };
        let (scratch, own) = self.scratch(worker).split_at_mut(padded::<T>(self.plan.scratch));

        for col in item.cols.clone().step_by(PANEL) {
            let n = PANEL.min(stage.outputs - col);
            let start = dense.weight + offset(stage.inputs, stage.outputs, item.rows.start, col);
            let bias = dense_bias.map_or(0..0, |b| b + col..b + col + n);
            let (weight, bias_sum) = match grads {
                // SAFETY: this panel of the item, and the bias of its columns, which no other serves.
                Some(grads) => unsafe {
                    let bias = if bias.is_empty() { 0..0 } else { base + bias.start..base + bias.end };
                    (grads.slice_mut(base + start..base + start + m * n), grads.slice_mut(bias))
                },
                None => {
                    let (weight, rest) = own.split_at_mut(m * n);
                    (weight, &mut rest[..bias.len()])
                }
            };
            let delta = if planned.pack_delta {
                let from = slots.delta_panels + col * k;
                // SAFETY: written while rows went through.
                MatRef::new(unsafe { self.values.slice(from..from + k * n) }, k, n)
            } else {
                delta.block(0, k, col, n)
            };
            let range = start..start + m * n;
            let mut ahead = [Ahead { start: std::ptr::null(), bytes: 0 }; 1 + optim::MAX_STATE];
            let mut count = 0;
            if let Some(state) = &task.update
                && last
            {
                for buffer in std::iter::once(&self.params).chain(state).filter(|b| !b.is_empty()) {
                    let bytes = size_of::<T>() * range.len();
                    ahead[count] = Ahead { start: buffer.ptr(range.clone()).cast(), bytes };
                    count += 1;
                }
            }
            if !wanted {
                // Only the bias is trained.
            } else if n <= self.plan.narrow {
                let (transposed, scratch) = scratch.split_at_mut(n * m);
                self.narrow_gradient(x, delta, init, weight, transposed, scratch);
            } else {
                let gemm = Gemm {
                    a,
                    b: Rhs::Plain(delta),
                    c: MatMut::new(&mut *weight, m, n),
                    init,
                    epilogue: Epilogue::None,
                    ahead: &ahead[..count],
                };
                gemm.run(self.plan.isa, &planned.weight, scratch);
            }
            if !bias.is_empty() {
                if let Init::Zero = init {
                    bias_sum.fill(T::ZERO);
                }
                dispatch(self.plan.isa, SumRows { rows: delta, into: &mut *bias_sum });
            }
            if wanted {
                task.note_size(self.plan.isa, weight);
            }
            task.note_size(self.plan.isa, bias_sum);
            if last {
                if wanted {
                    self.update(&task, range, weight);
                }
                self.update(&task, bias, bias_sum);
            }
        }
    }

    /// The gradient of a panel of few columns: as its transpose, so that vectors lie along the inputs
    /// instead of being filled by a few outputs. Every element is the same chain as ever.
    pub(super) fn narrow_gradient(
        &self,
        x: MatRef<'_, T>,
        delta: MatRef<'_, T>,
        init: Init<'_, T>,
        weight: &mut [T],
        transposed: &mut [T],
        scratch: &mut [T],
    ) {
        let (m, n) = (x.cols(), delta.cols());
        if let Init::Accumulate = init {
            transpose(self.plan.isa, MatRef::new(weight, m, n), transposed);
        }
        let gemm = Gemm {
            a: Lhs::Plain(delta.t()),
            b: Rhs::Plain(x),
            c: MatMut::new(&mut *transposed, n, m),
            init,
            epilogue: Epilogue::None,
            ahead: &[],
        };
        gemm.run(self.plan.isa, &GemmPlan::gradient::<T>(self.plan.isa, n, x.rows()), scratch);
        transpose(self.plan.isa, MatRef::new(transposed, n, m), weight);
    }

    /// The optimizer's step, if there is one, for some parameters of one block, which are the item's own.
    pub(super) fn update(&self, task: &WeightTask<'a, T>, range: Range<usize>, grads: &[T]) {
        let (Some(steps), Some(state)) = (&task.steps, &task.update) else { return };
        let Some(step) = steps.at(range.start) else { return };
        let at = range.clone();
        // SAFETY: this item's elements, in parameters and state alike; optimizers without state share an
        // empty buffer.
        let (params, state) = unsafe {
            let state = state.map(|s| s.slice_mut_or_empty(range.clone()));
            (self.params.slice_mut(range), state)
        };
        match &task.along {
            None => step.update(self.plan.isa, params, grads, state),
            // SAFETY: this item's elements, of the path too.
            Some(along) => unsafe { along.step(self.plan.isa, step, at, params, grads, state) },
        }
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
        let Self { rows, into } = self;
        // Sums stay in registers: some columns over all rows, then the next.
        let mut col = 0;
        while col < into.len() {
            let left = into.len() - col;
            if left >= 2 * S::N {
                let mut sums = [0, S::N].map(|j| s.load(&into[col + j..]));
                for r in 0..rows.rows() {
                    let row = &rows.row(r)[col..];
                    sums = [s.add(sums[0], s.load(row)), s.add(sums[1], s.load(&row[S::N..]))];
                }
                s.store(&mut into[col..], sums[0]);
                s.store(&mut into[col + S::N..], sums[1]);
                col += 2 * S::N;
            } else {
                let n = left.min(S::N);
                let mut sum = s.load_partial(&into[col..col + n]);
                for r in 0..rows.rows() {
                    sum = s.add(sum, s.load_partial(&rows.row(r)[col..col + n]));
                }
                s.store_partial(&mut into[col..col + n], sum);
                col += n;
            }
        }
    }
}
