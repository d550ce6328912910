//! Core errors as Python exceptions. The classes are in `thalweg.errors`.

use pyo3::prelude::*;
use pyo3::types::PyType;
use thalweg_core::Error;

/// Makes an instance of a class of `thalweg.errors`.
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
    if let Error::Memory { .. } = error {
        return pyo3::exceptions::PyMemoryError::new_err(error.to_string());
    }
    let class = class_of(&error);
    raise(py, class, error.to_string())
}

fn class_of(error: &Error) -> &'static str {
    match error {
        Error::LayerWidth { .. }
        | Error::BlockWidth { .. }
        | Error::InputWidth { .. }
        | Error::Lengths { .. }
        | Error::TargetWidth { .. }
        | Error::LossOutputs { .. }
        | Error::GradientShape { .. } => "ShapeError",
        Error::Empty
        | Error::Code { .. }
        | Error::Inactive { .. }
        | Error::Label { .. }
        | Error::NotFinite { .. }
        | Error::NotFiniteAt { .. }
        | Error::Target { .. }
        | Error::Weight { .. }
        | Error::NothingCounts => "DataError",
        Error::TargetKind { .. } => "DtypeError",
        Error::Diverged { .. }
        | Error::Astray { .. }
        | Error::Overflow { .. }
        | Error::Lost { .. }
        | Error::VarianceOverflow
        | Error::StepOverflow { .. } => "DivergedError",
        Error::Argument { .. } | Error::Mismatch(_) => "ArgumentError",
        Error::Unsupported(_) | Error::Memory { .. } => "UnsupportedError",
        Error::Validation(error) => class_of(error),
    }
}
