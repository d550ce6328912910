//! `Fit`: one call of `Trainer.fit`, which can be interrupted and continued from Python.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use thalweg_core::arena::zeros;
use thalweg_core::train::{EpochRecord, FitOptions, shuffle};
use thalweg_core::{Error, Fit as CoreFit};

use crate::arrays::Data;
use crate::dtype::{AnyFit, Real, either, with_dtype};
use crate::errors::{raise, translate};
use crate::locks::Lock;
use crate::trainer::Trainer;

/// How long the core runs between two polls for Ctrl-C. It stops between two steps, or parts of the data.
pub const POLL: Duration = Duration::from_millis(50);

/// (epoch, loss, accuracy, penalty, val_loss, val_accuracy, seconds)
type Record = (usize, f64, Option<f64>, Option<f64>, Option<f64>, Option<f64>, f64);

/// A fit in progress.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Fit {
    trainer: Py<Trainer>,
    training: Arrays,
    validation: Option<Arrays>,
    inner: Lock<AnyFit>,
    /// Epochs that have ended and have not been handed out.
    ended: Lock<Vec<Record>>,
}

/// Arrays of a data set.
struct Arrays {
    x: Py<PyAny>,
    y: Py<PyAny>,
    weights: Option<Py<PyAny>>,
}

impl Arrays {
    fn borrow<'py, T: Real>(&self, py: Python<'py>, prefix: &str) -> PyResult<Data<'py, T>> {
        Data::new(prefix, self.x.bind(py), self.y.bind(py), self.weights.as_ref().map(|w| w.bind(py)))
    }
}

impl Fit {
    /// Ends the fit because an array cannot be used any more, with model and optimizer as before.
    fn undo<T: Real>(&self, py: Python<'_>, error: &PyErr) -> PyErr {
        let undone = py.detach(|| {
            let mut fit = self.inner.lock();
            let fit = T::of(&mut fit).expect("of the model's precision");
            self.trainer.get().locked::<T, _>(|t, m, o| {
                fit.undo(t, m, o);
                Ok(())
            })
        });
        let message = format!(
            "{}: it has changed since the fit began; do not change its shape or dtype meanwhile",
            error.value(py)
        );
        undone.map_or_else(|e| translate(py, e), |()| raise(py, "ArgumentError", message))
    }
}

fn record(record: &EpochRecord, has_accuracy: bool) -> Record {
    let accuracy = |t: &thalweg_core::train::Tally| has_accuracy.then(|| t.accuracy());
    (
        record.epoch,
        record.training.value(),
        accuracy(&record.training),
        record.penalty,
        record.validation.map(|t| t.value()),
        record.validation.and_then(|t| accuracy(&t)),
        record.time.as_secs_f64(),
    )
}

