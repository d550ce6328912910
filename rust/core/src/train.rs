//! Training: steps, epochs, evaluation. Everything per batch happens here, nothing in Python.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::along::{self, Along};
use crate::arena::Buffer;
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::loss::{Goals, Objective, Reduction, RowLoss, Totals};
use crate::model::{Model, Parts, Workspaces, update_averages};
use crate::optim::{Optimizer, Saved};
use crate::pass::{LossTask, Pass, Rows, WeightTask};
use crate::plan::{Mode, Plan};
use crate::rng::{Purpose, Stream};
use crate::sam::{Ascent, Sam};
use crate::simd::{Isa, all_finite, max_abs};
use crate::threads;
use crate::update::{self, Average, Clip};
use crate::workspace::Layout;

/// Rows that an evaluation takes at once: bounds its memory, enough to keep every thread busy.
const EVALUATION_ROWS: usize = 16 * 1024;

/// Runs steps with one loss, keeping the memory of its plans.
pub struct Trainer<T: Element> {
    objective: Objective<T>,
    options: StepOptions,
    workspaces: Workspaces<T>,
    /// Gradients on their way from batches to an update, where the two are apart.
    gathered: Gathered<T>,
    /// Where gradients are taken, if not at the parameters.
    ascent: Option<Ascent<T>>,
    /// An average of the parameters over the steps, if one is wanted.
    pub average: Option<Average<T>>,
    /// What goes along with its updates.
    pub along: Along<T>,
    /// Memory of the last fit's [`Snapshot`], for the next.
    spare: Option<Snapshot<T>>,
}

/// What comes between a batch's gradient and the update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOptions {
    /// Whether and how gradients are clipped.
    pub clip: Option<Clip>,
    /// Batches whose gradients are averaged for one update.
    pub accumulate: usize,
    /// Whether gradients are taken where the loss is about largest near by.
    pub sam: Option<Sam>,
}

impl Default for StepOptions {
    /// An update for every batch, from its gradient as it is.
    fn default() -> Self {
        StepOptions { clip: None, accumulate: 1, sam: None }
    }
}

impl StepOptions {
    /// Whether gradients are used up while they are computed: nothing has to be known of all of them.
    fn fused<T: Element>(&self, optimizer: &Optimizer<T>) -> bool {
        *self == Self::default() && optimizer.is_elementwise()
    }
}

/// The sum of some batches' gradients.
struct Gathered<T> {
    grads: Buffer<T>,
    batches: usize,
}

impl<T: Element> Gathered<T> {
    /// An update from the mean of what was gathered.
    ///
    /// # Errors
    /// If a gradient is not finite; nothing is changed then.
    fn update(
        &mut self,
        isa: Isa,
        clip: Option<Clip>,
        params: &mut Buffer<T>,
        optimizer: &mut Optimizer<T>,
        along: &mut Along<T>,
    ) -> Result<(), Error> {
        let mut factor = 1.0 / std::mem::take(&mut self.batches) as f64;
        // What is clipped is all of the gradient; some optimizers need to see all of it anyway.
        let ahead = (clip.is_some() || !optimizer.is_elementwise()) && along.penalty.is_some();
        if let Some(penalty) = along.penalty.as_ref().filter(|_| ahead) {
            update::clip(isa, &mut self.grads, std::mem::replace(&mut factor, 1.0), 0.0, None);
            along::add_penalty(isa, penalty, params, &mut self.grads);
            optimizer.frozen().for_each(|range| self.grads[range].fill(T::ZERO));
        }
        let norm = match clip {
            Some(Clip::Norm(_)) => update::norm(isa, &self.grads),
            _ => max_abs(isa, &self.grads).to_f64(), // only whether it is finite
        };
        if !norm.is_finite() {
            let (step, lr) = (optimizer.steps, optimizer.config.lr());
            return Err(Error::Diverged { loss: f64::INFINITY, step, lr });
        }
        update::clip(isa, &mut self.grads, factor, norm, clip);
        update::step(isa, params, &self.grads, optimizer, along.share(!ahead));
        Ok(())
    }
}

