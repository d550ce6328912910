//! What a pass does for normalizations: sums over groups of rows while rows go through, what comes from
//! them for all rows, and the update of scale and shift.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Local, Pass};
use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::layer::Activation;
use crate::layer::batch_norm::{self, GROUP};
use crate::plan::{Columns, RowStep};
use crate::simd::{Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

impl<'a, T: Element> Pass<'a, T> {
    /// Where what is known of some columns of a stage's normalization lies.
    pub(super) fn known(&self, index: usize, cols: Range<usize>) -> batch_norm::Columns<Range<usize>> {
        let (start, n) = (self.layout.stages[index].columns, self.network.stages()[index].outputs);
        batch_norm::Columns::from_fn(|i| start + i * n + cols.start..start + i * n + cols.end)
    }

    /// The same for all columns, to read.
    pub(super) fn known_ref(&self, index: usize) -> batch_norm::Columns<&'a [T]> {
        let all = self.known(index, 0..self.network.stages()[index].outputs);
        // SAFETY: columns are written in phases of their own.
        all.map(|range| unsafe { self.values.slice(range) })
    }

    /// What a normalization must know of all rows, for one panel of its columns.
    pub(super) fn columns(&self, index: usize, what: Columns, item: usize) {
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[index];
        let norm = stage.norm.expect("columns are of normalizations");
        let cols = item * PANEL..stage.outputs.min((item + 1) * PANEL);
        // SAFETY: the item's own columns.
        let mut to = self.known(index, cols.clone()).map(|range| unsafe { self.values.slice_mut(range) });
        // SAFETY: parameters are written in the last phase of weights only.
        let affine = norm.affine.map(|(gamma, beta)| unsafe {
            let part = |start: usize| self.params.slice(start + cols.start..start + cols.end);
            (part(gamma), part(beta))
        });
        if what == Columns::Averages {
            let part = |start: usize| &self.averages[start + cols.start..start + cols.end];
            to.mean.copy_from_slice(part(norm.running.0));
            let variance = part(norm.running.1);
            for (j, variance) in variance.iter().enumerate() {
                batch_norm::constants(&norm.layer, affine, &mut to, j, variance.to_f64());
            }
            return;
        }
        let rows = self.plan.rows;
        let groups = |g: usize| {
            let (first, second) = self.groups(index, g);
            // SAFETY: written while rows went through.
            let part =
                |r: Range<usize>| unsafe { self.values.slice(r.start + cols.start..r.start + cols.end) };
            (part(first), part(second))
        };
        match what {
            Columns::Statistics => {
                batch_norm::statistics(&norm.layer, rows, groups, affine, &mut to);
                // An infinite variance would make all of its column 0, and hide itself from the loss.
                if !to.mean.iter().chain(&*to.unbiased).all(|x| x.is_finite()) {
                    self.stopped.store(true, Ordering::Relaxed);
                }
            }
            _ => batch_norm::gradients(rows.div_ceil(GROUP), groups, &mut to),
        }
    }

    /// Where the two sums of a group of rows lie.
    pub(super) fn groups(&self, index: usize, g: usize) -> (Range<usize>, Range<usize>) {
        let n = self.network.stages()[index].outputs;
        let start = self.layout.stages[index].groups + g * 2 * n;
        (start..start + n, start + n..start + 2 * n)
    }

    /// Sums over each group of a block's rows, for the statistics or the gradients of a normalization.
    pub(super) fn sum_groups(&self, step: RowStep, index: usize, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let of = self.known_ref(index);
        for from in (local.rows.start..local.rows.end).step_by(GROUP) {
            let group = Local { rows: from..local.rows.end.min(from + GROUP), wave: local.wave };
            let (first, second) = self.groups(index, from / GROUP);
            // SAFETY: the group is this block's alone.
            let into = unsafe { (self.values.slice_mut(first), self.values.slice_mut(second)) };
            let z = self.rows_ref(slots.before_norm.expect("kept while training"), &group, stage.outputs);
            let du = match step {
                RowStep::Collect(_) => Some(self.rows_ref(slots.delta, &group, stage.outputs)),
                _ => None,
            };
            dispatch(self.plan.isa, GroupSums { z, du, of: &of, into });
        }
    }

    /// The normalization of a block and the activation behind it.
    pub(super) fn normalize(&self, index: usize, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let z = self.rows_ref(slots.before_norm.expect("kept while training"), local, stage.outputs);
        let u = self.rows_mut(slots.output, local, stage.outputs);
        let saved = slots.saved.map(|start| self.rows_mut(start, local, stage.outputs));
        self.normalize_rows(index, Some(z), u, saved);
    }

    /// The same from `z`, or for rows in their place.
    pub(super) fn normalize_rows(
        &self,
        index: usize,
        z: Option<MatRef<'_, T>>,
        u: MatMut<'_, T>,
        saved: Option<MatMut<'_, T>>,
    ) {
        let stage = &self.network.stages()[index];
        let of = self.known_ref(index);
        dispatch(self.plan.isa, Normalize { of: &of, act: stage.act, z, u, saved });
    }

    /// A block's gradient through a normalization, in its place.
    pub(super) fn denormalize(&self, index: usize, local: &Local) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages[index]);
        let z = self.rows_ref(slots.before_norm.expect("kept while training"), local, stage.outputs);
        let du = self.rows_mut(slots.delta, local, stage.outputs);
        let of = self.known_ref(index);
        dispatch(self.plan.isa, Denormalize { of: &of, z, du, n: self.plan.rows });
    }

    /// Gradient and update of a normalization's scale and shift.
    pub(super) fn norm(&self, index: usize) {
        let Some(task) = self.weights else { return };
        if self.stopped.load(Ordering::Relaxed) {
            return;
        }
        let stage = &self.network.stages()[index];
        let Some((gamma, beta)) = stage.norm.and_then(|n| n.affine) else { return };
        let of = self.known_ref(index);
        for (start, sums) in [(gamma, of.scale_grad), (beta, of.shift_grad)] {
            let range = start..start + sums.len();
            if task.update.is_some() {
                self.update(&task, range, sums);
                continue;
            }
            if !task.wants(start) {
                continue;
            }
            // SAFETY: the parameters of this item.
            let grads = unsafe { task.grads.slice_mut(range) };
            for (grad, sum) in grads.iter_mut().zip(sums) {
                *grad = if task.accumulate { *grad + *sum } else { *sum };
            }
            task.note_size(self.plan.isa, grads);
        }
    }
}

