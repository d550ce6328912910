//! What a pass does for layers that encode their input: Fourier features, scales, and categories.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Local, Pass};
use crate::arena::padded;
use crate::element::Element;
use crate::layer::fourier;
use crate::layer::standardize::Scales;
use crate::network::Encoder;
use crate::plan::TableItem;
use crate::view::{MatMut, MatRef};

impl<T: Element> Pass<'_, T> {
    /// y from x.
    pub(super) fn encode(&self, encoder: usize, x: MatRef<'_, T>, mut y: MatMut<'_, T>) {
        match &self.network.encoders()[encoder] {
            Encoder::Fourier { layer, start, .. } => {
                let frequencies = &self.averages[*start..start + layer.inputs * layer.count()];
                fourier::forward(self.plan.isa, x, frequencies, y);
            }
            Encoder::Standardize { layer, starts } => {
                Scales::of(layer, *starts, self.averages).forward(self.plan.isa, x, y);
            }
            Encoder::Tabular { layer, starts, .. } => {
                let table = |k: usize| {
                    let category = &layer.categories[k];
                    let range = starts[k]..starts[k] + category.codes * category.dim;
                    // SAFETY: parameters are written only in the pass's last phase (weights or update), and
                    // this is another.
                    unsafe { self.params.slice(range) }
                };
                for r in 0..x.rows() {
                    layer.forward(x.row(r), y.row_mut(r), table);
                }
            }
        }
    }

    /// dx ← dx + its gradient. Codes have none.
    pub(super) fn decode(
        &self,
        index: usize,
        (rows, local): (&Range<usize>, &Local),
        delta: MatRef<'_, T>,
        into: &mut MatMut<'_, T>,
    ) {
        let stage = &self.network.stages()[index];
        match &self.network.encoders()[stage.encoder.expect("of an encoder")] {
            Encoder::Fourier { layer, start, .. } => {
                let frequencies = &self.averages[*start..start + layer.inputs * layer.count()];
                let y = self.rows_ref(self.layout.stages[index].output, local, stage.outputs);
                fourier::backward(self.plan.isa, y, delta, frequencies, into.reborrow());
            }
            Encoder::Standardize { layer, starts } => {
                let scales = Scales::of(layer, *starts, self.averages);
                scales.slope(self.plan.isa, delta, into.reborrow(), true);
            }
            Encoder::Tabular { layer, .. } => {
                let x = self.stage_input(index, rows, local);
                for r in 0..delta.rows() {
                    layer.backward(x.row(r), delta.row(r), into.row_mut(r));
                }
            }
        }
    }

    /// Gradients and update of a part of a table: for each code, sums over its rows, in their order.
    pub(super) fn table(&self, item: &TableItem, worker: usize) {
        let Some(task) = self.weights else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let TableItem { category: k, first, ref codes } = *item;
        let Some(Encoder::Tabular { layer, starts, .. }) = self.network.encoders().first() else { return };
        let (category, start) = (layer.categories[k], starts[k]);
        if !task.wants(start) {
            return;
        }
        // The codes of a panel lie together.
        let base = codes.start * category.dim;
        let range = start + base..start + codes.end * category.dim;
        let grads = match task.update {
            // SAFETY: the thread's own scratch, to which this item has no other reference.
            Some(_) => unsafe { &mut self.scratch(worker)[padded::<T>(self.plan.scratch)..][..range.len()] },
            // SAFETY: this part of the table belongs to this item alone.
            None => unsafe { task.grads.slice_mut(range.clone()) },
        };
        if task.update.is_some() || !task.accumulate {
            grads.fill(T::ZERO);
        }
        let rows = 0..self.plan.rows;
        let local = self.local(&rows, 0);
        let x = self.stage_input(0, &rows, &local);
        let outputs = self.network.stages()[0].outputs;
        let delta = self.rows_ref(self.layout.stages[0].delta, &local, outputs);
        for r in 0..x.rows() {
            let Some(code) = category.code(x.at(r, category.column).to_f64()) else { continue };
            if codes.contains(&code) {
                for (j, dy) in delta.row(r)[first..first + category.dim].iter().enumerate() {
                    grads[category.place(code, j) - base] += *dy;
                }
            }
        }
        self.complete(&task, range, grads);
    }
}
