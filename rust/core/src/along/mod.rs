//! What accompanies an optimizer's step, parameter by parameter, for learning one task after another.
//!
//! ```text
//! penalty   ½·s·Σ A_j·(θ_j − a_j)²        g ← g + s·A·(θ − a)       importance A, anchor a, strength s
//! mask      θ_j stays as it is if it is not free, and g_j counts as 0
//! path      ω_j ← ω_j − g_j·Δθ_j          what the moves of each parameter have gained (Zenke, Poole and
//!                                         Ganguli 2017, arXiv:1703.04200)
//! walk      see `walk`; and what `coupled` has computed in advance, g ← g + p
//! ```
//!
//! Several quadratic penalties combine into one: Σ_k A_k·(θ − a_k)² = A·(θ − a)² + a constant, with A = Σ A_k
//! and a = Σ A_k·a_k / A. So any number of tasks takes the memory of one.
//!
//! All this happens while a tile's gradient and parameters are in the cache. Nothing is allocated.

#![allow(unsafe_code)] // disjoint runs for threads

pub mod coupled;
pub mod walk;

use std::ops::Range;

use coupled::Coupled;
use walk::{Pace, Walk};

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::{Error, non_negative};
use crate::optim::{MAX_STATE, Optimizer, Step};
use crate::parallel::{self, RUN};
use crate::simd::{Isa, Op, Simd, add, dispatch, sum_of, zip_map};

/// A quadratic penalty.
pub struct Penalty<T> {
    /// A, in the arena's order. A negative one pushes its parameter away.
    pub importance: Buffer<T>,
    /// a
    pub anchor: Buffer<T>,
    /// s
    pub strength: f64,
}

impl<T: Element> Penalty<T> {
    fn pull(&self) -> Pull<'_, T> {
        Pull { importance: &self.importance, anchor: &self.anchor, strength: self.strength }
    }

    /// ½·s·Σ A·(θ − a)², the same for any number of threads.
    pub fn value(&self, isa: Isa, params: &[T]) -> f64 {
        let pull = self.pull();
        let distance = |run: Range<usize>| Distance { params: &params[run.clone()], pull: pull.part(run) };
        0.5 * self.strength * parallel::sum(params.len(), |run| dispatch(isa, distance(run)))
    }
}

/// The integral of the gradient along the path of each parameter.
pub struct Path<T> {
    /// ω, in the arena's order.
    pub values: Buffer<T>,
    /// Whether g includes the penalty's gradient.
    pub with_penalty: bool,
}

/// All that accompanies a trainer's steps.
pub struct Along<T> {
    /// A penalty that pulls parameters back.
    pub penalty: Option<Penalty<T>>,
    /// The same, with parameters that depend on each other.
    pub coupled: Option<Coupled<T>>,
    /// Sums up what the moves of parameters gain.
    pub path: Option<Path<T>>,
    /// Also measures how far parameters move.
    pub walk: Option<Walk<T>>,
    /// 1 where a parameter is free, 0 where it must not move.
    pub mask: Option<Buffer<T>>,
}

impl<T> Default for Along<T> {
    fn default() -> Self {
        Along { penalty: None, coupled: None, path: None, walk: None, mask: None }
    }
}

impl<T: Element> Along<T> {
    /// Whether there is a penalty.
    pub fn pulls(&self) -> bool {
        self.penalty.is_some() || self.coupled.is_some()
    }

    /// Whether the gradient of the loss itself is needed.
    pub fn follows(&self) -> bool {
        self.path.is_some() || self.walk.is_some()
    }

    /// Checks whether an optimizer's steps can be followed and restricted parameter by parameter, if that is
    /// wanted.
    ///
    /// # Errors
    /// If it is, but the optimizer does not work element by element.
    pub fn check(&self, optimizer: &Optimizer<T>) -> Result<(), Error> {
        if optimizer.is_elementwise() || !self.follows() && self.mask.is_none() {
            return Ok(());
        }
        let text = "this strategy follows or fixes single parameters, which needs an optimizer that works \
                    element by element; this one works on whole layers: use, for example, Adam or SGD";
        Err(Error::Unsupported(text.into()))
    }

