//! Training: steps, epochs, evaluation. Everything per batch happens here, nothing in Python.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::arena::Buffer;
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::loss::{Loss, RowLoss, Targets};
use crate::model::{Model, Parts, Workspaces, update_averages};
use crate::optim::Optimizer;
use crate::pass::{LossTask, Pass, Rows, WeightTask};
use crate::plan::{Mode, Plan};
use crate::rng::{Purpose, Stream};
use crate::simd::{Isa, all_finite};
use crate::threads;
use crate::workspace::Layout;

/// Rows that an evaluation takes at once: bounds its memory, enough to keep every thread busy.
const EVALUATION_ROWS: usize = 16 * 1024;

/// Runs steps with one loss, keeping the memory of its plans.
pub struct Trainer<T: Element> {
    loss: Loss,
    workspaces: Workspaces<T>,
    /// Memory of the last fit's [`Snapshot`], for the next.
    spare: Option<Snapshot<T>>,
}

/// Parameters and optimizer before a fit, to go back to if training diverges.
struct Snapshot<T: Element> {
    params: Buffer<T>,
    averages: Buffer<T>,
    passes: u64,
    optimizer: Optimizer<T>,
}

impl<T: Element> Snapshot<T> {
    /// Takes one, in the memory of an old one if that fits.
    fn take(spare: Option<Self>, model: &Model<T>, optimizer: &Optimizer<T>) -> Result<Self, Error> {
        let Model { params, averages, .. } = model;
        let fits = |s: &Self| {
            s.params.len() == params.len()
                && s.averages.len() == averages.len()
                && s.optimizer.state.len() == optimizer.state.len()
        };
        let mut snapshot = match spare.filter(fits) {
            Some(spare) => spare,
            None => Snapshot {
                params: Buffer::zeroed("a copy of the parameters", params.len())?,
                averages: Buffer::zeroed("a copy of the running averages", averages.len())?,
                passes: 0,
                optimizer: Optimizer::new(optimizer.config, params.len())?,
            },
        };
        snapshot.params.copy_from_slice(params);
        snapshot.averages.copy_from_slice(averages);
        snapshot.passes = model.passes();
        snapshot.optimizer.copy_from(optimizer);
        Ok(snapshot)
    }
}

/// A sum of row losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Sum of losses, in the order of the rows.
    pub loss: f64,
    /// Rows whose largest output was the label's.
    pub correct: usize,
    /// Rows.
    pub rows: usize,
}

impl Tally {
    fn add(&mut self, losses: &[RowLoss]) {
        for row in losses {
            self.loss += row.loss;
            self.correct += usize::from(row.correct);
        }
        self.rows += losses.len();
    }

    /// Mean loss.
    pub fn mean(&self) -> f64 {
        self.loss / self.rows as f64
    }

    /// Share of rows that were right.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.rows as f64
    }
}

impl<T: Element> Trainer<T> {
    /// A trainer for a loss.
    pub fn new(loss: Loss) -> Self {
        Trainer { loss, workspaces: Workspaces::default(), spare: None }
    }

