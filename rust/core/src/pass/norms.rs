//! What a pass does for normalizations: sums over groups of rows while rows go through, what follows from
//! these for all rows, and the update of scale and shift. A normalization over rows needs such sums only for
//! its scale and shift.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Local, Pass};
use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::layer::batch_norm::{self, GROUP};
use crate::layer::{Activation, Power, RowNorm, row_norm};
use crate::network::Over;
use crate::plan::{Columns, Mode, RowStep};
use crate::simd::{Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

impl<'a, T: Element> Pass<'a, T> {
    /// Where the known quantities of some columns of a stage's normalization lie.
    pub(super) fn known(&self, index: usize, cols: Range<usize>) -> batch_norm::Columns<Range<usize>> {
        let (start, n) = (self.layout.stages[index].columns, self.network.stages()[index].outputs);
        batch_norm::Columns::from_fn(|i| start + i * n + cols.start..start + i * n + cols.end)
    }

    /// The same for all columns, to read.
    pub(super) fn known_ref(&self, index: usize) -> batch_norm::Columns<&'a [T]> {
        let all = self.known(index, 0..self.network.stages()[index].outputs);
        // SAFETY: columns are written in phases of their own, or, without statistics of the batch, by the
        // item that calls this.
        all.map(|range| unsafe { self.values.slice(range) })
    }

    /// Computes what a normalization must know of all rows, for one panel of its columns.
    pub(super) fn columns(&self, index: usize, what: Columns, item: usize) {
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[index];
        let norm = stage.norm.expect("columns are of normalizations");
        let Over::Batch { layer, running } = norm.over else { unreachable!("a row has no columns") };
        let cols = item * PANEL..stage.outputs.min((item + 1) * PANEL);
        // SAFETY: these columns belong to this item alone.
        let mut to = self.known(index, cols.clone()).map(|range| unsafe { self.values.slice_mut(range) });
        // SAFETY: parameters are written only in the pass's last phase (weights or update), and this is
        // another.
        let part = |start: usize| unsafe { self.params.slice(start + cols.start..start + cols.end) };
        let affine = norm.scale.map(part).zip(norm.shift.map(part));
        if what == Columns::Averages {
            // A backward pass goes through what its forward pass found, whatever the averages are by now.
            if self.input.is_some() {
                let part = |start: usize| &self.averages[start + cols.start..start + cols.end];
                to.mean.copy_from_slice(part(running.0));
                for (j, variance) in part(running.1).iter().enumerate() {
                    batch_norm::constants(&layer, affine, &mut to, j, variance.to_f64());
                }
            }
            // Running averages do not depend on the rows: no gradient goes back through them.
            to.scale_grad.fill(T::ZERO);
            to.shift_grad.fill(T::ZERO);
            return;
        }
        match what {
            Columns::Statistics => {
                let (rows, groups) = (self.plan.rows, self.group_sums(index, cols));
                batch_norm::statistics(&layer, rows, groups, affine, &mut to);
                // An infinite variance would make its whole column 0, and so not show up in the loss.
                if !to.mean.iter().chain(&*to.unbiased).all(|x| x.is_finite()) {
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
            _ => self.scale_gradients(index, cols, &mut to),
        }
    }

    /// Gradients of the scale and shift of some columns, from the sums of all groups.
    fn scale_gradients(&self, index: usize, cols: Range<usize>, to: &mut batch_norm::Columns<&mut [T]>) {
        batch_norm::gradients(self.plan.rows.div_ceil(GROUP), self.group_sums(index, cols), to);
    }

    /// The two sums of a group for some columns, as a function of the group's number.
    fn group_sums(&self, index: usize, cols: Range<usize>) -> impl Fn(usize) -> (&'a [T], &'a [T]) {
        move |g| {
            let (first, second) = self.groups(index, g);
            // SAFETY: sums are written only while rows go through, in an earlier phase.
            let part =
                |r: Range<usize>| unsafe { self.values.slice(r.start + cols.start..r.start + cols.end) };
            (part(first), part(second))
        }
    }

    /// Where the two sums of a group of rows lie.
    fn groups(&self, index: usize, g: usize) -> (Range<usize>, Range<usize>) {
        let n = self.network.stages()[index].outputs;
        let start = self.layout.stages[index].groups + g * 2 * n;
        (start..start + n, start + n..start + 2 * n)
    }

    /// Sums over each group of a block's rows, for the statistics or the gradients of a normalization. Groups
    /// are counted from the start of the batch, so that waves do not matter.
    pub(super) fn sum_groups(&self, step: RowStep, index: usize, rows: &Range<usize>, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        for from in (0..rows.len()).step_by(GROUP) {
            let to = rows.len().min(from + GROUP);
            let group = Local { rows: local.rows.start + from..local.rows.start + to, ..*local };
            let (first, second) = self.groups(index, (rows.start + from) / GROUP);
            // SAFETY: blocks are whole groups, so this group belongs to this block alone.
            let into = unsafe { (self.values.slice_mut(first), self.values.slice_mut(second)) };
            let z = self.rows_ref(slots.before_norm.expect("kept while training"), &group, stage.outputs);
            let what = match (step, stage.norm.map(|n| n.over)) {
                (RowStep::Measure(_), _) => Sums::Statistics,
                (_, Some(Over::Row(_))) => {
                    Sums::RowGradients(self.delta(index, &group), self.rows_ref(slots.moments, &group, 2))
                }
                _ => Sums::BatchGradients(self.delta(index, &group), self.known_ref(index)),
            };
            dispatch(self.plan.isa, GroupSums { z, what, power: self.power, into });
        }
    }

    /// The gradient with respect to the activation's input.
    fn delta(&self, index: usize, local: &Local) -> MatRef<'a, T> {
        self.rows_ref(self.layout.stages[index].delta, local, self.network.stages()[index].outputs)
    }

    /// The normalization of a block, and the activation after it.
    pub(super) fn normalize(&self, index: usize, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let z = self.rows_ref(slots.before_norm.expect("kept while training"), local, stage.outputs);
        // SAFETY: the block's own rows, in slots that differ from each other and from that of z.
        let u = unsafe { self.rows_mut(slots.output, local, stage.outputs) };
        // SAFETY: likewise.
        let saved = slots.saved.map(|start| unsafe { self.rows_mut(start, local, stage.outputs) });
        let over_rows = stage.norm.is_some_and(|n| !n.over_batch());
        // SAFETY: likewise.
        let moments = over_rows.then(|| unsafe { self.rows_mut(slots.moments, local, 2) });
        self.normalize_rows(index, Some(z), u, saved, moments);
    }

    /// The same from `z`, or in place.
    pub(super) fn normalize_rows(
        &self,
        index: usize,
        z: Option<MatRef<'_, T>>,
        u: MatMut<'_, T>,
        saved: Option<MatMut<'_, T>>,
        moments: Option<MatMut<'_, T>>,
    ) {
        let act = self.network.stages()[index].act;
        dispatch(self.plan.isa, Normalize { of: self.formula(index), act, z, u, saved, moments });
    }

    /// A block's gradient, back through a normalization, in place.
    pub(super) fn denormalize(&self, index: usize, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let z = self.rows_ref(slots.before_norm.expect("kept while training"), local, stage.outputs);
        // SAFETY: the block's own rows; z and the moments are in other slots.
        let du = unsafe { self.rows_mut(slots.delta, local, stage.outputs) };
        let over_rows = stage.norm.is_some_and(|n| !n.over_batch());
        let moments = over_rows.then(|| self.rows_ref(slots.moments, local, 2));
        let n = self.plan.rows;
        dispatch(self.plan.isa, Denormalize { of: self.formula(index), z, du, moments, n });
    }

    /// What is needed to normalize rows.
    fn formula(&self, index: usize) -> Formula<'a, T> {
        let stage = &self.network.stages()[index];
        let norm = stage.norm.expect("asked of normalizations");
        match norm.over {
            Over::Batch { .. } => Formula::Batch(self.known_ref(index)),
            Over::Row(layer) => {
                // SAFETY: parameters are written only in the pass's last phase (weights or update), and this
                // is another.
                let part = |start: usize| unsafe { self.params.slice(start..start + stage.outputs) };
                Formula::Row(layer, norm.scale.map(part), norm.shift.map(part))
            }
        }
    }

    /// Gradient and update of a normalization's scale and shift.
    pub(super) fn norm(&self, index: usize) {
        let Some(task) = self.weights else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[index];
        let Some(norm) = stage.norm else { return };
        if !norm.over_batch() || self.plan.mode == Mode::Frozen {
            let all = 0..stage.outputs;
            // SAFETY: without statistics of the batch, gradients of these columns are taken here only, and no
            // other item of this phase uses the stage's columns.
            let mut to = self.known(index, all.clone()).map(|range| unsafe { self.values.slice_mut(range) });
            self.scale_gradients(index, all, &mut to);
        }
        let of = self.known_ref(index);
        for (start, sums) in [(norm.scale, of.scale_grad), (norm.shift, of.shift_grad)] {
            let Some(start) = start else { continue };
            let range = start..start + sums.len();
            if task.update.is_some() {
                self.update(&task, range, sums);
                continue;
            }
            if !task.wants(start) {
                continue;
            }
            // SAFETY: these parameters, and their gradients, belong to this item alone.
            let grads = unsafe { task.grads.slice_mut(range) };
            for (grad, sum) in grads.iter_mut().zip(sums) {
                *grad = if task.accumulate { *grad + *sum } else { *sum };
            }
            task.note_size(self.plan.isa, grads);
        }
    }
}

