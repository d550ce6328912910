//! `central_differences`: the core of the gradient checker.

use pyo3::prelude::*;
use thalweg_core::check::{Check, Difference};
use thalweg_core::{Dtype, Error};

use crate::arrays::{Answers, Matrix, vector_out};
use crate::errors::translate;
use crate::model::Model;
use crate::trainer::parse_loss;

/// Parameters that are checked before a look for Ctrl-C.
const CHUNK: usize = 128;

#[pyfunction]
pub fn central_differences(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    loss: &str,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    h: f64,
) -> PyResult<(Py<PyAny>, Py<PyAny>, Py<PyAny>)> {
    let loss = parse_loss(py, loss)?;
    let model = model.get();
    if model.dtype != Dtype::F64 {
        let text = "differences are taken in float64: use model.astype(\"float64\")";
        return Err(translate(py, Error::Mismatch(text.into())));
    }
    if !(h > 0.0 && h.is_finite()) {
        let accepted = "a positive number is needed".into();
        return Err(translate(py, Error::Argument { name: "h", value: h.to_string(), accepted }));
    }
    let (x, y) = (Matrix::<f64>::new("x", x)?, Answers::<f64>::new("y", y)?);
    let (x, y) = (x.view(), y.view());
    let mut check = model.detached::<f64, _>(py, |m| Check::new(m, loss, x, y))?;
    let mut all: Vec<Difference> = Vec::with_capacity(check.len());
    while all.len() < check.len() {
        let range = all.len()..check.len().min(all.len() + CHUNK);
        all.extend(model.detached::<f64, _>(py, |m| Ok(check.run(m, x, y, h, range)))?);
        py.check_signals()?;
    }
    let crossed: Vec<bool> = all.iter().map(|d| d.crossed).collect();
    Ok((
        vector_out(py, all.iter().map(|d| d.analytic).collect::<Vec<f64>>()),
        vector_out(py, all.iter().map(|d| d.numeric).collect::<Vec<f64>>()),
        numpy::PyArray1::from_vec(py, crossed).into_any().unbind(),
    ))
}
