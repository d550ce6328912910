//! Second derivatives of losses with respect to the outputs, row by row, and their products with a vector;
//! each loss in its own file.
//!
//! A row is a few numbers and involves no matrix product, so this is plain code in double precision.

use super::*;

/// Which matrix of second derivatives with respect to the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// That of the loss, at its targets. Kinks are ignored: it is 0 for a piecewise linear loss.
    Hessian,
    /// Its mean over targets from the distribution whose negative log-likelihood the loss is: the Fisher
    /// information of the outputs.
    Fisher,
}

impl<T: Element> Objective<T> {
    /// Checks that there is a distribution whose negative log-likelihood this is.
    ///
    /// # Errors
    /// If there is none.
    pub fn check_fisher(&self) -> Result<(), Error> {
        // Classes that do not take part have a weight below 0, and the others then have 1.
        let even = self.constants.iter().all(|c| *c == T::ONE || *c < T::ZERO);
        match self.loss {
            Loss::CrossEntropy { smoothing: 0.0, .. } | Loss::BceWithLogits if even => Ok(()),
            Loss::Mse | Loss::GaussianNll { .. } | Loss::PoissonNll { .. } => Ok(()),
            loss => Err(Error::Unsupported(format!(
                "{} with these options is not a negative log-likelihood, so it has no Fisher information; use \
                 MSELoss, GaussianNLLLoss, PoissonNLLLoss, or CrossEntropyLoss or BCEWithLogitsLoss without \
                 weights and label smoothing (every loss has a Gauss-Newton matrix)",
                loss.name()
            ))),
        }
    }

    /// What the second derivatives with respect to the outputs of some rows are made of, times `scale`: two
    /// matrices, a and b, of which the second is empty for most losses. [`bent`](Self::bent) multiplies with
    /// them.
    ///
    /// ```text
    /// softmax             a = p         H·v = a∘(v − Σ a∘v / Σ a), by heads
    /// GaussianNLLLoss     a, b          H·v = a∘v + b∘(v with means and log-variances exchanged)
    /// all others          a             H·v = a∘v
    /// ```
    ///
    /// # Panics
    /// If the targets have the wrong kind or shape; [`check`](Self::check) them first.
    pub fn bends(&self, kind: Second, rows: &Rows<'_, T>) -> [Vec<T>; 2] {
        let (count, n) = (rows.output.rows(), rows.output.cols());
        let pairs = matches!(self.loss, Loss::GaussianNll { .. });
        let mut bends = [vec![T::ZERO; count * n], vec![T::ZERO; if pairs { count * n } else { 0 }]];
        let [own, cross] = &mut bends;
        for r in 0..count {
            let factor = rows.scale * rows.weight(r);
            if factor == 0.0 {
                continue;
            }
            let (range, row) = (r * n..(r + 1) * n, rows.chosen.at(r));
            let (output, own) = (rows.output.row(r), &mut own[range.clone()]);
            match rows.goals.targets {
                Targets::Labels(y) => self.second_of_label(y[row], output, own, factor),
                Targets::Values(y) => {
                    let cross = if pairs { &mut cross[range] } else { &mut [][..] };
                    self.second_of_row(kind, y.row(row), output, [own, cross], factor);
                }
            }
        }
        bends
    }

    /// into ← (∂²loss/∂output²)·v for rows of n outputs, from what [`bends`](Self::bends) returned for them.
    pub fn bent(&self, [own, cross]: [&[T]; 2], v: &[T], into: &mut [T], n: usize) {
        match self.loss {
            Loss::CrossEntropy { .. } | Loss::Distillation { .. } => {
                for (own, (v, into)) in
                    own.chunks_exact(n).zip(v.chunks_exact(n).zip(into.chunks_exact_mut(n)))
                {
                    for head in self.heads_of(n) {
                        soft_cross_entropy::bend(&own[head.clone()], &v[head.clone()], &mut into[head]);
                    }
                }
            }
            Loss::GaussianNll { .. } => {
                for i in 0..into.len() {
                    let other = if i % n < n / 2 { i + n / 2 } else { i - n / 2 };
                    into[i] = own[i] * v[i] + cross[i] * v[other];
                }
            }
            _ => into.iter_mut().zip(own.iter().zip(v)).for_each(|(into, (a, v))| *into = *a * *v),
        }
    }

