//! What targets and weights must be for a loss.

use super::{Goals, Loss, Objective, Targets};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::simd::Isa;

impl Loss {
    /// The permitted targets, if not all finite numbers: the interval, and a description.
    fn domain(self) -> Option<(f64, f64, &'static str)> {
        match self {
            Loss::CrossEntropy { .. } => Some((0.0, f64::INFINITY, "numbers >= 0")),
            Loss::BceWithLogits => Some((0.0, 1.0, "numbers from 0 to 1")),
            Loss::PoissonNll { .. } => Some((0.0, f64::INFINITY, "counts, numbers >= 0")),
            _ => None,
        }
    }
}

impl<T: Element> Objective<T> {
    /// Checks that the loss suits a network with this many outputs.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_outputs(&self, outputs: usize) -> Result<(), Error> {
        let (loss, n) = (self.loss.name(), self.constants.len());
        let wanted = match self.loss {
            Loss::CrossEntropy { .. } if n != 0 && n != outputs => format!("weight has {n} values"),
            Loss::CrossEntropy { .. } if !self.heads_fit(outputs) => {
                format!("heads have {} columns", self.heads.last().copied().unwrap_or_default())
            }
            Loss::BceWithLogits if n != 0 && n != outputs => format!("pos_weight has {n} values"),
            Loss::GaussianNll { .. } if !outputs.is_multiple_of(2) => {
                "takes an even number of outputs, means and then as many log-variances".into()
            }
            Loss::Quantile if n == 0 || !outputs.is_multiple_of(n) => {
                format!("takes a block of outputs for each of its {n} quantiles")
            }
            _ => return Ok(()),
        };
        Err(Error::LossOutputs { loss, wanted, outputs })
    }

    /// Checks that targets and weights have the right kind, shape and range for `rows` rows of `outputs`
    /// outputs; numbers are only checked as far as [`rows`](Self::rows) relies on them. Returns whether some
    /// rows may count more than others.
    ///
    /// # Errors
    /// If something is wrong; the error says what, and where.
    pub fn check(&self, goals: &Goals<'_, T>, rows: usize, outputs: usize) -> Result<bool, Error> {
        self.check_outputs(outputs)?;
        let found = goals.targets.rows();
        if found != rows {
            return Err(Error::Lengths { x: rows, what: "y", found });
        }
        if let Some(weights) = goals.weights {
            if weights.len() != rows {
                return Err(Error::Lengths { x: rows, what: "sample_weight", found: weights.len() });
            }
            let good = |w: &T| *w >= T::ZERO && w.is_finite();
            if let Some(row) = weights.iter().position(|w| !good(w)) {
                return Err(Error::Weight { row, value: weights[row].to_f64() });
            }
        }
        let uneven = match (self.loss, goals.targets) {
            (Loss::CrossEntropy { ignore, .. }, Targets::Labels(y)) => {
                if let Some(row) = y.iter().position(|&c| c as u64 >= outputs as u64 && c != ignore) {
                    return Err(Error::Label { row, label: y[row], classes: outputs });
                }
                if let Some(row) = y.iter().position(|&c| c != ignore && !self.competes(c as usize)) {
                    return Err(Error::Inactive { row, label: y[row] });
                }
                !self.constants.is_empty() || y.contains(&ignore)
            }
            (loss, Targets::Labels(_)) => return Err(Error::TargetKind { loss: loss.name() }),
            (loss, Targets::Values(y)) => {
                let (wanted, found) = (self.target_width(outputs), y.cols());
                if found != wanted {
                    return Err(Error::TargetWidth { loss: loss.name(), outputs, wanted, found });
                }
                false
            }
        };
        Ok(uneven || goals.weights.is_some())
    }

    /// Checks that all target values are finite and permitted by the loss. If one is not, the loss of its row
    /// is NaN, so there is no need to check as long as losses are finite.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check_values(&self, goals: &Goals<'_, T>, isa: Isa) -> Result<(), Error> {
        let Targets::Values(y) = goals.targets else { return Ok(()) };
        Samples::from(y).check_finite("y", isa)?;
        let Some((low, high, accepted)) = self.loss.domain() else { return Ok(()) };
        for row in 0..y.rows() {
            let bad = |t: &T| !(low..=high).contains(&t.to_f64());
            if let Some(column) = y.row(row).iter().position(bad) {
                let (loss, value) = (self.loss.name(), y.at(row, column).to_f64());
                return Err(Error::Target { loss, row, column, value, accepted });
            }
            let lost = |column: &usize| y.at(row, *column) != T::ZERO && !self.competes(*column);
            if let Some(column) = (0..y.cols()).find(lost) {
                let (loss, value) = (self.loss.name(), y.at(row, column).to_f64());
                let accepted = "0 for a class that is not active";
                return Err(Error::Target { loss, row, column, value, accepted });
            }
        }
        Ok(())
    }
}
