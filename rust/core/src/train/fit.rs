//! Epochs over a data set.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::evaluate::Evaluation;
use super::snapshot::Snapshot;
use super::{Tally, Trainer, check_values};
use crate::arena::{copied, zeros};
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::loss::{Goals, Objective, Targets};
use crate::model::{Model, Parts};
use crate::optim::Optimizer;
use crate::project::Projection;
use crate::rng::{Purpose, Stream};
use crate::update;

/// How a fit goes through the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitOptions {
    /// Passes through the data.
    pub epochs: usize,
    /// Rows of a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Whether each epoch has its own random order.
    pub shuffle: bool,
    /// Determines the orders.
    pub seed: u64,
}

/// The results of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRecord {
    /// Its number, from 1.
    pub epoch: usize,
    /// Over the training rows, each before its own update.
    pub training: Tally,
    /// The penalty on the parameters at the end of the epoch, if there is one.
    pub penalty: Option<f64>,
    /// Over the validation rows, at the end of the epoch. Its loss is infinite if one of theirs is.
    pub validation: Option<Tally>,
    /// How long it took.
    pub time: Duration,
}

/// Data for fitting or validation.
#[derive(Clone, Copy, Debug)]
pub struct DataSet<'a, T> {
    /// Inputs, one row per sample.
    pub x: Samples<'a, T>,
    /// Targets, and how much each row counts.
    pub y: Goals<'a, T>,
}

/// An array's name, its rows, and its columns, unless it is a vector.
type Shape = (&'static str, usize, Option<usize>);

impl<T: Element> DataSet<'_, T> {
    fn shapes(&self) -> [Shape; 3] {
        let DataSet { x, y: Goals { targets, weights } } = self;
        let columns = match targets {
            Targets::Values(y) => Some(y.cols()),
            Targets::Labels(_) => None,
        };
        [
            ("x", x.rows(), Some(x.cols())),
            ("y", targets.rows(), columns),
            ("sample_weight", weights.map_or(0, <[T]>::len), None),
        ]
    }
}

/// Checks that arrays have the shapes that they had when the fit began: their owner may change them, and only
/// values are checked as they are used.
fn same(before: [Shape; 3], now: [Shape; 3]) -> Result<(), Error> {
    let Some((then, now)) = before.into_iter().zip(now).find(|(then, now)| then != now) else {
        return Ok(());
    };
    let tell = |(_, rows, columns): Shape| match columns {
        Some(columns) => format!("({rows}, {columns})"),
        None => format!("({rows},)"),
    };
    let (name, now, then) = (then.0, tell(now), tell(then));
    Err(Error::Mismatch(format!(
        "{name} has shape {now}, but had {then} when the fit began: do not change its shape or dtype meanwhile"
    )))
}

/// Shuffles the rows for an epoch, counted from 0. The order depends only on the seed and the epoch's number,
/// not on earlier orders.
pub fn shuffle(seed: u64, epoch: usize, order: &mut [u32]) {
    order.iter_mut().zip(0..).for_each(|(o, i)| *o = i);
    Stream::new(seed, Purpose::Shuffle, epoch as u64).shuffle(order);
}

/// A fit in progress. It can be interrupted between steps and resumed.
pub struct Fit<T: Element> {
    options: FitOptions,
    /// The loss that targets were checked for.
    objective: Objective<T>,
    rows: usize,
    /// Of the training and the validation data.
    shapes: ([Shape; 3], Option<[Shape; 3]>),
    /// Whether some rows may count more than others.
    uneven: bool,
    order: Vec<u32>,
    epoch: usize,
    batch: usize,
    tally: Tally,
    /// Loss of the last batch.
    last_loss: f64,
    time: Duration,
    /// Epochs already done by other fits, so that the sequence of orders continues.
    first_epoch: usize,
    /// Learning rates of the coming updates, one each, if they are not the optimizer's own.
    rates: Option<Vec<f64>>,
    /// Whether the rates are per epoch.
    rates_by_epoch: bool,
    /// Number of updates done.
    updates: usize,
    /// Epochs that have ended and have not been handed out.
    ended: Vec<EpochRecord>,
    /// The validation at the end of the epoch, as far as it has come.
    evaluation: Evaluation<T>,
    /// The state before the first step.
    before: Option<Snapshot<T>>,
    undone: bool,
}

