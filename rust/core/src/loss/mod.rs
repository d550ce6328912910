//! Losses: a number per row and its gradient with respect to the network's output, in one pass over the rows.
//!
//! There is one file per loss, with its formula next to its gradient. Files compute the *sum* over a row's
//! elements; the divisor and the weights of rows are the same for all losses and handled here. `check` has what
//! targets must be; several losses share `elements`, `classes` and `heads`. The loss of a batch is
//!
//! ```text
//! L = Σᵢ wᵢ·ℓᵢ / D      D = Σᵢ wᵢ·nᵢ for "mean", 1 for "sum"
//! ```
//!
//! with ℓᵢ the sum of row i, wᵢ its weight and nᵢ the number of its elements over which the loss averages. D
//! depends only on targets and weights: it is known before the pass ([`Objective::totals`]).
//!
//! A new one needs its file with its `mod` here, a variant of [`Loss`], arms in [`Loss::name`],
//! `Objective::rows_in` and `Objective::bends` (`second.rs`), and a case in `tests.rs`; the compiler asks for
//! these. Arms that begin with `_` it does not ask for: read [`Objective::target_width`],
//! [`Objective::elements`], [`Loss::has_accuracy`], `check.rs` and [`Objective::check_fisher`]. Then users need
//! its name in the binding (`rust/py/src/loss.rs`) and its class: CONTRIBUTING.md has what belongs to that.

mod bce;
mod check;
mod classes;
mod cross_entropy;
mod distillation;
mod elements;
mod gaussian_nll;
mod heads;
mod huber;
mod l1;
mod mse;
mod poisson_nll;
mod quantile;
mod second;
mod soft_cross_entropy;

pub use second::Second;

use crate::arena::{copied, copied_rows};
use crate::data;
use crate::element::Element;
use crate::error::Error;
use crate::simd::{FlushDenormals, Isa, Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

/// A loss with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Squared differences.
    Mse,
    /// Absolute differences.
    L1,
    /// Differences, squared up to `delta` and absolute beyond.
    Huber {
        /// Where the square ends; > 0.
        delta: f64,
    },
    /// Cross-entropy of a label, or of one probability per class, under the softmax of the outputs.
    /// [Constants](Objective::constants): a weight per class, below 0 for classes that do not take part.
    CrossEntropy {
        /// The fraction of a target that is spread evenly over the classes, in [0, 1].
        smoothing: f64,
        /// Rows with this label do not count.
        ignore: i64,
    },
    /// Cross-entropy of a probability under the logistic function of each output. Constants: a weight per
    /// output for positives.
    BceWithLogits,
    /// Negative log-likelihood of a normal distribution: the outputs are means, then log-variances.
    GaussianNll {
        /// Whether ½·ln 2π is included.
        full: bool,
        /// The smallest variance; > 0.
        eps: f64,
    },
    /// Negative log-likelihood of a Poisson distribution.
    PoissonNll {
        /// Whether the output is the logarithm of the rate.
        log_input: bool,
        /// Whether Stirling's approximation of ln t! is included.
        full: bool,
        /// Added to a rate before its logarithm is taken; > 0.
        eps: f64,
    },
    /// Pinball loss. Constants: the quantiles; the outputs are a block of columns for each.
    Quantile,
    /// Divergence of the softmax of the outputs from that of a teacher's logits, both with a temperature.
    Distillation {
        /// Divides the logits; > 0.
        temperature: f64,
    },
}

/// What happens to the sum over the elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// It is divided by the sum of their weights.
    #[default]
    Mean,
    /// Nothing.
    Sum,
}

/// What training minimizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective<T> {
    /// The loss.
    pub loss: Loss,
    /// Mean or sum.
    pub reduction: Reduction,
    /// Numbers of the loss that differ from column to column; empty if all would be 1.
    pub constants: Vec<T>,
    /// Where groups of columns end that have a softmax each; empty if all columns are one group.
    pub heads: Vec<usize>,
}

impl<T> From<Loss> for Objective<T> {
    fn from(loss: Loss) -> Self {
        Objective { loss, reduction: Reduction::Mean, constants: Vec::new(), heads: Vec::new() }
    }
}

/// What the network's output is compared with, a row per sample.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T> {
    /// Numbers, as many per row as the loss needs.
    Values(MatRef<'a, T>),
    /// Classes.
    Labels(&'a [i64]),
}

impl<T: Element> Targets<'_, T> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Targets::Values(y) => y.rows(),
            Targets::Labels(y) => y.len(),
        }
    }
}

/// A copy of targets.
#[derive(Clone, Debug)]
pub enum OwnTargets<T> {
    /// Numbers, row by row.
    Values(Vec<T>),
    /// Classes.
    Labels(Vec<i64>),
}

