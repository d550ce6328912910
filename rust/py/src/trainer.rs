//! `Trainer`: connects a model, a loss and an optimizer.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::along::coupled::Coupled;
use thalweg_core::along::walk::Walk;
use thalweg_core::along::{self, Path};
use thalweg_core::arena::{Buffer, zeros};
use thalweg_core::gemm::Precision;
use thalweg_core::loss::{Loss, Targets};
use thalweg_core::optim::Optimizer as CoreOptimizer;
use thalweg_core::project::{Projection, Rule};
use thalweg_core::sam::Sam;
use thalweg_core::train::{DataSet, Evaluation, StepOptions, Tally};
use thalweg_core::update::{Average, Averaging, Clip};
use thalweg_core::{Error, Model as CoreModel, Trainer as CoreTrainer};

use crate::along::{Coupling, block, memory};
use crate::arrays::{Answers, Data, Features, Matrix, Weights, is_plain, vector, vector_out};
use crate::dtype::{AnyTrainer, Real, with_dtype};
use crate::errors::translate;
use crate::locks::Lock;
use crate::loss::parse_loss;
use crate::model::Model;
use crate::optimizer::Optimizer;

/// A copy of what a trainer keeps, if it does.
type Kept<R> = PyResult<Option<R>>;
/// What is added up over batches: (loss, right, rows for the loss, rows for the accuracy), all weighted.
type Sums = (f64, f64, f64, f64);

fn sums(tally: Tally) -> Sums {
    (tally.loss, tally.right, tally.totals.loss, tally.totals.accuracy)
}

/// The sums of a batch, if any row of it counts.
fn counted(py: Python<'_>, tally: Result<Tally, Error>) -> PyResult<Option<Sums>> {
    match tally {
        Err(Error::NothingCounts) => Ok(None),
        tally => tally.map(|t| Some(sums(t))).map_err(|e| translate(py, e)),
    }
}

/// A model, a loss and an optimizer.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Trainer {
    pub model: Py<Model>,
    pub optimizer: Py<Optimizer>,
    loss: Lock<Loss>,
    inner: Lock<AnyTrainer>,
}

impl Trainer {
    /// Whether rows can be right or wrong, so that there is an accuracy.
    pub fn has_accuracy(&self) -> bool {
        self.loss.lock().has_accuracy()
    }

    /// Runs `f` on the trainer, its model and its optimizer; must be called detached.
    pub fn locked<T: Real, R>(
        &self,
        f: impl FnOnce(&mut CoreTrainer<T>, &mut CoreModel<T>, &mut CoreOptimizer<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut inner = self.inner.lock();
        let trainer = T::of(&mut inner).expect("of the model's precision");
        let model = self.model.get();
        model.locked::<T, _>(|m| self.optimizer.get().locked::<T, _>(&self.model, |o| f(trainer, m, o)))
    }
}

impl Trainer {
    /// Runs `f` on the core's trainer, detached.
    fn detached<T: Real, R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut CoreTrainer<T>) -> R + Send,
    ) -> R {
        py.detach(|| f(T::of(&mut self.inner.lock()).expect("of the model's precision")))
    }

    /// Runs an evaluation part by part, with looks for Ctrl-C between them.
    fn evaluated<T: Real>(
        &self,
        py: Python<'_>,
        mut evaluation: Evaluation<T>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Result<Tally, Error>> {
        let data = Data::<T>::new("", x, y, sample_weight)?;
        let DataSet { x, y } = data.view();
        loop {
            let part =
                |t: &mut CoreTrainer<T>| self.model.get().locked::<T, _>(|m| evaluation.run(t, m, x, y));
            if let Some(whole) = self.detached::<T, _>(py, part).transpose() {
                return Ok(whole);
            }
            py.check_signals()?;
        }
    }

    /// A copy of what the trainer keeps, if it does, as objects that `out` makes of it.
    fn kept<T: Real, R: Send, S>(
        &self,
        py: Python<'_>,
        copy: impl FnOnce(&mut CoreTrainer<T>) -> Result<Option<R>, Error> + Send,
        out: impl FnOnce(R) -> S,
    ) -> Kept<S> {
        Ok(self.detached::<T, _>(py, copy).map_err(|e| translate(py, e))?.map(out))
    }

    /// Converts numbers of the arena to public order.
    fn public<T: Real>(&self, arena: &[T]) -> Result<Vec<T>, Error> {
        let Model { network, isa, .. } = self.model.get();
        let mut flat = zeros("a copy as large as the parameters", network.num_parameters())?;
        network.export(*isa, arena, &mut flat);
        Ok(flat)
    }
}

