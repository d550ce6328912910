//! Blocks of rows that go through the stages and back.

use std::ops::Range;

use super::kernels::{Back, Forth, encode};
use super::{Along, Site, parts};
use crate::arena::{Buffer, check_fits, reserve};
use crate::diff::block::{WHAT, matrix, multiply, outer};
use crate::diff::gather::{self, Part, add_rows};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Init;
use crate::gemm::pack::Panels;
use crate::layer::skip::{join, put};
use crate::layer::standardize::Scales;
use crate::layer::{Activation, fourier};
use crate::network::{Encoder, Stage};
use crate::simd::dispatch;
use crate::view::{MatMut, MatRef};

/// Rows of a block, over all parts: few enough for their numbers to stay in a second-level cache.
const BLOCK: usize = 192;
/// Most shards: each has a copy of the gradients.
const SHARDS: usize = 16;
/// Rows of x from which they are divided into more blocks, for more threads.
const LEAST_ROWS: usize = 32;
/// This many shards are allowed, if there are enough blocks, however large these copies are.
const LEAST_SHARDS: usize = 4;

/// Rows that one thread processes at a time; the gradients of shards are summed in their order.
pub struct Shard<T> {
    rows: Range<usize>,
    blocks: Vec<Block<T>>,
    desk: Desk<T>,
    /// Sums over the rows of the shard, in the order of the arena.
    grads: Buffer<T>,
}

/// Some rows, and what is kept of them: all parts, one after the other.
#[derive(Default)]
struct Block<T> {
    rows: usize,
    x: Vec<T>,
    /// By stage, the input of its activation, or its output if it has none.
    z: Vec<Vec<T>>,
    output: Vec<T>,
    /// The gradient with respect to x.
    dx: Vec<T>,
}

