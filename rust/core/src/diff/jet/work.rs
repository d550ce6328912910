//! Blocks of rows that go through the stages and back.

use std::iter;

use super::kernels::{Back, Forth, bend};
use super::shards::{Get, Rows, Shard};
use super::stages::acts;
use super::{Site, parts};
use crate::diff::block::outer;
use crate::diff::gather::{self, Part, add_rows};
use crate::element::Element;
use crate::error::Error;
use crate::network::Network;
use crate::simd::dispatch;
use crate::view::{MatMut, MatRef};

/// Some rows, and what is kept of them: all parts, one after the other.
#[derive(Default)]
pub struct Block<T> {
    rows: usize,
    x: Vec<T>,
    /// By stage, the input of its activation, or its output if it has none.
    z: Vec<Vec<T>>,
    output: Vec<T>,
}

/// What is recomputed for the current block, in the same layout.
#[derive(Default)]
pub struct Desk<T> {
    /// By stage, the output of its activation.
    y: Vec<Vec<T>>,
    /// φ′, φ″ and φ‴ of the last of these.
    slopes: [Vec<T>; 3],
    /// By stage, the gradient with respect to z.
    dz: Vec<Vec<T>>,
    /// The gradient with respect to a stage's output.
    back: Vec<T>,
    /// Scratch for products.
    scratch: Vec<T>,
}

impl<T: Element> Rows<T> for Block<T> {
    type Desk = Desk<T>;

    fn rows(&mut self) -> &mut usize {
        &mut self.rows
    }

    fn rooms(&mut self, network: &Network, parts: usize, get: &mut Get<'_, T>) -> Result<(), Error> {
        let (stages, rows) = (network.stages(), parts * self.rows);
        get(&mut self.x, rows * network.inputs())?;
        get(&mut self.output, rows * network.outputs())?;
        self.z.resize_with(stages.len(), Vec::new);
        stages.iter().zip(&mut self.z).try_for_each(|(stage, z)| get(z, rows * stage.outputs))
    }

    fn desk(
        desk: &mut Desk<T>,
        rows: usize,
        network: &Network,
        parts: usize,
        get: &mut Get<'_, T>,
    ) -> Result<(), Error> {
        let Desk { y, slopes, dz, back, .. } = desk;
        let stages = network.stages();
        y.resize_with(stages.len(), Vec::new);
        dz.resize_with(stages.len(), Vec::new);
        for ((stage, y), dz) in stages.iter().zip(y).zip(dz) {
            get(y, if acts(stage) { parts * rows * stage.outputs } else { 0 })?;
            get(dz, parts * rows * stage.outputs)?;
        }
        slopes.iter_mut().try_for_each(|slope| get(slope, rows * network.max_width()))?;
        get(back, parts * rows * network.max_width())
    }
}

impl<T: Element> Shard<T, Block<T>, Desk<T>> {
    /// Takes the shard's rows of x through the network.
    pub fn forward(&mut self, site: &Site<'_, T>, x: MatRef<'_, T>) {
        let mut first = self.rows.start;
        for block in &mut self.blocks {
            block.receive(site, x, first);
            self.desk.fit(site, block);
            (0..site.network.stages().len()).for_each(|index| self.desk.forward(site, block, index));
            let last = site.network.stages().len() - 1;
            let mut output = std::mem::take(&mut block.output);
            output.copy_from_slice(self.desk.given(site, block, last));
            block.output = output;
            first += block.rows;
        }
    }

    /// Writes the shard's rows of one part of the outputs, with n columns, to their place among all rows.
    pub fn outputs(&self, which: usize, n: usize, into: &mut [T]) {
        let mut first = self.rows.start;
        for block in &self.blocks {
            let size = block.rows * n;
            into[first * n..][..size].copy_from_slice(&block.output[which * size..][..size]);
            first += block.rows;
        }
    }

    /// Takes the gradients with respect to all parts of the outputs back, for the shard's own rows out of
    /// `rows`, to the parameters, whose gradients it sums.
    pub fn backward(&mut self, site: &Site<'_, T>, gradient: MatRef<'_, T>, rows: usize) {
        let Shard { rows: own, blocks, desk, grads } = self;
        grads.fill(T::ZERO);
        let mut parts = gather::parts(site.network, grads);
        let learns = site.first_that_learns();
        let mut first = own.start;
        for block in blocks {
            desk.fit(site, block);
            let size = block.rows * gradient.cols();
            for (which, into) in desk.back[..block.output.len()].chunks_exact_mut(size).enumerate() {
                let from = gradient.block(which * rows + first, block.rows, 0, gradient.cols());
                into.chunks_exact_mut(from.cols())
                    .enumerate()
                    .for_each(|(r, g)| g.copy_from_slice(from.row(r)));
            }
            desk.turn(site, block, site.network.stages().len() - 1);
            for index in (learns..site.network.stages().len()).rev() {
                desk.leave(site, block, index);
                if index > 0 {
                    desk.turn(site, block, index - 1);
                }
                for (_, part, into) in parts.iter_mut().filter(|(stage, ..)| *stage == index) {
                    desk.gather(site, block, index, *part, into);
                }
                if index > learns {
                    desk.enter(site, block, index);
                }
            }
            first += block.rows;
        }
    }
}

