//! Compares gradients by backpropagation with central differences.

use std::ops::Range;
use std::sync::Mutex;

use crate::arena::Buffer;
use crate::data::Rows;
use crate::diff::Replay;
use crate::error::Error;
use crate::loss::{self, Goals, Objective, RowLoss, Targets, Totals};
use crate::model::{Model, Parts};
use crate::network::Network;
use crate::parallel;
use crate::pass::{LossTask, Pass, WeightTask};
use crate::plan::{Mode, Plan};
use crate::simd::Isa;
use crate::threads;
use crate::train::Tally;
use crate::view::MatRef;
use crate::workspace::Workspace;

/// The result of checking one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// ∂loss/∂θ by backpropagation.
    pub analytic: f64,
    /// (loss(θ + h) − loss(θ − h)) / 2h, with the step as it was actually taken.
    pub numeric: f64,
    /// Whether an activation with a kink is on different sides of it at θ + h and θ − h, so that the
    /// difference says nothing.
    pub crossed: bool,
}

/// A loss that the core does not know: returns its value for some outputs and, if given a place for it,
/// writes its gradient.
pub type Function<'f> = dyn FnMut(MatRef<'_, f64>, Option<&mut [f64]>) -> f64 + 'f;

/// Where the loss comes from.
pub enum Source<'s, 'f> {
    /// An objective with these targets.
    Goals(&'s Objective<f64>, Goals<'s, f64>),
    /// A function of the outputs.
    Function(&'s mut Function<'f>),
}

/// Parameters that a thread checks at a time.
const PIECE: usize = 16;

/// A check in progress: the loss of a model on a batch, as a function of its parameters.
pub struct Check {
    workspace: Workspace<f64>,
    grads: Buffer<f64>,
    /// Arena index by public index.
    places: Vec<usize>,
    /// Between which of its kinks each activation was in the last pass, for each output.
    pattern: Vec<u8>,
    /// The same at the parameters themselves.
    home: Vec<u8>,
    /// For every thread, what runs the network with one parameter changed.
    replays: Vec<Replay<f64>>,
}

