//! What happens to a block of rows, stage by stage. A block has memory of its own, so that blocks need nothing of
//! each other but the sums that batch normalization takes over all of them.

use super::Linearization;
use super::norm::{self, Moments, Sums};
use crate::element::Element;
use crate::gemm::pack::Panels;
use crate::gemm::plan::GemmShape;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::layer::{Activation, Tangent, dropout};
use crate::network::{Norm, Over, Stage};
use crate::simd::{Isa, Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

/// Rows of a block: enough for the products to be efficient, and few enough for a block's numbers to stay in a
/// second-level cache.
pub const BLOCK: usize = 64;

/// A block of rows.
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
    /// For products.
    scratch: Vec<T>,
}

/// A block's numbers of a stage, rows × outputs each.
#[derive(Default)]
pub struct Slots<T> {
    /// What it gives, and the tangent of that.
    pub y: [Vec<T>; 2],
    /// On the way forward φ′ and its tangent; on the way back the gradient by what the dense layer gives, and the
    /// tangent of that.
    pub delta: [Vec<T>; 2],
    /// ẑ and its tangent.
    pub hat: [Vec<T>; 2],
    /// Moments of the block's rows, for a normalization of rows.
    moments: Moments,
    /// [Collected](norm::collect) for the parameters of a normalization.
    pub sums: Sums,
}

impl<T: Element> Block<T> {
    /// An empty one for rows of that network.
    pub fn new(
        net: &Linearization<'_, T>,
        x: MatRef<'_, T>,
        x_dot: Option<MatRef<'_, T>>,
        first: usize,
    ) -> Self {
        let rows = BLOCK.min(x.rows() - first);
        let part = |m: MatRef<'_, T>| (first..first + rows).flat_map(|r| m.row(r)).copied().collect();
        let room = |n: usize| [vec![T::ZERO; rows * n], vec![T::ZERO; rows * n]];
        let slots = net.network.stages().iter().map(|stage| Slots {
            y: room(stage.outputs),
            delta: room(stage.outputs),
            hat: room(if stage.norm.is_some() { stage.outputs } else { 0 }),
            moments: Moments::zeros(rows),
            sums: Sums::default(),
        });
        Block {
            first,
            rows,
            x: part(x),
            x_dot: x_dot.map(part),
            slots: slots.collect(),
            back: room(net.network.max_width()),
            scratch: Vec::new(),
        }
    }

