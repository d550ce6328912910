//! How much each parameter matters: Fisher information, and sizes of gradients.

use pyo3::prelude::*;
use thalweg_core::Error;
use thalweg_core::diff::kronecker::{Factors, Kronecker};
use thalweg_core::diff::likelihood::{Kind, Likelihood, Slopes};
use thalweg_core::diff::squares::{Squares, Sum};
use thalweg_core::diff::sweep::CHUNK;

use crate::arrays::{Answers, Features, matrix_out, vector, vector_out};
use crate::dtype::{Real, with_dtype};
use crate::errors::translate;
use crate::model::Model;

/// The mean over samples (over batches for "batched"), per parameter, in public order.
#[pyfunction]
#[pyo3(signature = (model, x, y, likelihood, kind, classes=None, seed=0, batch_size=1, sample_weight=None))]
#[allow(clippy::too_many_arguments)]
pub fn importance(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    x: &Bound<'_, PyAny>,
    y: Option<&Bound<'_, PyAny>>,
    likelihood: &str,
    kind: &str,
    classes: Option<Vec<usize>>,
    seed: u64,
    batch_size: usize,
    sample_weight: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let (likelihood, (kind, sum)) = parse(likelihood, kind, seed).map_err(|e| translate(py, e))?;
    let model = model.get();
    with_dtype!(model.dtype, T => {
        let x = Features::<T>::new("x", x)?;
        let y = y.map(|y| Answers::<T>::new("y", y)).transpose()?;
        let (x, y) = (x.view(), y.as_ref().map(Answers::view));
        let weights = sample_weight.map(|w| vector::<T>("sample_weight", w, x.rows())).transpose()?;
        let (weights, outputs) = (weights.as_deref(), model.network.outputs());
        let mut squares = model.detached::<T, _>(py, |m| {
            m.network().check_input(x)?;
            let slopes = Slopes::new(likelihood, kind, classes, outputs)?;
            slopes.check(y.as_ref(), x.rows(), outputs)?;
            Squares::new(m, sum, slopes)
        })?;
        let size = if sum.over_batches() { batch_size.max(1) } else { CHUNK };
        for start in (0..x.rows()).step_by(size) {
            let rows = start..x.rows().min(start + size);
            model.detached::<T, _>(py, |m| squares.add(m, x, rows, y.as_ref(), weights))?;
            py.check_signals()?;
        }
        let mean = py.detach(|| squares.mean(&model.network)).map_err(|e| translate(py, e))?;
        Ok(vector_out(py, narrow::<T>(mean)))
    })
}

/// A layer's place, its A and its G.
type Triple = (String, Py<PyAny>, Py<PyAny>);

/// Kronecker factors of the Fisher information, per dense layer.
#[pyfunction]
#[pyo3(signature = (model, x, y, likelihood, kind, classes=None, seed=0))]
#[allow(clippy::too_many_arguments)]
pub fn kronecker(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    x: &Bound<'_, PyAny>,
    y: Option<&Bound<'_, PyAny>>,
    likelihood: &str,
    kind: &str,
    classes: Option<Vec<usize>>,
    seed: u64,
) -> PyResult<Vec<Triple>> {
    let (likelihood, (kind, _)) = parse(likelihood, kind, seed).map_err(|e| translate(py, e))?;
    let model = model.get();
    with_dtype!(model.dtype, T => {
        let x = Features::<T>::new("x", x)?;
        let y = y.map(|y| Answers::<T>::new("y", y)).transpose()?;
        let (x, y) = (x.view(), y.as_ref().map(Answers::view));
        let outputs = model.network.outputs();
        let mut sums = model.detached::<T, _>(py, |m| {
            m.network().check_input(x)?;
            let slopes = Slopes::new(likelihood, kind, classes, outputs)?;
            slopes.check(y.as_ref(), x.rows(), outputs)?;
            Kronecker::new(m.network(), slopes)
        })?;
        for start in (0..x.rows()).step_by(CHUNK) {
            let rows = start..x.rows().min(start + CHUNK);
            model.detached::<T, _>(py, |m| sums.add(m, x, rows, y.as_ref()))?;
            py.check_signals()?;
        }
        let factors = py.detach(|| sums.factors(&model.network)).map_err(|e| translate(py, e))?;
        let out = |Factors { layer, a, g, sizes }| {
            let square = |values, n| matrix_out(py, narrow::<T>(values), n, n);
            Ok((layer, square(a, sizes[0])?, square(g, sizes[1])?))
        };
        factors.into_iter().map(out).collect()
    })
}

/// Converts to the model's precision.
fn narrow<T: Real>(values: Vec<f64>) -> Vec<T> {
    values.into_iter().map(T::lit).collect()
}

fn parse(likelihood: &str, kind: &str, seed: u64) -> Result<(Likelihood, (Kind, Sum)), Error> {
    let wrong = |name, value: &str, accepted: &str| Error::argument(name, format!("{value:?}"), accepted);
    let likelihood = match likelihood {
        "categorical" => Likelihood::Categorical,
        "bernoulli" => Likelihood::Bernoulli,
        "gaussian" => Likelihood::Gaussian,
        "independent" => Likelihood::Independent,
        other => {
            let accepted = "one of categorical, bernoulli, gaussian, independent is needed";
            return Err(wrong("likelihood", other, accepted));
        }
    };
    let kind = match kind {
        "exact" => (Kind::Exact, Sum::Squares),
        "sampled" => (Kind::Sampled { seed }, Sum::Squares),
        "empirical" => (Kind::Empirical, Sum::Squares),
        "batched" => (Kind::Empirical, Sum::Batches),
        "weighted" => (Kind::Weighted, Sum::Squares),
        "norm" => (Kind::Norm, Sum::Sizes),
        "batched_norm" => (Kind::Norm, Sum::BatchSizes),
        other => {
            return Err(wrong(
                "kind",
                other,
                "one of exact, sampled, empirical, batched, weighted, norm, batched_norm is needed",
            ));
        }
    };
    Ok((likelihood, kind))
}
