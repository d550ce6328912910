//! One batch: a step of the optimizer, a part of one, or gradients only.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Tally, Trainer, check_values, gathered};
use crate::arena::Buffer;
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, Totals};
use crate::model::{Model, Parts, update_averages};
use crate::network::Network;
use crate::optim::Optimizer;
use crate::parameters::Parameters;
use crate::pass::{LossTask, Pass, WeightTask};
use crate::plan::Mode;
use crate::sam::Ascent;
use crate::simd::{Isa, max_abs};
use crate::update;
use crate::workspace::Workspace;

impl<T: Element> Trainer<T> {
    /// One step on one batch: forward, loss, backward, update. Returns the loss before the update.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, no row counts, or something in x or y, or the loss, is not
    /// finite; the model and the optimizer are then unchanged.
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
        self.train(model, optimizer, x, y)?.map(|tally| tally.value()).ok_or(Error::NothingCounts)
    }

    /// One batch of an epoch whose end is not known yet; [`flush`](Self::flush) marks the end. Returns the
    /// sum of its losses, or nothing if no row counts.
    ///
    /// # Errors
    /// As for [`step`](Self::step), but rows that all do not count are no error.
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
        model.network().check_training_rows(x.rows())?;
        self.batch(model, optimizer, Batch::whole(x, y, uneven), false)
    }

    /// One batch whose gradients were computed elsewhere and are in the model: they wait for an update, or
    /// make one. An update leaves in the model the gradients it was made from.
    ///
    /// # Errors
    /// If one of them is not finite; nothing is changed then. If their sum with gradients that waited is not, or
    /// what a projection or a penalty makes of it; those that waited are then discarded. Or if the optimizer does
    /// not work element by element, but what [accompanies](Self::along) it needs that.
    pub fn take(&mut self, model: &mut Model<T>, optimizer: &mut Optimizer<T>) -> Result<(), Error> {
        self.along.check(optimizer)?;
        let isa = model.isa();
        let updates = self.gathered.batches + 1 >= self.options.accumulate;
        let suspect = !model.largest_gradient().is_finite();
        let grads = model.parts().grads;
        optimizer.frozen().for_each(|range| grads[range].fill(T::ZERO));
        if suspect && !update::is_finite(isa, grads) {
            return Err(gathered::overflow(optimizer));
        }
        if updates {
            self.recall(model, optimizer)?;
        }
        let Parts { params, grads, .. } = model.parts();
        if self.gathered.grads.len() != grads.len() {
            self.gathered.grads = Buffer::zeroed("gradients", grads.len())?;
        }
        self.gathered.add(isa, grads);
        if !updates {
            return Ok(());
        }
        let Trainer { gathered, along, options, projection, .. } = self;
        gathered.update(isa, options.clip, params, optimizer, along, projection.as_mut())?;
        std::mem::swap(grads, &mut gathered.grads);
        if let Some(average) = &mut self.average {
            average.follow(isa, params, optimizer.steps);
        }
        let size = max_abs(isa, grads).to_f64();
        model.note_gradients(size);
        Ok(())
    }

    /// Makes an update from gradients that wait for one, at the end of an epoch.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    pub fn flush(&mut self, model: &mut Model<T>, optimizer: &mut Optimizer<T>) -> Result<(), Error> {
        if self.gathered.batches == 0 {
            return Ok(());
        }
        self.along.check(optimizer)?;
        self.recall(model, optimizer)?;
        let isa = model.isa();
        let params = model.parts().params;
        let Trainer { gathered, along, options, projection, .. } = self;
        gathered.update(isa, options.clip, params, optimizer, along, projection.as_mut())?;
        if let Some(average) = &mut self.average {
            average.follow(isa, params, optimizer.steps);
        }
        Ok(())
    }

    /// Computes the gradients of remembered samples, and of a penalty that takes products, for the next
    /// update.
    ///
    /// # Errors
    /// If that is not possible, or one of them is not finite; gradients that waited are then discarded.
    fn recall(&mut self, model: &mut Model<T>, optimizer: &Optimizer<T>) -> Result<(), Error> {
        if let Some(coupled) = &mut self.along.coupled {
            coupled.pull(model.network(), model.isa(), &model.params);
        }
        let recalled = match &mut self.projection {
            Some(_) if self.options.sam.is_some() => {
                let text = "gradients cannot be projected with SAM, which takes them at other parameters: use \
                            another optimizer";
                Err(Error::Unsupported(text.into()))
            }
            Some(projection) => projection.recall(&self.objective, model, optimizer),
            None => Ok(()),
        };
        if recalled.is_err() {
            self.gathered.batches = 0;
        }
        recalled
    }

    /// One batch, unless none of its rows counts; and an update if this is the `last` batch or enough have
    /// been gathered.
    pub(super) fn batch(
        &mut self,
        model: &mut Model<T>,
        optimizer: &mut Optimizer<T>,
        batch: Batch<'_, T>,
        last: bool,
    ) -> Result<Option<Tally>, Error> {
        let totals = batch.totals(&self.objective, model.network());
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
        self.along.check(optimizer)?;
        let updates = last || self.gathered.batches + 1 >= self.options.accumulate;
        if updates {
            self.recall(model, optimizer)?;
        }
        let fused = self.is_fused(optimizer);
        if !fused {
            self.gathered.make_room(model.network().arena_len(), optimizer)?;
        }
        let (isa, draw) = (model.isa(), model.draw);
        let workspace = self.workspaces.get(model.network(), isa, self.options.mode(), batch.len)?;
        let Parts { network, params, grads, averages } = model.parts();
        let mut pass = BatchPass { batch, totals, objective: &self.objective, network, isa, draw, workspace };
        let mut at_params = None;
        if let Some(ascent) = &mut self.ascent {
            let done = pass.run(params, averages, WeightTask::gradients(ascent.grads.share()));
            if !done || !ascent.up(isa, params, averages, optimizer.frozen()) {
                return Err(pass.why_not(params, optimizer));
            }
            at_params = Some(pass.tally());
            // From this pass: the one that follows is a step of the method, not of the data.
            update_averages(network, pass.workspace, averages, None);
        }
        let taken = optimizer.steps;
        let (steps, state) = optimizer.begin();
        let task = WeightTask {
            grads: if fused { grads.share() } else { self.gathered.grads.share() },
            accumulate: !fused && self.gathered.batches > 0,
            size: None,
            steps: Some(steps),
            update: fused.then_some(state),
            along: self.along.share(None, taken).filter(|_| fused),
        };
        if !pass.run(params, averages, task) {
            if let Some(ascent) = &self.ascent {
                ascent.undo(params, averages);
            }
            return Err(pass.why_not(params, optimizer));
        }
        let tally = at_params.unwrap_or_else(|| pass.tally());
        if let Some(ascent) = &self.ascent {
            ascent.down(params);
        }
        if fused {
            optimizer.advance();
        } else {
            self.gathered.batches += 1;
            if updates {
                let Trainer { gathered, along, options, projection, .. } = self;
                let updated =
                    gathered.update(isa, options.clip, params, optimizer, along, projection.as_mut());
                if let (Err(_), Some(ascent)) = (&updated, &self.ascent) {
                    ascent.undo(params, averages);
                }
                updated?;
            } else if !update::is_finite(isa, &self.gathered.grads) {
                // Every later update would fail by it. What waited is in the same sum.
                self.gathered.batches = 0;
                if let Some(ascent) = &self.ascent {
                    ascent.undo(params, averages);
                }
                return Err(gathered::overflow(optimizer));
            }
        }
        if let Some(average) = &mut self.average
            && self.gathered.batches == 0
        {
            average.follow(isa, params, optimizer.steps);
        }
        if self.ascent.is_none() {
            update_averages(network, pass.workspace, averages, None);
        }
        model.draw.pass += 1;
        Ok(Some(tally))
    }

    /// A step without its update: returns the sum of a batch's losses, and adds its gradients to the model's.
    ///
    /// # Errors
    /// As for [`step`](Self::step); gradients are then unchanged.
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
        let batch = Batch::whole(x, y, self.check(model, x, &y)?);
        model.network().check_training_rows(batch.len)?;
        let totals = batch.totals(&self.objective, model.network());
        if totals.loss == 0.0 {
            return Err(Error::NothingCounts);
        }
        let (isa, draw, size) = (model.isa(), model.draw, AtomicU64::new(0));
        // Not in waves: a later one could stop the pass when gradients of the first have already been
        // written.
        let workspace = self.workspaces.get(model.network(), isa, Mode::Apart, batch.len)?;
        let Parts { network, params, grads, averages } = model.still_parts();
        let mut pass = BatchPass { batch, totals, objective: &self.objective, network, isa, draw, workspace };
        let task = WeightTask { accumulate: true, size: Some(&size), ..WeightTask::gradients(grads.share()) };
        if !pass.run(params, averages, task) {
            return Err(pass.why_not(params, optimizer));
        }
        let tally = pass.tally();
        update_averages(network, pass.workspace, averages, None);
        model.draw.pass += 1;
        model.note_gradients(f64::from_bits(size.into_inner()));
        Ok(tally)
    }
}

