//! What a pass does for weights: gradients over the rows of a wave or shard, tile by tile, and updates.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Local, Pass, WeightTask};
use crate::arena::{Shared, padded};
use crate::element::Element;
use crate::gemm::pack::{LhsPanels, PANEL, offset, transpose, transpose_part};
use crate::gemm::split::{SplitPanels, split_len};
use crate::gemm::{Ahead, Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::network::Stage;
use crate::optim;
use crate::plan::TileItem;
use crate::simd::{Op, Simd, add, dispatch};
use crate::view::{MatMut, MatRef};

/// Where gradients go: into a buffer, in the order of the arena from some offset on, or into the thread's
/// scratch.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a, T> {
    into: Option<(Shared<'a, T>, usize)>,
    /// Whether they are added to what is there.
    goes_on: bool,
}

impl<'a, T: Element> Sums<'a, T> {
    /// The place for a range of the arena; `own` is the thread's scratch.
    ///
    /// # Safety
    /// Nobody else may use that range of the buffer meanwhile.
    unsafe fn place<'s>(&self, range: &Range<usize>, own: &'s mut [T]) -> &'s mut [T]
    where
        'a: 's,
    {
        match self.into {
            // SAFETY: the caller promises that nobody else uses this range.
            Some((grads, base)) => unsafe { grads.slice_mut(base + range.start..base + range.end) },
            None => &mut own[..range.len()],
        }
    }
}

