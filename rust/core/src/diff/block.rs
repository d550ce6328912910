//! Processes a block of rows stage by stage: here its numbers, in [`tangent`](super::tangent) their tangents.
//! A block has its own memory, and needs nothing from other blocks except the sums that batch normalization
//! takes over all of them.

use super::Site;
use super::norm::{Columns, Of, OfRows, Task, Work};
use crate::arena::{reserve, zeros};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::Panels;
use crate::gemm::plan::GemmShape;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::layer::skip::{join, put};
use crate::layer::{Activation, dropout};
use crate::network::{Over, Stage};
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};
use crate::view::{MatMut, MatRef};

/// Rows of a block: enough for the products to be efficient, few enough for a block's numbers to stay in a
/// second-level cache.
pub const BLOCK: usize = 64;
/// What is allocated, in errors.
pub const WHAT: &str = "derivatives of a batch";

/// A block of rows.
#[derive(Default)]
pub struct Block<T> {
    /// Its first row.
    pub first: usize,
    /// Number of rows.
    pub rows: usize,
    /// x
    pub x: Vec<T>,
    /// ẋ; `None` if it is 0.
    pub x_dot: Option<Vec<T>>,
    /// What was computed for each stage.
    pub slots: Vec<Slots<T>>,
    /// The gradient with respect to a stage's output, on the way back, and its tangent.
    pub back: [Vec<T>; 2],
    /// What the second derivatives of the loss with respect to the outputs are made of, see
    /// [`Objective::bends`](crate::loss::Objective::bends).
    pub bends: [Vec<T>; 2],
    /// Scratch for products.
    pub(super) scratch: Vec<T>,
    /// For results that nobody reads.
    spare: Vec<T>,
}

/// A block's numbers for a stage. Where there are two halves, of rows × outputs each, the first holds numbers
/// and the second tangents; `delta` is the other way round.
#[derive(Default)]
pub struct Slots<T> {
    /// Output, in two halves.
    pub y: Vec<T>,
    /// φ′; empty if φ is the identity.
    pub slope: Vec<T>,
    /// φ″ and, once gradients are known, φ″·dy; empty if gradients are not wanted, or φ″ is 0.
    pub turn: Vec<T>,
    /// The tangent of φ's input, if there is a `turn`.
    pub moved: Vec<T>,
    /// The tangent of the gradient with respect to the dense layer's output; then that gradient itself.
    pub delta: Vec<T>,
    /// ẑ of a normalization, in two halves.
    pub hat: Vec<T>,
    /// The gradient with respect to a normalization's output.
    pub du: Vec<T>,
    /// For a normalization over rows.
    pub of_rows: OfRows<T>,
    /// Sums over the block's rows, by column, for a normalization.
    pub sums: [Vec<T>; 2],
}

/// Splits into two halves.
pub fn halves<T>(of: &mut [T]) -> (&mut [T], &mut [T]) {
    of.split_at_mut(of.len() / 2)
}