/// Some rows of the data.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a, T> {
    /// All of the data.
    pub x: Samples<'a, T>,
    /// All targets.
    pub y: Goals<'a, T>,
    /// Which rows.
    pub rows: Rows<'a>,
    /// Number of rows.
    pub len: usize,
    /// Whether some rows may count more than others.
    pub uneven: bool,
    /// Whether the data are known to be finite.
    pub checked: bool,
}

impl<'a, T: Element> Batch<'a, T> {
    fn whole(x: Samples<'a, T>, y: Goals<'a, T>, uneven: bool) -> Self {
        Batch { x, y, rows: Rows::From(0), len: x.rows(), uneven, checked: false }
    }

    /// What its rows count in total.
    fn totals(&self, objective: &Objective<T>, network: &Network) -> Totals {
        let Batch { y, rows, len, uneven, .. } = self;
        objective.totals(y, |r| rows.at(r), *len, network.outputs(), *uneven)
    }
}

/// A batch that goes through a network to the gradients, and on to what is done with them.
struct BatchPass<'a, T> {
    batch: Batch<'a, T>,
    totals: Totals,
    objective: &'a Objective<T>,
    network: &'a Network,
    isa: Isa,
    draw: Draw,
    workspace: &'a mut Workspace<T>,
}

impl<T: Element> BatchPass<'_, T> {
    /// Forward, loss, backward, and what is to be done with weights. Returns false if it met something that
    /// is not finite and left the weights alone.
    fn run(&mut self, params: &mut Parameters<T>, averages: &[T], weights: WeightTask<'_, T>) -> bool {
        let BatchPass { batch, totals, objective, network, draw, .. } = *self;
        let Batch { x, y, rows, checked, .. } = batch;
        let scale = objective.scale(totals);
        let before = params.stamp();
        let shared = if weights.update.is_some() { params.share() } else { params.lend() };
        let mut pass = Pass {
            draw,
            checked,
            loss: Some(LossTask { objective, goals: y, scale, backward: true }),
            weights: Some(weights),
            ..Pass::new(network, self.workspace, shared, averages, Some(x), rows)
        };
        pass.packed = pass.transposed == Some(before);
        pass.run();
        let (done, kept) = (!pass.stopped.load(Ordering::Relaxed), pass.keeps_transposes());
        self.workspace.transposed = (done && kept).then(|| params.stamp());
        done
    }

    /// The sum of the losses.
    fn tally(&self) -> Tally {
        Tally::new(self.objective.reduction, &self.workspace.losses, self.totals)
    }

    /// Which number was not finite: one in the data, a parameter, or only the loss.
    fn why_not(&self, params: &[T], optimizer: &Optimizer<T>) -> Error {
        let BatchPass { batch: Batch { x, y, .. }, objective, network, isa, .. } = *self;
        let checked = objective.check(&y, x.rows(), network.outputs());
        if let Err(error) = checked.and_then(|_| check_values(objective, isa, x, &y)) {
            return error;
        }
        if !update::is_finite(isa, params) {
            return Error::Lost { lr: optimizer.config.lr() };
        }
        let losses = self.workspace.losses.iter().map(|row| row.loss);
        let loss = losses.into_iter().find(|loss| !loss.is_finite()).unwrap_or(f64::NAN);
        Error::Diverged { loss, step: optimizer.steps, lr: optimizer.config.lr() }
    }
}