#[pymethods]
impl Fit {
    #[new]
    #[pyo3(signature = (
        trainer, x, y, epochs, batch_size, shuffle, seed, validation_x=None, validation_y=None,
        sample_weight=None, validation_weight=None, rates=None, rates_by_epoch=false, earlier_epochs=0
    ))]
    fn new(
        py: Python<'_>,
        trainer: Py<Trainer>,
        x: Py<PyAny>,
        y: Py<PyAny>,
        epochs: usize,
        batch_size: usize,
        shuffle: bool,
        seed: u64,
        validation_x: Option<Py<PyAny>>,
        validation_y: Option<Py<PyAny>>,
        sample_weight: Option<Py<PyAny>>,
        validation_weight: Option<Py<PyAny>>,
        rates: Option<Vec<f64>>,
        rates_by_epoch: bool,
        earlier_epochs: usize,
    ) -> PyResult<Self> {
        let options = FitOptions { epochs, batch_size, shuffle, seed };
        let training = Arrays { x, y, weights: sample_weight };
        let validation =
            validation_x.zip(validation_y).map(|(x, y)| Arrays { x, y, weights: validation_weight });
        let dtype = trainer.get().model.get().dtype;
        let inner = with_dtype!(dtype, T => {
            let borrowed = training.borrow::<T>(py, "")?;
            let held_out = validation.as_ref().map(|v| v.borrow::<T>(py, "validation_")).transpose()?;
            let (data, held_out) = (borrowed.view(), held_out.as_ref().map(Data::view));
            let make = || trainer.get().locked::<T, _>(|t, m, _| {
                let fit = CoreFit::new(options, t, m, data, held_out)?.after(earlier_epochs);
                match rates {
                    Some(rates) => fit.with_rates(t, rates, rates_by_epoch),
                    None => Ok(fit),
                }
            });
            T::wrap(py.detach(make).map_err(|e| translate(py, e))?)
        });
        Ok(Fit { trainer, training, validation, inner: Lock::new(inner), ended: Lock::new(Vec::new()) })
    }

    #[pyo3(signature = (max_epochs=None, max_seconds=None, max_batches=None))]
    fn run(
        &self,
        py: Python<'_>,
        max_epochs: Option<usize>,
        max_seconds: Option<f64>,
        max_batches: Option<usize>,
    ) -> PyResult<Vec<Record>> {
        let trainer = self.trainer.get();
        let has_accuracy = trainer.has_accuracy();
        let begin = Instant::now();
        let batches = AtomicUsize::new(0);
        let over = |epochs: usize| {
            max_epochs.is_some_and(|n| epochs >= n)
                || max_batches.is_some_and(|n| batches.load(Ordering::Relaxed) >= n)
                || max_seconds.is_some_and(|s| begin.elapsed().as_secs_f64() >= s)
        };
        with_dtype!(trainer.model.get().dtype, T => {
            let changed = |e: PyErr| self.undo::<T>(py, &e);
            let borrowed = self.training.borrow::<T>(py, "").map_err(changed)?;
            let held_out = self.validation.as_ref().map(|v| v.borrow::<T>(py, "validation_"));
            let held_out = held_out.transpose().map_err(changed)?;
            let (data, held_out) = (borrowed.view(), held_out.as_ref().map(Data::view));
            let mut epochs = 0;
            loop {
                // One slice: until the next poll for Ctrl-C.
                let slice = || -> Result<(usize, bool, bool), Error> {
                    let mut fit = self.inner.lock();
                    let fit = T::of(&mut fit).expect("of the model's precision");
                    let slice = Instant::now();
                    let result = trainer.locked::<T, _>(|t, m, o| {
                        fit.run(t, m, o, data, held_out, |ended| {
                            let enough = ended.is_some_and(|n| {
                                batches.fetch_add(1, Ordering::Relaxed);
                                over(epochs + n)
                            });
                            enough || slice.elapsed() >= POLL
                        })
                    });
                    // Including epochs that ended before an error.
                    let records = result.as_ref().map_or_else(|_| fit.take_ended(), Vec::clone);
                    self.ended.lock().extend(records.iter().map(|r| record(r, has_accuracy)));
                    result.map(|_| (records.len(), fit.done(), fit.is_validating()))
                };
                let (ended, done, validating) = py.detach(slice).map_err(|e| translate(py, e))?;
                epochs += ended;
                py.check_signals()?;
                // A batch that ends an epoch is not over before its validation.
                if done || !validating && over(epochs) {
                    return Ok(self.take_ended());
                }
            }
        })
    }

    /// Returns the epochs that have ended and have not been handed out because `run` was interrupted.
    fn take_ended(&self) -> Vec<Record> {
        std::mem::take(&mut self.ended.lock())
    }

    #[getter]
    fn done(&self, py: Python<'_>) -> bool {
        py.detach(|| either!(&*self.inner.lock(), fit => fit.done()))
    }

    #[getter]
    fn undone(&self, py: Python<'_>) -> bool {
        py.detach(|| either!(&*self.inner.lock(), fit => fit.undone()))
    }

    /// Loss of the last batch, before its update.
    #[getter]
    fn last_loss(&self, py: Python<'_>) -> f64 {
        py.detach(|| either!(&*self.inner.lock(), fit => fit.last_loss()))
    }

    #[getter]
    fn progress(&self, py: Python<'_>) -> (usize, usize, usize, f64, Option<f64>) {
        let (epochs, batch, batches, tally) =
            py.detach(|| either!(&*self.inner.lock(), fit => fit.progress()));
        let has_accuracy = self.trainer.get().has_accuracy();
        (epochs, batch, batches, tally.value(), has_accuracy.then(|| tally.accuracy()))
    }
}

/// The order in which an epoch, counted from 0, takes the rows.
#[pyfunction]
pub fn epoch_order(py: Python<'_>, rows: u32, seed: u64, epoch: usize) -> PyResult<Py<PyAny>> {
    let mut order = zeros("the order of the rows", rows as usize).map_err(|e| translate(py, e))?;
    shuffle(seed, epoch, &mut order);
    Ok(numpy::PyArray1::from_vec(py, order).into_any().unbind())
}
