//! Slopes that go back through a network for a part of the data at a time, independently for each row:
//! normalizations use their running averages and nothing is dropped, as in evaluation ([`Mode::Frozen`]).

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::likelihood::Slopes;
use crate::arena::zeros;
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::layer::Power;
use crate::loss::Targets;
use crate::model::{Model, Parts, check_output};
use crate::pass::{Pass, WeightTask};
use crate::plan::{Mode, Plan};
use crate::threads;
use crate::view::MatRef;
use crate::workspace::Workspace;

/// Rows that go through the network together. Sums over them are in the model's precision; sums over such
/// chunks in double precision.
pub const CHUNK: usize = 512;

/// Goes forward once, and then backward for each of the slopes.
pub struct Sweep<T: Element> {
    slopes: Slopes,
    workspace: Option<Workspace<T>>,
    /// A slope with respect to the outputs of the current rows.
    slope: Vec<T>,
    /// The first of the current rows.
    start: usize,
}

impl<T: Element> Sweep<T> {
    /// Without rows yet.
    pub fn new(slopes: Slopes) -> Self {
        Sweep { slopes, workspace: None, slope: Vec::new(), start: 0 }
    }

    /// How many slopes each row has.
    pub fn count(&self) -> usize {
        self.slopes.count()
    }

    /// What the passes left, after [`forward`](Self::forward).
    pub fn workspace(&mut self) -> &mut Workspace<T> {
        self.workspace.as_mut().expect("rows went forward")
    }

    /// Takes some rows of the data forward; returns whether they are in a new workspace. The data must have
    /// passed [`Network::check_input`](crate::network::Network::check_input), once: it looks at all rows.
    ///
    /// # Errors
    /// If something is not finite.
    pub fn forward(
        &mut self,
        model: &mut Model<T>,
        x: Samples<'_, T>,
        rows: Range<usize>,
    ) -> Result<bool, Error> {
        let (isa, len) = (model.isa(), rows.len());
        let outputs = model.network().outputs();
        let new = self.workspace.as_ref().is_none_or(|w| !w.serves(model.network(), Mode::Frozen, len));
        if new {
            let plan = Plan::new::<T>(model.network(), Mode::Frozen, len, isa, threads::num_threads().0);
            self.workspace = Some(Workspace::new(model.network(), plan)?);
            self.slope = zeros("slopes of the outputs", len * outputs)?;
        }
        self.start = rows.start;
        let workspace = self.workspace.as_mut().expect("made");
        let Parts { network, params, averages, .. } = model.still_parts();
        let mut pass = Pass {
            keep_input: true,
            ..Pass::new(network, workspace, params.lend(), averages, Some(x), Rows::From(rows.start))
        };
        pass.run();
        if pass.stopped.load(Ordering::Relaxed) {
            x.check_finite("x", isa)?;
        }
        let last = workspace.layout.stages[workspace.layout.stages.len() - 1].output;
        let output = &workspace.values[last..last + len * outputs];
        check_output(isa, output, outputs)?;
        self.slopes.begin(MatRef::new(output, len, outputs));
        Ok(new)
    }

    /// Takes the k-th slope of the current rows, times a factor for each of them, back to every stage. Targets
    /// are those of all rows of the data; `power` is what normalizations apply before they sum.
    pub fn backward(
        &mut self,
        model: &mut Model<T>,
        k: usize,
        factor: impl Fn(usize) -> f64,
        y: Option<&Targets<'_, T>>,
        power: Power,
    ) {
        let Parts { network, params, averages, .. } = model.parts();
        let (len, outputs) = (self.slope.len() / network.outputs(), network.outputs());
        self.slopes.write(k, factor, self.start, y, &mut self.slope, outputs);
        let workspace = self.workspace.as_mut().expect("rows went forward");
        let mut pass = Pass {
            power,
            packed: k > 0,
            check_finite: false,
            output_gradient: Some(MatRef::new(&self.slope, len, outputs)),
            ..Pass::new(network, workspace, params.lend(), averages, None, Rows::From(0))
        };
        pass.run();
    }

    /// Gradients of what is now in the workspace.
    pub fn weights(&mut self, model: &mut Model<T>, task: WeightTask<'_, T>) {
        debug_assert!(task.update.is_none(), "parameters that are lent keep their stamp");
        let Parts { network, params, averages, .. } = model.parts();
        let workspace = self.workspace.as_mut().expect("rows went forward");
        let mut pass = Pass {
            check_finite: false,
            weights: Some(task),
            ..Pass::new(network, workspace, params.lend(), averages, None, Rows::From(0))
        };
        pass.run();
    }
}