impl<'a, T: Element> Pass<'a, T> {
    /// Where the gradients of a phase of weights go. Gradients that this wave completes and an update
    /// consumes stay in the thread's scratch, and so in its cache.
    pub(super) fn sums(&self, first: bool) -> Sums<'a, T> {
        let Some(task) = self.weights else { return Sums { into: None, goes_on: false } };
        let into = match task.update {
            Some(_) if self.plan.in_waves() => Some((self.values, self.layout.gradients.start)),
            Some(_) => None,
            None => Some((task.grads, 0)),
        };
        Sums { into, goes_on: task.accumulate || !first }
    }

    /// Gradients of all weights over one block of a shard's rows.
    pub(super) fn gradients(&self, rows: &Range<usize>, worker: usize) {
        let (shard, row) = (rows.start / self.plan.shard_rows(), rows.start % self.plan.shard_rows());
        let into = Some((self.values, self.shard_gradients(shard)));
        for item in &self.plan.tiles {
            self.tile(item, rows, Sums { into, goes_on: row > 0 }, false, worker);
        }
    }

    /// Where a shard's gradients start; they are laid out like the arena.
    fn shard_gradients(&self, shard: usize) -> usize {
        self.layout.gradients.start + shard * self.network.arena_len()
    }

    /// Sums the shards' gradients of a part of the parameters, and updates these.
    pub(super) fn combine(&self, item: usize, worker: usize) {
        let Some(task) = self.weights else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        // Whole cache lines, so that no two threads write to the same one.
        let part = padded::<T>(self.network.arena_len().div_ceil(self.plan.threads));
        let part = item * part..(item + 1) * part;
        // SAFETY: the thread's own scratch, to which this item has no other reference.
        let own = unsafe { &mut self.scratch(worker)[padded::<T>(self.plan.scratch)..] };
        for block in self.network.blocks().iter().filter(|b| task.wants(b.offset)) {
            let (from, to) = (part.start.max(block.offset), part.end.min(block.offset + block.len()));
            for from in (from..to).step_by(own.len()) {
                let range = from..to.min(from + own.len());
                let len = range.len();
                let (into, mut goes_on) = match task.update {
                    Some(_) => (&mut own[..len], false),
                    // SAFETY: the items' parts of the arena are disjoint, and nothing else uses its gradients
                    // in this phase.
                    None => (unsafe { task.grads.slice_mut(range.clone()) }, task.accumulate),
                };
                for shard in 0..self.plan.shards {
                    let start = self.shard_gradients(shard) + range.start;
                    // SAFETY: gradients of shards are written only while rows go through, in an earlier
                    // phase.
                    let grads = unsafe { self.values.slice(start..start + len) };
                    match goes_on {
                        true => add(self.plan.isa, into, grads),
                        false => into.copy_from_slice(grads),
                    }
                    goes_on = true;
                }
                self.complete(&task, range, into);
            }
        }
    }

    /// A tile of weights, panel by panel: the gradient over some rows and, if that completes it, the update.
    pub(super) fn tile(
        &self,
        item: &TileItem,
        rows: &Range<usize>,
        sums: Sums<'a, T>,
        complete: bool,
        worker: usize,
    ) {
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
        let all = self.local(rows, worker);
        let (m, k) = (item.rows.len(), rows.len());
        let x = self.stage_input(item.stage, rows, &all).block(0, k, item.rows.start, m);
        let parts = planned.weight.precision.parts();
        let a = self.inputs_of(item, x, &all);
        let delta = self.rows_ref(slots.delta, &all, stage.outputs);
        // SAFETY: as in `combine`.
        let scratch = unsafe { self.scratch(worker) };
        let (scratch, own) = scratch.split_at_mut(padded::<T>(self.plan.scratch));
        let (own, own_bias) = own.split_at_mut(own.len() - PANEL.min(stage.outputs));

        // With many rows, a block of rows is used for all panels before the next block is: so its part of the
        // input comes from the second-level cache.
        let depth = if parts == 0 { planned.weight.kc } else { k };
        for from in (0..k).step_by(depth) {
            let steps = depth.min(k - from);
            let last = from + steps == k;
            let init = if sums.goes_on || from > 0 { Init::Accumulate } else { Init::Zero };
            for (panel, col) in item.cols.clone().step_by(PANEL).enumerate() {
                let n = PANEL.min(stage.outputs - col);
                let start = dense.weight + offset(stage.inputs, stage.outputs, item.rows.start, col);
                let range = start..start + m * n;
                // SAFETY: this panel of the arena belongs to this item alone; in shards, the buffer is the
                // gradients of this item's shard.
                let weight =
                    unsafe { sums.place(&range, &mut own[if depth < k { panel * m * PANEL } else { 0 }..]) };
                let panel = self.slopes_of(item.stage, (col, n), delta, &all);
                let now = complete && last;
                if wanted {
                    let rows = panel.block(from, steps, 0, n);
                    if n <= self.plan.narrow && parts == 0 {
                        let x = x.block(from, steps, 0, m);
                        let (transposed, scratch) = scratch.split_at_mut(n * m);
                        self.narrow_gradient(x, rows, init, weight, transposed, scratch);
                    } else {
                        let b = match parts {
                            0 => Rhs::Plain(rows),
                            _ => {
                                let panels = self.split_panels(slots.delta_panels, stage.outputs, k, parts);
                                Rhs::Split(panels.block(col, n))
                            }
                        };
                        let (ahead, count) = self.ahead(&task, &range);
                        let gemm = Gemm {
                            a: a.steps(from, steps),
                            b,
                            c: MatMut::new(&mut *weight, m, n),
                            init,
                            epilogue: Epilogue::None,
                            ahead: &ahead[..if now { count } else { 0 }],
                        };
                        gemm.run(self.plan.isa, &planned.weight, scratch);
                    }
                    if now {
                        self.complete(&task, range.clone(), weight);
                        if task.update.is_some() {
                            self.renew(item, (col, n), range);
                        }
                    }
                }
                if let Some(bias) = dense_bias
                    && last
                {
                    self.bias(&task, bias + col..bias + col + n, panel, sums, complete, own_bias);
                }
            }
        }
    }

    /// Writes new weights, a panel of a tile, into their transpose, while they are in the cache.
    fn renew(&self, item: &TileItem, (col, n): (usize, usize), range: Range<usize>) {
        let Stage { inputs, outputs, .. } = self.network.stages()[item.stage];
        let packed = self.planned(item.stage).backward.is_some_and(|backward| !backward.pack_b);
        if !packed || !self.plan.renews_transposes() {
            return;
        }
        // SAFETY: this panel of the parameters belongs to this item, which is done with writing to it.
        let weights = unsafe { self.params.slice(range) };
        let weights = MatRef::new(weights, item.rows.len(), n);
        let whole = self.layout.stages[item.stage].transposed;
        // The panel's rows are columns of the transpose, which has panels of its own.
        let mut from = item.rows.start;
        while from < item.rows.end {
            let panel = from / PANEL * PANEL;
            let (to, width) = (item.rows.end.min(panel + PANEL), PANEL.min(inputs - panel));
            let part = weights.block(from - item.rows.start, to - from, 0, n);
            let start = whole + offset(outputs, inputs, col, from);
            let runs = (0..n).map(|p| p * width..p * width + part.rows());
            let into = self.values.ptr(start..start + (n - 1) * width + part.rows(), runs);
            // SAFETY: these parts of the transpose belong to this item alone, since its weights do, and rows,
            // which read it, go through in other phases; `Shared::ptr` checked that they are inside the range.
            unsafe { transpose_part(self.plan.isa, part, into, width) };
            from = to;
        }
    }

    /// A panel of the gradient with respect to a stage's output, over the tile's rows: taken from the copy in
    /// panels, if there is one.
    fn slopes_of(
        &self,
        index: usize,
        (col, n): (usize, usize),
        delta: MatRef<'a, T>,
        all: &Local,
    ) -> MatRef<'a, T> {
        let planned = self.planned(index);
        if !planned.pack_delta || planned.weight.precision.parts() > 0 {
            return delta.block(0, delta.rows(), col, n);
        }
        let from = all.base + self.layout.stages[index].delta_panels + col * all.wave;
        // SAFETY: written only while rows went through: in an earlier phase or, in shards, earlier in this
        // item.
        let panel = unsafe { self.values.slice(from..from + all.wave * n) };
        MatRef::new(panel, all.wave, n).block(all.rows.start, delta.rows(), 0, n)
    }

    /// The gradient of a panel's bias, the sum of the rows, and its update if the gradient is `complete`.
    fn bias(
        &self,
        task: &WeightTask<'a, T>,
        range: Range<usize>,
        rows: MatRef<'_, T>,
        sums: Sums<'a, T>,
        complete: bool,
        own: &mut [T],
    ) {
        // SAFETY: of all tiles of these columns, only the one with `item.bias` handles their bias.
        let sum = unsafe { sums.place(&range, own) };
        if !sums.goes_on {
            sum.fill(T::ZERO);
        }
        dispatch(self.plan.isa, SumRows { rows, into: &mut *sum });
        if complete {
            self.complete(task, range, sum);
        }
    }

    /// The tile's inputs, as the left operand of its gradient.
    fn inputs_of(&self, item: &TileItem, x: MatRef<'a, T>, all: &Local) -> Lhs<'a, T> {
        let (inputs, planned) = (self.network.stages()[item.stage].inputs, self.planned(item.stage));
        let (start, k, m) = (all.base + self.layout.stages[item.stage].input_panels, x.rows(), x.cols());
        match planned.weight.precision.parts() {
            0 if planned.pack_input => {
                // SAFETY: written only while rows went through: in an earlier phase or, in shards, earlier in
                // this item.
                let panels = unsafe { self.values.slice(start..start + all.wave * inputs) };
                let panels = LhsPanels::new(panels, inputs, all.wave, planned.weight.rows);
                Lhs::Panels(panels.block(item.rows.start, m)).steps(all.rows.start, k)
            }
            0 => Lhs::Plain(x.t()),
            parts => Lhs::Split(self.split_panels(start, inputs, k, parts).block(item.rows.start, m)),
        }
    }

    /// Rows split into bfloat16 parts, which have been there since the rows went through.
    fn split_panels(&self, start: usize, lanes: usize, k: usize, parts: usize) -> SplitPanels<'a, T> {
        // SAFETY: written only while rows went through, in an earlier phase: nothing is split in shards.
        let panels = unsafe { self.values.slice(start..start + split_len(lanes, k, parts)) };
        SplitPanels::new(panels, lanes, k, parts)
    }

    /// What is done with complete gradients.
    pub(super) fn complete(&self, task: &WeightTask<'a, T>, range: Range<usize>, grads: &[T]) {
        task.note_size(self.plan.isa, grads);
        self.update(task, range, grads);
    }

    /// Memory that the update of some weights will need.
    fn ahead(
        &self,
        task: &WeightTask<'a, T>,
        range: &Range<usize>,
    ) -> ([Ahead; 1 + optim::MAX_STATE], usize) {
        let mut ahead = [Ahead { start: std::ptr::null(), bytes: 0 }; 1 + optim::MAX_STATE];
        let mut count = 0;
        if let Some(state) = &task.update {
            for buffer in std::iter::once(&self.params).chain(state).filter(|b| !b.is_empty()) {
                let bytes = size_of::<T>() * range.len();
                ahead[count] = Ahead { start: buffer.ptr(range.clone(), []).cast(), bytes };
                count += 1;
            }
        }
        (ahead, count)
    }

    /// The gradient of a panel with few columns, computed as its transpose, so that vectors lie along the
    /// inputs instead of being only partly filled by the few outputs. Every element is the same chain as
    /// otherwise.
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

    /// The optimizer's step, if there is one, for some parameters of one block, which belong to the item
    /// alone.
    pub(super) fn update(&self, task: &WeightTask<'a, T>, range: Range<usize>, grads: &[T]) {
        let (Some(steps), Some(state)) = (&task.steps, &task.update) else { return };
        let Some(step) = steps.at(range.start) else { return };
        let at = range.clone();
        // SAFETY: this range belongs to the item alone, in parameters and in state, and nobody reads
        // parameters in this phase; optimizers without state share an empty buffer, of which no element is
        // lent.
        let (params, state) = unsafe {
            let state = state.map(|s| s.slice_mut_or_empty(range.clone()));
            (self.params.slice_mut(range), state)
        };
        match &task.along {
            None => step.update(self.plan.isa, params, grads, state),
            // SAFETY: likewise for the company's arrays: this range belongs to the item alone.
            Some(along) => unsafe { along.step(self.plan.isa, step, at, params, grads, state) },
        }
    }
}

/// into ← into + the sum of the rows, in their order.
struct SumRows<'r, T> {
    rows: MatRef<'r, T>,
    into: &'r mut [T],
}

impl<T: Element> Op<T> for SumRows<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { rows, into } = self;
        // Sums stay in registers: some columns over all rows, then the next columns.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn sums_of_rows_start_from_what_is_there() {
        fn check<T: Element>() {
            for isa in Isa::available() {
                for cols in 1..=3 * 16 + 1 {
                    let data: Vec<T> = (0..5 * cols).map(|i| T::lit((i as f64).sin())).collect();
                    let mut into: Vec<T> = (0..cols).map(|j| T::lit(j as f64)).collect();
                    let mut want = into.clone();
                    data.chunks(cols).for_each(|row| want.iter_mut().zip(row).for_each(|(w, x)| *w += *x));
                    dispatch(isa, SumRows { rows: MatRef::new(&data, 5, cols), into: &mut into });
                    assert_eq!(into, want, "{isa} {cols}");
                }
            }
        }
        check::<f32>();
        check::<f64>();
    }
}