impl<T: Element> OwnTargets<T> {
    /// Copies targets, for `what`.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn copy(what: &'static str, targets: Targets<'_, T>) -> Result<Self, Error> {
        Ok(match targets {
            Targets::Values(y) => OwnTargets::Values(copied_rows(what, y)?),
            Targets::Labels(y) => OwnTargets::Labels(copied(what, y)?),
        })
    }

    /// The targets of so many rows.
    pub fn view(&self, rows: usize) -> Targets<'_, T> {
        match self {
            OwnTargets::Values(y) => Targets::Values(MatRef::new(y, rows, y.len() / rows.max(1))),
            OwnTargets::Labels(y) => Targets::Labels(y),
        }
    }
}

/// Targets, and how much each row counts.
#[derive(Clone, Copy, Debug)]
pub struct Goals<'a, T> {
    /// The targets.
    pub targets: Targets<'a, T>,
    /// A weight ≥ 0 per row; `None` if all are 1.
    pub weights: Option<&'a [T]>,
}

impl<'a, T> From<Targets<'a, T>> for Goals<'a, T> {
    fn from(targets: Targets<'a, T>) -> Self {
        Goals { targets, weights: None }
    }
}

/// What rows count in total.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// What the loss is divided by for the mean.
    pub loss: f64,
    /// What the number of right elements is divided by.
    pub accuracy: f64,
}

/// The loss of one row, times its weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// The loss, summed over the row's elements.
    pub loss: f64,
    /// How many of its elements are right; 0 if there is no right or wrong.
    pub right: f64,
}

impl RowLoss {
    /// The loss of a row with an invalid target.
    const WRONG: RowLoss = RowLoss { loss: f64::NAN, right: 0.0 };
}

/// Rows whose losses are wanted.
pub struct Rows<'a, T> {
    /// The network's output for them.
    pub output: MatRef<'a, T>,
    /// The targets of all rows.
    pub goals: Goals<'a, T>,
    /// Which rows of the targets belong to those of the output.
    pub chosen: data::Rows<'a>,
    /// Factor of the gradient.
    pub scale: f64,
}

impl<T: Element> Rows<'_, T> {
    /// The weight of row r.
    #[inline(always)]
    fn weight(&self, r: usize) -> f64 {
        self.goals.weights.map_or(1.0, |w| w[self.chosen.at(r)].to_f64())
    }
}

/// The meaning of a label.
enum Class {
    /// Its row does not count.
    Ignored,
    /// There is no such class. Labels are checked before training, but their owner may change them meanwhile.
    Wrong,
    Is(usize),
}

/// One row, for a loss that takes numbers.
struct Row<'a, T> {
    output: &'a [T],
    target: &'a [T],
    /// ← scale · ∂loss/∂output
    grad: Option<&'a mut [T]>,
    scale: f64,
}

impl Loss {
    /// Cross-entropy with the default options.
    pub const CROSS_ENTROPY: Loss = Loss::CrossEntropy { smoothing: 0.0, ignore: -100 };

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Mse => "MSELoss",
            Loss::L1 => "L1Loss",
            Loss::Huber { .. } => "HuberLoss",
            Loss::CrossEntropy { .. } => "CrossEntropyLoss",
            Loss::BceWithLogits => "BCEWithLogitsLoss",
            Loss::GaussianNll { .. } => "GaussianNLLLoss",
            Loss::PoissonNll { .. } => "PoissonNLLLoss",
            Loss::Quantile => "QuantileLoss",
            Loss::Distillation { .. } => "DistillationLoss",
        }
    }

    /// Whether it also takes labels.
    pub fn takes_labels(self) -> bool {
        matches!(self, Loss::CrossEntropy { .. })
    }

    /// Whether rows can be right or wrong, so that there is an accuracy.
    pub fn has_accuracy(self) -> bool {
        matches!(self, Loss::CrossEntropy { .. } | Loss::BceWithLogits)
    }
}

impl<T: Element> Objective<T> {
    /// Columns of the targets, for a network with this many outputs.
    pub fn target_width(&self, outputs: usize) -> usize {
        match self.loss {
            Loss::GaussianNll { .. } => outputs / 2,
            Loss::Quantile => outputs / self.constants.len().max(1),
            _ => outputs,
        }
    }

    /// Elements of a row over which the mean is taken.
    pub fn elements(&self, outputs: usize) -> usize {
        match self.loss {
            Loss::CrossEntropy { .. } | Loss::Distillation { .. } => 1,
            Loss::GaussianNll { .. } => outputs / 2,
            _ => outputs,
        }
    }

