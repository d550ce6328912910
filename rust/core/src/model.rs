//! A network with its parameter values, and the passes that need no loss.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{Buffer, Shared, copied, zeros};
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::layer::dropout::Draw;
use crate::layer::{Layer, batch_norm};
use crate::network::{Block, Network, Norm, Over};
use crate::optim::Optimizer;
use crate::parallel::{self, RUN};
use crate::parameters::Parameters;
use crate::pass::{Pass, WeightTask};
use crate::plan::{Mode, Plan};
use crate::simd::{Isa, all_finite, lerp, max_abs};
use crate::threads;
use crate::update::{self, Clip};
use crate::view::MatRef;
use crate::workspace::{Workspace, Workspaces};

/// Gradients (times the learning rate, if that is above 1) beyond this make a step that might overflow
/// float32: squares of smaller ones do not.
const RISKY: f64 = 1e15;

/// Layers, parameters and gradients.
pub struct Model<T> {
    network: Network,
    isa: Isa,
    /// Parameters, in the arena's order.
    pub(crate) params: Parameters<T>,
    /// Gradients, in the same order.
    pub(crate) grads: Buffer<T>,
    /// Running averages of normalizations, in an order of their own.
    pub(crate) averages: Buffer<T>,
    /// The source of the next training pass's random numbers.
    pub(crate) draw: Draw,
    /// The largest absolute gradient, or NaN if one is.
    grads_size: f64,
    workspaces: Workspaces<T>,
    /// What the latest forward pass left, kept for the next one of its shape.
    apart: Option<Workspace<T>>,
    /// Whether [`backward`](Self::backward) may go back from there: the parameters are still those of that
    /// pass.
    pending: bool,
    /// Number of forward passes that were kept for going back.
    kept: u64,
}

impl<T: Element> Model<T> {
    /// A network with initial parameters drawn from `seed`.
    ///
    /// # Errors
    /// If layers do not fit (see [`Network::new`]), or `THALWEG_ISA` names no instruction set.
    pub fn new(layers: Vec<Layer>, seed: u64) -> Result<Self, Error> {
        let isa = Isa::detect().map_err(Error::Unsupported)?;
        Self::with_isa(layers, seed, isa)
    }

    /// [`new`](Self::new), on a given instruction set.
    ///
    /// # Errors
    /// If layers do not fit, or the CPU lacks the instruction set.
    pub fn with_isa(layers: Vec<Layer>, seed: u64, isa: Isa) -> Result<Self, Error> {
        if !isa.is_available() {
            let names: Vec<_> = Isa::available().iter().map(|i| i.name()).collect();
            return Err(Error::Unsupported(format!("this CPU has no {isa}; it has {}", names.join(", "))));
        }
        let network = Network::new(layers)?;
        network.check_precision::<T>()?;
        let mut params = Buffer::zeroed("the parameters", network.arena_len())?;
        let grads = Buffer::zeroed("the gradients", network.arena_len())?;
        let mut averages = Buffer::zeroed("the running averages", network.averages_len())?;
        network.initialize(isa, seed, &mut params, &mut averages);
        Ok(Model {
            network,
            isa,
            params: Parameters::new(params),
            grads,
            averages,
            draw: Draw { seed, pass: 0 },
            grads_size: 0.0,
            workspaces: Workspaces::default(),
            apart: None,
            pending: false,
            kept: 0,
        })
    }

