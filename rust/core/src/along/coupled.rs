//! Quadratic penalties in which the parameters of a layer, or of all layers, depend on each other.
//!
//! ```text
//! ½·s·Σ_blocks Σ_k tr(Dᵀ·G_k·D·A_k),   D = W − W*        its gradient is s·Σ_k G_k·D·A_k
//! ```
//!
//! For Kronecker factors of the curvature, a block is a layer's weight with its bias as the last column
//! (Ritter, Botev and Barber 2018, arXiv:1805.07810); for a whole matrix, it is a single column of all
//! parameters, and A = 1.
//!
//! The gradient is computed once before an update, with two products for each pair of factors; it is added to
//! that of the loss where the update happens, while the parameter is in the cache. Given D, the rows of a
//! block are independent, so the result is the same for any number of threads. Updates allocate nothing.

use std::ops::Range;

use crate::arena::{Buffer, Shared, zeros};
use crate::element::Element;
use crate::error::{Error, non_negative};
use crate::gemm::plan::GemmShape;
use crate::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::network::Network;
use crate::parallel;
use crate::simd::Isa;
use crate::view::{MatMut, MatRef};

/// Rows of an item, which one thread processes.
const ROWS: usize = 32;

/// Two symmetric factors of a block's curvature.
#[derive(Clone, Debug)]
pub struct Factors<T> {
    /// The factor for the columns of the block; `None` is the identity.
    pub a: Option<Vec<T>>,
    /// The factor for its rows.
    pub g: Vec<T>,
}

/// Parameters that depend on each other, in public order.
#[derive(Clone, Debug)]
pub struct Block<T> {
    /// Where its weights start; they lie row by row.
    pub weight: usize,
    /// Where its last column starts, if that is a bias.
    pub bias: Option<usize>,
    /// Rows.
    pub rows: usize,
    /// Columns, including the bias.
    pub cols: usize,
    /// The pairs whose products are summed.
    pub factors: Vec<Factors<T>>,
}

impl<T> Block<T> {
    /// The places of a row's elements in public order, column by column.
    fn places(&self, row: usize) -> impl Iterator<Item = usize> {
        let width = self.cols - usize::from(self.bias.is_some());
        let start = self.weight + row * width;
        (start..start + width).chain(self.bias.map(|bias| bias + row))
    }
}

/// Rows of a block, and where the block's numbers start among those of all blocks.
#[derive(Clone, Debug)]
struct Item {
    block: usize,
    start: usize,
    rows: Range<usize>,
}

/// The penalty, with memory for its gradient.
pub struct Coupled<T> {
    blocks: Vec<Block<T>>,
    /// W*, in public order.
    anchor: Vec<T>,
    strength: f64,
    items: Vec<Item>,
    /// The parameters, then the gradient, in public order.
    flat: Vec<T>,
    /// D, G·D and the sum of the products, block by block.
    parts: [Vec<T>; 3],
    scratch: Vec<T>,
    /// Elements of scratch of an item.
    room: usize,
    /// The gradient, in the arena's order.
    pub shift: Buffer<T>,
}

impl<T: Element> Coupled<T> {
    /// Makes a penalty.
    ///
    /// # Errors
    /// If blocks are not blocks of the network, a number is not finite, the strength is negative, or there is
    /// not enough memory.
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
            let text =
                "a penalty's factors and anchor must be finite and have the sizes of the model's layers";
            return Err(Error::Mismatch(text.into()));
        }
        non_negative("strength", strength)?;
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
        let zeros = |len: usize| zeros("the workspace of a penalty", len);
        Ok(Coupled {
            flat: zeros(n)?,
            parts: [zeros(len)?, zeros(len)?, zeros(len)?],
            scratch: zeros(room * items.len())?,
            shift: Buffer::zeroed("the gradient of a penalty", network.arena_len())?,
            blocks,
            anchor,
            strength,
            items,
            room,
        })
    }

    /// Computes the gradient at the given parameters.
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
        network.import(isa, &self.flat, &mut self.shift);
    }

    /// The penalty at the given parameters.
    pub fn value(&mut self, network: &Network, isa: Isa, params: &[T]) -> f64 {
        self.products(network, isa, params);
        let [d, _, gda] = &self.parts;
        let sum: f64 = d.iter().zip(gda).map(|(d, p)| d.to_f64() * p.to_f64()).sum();
        0.5 * self.strength * sum
    }

    fn products(&mut self, network: &Network, isa: Isa, params: &[T]) {
        network.export(isa, params, &mut self.flat);
        let Coupled { blocks, anchor, flat, items, parts: [d, gd, sum], scratch, room, .. } = self;
        let places = blocks.iter().flat_map(|block| (0..block.rows).flat_map(|row| block.places(row)));
        for (d, place) in d.iter_mut().zip(places) {
            *d = flat[place] - anchor[place];
        }
        let [gd, sum, scratch] = [gd, sum, scratch].map(|buffer| Shared::new(buffer));
        parallel::each(items.len(), |item| {
            let Item { block, start, rows } = &items[item];
            let Block { rows: all, cols, factors, .. } = &blocks[*block];
            let (m, n) = (rows.len(), *cols);
            let mine = start + rows.start * n..start + rows.end * n;
            let room = item * *room..(item + 1) * *room;
            // SAFETY: items have disjoint rows, and each has its own scratch.
            let (gd, sum, scratch) =
                unsafe { (gd.slice_mut(mine.clone()), sum.slice_mut(mine), scratch.slice_mut(room)) };
            let d = MatRef::new(&d[*start..start + all * n], *all, n);
            sum.fill(T::ZERO);
            for Factors { a, g } in factors {
                let g = MatRef::new(&g[rows.start * all..rows.end * all], m, *all);
                let product = |a: MatRef<'_, T>, b: MatRef<'_, T>, c: &mut [T], init, scratch: &mut [T]| {
                    let plan = plan::<T>(isa, m, n, a.cols());
                    let (a, b, c) = (Lhs::Plain(a), Rhs::Plain(b), MatMut::new(c, m, n));
                    Gemm { a, b, c, init, epilogue: Epilogue::None, ahead: &[] }.run(isa, &plan, scratch);
                };
                match a {
                    None => product(g, d, sum, Init::Accumulate, scratch),
                    Some(a) => {
                        product(g, d, gd, Init::Zero, scratch);
                        product(MatRef::new(gd, m, n), MatRef::new(a, n, n), sum, Init::Accumulate, scratch);
                    }
                }
            }
        });
    }
}

