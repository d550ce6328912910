//! Outputs of a network with one parameter changed, for differences in every parameter. What lies before the
//! parameter's stage is kept, one column of that stage's product is recomputed, and the rest runs as usual.
//!
//! The column is one chain of fused multiply-adds, as a [product](crate::gemm) promises to be, whatever
//! kernel it runs on.

use std::ops::Range;

use super::block::{Block, halves};
use super::norm::Columns;
use super::{Site, Weights};
use crate::arena::copied;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::{PANEL, offset};
use crate::layer::dropout::Draw;
use crate::model::Model;
use crate::network::{Encoder, Network};
use crate::simd::{Isa, Op, Simd, dispatch};
use crate::view::MatRef;

/// A network in training mode on a batch, at its parameters and near them.
pub struct Replay<T> {
    at: Weights<T>,
    averages: Vec<T>,
    draw: Draw,
    isa: Isa,
    rows: usize,
    columns: Vec<Columns<T>>,
    blocks: Vec<Block<T>>,
    /// By stage and block: the input of its normalization and activation, at the parameters themselves.
    home: Vec<Vec<Vec<T>>>,
    /// From this stage on, numbers belong to changed parameters.
    moved: usize,
}

/// The part of a stage that a parameter changes.
#[derive(Clone, Copy)]
enum What {
    /// A column of its product.
    Column(usize),
    /// Scale or shift of its normalization, and the column.
    Affine(usize, usize),
    /// The whole output of an encoder.
    All,
}

impl<T: Element> Replay<T> {
    /// Runs the network at its parameters.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(model: &Model<T>, x: MatRef<'_, T>) -> Result<Self, Error> {
        let (network, isa) = (model.network(), model.isa());
        let mut replay = Replay {
            at: Weights::new(network, isa, None, T::ONE, None, |into| into.copy_from_slice(&model.params))?,
            averages: model.averages.to_vec(),
            draw: model.draw,
            isa,
            rows: x.rows(),
            columns: Vec::new(),
            blocks: Vec::new(),
            home: Vec::new(),
            moved: 0,
        };
        let (site, _, _) = replay.parts(network);
        let (columns, blocks) = (site.columns(), site.blocks(x, None, 0..x.rows(), &mut Vec::new())?);
        (replay.columns, replay.blocks) = (columns, blocks);
        for index in 0..network.stages().len() {
            let (site, blocks, columns) = replay.parts(network);
            blocks.iter_mut().for_each(|block| block.enter(&site, index));
            let kept = |block: &Block<T>| copied("outputs of a batch", block.output(index));
            let z = blocks.iter().map(kept).collect::<Result<_, _>>()?;
            leave(&site, blocks, columns, index);
            replay.home.push(z);
        }
        replay.moved = network.stages().len();
        Ok(replay)
    }

    fn parts<'a>(
        &'a mut self,
        network: &'a Network,
    ) -> (Site<'a, T>, &'a mut [Block<T>], &'a mut [Columns<T>]) {
        let Replay { at, averages, draw, isa, rows, columns, blocks, .. } = self;
        let site = Site {
            network,
            isa: *isa,
            at,
            averages,
            training: true,
            draw: *draw,
            rows: *rows,
            curved: false,
            back: false,
            plain: true,
            threads: 1,
        };
        (site, blocks, columns)
    }

    /// Runs the network with the parameter at `place` of the arena set to `value`; returns the stages whose
    /// outputs may have changed.
    pub fn run(&mut self, network: &Network, place: usize, value: T) -> Range<usize> {
        let (index, what) = owner(network, place);
        for before in self.moved..index {
            let (site, blocks, columns) = self.parts(network);
            blocks.iter_mut().for_each(|block| block.enter(&site, before));
            leave(&site, blocks, columns, before);
        }
        self.moved = index;
        let was = self.set(index, what, place, value);
        for (block, z) in self.blocks.iter_mut().zip(&self.home[index]) {
            halves(&mut block.slots[index].y).0.copy_from_slice(z);
        }
        let stages = index..network.stages().len();
        for stage in stages.clone() {
            let (site, blocks, columns) = self.parts(network);
            for block in &mut *blocks {
                match what {
                    What::Column(column) if stage == index => enter_column(&site, block, stage, column),
                    What::Affine(..) if stage == index => {}
                    _ => block.enter(&site, stage),
                }
            }
            leave(&site, blocks, columns, stage);
        }
        self.set(index, what, place, was);
        stages
    }

    /// Sets a parameter, and returns its previous value.
    fn set(&mut self, index: usize, what: What, place: usize, value: T) -> T {
        if let What::Affine(which, column) = what {
            self.at.affine[index][which][column] = value;
        }
        std::mem::replace(&mut self.at.arena[place], value)
    }

    /// The outputs of a stage, by block.
    pub fn outputs(&self, index: usize) -> impl Iterator<Item = &[T]> {
        self.blocks.iter().map(move |block| block.output(index))
    }
}