    /// The structure.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The instruction set of its kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// All parts, for simultaneous use. Discards a forward pass that waits for its backward pass, since
    /// parameters may be changed afterwards.
    pub(crate) fn parts(&mut self) -> Parts<'_, T> {
        self.pending = false;
        self.still_parts()
    }

    /// All parts, for passes that leave parameters and averages unchanged.
    pub(crate) fn still_parts(&mut self) -> Parts<'_, T> {
        let Model { network, params, grads, averages, .. } = self;
        Parts { network, params, grads, averages }
    }

    /// Number of training passes so far, of [`forward`](Self::forward) and of steps. With the seed, it
    /// determines which elements the next one drops.
    pub fn passes(&self) -> u64 {
        self.draw.pass
    }

    /// Sets that number, to continue where another model was.
    pub fn set_passes(&mut self, passes: u64) {
        self.draw.pass = passes;
    }

    /// Copies out the running averages of normalizations, one after the other, as [`Network::averages`] lists
    /// them.
    pub fn averages(&self) -> Vec<T> {
        let part = |b: &Block| self.averages[b.offset..b.offset + b.len()].to_vec();
        self.network.averages().iter().flat_map(part).collect()
    }

    /// Sets the running averages, given in the same order.
    ///
    /// # Errors
    /// If one is NaN or infinite, or a variance negative; nothing is changed then.
    ///
    /// # Panics
    /// If `flat` has another length.
    pub fn set_averages(&mut self, flat: &[T]) -> Result<(), Error> {
        check_flat("running averages", flat)?;
        let Model { network, averages, .. } = self;
        let total: usize = network.averages().iter().map(Block::len).sum();
        assert_eq!(flat.len(), total);
        let mut from = 0;
        let parts: Vec<_> = network
            .averages()
            .iter()
            .map(|b| {
                from += b.len();
                (b, &flat[from - b.len()..from])
            })
            .collect();
        for (block, part) in &parts {
            if block.name.ends_with("running_var") && part.iter().any(|v| *v < T::ZERO) {
                let text = format!("{} holds a negative number, but variances must be >= 0", block.name);
                return Err(Error::Mismatch(text));
            }
            // The divisor is a standard deviation; as when the layer is made, 1/σ must be finite.
            if block.name.ends_with(".std")
                && part.iter().any(|v| !(*v > T::ZERO && (T::ONE / *v).is_finite()))
            {
                let text = format!(
                    "{} holds a number that is not > 0, or so small that dividing by it gives infinity",
                    block.name
                );
                return Err(Error::Mismatch(text));
            }
        }
        for (block, part) in parts {
            averages[block.offset..block.offset + block.len()].copy_from_slice(part);
        }
        Ok(())
    }

    /// Copies out the parameters, in public order.
    ///
    /// # Panics
    /// If the length of `flat` is not the number of parameters.
    pub fn parameters(&self, flat: &mut [T]) {
        self.network.export(self.isa, &self.params, flat);
    }

    /// Sets the parameters, given in public order.
    ///
    /// # Errors
    /// If one is NaN or infinite; nothing is changed then.
    ///
    /// # Panics
    /// If the length of `flat` is not the number of parameters.
    pub fn set_parameters(&mut self, flat: &[T]) -> Result<(), Error> {
        check_flat("parameters", flat)?;
        self.network.import(self.isa, flat, &mut self.params);
        self.pending = false;
        Ok(())
    }

    /// Sets both, for which nobody may see one without the other.
    ///
    /// # Errors
    /// As above; nothing is changed then.
    ///
    /// # Panics
    /// As above.
    pub fn set_numbers(&mut self, parameters: &[T], averages: &[T]) -> Result<(), Error> {
        check_flat("parameters", parameters)?;
        self.set_averages(averages)?;
        self.set_parameters(parameters)
    }

    /// Moves towards another model with the same layers: θ ← (1 − τ)·θ + τ·θ_other, for parameters and
    /// running averages. With τ = 1 it copies, whatever this model holds.
    ///
    /// # Errors
    /// If `tau` is not between 0 and 1, or the other model has other shapes, or a number that is not finite;
    /// nothing is changed then.
    pub fn follow(&mut self, other: &Model<T>, tau: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&tau) {
            return Err(Error::argument("tau", tau, "a number from 0 to 1 is needed"));
        }
        let blocks = |network: &Network| [network.blocks().to_vec(), network.averages().to_vec()].concat();
        let (own, others) = (&self.network, &other.network);
        if own.blocks() != others.blocks() || own.averages() != others.averages() {
            let (own, others) = (blocks(own), blocks(others));
            let at = own.iter().zip(&others).take_while(|(a, b)| a == b).count();
            let tell = |all: &[Block]| match all.get(at) {
                Some(block) => format!("{} of shape {:?}", block.name, block.shape),
                None => "no more".to_string(),
            };
            return Err(Error::Mismatch(format!(
                "a model can only follow one with the same layers: this one has {}, where the other has {}",
                tell(&own),
                tell(&others)
            )));
        }
        let isa = self.isa;
        for (all, blocks) in [(&*other.params, others.blocks()), (&other.averages, others.averages())] {
            if !update::is_finite(isa, all) {
                let of = |b: &Block| all[b.offset..b.offset + b.len()].iter().find(|x| !x.is_finite());
                let (name, value) = blocks
                    .iter()
                    .find_map(|b| Some((b.name.clone(), of(b)?.to_f64())))
                    .unwrap_or_else(|| ("its memory".into(), f64::NAN));
                return Err(Error::Astray { name, value });
            }
        }
        if tau == 0.0 {
            return Ok(());
        }
        for (own, others) in [(&mut *self.params, &*other.params), (&mut self.averages, &other.averages)] {
            match tau {
                1.0 => update::copy(own, others),
                _ => parallel::runs_mut(own, RUN, |run, own| lerp(isa, own, tau, &others[run])),
            }
        }
        self.pending = false;
        Ok(())
    }

    /// Copies out the gradients, in public order.
    ///
    /// # Panics
    /// If the length of `flat` is not the number of parameters.
    pub fn gradients(&self, flat: &mut [T]) {
        self.network.export(self.isa, &self.grads, flat);
    }

    /// Sets the gradients, given in public order.
    ///
    /// # Errors
    /// If one is NaN or infinite; nothing is changed then.
    ///
    /// # Panics
    /// If the length of `flat` is not the number of parameters.
    pub fn set_gradients(&mut self, flat: &[T]) -> Result<(), Error> {
        check_flat("gradients", flat)?;
        self.network.import(self.isa, flat, &mut self.grads);
        self.grads_size = max_abs(self.isa, &self.grads).to_f64();
        Ok(())
    }

    /// Takes the optimizer's step from the current gradients.
    ///
    /// # Errors
    /// If a gradient is NaN or infinite, or the step would make a parameter so; nothing is changed then.
    ///
    /// # Panics
    /// If the optimizer's state was made for an arena of another length.
    pub fn apply(&mut self, optimizer: &mut Optimizer<T>) -> Result<(), Error> {
        let size = self.grads_size;
        if !size.is_finite() {
            let mut flat = zeros("a copy of the gradients", self.network.num_parameters())?;
            self.gradients(&mut flat);
            return check_flat("gradients", &flat);
        }
        // A step that might overflow is tried with a copy to return to.
        let risky = size * optimizer.largest_lr().max(1.0) > RISKY;
        let before = match risky {
            true => Some((copied("a copy of the parameters", &self.params)?, optimizer.save(None)?)),
            false => None,
        };
        update::step(self.isa, &mut self.params, &self.grads, optimizer, None);
        self.pending = false;
        if let Some((params, mut optimizer_before)) = before
            && let Err(error) = self.check_step(optimizer)
        {
            self.params.copy_from_slice(&params);
            optimizer.restore(&mut optimizer_before);
            return Err(error);
        }
        Ok(())
    }

    /// Checks whether an optimizer's steps made numbers infinite.
    ///
    /// # Errors
    /// If they did.
    pub fn check_step(&self, optimizer: &Optimizer<T>) -> Result<(), Error> {
        let what = if !all_finite(self.isa, &self.params) {
            "a parameter"
        } else if optimizer.state.iter().any(|array| !all_finite(self.isa, array)) {
            "an average kept by the optimizer"
        } else {
            return Ok(());
        };
        Err(Error::StepOverflow { what, step: optimizer.steps, lr: optimizer.config.lr() })
    }

    /// Clips the gradients, and sets those in `frozen` to 0; returns their norm before clipping.
    ///
    /// # Errors
    /// If the limit is not above 0, or a gradient is NaN or infinite; nothing is changed then.
    pub fn clip_gradients(
        &mut self,
        clip: Clip,
        frozen: impl Iterator<Item = Range<usize>>,
    ) -> Result<f64, Error> {
        clip.check()?;
        if !all_finite(self.isa, &self.grads) {
            let mut flat = zeros("a copy of the gradients", self.network.num_parameters())?;
            self.gradients(&mut flat);
            return check_flat("gradients", &flat).map(|()| f64::NAN);
        }
        frozen.for_each(|range| self.grads[range].fill(T::ZERO));
        let norm = update::norm(self.isa, &self.grads);
        update::clip(self.isa, &mut self.grads, 1.0, norm, Some(clip));
        self.grads_size = max_abs(self.isa, &self.grads).to_f64();
        Ok(norm)
    }

    /// The largest absolute gradient; NaN if one is.
    pub(crate) fn largest_gradient(&self) -> f64 {
        self.grads_size
    }

    /// Records the largest absolute gradient, if gradients were written from outside.
    pub(crate) fn note_gradients(&mut self, size: f64) {
        self.grads_size = size;
    }

    /// Sets all gradients to zero.
    pub fn zero_grad(&mut self) {
        self.grads.fill(T::ZERO);
        self.grads_size = 0.0;
    }

    /// Computes outputs for rows of input, written to `output`, rows × outputs.
    ///
    /// # Errors
    /// If the input has another width, no rows, or NaN or infinity in it.
    ///
    /// # Panics
    /// If `output` has another length.
    pub fn predict<'s>(&mut self, x: impl Into<Samples<'s, T>>, output: &mut [T]) -> Result<(), Error> {
        let x = x.into();
        self.network.check_input(x)?;
        assert_eq!(output.len(), x.rows() * self.network.outputs());
        let workspace = self.workspaces.get(&self.network, self.isa, Mode::Inference, x.rows())?;
        let mut pass = Pass {
            output: Some(Shared::new(&mut *output)),
            ..Pass::new(&self.network, workspace, self.params.lend(), &self.averages, Some(x), Rows::From(0))
        };
        pass.run();
        if pass.stopped.load(Ordering::Relaxed) {
            x.check_finite("x", self.isa)?;
            return Err(Error::VarianceOverflow);
        }
        check_output(self.isa, output, self.network.outputs())
    }

    /// The forward pass of a hand-written loop: as [`predict`](Self::predict), but as in training if
    /// `training`, and keeps what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As for `predict`.
    ///
    /// # Panics
    /// As for `predict`.
    pub fn forward<'s>(
        &mut self,
        x: impl Into<Samples<'s, T>>,
        output: &mut [T],
        training: bool,
    ) -> Result<(), Error> {
        let x = x.into();
        self.network.check_input(x)?;
        let outputs = self.network.outputs();
        assert_eq!(output.len(), x.rows() * outputs);
        if training {
            self.network.check_training_rows(x.rows())?;
        }
        let mode = if training { Mode::Apart } else { Mode::Frozen };
        self.pending = false;
        let mut workspace = match self.apart.take() {
            Some(w) if w.serves(&self.network, mode, x.rows()) => w,
            before => {
                let threads = threads::num_threads().0;
                let plan = Plan::new::<T>(&self.network, mode, x.rows(), self.isa, threads);
                Workspace::instead(before, &self.network, plan)?
            }
        };
        let mut pass = Pass {
            draw: self.draw,
            keep_input: true,
            ..Pass::new(
                &self.network,
                &mut workspace,
                self.params.lend(),
                &self.averages,
                Some(x),
                Rows::From(0),
            )
        };
        pass.run();
        if pass.stopped.load(Ordering::Relaxed) {
            x.check_finite("x", self.isa)?;
            return Err(Error::VarianceOverflow);
        }
        let Workspace { layout, values, .. } = &workspace;
        let last = layout.stages[layout.stages.len() - 1].output;
        output.copy_from_slice(&values[last..last + output.len()]);
        check_output(self.isa, output, outputs)?;
        if training {
            update_averages(&self.network, &workspace, &mut self.averages, None);
            self.draw.pass += 1;
        }
        (self.apart, self.pending) = (Some(workspace), true);
        self.kept += 1;
        Ok(())
    }

    /// Number of [forward](Self::forward) passes so far. As long as it stays the same, so does the pass that
    /// [`backward`](Self::backward) would go back through.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// Lets no [`backward`](Self::backward) follow the last forward pass.
    pub fn forget(&mut self) {
        self.pending = false;
    }

    /// Sets the running averages of normalizations to the means of their statistics over batches of
    /// `batch_rows` rows of x, for parameters that no training pass has seen.
    ///
    /// # Errors
    /// If the input has another width, NaN or infinity, or too few rows; nothing is changed then.
    pub fn recalibrate<'s>(&mut self, x: impl Into<Samples<'s, T>>, batch_rows: usize) -> Result<(), Error> {
        let x = x.into();
        self.network.check_input(x)?;
        self.network.check_training_rows(x.rows().min(batch_rows))?;
        x.check_finite("x", self.isa)?;
        let before = copied("a copy of running averages", &self.averages)?;
        // A single remaining row has no statistics.
        let starts = (0..x.rows()).step_by(batch_rows).filter(|start| x.rows() - start > 1);
        for (batch, start) in starts.enumerate() {
            let rows = batch_rows.min(x.rows() - start);
            let workspace = self.workspaces.get(&self.network, self.isa, Mode::Apart, rows)?;
            let mut pass = Pass {
                draw: self.draw,
                ..Pass::new(
                    &self.network,
                    workspace,
                    self.params.lend(),
                    &self.averages,
                    Some(x),
                    Rows::From(start),
                )
            };
            pass.run();
            if pass.stopped.load(Ordering::Relaxed) {
                self.averages.copy_from_slice(&before);
                return Err(Error::VarianceOverflow);
            }
            let part = 1.0 / (batch + 1) as f64;
            update_averages(&self.network, workspace, &mut self.averages, Some(part));
        }
        Ok(())
    }

    /// The backward pass, from the gradient with respect to the output: adds to the parameters' gradients, if
    /// those are wanted (`parameters`), and writes the gradient with respect to the input, rows × inputs, if
    /// there is a place for it.
    ///
    /// # Errors
    /// If there was no forward pass, or the gradient does not have the shape of its output, or contains NaN
    /// or infinity.
    ///
    /// # Panics
    /// If `input_gradient` has another length.
    pub fn backward(
        &mut self,
        output_gradient: MatRef<'_, T>,
        input_gradient: Option<&mut [T]>,
        parameters: bool,
    ) -> Result<(), Error> {
        let rows = self.pending_rows()?;
        let shape = (rows, self.network.outputs());
        if (output_gradient.rows(), output_gradient.cols()) != shape {
            let found = (output_gradient.rows(), output_gradient.cols());
            return Err(Error::GradientShape { found, expected: shape });
        }
        Samples::from(output_gradient).check_finite("grad_output", self.isa)?;
        let inputs = rows * self.network.inputs();
        assert!(input_gradient.as_ref().is_none_or(|gradient| gradient.len() == inputs));
        let Some(workspace) = &mut self.apart else { unreachable!("pending_rows said so") };
        let size = AtomicU64::new(0);
        let weights =
            WeightTask { accumulate: true, size: Some(&size), ..WeightTask::gradients(self.grads.share()) };
        let mut pass = Pass {
            check_finite: false,
            output_gradient: Some(output_gradient),
            input_gradient: input_gradient.map(Shared::new),
            weights: parameters.then_some(weights),
            ..Pass::new(&self.network, workspace, self.params.lend(), &self.averages, None, Rows::From(0))
        };
        pass.run();
        if parameters {
            self.grads_size = f64::from_bits(size.into_inner());
        }
        Ok(())
    }

    /// Number of rows of the forward pass from which `backward` would go back.
    ///
    /// # Errors
    /// If there was none, or the parameters have been set since.
    pub fn pending_rows(&self) -> Result<usize, Error> {
        match &self.apart {
            Some(workspace) if self.pending => Ok(workspace.plan.rows),
            _ => Err(Error::Mismatch(
                "backward needs a forward pass with the current parameters before it: call \
                 model.forward(x) first"
                    .into(),
            )),
        }
    }
}

