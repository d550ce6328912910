//! `Trainer`: a model, a loss and an optimizer, brought together.

use std::sync::Mutex;

use pyo3::prelude::*;
use thalweg_core::arena::Buffer;
use thalweg_core::loss::{Loss, Targets};
use thalweg_core::optim::Optimizer as CoreOptimizer;
use thalweg_core::train::StepOptions;
use thalweg_core::update::{Average, Averaging, Clip};
use thalweg_core::{Error, Model as CoreModel, Trainer as CoreTrainer};

use crate::arrays::{Answers, Features, is_plain, vector, vector_out};
use crate::dtype::{AnyTrainer, Real, with_dtype};
use crate::errors::translate;
use crate::lock;
use crate::model::Model;
use crate::optimizer::Optimizer;

/// A model, a loss and an optimizer.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Trainer {
    pub model: Py<Model>,
    pub optimizer: Py<Optimizer>,
    loss: Loss,
    inner: Mutex<AnyTrainer>,
}

/// The loss that a name stands for.
pub fn parse_loss(py: Python<'_>, name: &str) -> PyResult<Loss> {
    match name {
        "mse" => Ok(Loss::Mse),
        "cross_entropy" => Ok(Loss::CrossEntropy),
        _ => {
            let accepted = "one of mse, cross_entropy".into();
            Err(translate(py, Error::Argument { name: "loss", value: format!("{name:?}"), accepted }))
        }
    }
}

impl Trainer {
    /// Whether targets are labels, so that there is an accuracy.
    pub fn takes_labels(&self) -> bool {
        self.loss.takes_labels()
    }

    /// Runs `f` on the trainer, its model and its optimizer; to be called detached.
    pub fn locked<T: Real, R>(
        &self,
        f: impl FnOnce(&mut CoreTrainer<T>, &mut CoreModel<T>, &mut CoreOptimizer<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut inner = lock(&self.inner);
        let trainer = T::trainer(&mut inner).expect("of the model's precision");
        let model = self.model.get();
        model.locked::<T, _>(|m| {
            let arena = model.network.arena_len();
            self.optimizer.get().locked::<T, _>(&self.model, arena, |o| f(trainer, m, o))
        })
    }
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (model, loss, optimizer, clip_grad_norm=None, clip_grad_value=None, accumulate=1))]
    fn new(
        py: Python<'_>,
        model: Py<Model>,
        loss: &str,
        optimizer: Py<Optimizer>,
        clip_grad_norm: Option<f64>,
        clip_grad_value: Option<f64>,
        accumulate: usize,
    ) -> PyResult<Self> {
        let loss = parse_loss(py, loss)?;
        let clip = clip_grad_norm.map(Clip::Norm).or(clip_grad_value.map(Clip::Value));
        let options = StepOptions { clip, accumulate: accumulate.max(1) };
        let owner = model.get();
        let inner = with_dtype!(owner.dtype, T => {
            let make = |m: &mut CoreModel<T>| CoreTrainer::with_options(loss, options, m);
            T::wrap_trainer(owner.detached::<T, _>(py, make)?)
        });
        Ok(Trainer { model, optimizer, loss, inner: Mutex::new(inner) })
    }

    /// A step if both arrays can be read as they are, else `None`: then the caller converts them. This is
    /// quicker than to ask from Python whether they can, and steps may take microseconds.
    fn step(&self, py: Python<'_>, x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        if !is_plain(x) || !is_plain(y) {
            return Ok(None);
        }
        with_dtype!(self.model.get().dtype, T => {
            let (Ok(x), Ok(y)) = (Features::<T>::new("x", x), Answers::<T>::new("y", y)) else {
                return Ok(None);
            };
            let (x, y) = (x.view(), y.view());
            if matches!(y, Targets::Labels(_)) != self.loss.takes_labels() {
                return Ok(None);
            }
            let step = || self.locked::<T, _>(|t, m, o| t.step(m, o, x, y));
            py.detach(step).map(Some).map_err(|e| translate(py, e))
        })
    }

    fn evaluate(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
    ) -> PyResult<(f64, Option<f64>)> {
        with_dtype!(self.model.get().dtype, T => {
            let (x, y) = (Features::<T>::new("x", x)?, Answers::<T>::new("y", y)?);
            let (x, y) = (x.view(), y.view());
            let tally = py
                .detach(|| {
                    let mut inner = lock(&self.inner);
                    let trainer = T::trainer(&mut inner).expect("of the model's precision");
                    self.model.get().locked::<T, _>(|m| trainer.evaluate(m, x, y))
                })
                .map_err(|e| translate(py, e))?;
            Ok((tally.mean(), self.loss.takes_labels().then(|| tally.accuracy())))
        })
    }

    /// Begins an average of the parameters; `decay` is `None` for equal weights.
    fn start_average(&self, py: Python<'_>, decay: Option<f64>, start: u64, every: u64) -> PyResult<()> {
        let averaging = decay.map_or(Averaging::Equal, Averaging::Exponential);
        let len = self.model.get().network.arena_len();
        with_dtype!(self.model.get().dtype, T => {
            let begin = || {
                let values = Buffer::zeroed("an average of the parameters", len)?;
                let mut inner = lock(&self.inner);
                let trainer = T::trainer(&mut inner).expect("of the model's precision");
                trainer.average = Some(Average { averaging, start, every: every.max(1), values, count: 0 });
                Ok(())
            };
            py.detach(begin).map_err(|e| translate(py, e))
        })
    }

    /// The average in public order and of how many it is, if there is one.
    fn average(&self, py: Python<'_>) -> Option<(Py<PyAny>, u64)> {
        let network = &self.model.get().network;
        with_dtype!(self.model.get().dtype, T => {
            let copy = py.detach(|| {
                let mut inner = lock(&self.inner);
                let average = T::trainer(&mut inner).expect("of the model's precision").average.as_ref()?;
                let mut flat = vec![T::default(); network.num_parameters()];
                network.export(&average.values, &mut flat);
                Some((flat, average.count))
            });
            copy.map(|(flat, count)| (vector_out(py, flat), count))
        })
    }

    fn set_average(&self, py: Python<'_>, values: &Bound<'_, PyAny>, count: u64) -> PyResult<()> {
        let network = &self.model.get().network;
        with_dtype!(self.model.get().dtype, T => {
            let flat = vector::<T>("the average", values, network.num_parameters())?;
            py.detach(|| {
                let mut inner = lock(&self.inner);
                if let Some(average) = &mut T::trainer(&mut inner).expect("of the model's precision").average {
                    network.import(&flat, &mut average.values);
                    average.count = count;
                }
            });
            Ok(())
        })
    }

    fn plan(&self, py: Python<'_>, batch_size: usize) -> PyResult<String> {
        with_dtype!(self.model.get().dtype, T => {
            let plan = || {
                let mut inner = lock(&self.inner);
                let trainer = T::trainer(&mut inner).expect("of the model's precision");
                self.model.get().locked::<T, _>(|m| {
                    let (plan, bytes) = trainer.plan(m, batch_size.max(1));
                    Ok(format!("{plan}\nworkspace: {bytes} bytes"))
                })
            };
            py.detach(plan).map_err(|e| translate(py, e))
        })
    }
}
