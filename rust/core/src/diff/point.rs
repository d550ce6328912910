//! Products of one matrix with several vectors: what depends only on the point is computed once.

use super::{Block, Matrix, Site, Weights, check_rows, team, too_large};
use crate::arena::{Buffer, copied, zeros};
use crate::data;
use crate::element::Element;
use crate::error::Error;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, RowLoss, Rows, Second, Targets};
use crate::model::{Model, check_flat};
use crate::network::Network;
use crate::parallel;
use crate::simd::all_finite;
use crate::train::Trainer;
use crate::view::{MatMut, MatRef};

use super::norm::Columns;

/// Most bytes kept for a point. With more rows than fit, each product computes everything anew.
const KEPT: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// What the error names if there is not enough memory.
const DATA: &str = "a copy of the data";

/// Multiplies vectors by a matrix of second derivatives. What all products at a point have in common, such as
/// the network's outputs and the gradient, is kept until parameters, data or anything else change, which is
/// checked each time.
pub struct Curvature<T> {
    point: Option<Point<T>>,
}

impl<T> Default for Curvature<T> {
    fn default() -> Self {
        Curvature { point: None }
    }
}

impl<T: Element> Curvature<T> {
    /// See [`product`](super::product).
    ///
    /// # Errors
    /// As for [`product`](super::product).
    ///
    /// # Panics
    /// As for [`product`](super::product).
    pub fn product<'t>(
        &mut self,
        model: &mut Model<T>,
        objective: &Objective<T>,
        x: MatRef<'_, T>,
        y: impl Into<Goals<'t, T>>,
        matrix: Matrix,
        training: bool,
        v: &[T],
        into: &mut [T],
    ) -> Result<(), Error>
    where
        T: 't,
    {
        let (goals, model) = (y.into(), &*model);
        let task = Task { objective, x, goals, matrix, training };
        if !self.point.as_ref().is_some_and(|point| point.is_at(model, &task)) {
            let before = self.point.take();
            self.point = Some(Point::new(model, &task, before.map(Point::leave).unwrap_or_default())?);
        }
        let point = self.point.as_mut().expect("made");
        let done = point.times(model, &task, v, into);
        if done.is_err() {
            self.point = None; // It may be incomplete.
        }
        done
    }
}

/// A product's arguments, except for the vector.
struct Task<'a, T> {
    objective: &'a Objective<T>,
    x: MatRef<'a, T>,
    goals: Goals<'a, T>,
    matrix: Matrix,
    training: bool,
}

/// Our own copy of the targets.
enum Kept<T> {
    Values(Vec<T>),
    Labels(Vec<i64>),
}

/// A network at its parameters on a batch, and everything that products there have in common.
struct Point<T> {
    network: Network,
    objective: Objective<T>,
    matrix: Matrix,
    training: bool,
    draw: Draw,
    at: Weights<T>,
    averages: Vec<T>,
    /// Of all rows.
    x: Vec<T>,
    y: Kept<T>,
    weights: Option<Vec<T>>,
    /// Factor of the loss.
    scale: f64,
    columns: Vec<Columns<T>>,
    /// Blocks by wave, once they are `known`: after the first product, if all can be kept.
    waves: Vec<Vec<Block<T>>>,
    known: bool,
    memory: Memory<T>,
}

/// Memory that a point leaves to the next, which then need not allocate it.
struct Memory<T> {
    at: Option<Weights<T>>,
    way: Option<Weights<T>>,
    result: Option<Buffer<T>>,
    blocks: Vec<Block<T>>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Memory { at: None, way: None, result: None, blocks: Vec::new() }
    }
}

/// Whether numbers are identical, bit for bit.
fn same<T: Element>(a: &[T], b: &[T]) -> bool {
    fn bytes<T>(of: &[T]) -> &[u8] {
        // SAFETY: `of` is a valid slice of f32 or f64, which have no padding, so all of its bytes may be
        // read.
        unsafe { std::slice::from_raw_parts(of.as_ptr().cast::<u8>(), size_of_val(of)) }
    }
    bytes(a) == bytes(b)
}