    /// A stage forward, up to its normalization if it has one: z and ż.
    pub fn enter(&mut self, net: &Linearization<'_, T>, index: usize) {
        let stage = &net.network.stages()[index];
        if let Some(encoder) = stage.encoder {
            return self.encode(net, index, encoder);
        }
        let (before, rest) = self.slots.split_at_mut(index);
        let inputs = |stage: usize| match stage {
            0 => (&self.x, self.x_dot.as_ref()),
            _ => (&before[stage - 1].y[0], Some(&before[stage - 1].y[1])),
        };
        let (x, x_dot) = inputs(index);
        let [z, dot] = &mut rest[0].y;
        let rows = self.rows;
        let Some(dense) = stage.dense else {
            z.copy_from_slice(x);
            put(dot, x_dot);
            if let Some(first) = stage.skip {
                let (skip, skip_dot) = inputs(first);
                add(z, skip);
                skip_dot.iter().for_each(|skip| add(dot, skip));
            }
            return;
        };
        let len = stage.inputs * stage.outputs;
        let bias = |of: &'_ [T]| dense.bias.map(|b| of[b..b + stage.outputs].to_vec());
        let mut product = |x: &[T], weight: &[T], into: &mut Vec<T>, init: Init<'_, T>| {
            let weight = Panels::new(weight, stage.inputs, stage.outputs);
            multiply(net.isa, x, weight, into, rows, init, &mut self.scratch);
        };
        let [weight, weight_dot] = [net.params, net.dots].map(|of| &of[dense.weight..dense.weight + len]);
        let from = bias(net.params);
        product(x, weight, z, from.as_ref().map_or(Init::Zero, |b| Init::Bias(b)));
        let from = bias(net.dots);
        product(x, weight_dot, dot, from.as_ref().map_or(Init::Zero, |b| Init::Bias(b)));
        if let Some(x_dot) = x_dot {
            product(x_dot, weight, dot, Init::Accumulate);
        }
    }

    /// The rest of a stage forward: from z and ż to y and ẏ. `columns` are the moments of a batch normalization.
    pub fn leave(&mut self, net: &Linearization<'_, T>, index: usize, columns: &Moments) {
        let stage = &net.network.stages()[index];
        let Slots { y: [y, dot], delta: [slope, bend], hat, moments, .. } = &mut self.slots[index];
        let n = stage.outputs;
        if let Some(norm) = stage.norm {
            let affine = net.affine(&norm, n);
            for r in 0..self.rows {
                let range = r * n..(r + 1) * n;
                let (z, dot) = (&mut y[range.clone()], &mut dot[range.clone()]);
                let [hat, hat_dot] = hat.each_mut().map(|hat| &mut hat[range.clone()]);
                match norm.over {
                    Over::Batch { .. } => {
                        let of = |j| {
                            let Moments { mean, mean_dot, inverse, along } = columns;
                            [mean[j], mean_dot[j], inverse[j], along[j]]
                        };
                        norm::forward([z, dot], [hat, hat_dot], of, &affine);
                    }
                    Over::Row(layer) => {
                        let eps = layer.eps.unwrap_or(T::EPSILON);
                        let of = norm::row_moments(z, dot, layer.centred, eps);
                        [moments.mean[r], moments.mean_dot[r], moments.inverse[r], moments.along[r]] = of;
                        norm::forward([z, dot], [hat, hat_dot], |_| of, &affine);
                    }
                }
            }
        }
        match stage.act {
            Activation::Identity => {}
            Activation::Dropout(p) if net.training => {
                let y = MatMut::new(y, self.rows, n);
                let factors = MatMut::new(slope, self.rows, n);
                dispatch(net.isa, DropOut { p, draw: net.draw, layer: index, first: self.first, y, factors });
                dot.iter_mut().zip(&*slope).for_each(|(dot, m)| *dot = *dot * *m);
                bend.fill(T::ZERO);
            }
            act => dispatch(net.isa, Forth(act, Tangent { value: y, dot, slope, bend })),
        }
    }

    /// A stage's output and its tangent.
    pub fn output(&self, index: usize) -> [&[T]; 2] {
        self.slots[index].y.each_ref().map(|y| &y[..])
    }

    /// Back through the activation, from the gradient by the output: du and du˙, and what a normalization
    /// collects of them.
    pub fn leave_back(&mut self, net: &Linearization<'_, T>, index: usize) {
        let stage = &net.network.stages()[index];
        let Slots { delta: [slope, bend], hat: [hat, hat_dot], sums, .. } = &mut self.slots[index];
        let len = self.rows * stage.outputs;
        let [dy, dy_dot] = self.back.each_ref().map(|back| &back[..len]);
        if stage.act == Activation::Identity {
            slope.copy_from_slice(dy);
            bend.copy_from_slice(dy_dot);
        } else {
            let all = slope.iter_mut().zip(bend.iter_mut()).zip(dy.iter().zip(dy_dot));
            for ((slope, bend), (dy, dy_dot)) in all {
                *bend = *slope * *dy_dot + *bend * *dy;
                *slope = *slope * *dy;
            }
        }
        if stage.norm.is_some() {
            *sums = norm::collect([slope, bend], [hat, hat_dot], stage.outputs);
        }
    }

    /// Back through the normalization: dz and dz˙. `columns` are the moments of a batch normalization, `means` those
    /// of its [columns](norm::column_means); none in evaluation.
    pub fn through_norm(
        &mut self,
        net: &Linearization<'_, T>,
        index: usize,
        norm: &Norm,
        columns: &Moments,
        means: &[[f64; 4]],
    ) {
        let n = net.network.stages()[index].outputs;
        let Slots { delta, hat, moments, .. } = &mut self.slots[index];
        let affine = net.affine(norm, n);
        for r in 0..self.rows {
            let range = r * n..(r + 1) * n;
            let hat = hat.each_ref().map(|hat| &hat[range.clone()]);
            let delta = delta.each_mut().map(|delta| &mut delta[range.clone()]);
            match norm.over {
                Over::Batch { .. } => {
                    let of = |j: usize| {
                        let mean = means.get(j).copied().unwrap_or_default();
                        ([columns.inverse[j], columns.along[j]], mean)
                    };
                    norm::backward(delta, hat, of, &affine);
                }
                Over::Row(layer) => {
                    let [du, du_dot] = delta.each_ref().map(|d| &**d);
                    let means = norm::row_means([du, du_dot], hat, layer.centred, &affine);
                    let of = [moments.inverse[r], moments.along[r]];
                    norm::backward(delta, hat, |_| (of, means), &affine);
                }
            }
        }
    }

    /// Back through the dense layer, or what is in its place: the gradient by the stage's input, and its tangent.
    pub fn enter_back(&mut self, net: &Linearization<'_, T>, index: usize) {
        let stage = &net.network.stages()[index];
        let (rows, len) = (self.rows, self.rows * stage.inputs);
        let [dx, dx_dot] = self.back.each_mut().map(|back| &mut back[..len]);
        dx.fill(T::ZERO);
        dx_dot.fill(T::ZERO);
        for end in net.network.ends(index) {
            let [dz, dz_dot] = &self.slots[end].delta;
            add(dx, dz);
            add(dx_dot, dz_dot);
        }
        if let Some(encoder) = stage.encoder {
            return self.decode(net, index, encoder);
        }
        let [dz, dz_dot] = &self.slots[index].delta;
        let Some([weight, weight_dot]) = &net.transposed[index] else {
            add(dx, dz);
            return add(dx_dot, dz_dot);
        };
        let mut product = |dz: &[T], weight: &[T], into: &mut [T]| {
            let weight = Panels::new(weight, stage.outputs, stage.inputs);
            multiply(net.isa, dz, weight, into, rows, Init::Accumulate, &mut self.scratch);
        };
        product(dz_dot, weight, dx_dot);
        // Without a gradient, as for the Gauss-Newton matrix, its tangent is all there is.
        if net.curved {
            product(dz, weight, dx);
            product(dz, weight_dot, dx_dot);
        }
    }

    /// Adds the block's part to the tangent of the gradient of some rows and columns of a weight; `into` is that
    /// part of a panel.
    pub fn weights(
        &self,
        net: &Linearization<'_, T>,
        index: usize,
        (from, col): (usize, usize),
        into: MatMut<'_, T>,
        scratch: &mut Vec<T>,
    ) {
        let stage = &net.network.stages()[index];
        let (x, x_dot) = match index {
            0 => (&self.x, self.x_dot.as_ref()),
            _ => (&self.slots[index - 1].y[0], Some(&self.slots[index - 1].y[1])),
        };
        let [dz, dz_dot] = &self.slots[index].delta;
        let mut into = into;
        let (m, n) = (into.rows(), into.cols());
        let mut product = |x: &[T], dz: &[T]| {
            let a = MatRef::new(x, self.rows, stage.inputs).block(0, self.rows, from, m).t();
            let b = MatRef::new(dz, self.rows, stage.outputs).block(0, self.rows, col, n);
            let shape = GemmShape {
                m,
                n,
                k: self.rows,
                a_row_stride: 1,
                a_col_stride: stage.inputs,
                b_row_stride: Some(stage.outputs),
            };
            run(net.isa, shape, Lhs::Plain(a), Rhs::Plain(b), into.reborrow(), Init::Accumulate, scratch);
        };
        product(x, dz_dot);
        if let (true, Some(x_dot)) = (net.curved, x_dot) {
            product(x_dot, dz);
        }
    }
}

