//! Quadratic penalties in which the parameters of a layer, or of all layers, depend on each other.
//!
//! ```text
//! ½·s·Σ_blocks Σ_k tr(Dᵀ·G_k·D·A_k),   D = W − W*        its gradient is s·Σ_k G_k·D·A_k
//! ```
//!
//! For Kronecker factors of the curvature a block is a layer's weight with its bias as a last column (Ritter,
//! Botev and Barber 2018, arXiv:1805.07810); for a whole matrix, it is one column of all parameters, and A = 1.
//!
//! The gradient is computed once before an update, two products for each pair of factors; it is added to that of
//! the loss where the update happens, while the parameter is in cache. Rows of a block are independent given D, so
//! that the result is the same for any number of threads. Nothing is allocated by an update.

use std::ops::Range;

use crate::arena::{Buffer, Shared};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::plan::GemmShape;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::network::Network;
use crate::simd::Isa;
use crate::threads::{self, Job};
use crate::view::{MatMut, MatRef};

/// Rows of an item, which one thread takes.
const ROWS: usize = 32;

/// Two symmetric factors of a block's curvature.
#[derive(Clone, Debug)]
pub struct Factors<T> {
    /// Over the columns of the block; none is 1.
    pub a: Option<Vec<T>>,
    /// Over its rows.
    pub g: Vec<T>,
}

/// Parameters that depend on each other, in public order.
#[derive(Clone, Debug)]
pub struct Block<T> {
    /// Where its weights begin, row by row.
    pub weight: usize,
    /// Where its last column begins, if that is a bias.
    pub bias: Option<usize>,
    /// Rows.
    pub rows: usize,
    /// Columns, with the bias.
    pub cols: usize,
    /// Whose products are added.
    pub factors: Vec<Factors<T>>,
}

impl<T> Block<T> {
    /// The places of a row in public order, column by column.
    fn places(&self, row: usize) -> impl Iterator<Item = usize> {
        let width = self.cols - usize::from(self.bias.is_some());
        let start = self.weight + row * width;
        (start..start + width).chain(self.bias.map(|bias| bias + row))
    }
}

/// Rows of a block, and where the numbers of the block begin among those of all.
#[derive(Clone, Debug)]
struct Item {
    block: usize,
    start: usize,
    rows: Range<usize>,
}

/// The penalty, with room for its gradient.
pub struct Coupled<T> {
    blocks: Vec<Block<T>>,
    /// W*, in public order.
    anchor: Vec<T>,
    strength: f64,
    items: Vec<Item>,
    /// The parameters, then the gradient, in public order.
    flat: Vec<T>,
    /// D, G·D and the products' sum, block by block.
    parts: [Vec<T>; 3],
    scratch: Vec<T>,
    /// Scratch of an item.
    room: usize,
    /// The gradient, in the arena's order.
    pub shift: Buffer<T>,
}

impl<T: Element> Coupled<T> {
    /// A penalty.
    ///
    /// # Errors
    /// If blocks are not such of the network, a number is not finite, the strength is negative, or there is not
    /// enough memory.
    pub fn new(
        network: &Network,
        isa: Isa,
        blocks: Vec<Block<T>>,
        anchor: Vec<T>,
        strength: f64,
    ) -> Result<Self, Error> {
        let n = network.num_parameters();
        let finite = |x: &[T]| x.iter().all(|x| x.is_finite());
        let good = |f: &Factors<T>, b: &Block<T>| {
            f.g.len() == b.rows * b.rows
                && finite(&f.g)
                && f.a.as_ref().map_or(b.cols == 1, |a| a.len() == b.cols * b.cols && finite(a))
        };
        let fits = |b: &Block<T>| (0..b.rows).flat_map(|row| b.places(row)).all(|i| i < n);
        if anchor.len() != n
            || !finite(&anchor)
            || !blocks.iter().all(|b| b.cols > 0 && fits(b) && b.factors.iter().all(|f| good(f, b)))
        {
            let text = "the factors of a penalty must be finite, and of the sizes of the model's layers";
            return Err(Error::Mismatch(text.into()));
        }
        if !(strength >= 0.0 && strength.is_finite()) {
            let accepted = "a finite number >= 0 is needed".into();
            return Err(Error::Argument { name: "strength", value: strength.to_string(), accepted });
        }
        let (mut items, mut len, mut room) = (Vec::new(), 0, 0);
        for (index, block) in blocks.iter().enumerate() {
            for first in (0..block.rows).step_by(ROWS) {
                let rows = first..block.rows.min(first + ROWS);
                for k in [block.rows, block.cols] {
                    room = room.max(plan::<T>(isa, rows.len(), block.cols, k).scratch_len());
                }
                items.push(Item { block: index, start: len, rows });
            }
            len += block.rows * block.cols;
        }
        let zeros = |len: usize| vec![T::ZERO; len];
        Ok(Coupled {
            flat: zeros(n),
            parts: [zeros(len), zeros(len), zeros(len)],
            scratch: zeros(room * items.len()),
            shift: Buffer::zeroed("the gradient of a penalty", network.arena_len())?,
            blocks,
            anchor,
            strength,
            items,
            room,
        })
    }