    /// Its loss.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// Checks shapes and labels of a batch or a data set.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, model: &Model<T>, x: Samples<'_, T>, y: &Targets<'_, T>) -> Result<(), Error> {
        model.network().check_input(x.rows(), x.cols())?;
        self.loss.check(y, x.rows(), model.network().outputs())
    }

    /// One step on one batch: forward, loss, backward, update. Gives the loss before the update.
    ///
    /// # Errors
    /// If shapes or labels do not fit, something in x or y is not finite, or the loss is not; the model
    /// and the optimizer are then as they were.
    pub fn step<'s>(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        x: impl Into<Samples<'s, T>>,
        y: Targets<'_, T>,
    ) -> Result<f64, Error> {
        let x = x.into();
        self.check(model, x, &y)?;
        let rows = x.rows();
        model.network().check_training_rows(rows)?;
        self.batch(model, optimizer, x, y, Rows::From(0), rows).map(|tally| tally.mean())
    }

    /// One step on `len` rows of the data.
    fn batch(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        x: Samples<'_, T>,
        y: Targets<'_, T>,
        rows: Rows<'_>,
        len: usize,
    ) -> Result<Tally, Error> {
        let step = optimizer.next_step();
        let state = optimizer.share_state();
        let (isa, draw) = (model.isa(), model.draw);
        let workspace = self.workspaces.get(model.network(), isa, Mode::Step, len)?;
        let Parts { network, params, grads, averages } = model.parts();
        let pass = Pass {
            draw,
            loss: Some(LossTask { loss: self.loss, targets: y, backward: true }),
            weights: Some(WeightTask {
                grads: grads.share(),
                accumulate: false,
                size: None,
                update: Some((step, state)),
            }),
            ..Pass::new(network, workspace, params.share(), averages, Some(x), rows)
        };
        threads::run(&pass, pass.plan.threads);
        let stopped = pass.stopped.load(Ordering::Relaxed);
        let losses = &workspace.losses;
        if stopped {
            return Err(why_not_finite(isa, x, &y, losses, optimizer));
        }
        update_averages(network, workspace, averages);
        model.draw.pass += 1;
        optimizer.steps += 1;
        let mut tally = Tally::default();
        tally.add(losses);
        Ok(tally)
    }

    /// Mean loss and accuracy over a data set, in evaluation mode.
    ///
    /// # Errors
    /// If shapes or labels do not fit, or something in x is not finite.
    pub fn evaluate<'s>(
        &mut self,
        model: &mut Model<T>,
        x: impl Into<Samples<'s, T>>,
        y: Targets<'_, T>,
    ) -> Result<Tally, Error> {
        let x = x.into();
        self.check(model, x, &y)?;
        let mut tally = Tally::default();
        for start in (0..x.rows()).step_by(EVALUATION_ROWS) {
            let len = EVALUATION_ROWS.min(x.rows() - start);
            let isa = model.isa();
            let workspace = self.workspaces.get(model.network(), isa, Mode::Inference, len)?;
            let Parts { network, params, averages, .. } = model.parts();
            let pass = Pass {
                loss: Some(LossTask { loss: self.loss, targets: y, backward: false }),
                ..Pass::new(network, workspace, params.share(), averages, Some(x), Rows::From(start))
            };
            threads::run(&pass, pass.plan.threads);
            if pass.stopped.load(Ordering::Relaxed) {
                check_finite(isa, x, &y)?;
            }
            let losses = &workspace.losses;
            tally.add(losses);
        }
        if !tally.loss.is_finite() {
            return Err(Error::Mismatch(format!(
                "the loss is {} although the data are finite: the weights are too large; retrain with a smaller \
                 learning rate, or set them to smaller values",
                tally.loss
            )));
        }
        Ok(tally)
    }

    /// See [`Workspace::poison`].
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        self.workspaces.poison();
    }

    /// The plan of a training step on `rows` rows, and the bytes of its workspace.
    pub fn plan(&self, model: &Model<T>, rows: usize) -> (Plan, usize) {
        let threads = threads::num_threads().0;
        let plan = Plan::new::<T>(model.network(), Mode::Step, rows, model.isa(), threads);
        let bytes = Layout::new::<T>(model.network(), &plan).len * size_of::<T>();
        (plan, bytes)
    }
}

/// Which number made a step's loss not finite: one in the data, or none.
fn why_not_finite<T: Element>(
    isa: Isa,
    x: Samples<'_, T>,
    y: &Targets<'_, T>,
    losses: &[RowLoss],
    optimizer: &Optimizer<T>,
) -> Error {
    if let Err(error) = check_finite(isa, x, y) {
        return error;
    }
    let loss = losses.iter().map(|l| l.loss).find(|l| !l.is_finite()).unwrap_or(f64::NAN);
    Error::Diverged { loss, step: optimizer.steps, lr: optimizer.config.lr() }
}

/// Checks that a data set is finite.
fn check_finite<T: Element>(isa: Isa, x: Samples<'_, T>, y: &Targets<'_, T>) -> Result<(), Error> {
    x.check_finite("x", isa)?;
    match y {
        Targets::Values(y) => Samples::from(*y).check_finite("y", isa),
        Targets::Labels(_) => Ok(()),
    }
}

/// How a fit goes through the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    /// Passes through the data.
    pub epochs: usize,
    /// Rows of a step; the last of an epoch has what is left.
    pub batch_size: usize,
    /// Whether each epoch has a random order of its own.
    pub shuffle: bool,
    /// Decides the orders.
    pub seed: u64,
}

/// What an epoch gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRecord {
    /// Its number, from 1.
    pub epoch: usize,
    /// Over the training rows, each before its own update.
    pub training: Tally,
    /// Over the validation rows, at the end of the epoch.
    pub validation: Option<Tally>,
    /// How long it took.
    pub time: Duration,
}

/// Data to fit or to validate on.
#[derive(Clone, Copy, Debug)]
pub struct DataSet<'a, T> {
    /// Inputs, a row per sample.
    pub x: Samples<'a, T>,
    /// Targets.
    pub y: Targets<'a, T>,
}

/// A fit under way. It can be left between steps and resumed.
pub struct Fit<T: Element> {
    options: FitOptions,
    rows: usize,
    order: Vec<u32>,
    epoch: usize,
    batch: usize,
    tally: Tally,
    time: Duration,
    /// How it was before the first step.
    before: Option<Snapshot<T>>,
}

