//! NumPy arrays, borrowed: C-contiguous and of the model's precision, or an error.

use half::f16;
use numpy::{
    Element, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use thalweg_core::Error;
use thalweg_core::arena::zeros;
use thalweg_core::data::Samples;
use thalweg_core::loss::{Goals, Targets};
use thalweg_core::view::MatRef;

use crate::dtype::Real;
use crate::errors::{raise, translate};

/// A borrowed matrix. While it lives, the array stays where it is.
pub struct Matrix<'py, T: Real>(PyReadonlyArray2<'py, T>);

impl<'py, T: Real> Matrix<'py, T> {
    /// Borrows an array.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        let refuse = || {
            let name = T::DTYPE.name();
            let message = format!("{argument} must be a C-contiguous {name} array of shape (rows, features)");
            raise(array.py(), "DtypeError", message)
        };
        let array = array.cast::<PyArray2<T>>().map_err(|_| refuse())?;
        if !array.is_c_contiguous() {
            return Err(refuse());
        }
        Ok(Matrix(array.try_readonly().map_err(|_| refuse())?))
    }

    /// The core's view of it.
    pub fn view(&self) -> MatRef<'_, T> {
        view(&self.0)
    }
}

/// Borrowed rows of features, in the model's precision or one that is converted batch by batch.
pub enum Features<'py, T: Real> {
    Native(Matrix<'py, T>),
    Bytes(PyReadonlyArray2<'py, u8>),
    Half(PyReadonlyArray2<'py, f16>),
    Single(PyReadonlyArray2<'py, f32>),
    Double(PyReadonlyArray2<'py, f64>),
}

impl<'py, T: Real> Features<'py, T> {
    /// Borrows an array.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        fn borrow<'py, E: Element>(array: &Bound<'py, PyAny>) -> Option<PyReadonlyArray2<'py, E>> {
            let array = array.cast::<PyArray2<E>>().ok().filter(|a| a.is_c_contiguous())?;
            array.try_readonly().ok()
        }
        if array.cast::<PyArray2<T>>().is_err() {
            if let Some(array) = borrow(array) {
                return Ok(Features::Bytes(array));
            }
            if let Some(array) = borrow(array) {
                return Ok(Features::Half(array));
            }
            if let Some(array) = borrow(array) {
                return Ok(Features::Single(array));
            }
            if let Some(array) = borrow(array) {
                return Ok(Features::Double(array));
            }
        }
        Ok(Features::Native(Matrix::new(argument, array)?))
    }

    /// The core's view of them.
    pub fn view(&self) -> Samples<'_, T> {
        match self {
            Features::Native(matrix) => Samples::Native(matrix.view()),
            Features::Bytes(array) => Samples::Bytes(view(array)),
            Features::Half(array) => Samples::Half(view(array)),
            Features::Single(array) => Samples::Single(view(array)),
            Features::Double(array) => Samples::Double(view(array)),
        }
    }
}

/// The core's view of an array that is C-contiguous.
fn view<'a, E: Element + Copy>(array: &'a PyReadonlyArray2<'_, E>) -> MatRef<'a, E> {
    let [rows, cols] = *array.shape() else { unreachable!("a matrix has two dimensions") };
    MatRef::new(array.as_slice().expect("checked when it was borrowed"), rows, cols)
}

/// Whether something is an aligned array, and no subclass: a masked array is more than its values.
pub fn is_plain(array: &Bound<'_, PyAny>) -> bool {
    let exact = array.get_type().is(PyUntypedArray::type_object(array.py()));
    exact && array.cast::<PyUntypedArray>().is_ok_and(|a| a.is_aligned())
}

/// Borrowed targets.
pub enum Answers<'py, T: Real> {
    Values(Matrix<'py, T>),
    Labels(PyReadonlyArray1<'py, i64>),
}

impl<'py, T: Real> Answers<'py, T> {
    /// Borrows labels if the array is one of int64, else numbers.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        match array.cast::<PyArray1<i64>>() {
            Ok(labels) if labels.is_c_contiguous() => {
                let labels =
                    labels.try_readonly().map_err(|e| raise(array.py(), "DtypeError", e.to_string()))?;
                Ok(Answers::Labels(labels))
            }
            _ => Ok(Answers::Values(Matrix::new(argument, array)?)),
        }
    }

    /// The core's view of them.
    pub fn view(&self) -> Targets<'_, T> {
        match self {
            Answers::Values(matrix) => Targets::Values(matrix.view()),
            Answers::Labels(labels) => {
                Targets::Labels(labels.as_slice().expect("checked when it was borrowed"))
            }
        }
    }
}

/// Borrowed weights of rows, if there are any.
pub struct Weights<'py, T: Real>(Option<PyReadonlyArray1<'py, T>>);

impl<'py, T: Real> Weights<'py, T> {
    /// Borrows an array; `None` is no weights.
    pub fn new(argument: &str, array: Option<&Bound<'py, PyAny>>) -> PyResult<Self> {
        let Some(array) = array.filter(|a| !a.is_none()) else { return Ok(Weights(None)) };
        let refuse = || {
            let name = T::DTYPE.name();
            raise(
                array.py(),
                "DtypeError",
                format!("{argument} must be a contiguous {name} array of shape (rows,)"),
            )
        };
        let weights = array.cast::<PyArray1<T>>().map_err(|_| refuse())?;
        if !weights.is_c_contiguous() {
            return Err(refuse());
        }
        Ok(Weights(Some(weights.try_readonly().map_err(|_| refuse())?)))
    }

    /// The core's view of them and of the targets that they belong to.
    pub fn with<'a>(&'a self, targets: Targets<'a, T>) -> Goals<'a, T> {
        let weights = self.0.as_ref().map(|w| w.as_slice().expect("checked when it was borrowed"));
        Goals { targets, weights }
    }
}

/// Copies a vector of a given length out of Python.
pub fn vector<T: Real>(argument: &str, array: &Bound<'_, PyAny>, len: usize) -> PyResult<Vec<T>> {
    let py = array.py();
    let array = array.cast::<PyArray1<T>>().map_err(|_| {
        raise(py, "DtypeError", format!("{argument} must be a {} array of shape ({len},)", T::DTYPE.name()))
    })?;
    if array.len() != len {
        let message = format!("{argument} has shape ({},), expected ({len},)", array.len());
        return Err(raise(py, "ShapeError", message));
    }
    let array = array.try_readonly().map_err(|e| raise(py, "DtypeError", format!("{argument}: {e}")))?;
    let from = array.as_array();
    let mut values = zeros("a copy of an array", len).map_err(|e| translate(py, e))?;
    values.iter_mut().zip(from).for_each(|(into, x)| *into = *x);
    Ok(values)
}

/// Zeros for rows × cols numbers, for `what` in the error's text, if there is memory for them.
pub fn room<T: Real>(what: &'static str, rows: usize, cols: usize) -> Result<Vec<T>, Error> {
    zeros(what, rows.saturating_mul(cols))
}

/// A new rows × cols array.
pub fn matrix_out<T: Real>(py: Python<'_>, values: Vec<T>, rows: usize, cols: usize) -> PyResult<Py<PyAny>> {
    Ok(PyArray1::from_vec(py, values).reshape([rows, cols])?.into_any().unbind())
}

/// A new vector.
pub fn vector_out<T: Real>(py: Python<'_>, values: Vec<T>) -> Py<PyAny> {
    PyArray1::from_vec(py, values).into_any().unbind()
}
