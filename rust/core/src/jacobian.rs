//! Derivatives of a small network's outputs with respect to its parameters: forward for one row of x after
//! another, and back from each output, or once with slopes of the outputs. For methods that need more of a
//! batch than the sum of its gradients.

use std::sync::atomic::Ordering;

use crate::arena::{Buffer, Shared};
use crate::data::{Rows, Samples};
use crate::diff::too_large;
use crate::element::Element;
use crate::error::Error;
use crate::layer::Activation;
use crate::model::{Model, Parts, check_output};
use crate::network::Network;
use crate::parallel;
use crate::pass::{Pass, WeightTask};
use crate::plan::{Mode, Plan};
use crate::simd::{Isa, all_finite};
use crate::threads;
use crate::view::MatRef;
use crate::workspace::Workspace;

/// Derivatives from which another thread pays.
const LEAST_PER_THREAD: usize = 16 * 1024;

impl<T: Element> Model<T> {
    /// Writes the outputs, rows × outputs, and their derivatives with respect to the parameters, (rows ·
    /// outputs) × parameters in public order. Gradients are left unchanged.
    ///
    /// In training, layers whose outputs do not depend on a single row only are refused: `BatchNorm1d`,
    /// `Dropout`. Otherwise, they are as in evaluation.
    ///
    /// # Errors
    /// If the input has another width, NaN or infinity, there is such a layer, an output or a derivative in
    /// evaluation is not finite, or there is not enough memory.
    ///
    /// # Panics
    /// If `output` or `jacobian` has another length.
    pub fn jacobian<'s>(
        &mut self,
        x: impl Into<Samples<'s, T>>,
        training: bool,
        output: &mut [T],
        jacobian: &mut [T],
    ) -> Result<(), Error> {
        self.differentiate_rows(x.into(), training, Backs::Units, output, jacobian)
    }

    /// Writes the outputs, rows × outputs, and for each row of x its products of the given slopes, rows ×
    /// outputs, with their derivatives, rows × parameters in public order: the gradients of single rows.
    /// Layers are as in evaluation.
    ///
    /// # Errors
    /// As for [`jacobian`](Self::jacobian), or if the slopes have another shape.
    ///
    /// # Panics
    /// If `output` or `gradients` has another length.
    pub fn row_gradients<'s>(
        &mut self,
        x: impl Into<Samples<'s, T>>,
        slopes: MatRef<'_, T>,
        output: &mut [T],
        gradients: &mut [T],
    ) -> Result<(), Error> {
        self.differentiate_rows(x.into(), false, Backs::Slopes(slopes), output, gradients)
    }

    /// Does either, by parts of the rows on several threads.
    fn differentiate_rows(
        &mut self,
        x: Samples<'_, T>,
        training: bool,
        backs: Backs<'_, T>,
        output: &mut [T],
        derivatives: &mut [T],
    ) -> Result<(), Error> {
        self.network().check_input(x)?;
        x.check_finite("x", self.isa())?;
        let drops = |act: &Activation| matches!(act, Activation::Dropout(_));
        let random = self.network().stages().iter().any(|s| drops(&s.act));
        if training && (self.network().couples_rows() || random) {
            let text = "a network with BatchNorm1d or Dropout has no derivatives for single rows in training, \
                        which this optimizer or method needs: leave these layers out, or use another";
            return Err(Error::Unsupported(text.into()));
        }
        let (rows, outputs, size) = (x.rows(), self.network().outputs(), self.network().num_parameters());
        let each = match backs {
            Backs::Units => outputs,
            Backs::Slopes(slopes) if (slopes.rows(), slopes.cols()) != (rows, outputs) => {
                let found = (slopes.rows(), slopes.cols());
                return Err(Error::GradientShape { found, expected: (rows, outputs) });
            }
            Backs::Slopes(_) => 1,
        };
        assert_eq!((output.len(), derivatives.len()), (rows * outputs, rows * each * size));
        let isa = self.isa();
        let mode = if training { Mode::Apart } else { Mode::Frozen };
        let Parts { network, params, averages, .. } = self.still_parts();
        let (params, averages) = (params.lend(), &averages[..]);

        let threads = threads::num_threads().0.min(derivatives.len() / LEAST_PER_THREAD).max(1);
        let part_rows = rows.div_ceil(threads).max(1);
        let mut parts = Vec::with_capacity(threads);
        let (mut outputs_left, mut derivatives_left) = (&mut *output, &mut *derivatives);
        for first in (0..rows).step_by(part_rows) {
            let count = part_rows.min(rows - first);
            let workspace = Workspace::new(network, Plan::new::<T>(network, mode, 1, isa, 1))?;
            parts.push(Part {
                first,
                output: outputs_left.split_off_mut(..count * outputs).expect("it is as long as all parts"),
                derivatives: derivatives_left.split_off_mut(..count * each * size).expect("so is this"),
                workspace,
                grads: Buffer::zeroed("gradients of a row", network.arena_len())?,
            });
        }
        parallel::pieces(&mut parts, threads, |part| part.fill(network, isa, params, averages, x, backs));
        if !training {
            check_output(isa, output, outputs)?;
            if !all_finite(isa, derivatives) {
                let of_loss = matches!(backs, Backs::Slopes(_));
                return Err(too_large(if of_loss { "the gradient of a sample" } else { "the Jacobian" }));
            }
        }
        Ok(())
    }
}

