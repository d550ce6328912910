//! What the optimizers' files share: what an optimizer must declare, options by name, their ranges,
//! conventions, and common parts of formulas.

use std::collections::BTreeMap;

use super::{MAX_SCALARS, MAX_STATE};
use crate::element::{Dtype, Element};
use crate::error::Error;
pub(super) use crate::error::non_negative;
use crate::simd::{Isa, Op, Simd, dispatch};

/// An optimizer's hyper-parameters, and what follows from them.
pub(super) trait Method: Copy + Default {
    /// Constants of one step: a [`Formula`], or a [`Whole`](super::whole::Whole).
    type Step: Copy;

    /// Reads the hyper-parameters from options of the same names.
    fn read(options: &Options) -> Result<Self, Error>;

    /// With other values for some of them.
    fn with(self, changes: &Options) -> Result<Self, Error>;

    /// Reports the first one that is out of range.
    fn check(&self) -> Result<(), Error>;

    /// The arrays that it keeps, in the order in which [`Formula::update`] receives them.
    fn slots(&self) -> Vec<Slot>;

    /// Whether it keeps sums over the rows and columns of a block, instead of a number for each element.
    fn factors(&self, _shape: &[usize]) -> bool {
        false
    }

    /// Elements of the square matrices that it keeps for a block.
    fn squares(&self, _shape: &[usize]) -> usize {
        0
    }

    /// The scalars that it keeps.
    fn scalars(&self) -> Vec<Scalar> {
        Vec::new()
    }

    /// Advances the scalars to step `t`, as far as they depend on time only.
    fn advance(&self, _t: u64, _scalars: &mut Scalars) {}

    /// What step `t` = 1, 2, … does, given the scalars as `advance` left them. These are the optimizer's,
    /// even for a group with hyper-parameters of its own.
    fn at(&self, t: u64, scalars: &Scalars) -> Self::Step;
}

/// The scalars of an optimizer's state.
pub type Scalars = [f64; MAX_SCALARS];

/// A scalar of the state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalar {
    /// Its name.
    pub name: &'static str,
    /// Its value before the first step.
    pub initial: f64,
    /// Its smallest and largest permitted values.
    pub range: (f64, f64),
}

impl Scalar {
    /// Checks a new value.
    ///
    /// # Errors
    /// If it is out of range.
    pub fn check(&self, value: f64) -> Result<(), Error> {
        let (low, high) = self.range;
        if value.is_finite() && (low..=high).contains(&value) {
            return Ok(());
        }
        Err(Error::argument(self.name, value, format!("a number in [{low}, {high}] is needed")))
    }
}

/// The constants of a step, computed once in double precision.
pub(super) trait Formula: Copy {
    /// Updates parameters and state; an array that is not kept is empty. Must be `#[inline(always)]`.
    fn update<T: Element, S: Simd<T>>(
        &self,
        s: S,
        params: &mut [T],
        grads: &[T],
        state: [&mut [T]; MAX_STATE],
    );
}

/// Updates parameters and state by a formula: slices of the same length.
pub(super) fn apply<T: Element>(
    isa: Isa,
    formula: &impl Formula,
    params: &mut [T],
    grads: &[T],
    state: [&mut [T]; MAX_STATE],
) {
    struct Apply<'a, F, T>(&'a F, &'a mut [T], &'a [T], [&'a mut [T]; MAX_STATE]);
    impl<F: Formula, T: Element> Op<T> for Apply<'_, F, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let Apply(formula, params, grads, state) = self;
            formula.update(s, params, grads, state);
        }
    }
    dispatch(isa, Apply(formula, params, grads, state));
}

/// What the elements of a state array correspond to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Each parameter, at its place in the arena.
    Arena,
    /// Each output of the factored weights, block by block.
    Outputs,
    /// Each input of the factored weights.
    Inputs,
    /// Each parameter of the other blocks, each block laid out as in the arena.
    Rest,
    /// Square matrices of the size of a side of a block, block by block.
    Squares,
}