/// Parameters and optimizer before a fit, to go back to if training diverges.
struct Snapshot<T: Element> {
    params: Buffer<T>,
    averages: Buffer<T>,
    passes: u64,
    optimizer: Saved<T>,
    /// The average of parameters, and of how many.
    average: Option<(Vec<T>, u64)>,
    /// What parameters have gained on their way.
    path: Option<Vec<T>>,
}

impl<T: Element> Snapshot<T> {
    /// Takes one, in the memory of an old one if that fits.
    fn take(spare: Option<Self>, model: &Model<T>, optimizer: &Optimizer<T>) -> Result<Self, Error> {
        let Model { params, averages, .. } = model;
        let fits = |s: &Self| s.params.len() == params.len() && s.averages.len() == averages.len();
        let mut snapshot = match spare.filter(fits) {
            Some(spare) => Snapshot { optimizer: optimizer.save(Some(spare.optimizer))?, ..spare },
            None => Snapshot {
                params: Buffer::zeroed("a copy of the parameters", params.len())?,
                averages: Buffer::zeroed("a copy of the running averages", averages.len())?,
                passes: 0,
                optimizer: optimizer.save(None)?,
                average: None,
                path: None,
            },
        };
        snapshot.params.copy_from_slice(params);
        snapshot.averages.copy_from_slice(averages);
        snapshot.passes = model.passes();
        Ok(snapshot)
    }
}

/// A sum of row losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Whether the loss is a mean in the end.
    pub reduction: Reduction,
    /// Sum of losses, in the order of the rows.
    pub loss: f64,
    /// Sum of what was right of rows.
    pub right: f64,
    /// What the rows count.
    pub totals: Totals,
}

impl Tally {
    pub(crate) fn new(reduction: Reduction, losses: &[RowLoss], totals: Totals) -> Self {
        let mut tally = Tally { reduction, totals, ..Tally::default() };
        for row in losses {
            tally.loss += row.loss;
            tally.right += row.right;
        }
        tally
    }

    fn add(&mut self, other: Tally) {
        self.loss += other.loss;
        self.right += other.right;
        self.totals.loss += other.totals.loss;
        self.totals.accuracy += other.totals.accuracy;
    }

    /// The loss of all rows as if they were one batch: its mean, or its sum.
    pub fn value(&self) -> f64 {
        match self.reduction {
            Reduction::Mean => self.loss / self.totals.loss,
            Reduction::Sum => self.loss,
        }
    }

    /// Share of rows that were right, in their weights.
    pub fn accuracy(&self) -> f64 {
        self.right / self.totals.accuracy
    }
}

impl<T: Element> Trainer<T> {
    /// A trainer for a loss, with an update for every batch.
    pub fn new(objective: impl Into<Objective<T>>) -> Self {
        Self::plain(objective.into(), StepOptions::default())
    }

    /// A trainer for a loss.
    ///
    /// # Errors
    /// If a limit is not a number above 0.
    pub fn with_options(objective: impl Into<Objective<T>>, options: StepOptions) -> Result<Self, Error> {
        if let Some(clip) = options.clip {
            clip.check()?;
        }
        if let Some(sam) = options.sam {
            sam.check()?;
        }
        Ok(Self::plain(objective.into(), options))
    }

    fn plain(objective: Objective<T>, options: StepOptions) -> Self {
        let gathered = Gathered { grads: Buffer::empty(), batches: 0 };
        Trainer {
            objective,
            options,
            workspaces: Workspaces::default(),
            gathered,
            ascent: None,
            average: None,
            along: Along::default(),
            spare: None,
        }
    }

    /// Its loss.
    pub fn objective(&self) -> &Objective<T> {
        &self.objective
    }

    /// Goes on with another loss; not while a fit is under way.
    ///
    /// # Errors
    /// If the model's outputs do not suit it; nothing is changed then.
    pub fn set_objective(&mut self, objective: Objective<T>, model: &Model<T>) -> Result<(), Error> {
        objective.check_outputs(model.network().outputs())?;
        self.objective = objective;
        Ok(())
    }

    /// Forgets gradients that were gathered for an update to come.
    pub fn forget(&mut self) {
        self.gathered.batches = 0;
    }

