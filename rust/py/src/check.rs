//! The core of the gradient checker: gradients beside central differences.

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::check::{Check, Difference};
use thalweg_core::view::MatRef;
use thalweg_core::{Dtype, Error, Model as CoreModel};

use crate::arrays::{Answers, Matrix, Weights, matrix_out, vector_out};
use crate::errors::translate;
use crate::model::Model;
use crate::trainer::parse_loss;

/// Parameters that are checked before a look for Ctrl-C.
const CHUNK: usize = 128;

/// By backpropagation, by differences, and whether a kink was crossed; by parameter.
type Columns = (Py<PyAny>, Py<PyAny>, Py<PyAny>);

/// For a loss of the core.
#[pyfunction]
#[pyo3(signature = (model, loss, x, y, h, sample_weight=None))]
pub fn central_differences(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    loss: &Bound<'_, PyTuple>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    h: f64,
    sample_weight: Option<&Bound<'_, PyAny>>,
) -> PyResult<Columns> {
    let (objective, model) = (parse_loss(loss)?, model.get());
    check_arguments(py, model, h)?;
    let (x, y) = (Matrix::<f64>::new("x", x)?, Answers::<f64>::new("y", y)?);
    let weights = Weights::<f64>::new("sample_weight", sample_weight)?;
    let (x, y) = (x.view(), weights.with(y.view()));
    let mut check = model.detached::<f64, _>(py, |m| Check::new(m, objective, x, y))?;
    let mut all: Vec<Difference> = Vec::with_capacity(check.len());
    while all.len() < check.len() {
        let range = all.len()..check.len().min(all.len() + CHUNK);
        all.extend(model.detached::<f64, _>(py, |m| Ok(check.run(m, x, y, h, range)))?);
        py.check_signals()?;
    }
    Ok(columns(py, &all))
}

/// For a function of the outputs that gives the loss and its gradient by them. It must not use the model,
/// which is at work.
#[pyfunction]
pub fn central_differences_of(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    function: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    h: f64,
) -> PyResult<Columns> {
    let (function, model) = (function.as_unbound(), model.get());
    check_arguments(py, model, h)?;
    let x = Matrix::<f64>::new("x", x)?;
    let x = x.view();
    let mut failed = None;
    let mut f = |output: MatRef<'_, f64>, gradient: Option<&mut [f64]>| {
        if failed.is_some() {
            return f64::NAN;
        }
        Python::attach(|py| call(function.bind(py), output, gradient)).unwrap_or_else(|error| {
            failed = Some(error);
            f64::NAN
        })
    };
    let run = |m: &mut CoreModel<f64>| {
        let mut check = Check::of_function(m, x, &mut f)?;
        let range = 0..check.len();
        Ok(check.run_function(m, x, &mut f, h, range))
    };
    let all = model.detached::<f64, _>(py, run);
    match failed {
        Some(error) => Err(error),
        None => Ok(columns(py, &all?)),
    }
}

/// Calls a function of Python for the loss of some outputs, and copies its gradient, if that is wanted.
fn call(function: &Bound<'_, PyAny>, output: MatRef<'_, f64>, gradient: Option<&mut [f64]>) -> PyResult<f64> {
    let py = function.py();
    py.check_signals()?;
    let rows = (0..output.rows()).flat_map(|r| output.row(r)).copied().collect();
    let result = function.call1((matrix_out(py, rows, output.rows(), output.cols())?,))?;
    let (loss, slope): (f64, Bound<'_, PyAny>) = result.extract()?;
    if let Some(gradient) = gradient {
        let slope = Matrix::<f64>::new("the gradient", &slope)?;
        let slope = slope.view();
        for (r, into) in gradient.chunks_exact_mut(output.cols()).enumerate() {
            into.copy_from_slice(slope.row(r));
        }
    }
    Ok(loss)
}

fn check_arguments(py: Python<'_>, model: &Model, h: f64) -> PyResult<()> {
    if model.dtype != Dtype::F64 {
        let text = "differences are taken in float64: use model.astype(\"float64\")";
        return Err(translate(py, Error::Mismatch(text.into())));
    }
    if !(h > 0.0 && h.is_finite()) {
        let accepted = "a positive number is needed".into();
        return Err(translate(py, Error::Argument { name: "h", value: h.to_string(), accepted }));
    }
    Ok(())
}

fn columns(py: Python<'_>, all: &[Difference]) -> Columns {
    let crossed: Vec<bool> = all.iter().map(|d| d.crossed).collect();
    (
        vector_out(py, all.iter().map(|d| d.analytic).collect::<Vec<f64>>()),
        vector_out(py, all.iter().map(|d| d.numeric).collect::<Vec<f64>>()),
        PyArray1::from_vec(py, crossed).into_any().unbind(),
    )
}