    /// Computes the gradient at parameters.
    pub fn pull(&mut self, network: &Network, isa: Isa, params: &[T]) {
        self.products(network, isa, params);
        self.flat.fill(T::ZERO);
        let (mut from, strength) = (0, T::lit(self.strength));
        for block in &self.blocks {
            for row in 0..block.rows {
                for place in block.places(row) {
                    self.flat[place] = strength * self.parts[2][from];
                    from += 1;
                }
            }
        }
        network.import(&self.flat, &mut self.shift);
    }

    /// The penalty at parameters.
    pub fn value(&mut self, network: &Network, isa: Isa, params: &[T]) -> f64 {
        self.products(network, isa, params);
        let [d, _, gda] = &self.parts;
        let sum: f64 = d.iter().zip(gda).map(|(d, p)| d.to_f64() * p.to_f64()).sum();
        0.5 * self.strength * sum
    }

    fn products(&mut self, network: &Network, isa: Isa, params: &[T]) {
        network.export(params, &mut self.flat);
        let Coupled { blocks, anchor, flat, items, parts: [d, gd, sum], scratch, room, .. } = self;
        let places = blocks.iter().flat_map(|block| (0..block.rows).flat_map(|row| block.places(row)));
        for (d, place) in d.iter_mut().zip(places) {
            *d = flat[place] - anchor[place];
        }
        let job = Products {
            isa,
            blocks,
            items,
            d,
            gd: Shared::new(gd),
            sum: Shared::new(sum),
            scratch: Shared::new(scratch),
            room: *room,
        };
        threads::run(&job, threads::num_threads().0.min(job.items(0)).max(1));
    }
}

fn plan<T: Element>(isa: Isa, m: usize, n: usize, k: usize) -> GemmPlan {
    GemmPlan::choose::<T>(isa, GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) })
}

struct Products<'a, T> {
    isa: Isa,
    blocks: &'a [Block<T>],
    items: &'a [Item],
    d: &'a [T],
    gd: Shared<'a, T>,
    sum: Shared<'a, T>,
    scratch: Shared<'a, T>,
    room: usize,
}

impl<T: Element> Job for Products<'_, T> {
    fn phases(&self) -> usize {
        1
    }
    fn items(&self, _: usize) -> usize {
        self.items.len()
    }
    fn run(&self, _: usize, item: usize, _: usize) {
        let Item { block, start, rows } = &self.items[item];
        let Block { rows: all, cols, factors, .. } = &self.blocks[*block];
        let (m, n) = (rows.len(), *cols);
        let mine = start + rows.start * n..start + rows.end * n;
        let room = item * self.room..(item + 1) * self.room;
        // SAFETY: every item has its own rows, and its own scratch.
        let (gd, sum, scratch) = unsafe {
            (self.gd.slice_mut(mine.clone()), self.sum.slice_mut(mine), self.scratch.slice_mut(room))
        };
        let d = MatRef::new(&self.d[*start..start + all * n], *all, n);
        sum.fill(T::ZERO);
        for Factors { a, g } in factors {
            let g = MatRef::new(&g[rows.start * all..rows.end * all], m, *all);
            let product = |a: MatRef<'_, T>, b: MatRef<'_, T>, c: &mut [T], init, scratch: &mut [T]| {
                let plan = plan::<T>(self.isa, m, n, a.cols());
                let (a, b, c) = (Lhs::Plain(a), Rhs::Plain(b), MatMut::new(c, m, n));
                Gemm { a, b, c, init, epilogue: Epilogue::None, ahead: &[] }.run(self.isa, &plan, scratch);
            };
            match a {
                None => product(g, d, sum, Init::Accumulate, scratch),
                Some(a) => {
                    product(g, d, gd, Init::Zero, scratch);
                    product(MatRef::new(gd, m, n), MatRef::new(a, n, n), sum, Init::Accumulate, scratch);
                }
            }
        }
    }
}
