//! NumPy arrays, borrowed: they must be C-contiguous and in the model's precision.

use half::f16;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::PyTypeInfo;
use pyo3::prelude::*;
use thalweg_core::arena::{reserve, zeros};
use thalweg_core::data::Samples;
use thalweg_core::loss::{Goals, Targets};
use thalweg_core::train::DataSet;
use thalweg_core::view::MatRef;
use thalweg_core::{Dtype, Error};

use crate::borrow::{AnyShape, Plane, Vector};
use crate::dtype::Real;
use crate::errors::{raise, translate};

/// A borrowed matrix. While it exists, the array stays where it is.
pub struct Matrix<'py, T: Real>(Plane<'py, T>);

impl<'py, T: Real> Matrix<'py, T> {
    /// Borrows an array.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        Plane::new(array).map(Matrix).ok_or_else(|| {
            let name = T::DTYPE.name();
            let message = format!("{argument} must be a C-contiguous {name} array of shape (rows, features)");
            raise(array.py(), "DtypeError", message)
        })
    }

    /// The core's view of it.
    pub fn view(&self) -> MatRef<'_, T> {
        view(&self.0)
    }
}

/// Borrowed rows of features, in the model's precision or one that is converted batch by batch.
pub enum Features<'py, T: Real> {
    Native(Matrix<'py, T>),
    Bytes(Plane<'py, u8>),
    Half(Plane<'py, f16>),
    Single(Plane<'py, f32>),
    Double(Plane<'py, f64>),
}

impl<'py, T: Real> Features<'py, T> {
    /// Borrows an array.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        if array.cast::<PyArray2<T>>().is_err() {
            if let Some(array) = Plane::new(array) {
                return Ok(Features::Bytes(array));
            }
            if let Some(array) = Plane::new(array) {
                return Ok(Features::Half(array));
            }
            if let Some(array) = Plane::new(array) {
                return Ok(Features::Single(array));
            }
            if let Some(array) = Plane::new(array) {
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
fn view<'a, E: Element + Copy>(array: &'a Plane<'_, E>) -> MatRef<'a, E> {
    let [rows, cols] = *array.shape() else { unreachable!("a matrix has two dimensions") };
    MatRef::new(array.as_slice(), rows, cols)
}

/// Whether something is an aligned array, and not of a subclass: a masked array is more than its values.
pub fn is_plain(array: &Bound<'_, PyAny>) -> bool {
    let exact = array.get_type().is(PyUntypedArray::type_object(array.py()));
    exact && array.cast::<PyUntypedArray>().is_ok_and(|a| a.is_aligned())
}

/// Targets, borrowed or converted.
pub enum Answers<'py, T: Real> {
    Values(Matrix<'py, T>),
    /// One number per row.
    Column(Vector<'py, T>),
    /// Numbers converted from the other precision.
    Converted {
        values: Vec<T>,
        rows: usize,
    },
    Labels(Vector<'py, i64>),
}

impl<'py, T: Real> Answers<'py, T> {
    /// Borrows labels if the array is int64, otherwise numbers.
    pub fn new(argument: &str, array: &Bound<'py, PyAny>) -> PyResult<Self> {
        match Vector::new(array) {
            Some(labels) => Ok(Answers::Labels(labels)),
            None => Ok(Answers::Values(Matrix::new(argument, array)?)),
        }
    }

    /// The same for a single step: also accepts the other precision and, if `column` says that it cannot mean
    /// anything else, a one-dimensional array. `None` if a closer look is necessary.
    pub fn for_step(array: &Bound<'py, PyAny>, column: impl Fn() -> bool) -> Option<Self> {
        if array.cast::<PyArray2<T>>().is_ok() || array.cast::<PyArray1<i64>>().is_ok() {
            return Self::new("y", array).ok();
        }
        if let Some(numbers) = Vector::new(array) {
            return column().then_some(Answers::Column(numbers));
        }
        let values = converted(array, 0.0)?;
        let &[rows, ref cols @ ..] = array.cast::<PyUntypedArray>().ok()?.shape() else { return None };
        let as_rows = cols.len() == 1 || cols.is_empty() && column();
        (rows > 0 && as_rows).then_some(Answers::Converted { values, rows })
    }

    /// The core's view of them.
    pub fn view(&self) -> Targets<'_, T> {
        match self {
            Answers::Values(matrix) => Targets::Values(matrix.view()),
            Answers::Column(numbers) => {
                let numbers = numbers.as_slice();
                Targets::Values(MatRef::new(numbers, numbers.len(), 1))
            }
            Answers::Converted { values, rows } => {
                Targets::Values(MatRef::new(values, *rows, values.len() / (*rows).max(1)))
            }
            Answers::Labels(labels) => Targets::Labels(labels.as_slice()),
        }
    }
}

/// Converts a contiguous array of the other precision, if all its numbers are finite in this one, and 0 or of a size of
/// at least `least`.
fn converted<T: Real>(array: &Bound<'_, PyAny>, least: f64) -> Option<Vec<T>> {
    fn of<T: Real, E: Real>(array: &Bound<'_, PyAny>, least: f64) -> Option<Vec<T>> {
        let array = AnyShape::<E>::new(array)?;
        let array = array.as_slice();
        if array.iter().any(|x| *x != E::ZERO && x.to_f64().abs() < least) {
            return None;
        }
        let values: Vec<T> = array.iter().map(|x| T::lit(x.to_f64())).collect();
        values.iter().all(|x| x.is_finite()).then_some(values)
    }
    of::<T, f64>(array, least).or_else(|| of::<T, f32>(array, least))
}

/// Weights of rows, if there are any, borrowed or converted.
pub enum Weights<'py, T: Real> {
    None,
    Borrowed(Vector<'py, T>),
    Converted(Vec<T>),
}

impl<'py, T: Real> Weights<'py, T> {
    /// Borrows an array; `None` means no weights.
    pub fn new(argument: &str, array: Option<&Bound<'py, PyAny>>) -> PyResult<Self> {
        let Some(array) = array.filter(|a| !a.is_none()) else { return Ok(Weights::None) };
        Vector::new(array).map(Weights::Borrowed).ok_or_else(|| {
            let name = T::DTYPE.name();
            let message = format!("{argument} must be a contiguous {name} array of shape (rows,)");
            raise(array.py(), "DtypeError", message)
        })
    }

    /// The same for a single step, in either precision; see [`Answers::for_step`].
    pub fn for_step(array: Option<&Bound<'py, PyAny>>) -> Option<Self> {
        let Some(array) = array.filter(|a| !a.is_none()) else { return Some(Weights::None) };
        // Weights below that are 0, or they are negative, or would count as 0: the caller says which.
        let least = if T::DTYPE == Dtype::F32 { f64::from(f32::MIN_POSITIVE) } else { f64::MIN_POSITIVE };
        let weights = match Vector::new(array) {
            Some(weights) => Weights::Borrowed(weights),
            None if array.cast::<PyUntypedArray>().ok()?.ndim() == 1 => {
                Weights::Converted(converted(array, least)?)
            }
            None => return None,
        };
        let bad = |w: &T| *w != T::ZERO && w.to_f64() < least;
        (!weights.slice().is_some_and(|w| w.iter().any(bad))).then_some(weights)
    }

    fn slice(&self) -> Option<&[T]> {
        match self {
            Weights::None => None,
            Weights::Borrowed(w) => Some(w.as_slice()),
            Weights::Converted(w) => Some(w),
        }
    }

    /// The core's view of these weights and of the targets that they belong to.
    pub fn with<'a>(&'a self, targets: Targets<'a, T>) -> Goals<'a, T> {
        Goals { targets, weights: self.slice() }
    }
}

/// Samples, targets and weights, borrowed.
pub struct Data<'py, T: Real> {
    x: Features<'py, T>,
    y: Answers<'py, T>,
    weights: Weights<'py, T>,
}

impl<'py, T: Real> Data<'py, T> {
    /// Borrows arrays; errors name them with a prefix.
    pub fn new(
        prefix: &str,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        weights: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        Ok(Data {
            x: Features::new(&format!("{prefix}x"), x)?,
            y: Answers::new(&format!("{prefix}y"), y)?,
            weights: Weights::new(&format!("{prefix}sample_weight"), weights)?,
        })
    }

    /// The core's view of them.
    pub fn view(&self) -> DataSet<'_, T> {
        DataSet { x: self.x.view(), y: self.weights.with(self.y.view()) }
    }
}

/// Copies a vector of a given length from Python.
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
    if !array.is_aligned() {
        return Err(raise(py, "DtypeError", format!("{argument} is not aligned: pass a copy")));
    }
    let mut values = Vec::new();
    reserve("a copy of an array", &mut values, len).map_err(|e| translate(py, e))?;
    match array.as_slice() {
        Ok(from) => values.extend_from_slice(from),
        Err(_) => values.extend(array.as_array()), // strided
    }
    Ok(values)
}

/// Zeros for rows × cols numbers, if there is enough memory; `what` is used in the error's text.
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
