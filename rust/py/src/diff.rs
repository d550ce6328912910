//! Derivatives beyond the gradient: forward mode, and products with matrices of second derivatives.

use std::sync::Mutex;
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::Error;
use thalweg_core::diff::{self, Curvature, Matrix as Which};

use crate::arrays::{Answers, Matrix, Weights, matrix_out, room, vector, vector_out};
use crate::dtype::{AnyCurvature, Real, with_dtype};
use crate::errors::translate;
use crate::fit::POLL;
use crate::loss::parse_loss;
use crate::model::Model;

/// What products at the same point have in common, kept from one to the next, in one precision.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Point(Mutex<Option<AnyCurvature>>);

#[pymethods]
impl Point {
    /// Without anything yet.
    #[new]
    fn new() -> Self {
        Point(Mutex::new(None))
    }
}

impl Point {
    /// Takes what is kept, or a new one if nothing is, if it has the other precision, or if another thread is
    /// using it.
    fn take<T: Real>(&self) -> Curvature<T> {
        let kept = self.0.try_lock().ok().and_then(|mut kept| kept.take());
        kept.and_then(T::out_of).unwrap_or_default()
    }

    /// Puts it back.
    fn keep<T: Real>(&self, curvature: Curvature<T>) {
        if let Ok(mut kept) = self.0.try_lock() {
            *kept = Some(T::wrap(curvature));
        }
    }
}

/// A matrix of second derivatives of the loss on a batch, times v. What `point` has kept from the previous
/// product is used if everything but v is the same, bit for bit.
#[pyfunction]
#[pyo3(signature = (point, model, loss, x, y, v, matrix, training, sample_weight=None))]
pub fn curvature_product(
    py: Python<'_>,
    point: &Bound<'_, Point>,
    model: &Bound<'_, Model>,
    loss: &Bound<'_, PyTuple>,
    x: &Bound<'_, PyAny>,
    y: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    matrix: &str,
    training: bool,
    sample_weight: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let which = match matrix {
        "hessian" => Which::Hessian,
        "gauss_newton" => Which::GaussNewton,
        "fisher" => Which::Fisher,
        _ => {
            let error = Error::argument(
                "matrix",
                format!("{matrix:?}"),
                "one of hessian, gauss_newton, fisher is needed",
            );
            return Err(translate(py, error));
        }
    };
    let model = model.get();
    with_dtype!(model.dtype, T => {
        let objective = parse_loss::<T>(loss)?;
        let (x, y) = (Matrix::<T>::new("x", x)?, Answers::<T>::new("y", y)?);
        let weights = Weights::<T>::new("sample_weight", sample_weight)?;
        let v = vector::<T>("v", v, model.network.num_parameters())?;
        let (x, y) = (x.view(), weights.with(y.view()));
        let mut into = room("the product", v.len(), 1).map_err(|e| translate(py, e))?;
        let point = point.get();
        let mut kept = point.take::<T>();
        let begun = model.detached::<T, _>(py, |m| kept.begin(m, &objective, x, y, which, training, &v));
        let done = begun.and_then(|()| {
            // Without the model, and with looks for Ctrl-C; what is interrupted is not kept.
            loop {
                let begin = Instant::now();
                let done = py.detach(|| kept.go(&mut || begin.elapsed() >= POLL));
                if done.map_err(|e| translate(py, e))? {
                    kept.end(&mut into);
                    return Ok(());
                }
                if let Err(signal) = py.check_signals() {
                    kept = Curvature::default();
                    return Err(signal);
                }
            }
        });
        point.keep(kept);
        done?;
        Ok(vector_out(py, into))
    })
}

/// Outputs, and their derivative in the direction `v` of the parameters and, if given, `dx` of the inputs.
#[pyfunction]
#[pyo3(signature = (model, x, v, training, dx=None))]
pub fn jvp(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    x: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
    training: bool,
    dx: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
    let model = model.get();
    with_dtype!(model.dtype, T => {
        let x = Matrix::<T>::new("x", x)?;
        let dx = dx.map(|dx| Matrix::<T>::new("dx", dx)).transpose()?;
        let v = vector::<T>("v", v, model.network.num_parameters())?;
        let (x, dx) = (x.view(), dx.as_ref().map(Matrix::view));
        let (rows, outputs) = (x.rows(), model.network.outputs());
        let (y, dot) = model.detached::<T, _>(py, |m| {
            let what = "the outputs";
            let (mut y, mut dot) = (room(what, rows, outputs)?, room(what, rows, outputs)?);
            diff::jvp(m, x, dx, training, &v, [&mut y, &mut dot]).map(|()| (y, dot))
        })?;
        Ok((matrix_out(py, y, rows, outputs)?, matrix_out(py, dot, rows, outputs)?))
    })
}
