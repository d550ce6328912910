//! Products of one matrix with several vectors: what depends only on the point is computed once.

#![allow(unsafe_code)] // reads an array's bytes, to tell whether it has changed

use super::{Block, Matrix, Site, Weights, check_rows, team, too_large};
use crate::arena::{Buffer, copied, copied_rows};
use crate::data;
use crate::element::Element;
use crate::error::Error;
use crate::layer::dropout::Draw;
use crate::loss::{Goals, Objective, OwnTargets, RowLoss, Rows, Second, Targets};
use crate::model::{Model, check_flat};
use crate::network::Network;
use crate::parallel;
use crate::simd::{Isa, all_finite};
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
    /// Computes (∂²L/∂θ²)·v, or the product with another [`Matrix`], into `into`; both vectors are in public
    /// order. L is the loss of the batch as in a training step; `training` says whether the network is in
    /// training mode, with statistics of the batch and the elements dropped that the next pass would drop, or
    /// in evaluation mode.
    ///
    /// # Errors
    /// If shapes, labels or weights do not fit, something is not finite, or there is no Fisher information.
    ///
    /// # Panics
    /// If the length of v or `into` is not the number of parameters.
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
        self.begin(model, objective, x, y, matrix, training, v)?;
        while !self.go(&mut || false)? {}
        self.end(into);
        Ok(())
    }

    /// Begins a product, which [`go`](Self::go) goes on with and [`end`](Self::end) ends; neither needs the
    /// arguments any more.
    ///
    /// # Errors
    /// As for [`product`](Self::product).
    ///
    /// # Panics
    /// As for [`product`](Self::product).
    pub fn begin<'t>(
        &mut self,
        model: &Model<T>,
        objective: &Objective<T>,
        x: MatRef<'_, T>,
        y: impl Into<Goals<'t, T>>,
        matrix: Matrix,
        training: bool,
        v: &[T],
    ) -> Result<(), Error>
    where
        T: 't,
    {
        let task = Task { objective, x, goals: y.into(), matrix, training };
        if !self.point.as_ref().is_some_and(|point| point.is_at(model, &task)) {
            let before = self.point.take();
            self.point = Some(Point::new(model, &task, before.map(Point::leave).unwrap_or_default())?);
        }
        self.point.as_mut().expect("made").begin(v)
    }

    /// Goes on with a product until `until`, which is asked after each wave of rows, says to stop. Returns
    /// whether all rows are done.
    ///
    /// # Errors
    /// As for [`product`](Self::product).
    ///
    /// # Panics
    /// If no product has begun.
    pub fn go(&mut self, until: &mut impl FnMut() -> bool) -> Result<bool, Error> {
        let done = self.point.as_mut().expect("a product has begun").go(until);
        if done.is_err() {
            self.point = None; // It may be incomplete.
        }
        done
    }

    /// Writes down a product that is done.
    ///
    /// # Panics
    /// If there is none, or the length of `into` is not the number of parameters.
    pub fn end(&mut self, into: &mut [T]) {
        self.point.as_mut().expect("a product is done").end(into);
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
    y: OwnTargets<T>,
    weights: Option<Vec<T>>,
    /// Factor of the loss.
    scale: f64,
    columns: Vec<Columns<T>>,
    /// Blocks by wave, once they are `known`: after the first product, if all can be kept.
    waves: Vec<Vec<Block<T>>>,
    known: bool,
    isa: Isa,
    memory: Memory<T>,
    product: Option<Product<T>>,
}

/// A product that has begun.
struct Product<T> {
    /// The vector.
    way: Weights<T>,
    /// What it is multiplied to, over the waves so far.
    result: Buffer<T>,
    /// How many waves are done.
    done: usize,
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
        model.network().check_input(x.into())?;
        let uneven = objective.check(&goals, x.rows(), model.network().outputs())?;
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
        let mut point = Point {
            network: network.clone(),
            objective: objective.clone(),
            matrix,
            training,
            draw: model.draw,
            at: Weights::new(network, isa, at, T::ONE, Some(1), |into| into.copy_from_slice(&model.params))?,
            averages: model.averages.to_vec(),
            x: copied_rows(DATA, x)?,
            y: OwnTargets::copy(DATA, goals.targets)?,
            weights: goals.weights.map(|w| copied(DATA, w)).transpose()?,
            scale: objective.scale(totals),
            columns: Vec::new(),
            waves: Vec::new(),
            known: false,
            isa,
            memory,
            product: None,
        };
        point.columns = point.site().columns();
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
            (OwnTargets::Values(kept), Targets::Values(y)) => matrix(kept, y),
            (OwnTargets::Labels(kept), Targets::Labels(y)) => kept == y,
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

