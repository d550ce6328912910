//! The tangents of a block's numbers in a direction of the parameters, stage by stage: those of its outputs
//! forward, and of its gradients backward. All but a few loops here are matrix products: what depends only on
//! the numbers, such as φ′ and φ″, is already available.

use super::block::{Block, Slots, halves, matrix, multiply, outer};
use super::norm::{Columns, OfDots, Pair, Task, Work};
use super::{Site, Weights};
use crate::element::Element;
use crate::gemm::Init;
use crate::gemm::pack::Panels;
use crate::layer::skip::{join, put};
use crate::network::Over;
use crate::simd::{Op, Simd, dispatch, zip_map};
use crate::view::MatMut;

impl<T: Element> Block<T> {
    /// Computes ż.
    pub fn enter_dot(&mut self, site: &Site<'_, T>, way: &Weights<T>, index: usize) {
        let stage = &site.network.stages()[index];
        if let Some(encoder) = stage.encoder {
            return self.encode_dot(site, way, index, encoder);
        }
        let (before, rest) = self.slots.split_at_mut(index);
        let input = |stage: usize| match stage {
            0 => (&self.x[..], self.x_dot.as_deref()),
            _ => {
                let (y, dot) = before[stage - 1].y.split_at(before[stage - 1].y.len() / 2);
                (y, Some(dot))
            }
        };
        let dot = halves(&mut rest[0].y).1;
        let (x, x_dot) = input(index);
        let Some(dense) = stage.dense else {
            // Where the tangent of x is missing, it is 0.
            dot.fill(T::ZERO);
            if let Some(x_dot) = x_dot {
                let beside = stage.skip.and_then(|first| input(first).1).map(|x| matrix(x, self.rows));
                let dot = MatMut::new(dot, self.rows, stage.outputs);
                join(site.isa, beside, matrix(x_dot, self.rows), dot);
            }
            return;
        };
        let mut product = |x: &[T], of: &Weights<T>, init: Init<'_, T>| {
            let weight = &of.arena[dense.weight..dense.weight + stage.inputs * stage.outputs];
            let weight = Panels::new(weight, stage.inputs, stage.outputs);
            multiply(site.isa, x, weight, dot, self.rows, init, &mut self.scratch);
        };
        let bias = dense.bias.map_or(Init::Zero, |b| Init::Bias(&way.arena[b..b + stage.outputs]));
        product(x, way, bias);
        if let Some(x_dot) = x_dot {
            product(x_dot, site.at, Init::Accumulate);
        }
    }

    /// Sums ż and ẑ·ż over the block's rows.
    pub fn measure_dot(&mut self, site: &Site<'_, T>, index: usize) {
        let n = site.network.stages()[index].outputs;
        let Slots { y, hat, sums, .. } = &mut self.slots[index];
        let (a, hat) = (&*halves(y).1, &*halves(hat).0);
        dispatch(site.isa, Work(n, Task::Collect { a, hat, with: None, into: sums }));
    }

    /// Goes from ż to ẏ. `columns` are those of a batch normalization, and their tangents.
    pub fn leave_dot(
        &mut self,
        site: &Site<'_, T>,
        way: &Weights<T>,
        index: usize,
        columns: Pair<&Columns<T>>,
    ) {
        let stage = &site.network.stages()[index];
        let Slots { y, slope, turn, moved, hat, of_rows, .. } = &mut self.slots[index];
        let dot = halves(y).1;
        if let Some(norm) = &stage.norm {
            let of = match &norm.over {
                Over::Batch { .. } => OfDots::Batch(columns),
                Over::Row(layer) => OfDots::Rows(layer, of_rows),
            };
            let (affine, hat) = ([site.at, way].map(|of| &of.affine[index]), halves(hat).into());
            dispatch(site.isa, Work(stage.outputs, Task::Tangent { dot, hat, of, affine }));
        }
        if !slope.is_empty() {
            dispatch(site.isa, Forth { dot, slope, moved: (!turn.is_empty()).then_some(moved) });
        }
    }

    /// A stage's output, and its tangent.
    pub fn outputs(&self, index: usize) -> Pair<&[T]> {
        self.slots[index].y.split_at(self.slots[index].y.len() / 2).into()
    }

    /// Computes du˙, and what a normalization collects from it.
    pub fn leave_back_dot(&mut self, site: &Site<'_, T>, index: usize) {
        let stage = &site.network.stages()[index];
        let Slots { slope, turn, moved, delta, hat, du, sums, .. } = &mut self.slots[index];
        let len = self.rows * stage.outputs;
        let (dot, dy) = (&mut delta[..len], &self.back[1][..len]);
        dispatch(site.isa, Back { dot, slope, turn, moved, dy });
        if stage.norm.is_some() {
            let (hat, hat_dot) = halves(hat);
            let with = site.curved.then_some([&du[..], hat_dot]);
            let collect = Task::Collect { a: &delta[..len], hat, with, into: sums };
            dispatch(site.isa, Work(stage.outputs, collect));
        }
    }

    /// Computes dz˙ and, except for the first stage, the tangent of the gradient with respect to its input.
    /// `columns` are those of a batch normalization, and their tangents.
    pub fn enter_back_dot(
        &mut self,
        site: &Site<'_, T>,
        way: &Weights<T>,
        index: usize,
        columns: Pair<&Columns<T>>,
    ) {
        let stage = &site.network.stages()[index];
        let len = self.rows * stage.outputs;
        let Slots { delta, hat, du, of_rows, .. } = &mut self.slots[index];
        let (dz_dot, dz) = delta.split_at_mut(len);
        if let Some(norm) = &stage.norm {
            let of = match &norm.over {
                Over::Batch { .. } => OfDots::Batch(columns),
                Over::Row(layer) => OfDots::Rows(layer, of_rows),
            };
            let (hat, hat_dot) = hat.split_at(len);
            let slope = site.curved.then_some([&du[..], dz, hat_dot]);
            let affine = [site.at, way].map(|of| &of.affine[index]);
            dispatch(site.isa, Work(stage.outputs, Task::Curve { dz_dot, slope, hat, of, affine }));
        }
        if index == 0 {
            return;
        }
        let dx = &mut self.back[1][..self.rows * stage.inputs];
        let (mut init, mut into) = (Init::Zero, MatMut::new(dx, self.rows, stage.inputs));
        for end in site.network.ends(index) {
            let along = &self.slots[end].delta[..self.rows * site.network.stages()[end].outputs];
            let along = matrix(along, self.rows).block(0, self.rows, 0, stage.inputs);
            put(site.isa, along, &mut into, &mut init);
        }
        if let Some(encoder) = stage.encoder {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
            }
            return self.decode_dot(site, index, encoder);
        }
        let (dz_dot, dz) = self.slots[index].delta.split_at(len);
        if stage.dense.is_none() {
            let dz_dot = matrix(dz_dot, self.rows).block(0, self.rows, stage.front(), stage.inputs);
            return put(site.isa, dz_dot, &mut into, &mut init);
        }
        let mut product = |dz: &[T], of: &Weights<T>, init: Init<'_, T>| {
            let weight = Panels::new(&of.transposed[index], stage.outputs, stage.inputs);
            multiply(site.isa, dz, weight, dx, self.rows, init, &mut self.scratch);
        };
        product(dz_dot, site.at, init);
        // Without a gradient, as for the Gauss-Newton matrix, there is only its tangent.
        if site.curved {
            product(dz, way, Init::Accumulate);
        }
    }

    /// Adds the block's part to the tangent of the gradient of some rows and columns of a weight; `into` is
    /// that part of a panel.
    pub fn weights(
        &self,
        site: &Site<'_, T>,
        index: usize,
        (from, col): (usize, usize),
        into: MatMut<'_, T>,
        scratch: &mut Vec<T>,
    ) {
        let stage = &site.network.stages()[index];
        // One product of twice the depth: rows of x with dz˙, followed by ẋ with dz.
        let both = site.curved && index > 0;
        let depth = if both { 2 * self.rows } else { self.rows };
        let x = if index == 0 { &self.x } else { &self.slots[index - 1].y };
        let (x, dz) = (&x[..depth * stage.inputs], &self.slots[index].delta[..depth * stage.outputs]);
        outer(site.isa, [x, dz], depth, [from, col], into, scratch);
    }
}