impl<T: Element> Fit<T> {
    /// Checks everything that can be wrong with the data and the options, before the first step.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(
        options: FitOptions,
        trainer: &Trainer<T>,
        model: &Model<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
    ) -> Result<Self, Error> {
        for (name, value) in [("epochs", options.epochs), ("batch_size", options.batch_size)] {
            if value == 0 {
                let accepted = "a whole number ≥ 1 is needed".into();
                return Err(Error::Argument { name, value: value.to_string(), accepted });
            }
        }
        let check = |data: DataSet<'_, T>| {
            trainer.check(model, data.x, &data.y)?;
            check_finite(model.isa(), data.x, &data.y)
        };
        check(training)?;
        if let Some(data) = validation {
            check(data).map_err(|e| Error::Validation(Box::new(e)))?;
        }
        let rows = training.x.rows();
        model.network().check_training_rows(rows)?;
        if rows % options.batch_size == 1 || options.batch_size == 1 {
            // The last batch of an epoch would be a single row.
            model.network().check_training_rows(1)?;
        }
        let last = u32::try_from(rows).map_err(|_| Error::Argument {
            name: "x",
            value: format!("an array of {rows} rows"),
            accepted: "at most 4294967295 rows are taken at once".into(),
        })?;
        let order = if options.shuffle { (0..last).collect() } else { Vec::new() };
        let start = Tally::default();
        Ok(Fit { options, rows, order, epoch: 0, batch: 0, tally: start, time: Duration::ZERO, before: None })
    }

    /// Whether all epochs are over.
    pub fn done(&self) -> bool {
        self.epoch == self.options.epochs
    }

    /// Epochs ended, batches done in this one, batches an epoch, and what this epoch gave so far.
    pub fn progress(&self) -> (usize, usize, usize, Tally) {
        (self.epoch, self.batch, self.batches(), self.tally)
    }

    fn batches(&self) -> usize {
        self.rows.div_ceil(self.options.batch_size)
    }

    /// Steps until all epochs are over, or `until` says so: it is asked after every step, with the
    /// number of epochs that ended in this call. Gives those epochs.
    ///
    /// The data must be those of [`new`](Self::new).
    ///
    /// # Errors
    /// If training diverges. Model and optimizer are then as they were before the fit.
    pub fn run(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
        mut until: impl FnMut(usize) -> bool,
    ) -> Result<Vec<EpochRecord>, Error> {
        if self.before.is_none() {
            self.before = Some(Snapshot::take(trainer.spare.take(), model, optimizer)?);
        }
        let result = self.steps(trainer, model, optimizer, training, validation, &mut until);
        if let (Err(_), Some(before)) = (&result, &self.before) {
            let Parts { params, averages, .. } = model.parts();
            params.copy_from_slice(&before.params);
            averages.copy_from_slice(&before.averages);
            model.set_passes(before.passes);
            optimizer.copy_from(&before.optimizer);
            self.epoch = self.options.epochs; // nothing is left to run
        }
        if self.done() {
            trainer.spare = self.before.take();
        }
        result
    }

    fn steps(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
        until: &mut impl FnMut(usize) -> bool,
    ) -> Result<Vec<EpochRecord>, Error> {
        assert_eq!(training.x.rows(), self.rows, "a fit goes on with the data it began with");
        let mut records = Vec::new();
        let mut begin = Instant::now();
        while !self.done() {
            if self.batch == 0 && self.options.shuffle {
                // From the order of the rows, not of the last epoch: an epoch's order depends on the seed
                // and its number alone.
                self.order.iter_mut().zip(0..).for_each(|(o, i)| *o = i);
                Stream::new(self.options.seed, Purpose::Shuffle, self.epoch as u64).shuffle(&mut self.order);
            }
            let start = self.batch * self.options.batch_size;
            let len = self.options.batch_size.min(self.rows - start);
            let rows = if self.options.shuffle {
                Rows::Listed(&self.order[start..start + len])
            } else {
                Rows::From(start)
            };
            let tally = trainer.batch(model, optimizer, training.x, training.y, rows, len)?;
            self.tally.loss += tally.loss;
            self.tally.correct += tally.correct;
            self.tally.rows += tally.rows;
            self.batch += 1;
            if self.batch == self.batches() {
                if !all_finite(model.isa(), model.parts().params) {
                    let (step, lr) = (optimizer.steps, optimizer.config.lr());
                    return Err(Error::Diverged { loss: f64::INFINITY, step, lr });
                }
                let validation = match validation {
                    Some(data) => Some(trainer.evaluate(model, data.x, data.y)?),
                    None => None,
                };
                self.epoch += 1;
                self.batch = 0;
                self.time += begin.elapsed();
                begin = Instant::now();
                let training = std::mem::take(&mut self.tally);
                records.push(EpochRecord { epoch: self.epoch, training, validation, time: self.time });
                self.time = Duration::ZERO;
            }
            if until(records.len()) {
                break;
            }
        }
        self.time += begin.elapsed();
        Ok(records)
    }
}
