//! Slopes with respect to a network's outputs f, whose outer products sum to a Fisher information.
//!
//! ```text
//! categorical   p = softmax(f)    −ln p_y         slope p − e_y      exact: diag(p) − p·pᵀ = Σ l_k·l_kᵀ, k < C
//! Bernoulli     p = sigmoid(f)    each output     slope p − y        exact: √(p_k(1 − p_k))·e_k
//! Gaussian      mean f, variance 1                slope f − y        exact: e_k
//! independent   any, one output each                                 exact: √F_k·e_k, with √F_k given as y
//! ```
//!
//! *Exact* takes the expectation over the model's own distribution of y: a sum over the C outputs, or over
//! the C − 1 columns l_k of the Cholesky factor of the same matrix. With the sums s_k = p_k + … + p_C, l_k is
//! √(p_k/s_k)·(√s_{k+1} at k, −p_j/√s_{k+1} at j > k), in which nothing cancels (Tanabe and Sagae 1992, "An
//! exact Cholesky decomposition and the generalized inverse of the variance-covariance matrix of the
//! multinomial distribution", J. R. Statist. Soc. B 54). That saves one pass of slopes, so two classes take a
//! single one. *Sampled* draws one y per row from the model, *empirical* takes the labels of the data. Their
//! squares have different meanings and sizes (Kunstner, Balles and Hennig 2019, arXiv:1905.12558).

use crate::element::Element;
use crate::error::Error;
use crate::loss::Targets;
use crate::rng::{Purpose, Stream};
use crate::view::MatRef;

/// The distribution of y that a network's outputs describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likelihood {
    /// One of several classes; outputs are logits.
    Categorical,
    /// Yes or no for each output, which is its logit.
    Bernoulli,
    /// Normal, with the outputs as means and variance 1.
    Gaussian,
    /// Any distributions whose Fisher information of the outputs has no elements beside the diagonal: the
    /// targets are the roots of those on it. Only exact.
    Independent,
}

/// Which slopes are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the log-likelihood, for every y, weighted by its probability.
    Exact,
    /// For a y drawn from the model.
    Sampled {
        /// Seed of the draw, which also depends on the row's place in the data.
        seed: u64,
    },
    /// For the y of the data.
    Empirical,
    /// The same times √p_y, for one of several classes: its square is weighted by the probability of the
    /// label.
    Weighted,
    /// 2f, the slope of the outputs' squared norm.
    Norm,
}

/// Slopes with respect to the outputs of some rows, one after another.
pub struct Slopes {
    likelihood: Likelihood,
    kind: Kind,
    /// The outputs that count; all others have slope 0.
    columns: Vec<usize>,
    /// For the current rows, by counted output: probabilities, or means.
    says: Vec<f64>,
}

impl Slopes {
    /// Slopes of the given outputs of a network with `outputs` outputs; `None` means all.
    ///
    /// # Errors
    /// If there is no such output, or one is listed twice.
    pub fn new(
        likelihood: Likelihood,
        kind: Kind,
        columns: Option<Vec<usize>>,
        outputs: usize,
    ) -> Result<Self, Error> {
        let columns = columns.unwrap_or_else(|| (0..outputs).collect());
        let twice = |i: usize| columns[..i].contains(&columns[i]);
        if columns.is_empty() || (0..columns.len()).any(|i| columns[i] >= outputs || twice(i)) {
            return Err(Error::argument(
                "classes",
                format!("{columns:?}"),
                format!("different outputs from 0 to {} are needed", outputs - 1),
            ));
        }
        Ok(Slopes { likelihood, kind, columns, says: Vec::new() })
    }

    /// How many slopes each row has.
    pub fn count(&self) -> usize {
        match (self.kind, self.likelihood) {
            (Kind::Exact, Likelihood::Categorical) => (self.columns.len() - 1).max(1),
            (Kind::Exact, _) => self.columns.len(),
            _ => 1,
        }
    }

    /// Checks targets of `rows` rows, if they are needed.
    ///
    /// # Errors
    /// If they are missing or do not fit.
    pub fn check<T: Element>(
        &self,
        y: Option<&Targets<'_, T>>,
        rows: usize,
        outputs: usize,
    ) -> Result<(), Error> {
        let roots = self.likelihood == Likelihood::Independent && self.kind != Kind::Norm;
        if roots && self.kind != Kind::Exact {
            return Err(Error::Mismatch("roots of Fisher information are for exact slopes only".into()));
        }
        if !roots && !matches!(self.kind, Kind::Empirical | Kind::Weighted) {
            return Ok(());
        }
        if self.kind == Kind::Weighted
            && !matches!((self.likelihood, y), (Likelihood::Categorical, None | Some(Targets::Labels(_))))
        {
            return Err(Error::Mismatch(
                "gradients weighted by the probabilities of labels need y to be class labels".into(),
            ));
        }
        let Some(y) = y else {
            return Err(Error::argument(
                "y",
                "None",
                "the labels of the data are needed for this kind of Fisher information",
            ));
        };
        if y.rows() != rows {
            return Err(Error::Lengths { x: rows, what: "y", found: y.rows() });
        }
        match y {
            Targets::Labels(y) => {
                let known = |label: i64| usize::try_from(label).is_ok_and(|c| self.columns.contains(&c));
                match y.iter().position(|label| !known(*label)) {
                    Some(row) if (0..outputs as i64).contains(&y[row]) => Err(Error::argument(
                        "classes",
                        format!("{:?}", self.columns),
                        format!("y[{row}] is {}, which is not one of them", y[row]),
                    )),
                    Some(row) => Err(Error::Label { row, label: y[row], classes: outputs }),
                    None => Ok(()),
                }
            }
            Targets::Values(y) if y.cols() != outputs => {
                Err(Error::TargetWidth { loss: "the likelihood", outputs, wanted: outputs, found: y.cols() })
            }
            Targets::Values(_) => Ok(()),
        }
    }

