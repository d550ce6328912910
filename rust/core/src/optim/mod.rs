//! Optimizers: each is one pass over parameters, gradients and state.
//!
//! One file per optimizer: its constants, its formula, its state. A [`Step`] holds what a step's
//! index decides, computed once in double precision; [`Step::update`] runs it on any part of the
//! arena, so that a plan can update a tile while its gradient is in cache.

mod adam;
mod adamw;
mod sgd;

pub use adam::Adam;
pub use adamw::AdamW;
pub use sgd::Sgd;

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::simd::{Isa, Op, Simd, dispatch};

/// An optimizer's kind and hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Config {
    /// Stochastic gradient descent, with momentum.
    Sgd(Sgd),
    /// Adam, L2 added to the gradient.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
}

/// Most arrays of state that any optimizer keeps.
pub const MAX_STATE: usize = 2;

impl Config {
    /// The learning rate.
    pub fn lr(&self) -> f64 {
        match self {
            Config::Sgd(c) => c.lr,
            Config::Adam(c) => c.lr,
            Config::AdamW(c) => c.0.lr,
        }
    }

    /// Sets the learning rate.
    ///
    /// # Errors
    /// If it is negative or not finite.
    pub fn set_lr(&mut self, lr: f64) -> Result<(), Error> {
        let mut changed = *self;
        match &mut changed {
            Config::Sgd(c) => c.lr = lr,
            Config::Adam(c) => c.lr = lr,
            Config::AdamW(c) => c.0.lr = lr,
        }
        changed.check()?;
        *self = changed;
        Ok(())
    }

    /// Checks every hyper-parameter.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            Config::Sgd(c) => c.check(),
            Config::Adam(c) => c.check(),
            Config::AdamW(c) => c.0.check(),
        }
    }

    /// Names of its arrays of state, PyTorch's.
    pub fn state_names(&self) -> &'static [&'static str] {
        match self {
            Config::Sgd(c) if c.momentum == 0.0 => &[],
            Config::Sgd(_) => &["momentum_buffer"],
            Config::Adam(_) | Config::AdamW(_) => &["exp_avg", "exp_avg_sq"],
        }
    }
}

/// `Ok` if a non-negative, finite number.
fn non_negative(name: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::Argument { name, value: value.to_string(), accepted: "a number ≥ 0 is needed".into() })
}

/// `Ok` if in [0, 1).
fn fraction(name: &'static str, value: f64) -> Result<(), Error> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::Argument { name, value: value.to_string(), accepted: "a number in [0, 1) is needed".into() })
}

/// An optimizer at work on one model: hyper-parameters, state over the arena, steps taken.
pub struct Optimizer<T: Element> {
    /// Kind and hyper-parameters.
    pub config: Config,
    /// Arrays of state, each as long as the parameter arena.
    pub state: Vec<Buffer<T>>,
    /// Steps taken.
    pub steps: u64,
}

impl<T: Element> Optimizer<T> {
    /// At the beginning, for an arena of `len` elements.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(config: Config, len: usize) -> Result<Self, Error> {
        let names = config.state_names().iter();
        let state = names.map(|_| Buffer::zeroed("the optimizer's state", len)).collect::<Result<_, _>>()?;
        Ok(Optimizer { config, state, steps: 0 })
    }

    /// A copy.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let mut copy = Self::new(self.config, self.state.first().map_or(0, |s| s.len()))?;
        copy.copy_from(self);
        Ok(copy)
    }

    /// Becomes the same as another of the same size.
    ///
    /// # Panics
    /// If its state has another size.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(self.state.len(), other.state.len());
        self.state.iter_mut().zip(&other.state).for_each(|(to, from)| to.copy_from_slice(from));
        (self.config, self.steps) = (other.config, other.steps);
    }

    /// Lends the state to the threads of a region, empty where there is none.
    pub fn share_state(&mut self) -> [Shared<'_, T>; MAX_STATE] {
        let mut state = self.state.iter_mut();
        std::array::from_fn(|_| state.next().map_or(Shared::new(&mut []), Buffer::share))
    }

    /// What the next step will do.
    pub fn next_step(&self) -> Step {
        let t = self.steps + 1;
        match self.config {
            Config::Sgd(c) => Step::Sgd(c.at(t)),
            Config::Adam(c) => Step::Adam(c.at(t)),
            Config::AdamW(c) => Step::AdamW(c.at(t)),
        }
    }
}

/// One step's constants.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// See [`Sgd`].
    Sgd(sgd::Step),
    /// See [`Adam`].
    Adam(adam::Step),
    /// See [`AdamW`].
    AdamW(adamw::Step),
}

impl Step {
    /// Updates parameters and state from gradients: slices of one length, any part of the arena.
    ///
    /// # Panics
    /// If lengths differ or the state is another optimizer's.
    pub fn update<T: Element>(&self, isa: Isa, params: &mut [T], grads: &[T], state: [&mut [T]; MAX_STATE]) {
        struct Update<'a, T>(&'a Step, &'a mut [T], &'a [T], [&'a mut [T]; MAX_STATE]);
        impl<T: Element> Op<T> for Update<'_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                let Update(step, params, grads, [first, second]) = self;
                match step {
                    Step::Sgd(c) => c.update(s, params, grads, first),
                    Step::Adam(c) => c.update(s, params, grads, first, second),
                    Step::AdamW(c) => c.update(s, params, grads, first, second),
                }
            }
        }
        dispatch(isa, Update(self, params, grads, state));
    }
}

#[cfg(test)]
mod tests;