    fn second_of_label(&self, label: i64, output: &[T], into: &mut [T], factor: f64) {
        let Loss::CrossEntropy { smoothing, ignore } = self.loss else {
            unreachable!("only it takes labels")
        };
        if label == ignore {
            return;
        }
        let (head, weights) = self.head(label as usize, output.len());
        let share = |j: usize| f64::from(head.start + j == label as usize);
        let mass = soft_cross_entropy::mass(share, head.len(), weights, smoothing);
        let (output, into) = (&output[head.clone()], &mut into[head.clone()]);
        soft_cross_entropy::probabilities(output, weights, 1.0, into, factor * mass);
    }

    fn second_of_row(&self, kind: Second, y: &[T], output: &[T], [into, cross]: [&mut [T]; 2], factor: f64) {
        let fisher = kind == Second::Fisher;
        let constant = |j: usize| self.constants.get(j).map_or(1.0, |c| c.to_f64());
        let mut diagonal = |bend: &dyn Fn(usize, f64, f64) -> f64| {
            for (j, into) in into.iter_mut().enumerate() {
                let (o, t) = (output[j].to_f64(), y[j % y.len()].to_f64());
                *into = T::lit(factor * bend(j, o, t));
            }
        };
        match self.loss {
            Loss::Mse => diagonal(&|_, _, _| mse::BEND),
            Loss::L1 | Loss::Quantile => diagonal(&|_, _, _| 0.0),
            Loss::Huber { delta } => diagonal(&|_, o, t| huber::bend(o, t, delta)),
            Loss::BceWithLogits => diagonal(&|j, o, t| bce::bend(o, t, constant(j))),
            Loss::PoissonNll { log_input: true, .. } => diagonal(&|_, o, _| poisson_nll::log_rate_bend(o)),
            Loss::PoissonNll { eps, .. } => {
                // The mean of a count is its rate.
                diagonal(&|_, o, t| poisson_nll::rate_bend(o, if fisher { o } else { t }, eps));
            }
            Loss::CrossEntropy { smoothing, .. } => {
                for head in self.heads_of(y.len()) {
                    let y = &y[head.clone()];
                    // As in the loss itself, a head without shares does not contribute.
                    if self.heads.is_empty() || y.iter().any(|t| *t != T::ZERO) {
                        let weights = self.constants.get(head.clone()).unwrap_or_default();
                        let mass = soft_cross_entropy::mass(|j| y[j].to_f64(), y.len(), weights, smoothing);
                        let (output, into) = (&output[head.clone()], &mut into[head]);
                        soft_cross_entropy::probabilities(output, weights, 1.0, into, factor * mass);
                    }
                }
            }
            // τ²·KL: each derivative takes one τ.
            Loss::Distillation { temperature } => {
                soft_cross_entropy::probabilities(output, &[], 1.0 / temperature, into, factor);
            }
            Loss::GaussianNll { eps, .. } => {
                let k = y.len();
                for j in 0..k {
                    let (mean, log) = (output[j].to_f64(), output[k + j].to_f64());
                    let [a, b, c] = match fisher {
                        true => gaussian_nll::fisher(log, eps),
                        false => gaussian_nll::bends(mean, log, y[j].to_f64(), eps),
                    };
                    (into[j], into[k + j]) = (T::lit(factor * a), T::lit(factor * c));
                    (cross[j], cross[k + j]) = (T::lit(factor * b), T::lit(factor * b));
                }
            }
        }
    }
}