    /// What `len` rows count in total, where the r-th is row `at(r)` of the targets. `uneven` is what
    /// [`check`](Self::check) returned.
    pub fn totals(
        &self,
        goals: &Goals<'_, T>,
        at: impl Fn(usize) -> usize,
        len: usize,
        outputs: usize,
        uneven: bool,
    ) -> Totals {
        let elements = self.elements(outputs) as f64;
        if !uneven {
            return Totals { loss: len as f64 * elements, accuracy: len as f64 * elements };
        }
        let mut totals = Totals::default();
        for i in (0..len).map(at) {
            let weight = goals.weights.map_or(1.0, |w| w[i].to_f64());
            let class = match goals.targets {
                Targets::Labels(y) => match self.class(y[i], outputs) {
                    Class::Ignored => continue,
                    Class::Wrong => 1.0,
                    Class::Is(class) => self.class_weight(class),
                },
                Targets::Values(_) => 1.0,
            };
            totals.loss += weight * class * elements;
            totals.accuracy += weight * elements;
        }
        totals
    }

    /// The factor of the gradient for a batch whose rows count this much.
    pub fn scale(&self, totals: Totals) -> f64 {
        match self.reduction {
            Reduction::Mean => 1.0 / totals.loss,
            Reduction::Sum => 1.0,
        }
    }

    /// Interprets a label.
    #[inline(always)]
    fn class(&self, label: i64, outputs: usize) -> Class {
        let Loss::CrossEntropy { ignore, .. } = self.loss else { unreachable!("only it takes labels") };
        match label {
            _ if label == ignore => Class::Ignored,
            _ if label as u64 >= outputs as u64 => Class::Wrong,
            _ => Class::Is(label as usize),
        }
    }

    #[inline(always)]
    fn class_weight(&self, class: usize) -> f64 {
        self.constants.get(class).map_or(1.0, |w| w.to_f64())
    }

    /// The loss of given outputs; those of rows, times their weights, are written to `losses`, and `grad` ←
    /// ∂L/∂output.
    ///
    /// # Errors
    /// If targets or weights do not fit, or there is no mean because no row counts.
    ///
    /// # Panics
    /// If the number of `losses` is not that of the rows.
    pub fn of_outputs(
        &self,
        isa: Isa,
        output: MatRef<'_, T>,
        goals: Goals<'_, T>,
        grad: Option<MatMut<'_, T>>,
        losses: &mut [RowLoss],
    ) -> Result<f64, Error> {
        let (rows, outputs) = (output.rows(), output.cols());
        let uneven = self.check(&goals, rows, outputs)?;
        self.check_values(&goals, isa)?;
        let totals = self.totals(&goals, |r| r, rows, outputs, uneven);
        if totals.loss == 0.0 && self.reduction == Reduction::Mean {
            return Err(Error::NothingCounts);
        }
        let _mode = FlushDenormals::new(); // as in training
        self.rows(
            isa,
            &Rows { output, goals, chosen: data::Rows::From(0), scale: self.scale(totals) },
            grad,
            losses,
        );
        let sum: f64 = losses.iter().map(|row| row.loss).sum();
        Ok(match self.reduction {
            Reduction::Mean => sum / totals.loss,
            Reduction::Sum => sum,
        })
    }

