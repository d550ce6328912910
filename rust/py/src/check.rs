//! The core of the gradient checker: compares gradients with central differences.

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::check::{Check, Difference, Source};
use thalweg_core::view::MatRef;
use thalweg_core::{Dtype, Error};

use crate::arrays::{Answers, Matrix, Weights, matrix_out, vector_out};
use crate::errors::translate;
use crate::locks::aside;
use crate::loss::parse_loss;
use crate::model::Model;

/// Parameters that are checked between two polls for Ctrl-C.
const CHUNK: usize = 512;

/// For each parameter: by backpropagation, by differences, and whether a kink was crossed.
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
    let source = || Source::Goals(&objective, y);
    let mut check = model.detached::<f64, _>(py, |m| Check::new(m, x, &mut source()))?;
    let mut all: Vec<Difference> = Vec::with_capacity(check.len());
    while all.len() < check.len() {
        let range = all.len()..check.len().min(all.len() + CHUNK);
        all.extend(model.detached::<f64, _>(py, |m| check.run(m, x, &mut source(), h, range))?);
        py.check_signals()?;
    }
    Ok(columns(py, &all))
}

/// For a function of the outputs that returns the loss and its gradient with respect to them. The model must be
/// a copy that nobody else uses, not even the function: it is locked while that runs.
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
    let all = {
        let mut f = caller(function, &mut failed);
        model.detached::<f64, _>(py, |m| {
            let source = &mut Source::Function(&mut f);
            let mut check = Check::new(m, x, source)?;
            let range = 0..check.len();
            check.run(m, x, source, h, range)
        })
    };
    match failed {
        Some(error) => Err(error),
        None => Ok(columns(py, &all?)),
    }
}

/// The gradient by backpropagation; losses at θ + s·v; and whether a kink lies between there and θ.
type Line = (Py<PyAny>, Py<PyAny>, Py<PyAny>);

/// The loss along a line, for a loss of the core.
#[pyfunction]
#[pyo3(signature = (model, loss, x, y, start, direction, steps, sample_weight=None))]
#[allow(clippy::too_many_arguments)] // these are what Python passes
pub fn losses_along(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    loss: &Bound<'_, PyTuple>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    start: usize,
    direction: Vec<f64>,
    steps: Vec<f64>,
    sample_weight: Option<&Bound<'_, PyAny>>,
) -> PyResult<Line> {
    let (objective, model) = (parse_loss(loss)?, model.get());
    check_arguments(py, model, 1.0)?;
    let (x, y) = (Matrix::<f64>::new("x", x)?, Answers::<f64>::new("y", y)?);
    let weights = Weights::<f64>::new("sample_weight", sample_weight)?;
    let (x, y) = (x.view(), weights.with(y.view()));
    let (gradient, all) = model.detached::<f64, _>(py, |m| {
        let source = &mut Source::Goals(&objective, y);
        let mut check = Check::new(m, x, source)?;
        check_range(&check, start, &direction)?;
        let all = check.along(m, x, source, start, &direction, &steps);
        Ok((check.gradient(), all))
    })?;
    Ok(line(py, gradient, &all))
}

/// The same for a function of the outputs; see `central_differences_of`.
#[pyfunction]
pub fn losses_along_of(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    function: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    start: usize,
    direction: Vec<f64>,
    steps: Vec<f64>,
) -> PyResult<Line> {
    let (function, model) = (function.as_unbound(), model.get());
    check_arguments(py, model, 1.0)?;
    let x = Matrix::<f64>::new("x", x)?;
    let x = x.view();
    let mut failed = None;
    let all = {
        let mut f = caller(function, &mut failed);
        model.detached::<f64, _>(py, |m| {
            let source = &mut Source::Function(&mut f);
            let mut check = Check::new(m, x, source)?;
            check_range(&check, start, &direction)?;
            let all = check.along(m, x, source, start, &direction, &steps);
            Ok((check.gradient(), all))
        })
    };
    match failed {
        Some(error) => Err(error),
        None => all.map(|(gradient, all)| line(py, gradient, &all)),
    }
}

fn check_range(check: &Check, start: usize, direction: &[f64]) -> Result<(), Error> {
    match start.checked_add(direction.len()) {
        Some(end) if end <= check.len() => Ok(()),
        _ => Err(Error::Mismatch(format!(
            "cannot check {} parameters from index {start} on: the model has only {}",
            direction.len(),
            check.len()
        ))),
    }
}

fn line(py: Python<'_>, gradient: Vec<f64>, all: &[(f64, bool)]) -> Line {
    let crossed: Vec<bool> = all.iter().map(|p| p.1).collect();
    (
        vector_out(py, gradient),
        vector_out(py, all.iter().map(|p| p.0).collect::<Vec<f64>>()),
        PyArray1::from_vec(py, crossed).into_any().unbind(),
    )
}

/// Turns a Python function into one for the core; after its first error it is not called again.
fn caller<'f>(
    function: &'f Py<PyAny>,
    failed: &'f mut Option<PyErr>,
) -> impl FnMut(MatRef<'_, f64>, Option<&mut [f64]>) -> f64 + use<'f> {
    move |output, gradient| {
        if failed.is_some() {
            return f64::NAN;
        }
        Python::attach(|py| aside(|| call(function.bind(py), output, gradient))).unwrap_or_else(|error| {
            *failed = Some(error);
            f64::NAN
        })
    }
}

/// Calls a Python function for the loss of some outputs, and copies its gradient, if that is wanted.
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
        return Err(translate(py, Error::argument("h", h, "a positive number is needed")));
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