/// A state array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Its name, as in PyTorch.
    pub name: &'static str,
    /// Value of every element before the first step.
    pub initial: f64,
    /// Whether it may hold negative numbers.
    pub signed: bool,
    /// Whether these hyper-parameters need it. If not, it has no elements.
    pub kept: bool,
    /// What its elements correspond to.
    pub extent: Extent,
}

impl Slot {
    /// Starts from zero and may have either sign; always kept.
    pub(super) fn signed(name: &'static str) -> Self {
        Slot { name, initial: 0.0, signed: true, kept: true, extent: Extent::Arena }
    }

    /// Starts from zero and is never negative; always kept.
    pub(super) fn positive(name: &'static str) -> Self {
        Slot { signed: false, ..Self::signed(name) }
    }

    /// Sets another initial value.
    pub(super) fn from(self, initial: f64) -> Self {
        Slot { initial, ..self }
    }

    /// Sets what the elements correspond to, if not all parameters.
    pub(super) fn of(self, extent: Extent) -> Self {
        Slot { extent, ..self }
    }

    /// Makes it depend on a condition whether the array is kept.
    pub(super) fn only_if(self, kept: bool) -> Self {
        Slot { kept, ..self }
    }

    /// Checks new values of its elements.
    ///
    /// # Errors
    /// If one is negative but must not be.
    pub fn check<T: Element>(&self, values: &[T]) -> Result<(), Error> {
        match values.iter().find(|x| !self.signed && **x < T::ZERO) {
            Some(x) => {
                Err(Error::argument(self.name, format!("partly negative ({x})"), "numbers >= 0 are needed"))
            }
            None => Ok(()),
        }
    }
}

// --- Options ---------------------------------------------------------------------------------------

/// Hyper-parameters as they come from outside.
pub type Options = BTreeMap<String, Value>;

/// A hyper-parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number, or 0 and 1 for false and true.
    Number(f64),
    /// The name of one of several choices.
    Name(String),
}

/// A type that a hyper-parameter can have.
pub(super) trait Field: Sized {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error>;
}

impl Field for f64 {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        match value {
            Value::Number(x) => Ok(*x),
            Value::Name(text) => Err(Error::argument(name, format!("{text:?}"), "a number is needed")),
        }
    }
}

impl Field for bool {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        f64::read(name, value).map(|x| x != 0.0)
    }
}

impl Field for u32 {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        let x = f64::read(name, value)?;
        match x >= 0.0 && x <= f64::from(u32::MAX) && x.fract() == 0.0 {
            true => Ok(x as u32),
            false => Err(Error::argument(name, x, "a whole number >= 0 is needed")),
        }
    }
}

/// A number, or "auto" to let the method choose.
impl Field for Option<f64> {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        match value {
            Value::Name(text) if text == "auto" => Ok(None),
            _ => f64::read(name, value).map(Some),
        }
    }
}

impl Field for Convention {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        named(name, value, &Convention::ALL.map(|convention| (convention.name(), convention)))
    }
}

/// Reads a field that is one of several names.
pub(super) fn named<V: Copy>(name: &'static str, value: &Value, known: &[(&str, V)]) -> Result<V, Error> {
    let text = match value {
        Value::Name(text) => text.clone(),
        Value::Number(x) => x.to_string(),
    };
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        Error::argument(name, format!("{text:?}"), format!("one of {} is needed", names.join(", ")))
    })
}

/// Reads the field with this name.
pub(super) fn field<F: Field>(options: &Options, name: &'static str) -> Result<F, Error> {
    let value = options.get(name).ok_or_else(|| Error::argument(name, "missing", "it is needed"))?;
    F::read(name, value)
}