    fn task(&self) -> Task<'_, T> {
        let rows = self.x.len() / self.network.inputs();
        Task {
            objective: &self.objective,
            x: MatRef::new(&self.x, rows, self.network.inputs()),
            goals: Goals { targets: self.y.view(rows), weights: self.weights.as_deref() },
            matrix: self.matrix,
            training: self.training,
        }
    }

    fn site(&self) -> Site<'_, T> {
        let network = &self.network;
        let rows = self.x.len() / network.inputs();
        Site {
            network,
            isa: self.isa,
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

    fn begin(&mut self, v: &[T]) -> Result<(), Error> {
        check_flat("v", v)?;
        let Memory { way, result, .. } = &mut self.memory;
        let (way, result) = (way.take(), result.take());
        let network = &self.network;
        let back = (self.matrix == Matrix::Hessian).then_some(1);
        let way =
            Weights::new(network, self.isa, way, T::ZERO, back, |into| network.import(self.isa, v, into))?;
        let result = match result.filter(|spare| spare.len() == network.arena_len()) {
            Some(mut spare) => {
                spare.fill(T::ZERO);
                spare
            }
            None => Buffer::zeroed("a product with a vector", network.arena_len())?,
        };
        self.product = Some(Product { way, result, done: 0 });
        Ok(())
    }

    fn go(&mut self, until: &mut impl FnMut() -> bool) -> Result<bool, Error> {
        let Product { way, mut result, mut done } = self.product.take().expect("a product has begun");
        let (mut waves, mut columns) = (std::mem::take(&mut self.waves), std::mem::take(&mut self.columns));
        let mut spare = std::mem::take(&mut self.memory.blocks);
        let (site, task) = (self.site(), self.task());
        let (last, n) = (site.network.stages().len() - 1, site.network.outputs());
        let turn = |block: &mut Block<T>| {
            let (y, len) = (&block.slots[last].y, block.rows * n);
            let bends = block.bends.each_ref().map(|b| &b[..]);
            task.objective.bent(bends, &y[len..], &mut block.back[1][..len], n);
        };
        let count = site.waves().count();
        for wave in site.waves().skip(done) {
            if self.known {
                site.tangents(&way, &mut waves[done], &columns, turn);
                site.gather(&waves[done], &mut result);
            } else {
                let mut blocks = site.blocks(task.x, None, wave, &mut spare)?;
                site.values(&mut blocks, &mut columns, |block| self.slopes(&site, &task, block));
                site.check(&blocks)?;
                parallel::pieces(&mut blocks, site.threads, |block| self.bend(&site, &task, block));
                site.tangents(&way, &mut blocks, &columns, turn);
                site.gather(&blocks, &mut result);
                // All waves are kept or none: the first one is the longest.
                let held = || blocks.iter().map(Block::len).sum::<usize>() * size_of::<T>();
                let keep = if done == 0 { held() * count <= KEPT } else { waves.len() == done };
                match keep {
                    true => waves.push(blocks),
                    false => spare = blocks,
                }
            }
            done += 1;
            if done < count && until() {
                break;
            }
        }
        let known = waves.len() == count;
        (self.waves, self.columns, self.known) = (waves, columns, known);
        if !known {
            self.memory.blocks = spare;
        }
        if done == count && !all_finite(self.isa, &result) {
            return Err(too_large("the product with v"));
        }
        self.product = Some(Product { way, result, done });
        Ok(done == count)
    }

    fn end(&mut self, into: &mut [T]) {
        let Product { way, result, .. } = self.product.take().expect("a product is done");
        self.network.export(self.isa, &result, into);
        (self.memory.way, self.memory.result) = (Some(way), Some(result));
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