/// [`batch_norm::group_statistics`], or with du [`batch_norm::group_gradients`].
struct GroupSums<'c, 'k, T> {
    z: MatRef<'c, T>,
    du: Option<MatRef<'c, T>>,
    of: &'c batch_norm::Columns<&'k [T]>,
    into: (&'c mut [T], &'c mut [T]),
}

impl<T: Element> Op<T> for GroupSums<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let (first, second) = self.into;
        match self.du {
            None => batch_norm::group_statistics(s, self.z, first, second),
            Some(du) => batch_norm::group_gradients(s, du, self.z, self.of, first, second),
        }
    }
}

/// [`batch_norm::forward`] of rows in their place, and an activation.
struct Normalize<'c, 'k, T> {
    of: &'c batch_norm::Columns<&'k [T]>,
    act: Activation,
    z: Option<MatRef<'c, T>>,
    u: MatMut<'c, T>,
    saved: Option<MatMut<'c, T>>,
}

impl<T: Element> Op<T> for Normalize<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        for r in 0..self.u.rows() {
            let row = self.u.row_mut(r);
            if let Some(z) = self.z {
                row.copy_from_slice(z.row(r));
            }
            batch_norm::forward(s, row, self.of);
            self.act.forward(s, row, self.saved.as_mut().map(|saved| saved.row_mut(r)));
        }
    }
}

/// [`batch_norm::backward`] of rows.
struct Denormalize<'c, 'k, T> {
    of: &'c batch_norm::Columns<&'k [T]>,
    z: MatRef<'c, T>,
    du: MatMut<'c, T>,
    n: usize,
}

impl<T: Element> Op<T> for Denormalize<'_, '_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(mut self, s: S) {
        for r in 0..self.z.rows() {
            batch_norm::backward(s, self.du.row_mut(r), self.z.row(r), self.of, self.n);
        }
    }
}
