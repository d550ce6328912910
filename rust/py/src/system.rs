//! Threads, and what this build and this machine support.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_core::gemm::Precision;
use thalweg_core::gemm::plan::TileShape;
use thalweg_core::simd::Isa;
use thalweg_core::threads::{self, MAX_THREADS, ThreadsFrom};
use thalweg_core::{Dtype, Error};

use crate::errors::translate;

#[pyfunction]
pub fn set_num_threads(py: Python<'_>, n: usize) -> PyResult<()> {
    if !(1..=MAX_THREADS).contains(&n) {
        return Err(translate(
            py,
            Error::argument("n", n, format!("a whole number from 1 to {MAX_THREADS} is needed")),
        ));
    }
    threads::set_num_threads(n);
    Ok(())
}

#[pyfunction]
pub fn limit_own_threads(n: usize) {
    threads::limit_own_threads(n.max(1));
}

#[pyfunction]
pub fn get_num_threads() -> usize {
    threads::num_threads().0
}

/// Where that number comes from.
#[pyfunction]
pub fn threads_from() -> &'static str {
    match threads::num_threads().1 {
        ThreadsFrom::Call => "set_num_threads",
        ThreadsFrom::Environment(name) => name,
        ThreadsFrom::Cpus => "available CPUs",
        ThreadsFrom::Share => "this fit's share in train_many",
    }
}

#[pyfunction]
pub fn config(py: Python<'_>) -> PyResult<Py<PyDict>> {
    let isa = Isa::detect().map_err(|text| translate(py, Error::Unsupported(text)))?;
    let kernels = PyDict::new(py);
    for dtype in [Dtype::F32, Dtype::F64] {
        let tile = crate::dtype::with_dtype!(dtype, T => TileShape::of::<T>(isa));
        kernels.set_item(dtype.name(), format!("{isa} {}x{}", tile.mr, tile.nr))?;
    }
    let dict = PyDict::new(py);
    dict.set_item("version", env!("CARGO_PKG_VERSION"))?;
    dict.set_item("isa", isa.name())?;
    dict.set_item("isas_available", Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>())?;
    dict.set_item("isa_cap", Isa::cap())?;
    dict.set_item("kernels", kernels)?;
    let split = Precision::SPLIT.into_iter().filter(|p| p.check::<f32>(isa).is_ok()).map(|p| p.name());
    let precisions: Vec<_> = [Dtype::F32, Dtype::F64].map(Dtype::name).into_iter().chain(split).collect();
    dict.set_item("precisions", precisions)?;
    dict.set_item("threads", get_num_threads())?;
    dict.set_item("threads_from", threads_from())?;
    dict.set_item("cpus", threads::available_cpus())?;
    Ok(dict.unbind())
}