fn plan<T: Element>(isa: Isa, m: usize, n: usize, k: usize) -> GemmPlan {
    GemmPlan::choose::<T>(isa, GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::layer::{Init as Draws, Layer, Linear};

    fn symmetric(n: usize, frequency: f64) -> Vec<f64> {
        (0..n * n).map(|at| (frequency * ((at / n + 1) * (at % n + 1)) as f64).cos()).collect()
    }

    /// Σ_k G_k·D·A_k, computed with loops.
    fn by_loops(factors: &[Factors<f64>], d: &[f64], m: usize, n: usize) -> Vec<f64> {
        let element = |f: &Factors<f64>, i: usize, j: usize| {
            let a = f.a.as_ref().unwrap();
            let inner = |p: usize| (0..n).map(|q| d[p * n + q] * a[q * n + j]).sum::<f64>();
            (0..m).map(|p| f.g[i * m + p] * inner(p)).sum::<f64>()
        };
        (0..m * n).map(|at| factors.iter().map(|f| element(f, at / n, at % n)).sum()).collect()
    }

    #[test]
    fn the_gradient_and_the_value_are_those_of_loops() {
        for (inputs, outputs) in [(3, 1), (7, 5), (20, 2 * ROWS + 3)] {
            for isa in Isa::available() {
                let layer = Linear { inputs, outputs, bias: true, init: Draws::KaimingUniform };
                let mut model = Model::<f64>::with_isa(vec![Layer::Linear(layer)], 3, isa).unwrap();
                let (m, n) = (outputs, inputs + 1);
                let factors: Vec<_> =
                    [0.3, 0.8].map(|f| Factors { a: Some(symmetric(n, f)), g: symmetric(m, 2.0 * f) }).into();
                let block = Block {
                    weight: 0,
                    bias: Some(inputs * outputs),
                    rows: m,
                    cols: n,
                    factors: factors.clone(),
                };
                let count = model.network().num_parameters();
                let anchor: Vec<f64> = (0..count).map(|i| (i as f64).sin()).collect();
                let mut penalty =
                    Coupled::new(model.network(), isa, vec![block], anchor.clone(), 1.5).unwrap();
                let mut theta = vec![0.0; count];
                model.parameters(&mut theta);
                let place = |at: usize| match (at / n, at % n) {
                    (i, j) if j == inputs => inputs * outputs + i,
                    (i, j) => i * inputs + j,
                };
                let d: Vec<f64> = (0..m * n).map(|at| theta[place(at)] - anchor[place(at)]).collect();
                let expected = by_loops(&factors, &d, m, n);
                let value = 0.75 * d.iter().zip(&expected).map(|(d, e)| d * e).sum::<f64>();
                let found = penalty.value(model.network(), isa, &model.params);
                assert!((found - value).abs() <= 1e-11 * (1.0 + value.abs()), "{isa}: {found} {value}");
                penalty.pull(model.network(), isa, &model.params);
                let mut pull = vec![0.0; count];
                model.network().export(isa, &penalty.shift, &mut pull);
                let size = expected.iter().fold(0.0f64, |m, e| m.max(e.abs()));
                for (at, e) in expected.iter().enumerate() {
                    assert!((pull[place(at)] - 1.5 * e).abs() <= 1e-12 * size, "{isa} {at}");
                }
                // A second evaluation does not see what the first one left behind.
                model.set_parameters(&anchor).unwrap();
                assert_eq!(penalty.value(model.network(), isa, &model.params), 0.0);
            }
        }
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let layer = Linear { inputs: 2, outputs: 2, bias: false, init: Draws::KaimingUniform };
        let model = Model::<f64>::new(vec![Layer::Linear(layer)], 0).unwrap();
        let pair = |a: usize, g: usize| Factors { a: Some(vec![1.0; a]), g: vec![1.0; g] };
        for (rows, cols, factors, fits) in
            [(2, 2, pair(4, 4), true), (2, 2, pair(3, 4), false), (3, 2, pair(4, 9), false)]
        {
            let block = Block { weight: 0, bias: None, rows, cols, factors: vec![factors] };
            let made = Coupled::new(model.network(), model.isa(), vec![block], vec![0.0; 4], 1.0);
            assert_eq!(made.is_ok(), fits);
        }
    }
}