impl<T: Element> Block<T> {
    /// A block for rows of that network, with nothing computed, in the memory of an old block. Whatever that
    /// holds is overwritten before it is read.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(
        site: &Site<'_, T>,
        x: MatRef<'_, T>,
        x_dot: Option<MatRef<'_, T>>,
        first: usize,
        spare: Self,
    ) -> Result<Self, Error> {
        let rows = BLOCK.min(x.rows() - first);
        let part = |into: &mut Vec<T>, m: MatRef<'_, T>| {
            into.clear();
            reserve(WHAT, into, rows * m.cols())?;
            (first..first + rows).for_each(|r| into.extend_from_slice(m.row(r)));
            Ok(())
        };
        let fit = |room: &mut Vec<T>, n: usize, wanted: bool| {
            let len = if wanted { rows * n } else { 0 };
            if room.len() != len {
                *room = zeros(WHAT, len)?;
            }
            Ok(())
        };
        let mut block = Block { first, rows, ..spare };
        part(&mut block.x, x)?;
        let mut dots = block.x_dot.take().unwrap_or_default();
        block.x_dot = x_dot.map(|x_dot| part(&mut dots, x_dot).map(|()| dots)).transpose()?;
        block.slots.resize_with(site.network.stages().len(), Slots::default);
        for (stage, slots) in site.network.stages().iter().zip(&mut block.slots) {
            let (n, norm) = (stage.outputs, stage.norm.is_some());
            let bent = site.curved && !site.is_linear(stage.act);
            let of_rows = stage.norm.is_some_and(|norm| !norm.over_batch());
            fit(&mut slots.y, 2 * n, true)?;
            fit(&mut slots.slope, n, !site.is_identity(stage.act))?;
            fit(&mut slots.turn, n, bent)?;
            fit(&mut slots.moved, n, bent)?;
            fit(&mut slots.delta, if site.curved { 2 * n } else { n }, site.back)?;
            fit(&mut slots.hat, 2 * n, norm)?;
            fit(&mut slots.du, n, norm && site.curved)?;
            fit(&mut slots.of_rows.inverse, 1, of_rows)?;
            fit(&mut slots.of_rows.along, 1, of_rows)?;
            fit(&mut slots.of_rows.slope, 1, of_rows && site.curved)?;
            slots.sums.iter_mut().for_each(|sums| sums.resize(if norm { n } else { 0 }, T::ZERO));
        }
        let widest = site.network.max_width();
        fit(&mut block.back[0], widest, site.curved)?;
        fit(&mut block.back[1], widest, site.back)?;
        Ok(block)
    }

    /// Approximate number of elements that it holds.
    pub fn len(&self) -> usize {
        let slots = self.slots.iter().map(|slots| {
            let Slots { y, slope, turn, moved, delta, hat, du, .. } = slots;
            [y, slope, turn, moved, delta, hat, du].map(Vec::len).iter().sum::<usize>()
        });
        slots.sum::<usize>() + self.x.len() + self.back.iter().map(Vec::len).sum::<usize>()
    }

    /// Takes a stage forward up to its normalization, if it has one: computes z.
    pub fn enter(&mut self, site: &Site<'_, T>, index: usize) {
        let stage = &site.network.stages()[index];
        if let Some(encoder) = stage.encoder {
            return self.encode(site, index, encoder);
        }
        let (before, rest) = self.slots.split_at_mut(index);
        let input = |stage: usize| match stage {
            0 => &self.x[..],
            _ => &before[stage - 1].y[..before[stage - 1].y.len() / 2],
        };
        let z = halves(&mut rest[0].y).0;
        let Some(dense) = stage.dense else {
            let beside = stage.skip.map(|first| matrix(input(first), self.rows));
            let z = MatMut::new(z, self.rows, stage.outputs);
            return join(site.isa, beside, matrix(input(index), self.rows), z);
        };
        let arena = &site.at.arena;
        let init = dense.bias.map_or(Init::Zero, |b| Init::Bias(&arena[b..b + stage.outputs]));
        let len = stage.inputs * stage.outputs;
        let weight = Panels::new(&arena[dense.weight..dense.weight + len], stage.inputs, stage.outputs);
        multiply(site.isa, input(index), weight, z, self.rows, init, &mut self.scratch);
    }

    /// Takes the rest of a stage forward, from z to y. `columns` are those of a batch normalization.
    pub fn leave(&mut self, site: &Site<'_, T>, index: usize, columns: &Columns<T>) {
        let stage = &site.network.stages()[index];
        let n = stage.outputs;
        let Slots { y, slope, turn, hat, of_rows, .. } = &mut self.slots[index];
        let y = halves(y).0;
        if let Some(norm) = stage.norm {
            let of = match &norm.over {
                Over::Batch { .. } => Of::Batch(columns),
                Over::Row(layer) => Of::Rows(layer, of_rows),
            };
            let (hat, affine) = (halves(hat).0, &site.at.affine[index]);
            dispatch(site.isa, Work(n, Task::Forward { z: y, hat, of, affine }));
        }
        match stage.act {
            act if site.is_identity(act) => {}
            Activation::Dropout(p) => {
                let (y, factors) = (MatMut::new(y, self.rows, n), MatMut::new(slope, self.rows, n));
                dropout::forward(site.isa, (p, site.draw, index, self.first), y, factors);
            }
            act if site.plain => act.forward(site.isa, MatMut::new(y, self.rows, n), None),
            act => {
                self.spare.resize(self.spare.len().max(2 * y.len()), T::ZERO);
                let (third, spare) = self.spare.split_at_mut(y.len());
                let second = if turn.is_empty() { &mut spare[..y.len()] } else { turn };
                act.jet(site.isa, [y, slope, second, third]);
            }
        }
    }

    /// A stage's output.
    pub fn output(&self, index: usize) -> &[T] {
        &self.slots[index].y[..self.slots[index].y.len() / 2]
    }

    /// Goes back through the activation, from the gradient with respect to the output: computes du, and the
    /// sums over it that a batch normalization needs.
    pub fn leave_back(&mut self, site: &Site<'_, T>, index: usize) {
        let stage = &site.network.stages()[index];
        let Slots { slope, turn, delta, hat, sums, .. } = &mut self.slots[index];
        let (_, du) = halves(delta);
        let dy = &self.back[0][..du.len()];
        dispatch(site.isa, Sloped { slope, turn, dy, du });
        if site.couples(index) {
            let (a, hat) = (&*du, &*halves(hat).0);
            dispatch(site.isa, Work(stage.outputs, Task::Collect { a, hat, with: None, into: sums }));
        }
    }

    /// Goes back through the rest of a stage: computes dz and, except for the first stage, the gradient with
    /// respect to the stage's input. `columns` are those of a batch normalization.
    pub fn enter_back(&mut self, site: &Site<'_, T>, index: usize, columns: &Columns<T>) {
        let stage = &site.network.stages()[index];
        let Slots { delta, hat, du, of_rows, .. } = &mut self.slots[index];
        if let Some(norm) = &stage.norm {
            let of = match &norm.over {
                Over::Batch { .. } => Of::Batch(columns),
                Over::Row(layer) => Of::Rows(layer, of_rows),
            };
            let (dz, hat, affine) = (halves(delta).1, &*halves(hat).0, &site.at.affine[index]);
            dispatch(site.isa, Work(stage.outputs, Task::Backward { dz, du, hat, of, affine }));
        }
        if index == 0 {
            return;
        }
        let dx = &mut self.back[0][..self.rows * stage.inputs];
        let (mut init, mut into) = (Init::Zero, MatMut::new(dx, self.rows, stage.inputs));
        for end in site.network.ends(index) {
            let along = matrix(halves(&mut self.slots[end].delta).1, self.rows);
            put(site.isa, along.block(0, self.rows, 0, stage.inputs), &mut into, &mut init);
        }
        let dz = halves(&mut self.slots[index].delta).1;
        if let Some(encoder) = stage.encoder {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
            }
            return self.decode(site, index, encoder);
        }
        if stage.dense.is_none() {
            let dz = matrix(dz, self.rows).block(0, self.rows, stage.front(), stage.inputs);
            return put(site.isa, dz, &mut into, &mut init);
        }
        let weight = Panels::new(&site.at.transposed[index], stage.outputs, stage.inputs);
        multiply(site.isa, dz, weight, dx, self.rows, init, &mut self.scratch);
    }
}

