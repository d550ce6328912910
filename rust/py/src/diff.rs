//! Derivatives beyond the gradient: forward mode, and products with matrices of second derivatives.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::Error;
use thalweg_core::diff::{self, Matrix as Which};

use crate::arrays::{Answers, Matrix, Weights, matrix_out, vector, vector_out};
use crate::dtype::with_dtype;
use crate::errors::translate;
use crate::model::Model;
use crate::trainer::parse_loss;

/// A matrix of second derivatives of the loss on a batch, times v.
#[pyfunction]
#[pyo3(signature = (model, loss, x, y, v, matrix, training, sample_weight=None))]
pub fn curvature_product(
    py: Python<'_>,
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
            let accepted = "\"hessian\", \"gauss_newton\" or \"fisher\"".into();
            let error = Error::Argument { name: "matrix", value: format!("{matrix:?}"), accepted };
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
        let mut into = vec![T::default(); v.len()];
        model.detached::<T, _>(py, |m| diff::product(m, &objective, x, y, which, training, &v, &mut into))?;
        Ok(vector_out(py, into))
    })
}

/// Outputs, and their derivative in the direction `v` of the parameters and, if it is there, `dx` of the inputs.
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
        let [mut y, mut dot] = [(); 2].map(|()| vec![T::default(); rows * outputs]);
        model.detached::<T, _>(py, |m| diff::jvp(m, x, dx, training, &v, [&mut y, &mut dot]))?;
        Ok((matrix_out(py, y, rows, outputs)?, matrix_out(py, dot, rows, outputs)?))
    })
}
