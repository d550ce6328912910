//! Copies of arguments of [`Trainer`](crate::trainer::Trainer)'s penalties and projections.

use pyo3::prelude::*;
use thalweg_core::along::coupled::{Block, Factors};
use thalweg_core::loss::OwnTargets;
use thalweg_core::project::Memory;

use crate::arrays::{Answers, Features, room, vector};
use crate::dtype::Real;
use crate::errors::translate;

/// Weight, bias, rows, columns, and the factors A (`None` is the identity) and G.
pub type Coupling<'py> =
    (usize, Option<usize>, usize, usize, Vec<(Option<Bound<'py, PyAny>>, Bound<'py, PyAny>)>);

/// What the error names if there is not enough memory.
const MEMORY: &str = "a copy of remembered samples";

/// A block of parameters that depend on each other.
pub fn block<T: Real>((weight, bias, rows, cols, factors): Coupling<'_>) -> PyResult<Block<T>> {
    let pair = |(a, g): (Option<Bound<'_, PyAny>>, Bound<'_, PyAny>)| {
        let a = a.map(|a| vector::<T>("A", &a, cols * cols)).transpose()?;
        Ok(Factors { a, g: vector::<T>("G", &g, rows * rows)? })
    };
    let factors = factors.into_iter().map(pair).collect::<PyResult<_>>()?;
    Ok(Block { weight, bias, rows, cols, factors })
}

/// Remembered samples and their targets.
pub fn memory<T: Real>((x, y): &(Bound<'_, PyAny>, Bound<'_, PyAny>)) -> PyResult<Memory<T>> {
    let fail = |e| translate(x.py(), e);
    let (x, y) = (Features::<T>::new("x", x)?, Answers::<T>::new("y", y)?);
    let (x, y) = (x.view(), y.view());
    let mut flat = room(MEMORY, x.rows(), x.cols()).map_err(fail)?;
    for (i, row) in flat.chunks_mut(x.cols().max(1)).enumerate() {
        x.copy_row(i, row);
    }
    Ok(Memory::new(flat, OwnTargets::copy(MEMORY, y).map_err(fail)?, x.rows()))
}