/// Values as a matrix of that many rows.
pub fn matrix<T: Element>(values: &[T], rows: usize) -> MatRef<'_, T> {
    MatRef::new(values, rows, values.len() / rows)
}

/// into ← init + x·weight, for rows of x.
pub fn multiply<T: Element>(
    isa: Isa,
    x: &[T],
    weight: Panels<'_, T>,
    into: &mut [T],
    rows: usize,
    init: Init<'_, T>,
    scratch: &mut Vec<T>,
) {
    let (k, n) = (weight.k(), weight.n());
    let shape = GemmShape { m: rows, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: None };
    let a = Lhs::Plain(MatRef::new(x, rows, k));
    run(isa, shape, a, Rhs::Panels(weight), MatMut::new(into, rows, n), init, scratch);
}

/// c ← init + a·b
pub fn run<T: Element>(
    isa: Isa,
    shape: GemmShape,
    a: Lhs<'_, T>,
    b: Rhs<'_, T>,
    c: MatMut<'_, T>,
    init: Init<'_, T>,
    scratch: &mut Vec<T>,
) {
    let plan = GemmPlan::choose::<T>(isa, shape);
    if scratch.len() < plan.scratch_len() {
        scratch.resize(plan.scratch_len(), T::ZERO);
    }
    Gemm { a, b, c, init, epilogue: Epilogue::None, ahead: &[] }.run(isa, &plan, scratch);
}

/// Adds the contribution of rows to a part of a weight's gradient: into ← into + xᵀ·dz, for as many columns
/// of x and dz, starting at those in `at`, as `into` has rows and columns.
pub fn outer<T: Element>(
    isa: Isa,
    [x, dz]: [&[T]; 2],
    rows: usize,
    at: [usize; 2],
    into: MatMut<'_, T>,
    scratch: &mut Vec<T>,
) {
    let (m, n) = (into.rows(), into.cols());
    let [inputs, outputs] = [x.len() / rows, dz.len() / rows];
    let a = MatRef::new(x, rows, inputs).block(0, rows, at[0], m).t();
    let b = MatRef::new(dz, rows, outputs).block(0, rows, at[1], n);
    let shape =
        GemmShape { m, n, k: rows, a_row_stride: 1, a_col_stride: inputs, b_row_stride: Some(outputs) };
    run(isa, shape, Lhs::Plain(a), Rhs::Plain(b), into, Init::Accumulate, scratch);
}

/// du ← φ′·dy and, if there is a φ″, turn ← φ″·dy.
struct Sloped<'m, T> {
    slope: &'m [T],
    turn: &'m mut [T],
    dy: &'m [T],
    du: &'m mut [T],
}

impl<T: Element> Op<T> for Sloped<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { slope, turn, dy, du } = self;
        match (slope.is_empty(), turn.is_empty()) {
            (true, _) => du.copy_from_slice(dy),
            (_, true) => zip_map(
                s,
                [du],
                [slope, dy],
                #[inline(always)]
                |_, [slope, dy]| [s.mul(slope, dy)],
            ),
            (_, false) => zip_map(
                s,
                [du, turn],
                [slope, dy],
                #[inline(always)]
                |[_, turn], [slope, dy]| [s.mul(slope, dy), s.mul(turn, dy)],
            ),
        }
    }
}

/// Number of weights of a stage's dense layer; 0 if it has none.
pub fn dense_len(stage: &Stage) -> usize {
    if stage.dense.is_some() { stage.inputs * stage.outputs } else { 0 }
}