impl<T: Element> Block<T> {
    /// Receives rows of x from the `first` on, with the directions as their first derivatives, and 0 as the
    /// second ones.
    fn receive(&mut self, site: &Site<'_, T>, x: MatRef<'_, T>, first: usize) {
        let directions = site.along.chunks_exact(x.cols()).flat_map(|way| iter::repeat_n(way, self.rows));
        let given = (first..first + self.rows).map(|r| x.row(r)).chain(directions);
        self.x.clear();
        given.for_each(|row| self.x.extend_from_slice(row));
        self.x.resize(parts(site.ways) * self.rows * x.cols(), T::ZERO);
    }
}

impl<T: Element> Desk<T> {
    /// Makes room for a block.
    fn fit(&mut self, site: &Site<'_, T>, block: &Block<T>) {
        let rows = parts(site.ways) * block.rows;
        let stages = site.network.stages();
        for ((stage, y), dz) in stages.iter().zip(&mut self.y).zip(&mut self.dz) {
            y.resize(if acts(stage) { rows * stage.outputs } else { 0 }, T::ZERO);
            dz.resize(rows * stage.outputs, T::ZERO);
        }
        self.back.resize(rows * site.network.max_width(), T::ZERO);
    }

    /// A stage's output.
    fn given<'d>(&'d self, site: &Site<'_, T>, block: &'d Block<T>, index: usize) -> &'d [T] {
        if acts(&site.network.stages()[index]) { &self.y[index] } else { &block.z[index] }
    }

    /// A stage's input.
    fn taken<'d>(&'d self, site: &Site<'_, T>, block: &'d Block<T>, index: usize) -> &'d [T] {
        if index == 0 { &block.x } else { self.given(site, block, index - 1) }
    }

    /// Goes forward through a stage.
    fn forward(&mut self, site: &Site<'_, T>, block: &mut Block<T>, index: usize) {
        let stage = &site.network.stages()[index];
        let (mut z, mut scratch) = (std::mem::take(&mut block.z[index]), std::mem::take(&mut self.scratch));
        let (part, before) = (block.rows * stage.outputs, block.rows * stage.inputs);
        let (x, x_dots) = self.taken(site, block, index).split_at(before);
        let beside = stage.skip.map(|first| self.taken(site, block, first));
        let beside = beside.map(|x| x.split_at(x.len() / parts(site.ways)));
        let (numbers, dots) = z.split_at_mut(part);
        site.values(stage, x, beside.map(|(x, _)| x), numbers, &mut scratch);
        if site.frequencies(stage).is_some() {
            let (firsts, seconds) = dots.split_at_mut(site.ways.len() * part);
            site.dots(stage, &x_dots[..site.ways.len() * before], None, numbers, firsts, &mut scratch);
            for way in site.ways {
                let Some(second) = way.second else { continue };
                let first = &firsts[(way.first - 1) * part..][..part];
                let into = &mut seconds[(second - 1 - site.ways.len()) * part..][..part];
                bend(numbers, first, stage.outputs, into);
            }
        } else {
            site.dots(stage, x_dots, beside.map(|(_, dots)| dots), numbers, dots, &mut scratch);
        }
        self.scratch = scratch;
        block.z[index] = z;
        self.turn(site, block, index);
    }

    /// Computes y of a stage's activation, and the slopes at the numbers.
    fn turn(&mut self, site: &Site<'_, T>, block: &Block<T>, index: usize) {
        let stage = &site.network.stages()[index];
        if !acts(stage) {
            return;
        }
        let (y, z, part) = (&mut self.y[index], &block.z[index], block.rows * stage.outputs);
        self.slopes.iter_mut().for_each(|slope| slope.resize(part, T::ZERO));
        y[..part].copy_from_slice(&z[..part]);
        let [first, second, third] = &mut self.slopes;
        stage.act.jet(site.isa, [&mut y[..part], first, second, third]);
        dispatch(site.isa, Forth { ways: site.ways, z, slopes: &self.slopes, y });
    }

    /// Goes back through a stage's activation, whose slopes are known.
    fn leave(&mut self, site: &Site<'_, T>, block: &Block<T>, index: usize) {
        let Desk { slopes, dz, back, .. } = self;
        let dz = &mut dz[index];
        let g = &back[..dz.len()];
        match acts(&site.network.stages()[index]) {
            true => dispatch(site.isa, Back { ways: site.ways, z: &block.z[index], slopes, g, dz }),
            false => dz.copy_from_slice(g),
        }
    }

    /// Adds the block's contribution to a piece of the gradients of a stage's parameters.
    fn gather(&mut self, site: &Site<'_, T>, block: &Block<T>, index: usize, part: Part, into: &mut [T]) {
        let (outputs, mut scratch) =
            (site.network.stages()[index].outputs, std::mem::take(&mut self.scratch));
        let dz = &self.dz[index];
        match part {
            Part::Weight { from, col, n } => {
                let into = MatMut::new(into, into.len() / n, n);
                let operands = [self.taken(site, block, index), dz];
                outer(site.isa, operands, dz.len() / outputs, [from, col], into, &mut scratch);
            }
            Part::Bias => add_rows(into, &dz[..block.rows * outputs]),
            Part::Table { .. } | Part::Scale | Part::Shift => unreachable!("refused when this was made"),
        }
        self.scratch = scratch;
    }

    /// Goes back through the rest of a stage, to the gradient with respect to its input.
    fn enter(&mut self, site: &Site<'_, T>, block: &Block<T>, index: usize) {
        let stage = &site.network.stages()[index];
        let Desk { dz, back, scratch, .. } = self;
        let dx = &mut back[..dz[index].len() / stage.outputs * stage.inputs];
        site.back(index, &block.z[index], |stage| &dz[stage], dx, scratch);
    }
}