    /// Lends this to the threads of a region, for the update that comes after `updates` others. `None` if
    /// there is nothing to lend.
    ///
    /// The update's gradients are those of the loss, unless penalties, projections and limits have already
    /// been applied to them: then `loss` has the gradients of the loss (which are not read if nothing
    /// [follows](Self::follows)).
    pub fn share<'a>(&'a mut self, loss: Option<&'a [T]>, updates: u64) -> Option<Company<'a, T>> {
        let penalty = loss.is_none() || self.follows();
        let loss = loss.filter(|_| self.follows());
        let Along { penalty: pull, coupled, path, walk, mask } = self;
        let shift = coupled.as_ref().filter(|_| penalty).map(|c| &*c.shift);
        let pull = pull.as_ref().filter(|_| penalty).map(Penalty::pull);
        let path = path.as_mut().map(|p| (p.values.share(), p.with_penalty));
        let walk = walk.as_mut().map(|walk| walk.share(updates));
        let mask = mask.as_deref();
        let there = pull.is_some() || shift.is_some() || path.is_some() || walk.is_some() || mask.is_some();
        there.then_some(Company { pull, shift, loss, path, walk, mask })
    }
}

#[derive(Clone, Copy)]
struct Pull<'a, T> {
    importance: &'a [T],
    anchor: &'a [T],
    strength: f64,
}

/// [`Along`], lent to threads.
#[derive(Clone, Copy)]
pub struct Company<'a, T> {
    pull: Option<Pull<'a, T>>,
    shift: Option<&'a [T]>,
    /// The gradient of the loss, if that of the update already includes everything.
    loss: Option<&'a [T]>,
    path: Option<(Shared<'a, T>, bool)>,
    walk: Option<Pace<'a, T>>,
    mask: Option<&'a [T]>,
}

/// Elements that are processed at once, with copies on the stack.
const PART: usize = 512;

impl<T: Element> Company<'_, T> {
    /// An optimizer's step on the parameters of a range of the arena, and what accompanies it.
    ///
    /// # Safety
    /// Nobody else may use this range of the path and the walk meanwhile.
    ///
    /// # Panics
    /// If a length is not that of the range.
    pub unsafe fn step(
        &self,
        isa: Isa,
        step: &Step,
        range: Range<usize>,
        params: &mut [T],
        grads: &[T],
        mut state: [&mut [T]; MAX_STATE],
    ) {
        let [mut g, mut complete, mut before] = [[T::ZERO; PART]; 3];
        for from in (0..range.len()).step_by(PART) {
            let part = from..range.len().min(from + PART);
            let place = range.start + part.start..range.start + part.end;
            let n = part.len();
            let (g, before) = (&mut g[..n], &mut before[..n]);
            let (params, grads) = (&mut params[part.clone()], &grads[part.clone()]);
            let loss = self.loss.map(|loss| &loss[place.clone()]);
            g.copy_from_slice(loss.unwrap_or(grads));
            before.copy_from_slice(params);
            if let Some(pull) = self.pull {
                dispatch(isa, Add { grads: &mut *g, params, pull: pull.part(place.clone()) });
            }
            if let Some(shift) = self.shift {
                add(isa, g, &shift[place.clone()]);
            }
            // From here on, `g` is the gradient of the loss and the penalties, and `used` the one that the
            // optimizer gets.
            let used = match loss {
                None => &mut *g,
                Some(_) => &mut complete[..n],
            };
            if loss.is_some() {
                used.copy_from_slice(grads);
            }
            let mask = self.mask.map(|mask| &mask[place.clone()]);
            if let Some(mask) = mask {
                used.iter_mut()
                    .zip(mask)
                    .filter(|(_, free)| **free == T::ZERO)
                    .for_each(|(g, _)| *g = T::ZERO);
            }
            let state = state.each_mut().map(|s| if s.is_empty() { &mut [] } else { &mut s[part.clone()] });
            step.update(isa, params, used, state);
            if let Some(mask) = mask {
                for ((p, was), free) in params.iter_mut().zip(&*before).zip(mask) {
                    *p = if *free == T::ZERO { *was } else { *p };
                }
            }
            let loss = loss.unwrap_or(grads);
            if let Some(walk) = &self.walk {
                // SAFETY: the caller promises that nobody else uses this range.
                unsafe { walk.step(isa, place.clone(), loss, before, params) };
            }
            if let Some((path, with_penalty)) = self.path {
                // SAFETY: the caller promises that nobody else uses this range.
                let path = unsafe { path.slice_mut(place) };
                let slope = if with_penalty { &*g } else { loss };
                dispatch(isa, Gain { path, slope, before, after: params });
            }
        }
    }
}

