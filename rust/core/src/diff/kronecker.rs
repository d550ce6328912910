//! Kronecker factors of the Fisher information (K-FAC): for each dense layer, second moments of its input and
//! of the slopes with respect to its output.
//!
//! Sample n's gradient of a weight and its bias is an outer product, δ_n·ā_nᵀ, of the slope with respect to
//! the layer's output and its input, extended by a 1 for the bias. The layer's block of the Fisher
//! information is the mean of Kronecker products; K-FAC takes the product of the means instead (Martens and
//! Grosse 2015, arXiv:1503.05671):
//!
//! ```text
//! F = 1/N·Σ_n Σ_k (δ_nk·δ_nkᵀ) ⊗ (ā_n·ā_nᵀ)  ≈  G ⊗ A
//! A = 1/N·Σ_n ā_n·ā_nᵀ            G = 1/N·Σ_n Σ_k δ_nk·δ_nkᵀ
//! ```
//!
//! k counts a row's slopes with respect to the outputs (see [`likelihood`](super::likelihood)). The passes
//! are those of a [`sweep`](super::sweep). Both sums are matrix products; since they are symmetric, tiles
//! below the diagonal are not computed.

use std::ops::Range;

use super::block;
use super::likelihood::Slopes;
use super::sweep::Sweep;
use crate::arena::zeros;
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::plan::GemmShape;
use crate::gemm::{Init, Lhs, Rhs};
use crate::layer::Power;
use crate::loss::Targets;
use crate::model::Model;
use crate::network::Network;
use crate::parallel;
use crate::threads;
use crate::view::{MatMut, MatRef};
use crate::workspace::Workspace;

/// Rows and columns of a tile.
const TILE: usize = 128;
/// Multiply-adds per thread from which another thread pays off.
const WORK_PER_THREAD: usize = 1 << 17;
/// What the error names if there is not enough memory.
const FACTORS: &str = "Kronecker factors";

/// Factors of a dense layer, as full matrices, row by row.
pub struct Factors {
    /// The layer's place in the network, as in the names of its parameters: `"0"`, `"2.1"`.
    pub layer: String,
    /// Second moments of the inputs, extended by a 1 if there is a bias.
    pub a: Vec<f64>,
    /// Second moments of the slopes.
    pub g: Vec<f64>,
    /// Number of rows of each.
    pub sizes: [usize; 2],
}

/// Which of a layer's two matrices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inputs,
    Slopes,
}

/// A part of a factor: a range of rows and a range of columns.
struct Tile<T> {
    stage: usize,
    side: Side,
    rows: Range<usize>,
    cols: Range<usize>,
    /// The sum over a chunk, and over everything.
    sum: Vec<T>,
    total: Vec<f64>,
}

/// Sums in progress.
pub struct Kronecker<T: Element> {
    sweep: Sweep<T>,
    tiles: Vec<Tile<T>>,
    /// For each stage with a bias, the sum of its inputs.
    sums: Vec<(usize, Vec<f64>)>,
    count: usize,
}

