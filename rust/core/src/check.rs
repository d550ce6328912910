//! Gradients by backpropagation beside the same by central differences.

use std::ops::Range;

use crate::arena::Buffer;
use crate::error::Error;
use crate::loss::{Loss, RowLoss, Targets};
use crate::model::{Model, Parts};
use crate::pass::{LossTask, Pass, Rows, WeightTask};
use crate::plan::{Mode, Plan};
use crate::threads;
use crate::train::Trainer;
use crate::view::MatRef;
use crate::workspace::Workspace;

/// What a check of one parameter found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// ∂loss/∂θ by backpropagation.
    pub analytic: f64,
    /// (loss(θ + h) − loss(θ − h)) / 2h, with the step that was really taken.
    pub numeric: f64,
    /// Whether an activation with a kink is on another side at θ + h than at θ − h, so that the
    /// difference says nothing.
    pub crossed: bool,
}

/// A check under way: the loss of a model on a batch, as a function of its parameters.
pub struct Check {
    loss: Loss,
    workspace: Workspace<f64>,
    grads: Buffer<f64>,
    /// Arena index by public index.
    places: Vec<usize>,
    /// Between which of its kinks each activation was in the last pass.
    pattern: Vec<u8>,
}

impl Check {
    /// Computes the gradient by backpropagation. The model's own gradients are left alone.
    ///
    /// # Errors
    /// If shapes or labels do not fit, or something is not finite.
    pub fn new(
        model: &mut Model<f64>,
        loss: Loss,
        x: MatRef<'_, f64>,
        y: Targets<'_, f64>,
    ) -> Result<Self, Error> {
        Trainer::new(loss).check(model, x.into(), &y)?;
        model.network().check_training_rows(x.rows())?;
        let mode = Mode::Apart;
        let plan = Plan::new::<f64>(model.network(), mode, x.rows(), model.isa(), threads::num_threads().0);
        let workspace = Workspace::new(model.network(), plan)?;
        let mut places = vec![0; model.network().num_parameters()];
        model.network().translate(places.len(), |public, inner| places[public] = inner);
        let grads = Buffer::zeroed("the gradients", model.network().arena_len())?;
        let mut check = Check { loss, workspace, grads, places, pattern: Vec::new() };
        let value = check.pass(model, x, y, true);
        if !value.is_finite() {
            return Err(Error::Mismatch(format!(
                "the loss is {value} at these parameters: nothing can be checked"
            )));
        }
        Ok(check)
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Checks some parameters, by public index, at the step h·max(1, |θ|). The model is as before.
    ///
    /// # Panics
    /// If an index is beyond the last parameter.
    pub fn run(
        &mut self,
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        y: Targets<'_, f64>,
        h: f64,
        range: Range<usize>,
    ) -> Vec<Difference> {
        range
            .map(|public| {
                let place = self.places[public];
                let theta = model.params[place];
                let step = h * theta.abs().max(1.0);
                let (above, below) = (theta + step, theta - step);
                model.params[place] = above;
                let up = self.pass(model, x, y, false);
                let pattern = std::mem::take(&mut self.pattern);
                model.params[place] = below;
                let down = self.pass(model, x, y, false);
                model.params[place] = theta;
                Difference {
                    analytic: self.grads[place],
                    numeric: (up - down) / (above - below),
                    crossed: pattern != self.pattern,
                }
            })
            .collect()
    }

    /// The loss; with `gradient` also its gradient.
    fn pass(
        &mut self,
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        y: Targets<'_, f64>,
        gradient: bool,
    ) -> f64 {
        let draw = model.draw; // the same for all passes: what is dropped stays
        let Parts { network, params, averages, .. } = model.parts();
        let weights = WeightTask { grads: self.grads.share(), accumulate: false, size: None, update: None };
        let pass = Pass {
            draw,
            check_finite: false,
            loss: Some(LossTask { loss: self.loss, targets: y, backward: gradient }),
            weights: gradient.then_some(weights),
            ..Pass::new(network, &mut self.workspace, params.share(), averages, Some(x.into()), Rows::From(0))
        };
        threads::run(&pass, pass.plan.threads);
        let Workspace { plan, layout, values, losses } = &self.workspace;
        self.pattern.clear();
        for (stage, slots) in network.stages().iter().zip(&layout.stages) {
            let output = &values[slots.output..slots.output + plan.rows * stage.outputs];
            self.pattern.extend(output.iter().filter_map(|y| stage.act.piece(*y)));
        }
        losses.iter().map(|RowLoss { loss, .. }| loss).sum::<f64>() / plan.rows as f64
    }
}
