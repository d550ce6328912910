//! The Jacobian of a small network's outputs with respect to its parameters: forward for one row of x after
//! another, and back from each output. For methods that need more of a batch than the sum of its gradients.

use std::sync::atomic::Ordering;

use crate::arena::Buffer;
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::layer::Activation;
use crate::model::{Model, Parts};
use crate::pass::{Pass, WeightTask};
use crate::plan::{Mode, Plan};
use crate::view::MatRef;
use crate::workspace::Workspace;

impl<T: Element> Model<T> {
    /// Writes the outputs, rows × outputs, and their derivatives with respect to the parameters, (rows ·
    /// outputs) × parameters in public order. Gradients are left unchanged.
    ///
    /// # Errors
    /// If the input has another width, NaN or infinity, or the network has layers whose outputs do not depend
    /// on a single row only: `BatchNorm1d`, `Dropout`.
    ///
    /// # Panics
    /// If `output` or `jacobian` has another length.
    pub fn jacobian<'s>(
        &mut self,
        x: impl Into<Samples<'s, T>>,
        output: &mut [T],
        jacobian: &mut [T],
    ) -> Result<(), Error> {
        let x = x.into();
        self.network().check_input(x)?;
        x.check_finite("x", self.isa())?;
        let drops = |act: &Activation| matches!(act, Activation::Dropout(_));
        if self.network().couples_rows() || self.network().stages().iter().any(|s| drops(&s.act)) {
            let text = "a network with BatchNorm1d or Dropout has no derivatives for single rows in training, \
                        which this optimizer or method needs: leave these layers out, or use another";
            return Err(Error::Unsupported(text.into()));
        }
        let (outputs, size) = (self.network().outputs(), self.network().num_parameters());
        assert_eq!((output.len(), jacobian.len()), (x.rows() * outputs, x.rows() * outputs * size));
        let isa = self.isa();
        let plan = Plan::new::<T>(self.network(), Mode::Apart, 1, isa, 1);
        let mut workspace = Workspace::new(self.network(), plan)?;
        let mut grads = Buffer::zeroed("gradients of a row", self.network().arena_len())?;
        let mut unit = vec![T::ZERO; outputs];
        let Parts { network, params, averages, .. } = self.still_parts();
        let mut rows = jacobian.chunks_exact_mut(size.max(1));
        for (r, into) in output.chunks_exact_mut(outputs).enumerate() {
            let mut forward = Pass {
                keep_input: true,
                check_finite: false,
                ..Pass::new(network, &mut workspace, params.lend(), averages, Some(x), Rows::From(r))
            };
            forward.run();
            debug_assert!(!forward.stopped.load(Ordering::Relaxed));
            let last = workspace.layout.stages[workspace.layout.stages.len() - 1].output;
            into.copy_from_slice(&workspace.values[last..last + outputs]);
            for k in 0..outputs {
                unit.fill(T::ZERO);
                unit[k] = T::ONE;
                let mut backward = Pass {
                    check_finite: false,
                    output_gradient: Some(MatRef::new(&unit, 1, outputs)),
                    packed: r + k > 0, // parameters are the same for all rows
                    weights: Some(WeightTask::gradients(grads.share())),
                    ..Pass::new(network, &mut workspace, params.lend(), averages, None, Rows::From(0))
                };
                backward.run();
                if let Some(row) = rows.next() {
                    network.export(isa, &grads, row);
                }
            }
        }
        Ok(())
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
        model.jacobian(x, &mut output, &mut jacobian)?;
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