/// into ← init + x·weight, for rows of x.
fn multiply<T: Element>(
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

/// into ← into + from
fn add<T: Element>(into: &mut [T], from: &[T]) {
    into.iter_mut().zip(from).for_each(|(into, x)| *into += *x);
}

/// into ← from, 0 if there is none.
fn put<T: Element>(into: &mut [T], from: Option<&Vec<T>>) {
    match from {
        Some(from) => into.copy_from_slice(from),
        None => into.fill(T::ZERO),
    }
}

/// [`Activation::tangent`]
struct Forth<'m, T>(Activation, Tangent<'m, T>);

impl<T: Element> Op<T> for Forth<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        self.0.tangent(s, self.1);
    }
}

/// [`dropout::forward`]
struct DropOut<'m, T> {
    p: f64,
    draw: dropout::Draw,
    layer: usize,
    first: usize,
    y: MatMut<'m, T>,
    factors: MatMut<'m, T>,
}

impl<T: Element> Op<T> for DropOut<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { p, draw, layer, first, mut y, mut factors } = self;
        dropout::forward(s, p, draw, layer, first, &mut y, &mut factors);
    }
}

/// The inputs and weights of a stage that has some.
pub fn dense_len(stage: &Stage) -> usize {
    if stage.dense.is_some() { stage.inputs * stage.outputs } else { 0 }
}