impl<'a, T> Pull<'a, T> {
    fn part(self, range: Range<usize>) -> Self {
        Pull { importance: &self.importance[range.clone()], anchor: &self.anchor[range], ..self }
    }
}

/// Adds a penalty's gradient to gradients that are not applied tile by tile.
pub fn add_penalty<T: Element>(isa: Isa, penalty: &Penalty<T>, params: &[T], grads: &mut [T]) {
    let pull = penalty.pull();
    parallel::runs_mut(grads, RUN, |run, grads| {
        dispatch(isa, Add { grads, params: &params[run.clone()], pull: pull.part(run) });
    });
}

/// g ← g + s·A·(θ − a)
struct Add<'a, T> {
    grads: &'a mut [T],
    params: &'a [T],
    pull: Pull<'a, T>,
}

impl<T: Element> Op<T> for Add<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Add { grads, params, pull } = self;
        let strength = s.splat(T::lit(pull.strength));
        zip_map(
            s,
            [grads],
            [params, pull.importance, pull.anchor],
            #[inline(always)]
            |[g], [p, importance, anchor]| [s.fma(s.mul(strength, importance), s.sub(p, anchor), g)],
        );
    }
}

/// ω ← ω + g·(θ before − θ after)
struct Gain<'a, T> {
    path: &'a mut [T],
    slope: &'a [T],
    before: &'a [T],
    after: &'a [T],
}

impl<T: Element> Op<T> for Gain<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Gain { path, slope, before, after } = self;
        zip_map(
            s,
            [path],
            [slope, before, after],
            #[inline(always)]
            |[path], [g, before, after]| [s.fma(g, s.sub(before, after), path)],
        );
    }
}

/// Σ A·(θ − a)², within blocks in the numbers' precision and over blocks in double precision.
struct Distance<'a, T> {
    params: &'a [T],
    pull: Pull<'a, T>,
}

impl<T: Element> Op<T> for Distance<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        sum_of(
            s,
            [self.params, self.pull.anchor, self.pull.importance],
            #[inline(always)]
            |[theta, anchor, importance], sum| {
                let d = s.sub(theta, anchor);
                s.fma(s.mul(importance, d), d, sum)
            },
        )
    }
}

/// Checks a penalty's numbers and converts it to the arena's order.
///
/// # Errors
/// If something is not finite, the strength is negative, or there is not enough memory.
pub fn penalty<T: Element>(
    network: &crate::network::Network,
    isa: Isa,
    importance: &[T],
    anchor: &[T],
    strength: f64,
) -> Result<Penalty<T>, Error> {
    for (name, numbers) in [("importance", importance), ("anchor", anchor)] {
        if let Some(i) = numbers.iter().position(|a| !a.is_finite()) {
            return Err(Error::argument(name, format!("{} at {i}", numbers[i]), "finite numbers are needed"));
        }
    }
    non_negative("strength", strength)?;
    let len = network.arena_len();
    let mut penalty = Penalty {
        importance: Buffer::zeroed("the penalty's importance", len)?,
        anchor: Buffer::zeroed("the penalty's anchor", len)?,
        strength,
    };
    network.import(isa, importance, &mut penalty.importance);
    network.import(isa, anchor, &mut penalty.anchor);
    Ok(penalty)
}
