//! Epochs over a data set.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::snapshot::Snapshot;
use super::{Tally, Trainer, check_values};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::loss::{Goals, Objective};
use crate::model::{Model, Parts};
use crate::optim::Optimizer;
use crate::pass::Rows;
use crate::project::Projection;
use crate::rng::{Purpose, Stream};

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
    /// What the parameters' penalty is at the end of the epoch, if there is one.
    pub penalty: Option<f64>,
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
    /// Targets, and how much each row counts.
    pub y: Goals<'a, T>,
}

/// The order of the rows in an epoch, counted from 0. It depends on the seed and the epoch's number alone, not
/// on the order in the one before.
pub fn shuffle(seed: u64, epoch: usize, order: &mut [u32]) {
    order.iter_mut().zip(0..).for_each(|(o, i)| *o = i);
    Stream::new(seed, Purpose::Shuffle, epoch as u64).shuffle(order);
}

/// A fit under way. It can be left between steps and resumed.
pub struct Fit<T: Element> {
    options: FitOptions,
    /// The loss that targets were checked for.
    objective: Objective<T>,
    rows: usize,
    /// Whether some row may count more than another.
    uneven: bool,
    order: Vec<u32>,
    epoch: usize,
    batch: usize,
    tally: Tally,
    /// Loss of the last batch.
    last_loss: f64,
    time: Duration,
    /// Epochs that other fits did before, so that orders go on where theirs ended.
    first_epoch: usize,
    /// Learning rates of the updates to come, one each, if they are not the optimizer's own.
    rates: Option<Vec<f64>>,
    /// Whether those are of epochs.
    rates_by_epoch: bool,
    /// Updates done.
    updates: usize,
    /// Epochs that ended and were not handed out.
    ended: Vec<EpochRecord>,
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
            let DataSet { x, y } = data;
            let uneven = trainer.check(model, x, &y)?;
            check_values(&trainer.objective, model.isa(), x, &y)?;
            let totals = trainer.objective.totals(&y, |r| r, x.rows(), model.network().outputs(), uneven);
            if totals.loss == 0.0 { Err(Error::NothingCounts) } else { Ok(uneven) }
        };
        let uneven = check(training)?;
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
        let tally = Tally { reduction: trainer.objective.reduction, ..Tally::default() };
        Ok(Fit {
            options,
            objective: trainer.objective.clone(),
            rows,
            uneven,
            order,
            epoch: 0,
            batch: 0,
            tally,
            last_loss: f64::NAN,
            time: Duration::ZERO,
            first_epoch: 0,
            rates: None,
            rates_by_epoch: false,
            updates: 0,
            ended: Vec::new(),
            before: None,
        })
    }

    /// With the orders of the epochs that follow `epochs` earlier ones.
    pub fn after(mut self, epochs: usize) -> Self {
        self.first_epoch = epochs;
        self
    }

    /// With a learning rate for each update, or for each epoch.
    ///
    /// # Errors
    /// If they are not as many as there will be, or one is negative or not finite.
    pub fn with_rates(
        mut self,
        trainer: &Trainer<T>,
        rates: Vec<f64>,
        by_epoch: bool,
    ) -> Result<Self, Error> {
        let updates = if by_epoch { 1 } else { self.batches().div_ceil(trainer.options.accumulate) };
        let needed = self.options.epochs * updates;
        let good = |lr: &f64| lr.is_finite() && *lr >= 0.0;
        if rates.len() != needed || !rates.iter().all(good) {
            let text = format!("{needed} learning rates are needed, each of them finite and ≥ 0");
            return Err(Error::Mismatch(text));
        }
        (self.rates, self.rates_by_epoch) = (Some(rates), by_epoch);
        Ok(self)
    }

    /// Whether all epochs are over.
    pub fn done(&self) -> bool {
        self.epoch == self.options.epochs
    }

    /// Epochs ended, batches done in this one, batches an epoch, and what this epoch gave so far.
    pub fn progress(&self) -> (usize, usize, usize, Tally) {
        (self.epoch, self.batch, self.batches(), self.tally)
    }

    /// Loss of the last batch, before its update; NaN if it was passed over.
    pub fn last_loss(&self) -> f64 {
        self.last_loss
    }

    fn batches(&self) -> usize {
        self.rows.div_ceil(self.options.batch_size)
    }

    /// Steps until all epochs are over, or `until` says so: it is asked after every batch, with the
    /// number of epochs that ended in this call. Gives those epochs.
    ///
    /// The data must be those of [`new`](Self::new).
    ///
    /// # Errors
    /// If training diverges. Model and optimizer are then as they were before the fit, and
    /// [`take_ended`](Self::take_ended) gives the epochs that had ended in this call.
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
            let mut before = Snapshot::take(trainer.spare.take(), model, optimizer)?;
            // What an interrupted fit left behind is not of this one.
            trainer.forget();
            before.average = trainer.average.as_ref().map(|a| (a.values.to_vec(), a.count));
            before.path = trainer.along.path.as_ref().map(|p| p.values.to_vec());
            before.walk = trainer.along.walk.as_ref().map(|w| w.parts.each_ref().map(|p| p.to_vec()));
            before.place = trainer.projection.as_ref().map(Projection::place);
            self.before = Some(before);
        }
        let result = self.steps(trainer, model, optimizer, training, validation, &mut until);
        if let (Err(_), Some(before)) = (&result, &self.before) {
            let Parts { params, averages, .. } = model.parts();
            params.copy_from_slice(&before.params);
            averages.copy_from_slice(&before.averages);
            model.set_passes(before.passes);
            optimizer.restore(&before.optimizer);
            if let (Some(average), Some((values, count))) = (&mut trainer.average, &before.average) {
                average.values.copy_from_slice(values);
                average.count = *count;
            }
            if let (Some(path), Some(values)) = (&mut trainer.along.path, &before.path) {
                path.values.copy_from_slice(values);
            }
            if let (Some(walk), Some(parts)) = (&mut trainer.along.walk, &before.walk) {
                walk.parts.iter_mut().zip(parts).for_each(|(now, was)| now.copy_from_slice(was));
            }
            if let (Some(projection), Some(place)) = (&mut trainer.projection, &before.place) {
                projection.go_back(place);
            }
            self.epoch = self.options.epochs; // nothing is left to run
        }
        if self.done() {
            trainer.spare = self.before.take();
        }
        result.map(|()| self.take_ended())
    }

    /// Epochs that ended and were not handed out.
    pub fn take_ended(&mut self) -> Vec<EpochRecord> {
        std::mem::take(&mut self.ended)
    }

    fn steps(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
        until: &mut impl FnMut(usize) -> bool,
    ) -> Result<(), Error> {
        if training.x.rows() != self.rows {
            let found = training.x.rows();
            let text =
                format!("x has {found} rows, and had {} when the fit began: leave it as it is", self.rows);
            return Err(Error::Mismatch(text));
        }
        if trainer.objective != self.objective {
            let text = "the loss was changed during a fit: change it before or after, not in a callback";
            return Err(Error::Mismatch(text.into()));
        }
        let mut begin = Instant::now();
        while !self.done() {
            if self.batch == 0 && self.options.shuffle {
                shuffle(self.options.seed, self.first_epoch + self.epoch, &mut self.order);
            }
            let start = self.batch * self.options.batch_size;
            let len = self.options.batch_size.min(self.rows - start);
            let rows = if self.options.shuffle {
                Rows::Listed(&self.order[start..start + len])
            } else {
                Rows::From(start)
            };
            if let Some(rates) = &self.rates {
                let at = if self.rates_by_epoch { self.epoch } else { self.updates };
                optimizer.config.set_lr(rates[at.min(rates.len() - 1)])?;
            }
            // Gradients are not carried into another epoch.
            let last = self.batch + 1 == self.batches();
            let before = optimizer.steps;
            // A batch of rows that all weigh nothing is passed over.
            let (DataSet { x, y }, uneven) = (training, self.uneven);
            let batch = Batch { x, y, rows, len, uneven, checked: true };
            self.last_loss = f64::NAN;
            if let Some(tally) = trainer.batch(model, optimizer, batch, last)? {
                self.last_loss = tally.value();
                self.tally.add(tally);
            }
            self.updates += (optimizer.steps - before) as usize;
            self.batch += 1;
            if self.batch == self.batches() {
                model.check_step(optimizer)?;
                let validation = match validation {
                    Some(data) => Some(trainer.evaluate(model, data.x, data.y)?),
                    None => None,
                };
                self.epoch += 1;
                self.batch = 0;
                self.time += begin.elapsed();
                begin = Instant::now();
                let training = self.tally;
                self.tally = Tally { reduction: training.reduction, ..Tally::default() };
                let penalty = trainer.penalty(model);
                let time = self.time;
                self.ended.push(EpochRecord { epoch: self.epoch, training, penalty, validation, time });
                self.time = Duration::ZERO;
            }
            if until(self.ended.len()) {
                break;
            }
        }
        self.time += begin.elapsed();
        Ok(())
    }
}
