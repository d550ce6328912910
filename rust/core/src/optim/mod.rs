//! Optimizers: each is one pass over parameters, gradients and state.
//!
//! One file per optimizer: its hyper-parameters, their ranges, its state, its formula; and a line in the
//! list below. A [`Step`] holds what a step's index decides, computed once in double precision;
//! [`Step::update`] runs it on any part of the arena, so that a plan can update a tile while its gradient
//! is in cache.

mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod groups;
mod lion;
mod method;
mod nadam;
mod radam;
mod rmsprop;
mod rprop;
mod sgd;

pub use adadelta::Adadelta;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use groups::{Group, Steps};
pub use lion::Lion;
pub use method::{Convention, Options, Slot, Value};
pub use nadam::Nadam;
pub use radam::Radam;
pub use rmsprop::Rmsprop;
pub use rprop::Rprop;
pub use sgd::Sgd;

use std::ops::Range;

use groups::Member;
use method::{Formula, Method, argument, share};

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::network::Block;
use crate::simd::{Isa, Op, Simd, dispatch};

/// Most arrays of state that any optimizer keeps.
pub const MAX_STATE: usize = 3;

/// The list of optimizers: name, hyper-parameters.
macro_rules! optimizers {
    ($($kind:literal => $Config:ident),+ $(,)?) => {
        /// An optimizer's kind and hyper-parameters.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Config {
            $(#[doc = concat!("See [`", stringify!($Config), "`].")] $Config($Config),)+
        }

        #[derive(Clone, Copy)]
        enum Constants {
            $($Config(<$Config as Method>::Step),)+
        }

        impl Config {
            /// The names that [`new`](Self::new) knows.
            pub const KINDS: &[&str] = &[$($kind),+];

            /// An optimizer by name, with all its hyper-parameters by theirs.
            ///
            /// # Errors
            /// If a name is not known, or missing, or a hyper-parameter is out of range.
            pub fn new(kind: &str, options: &Options) -> Result<Self, Error> {
                let config = match kind {
                    $($kind => Config::$Config($Config::read(options)?),)+
                    _ => {
                        let accepted = format!("one of {} is needed", Self::KINDS.join(", "));
                        return Err(argument("optimizer", format!("{kind:?}"), accepted));
                    }
                };
                config.check().map(|()| config)
            }

            /// The learning rate.
            pub fn lr(&self) -> f64 {
                match self { $(Config::$Config(c) => c.lr,)+ }
            }

            /// Sets the learning rate.
            ///
            /// # Errors
            /// If it is negative or not finite.
            pub fn set_lr(&mut self, lr: f64) -> Result<(), Error> {
                let changed = self.with_lr(lr);
                changed.check()?;
                *self = changed;
                Ok(())
            }

            fn with_lr(mut self, lr: f64) -> Self {
                match &mut self { $(Config::$Config(c) => c.lr = lr,)+ }
                self
            }

            /// Checks every hyper-parameter.
            ///
            /// # Errors
            /// The first that is out of range.
            pub fn check(&self) -> Result<(), Error> {
                match self { $(Config::$Config(c) => c.check(),)+ }
            }

            /// Its arrays of state, also those that it does not keep.
            pub fn slots(&self) -> Vec<Slot> {
                match self { $(Config::$Config(c) => c.slots(),)+ }
            }

            /// The one number in [0, 1] of its state, if there is one: name and first value.
            pub fn scalar(&self) -> Option<(&'static str, f64)> {
                match self { $(Config::$Config(c) => c.scalar(),)+ }
            }

            fn advance(&self, t: u64, scalar: &mut f64) {
                match self { $(Config::$Config(c) => c.advance(t, scalar),)+ }
            }

            fn at(&self, t: u64, scalar: f64) -> Step {
                Step(match self { $(Config::$Config(c) => Constants::$Config(c.at(t, scalar)),)+ })
            }
        }

        impl Constants {
            #[inline(always)]
            fn update<T: Element, S: Simd<T>>(
                &self,
                s: S,
                params: &mut [T],
                grads: &[T],
                state: [&mut [T]; MAX_STATE],
            ) {
                match self { $(Constants::$Config(c) => c.update(s, params, grads, state),)+ }
            }
        }
    };
}

optimizers! {
    "sgd" => Sgd,
    "adagrad" => Adagrad,
    "rmsprop" => Rmsprop,
    "adadelta" => Adadelta,
    "adam" => Adam,
    "nadam" => Nadam,
    "radam" => Radam,
    "adamax" => Adamax,
    "lion" => Lion,
    "rprop" => Rprop,
}

