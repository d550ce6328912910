//! Core errors as Python exceptions. The classes live in `thalweg.errors`.

use pyo3::prelude::*;
use pyo3::types::PyType;
use thalweg_core::Error;

/// An instance of a class of `thalweg.errors`.
pub fn raise(py: Python<'_>, class: &str, message: String) -> PyErr {
    let found =
        py.import("thalweg.errors").and_then(|m| m.getattr(class)).and_then(|c| Ok(c.cast_into::<PyType>()?));
    match found {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}

/// The exception for an error of the core.
pub fn translate(py: Python<'_>, error: Error) -> PyErr {
    let class = match &error {
        Error::LayerWidth { .. }
        | Error::InputWidth { .. }
        | Error::Lengths { .. }
        | Error::TargetWidth { .. } => "ShapeError",
        Error::Empty | Error::Label { .. } | Error::NotFinite { .. } => "DataError",
        Error::TargetKind { .. } => "DtypeError",
        Error::Diverged { .. } => "DivergedError",
        Error::Argument { .. } | Error::Mismatch(_) => "ArgumentError",
        Error::Unsupported(_) => "UnsupportedError",
    };
    raise(py, class, error.to_string())
}