/// What is recomputed for the current block, in the same layout.
#[derive(Default)]
struct Desk<T> {
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

/// Whether a stage has an activation.
fn acts(stage: &Stage) -> bool {
    stage.act != Activation::Identity
}

/// Distributes rows, depending only on their number and the network, so that sums do not depend on who takes
/// which.
///
/// # Errors
/// If there is not enough memory.
pub fn share<T: Element>(shards: &mut Vec<Shard<T>>, site: &Site<'_, T>, rows: usize) -> Result<(), Error> {
    let most = (BLOCK / parts(site.ways)).max(1);
    // Blocks of equally many rows, and enough of them for several threads.
    let least = LEAST_SHARDS.min(rows.div_ceil(LEAST_ROWS));
    let block_rows = rows.div_ceil(rows.div_ceil(most).max(least));
    let blocks = rows.div_ceil(block_rows);
    // Copies of the gradients should not be larger than everything else.
    let kept = rows * parts(site.ways) * site.network.stages().iter().map(|s| s.outputs).sum::<usize>();
    let most = SHARDS.min((kept / site.network.arena_len()).max(LEAST_SHARDS));
    let shard_rows = blocks.div_ceil(most) * block_rows;
    shards.truncate(rows.div_ceil(shard_rows));
    while shards.len() < rows.div_ceil(shard_rows) {
        let grads = Buffer::zeroed("gradients of some rows", site.network.arena_len())?;
        shards.push(Shard { rows: 0..0, blocks: Vec::new(), desk: Desk::default(), grads });
    }
    for (shard, first) in shards.iter_mut().zip((0..rows).step_by(shard_rows)) {
        shard.rows = first..rows.min(first + shard_rows);
        shard.blocks.resize_with(shard.rows.len().div_ceil(block_rows), Block::default);
        let mut left = shard.rows.len();
        for block in &mut shard.blocks {
            block.rows = block_rows.min(left);
            left -= block.rows;
        }
    }
    let mut missing = 0;
    let mut count = |room: &mut Vec<T>, len: usize| {
        missing += len.saturating_sub(room.capacity());
        Ok(())
    };
    shards.iter_mut().try_for_each(|shard| shard.rooms(site, &mut count))?;
    check_fits::<T>(WHAT, missing)?;
    shards.iter_mut().try_for_each(|shard| shard.rooms(site, &mut |room, len| reserve(WHAT, room, len)))
}

impl<T: Element> Shard<T> {
    /// Passes all vectors that its blocks need, and how many values each of them will hold, to `get`.
    ///
    /// # Errors
    /// Those of `get`.
    fn rooms(
        &mut self,
        site: &Site<'_, T>,
        get: &mut impl FnMut(&mut Vec<T>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (stages, parts) = (site.network.stages(), parts(site.ways));
        let (inputs, outputs) = (site.network.inputs(), site.network.outputs());
        for block in &mut self.blocks {
            let rows = parts * block.rows;
            get(&mut block.x, rows * inputs)?;
            get(&mut block.output, rows * outputs)?;
            get(&mut block.dx, if site.ways.is_empty() { rows * inputs } else { 0 })?;
            block.z.resize_with(stages.len(), Vec::new);
            stages.iter().zip(&mut block.z).try_for_each(|(stage, z)| get(z, rows * stage.outputs))?;
        }
        let most = self.blocks.first().map_or(0, |block| block.rows);
        let Desk { y, slopes, dz, back, .. } = &mut self.desk;
        y.resize_with(stages.len(), Vec::new);
        dz.resize_with(stages.len(), Vec::new);
        for ((stage, y), dz) in stages.iter().zip(y).zip(dz) {
            get(y, if acts(stage) { parts * most * stage.outputs } else { 0 })?;
            get(dz, parts * most * stage.outputs)?;
        }
        slopes.iter_mut().try_for_each(|slope| get(slope, most * site.network.max_width()))?;
        get(back, parts * most * site.network.max_width())
    }

    /// Takes the shard's rows of x through the network.
    pub fn forward(&mut self, site: &Site<'_, T>, x: MatRef<'_, T>) {
        let mut first = self.rows.start;
        for block in &mut self.blocks {
            block.fit(site, x, first);
            self.desk.fit(site, block);
            (0..site.network.stages().len()).for_each(|index| self.desk.forward(site, block, index));
            let last = site.network.stages().len() - 1;
            let mut output = std::mem::take(&mut block.output);
            output.clear();
            output.extend_from_slice(self.desk.given(site, block, last));
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
    /// `rows`: to the parameters, whose gradients it sums, or to the inputs.
    pub fn backward(&mut self, site: &Site<'_, T>, gradient: MatRef<'_, T>, rows: usize, parameters: bool) {
        let Shard { rows: own, blocks, desk, grads } = self;
        grads.fill(T::ZERO);
        let mut parts = gather::parts(site.network, grads);
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
            for index in (0..site.network.stages().len()).rev() {
                desk.leave(site, block, index);
                if index > 0 {
                    desk.turn(site, block, index - 1);
                }
                for (_, part, into) in parts.iter_mut().filter(|(stage, ..)| parameters && *stage == index) {
                    desk.gather(site, block, index, *part, into);
                }
                if index > 0 || !parameters {
                    desk.enter(site, block, index);
                }
            }
            if !parameters {
                block.dx.clear();
                block.dx.extend_from_slice(&desk.back[..block.rows * site.network.inputs()]);
            }
            first += block.rows;
        }
    }

    /// Writes the gradients with respect to the shard's rows, with n columns, to their place among all rows.
    pub fn inputs(&self, n: usize, into: &mut [T]) {
        let dx = self.blocks.iter().flat_map(|block| &block.dx);
        into[self.rows.start * n..self.rows.end * n].iter_mut().zip(dx).for_each(|(into, dx)| *into = *dx);
    }

    /// A part of these sums.
    pub fn gradients(&self, part: Range<usize>) -> &[T] {
        &self.grads[part]
    }
}

impl<T: Element> Block<T> {
    /// Receives rows of x from the `first` on, and makes room for their results. Whatever the memory holds is
    /// overwritten before it is read.
    fn fit(&mut self, site: &Site<'_, T>, x: MatRef<'_, T>, first: usize) {
        let parts = parts(site.ways);
        let own = first..first + self.rows;
        self.x.clear();
        own.clone().for_each(|r| self.x.extend_from_slice(x.row(r)));
        match site.along {
            Along::Same(along) => {
                for direction in along.chunks_exact(x.cols()) {
                    own.clone().for_each(|_| self.x.extend_from_slice(direction));
                }
            }
            Along::Own(along) => {
                for start in (0..along.rows()).step_by(x.rows()) {
                    own.clone().for_each(|r| self.x.extend_from_slice(along.row(start + r)));
                }
            }
        }
        self.x.resize(parts * self.rows * x.cols(), T::ZERO);
        for (stage, z) in site.network.stages().iter().zip(&mut self.z) {
            z.resize(parts * self.rows * stage.outputs, T::ZERO);
        }
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
        let mut z = std::mem::take(&mut block.z[index]);
        let (x, part) = (self.taken(site, block, index), block.rows * stage.outputs);
        if let Some(encoder) = stage.encoder {
            match &site.network.encoders()[encoder] {
                Encoder::Fourier { layer, start, .. } => {
                    let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
                    encode(site.isa, site.ways, stage.inputs, frequencies, x, &mut z, part);
                }
                Encoder::Standardize { layer, starts } => {
                    let scales = Scales::of(layer, *starts, site.averages);
                    let ((x, x_dots), (z, dots)) = (x.split_at(part), z.split_at_mut(part));
                    let n = stage.outputs;
                    scales.forward(site.isa, MatRef::new(x, part / n, n), MatMut::new(z, part / n, n));
                    let (x_dots, rows) = (MatRef::new(x_dots, x_dots.len() / n, n), dots.len() / n);
                    scales.slope(site.isa, x_dots, MatMut::new(dots, rows, n), false);
                }
                Encoder::Tabular { .. } => unreachable!("refused when this was made"),
            }
        } else if let Some(dense) = stage.dense {
            let arena = &site.at.arena;
            let weight = &arena[dense.weight..dense.weight + stage.inputs * stage.outputs];
            let mut scratch = std::mem::take(&mut self.scratch);
            let mut product = |x: &[T], into: &mut [T], init: Init<'_, T>| {
                let weight = Panels::new(weight, stage.inputs, stage.outputs);
                multiply(site.isa, x, weight, into, x.len() / stage.inputs, init, &mut scratch);
            };
            // The bias belongs to the numbers only, not to derivatives.
            let bias = dense.bias.map_or(Init::Zero, |b| Init::Bias(&arena[b..b + stage.outputs]));
            let ((x, x_dots), (z, dots)) =
                (self.taken(site, block, index).split_at(block.rows * stage.inputs), z.split_at_mut(part));
            product(x, z, bias);
            product(x_dots, dots, Init::Zero);
            self.scratch = scratch;
        } else {
            let n = z.len() / stage.outputs;
            let beside = stage.skip.map(|first| matrix(self.taken(site, block, first), n));
            join(site.isa, beside, matrix(x, n), MatMut::new(&mut z, n, stage.outputs));
        }
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
        let rows = dz[index].len() / stage.outputs;
        let dx = &mut back[..rows * stage.inputs];
        let (mut init, mut into) = (Init::Zero, MatMut::new(dx, rows, stage.inputs));
        let part = |end: usize, col| matrix(&dz[end], rows).block(0, rows, col, stage.inputs);
        for end in site.network.ends(index) {
            put(site.isa, part(end, 0), &mut into, &mut init);
        }
        if stage.dense.is_none() && stage.encoder.is_none() {
            return put(site.isa, part(index, stage.front()), &mut into, &mut init);
        }
        let dz = &dz[index];
        if let Some(encoder) = stage.encoder.map(|e| &site.network.encoders()[e]) {
            let (n, adds) = (stage.outputs, matches!(init, Init::Accumulate));
            let dz = MatRef::new(dz, rows, n);
            match encoder {
                Encoder::Standardize { layer, starts } => {
                    let dx = MatMut::new(dx, rows, n);
                    Scales::of(layer, *starts, site.averages).slope(site.isa, dz, dx, adds);
                }
                // Only jets without directions need this: nothing before it learns.
                Encoder::Fourier { layer, start, .. } => {
                    if !adds {
                        dx.fill(T::ZERO);
                    }
                    let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
                    let (y, dx) =
                        (MatRef::new(&block.z[index], rows, n), MatMut::new(dx, rows, layer.inputs));
                    fourier::backward(site.isa, y, dz, frequencies, dx);
                }
                Encoder::Tabular { .. } => unreachable!("refused when this was made"),
            }
        } else {
            let weight = Panels::new(&site.at.transposed[index], stage.outputs, stage.inputs);
            multiply(site.isa, dz, weight, dx, rows, init, scratch);
        }
    }
}
