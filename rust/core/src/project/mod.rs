//! Keeps gradients from going against others: g ← g + Σ c_k·r_k before every update.
//!
//! ```text
//! average     d = g·r < 0:   c = −d/(‖r‖² + ε)                            A-GEM, Chaudhry et al. 2019
//! each        some g·r_k < 0:  c = argmin ½vᵀPv + (Rg)ᵀv, v ≥ 0, P = RRᵀ + εI    GEM, Lopez-Paz and Ranzato 2017
//! orthogonal  c_k = −g·r_k, with rows r_k that are orthonormal            OGD, Farajtabar et al. 2020
//! ```
//!
//! In the first two, r_k is the gradient of the loss on remembered samples at the current parameters, which
//! takes a pass over them before every update; in the third it is fixed. Sums are combined from those of
//! runs, in their order, so that they are the same for any number of threads. Updates allocate nothing.

pub mod cone;

use cone::Cone;

use crate::arena::Buffer;
use crate::data::{Rows, Samples};
use crate::element::Element;
use crate::error::Error;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, OwnTargets};
use crate::model::{Model, Parts};
use crate::network::Network;
use crate::optim::Optimizer;
use crate::parallel;
use crate::pass::{LossTask, Pass, WeightTask};
use crate::plan::Mode;
use crate::simd::{Isa, Op, Simd, add_scaled, dispatch, max_abs, sum_of};
use crate::view::MatRef;
use crate::workspace::Workspaces;

/// How the coefficients follow from gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// One direction, which gradients must not go against.
    Average {
        /// ε, in units of a squared gradient.
        eps: f64,
    },
    /// Several such directions.
    Each {
        /// γ, which is added to the solution; or, with `bound`, the lower bound of v.
        margin: f64,
        /// ε
        eps: f64,
        /// See `margin`.
        bound: bool,
    },
    /// Removes the components along all directions.
    Orthogonal,
}

/// Remembered samples, and which of them the next gradients come from.
#[derive(Clone, Debug)]
pub struct Memory<T> {
    x: Vec<T>,
    y: OwnTargets<T>,
    rows: usize,
    /// Rows of the coming batches, one after the other; after the last, the first comes again.
    order: Vec<u32>,
    size: usize,
    next: usize,
}

impl<T: Element> Memory<T> {
    /// `rows` samples, all of which are used for every gradient.
    pub fn new(x: Vec<T>, y: OwnTargets<T>, rows: usize) -> Self {
        let all = u32::try_from(rows).expect("a memory has fewer than 2³² rows");
        Memory { x, y, rows, order: (0..all).collect(), size: rows, next: 0 }
    }

    /// Sets which rows the coming gradients come from, `size` rows each.
    ///
    /// # Errors
    /// If their number is not a multiple of that size, or there is no such row.
    pub fn set_order(&mut self, order: Vec<u32>, size: usize) -> Result<(), Error> {
        let fits = size > 0 && !order.is_empty() && order.len().is_multiple_of(size);
        if !fits || order.iter().any(|row| *row as usize >= self.rows) {
            let text = format!(
                "rows to recall must fill batches of {size}, with numbers below {}; got {} of them",
                self.rows,
                order.len()
            );
            return Err(Error::Mismatch(text));
        }
        (self.order, self.size, self.next) = (order, size, 0);
        Ok(())
    }

    fn samples(&self) -> Samples<'_, T> {
        MatRef::new(&self.x, self.rows, self.x.len() / self.rows.max(1)).into()
    }

    fn goals(&self) -> Goals<'_, T> {
        self.y.view(self.rows).into()
    }
}

/// The position of a projection.
pub(crate) struct Place {
    next: Vec<usize>,
    counts: (u64, u64),
}

/// What gradients are kept from, and how.
pub struct Projection<T> {
    rule: Rule,
    /// What directions are computed from, one memory each; empty if they are fixed.
    memories: Vec<Memory<T>>,
    directions: Vec<Buffer<T>>,
    workspaces: Workspaces<T>,
    /// R·g
    dots: Vec<f64>,
    /// RRᵀ, and ε on its diagonal.
    gram: Vec<f64>,
    /// c
    weights: Vec<f64>,
    cone: Cone,
    /// Number of updates so far, and how many of them had their gradient changed.
    pub counts: (u64, u64),
}