impl<T: Element> Fit<T> {
    /// Checks everything that can be wrong with the data and the options before the first step.
    ///
    /// # Errors
    /// If something is wrong; the error says what.
    pub fn new(
        options: FitOptions,
        trainer: &Trainer<T>,
        model: &Model<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
    ) -> Result<Self, Error> {
        for (name, value) in [("epochs", options.epochs), ("batch_size", options.batch_size)] {
            if value == 0 {
                return Err(Error::argument(name, value, "a whole number >= 1 is needed"));
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
        let last = u32::try_from(rows).map_err(|_| {
            Error::argument(
                "x",
                format!("an array of {rows} rows"),
                "at most 4294967295 rows are taken at once",
            )
        })?;
        let order = zeros("the order of the rows", if options.shuffle { last as usize } else { 0 })?;
        let tally = Tally { reduction: trainer.objective.reduction, ..Tally::default() };
        Ok(Fit {
            options,
            objective: trainer.objective.clone(),
            rows,
            shapes: (training.shapes(), validation.map(|data| data.shapes())),
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
            evaluation: Evaluation::tolerant(),
            before: None,
            undone: false,
        })
    }

    /// Uses the orders of the epochs that follow `epochs` earlier ones.
    pub fn after(mut self, epochs: usize) -> Self {
        self.first_epoch = epochs;
        self
    }

    /// Sets a learning rate for each update, or for each epoch.
    ///
    /// # Errors
    /// If their number is wrong, or one is negative or not finite.
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
            let wrong =
                rates.iter().find(|lr| !good(lr)).map_or(String::new(), |lr| format!(", one of them {lr}"));
            let found = rates.len();
            let text = format!("{needed} learning rates >= 0 are needed; got {found}{wrong}");
            return Err(Error::Mismatch(text));
        }
        (self.rates, self.rates_by_epoch) = (Some(rates), by_epoch);
        Ok(self)
    }

    /// Whether all epochs are over.
    pub fn done(&self) -> bool {
        self.epoch == self.options.epochs
    }

    /// Whether an error has undone everything.
    pub fn undone(&self) -> bool {
        self.undone
    }

    /// Whether all batches of an epoch are over, but not its validation.
    pub fn is_validating(&self) -> bool {
        self.batch == self.batches()
    }

    /// Epochs ended, batches done in this one, batches per epoch, and this epoch's tally so far.
    pub fn progress(&self) -> (usize, usize, usize, Tally) {
        (self.epoch, self.batch, self.batches(), self.tally)
    }

    /// Loss of the last batch, before its update; NaN if the batch was skipped.
    pub fn last_loss(&self) -> f64 {
        self.last_loss
    }

    fn batches(&self) -> usize {
        self.rows.div_ceil(self.options.batch_size)
    }