    /// Writes the losses of rows to `losses`; and `grad` ← scale · ∂loss/∂output.
    ///
    /// # Panics
    /// If the targets have the wrong kind or shape; [`check`](Self::check) them first.
    pub fn rows(&self, isa: Isa, rows: &Rows<'_, T>, grad: Option<MatMut<'_, T>>, losses: &mut [RowLoss]) {
        struct Enter<'a, 'r, T>(&'a Objective<T>, &'a Rows<'r, T>, Option<MatMut<'a, T>>, &'a mut [RowLoss]);
        impl<T: Element> Op<T> for Enter<'_, '_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                self.0.rows_in(s, self.1, self.2, self.3);
            }
        }
        dispatch(isa, Enter(self, rows, grad, losses));
    }

    #[inline(always)]
    fn rows_in<S: Simd<T>>(
        &self,
        s: S,
        rows: &Rows<'_, T>,
        mut grad: Option<MatMut<'_, T>>,
        losses: &mut [RowLoss],
    ) {
        assert!(losses.len() == rows.output.rows());
        if let Targets::Values(y) = rows.goals.targets
            && self.few(s, rows, y, &mut grad, losses)
        {
            return;
        }
        let constants = &self.constants[..];
        match (self.loss, rows.goals.targets) {
            (Loss::CrossEntropy { smoothing: 0.0, .. }, Targets::Labels(y)) => {
                cross_entropy::rows(s, self, rows, y, grad, losses);
            }
            (Loss::CrossEntropy { smoothing, ignore }, Targets::Labels(y)) => each(
                rows,
                grad,
                losses,
                #[inline(always)]
                |i| (y[i] != ignore).then_some(&[]),
                #[inline(always)]
                |i, row| {
                    let Class::Is(class) = self.class(y[i], row.output.len()) else { return RowLoss::WRONG };
                    let (head, weights) = self.head(class, row.output.len());
                    soft_cross_entropy::label(s, row.within(&head), class - head.start, weights, smoothing)
                },
            ),
            (loss, Targets::Values(y)) => each(
                rows,
                grad,
                losses,
                #[inline(always)]
                |i| Some(y.row(i)),
                #[inline(always)]
                |_, row| match loss {
                    Loss::Mse => mse::row(s, row),
                    Loss::L1 => l1::row(s, row),
                    Loss::Huber { delta } => huber::row(s, row, delta),
                    Loss::CrossEntropy { smoothing, .. } => {
                        soft_cross_entropy::shares(s, row, &self.heads, constants, smoothing)
                    }
                    Loss::BceWithLogits => bce::row(s, row, constants),
                    Loss::GaussianNll { full, eps } => gaussian_nll::row(s, row, full, eps),
                    Loss::PoissonNll { log_input: true, full, .. } => poisson_nll::log_rate(s, row, full),
                    Loss::PoissonNll { full, eps, .. } => poisson_nll::rate(s, row, full, eps),
                    Loss::Quantile => quantile::row(s, row, constants),
                    Loss::Distillation { temperature } => distillation::row(s, row, temperature),
                },
            ),
            _ => unreachable!("targets of the wrong kind"),
        }
    }

    /// Several rows in each vector, if rows are short and the loss goes element by element; returns whether it
    /// does.
    #[inline(always)]
    fn few<S: Simd<T>>(
        &self,
        s: S,
        rows: &Rows<'_, T>,
        targets: MatRef<'_, T>,
        grad: &mut Option<MatMut<'_, T>>,
        losses: &mut [RowLoss],
    ) -> bool {
        macro_rules! few {
            ($pair:ident => $element:expr) => {
                elements::few(
                    s,
                    rows,
                    targets,
                    grad,
                    losses,
                    #[inline(always)]
                    |$pair| $element,
                )
            };
        }
        match self.loss {
            Loss::Mse => few!(pair => mse::element(s, pair)),
            Loss::L1 => few!(pair => l1::element(s, pair)),
            Loss::Huber { delta } => few!(pair => huber::element(s, pair, s.splat(T::lit(delta)))),
            Loss::BceWithLogits if self.constants.is_empty() => {
                few!(pair => bce::element(s, pair, s.splat(T::ONE)))
            }
            _ => false,
        }
    }

    /// On which side of each kink of the loss a row is, if the loss has kinks: appended to `sides`.
    pub fn sides(&self, output: &[T], target: &[T], sides: &mut Vec<u8>) {
        let pairs = || output.iter().zip(target.iter().cycle());
        match self.loss {
            // The columns of the targets repeat for each quantile.
            Loss::L1 | Loss::Quantile => sides.extend(pairs().map(|(o, t)| u8::from(o > t))),
            Loss::Huber { delta } => {
                let far = |(o, t): (&T, &T)| (o.to_f64() - t.to_f64()).abs() > delta;
                sides.extend(pairs().map(|pair| u8::from(far(pair))));
            }
            Loss::GaussianNll { eps, .. } => {
                sides.extend(output[target.len()..].iter().map(|s| u8::from(s.to_f64() > eps.ln())));
            }
            _ => {}
        }
    }
}

/// Applies a loss row by row: `target` returns the targets of row i, or `None` if the row does not count.
#[inline(always)]
fn each<'t, T: Element>(
    rows: &Rows<'_, T>,
    mut grad: Option<MatMut<'_, T>>,
    losses: &mut [RowLoss],
    target: impl Fn(usize) -> Option<&'t [T]>,
    f: impl Fn(usize, Row<'_, T>) -> RowLoss,
) {
    for (r, into) in losses.iter_mut().enumerate() {
        let (i, weight) = (rows.chosen.at(r), rows.weight(r));
        let mut grad = grad.as_mut().map(|g| g.row_mut(r));
        *into = match target(i).filter(|_| weight != 0.0) {
            Some(target) => {
                let row = Row { output: rows.output.row(r), target, grad, scale: rows.scale * weight };
                let RowLoss { loss, right } = f(i, row);
                RowLoss { loss: weight * loss, right: weight * right }
            }
            None => {
                grad.iter_mut().for_each(|g| g.fill(T::ZERO));
                RowLoss::default()
            }
        };
    }
}

#[cfg(test)]
mod tests;