/// A model's parts, see [`Model::parts`].
pub(crate) struct Parts<'a, T> {
    pub network: &'a Network,
    pub params: &'a mut Parameters<T>,
    pub grads: &'a mut Buffer<T>,
    pub averages: &'a mut Buffer<T>,
}

/// Moves running averages towards the statistics that a training pass left in its workspace: by the fraction
/// `part`, or by each normalization's own.
pub(crate) fn update_averages<T: Element>(
    network: &Network,
    workspace: &Workspace<T>,
    averages: &mut Buffer<T>,
    part: Option<f64>,
) {
    for (stage, slots) in network.stages().iter().zip(&workspace.layout.stages) {
        let Some(Norm { over: Over::Batch { layer, running }, .. }) = stage.norm else { continue };
        let n = stage.outputs;
        let known = batch_norm::Columns::from_fn(|i| &workspace.values[slots.columns + i * n..][..n]);
        let part = T::lit(part.unwrap_or(layer.momentum));
        for (start, batch) in [(running.0, known.mean), (running.1, known.unbiased)] {
            for (average, x) in averages[start..start + n].iter_mut().zip(batch) {
                *average = (T::ONE - part) * *average + part * *x;
            }
        }
    }
}

/// Checks that outputs are finite.
pub(crate) fn check_output<T: Element>(isa: Isa, output: &[T], width: usize) -> Result<(), Error> {
    if all_finite(isa, output) {
        return Ok(());
    }
    let place = output.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(Error::Overflow { row: place / width, column: place % width, value: output[place].to_f64() })
}

/// Checks that a flat vector is finite.
pub(crate) fn check_flat<T: Element>(argument: &'static str, flat: &[T]) -> Result<(), Error> {
    match flat.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(Error::NotFiniteAt { argument, index, value: flat[index].to_f64() }),
        None => Ok(()),
    }
}
