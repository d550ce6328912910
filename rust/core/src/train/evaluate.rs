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

/// Rows of a part of an evaluation: few enough to bound its memory and the time until it can be left, enough to
/// keep every thread busy.
pub const PART_ROWS: usize = 16 * 1024;

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
        let mut evaluation = Evaluation::default();
        loop {
            if let Some(tally) = evaluation.run(self, model, x, y)? {
                return Ok(tally);
            }
        }
    }
}

/// An evaluation that may be left, and continued, between its parts.
#[derive(Default)]
pub struct Evaluation<T> {
    /// Rows that are done.
    done: usize,
    /// The loss with which it began, if rows are left.
    objective: Option<Objective<T>>,
    /// Whether some rows may count more than others.
    uneven: bool,
    /// Whether a loss may be infinite.
    tolerant: bool,
    tally: Tally,
}

impl<T: Element> Evaluation<T> {
    /// An evaluation that only watches: a loss that is not finite, although the data are, becomes infinite
    /// instead of an error.
    pub fn tolerant() -> Self {
        Evaluation { tolerant: true, done: 0, objective: None, uneven: false, tally: Tally::default() }
    }

    /// Processes the next rows. Returns the sum over all of them after the last; the data must stay the same
    /// until then.
    ///
    /// # Errors
    /// As for [`Trainer::evaluate`], or if the loss was changed.
    pub fn run(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        x: Samples<'_, T>,
        y: Goals<'_, T>,
    ) -> Result<Option<Tally>, Error> {
        let Objective { reduction, .. } = trainer.objective;
        match &self.objective {
            None => {
                self.uneven = trainer.check(model, x, &y)?;
                self.tally.reduction = reduction;
            }
            Some(before) if *before != trainer.objective => {
                let text = "the loss was changed during an evaluation: change it before or after";
                return Err(Error::Mismatch(text.into()));
            }
            Some(_) => {}
        }
        let start = self.done;
        let len = PART_ROWS.min(x.rows() - start);
        let (isa, outputs) = (model.isa(), model.network().outputs());
        let workspace = trainer.workspaces.get(model.network(), isa, Mode::Inference, len)?;
        let Parts { network, params, averages, .. } = model.still_parts();
        let mut stops = |check_finite| {
            let mut pass = Pass {
                loss: Some(LossTask {
                    objective: &trainer.objective,
                    goals: y,
                    scale: 0.0, // no gradient
                    backward: false,
                }),
                check_finite,
                ..Pass::new(network, workspace, params.lend(), averages, Some(x), Rows::From(start))
            };
            pass.run();
            pass.stopped.load(Ordering::Relaxed)
        };
        if stops(true) {
            check_values(&trainer.objective, isa, x, &y)?;
            if self.tolerant {
                stops(false);
            } else {
                // Batches that were skipped have no losses.
                let losses = workspace.losses.iter().map(|row| row.loss);
                return Err(too_large(losses.into_iter().find(|l| !l.is_finite()).unwrap_or(f64::NAN)));
            }
        }
        let totals = trainer.objective.totals(&y, |r| start + r, len, outputs, self.uneven);
        self.tally.add(Tally::new(reduction, &workspace.losses, totals));
        self.done += len;
        if self.done < x.rows() {
            self.objective.get_or_insert_with(|| trainer.objective.clone());
            return Ok(None);
        }
        if self.tally.totals.loss == 0.0 {
            return Err(Error::NothingCounts);
        }
        if !self.tally.loss.is_finite() {
            if !self.tolerant {
                return Err(too_large(self.tally.loss));
            }
            self.tally.loss = f64::INFINITY;
        }
        Ok(Some(self.tally))
    }
}

/// The error for a loss that is not finite although the data are.
fn too_large(loss: f64) -> Error {
    Error::Mismatch(format!(
        "the loss is {loss} although the data are finite: (a) inputs or targets are badly scaled, standardize \
         them; (b) the weights are too large, retrain with a smaller learning rate, or set them to smaller values"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Init, Layer, Linear};
    use crate::loss::{Loss, Targets};
    use crate::view::MatRef;

    #[test]
    fn a_loss_that_overflows_is_refused_or_infinite() {
        let linear = Linear { inputs: 1, outputs: 1, bias: false, init: Init::Zeros };
        let mut model = Model::<f32>::new(vec![Layer::Linear(linear)], 0).unwrap();
        let mut trainer = Trainer::new(Loss::Mse);
        for (y, finite) in [([1.0, 2.0, 3.0], true), ([1.0, 1e30, 3.0], false)] {
            let (x, y) = (MatRef::new(&[1.0; 3], 3, 1), Targets::Values(MatRef::new(&y, 3, 1)));
            let strict = trainer.evaluate(&mut model, x, y);
            let watched = Evaluation::tolerant().run(&mut trainer, &mut model, x.into(), y.into());
            let loss = watched.unwrap().unwrap().value();
            match finite {
                true => assert!(strict.unwrap().value() == loss && (loss - 14.0 / 3.0).abs() < 1e-6),
                false => assert!(strict.unwrap_err().to_string().contains("inf") && loss == f64::INFINITY),
            }
        }
        // Bad data are an error in any case.
        let (x, y) = (MatRef::new(&[f32::NAN], 1, 1), Targets::Values(MatRef::new(&[0.0], 1, 1)));
        assert!(Evaluation::tolerant().run(&mut trainer, &mut model, x.into(), y.into()).is_err());
    }
}
