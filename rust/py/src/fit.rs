//! `Fit`: one call of `Trainer.fit`, which Python can leave and re-enter.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use thalweg_core::train::{DataSet, EpochRecord, FitOptions};
use thalweg_core::{Error, Fit as CoreFit};

use crate::arrays::{Answers, Features};
use crate::dtype::{AnyFit, Real, with_dtype};
use crate::errors::translate;
use crate::lock;
use crate::trainer::Trainer;

/// How long the core runs before it looks for Ctrl-C. It stops between two steps.
const POLL: Duration = Duration::from_millis(50);

/// (epoch, loss, accuracy, val_loss, val_accuracy, seconds)
type Record = (usize, f64, Option<f64>, Option<f64>, Option<f64>, f64);

/// A fit under way.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Fit {
    trainer: Py<Trainer>,
    data: (Py<PyAny>, Py<PyAny>),
    validation: Option<(Py<PyAny>, Py<PyAny>)>,
    inner: Mutex<AnyFit>,
    /// Epochs that ended and were not handed out yet.
    ended: Mutex<Vec<Record>>,
}

/// Borrowed arrays of a data set.
struct Borrowed<'py, T: Real> {
    x: Features<'py, T>,
    y: Answers<'py, T>,
}

impl<'py, T: Real> Borrowed<'py, T> {
    fn new(prefix: &str, x: &Bound<'py, PyAny>, y: &Bound<'py, PyAny>) -> PyResult<Self> {
        Ok(Borrowed {
            x: Features::new(&format!("{prefix}x"), x)?,
            y: Answers::new(&format!("{prefix}y"), y)?,
        })
    }
    fn view(&self) -> DataSet<'_, T> {
        DataSet { x: self.x.view(), y: self.y.view() }
    }
}

fn record(record: &EpochRecord, labels: bool) -> Record {
    let accuracy = |t: &thalweg_core::train::Tally| labels.then(|| t.accuracy());
    (
        record.epoch,
        record.training.mean(),
        accuracy(&record.training),
        record.validation.map(|t| t.mean()),
        record.validation.and_then(|t| accuracy(&t)),
        record.time.as_secs_f64(),
    )
}

#[pymethods]
impl Fit {
    #[new]
    #[pyo3(signature = (trainer, x, y, epochs, batch_size, shuffle, seed, validation_x=None, validation_y=None, rates=None, earlier_epochs=0))]
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
        rates: Option<Vec<f64>>,
        earlier_epochs: usize,
    ) -> PyResult<Self> {
        let options = FitOptions { epochs, batch_size, shuffle, seed };
        let validation = validation_x.zip(validation_y);
        let dtype = trainer.get().model.get().dtype;
        let inner = with_dtype!(dtype, T => {
            let training = Borrowed::<T>::new("", x.bind(py), y.bind(py))?;
            let held_out = match &validation {
                Some((x, y)) => Some(Borrowed::<T>::new("validation_", x.bind(py), y.bind(py))?),
                None => None,
            };
            let (training, held_out) = (training.view(), held_out.as_ref().map(Borrowed::view));
            let make = || trainer.get().locked::<T, _>(|t, m, _| {
                let fit = CoreFit::new(options, t, m, training, held_out)?.after(earlier_epochs);
                match rates {
                    Some(rates) => fit.with_rates(t, rates),
                    None => Ok(fit),
                }
            });
            T::wrap_fit(py.detach(make).map_err(|e| translate(py, e))?)
        });
        Ok(Fit { trainer, data: (x, y), validation, inner: Mutex::new(inner), ended: Mutex::new(Vec::new()) })
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
        let labels = trainer.takes_labels();
        let begin = Instant::now();
        let batches = AtomicUsize::new(0);
        let over = |epochs: usize| {
            max_epochs.is_some_and(|n| epochs >= n)
                || max_batches.is_some_and(|n| batches.load(Ordering::Relaxed) >= n)
                || max_seconds.is_some_and(|s| begin.elapsed().as_secs_f64() >= s)
        };
        with_dtype!(trainer.model.get().dtype, T => {
            let training = Borrowed::<T>::new("", self.data.0.bind(py), self.data.1.bind(py))?;
            let held_out = match &self.validation {
                Some((x, y)) => Some(Borrowed::<T>::new("validation_", x.bind(py), y.bind(py))?),
                None => None,
            };
            let (training, held_out) = (training.view(), held_out.as_ref().map(Borrowed::view));
            let mut epochs = 0;
            loop {
                // One slice: until the next look for Ctrl-C.
                let slice = || -> Result<(usize, bool), Error> {
                    let mut fit = lock(&self.inner);
                    let fit = T::fit(&mut fit).expect("of the model's precision");
                    let slice = Instant::now();
                    let records = trainer.locked::<T, _>(|t, m, o| {
                        fit.run(t, m, o, training, held_out, |n| {
                            batches.fetch_add(1, Ordering::Relaxed);
                            over(epochs + n) || slice.elapsed() >= POLL
                        })
                    })?;
                    lock(&self.ended).extend(records.iter().map(|r| record(r, labels)));
                    Ok((records.len(), fit.done()))
                };
                let (ended, done) = py.detach(slice).map_err(|e| translate(py, e))?;
                epochs += ended;
                py.check_signals()?;
                if done || over(epochs) {
                    return Ok(self.take_ended());
                }
            }
        })
    }

    /// Epochs that ended and were not handed out, because `run` was interrupted.
    fn take_ended(&self) -> Vec<Record> {
        std::mem::take(&mut lock(&self.ended))
    }

    #[getter]
    fn done(&self, py: Python<'_>) -> bool {
        py.detach(|| match &*lock(&self.inner) {
            crate::dtype::Either::F32(fit) => fit.done(),
            crate::dtype::Either::F64(fit) => fit.done(),
        })
    }

    /// Loss of the last batch, before its update.
    #[getter]
    fn last_loss(&self, py: Python<'_>) -> f64 {
        py.detach(|| match &*lock(&self.inner) {
            crate::dtype::Either::F32(fit) => fit.last_loss(),
            crate::dtype::Either::F64(fit) => fit.last_loss(),
        })
    }

    #[getter]
    fn progress(&self, py: Python<'_>) -> (usize, usize, usize, f64, Option<f64>) {
        let (epochs, batch, batches, tally) = py.detach(|| match &*lock(&self.inner) {
            crate::dtype::Either::F32(fit) => fit.progress(),
            crate::dtype::Either::F64(fit) => fit.progress(),
        });
        let labels = self.trainer.get().takes_labels();
        (epochs, batch, batches, tally.mean(), labels.then(|| tally.accuracy()))
    }
}
