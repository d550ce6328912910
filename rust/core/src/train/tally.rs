//! Sums of losses, from which means are computed in the end.

use crate::loss::{Reduction, RowLoss, Totals};

/// A sum of row losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Whether the result is a mean.
    pub reduction: Reduction,
    /// Sum of losses, in the order of the rows.
    pub loss: f64,
    /// Sum of what is right, over the rows.
    pub right: f64,
    /// What the rows count in total.
    pub totals: Totals,
}

impl Tally {
    pub(crate) fn new(reduction: Reduction, losses: &[RowLoss], totals: Totals) -> Self {
        let mut tally = Tally { reduction, totals, ..Tally::default() };
        for row in losses {
            tally.loss += row.loss;
            tally.right += row.right;
        }
        tally
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.loss += other.loss;
        self.right += other.right;
        self.totals.loss += other.totals.loss;
        self.totals.accuracy += other.totals.accuracy;
    }

    /// The loss of all rows as if they were a single batch: its mean, or its sum.
    pub fn value(&self) -> f64 {
        match self.reduction {
            Reduction::Mean => self.loss / self.totals.loss,
            Reduction::Sum => self.loss,
        }
    }

    /// Weighted fraction of rows that were right.
    pub fn accuracy(&self) -> f64 {
        self.right / self.totals.accuracy
    }
}