/// What goes back from the outputs of a row.
#[derive(Clone, Copy)]
enum Backs<'a, T> {
    /// 1 from each of them, one after another.
    Units,
    /// Its own slopes.
    Slopes(MatRef<'a, T>),
}

/// Rows that one thread processes, one after another.
struct Part<'a, T: Element> {
    first: usize,
    output: &'a mut [T],
    derivatives: &'a mut [T],
    workspace: Workspace<T>,
    grads: Buffer<T>,
}

impl<T: Element> Part<'_, T> {
    fn fill(
        &mut self,
        network: &Network,
        isa: Isa,
        params: Shared<'_, T>,
        averages: &[T],
        x: Samples<'_, T>,
        backs: Backs<'_, T>,
    ) {
        let outputs = network.outputs();
        let mut unit = vec![T::ZERO; outputs];
        let mut rows = self.derivatives.chunks_exact_mut(network.num_parameters().max(1));
        for (r, into) in self.output.chunks_exact_mut(outputs).enumerate() {
            let workspace = &mut self.workspace;
            let mut forward = Pass {
                keep_input: true,
                check_finite: false,
                ..Pass::new(network, workspace, params, averages, Some(x), Rows::From(self.first + r))
            };
            forward.run();
            debug_assert!(!forward.stopped.load(Ordering::Relaxed));
            let last = workspace.layout.stages[workspace.layout.stages.len() - 1].output;
            into.copy_from_slice(&workspace.values[last..last + outputs]);
            let count = if matches!(backs, Backs::Units) { outputs } else { 1 };
            for k in 0..count {
                let slopes = match backs {
                    Backs::Units => {
                        unit.fill(T::ZERO);
                        unit[k] = T::ONE;
                        &unit
                    }
                    Backs::Slopes(slopes) => slopes.row(self.first + r),
                };
                let mut backward = Pass {
                    check_finite: false,
                    output_gradient: Some(MatRef::new(slopes, 1, outputs)),
                    packed: r + k > 0, // parameters are the same for all rows
                    weights: Some(WeightTask::gradients(self.grads.share())),
                    ..Pass::new(network, workspace, params, averages, None, Rows::From(0))
                };
                backward.run();
                if let Some(row) = rows.next() {
                    network.export(isa, &self.grads, row);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::layer::{Activation, Init, Layer, Linear};
    use crate::view::MatRef;
    use crate::{Error, Model};

    #[test]
    fn rows_add_up_to_the_gradient_of_the_backward_pass() -> Result<(), Error> {
        let linear = |inputs, outputs| {
            Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
        };
        let layers = vec![linear(3, 5), Layer::Activation(Activation::Tanh), linear(5, 2)];
        let mut model = Model::<f64>::new(layers, 1)?;
        let (rows, size) = (4, model.network().num_parameters());
        let x: Vec<f64> = (0..3 * rows).map(|i| (0.7 * i as f64).sin()).collect();
        let x = MatRef::new(&x, rows, 3);
        let (mut output, mut jacobian) = (vec![0.0; 2 * rows], vec![0.0; 2 * rows * size]);
        model.jacobian(x, true, &mut output, &mut jacobian)?;
        let mut expected = vec![0.0; 2 * rows];
        model.predict(x, &mut expected)?;
        assert!(output.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-14));
        let slope: Vec<f64> = (0..2 * rows).map(|i| (1.0 + i as f64).cos()).collect();
        model.forward(x, &mut output, true)?;
        model.backward(MatRef::new(&slope, rows, 2), None, true)?;
        let mut gradient = vec![0.0; size];
        model.gradients(&mut gradient);
        for (p, g) in gradient.iter().enumerate() {
            let sum: f64 = slope.iter().enumerate().map(|(i, s)| s * jacobian[i * size + p]).sum();
            assert!((sum - g).abs() < 1e-13, "{p}: {sum} {g}");
        }
        Ok(())
    }
}