/// What normalizes rows: the known quantities of all columns, or the layer with its scale and shift.
enum Formula<'a, T> {
    Batch(batch_norm::Columns<&'a [T]>),
    Row(RowNorm, Option<&'a [T]>, Option<&'a [T]>),
}

/// What is summed over a group of rows: the rows themselves, or gradients.
enum Sums<'c, T> {
    Statistics,
    BatchGradients(MatRef<'c, T>, batch_norm::Columns<&'c [T]>),
    RowGradients(MatRef<'c, T>, MatRef<'c, T>),
}

/// Two sums over the rows of a group.
struct GroupSums<'c, T> {
    z: MatRef<'c, T>,
    what: Sums<'c, T>,
    power: Power,
    into: (&'c mut [T], &'c mut [T]),
}

impl<T: Element> Op<T> for GroupSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let (power, (first, second)) = (self.power, self.into);
        match self.what {
            Sums::Statistics => batch_norm::group_statistics(s, self.z, first, second),
            Sums::BatchGradients(du, of) => {
                batch_norm::group_gradients(s, power, du, self.z, &of, first, second);
            }
            Sums::RowGradients(du, moments) => {
                row_norm::group_gradients(s, power, du, self.z, moments, first, second);
            }
        }
    }
}

/// Rows that take one step before any takes the next. What reads the last columns of a row, or the first of
/// the row after it, soon after these columns were written with a mask, has to wait until that is done.
const AT_ONCE: usize = 8;