/// Checks that all options are among these.
pub(super) fn known(options: &Options, fields: &[&str]) -> Result<(), Error> {
    match options.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => {
            let text = format!("there is no option {name:?}; the options are {}", fields.join(", "));
            Err(Error::Mismatch(text))
        }
        None => Ok(()),
    }
}

/// [`Method::read`] and [`Method::with`] for a struct with these fields.
macro_rules! options {
    ($($field:ident),+ $(,)?) => {
        fn read(options: &$crate::optim::Options) -> Result<Self, $crate::Error> {
            $crate::optim::method::known(options, &[$(stringify!($field)),+])?;
            Ok(Self { $($field: $crate::optim::method::field(options, stringify!($field))?),+ })
        }

        fn with(mut self, changes: &$crate::optim::Options) -> Result<Self, $crate::Error> {
            $crate::optim::method::known(changes, &[$(stringify!($field)),+])?;
            $(if changes.contains_key(stringify!($field)) {
                self.$field = $crate::optim::method::field(changes, stringify!($field))?;
            })+
            Ok(self)
        }
    };
}
pub(super) use options;

// --- Ranges ----------------------------------------------------------------------------------------

/// `Ok` if it is in [0, 1).
pub(super) fn fraction(name: &'static str, value: f64) -> Result<(), Error> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::argument(name, value, "a number in [0, 1) is needed"))
}

/// `Ok` if it is zero, because the convention does not have this option.
pub(super) fn absent(name: &'static str, value: f64, convention: Convention) -> Result<(), Error> {
    if value == 0.0 {
        return Ok(());
    }
    let accepted = format!("the convention \"{}\" has no {name}: it must be 0", convention.name());
    Err(Error::argument(name, value, accepted))
}

/// Whose formula is computed, where there are several under one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// PyTorch's.
    #[default]
    Torch,
    /// Optax'.
    Optax,
    /// Keras'; weight decay is always decoupled there.
    Keras,
    /// That of the paper or of textbooks, which no library follows.
    Textbook,
    /// Momentum as an average of gradients.
    Ema,
}

impl Convention {
    const ALL: [Self; 5] = [Self::Torch, Self::Optax, Self::Keras, Self::Textbook, Self::Ema];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torch => "torch",
            Self::Optax => "optax",
            Self::Keras => "keras",
            Self::Textbook => "textbook",
            Self::Ema => "ema",
        }
    }

    /// `Ok` if it is one of those that a method supports.
    pub(super) fn among(self, known: &[Self]) -> Result<(), Error> {
        if known.contains(&self) {
            return Ok(());
        }
        Err(refused("convention", format!("{:?}", self.name()), known))
    }
}

fn refused(name: &'static str, value: String, known: &[Convention]) -> Error {
    let names: Vec<_> = known.iter().map(|c| c.name()).collect();
    Error::argument(name, value, format!("one of {} is needed", names.join(", ")))
}

// --- Parts of formulas -----------------------------------------------------------------------------

/// Where ε is added in a denominator: √(x + inside) + outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eps<V = f64> {
    pub inside: V,
    pub outside: V,
}

impl Eps {
    /// PyTorch adds ε to the root; Optax and Keras add it under the root.
    pub fn new(eps: f64, convention: Convention) -> Self {
        match convention {
            Convention::Optax | Convention::Keras => Eps { inside: eps, outside: 0.0 },
            _ => Eps { inside: 0.0, outside: eps },
        }
    }

    #[inline(always)]
    pub fn splat<T: Element, S: Simd<T>>(self, s: S) -> Eps<S::V> {
        Eps { inside: s.splat(T::lit(self.inside)), outside: s.splat(T::lit(self.outside)) }
    }
}

impl<V: Copy> Eps<V> {
    /// x / (√(square + inside) + outside)
    #[inline(always)]
    pub fn divide<T: Element, S: Simd<T, V = V>>(self, s: S, x: V, square: V) -> V {
        ratio(s, x, s.add(s.sqrt(s.add(square, self.inside)), self.outside))
    }
}

