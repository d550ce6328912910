//! What a step will run, in words, and the memory that it takes.

use std::fmt::Write;

use super::Trainer;
use crate::element::Element;
use crate::model::Model;
use crate::optim::Optimizer;
use crate::plan::{Plan, Then};
use crate::threads;
use crate::update::Clip;
use crate::workspace;

impl<T: Element> Trainer<T> {
    /// The plan of a training step on `rows` rows.
    pub fn plan(&self, model: &Model<T>, rows: usize) -> Plan {
        let threads = threads::num_threads().0;
        let target = (model.isa(), self.options.precision);
        Plan::in_precision::<T>(model.network(), self.options.mode(), rows, target, threads)
    }

    /// Describes such a step, and returns the bytes that it takes besides model, optimizer and data: the
    /// workspace of its plan, and gradients and parameters that are kept from one pass to the next.
    pub fn explain(&self, model: &Model<T>, optimizer: &Optimizer<T>, rows: usize) -> (String, usize) {
        let (network, plan) = (model.network(), self.plan(model, rows));
        let fused = self.is_fused(optimizer);
        let frozen: Vec<_> = optimizer.frozen().collect();
        let wanted = |start: usize| !frozen.iter().any(|range| range.contains(&start));
        let mut text = plan.explain(network, &Then { wanted: &wanted, fused });
        let (arena, size) = (network.arena_len(), size_of::<T>());
        let mut bytes = workspace::bytes::<T>(network, &plan);
        if !fused {
            bytes += arena * size;
            write!(text, "\n{}", self.why_apart(optimizer)).expect("a String takes everything");
        }
        if self.options.sam.is_some() {
            bytes += (2 * arena + network.averages_len()) * size;
        }
        (text, bytes)
    }

    /// Whether gradients are applied while they are being computed, because nothing depends on all of them.
    pub(super) fn is_fused(&self, optimizer: &Optimizer<T>) -> bool {
        let clip = self.options.clip.is_some();
        let several = self.options.accumulate > 1 || self.options.sam.is_some();
        !clip && !several && optimizer.is_elementwise() && self.projection.is_none()
    }

    /// What happens after the pass if they are not.
    fn why_apart(&self, optimizer: &Optimizer<T>) -> String {
        let mut lines = Vec::new();
        if let Some(sam) = &self.options.sam {
            lines.push(format!(
                "twice: at the parameters, and then at a distance of {} from them, where the loss is about largest; \
                 the update is made from the second gradient",
                sam.rho
            ));
        }
        let count = self.options.accumulate;
        if count > 1 {
            lines.push(format!(
                "gradients: added up over {count} batches; every {count}th makes an update from their mean"
            ));
        }
        let why = match self.options.clip {
            Some(Clip::Norm(_)) => "since the norm of all gradients must be known first",
            Some(Clip::Value(_)) => "since gradients are clipped first",
            None if self.projection.is_some() => "since all gradients are projected first",
            None if !optimizer.is_elementwise() => "since the optimizer takes whole layers",
            None if self.options.sam.is_some() => "once the parameters are back where they were",
            None => "after the last of these batches",
        };
        lines.push(format!("update: a pass of its own over parameters and gradients, {why}"));
        lines.join("\n")
    }
}