    /// Receives the outputs of the current rows.
    pub fn begin<T: Element>(&mut self, output: MatRef<'_, T>) {
        self.says.clear();
        for r in 0..output.rows() {
            let row = output.row(r);
            let from = self.says.len();
            self.says.extend(self.columns.iter().map(|&j| row[j].to_f64()));
            let row = &mut self.says[from..];
            match (self.kind, self.likelihood) {
                (Kind::Norm, _) | (_, Likelihood::Gaussian | Likelihood::Independent) => {}
                (_, Likelihood::Bernoulli) => row.iter_mut().for_each(|f| *f = 1.0 / (1.0 + libm::exp(-*f))),
                (_, Likelihood::Categorical) => {
                    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    row.iter_mut().for_each(|f| *f = libm::exp(*f - most));
                    let sum: f64 = row.iter().sum();
                    row.iter_mut().for_each(|e| *e /= sum);
                }
            }
        }
    }

    /// Writes the k-th slope of each current row times its `factor`, rows × outputs; the rows are those of the
    /// data from `start` on, with targets `y` for all of the data.
    pub fn write<T: Element>(
        &self,
        k: usize,
        factor: impl Fn(usize) -> f64,
        start: usize,
        y: Option<&Targets<'_, T>>,
        into: &mut [T],
        outputs: usize,
    ) {
        into.fill(T::ZERO);
        let rows = self.says.chunks_exact(self.columns.len()).zip(into.chunks_exact_mut(outputs));
        for (r, (says, into)) in rows.enumerate() {
            let drawn = || match self.kind {
                Kind::Sampled { seed } => Stream::new(seed, Purpose::Label, (start + r) as u64),
                _ => unreachable!("drawn only if sampled"),
            };
            let scale = factor(r);
            let mut put = |i: usize, slope: f64| into[self.columns[i]] = T::lit(scale * slope);
            let target = |i: usize| match y {
                Some(Targets::Values(y)) => y.at(start + r, self.columns[i]).to_f64(),
                Some(Targets::Labels(y)) => f64::from(self.columns[i] == y[start + r] as usize),
                None => unreachable!("checked"),
            };
            match (self.kind, self.likelihood) {
                (Kind::Norm, _) => (0..says.len()).for_each(|i| put(i, 2.0 * says[i])),
                (Kind::Exact, Likelihood::Categorical) => {
                    let after: f64 = says[k + 1..].iter().sum();
                    if after > 0.0 {
                        let (root, after) = ((says[k] / (says[k] + after)).sqrt(), after.sqrt());
                        put(k, root * after);
                        (k + 1..says.len()).for_each(|i| put(i, -root * says[i] / after));
                    }
                }
                (Kind::Exact, Likelihood::Bernoulli) => put(k, (says[k] * (1.0 - says[k])).sqrt()),
                (Kind::Exact, Likelihood::Gaussian) => put(k, 1.0),
                (_, Likelihood::Independent) => put(k, target(k)),
                (Kind::Sampled { .. }, Likelihood::Categorical) => {
                    let mut left = drawn().unit();
                    let last = says.len() - 1;
                    let label = says.iter().position(|p| {
                        left -= p;
                        left < 0.0
                    });
                    let label = label.unwrap_or(last);
                    (0..says.len()).for_each(|i| put(i, says[i]));
                    put(label, -rest(says, label));
                }
                (Kind::Sampled { .. }, Likelihood::Bernoulli) => {
                    let mut stream = drawn();
                    for (i, p) in says.iter().enumerate() {
                        let yes = stream.unit() < *p;
                        put(i, p - f64::from(yes));
                    }
                }
                (Kind::Sampled { .. }, Likelihood::Gaussian) => {
                    let mut stream = drawn();
                    (0..says.len()).for_each(|i| put(i, stream.normal()));
                }
                (Kind::Weighted, _) => {
                    let label = (0..says.len()).find(|&i| target(i) != 0.0).expect("checked");
                    let root = says[label].sqrt();
                    (0..says.len()).for_each(|i| put(i, root * says[i]));
                    put(label, -root * rest(says, label));
                }
                (Kind::Empirical, _) => (0..says.len()).for_each(|i| put(i, says[i] - target(i))),
            }
        }
    }
}

/// 1 − p_k, as the sum of the others where the difference would cancel.
fn rest(p: &[f64], k: usize) -> f64 {
    if p[k] < 0.5 {
        return 1.0 - p[k];
    }
    p.iter().enumerate().filter(|(i, _)| *i != k).map(|(_, p)| p).sum()
}
