//! Rows go backward: gradients from the output to the input.

use std::ops::Range;

use super::{Local, Pass};
use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::gemm::split::Side;
use crate::gemm::{Epilogue, Gemm, Init, Lhs, Precision};
use crate::layer::Activation;
use crate::layer::skip::put;
use crate::simd::{Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

impl<'a, T: Element> Pass<'a, T> {
    /// The gradient with respect to the output, given or left by the loss, back through the last activation.
    pub(super) fn slope(&self, index: usize, rows: &Range<usize>, local: &Local) {
        let outputs = self.network.stages()[index].outputs;
        // SAFETY: the block's own rows, to which this item has no other reference here.
        let mut delta = unsafe { self.rows_mut(self.layout.stages[index].delta, local, outputs) };
        if let Some(gradient) = self.output_gradient {
            for r in 0..rows.len() {
                delta.row_mut(r).copy_from_slice(gradient.row(rows.start + r));
            }
        }
        self.through_activation(index, local, &mut delta);
    }

    /// Gradient with respect to a stage's input, times the derivative of the activation before it.
    pub(super) fn propagate(&self, index: usize, rows: &Range<usize>, local: &Local, worker: usize) {
        let (stage, slots) = (&self.network.stages()[index], &self.layout.stages);
        let delta = self.rows_ref(slots[index].delta, local, stage.outputs);
        if let Some(planned) = self.plan.stages[index]
            && planned.pack_delta
        {
            match planned.weight.precision {
                Precision::Full => self.pack_rows(delta, PANEL, slots[index].delta_panels, local),
                precision => self.split_rows(delta, Side::B, precision, slots[index].delta_panels, local),
            }
        }
        if !self.goes_beyond(index) {
            return;
        }
        let mut into = if index > 0 {
            // SAFETY: the block's own rows; the gradients that are read meanwhile are those of later stages.
            unsafe { self.rows_mut(slots[index - 1].delta, local, stage.inputs) }
        } else {
            let gradient = self.input_gradient.expect("what is in front of the first stage");
            // SAFETY: these rows of the gradient belong to this block alone.
            unsafe { gradient.mat_mut(rows.start * stage.inputs, rows.len(), stage.inputs, stage.inputs) }
        };
        // Where a block begins, the gradient that passed it by is added.
        let mut init = Init::Zero;
        for end in self.network.ends(index) {
            let along = self.rows_ref(slots[end].delta, local, self.network.stages()[end].outputs);
            put(self.plan.isa, along.block(0, rows.len(), 0, stage.inputs), &mut into, &mut init);
        }
        if stage.encoder.is_some() {
            if let Init::Zero = init {
                (0..rows.len()).for_each(|r| into.row_mut(r).fill(T::ZERO));
            }
            self.decode(index, (rows, local), delta, &mut into);
            if index > 0 {
                self.through_activation(index - 1, local, &mut into);
            }
            return;
        }
        if stage.dense.is_none() {
            let delta = delta.block(0, rows.len(), stage.front(), stage.inputs);
            put(self.plan.isa, delta, &mut into, &mut init);
            if index > 0 {
                self.through_activation(index - 1, local, &mut into);
            }
            return;
        }
        let epilogue = match index {
            0 => Epilogue::None,
            _ => {
                Epilogue::Derivative(self.network.stages()[index - 1].act, self.derivative(index - 1, local))
            }
        };
        let plan = self.planned(index).backward.expect("planned where it is needed");
        let gemm = Gemm {
            a: Lhs::Plain(delta),
            b: self.weights_for(index, false, worker),
            c: into,
            init,
            epilogue,
            ahead: &[],
        };
        // SAFETY: the thread's own scratch, to which this item has no other reference.
        gemm.run(self.plan.isa, &plan, unsafe { self.scratch(worker) });
    }

    /// What the derivative of a stage's activation is computed from.
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
}