#[pymethods]
impl Trainer {
    #[new]
    #[pyo3(signature = (model, loss, optimizer, clip_grad_norm=None, clip_grad_value=None, accumulate=1, sam=None, precision=None))]
    fn new(
        py: Python<'_>,
        model: Py<Model>,
        loss: &Bound<'_, PyTuple>,
        optimizer: Py<Optimizer>,
        clip_grad_norm: Option<f64>,
        clip_grad_value: Option<f64>,
        accumulate: usize,
        sam: Option<(f64, bool)>,
        precision: Option<&str>,
    ) -> PyResult<Self> {
        let named = |name| Precision::SPLIT.into_iter().find(|p| Some(p.name()) == name);
        let precision = named(precision).unwrap_or_default();
        let clip = clip_grad_norm.map(Clip::Norm).or(clip_grad_value.map(Clip::Value));
        let sam = sam.map(|(rho, adaptive)| Sam { rho, adaptive });
        let options = StepOptions { clip, accumulate: accumulate.max(1), sam, precision };
        let owner = model.get();
        with_dtype!(owner.dtype, T => {
            let objective = parse_loss::<T>(loss)?;
            objective.check_outputs(owner.network.outputs()).map_err(|e| translate(py, e))?;
            let loss = objective.loss;
            let trainer = CoreTrainer::<T>::with_options(objective, options).map_err(|e| translate(py, e))?;
            let inner = T::wrap(trainer);
            Ok(Trainer { model, optimizer, loss: Lock::new(loss), inner: Lock::new(inner) })
        })
    }

