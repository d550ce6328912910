//! Optimizers: how a step changes parameters, given gradients and state.
//!
//! There is one file per optimizer, with its hyper-parameters, their ranges, its state and its formula. A
//! [`Step`] holds the constants of one step, computed once in double precision.
//!
//! Most work element by element: [`Step::update`] runs on any part of the arena, so that a plan can update a
//! tile while its gradient is in the cache. Those that need more at once, a norm or a whole matrix, are in
//! `whole` and run after the pass.
//!
//! A new one needs its file, `mod` and `pub use` here or in `whole`, and a line in the list below; if it works
//! element by element, in `tests.rs` also its formula and settings to compare. The others are compared in
//! Python, where users need its class: CONTRIBUTING.md has what belongs to that.

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
mod schedule_free;
mod sgd;
mod state;
mod whole;

pub use adadelta::Adadelta;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use groups::{Clock, Clocks, Group, Steps};
pub use lion::Lion;
pub use method::{Convention, Extent, Options, Scalar, Scalars, Slot, Value};
pub use nadam::Nadam;
pub use radam::Radam;
pub use rmsprop::Rmsprop;
pub use rprop::Rprop;
pub use schedule_free::ScheduleFree;
pub use sgd::Sgd;
pub use whole::{Adafactor, Lamb, Muon, Prodigy, Shampoo, step};

use std::ops::Range;

use groups::{Member, Setting};
use method::{Formula, Method};
use whole::{Room, Whole};

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::network::Network;
use crate::simd::{Isa, Simd};
use crate::update;

/// Largest number of state arrays that any optimizer keeps.
pub const MAX_STATE: usize = 4;
/// Largest number of state scalars.
pub const MAX_SCALARS: usize = 2;

/// The list of optimizers, name and hyper-parameters: first those that work element by element, then the
/// others.
macro_rules! optimizers {
    (elements: $($one:literal => $One:ident),+; wholes: $($all:literal => $All:ident),+ $(;)?) => {
        optimizers! { @list $($one => $One,)+ $($all => $All,)+ }

        impl Config {
            /// Whether each parameter's update depends only on its own gradient and state.
            pub fn is_elementwise(&self) -> bool {
                matches!(self, $(Config::$One(_))|+)
            }

            /// Those that work element by element, with their defaults.
            #[cfg(test)]
            fn elementwise() -> Vec<Self> {
                vec![$(Config::$One($One::default())),+]
            }
        }

        impl Formula for Constants {
            #[inline(always)]
            fn update<T: Element, S: Simd<T>>(
                &self,
                s: S,
                params: &mut [T],
                grads: &[T],
                state: [&mut [T]; MAX_STATE],
            ) {
                match self {
                    $(Constants::$One(c) => c.update(s, params, grads, state),)+
                    _ => panic!("this method does not work element by element"),
                }
            }
        }

        impl Constants {
            /// The method, if it does not work element by element.
            fn whole<T: Element>(&self) -> Option<&dyn Whole<T>> {
                match self {
                    $(Constants::$All(c) => Some(c),)+
                    _ => None,
                }
            }
        }
    };
    (@list $($kind:literal => $Config:ident,)+) => {
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
            /// The names that [`new`](Self::new) accepts.
            pub const KINDS: &[&str] = &[$($kind),+];

            /// An optimizer by name, with all its hyper-parameters by name.
            ///
            /// # Errors
            /// If a name is unknown or missing, or a hyper-parameter is out of range.
            pub fn new(kind: &str, options: &Options) -> Result<Self, Error> {
                let config = match kind {
                    $($kind => Config::$Config($Config::read(options)?),)+
                    _ => {
                        let accepted = format!("one of {} is needed", Self::KINDS.join(", "));
                        return Err(Error::argument("optimizer", format!("{kind:?}"), accepted));
                    }
                };
                config.check().map(|()| config)
            }

            /// With other values for some hyper-parameters, by name.
            ///
            /// # Errors
            /// If a name is unknown, or a hyper-parameter is out of range.
            pub fn with(&self, changes: &Options) -> Result<Self, Error> {
                let config = match self { $(Config::$Config(c) => Config::$Config(c.with(changes)?),)+ };
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
            /// Names the first one that is out of range.
            pub fn check(&self) -> Result<(), Error> {
                match self { $(Config::$Config(c) => c.check(),)+ }
            }

            /// Its state arrays, including those that it does not keep.
            pub fn slots(&self) -> Vec<Slot> {
                match self { $(Config::$Config(c) => c.slots(),)+ }
            }

            pub(super) fn factors(&self, shape: &[usize]) -> bool {
                match self { $(Config::$Config(c) => c.factors(shape),)+ }
            }

            pub(super) fn squares(&self, shape: &[usize]) -> usize {
                match self { $(Config::$Config(c) => c.squares(shape),)+ }
            }

            /// The scalars of its state.
            pub fn scalars(&self) -> Vec<Scalar> {
                match self { $(Config::$Config(c) => c.scalars(),)+ }
            }

            fn advance(&self, t: u64, scalars: &mut Scalars) {
                match self { $(Config::$Config(c) => c.advance(t, scalars),)+ }
            }

            fn at(&self, t: u64, scalars: &Scalars) -> Step {
                Step(match self { $(Config::$Config(c) => Constants::$Config(c.at(t, scalars)),)+ })
            }
        }
    };
}