impl Check {
    /// Computes the gradient by backpropagation. The model's own gradients are left unchanged.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, or something is not finite.
    pub fn new(
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        source: &mut Source<'_, '_>,
    ) -> Result<Self, Error> {
        model.network().check_input(x.into())?;
        if let Source::Goals(objective, goals) = source {
            objective.check(goals, x.rows(), model.network().outputs())?;
        }
        model.network().check_training_rows(x.rows())?;
        let mode = Mode::Apart;
        let plan = Plan::new::<f64>(model.network(), mode, x.rows(), model.isa(), threads::num_threads().0);
        let workspace = Workspace::new(model.network(), plan)?;
        let mut places = vec![0; model.network().num_parameters()];
        model.network().translate(|public, inner| places[public] = inner);
        let grads = Buffer::zeroed("the gradients", model.network().arena_len())?;
        let (pattern, home, replays) = (Vec::new(), Vec::new(), Vec::new());
        let mut check = Check { workspace, grads, places, pattern, home, replays };
        let value = check.pass(model, x, source, true);
        check.home.clone_from(&check.pattern);
        if !value.is_finite() {
            return Err(Error::Mismatch(format!(
                "the loss is {value} at these parameters, so its gradient cannot be checked: use parameters and \
                 data for which it is finite"
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

    /// Checks some parameters, by public index, with the step h·max(1, |θ|). Parameters, data, source and
    /// everything else must be as in [`new`](Self::new). Losses come from a [`Replay`], a forward pass other than the
    /// one whose gradient is checked.
    ///
    /// # Errors
    /// If there is not enough memory.
    ///
    /// # Panics
    /// If the batch has a different number of rows than in [`new`](Self::new), or there is no such parameter.
    pub fn run(
        &mut self,
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        source: &mut Source<'_, '_>,
        h: f64,
        range: Range<usize>,
    ) -> Result<Vec<Difference>, Error> {
        // A function from outside runs on the caller only.
        let threads = if let Source::Goals(..) = source { threads::num_threads().0 } else { 1 };
        while self.replays.len() < threads {
            self.replays.push(Replay::new(model, x)?);
        }
        let Check { replays, grads, places, .. } = self;
        let network = model.network();
        let one = |replay: &mut Replay<f64>, source: &mut Source<'_, '_>, public: usize| {
            let place = places[public];
            let theta = model.params[place];
            let step = h * theta.abs().max(1.0);
            let (above, below) = (theta + step, theta - step);
            let mut value = |at: f64| {
                let stages = replay.run(network, place, at);
                replayed(network, model.isa(), replay, source, stages)
            };
            let ((up, pattern), (down, other)) = (value(above), value(below));
            Difference {
                analytic: grads[place],
                numeric: (up - down) / (above - below),
                crossed: pattern != other,
            }
        };
        let Source::Goals(objective, goals) = *source else {
            return Ok(range.map(|public| one(&mut replays[0], source, public)).collect());
        };
        let from: Vec<_> = range.clone().step_by(PIECE).collect();
        let mut pieces: Vec<_> = from.iter().map(|from| (*from, Vec::new())).collect();
        // Replays are interchangeable.
        let idle = Mutex::new(replays.iter_mut().collect::<Vec<_>>());
        let lock = || idle.lock().expect("nothing panics with it");
        parallel::pieces(&mut pieces, threads, |(from, found)| {
            let replay = lock().pop().expect("one for each thread");
            let all = *from..range.end.min(*from + PIECE);
            *found = all.map(|public| one(replay, &mut Source::Goals(objective, goals), public)).collect();
            lock().push(replay);
        });
        Ok(pieces.into_iter().flat_map(|(_, found)| found).collect())
    }

    /// The gradient by backpropagation, in public order.
    pub fn gradient(&self) -> Vec<f64> {
        self.places.iter().map(|&place| self.grads[place]).collect()
    }

    /// The loss at θ + s·v for each step s, and whether an activation is on a different side of a kink there
    /// than at θ. `direction` is v, for the parameters from public index `start` on. The model is left
    /// unchanged.
    ///
    /// # Panics
    /// As for [`run`](Self::run).
    pub fn along(
        &mut self,
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        source: &mut Source<'_, '_>,
        start: usize,
        direction: &[f64],
        steps: &[f64],
    ) -> Vec<(f64, bool)> {
        let places = self.places[start..start + direction.len()].to_vec();
        let theta: Vec<f64> = places.iter().map(|&place| model.params[place]).collect();
        let found = steps
            .iter()
            .map(|step| {
                for ((&place, at), v) in places.iter().zip(&theta).zip(direction) {
                    model.params[place] = at + step * v;
                }
                let value = self.pass(model, x, source, false);
                (value, self.pattern != self.home)
            })
            .collect();
        for (&place, at) in places.iter().zip(&theta) {
            model.params[place] = *at;
        }
        found
    }

    /// Computes the loss and, with `gradient`, its gradient.
    fn pass(
        &mut self,
        model: &mut Model<f64>,
        x: MatRef<'_, f64>,
        source: &mut Source<'_, '_>,
        gradient: bool,
    ) -> f64 {
        let draw = model.draw; // the same for all passes: the same elements are dropped
        let Parts { network, params, averages, .. } = model.parts();
        let weights = WeightTask::gradients(self.grads.share());
        let (rows, outputs) = (x.rows(), network.outputs());
        let mut totals = Totals::default();
        let task = match source {
            Source::Goals(objective, goals) => {
                totals = objective.totals(goals, |r| r, rows, outputs, true);
                let scale = objective.scale(totals);
                Some(LossTask { objective, goals: *goals, scale, backward: gradient })
            }
            Source::Function(_) => None,
        };
        let weights = gradient.then_some(weights);
        let mut pass = Pass {
            draw,
            check_finite: false,
            keep_input: task.is_none(), // a second pass goes backward
            loss: task,
            weights: weights.filter(|_| task.is_some()),
            ..Pass::new(network, &mut self.workspace, params.share(), averages, Some(x.into()), Rows::From(0))
        };
        pass.run();

        let Workspace { layout, values, losses, .. } = &self.workspace;
        let last = layout.stages[layout.stages.len() - 1].output;
        let output = MatRef::new(&values[last..last + rows * outputs], rows, outputs);
        self.pattern.clear();
        for (stage, slots) in network.stages().iter().zip(&layout.stages) {
            let output = &values[slots.output..slots.output + rows * stage.outputs];
            self.pattern.extend(output.iter().filter_map(|y| stage.act.piece(*y)));
        }
        match source {
            Source::Goals(objective, Goals { targets, .. }) => {
                if let Targets::Values(y) = targets {
                    (0..rows).for_each(|r| objective.sides(output.row(r), y.row(r), &mut self.pattern));
                }
                Tally::new(objective.reduction, losses, totals).value()
            }
            Source::Function(f) if !gradient => f(output, None),
            Source::Function(f) => {
                let mut slope = vec![0.0; rows * outputs];
                let value = f(output, Some(&mut slope));
                let mut pass = Pass {
                    check_finite: false,
                    output_gradient: Some(MatRef::new(&slope, rows, outputs)),
                    weights,
                    ..Pass::new(network, &mut self.workspace, params.share(), averages, None, Rows::From(0))
                };
                pass.run();
                value
            }
        }
    }
}

/// The loss of a replay's result, and the pattern of what may have changed: the outputs of some stages.
fn replayed(
    network: &Network,
    isa: Isa,
    replay: &Replay<f64>,
    source: &mut Source<'_, '_>,
    stages: Range<usize>,
) -> (f64, Vec<u8>) {
    let (last, n) = (network.stages().len() - 1, network.outputs());
    let mut pattern = Vec::new();
    for index in stages {
        let act = network.stages()[index].act;
        if act.piece(0.0).is_some() {
            let outputs = replay.outputs(index).flatten();
            pattern.extend(outputs.filter_map(|y| act.piece(*y)));
        }
    }
    let outputs: Vec<f64> = replay.outputs(last).flatten().copied().collect();
    let output = MatRef::new(&outputs, outputs.len() / n, n);
    let value = match source {
        Source::Function(f) => f(output, None),
        Source::Goals(objective, goals) => {
            if let Targets::Values(y) = goals.targets {
                (0..output.rows()).for_each(|r| objective.sides(output.row(r), y.row(r), &mut pattern));
            }
            let totals = objective.totals(goals, |r| r, output.rows(), n, true);
            let rows = loss::Rows { output, goals: *goals, chosen: Rows::From(0), scale: 1.0 };
            let mut losses = vec![RowLoss::default(); output.rows()];
            objective.rows(isa, &rows, None, &mut losses);
            Tally::new(objective.reduction, &losses, totals).value()
        }
    };
    (value, pattern)
}