    /// Takes steps until all epochs are over, or `until` returns true. It is called after every batch (the last
    /// of an epoch includes its validation) with the number of epochs that have ended in this call, and between
    /// the parts of a validation with `None`. Returns the epochs that have ended.
    ///
    /// The data must be those of [`new`](Self::new).
    ///
    /// # Errors
    /// If training diverges, or the data have other shapes than they had. Model and optimizer are then as
    /// before the fit, and [`take_ended`](Self::take_ended) returns the epochs that had ended in this call.
    pub fn run(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        training: DataSet<'_, T>,
        validation: Option<DataSet<'_, T>>,
        mut until: impl FnMut(Option<usize>) -> bool,
    ) -> Result<Vec<EpochRecord>, Error> {
        if self.before.is_none() {
            let mut before = Snapshot::take(trainer.spare.take(), model, optimizer)?;
            // Gradients that an interrupted fit left behind do not belong to this one.
            trainer.forget();
            let copy = |values: &[T]| copied("a copy of what follows the parameters", values);
            before.average = match &trainer.average {
                Some(average) => Some((copy(&average.values)?, average.count)),
                None => None,
            };
            before.path = trainer.along.path.as_ref().map(|p| copy(&p.values)).transpose()?;
            before.walk = match &trainer.along.walk {
                Some(walk) => {
                    let [f, gain, score, place] = &walk.parts;
                    Some([copy(f)?, copy(gain)?, copy(score)?, copy(place)?])
                }
                None => None,
            };
            before.place = trainer.projection.as_ref().map(Projection::place);
            self.before = Some(before);
        }
        let mut result = self.steps(trainer, model, optimizer, training, validation, &mut until);
        if let (Err(error), Some(before)) = (&mut result, &self.before) {
            // A step finds parameters that are not finite, but not since when: here, they were.
            if let Error::Lost { lr } = *error
                && update::is_finite(model.isa(), &before.params)
            {
                *error = Error::StepOverflow { what: "a parameter", step: optimizer.steps, lr };
            }
            self.undo(trainer, model, optimizer);
        }
        if self.done() && self.before.is_some() {
            trainer.spare = self.before.take();
        }
        result.map(|()| self.take_ended())
    }

    /// Ends the fit, with model, optimizer and trainer as they were before it.
    pub fn undo(&mut self, trainer: &mut Trainer<T>, model: &mut Model<T>, optimizer: &mut Optimizer<T>) {
        self.epoch = self.options.epochs; // nothing is left to run
        self.undone = true;
        let Some(mut before) = self.before.take() else { return };
        trainer.forget();
        let Parts { params, averages, .. } = model.parts();
        params.copy_from_slice(&before.params);
        averages.copy_from_slice(&before.averages);
        model.set_passes(before.passes);
        optimizer.restore(&mut before.optimizer);
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
        trainer.spare = Some(before);
    }

    /// Returns the epochs that have ended and have not been handed out.
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
        until: &mut impl FnMut(Option<usize>) -> bool,
    ) -> Result<(), Error> {
        same(self.shapes.0, training.shapes())?;
        if let (Some(before), Some(data)) = (self.shapes.1, validation) {
            same(before, data.shapes()).map_err(|e| Error::Validation(Box::new(e)))?;
        }
        if trainer.objective != self.objective {
            let text = "the loss was changed during a fit: change it before or after, not in a callback";
            return Err(Error::Mismatch(text.into()));
        }
        let mut begin = Instant::now();
        while !self.done() {
            if !self.is_validating() {
                self.step(trainer, model, optimizer, training)?;
            }
            if self.is_validating() {
                let validation = match validation {
                    Some(DataSet { x, y }) => match self.evaluation.run(trainer, model, x, y)? {
                        None if until(None) => break,
                        None => continue,
                        whole => whole,
                    },
                    None => None,
                };
                self.evaluation = Evaluation::tolerant();
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
            if until(Some(self.ended.len())) {
                break;
            }
        }
        self.time += begin.elapsed();
        Ok(())
    }

    /// One batch.
    fn step(
        &mut self,
        trainer: &mut Trainer<T>,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        DataSet { x, y }: DataSet<'_, T>,
    ) -> Result<(), Error> {
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
        // Gradients are not carried over into another epoch.
        let last = self.batch + 1 == self.batches();
        let before = optimizer.steps;
        // A batch whose rows all have weight 0 is skipped.
        let batch = Batch { x, y, rows, len, uneven: self.uneven, checked: true };
        self.last_loss = f64::NAN;
        if let Some(tally) = trainer.batch(model, optimizer, batch, last)? {
            self.last_loss = tally.value();
            self.tally.add(tally);
        }
        self.updates += (optimizer.steps - before) as usize;
        self.batch += 1;
        if last { model.check_step(optimizer) } else { Ok(()) }
    }
}