fn leave<T: Element>(site: &Site<'_, T>, blocks: &mut [Block<T>], columns: &mut [Columns<T>], index: usize) {
    if site.couples(index) {
        site.measure(blocks, index, &mut columns[index]);
    }
    blocks.iter_mut().for_each(|block| block.leave(site, index, &columns[index]));
}

/// The stage that a parameter belongs to, and which part of it.
fn owner(network: &Network, place: usize) -> (usize, What) {
    for (index, stage) in network.stages().iter().enumerate() {
        let (k, n) = (stage.inputs, stage.outputs);
        let inside = |start: usize, len: usize| (start..start + len).contains(&place);
        if let Some(dense) = stage.dense {
            if inside(dense.weight, k * n) {
                let rest = place - dense.weight;
                let panel = rest / (PANEL * k) * PANEL;
                return (index, What::Column(panel + (rest - panel * k) % PANEL.min(n - panel)));
            }
            if let Some(bias) = dense.bias.filter(|bias| inside(*bias, n)) {
                return (index, What::Column(place - bias));
            }
        }
        if let Some(norm) = stage.norm {
            for (which, start) in [norm.scale, norm.shift].into_iter().enumerate() {
                if let Some(start) = start.filter(|start| inside(*start, n)) {
                    return (index, What::Affine(which, place - start));
                }
            }
        }
        if let Some(Encoder::Tabular { layer, starts, .. }) = stage.encoder.map(|e| &network.encoders()[e]) {
            let mut tables = layer.categories.iter().zip(starts);
            if tables.any(|(category, start)| inside(*start, category.codes * category.dim)) {
                return (index, What::All);
            }
        }
    }
    unreachable!("every parameter belongs to a stage")
}

/// Computes one column of a stage's product.
fn enter_column<T: Element>(site: &Site<'_, T>, block: &mut Block<T>, index: usize, column: usize) {
    let stage = &site.network.stages()[index];
    let (Some(dense), k, n) = (stage.dense, stage.inputs, stage.outputs) else { return };
    let (before, rest) = block.slots.split_at_mut(index);
    let x = if index == 0 { &block.x } else { &before[index - 1].y };
    let (first, step) = (offset(k, n, 0, column), PANEL.min(n - column / PANEL * PANEL));
    let weight = &site.at.arena[dense.weight + first..dense.weight + k * n];
    let start = dense.bias.map_or(T::ZERO, |bias| site.at.arena[bias + column]);
    let z = &mut halves(&mut rest[0].y).0[column..];
    dispatch(site.isa, Chains { x, k, rows: block.rows, weight, step, start, z, n });
}

/// z[r·n] ← start + Σ x[r, p]·w[p·step], each as one chain.
struct Chains<'m, T> {
    x: &'m [T],
    k: usize,
    rows: usize,
    weight: &'m [T],
    step: usize,
    start: T,
    z: &'m mut [T],
    n: usize,
}

impl<T: Element> Op<T> for Chains<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, _: S) {
        /// Chains that run side by side, since a single one would wait for its own results.
        const SIDE: usize = 8;
        let Chains { x, k, rows, weight, step, start, z, n } = self;
        for from in (0..rows).step_by(SIDE) {
            let count = SIDE.min(rows - from);
            // Beyond the end, the last row is repeated.
            let x: [&[T]; SIDE] = std::array::from_fn(|r| &x[(from + r.min(count - 1)) * k..][..k]);
            let mut sums = [start; SIDE];
            for p in 0..k {
                let w = weight[p * step];
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = x[p].mul_add(w, *sum, S::FUSED);
                }
            }
            for (r, sum) in sums[..count].iter().enumerate() {
                z[(from + r) * n] = *sum;
            }
        }
    }
}
