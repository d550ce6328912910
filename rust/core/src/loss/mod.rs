//! Losses: a number per row and its gradient by the network's output, in one pass over the rows.
//!
//! One file per loss. The loss of a batch is the mean over its rows; the caller hands in the
//! factor of the mean as `scale` for the gradient and averages the numbers itself, in a fixed order.

mod cross_entropy;
mod mse;

use crate::element::Element;
use crate::error::Error;
use crate::simd::Simd;
use crate::view::{MatMut, MatRef};

/// A loss by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Mean of squared differences over rows and outputs.
    Mse,
    /// Negative log-likelihood of the label under the softmax of the outputs.
    CrossEntropy,
}

/// What the network's output is compared with, a row per sample.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T> {
    /// Numbers, rows × outputs.
    Values(MatRef<'a, T>),
    /// Classes.
    Labels(&'a [i64]),
}

/// The loss of one row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// The loss.
    pub loss: f64,
    /// Whether the largest output is the label's; false where there are no labels.
    pub correct: bool,
}

/// Rows whose losses are wanted.
pub struct Rows<'a, T> {
    /// The network's output for them.
    pub output: MatRef<'a, T>,
    /// The targets of all rows.
    pub targets: &'a Targets<'a, T>,
    /// Which row of the targets belongs to row r of the output.
    pub at: &'a dyn Fn(usize) -> usize,
    /// Factor of the gradient.
    pub scale: f64,
}

impl Loss {
    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Mse => "MSELoss",
            Loss::CrossEntropy => "CrossEntropyLoss",
        }
    }

    /// Whether it compares with labels, so that there is an accuracy.
    pub fn takes_labels(self) -> bool {
        self == Loss::CrossEntropy
    }

    /// The losses of rows, into `losses`; and `grad` ← scale · ∂loss/∂output.
    ///
    /// # Panics
    /// If the targets are of the other kind or shape; [`check`](Self::check) them first.
    #[inline(always)]
    pub fn rows<T: Element, S: Simd<T>>(
        self,
        s: S,
        rows: &Rows<'_, T>,
        grad: Option<MatMut<'_, T>>,
        losses: &mut [RowLoss],
    ) {
        assert!(losses.len() == rows.output.rows());
        match (self, rows.targets) {
            (Loss::Mse, Targets::Values(y)) => mse::rows(s, rows, |r| y.row((rows.at)(r)), grad, losses),
            (Loss::CrossEntropy, Targets::Labels(y)) => {
                cross_entropy::rows(s, rows, |r| y[(rows.at)(r)] as usize, grad, losses)
            }
            _ => unreachable!("targets of the wrong kind"),
        }
    }

    /// Checks that targets are of the right kind, shape and range for `rows` rows of `outputs` outputs.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn check<T: Element>(
        self,
        targets: &Targets<'_, T>,
        rows: usize,
        outputs: usize,
    ) -> Result<(), Error> {
        match (self, targets) {
            (Loss::Mse, Targets::Values(y)) => {
                if y.rows() != rows {
                    return Err(Error::Lengths { x: rows, y: y.rows() });
                }
                if y.cols() != outputs {
                    return Err(Error::TargetWidth { outputs, found: y.cols() });
                }
                Ok(())
            }
            (Loss::CrossEntropy, Targets::Labels(y)) => {
                if y.len() != rows {
                    return Err(Error::Lengths { x: rows, y: y.len() });
                }
                match y.iter().position(|&c| c < 0 || c as usize >= outputs) {
                    Some(row) => Err(Error::Label { row, label: y[row], classes: outputs }),
                    None => Ok(()),
                }
            }
            (Loss::Mse, Targets::Labels(_)) | (Loss::CrossEntropy, Targets::Values(_)) => {
                Err(Error::TargetKind { loss: self.name(), wants_labels: self.takes_labels() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