/// A normalization of rows in place, and an activation.
struct Normalize<'c, T> {
    of: Formula<'c, T>,
    act: Activation,
    z: Option<MatRef<'c, T>>,
    u: MatMut<'c, T>,
    saved: Option<MatMut<'c, T>>,
    moments: Option<MatMut<'c, T>>,
}

impl<T: Element> Op<T> for Normalize<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        let (rows, n) = (self.u.rows(), self.u.cols());
        for first in (0..rows).step_by(AT_ONCE) {
            let some = first..rows.min(first + AT_ONCE);
            let z = |r: usize| self.z.map(|z| z.row(r));
            match &self.of {
                Formula::Batch(of) => {
                    some.clone().for_each(|r| batch_norm::forward(s, z(r), self.u.row_mut(r), of));
                }
                Formula::Row(norm, scale, shift) => {
                    let mut all = [[T::ZERO; 2]; AT_ONCE];
                    for (r, of) in some.clone().zip(&mut all) {
                        *of = row_norm::moments(s, norm, z(r).unwrap_or(self.u.row_mut(r)));
                        if let Some(moments) = &mut self.moments {
                            moments.row_mut(r).copy_from_slice(of);
                        }
                    }
                    for (r, of) in some.clone().zip(all) {
                        row_norm::forward(s, of, z(r), self.u.row_mut(r), *scale, *shift);
                    }
                }
            }
            // While the rows are still in the first-level cache.
            let saved = self.saved.as_mut().map(|saved| saved.block(first, some.len(), 0, n));
            self.act.forward_in(s, self.u.block(first, some.len(), 0, n), saved);
        }
    }
}

/// The gradient of rows, back through their normalization.
struct Denormalize<'c, T> {
    of: Formula<'c, T>,
    z: MatRef<'c, T>,
    du: MatMut<'c, T>,
    moments: Option<MatRef<'c, T>>,
    n: usize,
}

impl<T: Element> Op<T> for Denormalize<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        let rows = self.z.rows();
        for first in (0..rows).step_by(AT_ONCE) {
            let some = first..rows.min(first + AT_ONCE);
            match (&self.of, self.moments) {
                (Formula::Batch(of), _) => {
                    some.for_each(|r| batch_norm::backward(s, self.du.row_mut(r), self.z.row(r), of, self.n));
                }
                (Formula::Row(norm, scale, _), Some(moments)) => {
                    if let Some(scale) = scale {
                        some.clone().for_each(|r| row_norm::weigh(s, self.du.row_mut(r), scale));
                    }
                    let mut all = [[T::ZERO; 2]; AT_ONCE];
                    for (r, of) in some.clone().zip(&mut all) {
                        *of = row_norm::means(s, norm, self.du.row_mut(r), self.z.row(r), moments.row(r));
                    }
                    for (r, of) in some.zip(all) {
                        row_norm::backward(s, self.du.row_mut(r), self.z.row(r), moments.row(r), of);
                    }
                }
                (Formula::Row(..), None) => unreachable!("kept while training"),
            }
        }
    }
}