impl<T: Element> Kronecker<T> {
    /// Sums over nothing yet.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(network: &Network, slopes: Slopes) -> Result<Self, Error> {
        let (mut tiles, mut sums) = (Vec::new(), Vec::new());
        for (stage, s) in network.stages().iter().enumerate() {
            let Some(dense) = s.dense else { continue };
            if dense.bias.is_some() {
                sums.push((stage, zeros("sums of inputs", s.inputs)?));
            }
            for (side, n) in [(Side::Inputs, s.inputs), (Side::Slopes, s.outputs)] {
                let part = |from: usize| from..n.min(from + TILE);
                for row in (0..n).step_by(TILE) {
                    for col in (row..n).step_by(TILE) {
                        let (rows, cols) = (part(row), part(col));
                        let len = rows.len() * cols.len();
                        tiles.push(Tile {
                            stage,
                            side,
                            rows,
                            cols,
                            sum: zeros(FACTORS, len)?,
                            total: zeros(FACTORS, len)?,
                        });
                    }
                }
            }
        }
        Ok(Kronecker { sweep: Sweep::new(slopes), tiles, sums, count: 0 })
    }

    /// Adds some rows of the data, which must have been checked (see [`Sweep::forward`]); targets are those
    /// of all rows.
    ///
    /// # Errors
    /// If something is not finite; nothing is added then.
    pub fn add<'s>(
        &mut self,
        model: &mut Model<T>,
        x: impl Into<Samples<'s, T>>,
        rows: Range<usize>,
        y: Option<&Targets<'_, T>>,
    ) -> Result<(), Error> {
        let len = rows.len();
        self.sweep.forward(model, x.into(), rows)?;
        self.multiply(model, Side::Inputs);
        for k in 0..self.sweep.count() {
            self.sweep.backward(model, k, |_| 1.0, y, Power::One);
            self.multiply(model, Side::Slopes);
        }
        let workspace = &*self.sweep.workspace();
        parallel::pieces(&mut self.sums, threads::num_threads().0, |(stage, sum)| {
            for row in matrix(model.network(), workspace, *stage, Side::Inputs).chunks_exact(sum.len()) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x.to_f64());
            }
        });
        for tile in &mut self.tiles {
            for (total, sum) in tile.total.iter_mut().zip(&mut tile.sum) {
                *total += std::mem::take(sum).to_f64();
            }
        }
        self.count += len;
        Ok(())
    }

    /// Adds the current rows to the tiles of one side.
    fn multiply(&mut self, model: &Model<T>, side: Side) {
        let workspace = &*self.sweep.workspace();
        let (network, isa, k) = (model.network(), model.isa(), workspace.plan.rows);
        let mut tiles: Vec<_> = self.tiles.iter_mut().filter(|tile| tile.side == side).collect();
        let work: usize = tiles.iter().map(|tile| tile.sum.len() * k).sum();
        let threads = threads::num_threads().0.min(work / WORK_PER_THREAD).max(1);
        parallel::pieces(&mut tiles, threads, |tile| {
            let all = matrix(network, workspace, tile.stage, side);
            let width = all.len() / k;
            let all = MatRef::new(all, k, width);
            let (m, n) = (tile.rows.len(), tile.cols.len());
            let a = Lhs::Plain(all.block(0, k, tile.rows.start, m).t());
            let b = Rhs::Plain(all.block(0, k, tile.cols.start, n));
            let shape =
                GemmShape { m, n, k, a_row_stride: 1, a_col_stride: width, b_row_stride: Some(width) };
            let into = MatMut::new(&mut tile.sum, m, n);
            block::run(isa, shape, a, b, into, Init::Accumulate, &mut Vec::new());
        });
    }

    /// The means over everything that was added, layer by layer.
    ///
    /// # Errors
    /// If they are not finite (inputs or slopes are too large for the model's precision), or there is not
    /// enough memory.
    pub fn factors(&self, network: &Network) -> Result<Vec<Factors>, Error> {
        let mut result = Vec::new();
        for (index, stage) in network.stages().iter().enumerate() {
            let Some(dense) = stage.dense else { continue };
            let name = |block: &&crate::network::Block| block.offset == dense.weight;
            let name = &network.blocks().iter().find(name).expect("a weight is a block").name;
            let sizes = [stage.inputs + usize::from(dense.bias.is_some()), stage.outputs];
            let [inputs, outputs] = sizes;
            let (mut a, mut g) = (zeros(FACTORS, inputs * inputs)?, zeros(FACTORS, outputs * outputs)?);
            let mean = |sum: f64| sum / self.count as f64;
            for tile in self.tiles.iter().filter(|tile| tile.stage == index) {
                let (into, n) = match tile.side {
                    Side::Inputs => (&mut a, sizes[0]),
                    Side::Slopes => (&mut g, sizes[1]),
                };
                for (row, values) in tile.rows.clone().zip(tile.total.chunks_exact(tile.cols.len())) {
                    for (col, sum) in tile.cols.clone().zip(values) {
                        (into[row * n + col], into[col * n + row]) = (mean(*sum), mean(*sum));
                    }
                }
            }
            if let Some((_, sums)) = self.sums.iter().find(|(stage, _)| *stage == index) {
                let (n, last) = (sizes[0], sizes[0] - 1);
                for (i, sum) in sums.iter().enumerate() {
                    (a[last * n + i], a[i * n + last]) = (mean(*sum), mean(*sum));
                }
                a[last * n + last] = 1.0;
            }
            if !a.iter().chain(&g).all(|x| x.is_finite()) {
                return Err(Error::Mismatch(format!(
                    "second moments for {name} are too large for this precision: use a model with \
                     dtype=\"float64\""
                )));
            }
            result.push(Factors { layer: name.trim_end_matches(".weight").into(), a, g, sizes });
        }
        Ok(result)
    }
}

/// A dense stage's inputs, or the slopes with respect to its outputs, for the current rows.
fn matrix<'w, T: Element>(
    network: &Network,
    workspace: &'w Workspace<T>,
    stage: usize,
    side: Side,
) -> &'w [T] {
    let (slots, rows) = (&workspace.layout.stages, workspace.plan.rows);
    let (start, width) = match (side, stage) {
        (Side::Slopes, _) => (slots[stage].delta, network.stages()[stage].outputs),
        (Side::Inputs, 0) => (workspace.layout.input, network.stages()[stage].inputs),
        (Side::Inputs, _) => (slots[stage - 1].output, network.stages()[stage].inputs),
    };
    &workspace.values[start..start + rows * width]
}