impl<T: Element> Projection<T> {
    /// A projection against gradients of remembered samples.
    ///
    /// # Errors
    /// If samples do not fit the model or the loss, a number is not finite, or there is not enough memory.
    pub fn of_memories(
        rule: Rule,
        memories: Vec<Memory<T>>,
        objective: &Objective<T>,
        model: &Model<T>,
    ) -> Result<Self, Error> {
        let network = model.network();
        for memory in &memories {
            let x = memory.samples();
            network.check_input(x)?;
            network.check_training_rows(memory.size)?;
            objective.check(&memory.goals(), memory.rows, network.outputs())?;
            x.check_finite("x", model.isa())?;
            objective.check_values(&memory.goals(), model.isa())?;
        }
        let len = network.arena_len();
        let zeros = || Buffer::zeroed("gradients of remembered samples", len);
        let directions = memories.iter().map(|_| zeros()).collect::<Result<_, _>>()?;
        Ok(Self::new(rule, memories, directions))
    }

    /// A projection against fixed directions: orthonormal rows in public order, one after the other.
    ///
    /// # Errors
    /// If a number is not finite, or there is not enough memory.
    pub fn orthogonal(network: &Network, isa: Isa, rows: &[T]) -> Result<Self, Error> {
        if let Some(i) = rows.iter().position(|r| !r.is_finite()) {
            return Err(Error::argument(
                "directions",
                format!("{} at {i}", rows[i]),
                "finite numbers are needed",
            ));
        }
        let len = network.arena_len();
        let mut directions = Vec::new();
        for row in rows.chunks(network.num_parameters()) {
            let mut direction = Buffer::zeroed("directions of gradients", len)?;
            network.import(isa, row, &mut direction);
            directions.push(direction);
        }
        Ok(Self::new(Rule::Orthogonal, Vec::new(), directions))
    }

    fn new(rule: Rule, memories: Vec<Memory<T>>, directions: Vec<Buffer<T>>) -> Self {
        let n = directions.len();
        let square = if matches!(rule, Rule::Orthogonal) { 0 } else { n };
        Projection {
            rule,
            memories,
            directions,
            workspaces: Workspaces::default(),
            dots: vec![0.0; n],
            gram: vec![0.0; square * square],
            weights: vec![0.0; n],
            cone: Cone::new(square),
            counts: (0, 0),
        }
    }

    /// A memory, to set what comes next.
    pub fn memory(&mut self, number: usize) -> Option<&mut Memory<T>> {
        self.memories.get_mut(number)
    }

    /// Computes the gradients of the memories at the parameters. Running averages and the model's own random
    /// draws are left unchanged.
    ///
    /// # Errors
    /// If a loss is not finite.
    pub(crate) fn recall(
        &mut self,
        objective: &Objective<T>,
        model: &mut Model<T>,
        optimizer: &Optimizer<T>,
    ) -> Result<(), Error> {
        let (isa, outputs) = (model.isa(), model.network().outputs());
        for (number, (memory, direction)) in self.memories.iter_mut().zip(&mut self.directions).enumerate() {
            let from = memory.next * memory.size;
            let (rows, y) = (&memory.order[from..from + memory.size], memory.goals());
            let uneven = objective.check(&y, memory.rows, outputs)?;
            let totals = objective.totals(&y, |r| rows[r] as usize, rows.len(), outputs, uneven);
            if totals.loss == 0.0 {
                direction.fill(T::ZERO);
                continue;
            }
            let workspace = self.workspaces.get(model.network(), isa, Mode::Step, rows.len())?;
            // A separate random stream for each memory.
            let draw = Draw { seed: !model.draw.seed ^ ((number as u64) << 32), ..model.draw };
            let Parts { network, params, averages, .. } = model.parts();
            let x = memory.samples();
            let mut pass = Pass {
                draw,
                loss: Some(LossTask { objective, goals: y, scale: objective.scale(totals), backward: true }),
                weights: Some(WeightTask::gradients(direction.share())),
                ..Pass::new(network, workspace, params.lend(), averages, Some(x), Rows::Listed(rows))
            };
            pass.run();
            if pass.stopped.into_inner() {
                let (step, lr) = (optimizer.steps, optimizer.config.lr());
                return Err(Error::Diverged { loss: f64::INFINITY, step, lr });
            }
            // Nobody writes these parts.
            optimizer.frozen().for_each(|range| direction[range].fill(T::ZERO));
        }
        Ok(())
    }