/// ẏ ← φ′·ż, and moved ← ż.
struct Forth<'m, T> {
    dot: &'m mut [T],
    slope: &'m [T],
    moved: Option<&'m mut Vec<T>>,
}

impl<T: Element> Op<T> for Forth<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { dot, slope, moved } = self;
        match moved {
            Some(moved) => zip_map(
                s,
                [dot, moved],
                [slope],
                #[inline(always)]
                |[dot, _], [slope]| [s.mul(slope, dot), dot],
            ),
            None => zip_map(
                s,
                [dot],
                [slope],
                #[inline(always)]
                |[dot], [slope]| [s.mul(slope, dot)],
            ),
        }
    }
}

/// du˙ ← φ′·dy˙ + (φ″·dy)·ż
struct Back<'m, T> {
    dot: &'m mut [T],
    slope: &'m [T],
    turn: &'m [T],
    moved: &'m [T],
    dy: &'m [T],
}

impl<T: Element> Op<T> for Back<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { dot, slope, turn, moved, dy } = self;
        match (slope.is_empty(), turn.is_empty()) {
            (true, _) => dot.copy_from_slice(dy),
            (_, true) => zip_map(
                s,
                [dot],
                [slope, dy],
                #[inline(always)]
                |_, [slope, dy]| [s.mul(slope, dy)],
            ),
            (_, false) => zip_map(
                s,
                [dot],
                [slope, dy, turn, moved],
                #[inline(always)]
                |_, [slope, dy, turn, moved]| [s.fma(turn, moved, s.mul(slope, dy))],
            ),
        }
    }
}
