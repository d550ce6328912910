//! What happens to a block of rows, stage by stage: here its numbers, in [`tangent`](super::tangent) what goes along
//! with them. A block has memory of its own, so that blocks need nothing of each other but the sums that batch
//! normalization takes over all of them.

use super::Site;
use super::norm::{Columns, Of, OfRows, Task, Work};
use crate::element::Element;
use crate::gemm::pack::Panels;
use crate::gemm::plan::GemmShape;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::layer::{Activation, dropout};
use crate::network::{Over, Stage};
use crate::simd::{Isa, Op, Simd, add, dispatch, zip_map};
use crate::view::{MatMut, MatRef};

/// Rows of a block: enough for the products to be efficient, and few enough for a block's numbers to stay in a
/// second-level cache.
pub const BLOCK: usize = 64;

/// A block of rows.
#[derive(Default)]
pub struct Block<T> {
    /// Its first row.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// x
    pub x: Vec<T>,
    /// ẋ; none if it is 0.
    pub x_dot: Option<Vec<T>>,
    /// What was computed of each stage.
    pub slots: Vec<Slots<T>>,
    /// The gradient by a stage's output, on the way back, and its tangent.
    pub back: [Vec<T>; 2],
    /// What the second derivatives of the loss by the outputs are made of, see
    /// [`Objective::bends`](crate::loss::Objective::bends).
    pub bends: [Vec<T>; 2],
    /// For products.
    pub(super) scratch: Vec<T>,
    /// For what nobody reads.
    spare: Vec<T>,
}

/// A block's numbers of a stage: where there are two halves, of rows × outputs each, the first is of numbers and
/// the second of tangents; but `delta` is the other way round.
#[derive(Default)]
pub struct Slots<T> {
    /// What it gives, in two halves.
    pub y: Vec<T>,
    /// φ′; none if φ is the identity.
    pub slope: Vec<T>,
    /// φ″ and, once gradients are known, φ″·dy; none if gradients are not wanted, or φ″ is 0.
    pub turn: Vec<T>,
    /// The tangent of what φ takes, if there is a `turn`.
    pub moved: Vec<T>,
    /// The tangent of the gradient by what the dense layer gives; then that gradient itself.
    pub delta: Vec<T>,
    /// ẑ, in two halves, of a normalization.
    pub hat: Vec<T>,
    /// The gradient by what a normalization gives.
    pub du: Vec<T>,
    /// Of a normalization of rows.
    pub of_rows: OfRows<T>,
    /// Sums over the block's rows, by column, for a normalization.
    pub sums: [Vec<T>; 2],
}

/// Two halves.
pub fn halves<T>(of: &mut [T]) -> (&mut [T], &mut [T]) {
    of.split_at_mut(of.len() / 2)
}

impl<T: Element> Block<T> {
    /// One for rows of that network, with nothing computed, in the memory of another: whatever is in there, it is
    /// written before it is read.
    pub fn new(
        site: &Site<'_, T>,
        x: MatRef<'_, T>,
        x_dot: Option<MatRef<'_, T>>,
        first: usize,
        spare: Self,
    ) -> Self {
        let rows = BLOCK.min(x.rows() - first);
        let part = |into: &mut Vec<T>, m: MatRef<'_, T>| {
            into.clear();
            (first..first + rows).for_each(|r| into.extend_from_slice(m.row(r)));
        };
        let fit = |room: &mut Vec<T>, n: usize, wanted: bool| {
            let len = if wanted { rows * n } else { 0 };
            if room.len() != len {
                *room = vec![T::ZERO; len];
            }
        };
        let mut block = Block { first, rows, ..spare };
        part(&mut block.x, x);
        block.x_dot = x_dot.map(|x_dot| {
            let mut into = block.x_dot.take().unwrap_or_default();
            part(&mut into, x_dot);
            into
        });
        block.slots.resize_with(site.network.stages().len(), Slots::default);
        for (stage, slots) in site.network.stages().iter().zip(&mut block.slots) {
            let (n, norm) = (stage.outputs, stage.norm.is_some());
            let bent = site.curved && !site.is_linear(stage.act);
            let of_rows = stage.norm.is_some_and(|norm| !norm.over_batch());
            fit(&mut slots.y, 2 * n, true);
            fit(&mut slots.slope, n, !site.is_identity(stage.act));
            fit(&mut slots.turn, n, bent);
            fit(&mut slots.moved, n, bent);
            fit(&mut slots.delta, if site.curved { 2 * n } else { n }, site.back);
            fit(&mut slots.hat, 2 * n, norm);
            fit(&mut slots.du, n, norm && site.curved);
            fit(&mut slots.of_rows.inverse, 1, of_rows);
            fit(&mut slots.of_rows.along, 1, of_rows);
            fit(&mut slots.of_rows.slope, 1, of_rows && site.curved);
            slots.sums.iter_mut().for_each(|sums| sums.resize(if norm { n } else { 0 }, T::ZERO));
        }
        let widest = site.network.max_width();
        fit(&mut block.back[0], widest, site.curved);
        fit(&mut block.back[1], widest, site.back);
        block
    }

    /// Elements that it holds, about.
    pub fn len(&self) -> usize {
        let slots = self.slots.iter().map(|slots| {
            let Slots { y, slope, turn, moved, delta, hat, du, .. } = slots;
            [y, slope, turn, moved, delta, hat, du].map(Vec::len).iter().sum::<usize>()
        });
        slots.sum::<usize>() + self.x.len() + self.back.iter().map(Vec::len).sum::<usize>()
    }

    /// A stage forward, up to its normalization if it has one: z.
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
            z.copy_from_slice(input(index));
            if let Some(first) = stage.skip {
                add(site.isa, z, input(first));
            }
            return;
        };
        let arena = &site.at.arena;
        let init = dense.bias.map_or(Init::Zero, |b| Init::Bias(&arena[b..b + stage.outputs]));
        let len = stage.inputs * stage.outputs;
        let weight = Panels::new(&arena[dense.weight..dense.weight + len], stage.inputs, stage.outputs);
        multiply(site.isa, input(index), weight, z, self.rows, init, &mut self.scratch);
    }

    /// The rest of a stage forward: from z to y. `columns` are those of a batch normalization.
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

    /// Back through the activation, from the gradient by the output: du, and the sums that a batch normalization
    /// takes of it.
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

    /// Back through the rest of a stage: dz, and unless it is the first, the gradient by the stage's input.
    /// `columns` are those of a batch normalization.
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
        let mut init = Init::Zero;
        for end in site.network.ends(index) {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
                init = Init::Accumulate;
            }
            add(site.isa, dx, halves(&mut self.slots[end].delta).1);
        }
        let dz = halves(&mut self.slots[index].delta).1;
        if let Some(encoder) = stage.encoder {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
            }
            return self.decode(site, index, encoder);
        }
        if stage.dense.is_none() {
            return if let Init::Zero = init { dx.copy_from_slice(dz) } else { add(site.isa, dx, dz) };
        }
        let weight = Panels::new(&site.at.transposed[index], stage.outputs, stage.inputs);
        multiply(site.isa, dz, weight, dx, self.rows, init, &mut self.scratch);
    }
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

/// Adds to a part of a weight's gradient what rows give: into ← into + xᵀ·dz, for columns of x from the first of `at`
/// on, and of dz from the second on, as many as `into` has rows and columns.
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

/// du ← φ′·dy and, where there is a φ″, turn ← φ″·dy.
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

/// The inputs and weights of a stage that has some.
pub fn dense_len(stage: &Stage) -> usize {
    if stage.dense.is_some() { stage.inputs * stage.outputs } else { 0 }
}
