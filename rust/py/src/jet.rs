//! Derivatives with respect to the inputs, and the gradients of functions of them.

use pyo3::prelude::*;
use thalweg_core::Error;
use thalweg_core::diff::jet::{Jet as CoreJet, Slopes as CoreSlopes};

use crate::arrays::{Matrix, matrix_out, room};
use crate::dtype::{Any, AnyJet, AnySlopes, Kind, Real, with_dtype};
use crate::errors::translate;
use crate::locks::Lock;
use crate::model::{Model, wrong_dtype};

/// Outputs of a model and their derivatives along directions of its inputs, and the way back from them.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Jet {
    model: Py<Model>,
    inner: Lock<AnyJet>,
}

/// Outputs of a model and their first derivatives with respect to all inputs, and the way back from them.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Slopes {
    model: Py<Model>,
    inner: Lock<AnySlopes>,
}

/// Runs `f` on what belongs to a model and on the model, detached: the former's lock is taken first.
fn detached<T: Real, K: Kind, R: Send>(
    py: Python<'_>,
    inner: &Lock<Any<K>>,
    model: &Model,
    f: impl FnOnce(&mut K::Of<T>, &mut thalweg_core::Model<T>) -> Result<R, Error> + Send,
) -> PyResult<R>
where
    Any<K>: Send,
{
    py.detach(|| match T::of(&mut inner.lock()) {
        Some(inner) => model.locked(|m| f(inner, m)),
        None => Err(wrong_dtype::<T>("jet", model.dtype)),
    })
    .map_err(|e| translate(py, e))
}

#[pymethods]
impl Jet {
    /// Along the rows of `along`, with derivatives up to order 1 or 2 for each.
    #[new]
    fn new(model: &Bound<'_, Model>, along: &Bound<'_, PyAny>, orders: Vec<usize>) -> PyResult<Self> {
        let py = model.py();
        let inner = with_dtype!(model.get().dtype, T => {
            let along = Matrix::<T>::new("along", along)?;
            let jet = CoreJet::new(&model.get().network, along.view(), &orders);
            T::wrap(jet.map_err(|e| translate(py, e))?)
        });
        Ok(Jet { model: model.clone().unbind(), inner: Lock::new(inner) })
    }

    /// Outputs, then first and second derivatives, one below the other.
    fn forward(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let model = self.model.get();
        with_dtype!(model.dtype, T => {
            let x = Matrix::<T>::new("x", x)?;
            let (x, outputs) = (x.view(), model.network.outputs());
            let (flat, rows) = detached::<T, _, _>(py, &self.inner, model, |jet, m| {
                let rows = jet.parts() * x.rows();
                let mut flat = room("the outputs and their derivatives", rows, outputs)?;
                jet.forward(m, x, &mut flat).map(|()| (flat, rows))
            })?;
            matrix_out(py, flat, rows, outputs)
        })
    }

    /// Adds the parameters' gradient to the model's, given the gradient with respect to all that `forward`
    /// returned.
    fn backward(&self, py: Python<'_>, gradient: &Bound<'_, PyAny>) -> PyResult<()> {
        let model = self.model.get();
        with_dtype!(model.dtype, T => {
            let gradient = Matrix::<T>::new("the gradient", gradient)?;
            let gradient = gradient.view();
            detached::<T, _, _>(py, &self.inner, model, |jet, m| jet.backward(m, gradient))
        })
    }
}

#[pymethods]
impl Slopes {
    /// With nothing computed yet.
    #[new]
    fn new(model: &Bound<'_, Model>) -> PyResult<Self> {
        let py = model.py();
        let inner = with_dtype!(model.get().dtype, T => {
            T::wrap(CoreSlopes::<T>::new(&model.get().network).map_err(|e| translate(py, e))?)
        });
        Ok(Slopes { model: model.clone().unbind(), inner: Lock::new(inner) })
    }

    /// Outputs, and the derivatives of each with respect to the inputs, one output's rows below the other's.
    fn forward(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
        let model = self.model.get();
        with_dtype!(model.dtype, T => {
            let x = Matrix::<T>::new("x", x)?;
            let (x, outputs) = (x.view(), model.network.outputs());
            let (rows, inputs) = (x.rows(), model.network.inputs());
            let (y, slopes) = detached::<T, _, _>(py, &self.inner, model, |of, m| {
                let what = "the outputs and their derivatives";
                let (mut y, mut slopes) = (room(what, rows, outputs)?, room(what, outputs * rows, inputs)?);
                of.forward(m, x, &mut y, &mut slopes).map(|()| (y, slopes))
            })?;
            Ok((matrix_out(py, y, rows, outputs)?, matrix_out(py, slopes, outputs * rows, inputs)?))
        })
    }

    /// Adds the parameters' gradient to the model's, given those with respect to both that `forward` returned.
    fn backward(
        &self,
        py: Python<'_>,
        by_output: &Bound<'_, PyAny>,
        by_slopes: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let model = self.model.get();
        with_dtype!(model.dtype, T => {
            let what = "the gradient";
            let [by_output, by_slopes] = [Matrix::<T>::new(what, by_output)?, Matrix::<T>::new(what, by_slopes)?];
            let (by_output, by_slopes) = (by_output.view(), by_slopes.view());
            detached::<T, _, _>(py, &self.inner, model, |of, m| of.backward(m, by_output, by_slopes))
        })
    }
}