optimizers! {
    elements:
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
    "schedule_free" => ScheduleFree;
    wholes:
    "lamb" => Lamb,
    "adafactor" => Adafactor,
    "muon" => Muon,
    "prodigy" => Prodigy,
    "shampoo" => Shampoo;
}

/// An optimizer at work on one model: hyper-parameters, state over the arena, and the number of steps taken.
pub struct Optimizer<T: Element> {
    /// Kind and hyper-parameters.
    pub config: Config,
    /// State arrays, one for each [slot](Config::slots).
    pub state: Vec<Buffer<T>>,
    /// The [scalars](Config::scalars) of its state.
    pub scalars: Scalars,
    /// Number of steps taken.
    pub steps: u64,
    settings: Vec<Setting>,
    members: Vec<Member>,
    /// What the current step does to each member.
    prepared: Vec<Option<Step>>,
    /// Workspace of a method that does not work element by element.
    room: Option<Room<T>>,
}

impl<T: Element> Optimizer<T> {
    /// A new optimizer for a network, before its first step.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(config: Config, network: &Network) -> Result<Self, Error> {
        let array = |slot: Slot| {
            let mut array = Buffer::zeroed("the optimizer's state", config.length(&slot, network))?;
            if slot.initial != 0.0 {
                array.fill(T::lit(slot.initial));
            }
            Ok(array)
        };
        let slots = config.slots();
        assert!(slots.len() <= MAX_STATE);
        let mut scalars = Scalars::default();
        scalars.iter_mut().zip(config.scalars()).for_each(|(x, scalar)| *x = scalar.initial);
        let mut optimizer = Optimizer {
            config,
            state: slots.into_iter().map(array).collect::<Result<_, _>>()?,
            scalars,
            steps: 0,
            settings: Vec::new(),
            members: Vec::new(),
            prepared: Vec::new(),
            room: None,
        };
        optimizer.room = Room::new(&mut optimizer, network)?;
        Ok(optimizer)
    }

    /// Sets the parameter groups.
    ///
    /// # Errors
    /// If a pattern matches nothing, an option is unknown or out of range, or there is not enough memory;
    /// nothing is changed then.
    pub fn set_groups(&mut self, groups: &[Group], network: &Network) -> Result<(), Error> {
        let (mut members, settings) = match groups {
            [] if self.members.is_empty() => Default::default(),
            _ => groups::members(groups, network.blocks(), &self.config)?,
        };
        // Either there were none, or they were the same blocks.
        for (member, before) in members.iter_mut().zip(&self.members) {
            member.clock = before.clock;
        }
        let prepared = vec![None; members.len()];
        // Where a block's state lies follows from the optimizer's own options.
        let kept = self.config.kept_by_block(network);
        if settings.iter().any(|setting| setting.config.kept_by_block(network) != kept) {
            let text = "a group's options would give a state of another size than the optimizer's own options; \
                        they must give the same size for every parameter";
            return Err(Error::Mismatch(text.into()));
        }
        let before = (
            std::mem::replace(&mut self.members, members),
            std::mem::replace(&mut self.settings, settings),
            std::mem::replace(&mut self.prepared, prepared),
        );
        let room = Room::new(self, network).and_then(|room| {
            room.as_ref().map_or(Ok(()), Room::check)?;
            Ok(room)
        });
        match room {
            Ok(room) => self.room = room,
            Err(error) => {
                (self.members, self.settings, self.prepared) = before;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sets hyper-parameters, from the next step on. The state stays.
    ///
    /// # Errors
    /// If they need another state, and steps have been taken, or else as for `set_groups`; nothing is changed
    /// then.
    pub fn set_config(&mut self, config: Config, groups: &[Group], network: &Network) -> Result<(), Error> {
        let layout = |config: &Config| (config.slots(), config.scalars(), config.kept_by_block(network));
        if layout(&config) != layout(&self.config) {
            if self.steps > 0 {
                let text = "the optimizer's averages would be others than those of its steps so far, or would \
                            have begun from another value: set it before the first step, or make another \
                            optimizer";
                return Err(Error::Mismatch(text.into()));
            }
            let mut new = Optimizer::new(config, network)?;
            new.set_groups(groups, network)?;
            *self = new;
            return Ok(());
        }
        let before = std::mem::replace(&mut self.config, config);
        self.set_groups(groups, network).inspect_err(|_| self.config = before)
    }

    /// A copy of its state, in the memory of an old copy if that fits.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn save(&self, spare: Option<Saved<T>>) -> Result<Saved<T>, Error> {
        let fits =
            |saved: &Saved<T>| saved.state.iter().map(|s| s.len()).eq(self.state.iter().map(|s| s.len()));
        let (mut state, mut clocks) = match spare.filter(fits) {
            Some(spare) => (spare.state, spare.clocks),
            None => {
                let empty =
                    |array: &Buffer<T>| Buffer::zeroed("a copy of the optimizer's state", array.len());
                (self.state.iter().map(empty).collect::<Result<_, _>>()?, Vec::new())
            }
        };
        state.iter_mut().zip(&self.state).for_each(|(to, from)| update::copy(to, from));
        clocks.clear();
        clocks.extend(self.members.iter().map(|member| member.clock));
        Ok(Saved { config: self.config, state, scalars: self.scalars, steps: self.steps, clocks })
    }

    /// Restores a saved state and its learning rate; other hyper-parameters and groups stay as they are, unless
    /// they now need another state: then [`set_config`](Self::set_config) must follow, and the copy is used up.
    pub fn restore(&mut self, saved: &mut Saved<T>) {
        if self.state.iter().zip(&saved.state).all(|(to, from)| to.len() == from.len()) {
            self.state.iter_mut().zip(&saved.state).for_each(|(to, from)| to.copy_from_slice(from));
            self.config = self.config.with_lr(saved.config.lr());
        } else {
            std::mem::swap(&mut self.state, &mut saved.state);
            self.config = saved.config;
        }
        (self.scalars, self.steps) = (saved.scalars, saved.steps);
        // There were no members if there were no groups.
        let clocks = saved.clocks.iter().copied().chain(std::iter::repeat(None));
        self.members.iter_mut().zip(clocks).for_each(|(member, clock)| member.clock = clock);
    }

    /// The time of each block that was frozen during some steps: names, and the clocks.
    pub fn clocks(&self, network: &Network) -> Clocks {
        let name =
            |start| network.blocks().iter().find(|block| block.offset == start).map(|b| b.name.clone());
        let late = self.members.iter().filter_map(|m| Some((name(m.range.start)?, m.clock?)));
        late.collect()
    }

    /// Sets the time of blocks that were frozen during some steps.
    ///
    /// # Errors
    /// If there is no such block, or if a clock is ahead of the optimizer's steps or has a scalar out of
    /// range; some may have been set then.
    pub fn set_clocks(&mut self, clocks: &[(String, Clock)], network: &Network) -> Result<(), Error> {
        if !clocks.is_empty() && self.members.is_empty() {
            (self.members, _) = groups::members(&[], network.blocks(), &self.config)?;
            self.prepared = vec![None; self.members.len()];
        }
        for (name, clock) in clocks {
            let block = network.blocks().iter().find(|block| block.name == *name);
            let start = block.map(|block| block.offset);
            let member = self.members.iter_mut().find(|member| Some(member.range.start) == start);
            let Some(member) = member.filter(|_| clock.steps <= self.steps) else {
                let text = format!(
                    "the optimizer's state says that {name} has made {} of its {} steps, which cannot be",
                    clock.steps, self.steps
                );
                return Err(Error::Mismatch(text));
            };
            let scalars = self.config.scalars();
            scalars.iter().zip(clock.scalars).try_for_each(|(scalar, value)| scalar.check(value))?;
            member.clock = Some(*clock);
        }
        Ok(())
    }

    /// The largest learning rate of any parameter.
    pub fn largest_lr(&self) -> f64 {
        let scales = self.settings.iter().filter(|s| !s.frozen).map(|s| s.lr_scale);
        self.config.lr() * scales.fold(1.0, f64::max)
    }

    /// Parts of the arena that are frozen.
    pub fn frozen(&self) -> impl Iterator<Item = Range<usize>> {
        self.members.iter().filter(|member| self.is_frozen(member)).map(|member| member.range.clone())
    }

    fn is_frozen(&self, member: &Member) -> bool {
        member.setting.is_some_and(|setting| self.settings[setting].frozen)
    }

    /// Sets the [scalars](Config::scalars) of its state.
    ///
    /// # Errors
    /// If one is out of range; nothing is changed then.
    pub fn set_scalars(&mut self, values: &[f64]) -> Result<(), Error> {
        let scalars = self.config.scalars();
        assert_eq!(scalars.len(), values.len());
        scalars.iter().zip(values).try_for_each(|(scalar, value)| scalar.check(*value))?;
        self.scalars[..values.len()].copy_from_slice(values);
        Ok(())
    }

    /// Whether gradients can be applied tile by tile, before all are known.
    pub fn is_elementwise(&self) -> bool {
        self.config.is_elementwise()
    }

    fn next_scalars(&self) -> Scalars {
        let mut scalars = self.scalars;
        self.config.advance(self.steps + 1, &mut scalars);
        scalars
    }

    /// What the next step will do, and the state arrays, lent to the threads of a region; an array that is
    /// not kept is empty.
    pub fn begin(&mut self) -> (Steps<'_>, [Shared<'_, T>; MAX_STATE]) {
        let (t, scalars) = (self.steps + 1, self.next_scalars());
        let usual = self.config.at(t, &scalars);
        for i in 0..self.members.len() {
            let Member { setting, clock, .. } = self.members[i];
            let alike =
                |&last: &usize| (self.members[last].setting, self.members[last].clock) == (setting, clock);
            let setting = setting.map(|setting| &self.settings[setting]);
            self.prepared[i] = match (i.checked_sub(1).filter(alike), setting) {
                (Some(last), _) => self.prepared[last],
                (None, Some(setting)) if setting.frozen => None,
                (None, setting) => {
                    let own = setting.map(|own| own.config.with_lr(own.lr_scale * self.config.lr()));
                    let (t, scalars) = match clock {
                        // Their scalars come from all parameters together, not from time.
                        Some(Clock { steps, .. }) if !self.is_elementwise() => (steps + 1, scalars),
                        Some(mut clock) => {
                            self.config.advance(clock.steps + 1, &mut clock.scalars);
                            (clock.steps + 1, clock.scalars)
                        }
                        None => (t, scalars),
                    };
                    Some(own.unwrap_or(self.config).at(t, &scalars))
                }
            };
        }
        let mut state = self.state.iter_mut();
        let state = std::array::from_fn(|_| state.next().map_or(Shared::new(&mut []), Buffer::share));
        (Steps { usual, apart: &self.prepared, members: &self.members }, state)
    }

    /// Records that the step was done.
    pub fn advance(&mut self) {
        let now = Clock { steps: self.steps, scalars: self.scalars };
        for i in 0..self.members.len() {
            let frozen = self.is_frozen(&self.members[i]);
            match &mut self.members[i].clock {
                empty @ None if frozen => *empty = Some(now),
                Some(clock) if !frozen => {
                    clock.steps += 1;
                    self.config.advance(clock.steps, &mut clock.scalars);
                }
                _ => {}
            }
        }
        self.steps += 1;
        self.config.advance(self.steps, &mut self.scalars);
    }
}

/// A saved state of an optimizer.
pub struct Saved<T> {
    config: Config,
    state: Vec<Buffer<T>>,
    scalars: Scalars,
    steps: u64,
    clocks: Vec<Option<Clock>>,
}

/// One step's constants.
#[derive(Clone, Copy)]
pub struct Step(Constants);

impl Step {
    /// Updates parameters and state from gradients: slices of the same length, for any part of the arena.
    ///
    /// # Panics
    /// If lengths differ, or the state is that of another optimizer.
    pub fn update<T: Element>(&self, isa: Isa, params: &mut [T], grads: &[T], state: [&mut [T]; MAX_STATE]) {
        method::apply(isa, &self.0, params, grads, state);
    }
}

#[cfg(test)]
mod tests;