    /// Continues with another loss.
    fn set_loss(&self, py: Python<'_>, loss: &Bound<'_, PyTuple>) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            let objective = parse_loss::<T>(loss)?;
            let kind = objective.loss;
            let set = || self.locked::<T, _>(|trainer, model, _| trainer.set_objective(objective, model));
            py.detach(set).map_err(|e| translate(py, e))?;
            *self.loss.lock() = kind;
            Ok(())
        })
    }

    /// Takes a step if all arrays can be read as they are; otherwise returns `None`, and the caller converts
    /// them. This is quicker than asking from Python whether they can, and steps may take only microseconds.
    #[pyo3(signature = (x, y, sample_weight=None))]
    fn step(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<f64>> {
        if !is_plain(x) || !is_plain(y) || !sample_weight.is_none_or(is_plain) {
            return Ok(None);
        }
        with_dtype!(self.model.get().dtype, T => {
            let column = || {
                let outputs = self.model.get().network.outputs();
                !self.loss.lock().takes_labels()
                    && self.detached::<T, _>(py, |t| t.objective().target_width(outputs) == 1)
            };
            let (y, w) = (Answers::<T>::for_step(y, column), Weights::<T>::for_step(sample_weight));
            let (Ok(x), Some(y), Some(w)) = (Features::<T>::new("x", x), y, w) else { return Ok(None) };
            let (x, y) = (x.view(), y.view());
            if matches!(y, Targets::Labels(_)) && !self.loss.lock().takes_labels() {
                return Ok(None);
            }
            let y = w.with(y);
            let step = || self.locked::<T, _>(|t, m, o| t.step(m, o, x, y));
            py.detach(step).map(Some).map_err(|e| translate(py, e))
        })
    }

    #[pyo3(signature = (x, y, sample_weight=None))]
    fn backward(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(f64, Option<f64>)> {
        with_dtype!(self.model.get().dtype, T => {
            let data = Data::<T>::new("", x, y, sample_weight)?;
            let DataSet { x, y } = data.view();
            let tally = py
                .detach(|| self.locked::<T, _>(|t, m, o| t.backward(m, o, x, y)))
                .map_err(|e| translate(py, e))?;
            Ok((tally.value(), self.has_accuracy().then(|| tally.accuracy())))
        })
    }

    #[pyo3(signature = (x, y, sample_weight=None))]
    fn evaluate(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<(f64, Option<f64>)> {
        with_dtype!(self.model.get().dtype, T => {
            let tally = self.evaluated::<T>(py, Evaluation::default(), x, y, sample_weight)?;
            let tally = tally.map_err(|e| translate(py, e))?;
            Ok((tally.value(), self.has_accuracy().then(|| tally.accuracy())))
        })
    }

    /// One batch of an epoch; returns what is to be added up, or nothing if no row counts.
    #[pyo3(signature = (x, y, sample_weight=None))]
    fn train(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Sums>> {
        with_dtype!(self.model.get().dtype, T => {
            let data = Data::<T>::new("", x, y, sample_weight)?;
            let DataSet { x, y } = data.view();
            let tally = py
                .detach(|| self.locked::<T, _>(|t, m, o| t.train(m, o, x, y)))
                .map_err(|e| translate(py, e))?;
            Ok(tally.map(sums))
        })
    }

    /// The same for `backward`, which adds to the model's gradients.
    #[pyo3(signature = (x, y, sample_weight=None))]
    fn backward_sums(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Sums>> {
        with_dtype!(self.model.get().dtype, T => {
            let data = Data::<T>::new("", x, y, sample_weight)?;
            let DataSet { x, y } = data.view();
            let tally = py.detach(|| self.locked::<T, _>(|t, m, o| t.backward(m, o, x, y)));
            counted(py, tally)
        })
    }

    /// The same for `evaluate`; the loss is infinite where `evaluate` raises because it is not finite.
    #[pyo3(signature = (x, y, sample_weight=None))]
    fn evaluate_sums(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        y: &Bound<'_, PyAny>,
        sample_weight: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Sums>> {
        with_dtype!(self.model.get().dtype, T => {
            let tally = self.evaluated::<T>(py, Evaluation::tolerant(), x, y, sample_weight)?;
            counted(py, tally)
        })
    }

    /// One batch whose gradients are in the model.
    fn take(&self, py: Python<'_>) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            py.detach(|| self.locked::<T, _>(|t, m, o| t.take(m, o))).map_err(|e| translate(py, e))
        })
    }

    /// Makes an update from gradients that wait for one.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            py.detach(|| self.locked::<T, _>(|t, m, o| t.flush(m, o))).map_err(|e| translate(py, e))
        })
    }

    /// Whether rows can be right or wrong, so that there is an accuracy.
    #[getter(has_accuracy)]
    fn py_has_accuracy(&self) -> bool {
        self.has_accuracy()
    }

    /// Discards gradients gathered for the next update.
    fn forget(&self, py: Python<'_>) {
        with_dtype!(self.model.get().dtype, T => self.detached::<T, _>(py, CoreTrainer::forget))
    }

    /// Starts an average of the parameters; `decay` is `None` for equal weights.
    fn start_average(&self, py: Python<'_>, decay: Option<f64>, start: u64, every: u64) -> PyResult<()> {
        let averaging = decay.map_or(Averaging::Equal, Averaging::Exponential);
        let len = self.model.get().network.arena_len();
        with_dtype!(self.model.get().dtype, T => {
            let begin = |trainer: &mut CoreTrainer<T>| {
                let values = Buffer::zeroed("an average of the parameters", len)?;
                trainer.average = Some(Average { averaging, start, every: every.max(1), values, count: 0 });
                Ok(())
            };
            self.detached::<T, _>(py, begin).map_err(|e| translate(py, e))
        })
    }

    /// The average in public order and the number of its terms, if there is one.
    fn average(&self, py: Python<'_>) -> Kept<(Py<PyAny>, u64)> {
        with_dtype!(self.model.get().dtype, T => {
            let copy = |t: &mut CoreTrainer<T>| {
                let Some(average) = &t.average else { return Ok(None) };
                Ok(Some((self.public(&average.values)?, average.count)))
            };
            self.kept(py, copy, |(flat, count)| (vector_out(py, flat), count))
        })
    }

    fn set_average(&self, py: Python<'_>, values: &Bound<'_, PyAny>, count: u64) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let flat = vector::<T>("the average", values, network.num_parameters())?;
            self.detached::<T, _>(py, |trainer| {
                if let Some(average) = &mut trainer.average {
                    network.import(*isa, &flat, &mut average.values);
                    average.count = count;
                }
            });
            Ok(())
        })
    }

    /// Norm of the latest update's gradient, before clipping by norm.
    fn grad_norm(&self, py: Python<'_>) -> Option<f64> {
        with_dtype!(self.model.get().dtype, T => self.detached::<T, _>(py, |t| t.grad_norm()))
    }

    /// Gradients that wait for an update, in public order, and of how many batches, if there are any.
    fn gathered(&self, py: Python<'_>) -> Kept<(Py<PyAny>, usize)> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let copy = |t: &mut CoreTrainer<T>| t.gathered(network, *isa);
            self.kept(py, copy, |(flat, batches)| (vector_out(py, flat), batches))
        })
    }

    fn set_gathered(&self, py: Python<'_>, values: &Bound<'_, PyAny>, batches: usize) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let flat = vector::<T>("gathered gradients", values, network.num_parameters())?;
            self.detached::<T, _>(py, |trainer| trainer.set_gathered(network, *isa, &flat, batches))
                .map_err(|e| translate(py, e))
        })
    }

    /// Sets the quadratic penalty: importance and anchor in public order, and strength.
    fn set_penalty(
        &self,
        py: Python<'_>,
        penalty: Option<(Bound<'_, PyAny>, Bound<'_, PyAny>, f64)>,
    ) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let penalty = match penalty {
                Some((importance, anchor, strength)) => {
                    let n = network.num_parameters();
                    let importance = vector::<T>("importance", &importance, n)?;
                    let anchor = vector::<T>("anchor", &anchor, n)?;
                    let make = || along::penalty(network, *isa, &importance, &anchor, strength);
                    Some(py.detach(make).map_err(|e| translate(py, e))?)
                }
                None => None,
            };
            self.detached::<T, _>(py, |t| t.along.penalty = penalty);
            Ok(())
        })
    }

    /// Importance, anchor and strength of the penalty, if there is one.
    fn penalty(&self, py: Python<'_>) -> Kept<(Py<PyAny>, Py<PyAny>, f64)> {
        with_dtype!(self.model.get().dtype, T => {
            let copy = |t: &mut CoreTrainer<T>| {
                let Some(penalty) = &t.along.penalty else { return Ok(None) };
                let [a, b] = [&penalty.importance, &penalty.anchor].map(|x| self.public(x));
                Ok(Some((a?, b?, penalty.strength)))
            };
            self.kept(py, copy, |(a, b, strength)| (vector_out(py, a), vector_out(py, b), strength))
        })
    }

    /// Whether there is a penalty on parameters that depend on each other.
    fn has_coupled_penalty(&self, py: Python<'_>) -> bool {
        with_dtype!(self.model.get().dtype, T => self.detached::<T, _>(py, |t| t.along.coupled.is_some()))
    }

    /// The penalty on the current parameters.
    fn penalty_value(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        with_dtype!(self.model.get().dtype, T => {
            py.detach(|| self.locked::<T, _>(|t, m, _| Ok(t.penalty(m)))).map_err(|e| translate(py, e))
        })
    }

    /// Starts a new path integral of the gradient; `None` ends it.
    fn start_path(&self, py: Python<'_>, with_penalty: Option<bool>) -> PyResult<()> {
        let len = self.model.get().network.arena_len();
        with_dtype!(self.model.get().dtype, T => {
            let path = match with_penalty {
                Some(with_penalty) => {
                    let values = Buffer::zeroed("a path integral", len).map_err(|e| translate(py, e))?;
                    Some(Path { values, with_penalty })
                }
                None => None,
            };
            self.detached::<T, _>(py, |t| t.along.path = path);
            Ok(())
        })
    }

    /// The path integral in public order, if there is one.
    fn path(&self, py: Python<'_>) -> Kept<Py<PyAny>> {
        with_dtype!(self.model.get().dtype, T => {
            let copy = |t: &mut CoreTrainer<T>| {
                t.along.path.as_ref().map(|path| self.public(&path.values)).transpose()
            };
            self.kept(py, copy, |values| vector_out(py, values))
        })
    }

    fn set_path(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let flat = vector::<T>("the path", values, network.num_parameters())?;
            self.detached::<T, _>(py, |t| {
                if let Some(path) = &mut t.along.path {
                    network.import(*isa, &flat, &mut path.values);
                }
            });
            Ok(())
        })
    }

    /// Which parameters may move, as 1 or 0; `None` means all.
    fn set_mask(&self, py: Python<'_>, free: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let mask = match free {
                Some(free) => {
                    let flat = vector::<T>("the mask", free, network.num_parameters())?;
                    let len = network.arena_len();
                    let mut mask = Buffer::<T>::zeroed("a mask", len).map_err(|e| translate(py, e))?;
                    network.import(*isa, &flat, &mut mask);
                    Some(mask)
                }
                None => None,
            };
            self.detached::<T, _>(py, |t| t.along.mask = mask);
            Ok(())
        })
    }

    /// Sets the penalty on parameters that depend on each other: blocks (weight, bias, rows, columns,
    /// factors) with places in public order and matrices as vectors, row by row; then anchor and strength.
    fn set_coupled(
        &self,
        py: Python<'_>,
        penalty: Option<(Vec<Coupling<'_>>, Bound<'_, PyAny>, f64)>,
    ) -> PyResult<()> {
        let owner = self.model.get();
        with_dtype!(owner.dtype, T => {
            let coupled = match penalty {
                Some((blocks, anchor, strength)) => {
                    let anchor = vector::<T>("anchor", &anchor, owner.network.num_parameters())?;
                    let blocks = blocks.into_iter().map(block::<T>).collect::<PyResult<_>>()?;
                    let make = || owner.locked::<T, _>(|model| {
                        Coupled::new(model.network(), model.isa(), blocks, anchor, strength)
                    });
                    Some(py.detach(make).map_err(|e| translate(py, e))?)
                }
                None => None,
            };
            self.detached::<T, _>(py, |t| t.along.coupled = coupled);
            Ok(())
        })
    }

    /// Starts new scores of how far parameters move, from where they are; `None` ends them.
    fn start_walk(&self, py: Python<'_>, options: Option<(f64, f64, u64)>) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            let begin = || self.locked::<T, _>(|t, m, o| {
                t.along.walk = match options {
                    Some((alpha, eps, every)) => {
                        Some(Walk::new(m, (alpha, eps), every, o.steps)?)
                    }
                    None => None,
                };
                Ok(())
            });
            py.detach(begin).map_err(|e| translate(py, e))
        })
    }

    /// F, the gain, the score and the place of the last score, in public order; the optimizer's steps when
    /// they began, and whether there was no F then.
    fn walk(&self, py: Python<'_>) -> Kept<(Vec<Py<PyAny>>, u64, bool)> {
        with_dtype!(self.model.get().dtype, T => {
            let copy = |t: &mut CoreTrainer<T>| {
                let Some(walk) = &t.along.walk else { return Ok(None) };
                let parts = walk.parts.iter().map(|part| self.public(part)).collect::<Result<Vec<_>, _>>()?;
                Ok(Some((parts, walk.begun, walk.fresh)))
            };
            self.kept(py, copy, |(parts, begun, fresh)| {
                (parts.into_iter().map(|part| vector_out(py, part)).collect(), begun, fresh)
            })
        })
    }

    fn set_walk(
        &self,
        py: Python<'_>,
        parts: Vec<Bound<'_, PyAny>>,
        begun: u64,
        fresh: bool,
    ) -> PyResult<()> {
        let Model { network, isa, .. } = self.model.get();
        with_dtype!(self.model.get().dtype, T => {
            let part = |part: &Bound<'_, PyAny>| vector::<T>("the walk", part, network.num_parameters());
            let parts = parts.iter().map(part).collect::<PyResult<Vec<_>>>()?;
            self.detached::<T, _>(py, |t| {
                if let Some(walk) = &mut t.along.walk {
                    walk.parts.iter_mut().zip(&parts).for_each(|(into, part)| network.import(*isa, part, into));
                    (walk.begun, walk.fresh) = (begun, fresh);
                }
            });
            Ok(())
        })
    }

    /// Keeps gradients from going against those of remembered samples.
    fn project(
        &self,
        py: Python<'_>,
        rule: (String, f64, f64),
        memories: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
    ) -> PyResult<()> {
        let rule = match rule {
            (kind, _, eps) if kind == "average" => Rule::Average { eps },
            (kind, margin, eps) => Rule::Each { margin, eps, bound: kind == "bound" },
        };
        with_dtype!(self.model.get().dtype, T => {
            let memories = memories.iter().map(memory::<T>).collect::<PyResult<Vec<_>>>()?;
            let set = || self.locked::<T, _>(|t, m, _| {
                let projection = Projection::of_memories(rule, memories, t.objective(), m)?;
                t.projection = Some(projection);
                Ok(())
            });
            py.detach(set).map_err(|e| translate(py, e))
        })
    }

    /// Which rows of a memory the coming gradients come from, `size` each.
    fn recall(&self, py: Python<'_>, memory: usize, rows: Vec<u32>, size: usize) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            let set = |t: &mut CoreTrainer<T>| {
                let memory = t.projection.as_mut().and_then(|p| p.memory(memory));
                memory.map_or(Ok(()), |m| m.set_order(rows, size))
            };
            self.detached::<T, _>(py, set).map_err(|e| translate(py, e))
        })
    }

    /// Keeps gradients orthogonal to orthonormal directions, one after the other in public order; `None` ends
    /// any projection.
    #[pyo3(signature = (directions=None))]
    fn project_out(&self, py: Python<'_>, directions: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        with_dtype!(self.model.get().dtype, T => {
            let projection = match directions {
                Some(rows) => {
                    let rows = Matrix::<T>::new("directions", rows)?;
                    let rows = rows.view();
                    let Model { network, isa, .. } = self.model.get();
                    let flat = rows.as_slice().expect("checked when it was borrowed");
                    let make = || Projection::orthogonal(network, *isa, flat);
                    Some(py.detach(make).map_err(|e| translate(py, e))?)
                }
                None => None,
            };
            self.detached::<T, _>(py, |t| t.projection = projection);
            Ok(())
        })
    }

    /// Updates since projection began, and how many of them had their gradient changed; `None` without
    /// projection.
    fn projected(&self, py: Python<'_>) -> Option<(u64, u64)> {
        with_dtype!(self.model.get().dtype, T => {
            self.detached::<T, _>(py, |t| t.projection.as_ref().map(|p| p.counts))
        })
    }

    /// What a step will run, in words, and the size of its workspace in bytes.
    fn plan(&self, py: Python<'_>, batch_size: usize) -> PyResult<(String, usize)> {
        if u32::try_from(batch_size).is_err() {
            // A plan lists its waves: for more rows than any fit has, that list would not fit into memory.
            let accepted = "a batch has at most 4294967295 rows";
            return Err(translate(py, Error::argument("batch_size", batch_size, accepted)));
        }
        with_dtype!(self.model.get().dtype, T => {
            let explain = |trainer: &mut CoreTrainer<T>, model: &mut CoreModel<T>, optimizer: &mut CoreOptimizer<T>| {
                Ok(trainer.explain(model, optimizer, batch_size.max(1)))
            };
            py.detach(|| self.locked::<T, _>(explain)).map_err(|e| translate(py, e))
        })
    }
}