/// An optimizer at work on one model: hyper-parameters, state over the arena, steps taken.
pub struct Optimizer<T: Element> {
    /// Kind and hyper-parameters.
    pub config: Config,
    /// Arrays of state, a [slot](Config::slots) each: as long as the parameter arena, or empty.
    pub state: Vec<Buffer<T>>,
    /// The [one number](Config::scalar) of its state.
    pub scalar: f64,
    /// Steps taken.
    pub steps: u64,
    groups: Vec<Group>,
    members: Vec<Member>,
    /// What the step under way does to each group.
    prepared: Vec<Option<Step>>,
}

impl<T: Element> Optimizer<T> {
    /// At the beginning, for an arena of `len` elements.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(config: Config, len: usize) -> Result<Self, Error> {
        let array = |slot: Slot| {
            let mut array = Buffer::zeroed("the optimizer's state", if slot.kept { len } else { 0 })?;
            if slot.initial != 0.0 {
                array.fill(T::lit(slot.initial));
            }
            Ok(array)
        };
        let slots = config.slots();
        assert!(slots.len() <= MAX_STATE);
        let state = slots.into_iter().map(array).collect::<Result<_, _>>()?;
        Ok(Optimizer {
            config,
            state,
            scalar: config.scalar().map_or(0.0, |s| s.1),
            steps: 0,
            groups: Vec::new(),
            members: Vec::new(),
            prepared: Vec::new(),
        })
    }

    /// Sets groups of parameters, of a network with these blocks.
    ///
    /// # Errors
    /// If a pattern matches none; nothing is changed then.
    pub fn set_groups(&mut self, groups: &[Group], blocks: &[Block]) -> Result<(), Error> {
        self.members = groups::members(groups, blocks)?;
        self.groups = groups.to_vec();
        self.prepared = vec![None; groups.len()];
        Ok(())
    }

    /// A copy.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn try_clone(&self) -> Result<Self, Error> {
        let len = self.state.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut copy = Self::new(self.config, len)?;
        copy.copy_from(self);
        copy.groups.clone_from(&self.groups);
        copy.members.clone_from(&self.members);
        copy.prepared.clone_from(&self.prepared);
        Ok(copy)
    }

    /// The largest learning rate of any parameter.
    pub fn largest_lr(&self) -> f64 {
        let scales = self.groups.iter().filter(|g| !g.frozen).map(|g| g.lr_scale);
        self.config.lr() * scales.fold(1.0, f64::max)
    }

    /// Parts of the arena that stay as they are.
    pub fn frozen(&self) -> impl Iterator<Item = Range<usize>> {
        self.members.iter().filter(|m| self.groups[m.group].frozen).map(|m| m.range.clone())
    }

    /// Becomes the same as another of the same size, but for its groups.
    ///
    /// # Panics
    /// If its state has another size.
    pub fn copy_from(&mut self, other: &Self) {
        assert_eq!(self.state.len(), other.state.len());
        self.state.iter_mut().zip(&other.state).for_each(|(to, from)| to.copy_from_slice(from));
        (self.config, self.scalar, self.steps) = (other.config, other.scalar, other.steps);
    }

    /// Sets the [one number](Config::scalar) of its state.
    ///
    /// # Errors
    /// If it is outside of [0, 1].
    pub fn set_scalar(&mut self, value: f64) -> Result<(), Error> {
        if let Some((name, _)) = self.config.scalar() {
            share(name, value)?;
        }
        self.scalar = value;
        Ok(())
    }

    /// What the next step will do to parameters that are in no group.
    pub fn next_step(&self) -> Step {
        self.config.at(self.steps + 1, self.scalar)
    }

    /// What the next step will do; and the state, lent to the threads of a region, empty where there is none.
    pub fn begin(&mut self) -> (Steps<'_>, [Shared<'_, T>; MAX_STATE]) {
        let usual = self.next_step();
        for (step, group) in self.prepared.iter_mut().zip(&self.groups) {
            let config = group.config.with_lr(group.lr_scale * self.config.lr());
            *step = (!group.frozen).then(|| config.at(self.steps + 1, self.scalar));
        }
        let mut state = self.state.iter_mut();
        let state = std::array::from_fn(|_| state.next().map_or(Shared::new(&mut []), Buffer::share));
        (Steps { usual, groups: &self.prepared, members: &self.members }, state)
    }

    /// Notes that the next step was done.
    pub fn advance(&mut self) {
        self.steps += 1;
        self.config.advance(self.steps, &mut self.scalar);
    }
}

/// One step's constants.
#[derive(Clone, Copy)]
pub struct Step(Constants);

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
                let Update(step, params, grads, state) = self;
                step.0.update(s, params, grads, state);
            }
        }
        dispatch(isa, Update(self, params, grads, state));
    }
}

#[cfg(test)]
mod tests;