impl<T: Element> Point<T> {
    fn new(model: &Model<T>, task: &Task<'_, T>, mut memory: Memory<T>) -> Result<Self, Error> {
        let Task { objective, x, goals, matrix, training } = *task;
        let uneven = Trainer::new(objective.clone()).check(model, x.into(), &goals)?;
        objective.check_values(&goals, model.isa())?;
        if matrix == Matrix::Fisher {
            objective.check_fisher()?;
        }
        let network = model.network();
        let totals = objective.totals(&goals, |r| r, x.rows(), network.outputs(), uneven);
        if totals.loss == 0.0 {
            return Err(Error::NothingCounts);
        }
        check_rows(model, x, training)?;
        let (isa, at) = (model.isa(), memory.at.take());
        let rows = |m: MatRef<'_, T>| -> Result<Vec<T>, Error> {
            let mut all = zeros(DATA, m.rows() * m.cols())?;
            all.chunks_exact_mut(m.cols()).enumerate().for_each(|(r, row)| row.copy_from_slice(m.row(r)));
            Ok(all)
        };
        let mut point = Point {
            network: network.clone(),
            objective: objective.clone(),
            matrix,
            training,
            draw: model.draw,
            at: Weights::new(network, isa, at, T::ONE, Some(1), |into| into.copy_from_slice(&model.params))?,
            averages: model.averages.to_vec(),
            x: rows(x)?,
            y: match goals.targets {
                Targets::Values(y) => Kept::Values(rows(y)?),
                Targets::Labels(y) => Kept::Labels(copied(DATA, y)?),
            },
            weights: goals.weights.map(|w| copied(DATA, w)).transpose()?,
            scale: objective.scale(totals),
            columns: Vec::new(),
            waves: Vec::new(),
            known: false,
            memory,
        };
        point.columns = point.site(model).columns();
        Ok(point)
    }

    /// What remains of a point that is no longer needed.
    fn leave(self) -> Memory<T> {
        let mut memory = self.memory;
        memory.blocks.extend(self.waves.into_iter().flatten());
        Memory { at: Some(self.at), ..memory }
    }

    /// Whether everything is unchanged.
    fn is_at(&self, model: &Model<T>, task: &Task<'_, T>) -> bool {
        let matrix = |kept: &[T], m: MatRef<'_, T>| {
            let n = m.cols();
            kept.len() == m.rows() * n
                && match m.as_slice() {
                    Some(all) => same(kept, all),
                    None => (0..m.rows()).all(|r| same(&kept[r * n..(r + 1) * n], m.row(r))),
                }
        };
        let weights = match (&self.weights, task.goals.weights) {
            (None, None) => true,
            (Some(kept), Some(weights)) => same(kept, weights),
            _ => false,
        };
        let y = match (&self.y, task.goals.targets) {
            (Kept::Values(kept), Targets::Values(y)) => matrix(kept, y),
            (Kept::Labels(kept), Targets::Labels(y)) => kept == y,
            _ => false,
        };
        (self.matrix, self.training, self.draw) == (task.matrix, task.training, model.draw)
            && self.objective == *task.objective
            && self.network == *model.network()
            && weights
            && y
            && matrix(&self.x, task.x)
            && same(&self.averages, &model.averages)
            && same(&self.at.arena, &model.params)
    }

    fn site<'a>(&'a self, model: &'a Model<T>) -> Site<'a, T> {
        let network: &Network = model.network();
        let rows = self.x.len() / network.inputs();
        Site {
            network,
            isa: model.isa(),
            at: &self.at,
            averages: &self.averages,
            training: self.training,
            draw: self.draw,
            rows,
            curved: self.matrix == Matrix::Hessian,
            back: true,
            plain: false,
            threads: team(network, rows),
        }
    }

    fn times(&mut self, model: &Model<T>, task: &Task<'_, T>, v: &[T], into: &mut [T]) -> Result<(), Error> {
        check_flat("v", v)?;
        let (mut waves, mut columns) = (std::mem::take(&mut self.waves), std::mem::take(&mut self.columns));
        let mut memory = std::mem::take(&mut self.memory);
        let site = self.site(model);
        let (network, isa) = (site.network, site.isa);
        let write = |into: &mut [T]| network.import(isa, v, into);
        let way = Weights::new(network, isa, memory.way.take(), T::ZERO, site.curved.then_some(1), write)?;
        let len = network.arena_len();
        let mut result = match memory.result.take().filter(|spare| spare.len() == len) {
            Some(mut spare) => {
                spare.fill(T::ZERO);
                spare
            }
            None => Buffer::zeroed("a product with a vector", len)?,
        };
        let (last, n) = (network.stages().len() - 1, network.outputs());
        let objective = task.objective;
        let turn = |block: &mut Block<T>| {
            let (y, len) = (&block.slots[last].y, block.rows * n);
            objective.bent(block.bends.each_ref().map(|b| &b[..]), &y[len..], &mut block.back[1][..len], n);
        };
        let (mut known, mut keep) = (self.known, None);
        for (number, wave) in site.waves().enumerate() {
            if known {
                site.tangents(&way, &mut waves[number], &columns, turn);
                site.gather(&waves[number], &mut result);
                continue;
            }
            let rows = wave.len();
            let mut blocks = site.blocks(task.x, None, wave, &mut memory.blocks)?;
            site.values(&mut blocks, &mut columns, |block| self.slopes(&site, task, block));
            site.check(&blocks)?;
            parallel::pieces(&mut blocks, site.threads, |block| self.bend(&site, task, block));
            site.tangents(&way, &mut blocks, &columns, turn);
            site.gather(&blocks, &mut result);
            // Keep all waves or none: the first one is the longest.
            let held = || blocks.iter().map(Block::len).sum::<usize>() * size_of::<T>();
            if *keep.get_or_insert_with(|| held() * site.rows.div_ceil(rows) <= KEPT) {
                waves.push(blocks);
            } else {
                memory.blocks = blocks;
            }
        }
        if keep == Some(true) {
            (known, memory.blocks) = (true, Vec::new());
        }
        if !all_finite(isa, &result) {
            return Err(too_large("the product with v"));
        }
        network.export(isa, &result, into);
        (memory.way, memory.result) = (Some(way), Some(result));
        (self.waves, self.columns, self.known, self.memory) = (waves, columns, known, memory);
        Ok(())
    }

    /// The gradient of the loss with respect to the outputs of a block.
    fn slopes(&self, site: &Site<'_, T>, task: &Task<'_, T>, block: &mut Block<T>) {
        let (n, first) = (site.network.outputs(), block.first);
        let len = block.rows * n;
        let output = MatRef::new(&block.slots[site.network.stages().len() - 1].y[..len], block.rows, n);
        let rows = Rows { output, goals: task.goals, chosen: data::Rows::From(first), scale: self.scale };
        let grad = MatMut::new(&mut block.back[0][..len], block.rows, n);
        let mut losses = vec![RowLoss::default(); block.rows];
        task.objective.rows(site.isa, &rows, Some(grad), &mut losses);
    }

    /// What the loss's second derivatives are made of.
    fn bend(&self, site: &Site<'_, T>, task: &Task<'_, T>, block: &mut Block<T>) {
        let (n, first) = (site.network.outputs(), block.first);
        let output = MatRef::new(block.output(site.network.stages().len() - 1), block.rows, n);
        let rows = Rows { output, goals: task.goals, chosen: data::Rows::From(first), scale: self.scale };
        let second = if self.matrix == Matrix::Fisher { Second::Fisher } else { Second::Hessian };
        block.bends = task.objective.bends(second, &rows);
    }
}
