//! The Python interface of `thalweg-core`: it borrows or converts arrays, translates errors, and divides long
//! calls into parts, between which it polls for Ctrl-C. Nothing is computed here, and only `borrow` is `unsafe`.
//!
//! Everything that may take time runs with the interpreter detached (the GIL released). Locks that are held
//! meanwhile are also taken there, never while attached, so that a thread that waits for one cannot block the
//! interpreter; and always in the order fit, trainer, jet, model, optimizer. The lock of a trainer's loss is
//! held only for a moment, and may be taken while attached. `locks` describes what happens on a fork.

#![deny(unsafe_code)]

mod along;
mod arrays;
mod borrow;
mod check;
mod diff;
mod dtype;
mod errors;
mod fit;
mod importance;
mod jet;
mod locks;
mod loss;
mod model;
mod optimizer;
mod system;
mod trainer;

use pyo3::prelude::*;

/// The compiled core. Private: use the names in `thalweg`.
#[pymodule]
mod _core {
    use numpy::{PyArray1, PyArrayMethods};
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::check::{central_differences, central_differences_of, losses_along, losses_along_of};
    #[pymodule_export]
    use super::diff::{Point, curvature_product, jvp};
    #[pymodule_export]
    use super::fit::{Fit, epoch_order};
    #[pymodule_export]
    use super::importance::{importance, kronecker};
    #[pymodule_export]
    use super::jet::{Jet, Slopes};
    #[pymodule_export]
    use super::locks::{after_fork, before_fork};
    #[pymodule_export]
    use super::loss::loss_of;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::optimizer::Optimizer;
    #[pymodule_export]
    use super::system::{config, get_num_threads, limit_own_threads, set_num_threads, threads_from};
    #[pymodule_export]
    use super::trainer::Trainer;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// Makes and borrows an array, because the first ones import parts of NumPy: later, Ctrl-C could interrupt
    /// that import, which the `numpy` crate answers with a panic.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.py().import("numpy")?;
        PyArray1::<f32>::zeros(module.py(), 0, false).try_readonly()?;
        Ok(())
    }
}