    /// Records that an update was made with what was [recalled](Self::recall): other samples come next.
    pub(crate) fn advance(&mut self) {
        for memory in &mut self.memories {
            memory.next = (memory.next + 1) % (memory.order.len() / memory.size);
        }
    }

    /// The position: what comes next of each memory, and the counts.
    pub(crate) fn place(&self) -> Place {
        Place { next: self.memories.iter().map(|memory| memory.next).collect(), counts: self.counts }
    }

    /// Returns to a position.
    pub(crate) fn go_back(&mut self, place: &Place) {
        self.memories.iter_mut().zip(&place.next).for_each(|(memory, next)| memory.next = *next);
        self.counts = place.counts;
    }

    /// Keeps a gradient from going against the directions. Returns false if something is not finite; the
    /// gradient is then unchanged.
    pub(crate) fn apply(&mut self, isa: Isa, grads: &mut Buffer<T>) -> bool {
        let n = self.directions.len();
        let Projection { directions, dots, gram, weights, .. } = self;
        products(isa, grads, directions, dots);
        let against = dots.iter().any(|d| *d < 0.0);
        match self.rule {
            _ if !dots.iter().all(|d| d.is_finite()) => return false,
            Rule::Orthogonal => weights.iter_mut().zip(&*dots).for_each(|(c, d)| *c = -d),
            _ if !against => {
                self.counts.0 += 1;
                return true;
            }
            Rule::Average { eps } => {
                // The direction's length does not matter, if ε is scaled with it; but squares that underflow
                // would make the coefficient infinite.
                let mut eps = eps;
                let size = max_abs(isa, &directions[0]).to_f64();
                if size < T::TINY.sqrt() / T::EPSILON {
                    directions[0].iter_mut().for_each(|r| *r = T::lit(r.to_f64() / size));
                    products(isa, grads, directions, dots);
                    eps /= size * size;
                }
                products(isa, &directions[0], &directions[..1], &mut gram[..1]);
                weights[0] = -dots[0] / (gram[0] + eps);
            }
            Rule::Each { margin, eps, bound } => {
                for k in 0..n {
                    products(isa, &directions[k], &directions[..=k], &mut gram[k * n..=k * n + k]);
                    for l in 0..k {
                        gram[l * n + k] = gram[k * n + l];
                    }
                    gram[k * n + k] += eps;
                }
                if bound {
                    // v = γ + u, u ≥ 0
                    for (k, d) in dots.iter_mut().enumerate() {
                        *d += margin * gram[k * n..(k + 1) * n].iter().sum::<f64>();
                    }
                }
                if !gram.iter().chain(&*dots).all(|x| x.is_finite()) {
                    return false;
                }
                self.cone.solve(gram, dots);
                weights.iter_mut().zip(&self.cone.u).for_each(|(c, u)| *c = u + margin);
            }
        }
        if !weights.iter().all(|c| c.is_finite()) {
            return false;
        }
        (self.counts.0, self.counts.1) = (self.counts.0 + 1, self.counts.1 + 1);
        parallel::runs_mut(grads, PART, |run, grads| {
            let wanted = weights.iter().zip(&*directions).filter(|(weight, _)| **weight != 0.0);
            for (&weight, direction) in wanted {
                add_scaled(isa, grads, weight, &direction[run.clone()]);
            }
        });
        true
    }
}

/// `into[k] ← one · others[k]`
fn products<T: Element>(isa: Isa, one: &[T], others: &[Buffer<T>], into: &mut [f64]) {
    for (dot, other) in into.iter_mut().zip(others) {
        *dot = parallel::sum(one.len(), |run| dispatch(isa, Dot(&one[run.clone()], &other[run])));
    }
}

/// a·b, within blocks in the numbers' precision and over blocks in double precision.
struct Dot<'a, T>(&'a [T], &'a [T]);