/// Weight decay: θ ← θ − fade·θ, then g ← g + l2·θ. One of the two does nothing.
///
/// Not θ ← (1 − fade)·θ: in single precision that factor is off by up to 3e-8, always in the same direction,
/// which adds up to 6e-6 of θ after 200 steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decay<V = f64> {
    fade: V,
    pub l2: V,
}

impl Decay {
    pub fn new(weight_decay: f64, decoupled: bool, lr: f64) -> Self {
        match decoupled {
            true => Decay { fade: lr * weight_decay, l2: 0.0 },
            false => Decay { fade: 0.0, l2: weight_decay },
        }
    }

    #[inline(always)]
    pub fn splat<T: Element, S: Simd<T>>(self, s: S) -> Decay<S::V> {
        Decay { fade: s.splat(T::lit(-self.fade)), l2: s.splat(T::lit(self.l2)) }
    }
}

impl<V: Copy> Decay<V> {
    /// (θ, g)
    #[inline(always)]
    pub fn apply<T: Element, S: Simd<T, V = V>>(self, s: S, p: V, g: V) -> (V, V) {
        let p = s.fma(self.fade, p, p);
        (p, s.fma(self.l2, p, g))
    }
}

/// A running average with decay β.
#[derive(Clone, Copy, Debug)]
pub(super) struct Average<V = f64> {
    keep: V,
    take: V,
}

impl Average {
    pub fn new(beta: f64) -> Self {
        Average { keep: beta, take: 1.0 - beta }
    }

    #[inline(always)]
    pub fn splat<T: Element, S: Simd<T>>(self, s: S) -> Average<S::V> {
        Average { keep: s.splat(T::lit(self.keep)), take: s.splat(T::lit(self.take)) }
    }
}

impl<V: Copy> Average<V> {
    /// m + (1 − β)·(x − m)
    #[inline(always)]
    pub fn mean<T: Element, S: Simd<T, V = V>>(self, s: S, m: V, x: V) -> V {
        s.fma(self.take, s.sub(x, m), m)
    }

    /// β·v + (1 − β)·x²
    #[inline(always)]
    pub fn square<T: Element, S: Simd<T, V = V>>(self, s: S, v: V, x: V) -> V {
        s.fma(self.keep, v, s.mul(self.take, s.mul(x, x)))
    }
}

/// a / b for b ≥ 0, but 0 where both are 0: parameters that never had a gradient, and the arena's padding,
/// stay where they are even without ε. Denominators below the root of the smallest number, which no square
/// can have, count as that root.
#[inline(always)]
pub(super) fn ratio<T: Element, S: Simd<T>>(s: S, a: S::V, b: S::V) -> S::V {
    s.div(a, s.max(s.splat(T::lit(least_root::<T>())), b)) // in this order, a NaN stays a NaN
}

/// The root of the smallest number that is not flushed to zero.
#[inline(always)]
pub(super) fn least_root<T: Element>() -> f64 {
    match T::DTYPE {
        Dtype::F32 => f64::from(f32::MIN_POSITIVE).sqrt(),
        Dtype::F64 => f64::MIN_POSITIVE.sqrt(),
    }
}

/// −1, 0 or 1; NaN for NaN.
#[inline(always)]
pub(super) fn sign<T: Element, S: Simd<T>>(s: S, x: S::V) -> S::V {
    s.select(s.lt(s.splat(T::ZERO), s.abs(x)), s.copysign(s.splat(T::ONE), x), x)
}

/// 1 − βᵗ, the factor by which an average over t steps from 0 falls short.
pub(super) fn filled(beta: f64, t: u64) -> f64 {
    // βᵗ ≤ exp(−t(1 − β)), which soon is too small to count, and then much too small to be computed quickly.
    let t = t as f64;
    if t * (1.0 - beta) > 40.0 { 1.0 } else { 1.0 - beta.powf(t) }
}