    /// Checks shapes, labels and weights of a batch or a data set. Gives whether some row may count more
    /// than another.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, model: &Model<T>, x: Samples<'_, T>, y: &Goals<'_, T>) -> Result<bool, Error> {
        model.network().check_input(x)?;
        self.objective.check(y, x.rows(), model.network().outputs())
    }

    /// One step on one batch: forward, loss, backward, update. Gives the loss before the update.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, no row counts, something in x or y is not finite, or the loss
    /// is not; the model and the optimizer are then as they were.
    pub fn step<'s, 't>(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        x: impl Into<Samples<'s, T>>,
        y: impl Into<Goals<'t, T>>,
    ) -> Result<f64, Error>
    where
        T: 't,
    {
        let (x, y) = (x.into(), y.into());
        let uneven = self.check(model, x, &y)?;
        let len = x.rows();
        model.network().check_training_rows(len)?;
        let tally = self.batch(model, optimizer, x, y, (Rows::From(0), len), uneven, false)?;
        tally.map(|tally| tally.value()).ok_or(Error::NothingCounts)
    }

    /// One batch of an epoch whose end is not known yet: [`flush`](Self::flush) is. Gives what its losses add
    /// up to, or nothing if no row counts.
    ///
    /// # Errors
    /// As [`step`](Self::step), but for rows that do not count.
    pub fn train<'s, 't>(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        x: impl Into<Samples<'s, T>>,
        y: impl Into<Goals<'t, T>>,
    ) -> Result<Option<Tally>, Error>
    where
        T: 't,
    {
        let (x, y) = (x.into(), y.into());
        let uneven = self.check(model, x, &y)?;
        let len = x.rows();
        model.network().check_training_rows(len)?;
        self.batch(model, optimizer, x, y, (Rows::From(0), len), uneven, false)
    }

    /// An update from gradients that wait for one, at the end of an epoch.
    ///
    /// # Errors
    /// If one of them is not finite; nothing is changed then.
    pub fn flush(&mut self, model: &mut Model<T>, optimizer: &mut Optimizer<T>) -> Result<(), Error> {
        if self.gathered.batches == 0 {
            return Ok(());
        }
        let isa = model.isa();
        let params = model.parts().params;
        self.gathered.update(isa, self.options.clip, params, optimizer, &mut self.along)?;
        if let Some(average) = &mut self.average {
            average.follow(isa, params, optimizer.steps);
        }
        Ok(())
    }

    /// One batch, `rows.1` rows of the data, unless none of them counts; and an update, if it is the `last`
    /// that there is or enough have been gathered.
    fn batch(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        x: Samples<'_, T>,
        y: Goals<'_, T>,
        (rows, len): (Rows<'_>, usize),
        uneven: bool,
        last: bool,
    ) -> Result<Option<Tally>, Error> {
        let outputs = model.network().outputs();
        let totals = self.objective.totals(&y, |r| rows.at(r), len, outputs, uneven);
        let (isa, draw) = (model.isa(), model.draw);
        if totals.loss == 0.0 {
            if last {
                self.flush(model, optimizer)?;
            }
            return Ok(None);
        }
        if let (Some(sam), None) = (self.options.sam, &self.ascent) {
            let network = model.network();
            self.ascent = Some(Ascent::new(sam, network.arena_len(), network.averages_len())?);
        }
        if !optimizer.is_elementwise() && (self.along.path.is_some() || self.along.mask.is_some()) {
            let text = "this optimizer looks at whole layers; path integrals and parameters that stay, which this \
                        strategy needs, are there for optimizers that work element by element";
            return Err(Error::Unsupported(text.into()));
        }
        let fused = self.options.fused(optimizer);
        if !fused && self.gathered.grads.len() != model.network().arena_len() {
            self.gathered.grads = Buffer::zeroed("gradients", model.network().arena_len())?;
        }
        if self.gathered.batches == 0 && !fused {
            // Nobody writes these, and what they were before they were frozen must not count.
            optimizer.frozen().for_each(|range| self.gathered.grads[range].fill(T::ZERO));
        }
        let workspace = self.workspaces.get(model.network(), isa, Mode::Step, len)?;
        let Parts { network, params, grads, averages } = model.parts();
        let mut at_params = None;
        if let Some(ascent) = &mut self.ascent {
            let pass = Pass {
                draw,
                loss: Some(LossTask {
                    objective: &self.objective,
                    goals: y,
                    scale: self.objective.scale(totals),
                    backward: true,
                }),
                weights: Some(WeightTask {
                    grads: ascent.grads.share(),
                    accumulate: false,
                    size: None,
                    steps: None,
                    update: None,
                    along: None,
                }),
                ..Pass::new(network, workspace, params.share(), averages, Some(x), rows)
            };
            threads::run(&pass, pass.plan.threads);
            let stopped = pass.stopped.load(Ordering::Relaxed);
            if stopped || !ascent.up(isa, params, averages, optimizer.frozen()) {
                self.gathered.batches = 0;
                return Err(why_not_finite(&self.objective, isa, x, &y, &workspace.losses, optimizer));
            }
            at_params = Some(Tally::new(self.objective.reduction, &workspace.losses, totals));
            // Of this pass: the one that follows is a step of the method, not of the data.
            update_averages(network, workspace, averages, None);
        }
        let (steps, state) = optimizer.begin();
        let pass = Pass {
            draw,
            loss: Some(LossTask {
                objective: &self.objective,
                goals: y,
                scale: self.objective.scale(totals),
                backward: true,
            }),
            weights: Some(WeightTask {
                grads: if fused { grads.share() } else { self.gathered.grads.share() },
                accumulate: !fused && self.gathered.batches > 0,
                size: None,
                steps: Some(steps),
                update: fused.then_some(state),
                along: self.along.share(true).filter(|_| fused),
            }),
            ..Pass::new(network, workspace, params.share(), averages, Some(x), rows)
        };
        threads::run(&pass, pass.plan.threads);
        let stopped = pass.stopped.load(Ordering::Relaxed);
        let losses = &workspace.losses;
        if stopped {
            self.gathered.batches = 0;
            if let Some(ascent) = &self.ascent {
                ascent.undo(params, averages);
            }
            return Err(why_not_finite(&self.objective, isa, x, &y, losses, optimizer));
        }
        let tally = at_params.unwrap_or_else(|| Tally::new(self.objective.reduction, losses, totals));
        if let Some(ascent) = &self.ascent {
            ascent.down(params);
        }
        if fused {
            optimizer.advance();
        } else {
            self.gathered.batches += 1;
            if last || self.gathered.batches == self.options.accumulate {
                let Trainer { gathered, along, options, .. } = self;
                let updated = gathered.update(isa, options.clip, params, optimizer, along);
                if let (Err(_), Some(ascent)) = (&updated, &self.ascent) {
                    ascent.undo(params, averages);
                }
                updated?;
            }
        }
        if let Some(average) = &mut self.average
            && self.gathered.batches == 0
            && all_finite(isa, params)
        // if not, the next step will say so
        {
            average.follow(isa, params, optimizer.steps);
        }
        if self.ascent.is_none() {
            update_averages(network, workspace, averages, None);
        }
        model.draw.pass += 1;
        Ok(Some(tally))
    }

    /// A step without its update: gives what the losses of a batch add up to, and adds its gradients to the
    /// model's.
    ///
    /// # Errors
    /// As [`step`](Self::step); gradients are then as they were.
    pub fn backward<'s, 't>(
        &mut self,
        model: &mut Model<T>,
        optimizer: &Optimizer<T>,
        x: impl Into<Samples<'s, T>>,
        y: impl Into<Goals<'t, T>>,
    ) -> Result<Tally, Error>
    where
        T: 't,
    {
        let (x, y) = (x.into(), y.into());
        let uneven = self.check(model, x, &y)?;
        let (len, outputs) = (x.rows(), model.network().outputs());
        model.network().check_training_rows(len)?;
        let totals = self.objective.totals(&y, |r| r, len, outputs, uneven);
        if totals.loss == 0.0 {
            return Err(Error::NothingCounts);
        }
        let (isa, draw, size) = (model.isa(), model.draw, AtomicU64::new(0));
        // Not in waves, of which a later one could stop when gradients of the first are written already.
        let workspace = self.workspaces.get(model.network(), isa, Mode::Apart, len)?;
        let Parts { network, params, grads, averages } = model.parts();
        let pass = Pass {
            draw,
            loss: Some(LossTask {
                objective: &self.objective,
                goals: y,
                scale: self.objective.scale(totals),
                backward: true,
            }),
            weights: Some(WeightTask {
                grads: grads.share(),
                accumulate: true,
                size: Some(&size),
                steps: None,
                update: None,
                along: None,
            }),
            ..Pass::new(network, workspace, params.share(), averages, Some(x), Rows::From(0))
        };
        threads::run(&pass, pass.plan.threads);
        let stopped = pass.stopped.load(Ordering::Relaxed);
        let losses = &workspace.losses;
        if stopped {
            return Err(why_not_finite(&self.objective, isa, x, &y, losses, optimizer));
        }
        update_averages(network, workspace, averages, None);
        let tally = Tally::new(self.objective.reduction, losses, totals);
        model.draw.pass += 1;
        model.note_gradients(f64::from_bits(size.into_inner()));
        Ok(tally)
    }

    /// Loss and accuracy over a data set, in evaluation mode.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, no row counts, or something in x or y is not finite.
    pub fn evaluate<'s, 't>(
        &mut self,
        model: &mut Model<T>,
        x: impl Into<Samples<'s, T>>,
        y: impl Into<Goals<'t, T>>,
    ) -> Result<Tally, Error>
    where
        T: 't,
    {
        let (x, y) = (x.into(), y.into());
        let uneven = self.check(model, x, &y)?;
        let outputs = model.network().outputs();
        let Objective { reduction, .. } = self.objective;
        let mut tally = Tally { reduction, ..Tally::default() };
        for start in (0..x.rows()).step_by(EVALUATION_ROWS) {
            let len = EVALUATION_ROWS.min(x.rows() - start);
            let isa = model.isa();
            let workspace = self.workspaces.get(model.network(), isa, Mode::Inference, len)?;
            let Parts { network, params, averages, .. } = model.parts();
            let pass = Pass {
                loss: Some(LossTask {
                    objective: &self.objective,
                    goals: y,
                    scale: 0.0, // no gradient
                    backward: false,
                }),
                ..Pass::new(network, workspace, params.share(), averages, Some(x), Rows::From(start))
            };
            threads::run(&pass, pass.plan.threads);
            if pass.stopped.load(Ordering::Relaxed) {
                check_values(&self.objective, isa, x, &y)?;
            }
            let totals = self.objective.totals(&y, |r| start + r, len, outputs, uneven);
            tally.add(Tally::new(reduction, &workspace.losses, totals));
        }
        if tally.totals.loss == 0.0 {
            return Err(Error::NothingCounts);
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

    /// The penalty of a model's parameters, if there is one.
    pub fn penalty(&self, model: &Model<T>) -> Option<f64> {
        self.along.penalty.as_ref().map(|p| p.value(model.isa(), &model.params))
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
    objective: &Objective<T>,
    isa: Isa,
    x: Samples<'_, T>,
    y: &Goals<'_, T>,
    losses: &[RowLoss],
    optimizer: &Optimizer<T>,
) -> Error {
    if let Err(error) = check_values(objective, isa, x, y) {
        return error;
    }
    let loss = losses.iter().map(|l| l.loss).find(|l| !l.is_finite()).unwrap_or(f64::NAN);
    Error::Diverged { loss, step: optimizer.steps, lr: optimizer.config.lr() }
}

/// Checks that a data set is finite, and its targets such as the loss takes them.
fn check_values<T: Element>(
    objective: &Objective<T>,
    isa: Isa,
    x: Samples<'_, T>,
    y: &Goals<'_, T>,
) -> Result<(), Error> {
    x.check_finite("x", isa)?;
    objective.check_values(y, isa)
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
        assert_eq!(training.x.rows(), self.rows, "a fit goes on with the data it began with");
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
            let DataSet { x, y } = training;
            self.last_loss = f64::NAN;
            if let Some(tally) = trainer.batch(model, optimizer, x, y, (rows, len), self.uneven, last)? {
                self.last_loss = tally.value();
                self.tally.add(tally);
            }
            self.updates += (optimizer.steps - before) as usize;
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