impl<T: Element> Op<T> for Dot<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        sum_of(
            s,
            [self.0, self.1],
            #[inline(always)]
            |[a, b], sum| s.fma(a, b, sum),
        )
    }
}

/// Elements of a gradient that stay in the cache while all directions are added to them.
const PART: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel::RUN;

    fn buffer<T: Element>(n: usize, frequency: f64) -> Buffer<T> {
        let mut buffer = Buffer::zeroed("numbers", n).unwrap();
        buffer.iter_mut().enumerate().for_each(|(i, x)| *x = T::lit((frequency * i as f64).sin()));
        buffer
    }

    fn dot<T: Element>(a: &[T], b: &[T]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a.to_f64() * b.to_f64()).sum()
    }

    #[test]
    fn what_is_left_is_orthogonal_to_all_directions_and_the_rest_is_as_it_was() {
        for isa in Isa::available() {
            for n in [1, 5, 64, PART + 3, 2 * RUN + 17] {
                let mut first = buffer::<f64>(n, 1.3);
                let size = dot(&first, &first).sqrt().max(1e-300);
                first.iter_mut().for_each(|x| *x /= size);
                if first.iter().all(|x| *x == 0.0) {
                    continue; // sin 0
                }
                let mut projection = Projection::new(Rule::Orthogonal, Vec::new(), vec![first]);
                let (before, mut grads) = (buffer::<f64>(n, 0.7), buffer::<f64>(n, 0.7));
                assert!(projection.apply(isa, &mut grads));
                let d = dot(&before, &projection.directions[0]);
                let direction = &projection.directions[0];
                assert!(dot(&grads, direction).abs() <= 1e-12 * (1.0 + d.abs()), "{isa} {n}");
                for ((g, was), r) in grads.iter().zip(before.iter()).zip(direction.iter()) {
                    assert!((g - (was - d * r)).abs() <= 1e-12 * (1.0 + d.abs()), "{isa} {n}");
                }
            }
        }
    }

    #[test]
    fn only_gradients_that_go_against_the_direction_are_changed() {
        for isa in Isa::available() {
            let mut projection =
                Projection::new(Rule::Average { eps: 0.0 }, Vec::new(), vec![buffer::<f32>(1000, 1.3)]);
            let mut with = buffer::<f32>(1000, 1.3);
            assert!(projection.apply(isa, &mut with));
            assert_eq!(with[..], projection.directions[0][..]);
            let mut against = buffer::<f32>(1000, 1.3);
            against.iter_mut().zip(buffer::<f32>(1000, 0.1).iter()).for_each(|(g, x)| *g = *x - *g);
            assert!(projection.apply(isa, &mut against));
            assert!(dot(&against, &projection.directions[0]).abs() < 1e-3);
            assert_eq!(projection.counts, (2, 1));
        }
    }

    #[test]
    fn how_long_a_direction_is_does_not_count() {
        for isa in Isa::available() {
            let apply = |scale: f32| {
                let mut direction = buffer::<f32>(1000, 1.3);
                direction.iter_mut().for_each(|r| *r *= scale);
                let mut projection = Projection::new(Rule::Average { eps: 0.0 }, Vec::new(), vec![direction]);
                let mut grads = buffer::<f32>(1000, 1.3);
                grads.iter_mut().zip(buffer::<f32>(1000, 0.1).iter()).for_each(|(g, x)| *g = *x - *g);
                assert!(projection.apply(isa, &mut grads), "{isa} {scale}");
                grads
            };
            let expected = apply(1.0);
            for scale in [1e-10, 1e-18, 1e-22, 1e-30] {
                let found = apply(scale);
                assert!(
                    found.iter().zip(expected.iter()).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{isa} {scale}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_said_and_changes_nothing() {
        let rule = Rule::Each { margin: 0.5, eps: 0.0, bound: false };
        let directions = vec![buffer::<f32>(40, 1.3), buffer::<f32>(40, 0.3)];
        let mut projection = Projection::new(rule, Vec::new(), directions);
        projection.directions[1][7] = f32::INFINITY;
        let mut grads = buffer::<f32>(40, 0.9);
        let isa = Isa::Scalar;
        assert!(!projection.apply(isa, &mut grads));
        assert_eq!(grads[..], buffer::<f32>(40, 0.9)[..]);
    }
}
