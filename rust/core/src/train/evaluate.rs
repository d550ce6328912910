//! Loss and accuracy on a data set, without learning.

use std::sync::atomic::Ordering;

use super::{Tally, Trainer, check_values};
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::loss::{Goals, Objective};
use crate::model::{Model, Parts};
use crate::pass::{LossTask, Pass};
use crate::plan::Mode;

/// Rows that an evaluation processes at once: few enough to bound its memory, enough to keep every thread
/// busy.
const EVALUATION_ROWS: usize = 16 * 1024;

impl<T: Element> Trainer<T> {
    /// Loss and accuracy over a data set, in evaluation mode.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, no row counts, or something in x or y is not finite.
    pub fn evaluate<'s, 't>(
        &mut self,
        model: &mut Model<T>,
        x: impl Into<Samples<'s, T>>,
        y: impl Into<Goals<'t, T>>,
    ) -> Result<Tally, Error>
    where
        T: 't,
    {
        let (x, y) = (x.into(), y.into());
        let uneven = self.check(model, x, &y)?;
        let outputs = model.network().outputs();
        let Objective { reduction, .. } = self.objective;
        let mut tally = Tally { reduction, ..Tally::default() };
        for start in (0..x.rows()).step_by(EVALUATION_ROWS) {
            let len = EVALUATION_ROWS.min(x.rows() - start);
            let isa = model.isa();
            let workspace = self.workspaces.get(model.network(), isa, Mode::Inference, len)?;
            let Parts { network, params, averages, .. } = model.still_parts();
            let mut pass = Pass {
                loss: Some(LossTask {
                    objective: &self.objective,
                    goals: y,
                    scale: 0.0, // no gradient
                    backward: false,
                }),
                ..Pass::new(network, workspace, params.share(), averages, Some(x), Rows::From(start))
            };
            pass.run();
            if pass.stopped.load(Ordering::Relaxed) {
                check_values(&self.objective, isa, x, &y)?;
                // Batches that were skipped have no losses.
                let losses = workspace.losses.iter().map(|row| row.loss);
                return Err(too_large(losses.into_iter().find(|l| !l.is_finite()).unwrap_or(f64::NAN)));
            }
            let totals = self.objective.totals(&y, |r| start + r, len, outputs, uneven);
            tally.add(Tally::new(reduction, &workspace.losses, totals));
        }
        if tally.totals.loss == 0.0 {
            return Err(Error::NothingCounts);
        }
        if !tally.loss.is_finite() {
            return Err(too_large(tally.loss));
        }
        Ok(tally)
    }
}

/// The error for a loss that is not finite although the data are.
fn too_large(loss: f64) -> Error {
    Error::Mismatch(format!(
        "the loss is {loss} although the data are finite: the weights are too large; retrain with a smaller \
         learning rate, or set them to smaller values"
    ))
}
