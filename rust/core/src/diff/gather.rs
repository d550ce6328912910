//! The last part of a product: the tangents of the parameters' gradients, from all blocks; and the pieces
//! into which such sums over blocks are divided.

use super::Site;
use super::block::Block;
use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::layer::Category;
use crate::network::{Encoder, Network};
use crate::parallel;
use crate::view::MatMut;

/// Rows of a weight that are processed together.
const TILE: usize = 256;

/// What a piece of the result belongs to.
#[derive(Clone, Copy)]
pub enum Part {
    /// Vectors of a category, which are in the output from a column on.
    Table {
        /// Which category.
        category: Category,
        /// That column.
        first: usize,
    },
    /// Rows of one panel of a weight.
    Weight {
        /// The first of the rows.
        from: usize,
        /// The panel's first column.
        col: usize,
        /// Its columns.
        n: usize,
    },
    /// A bias.
    Bias,
    /// γ
    Scale,
    /// β
    Shift,
}

/// Sums over the rows of all blocks, in the order of blocks and in double precision.
pub fn sums<T: Element>(blocks: &[Block<T>], index: usize, which: usize) -> Vec<f64> {
    let mut total = vec![0.0; blocks[0].slots[index].sums[which].len()];
    for block in blocks {
        total.iter_mut().zip(&block.slots[index].sums[which]).for_each(|(sum, x)| *sum += x.to_f64());
    }
    total
}

/// Divides `result`, which is in the order of the arena, into pieces: their stage, what they are, and the
/// piece.
pub fn parts<'r, T: Element>(network: &Network, result: &'r mut [T]) -> Vec<(usize, Part, &'r mut [T])> {
    let mut parts = Vec::new();
    let (mut rest, mut at) = (result, 0);
    for (index, stage) in network.stages().iter().enumerate() {
        let mut take = |start: usize, len: usize| {
            let (part, after) = std::mem::take(&mut rest)[start - at..].split_at_mut(len);
            (rest, at) = (after, start + len);
            part
        };
        if let Some(Encoder::Tabular { layer, starts, .. }) =
            stage.encoder.map(|encoder| &network.encoders()[encoder])
        {
            layer.each_category(|k, category, first| {
                let into = take(starts[k], category.codes * category.dim);
                parts.push((index, Part::Table { category: *category, first }, into));
            });
        }
        if let Some(dense) = stage.dense {
            let mut weight = take(dense.weight, stage.inputs * stage.outputs);
            for col in (0..stage.outputs).step_by(PANEL) {
                let n = PANEL.min(stage.outputs - col);
                for from in (0..stage.inputs).step_by(TILE) {
                    let (part, after) = weight.split_at_mut(TILE.min(stage.inputs - from) * n);
                    weight = after;
                    parts.push((index, Part::Weight { from, col, n }, part));
                }
            }
            if let Some(bias) = dense.bias {
                parts.push((index, Part::Bias, take(bias, stage.outputs)));
            }
        }
        if let Some(norm) = stage.norm {
            for (start, part) in [(norm.scale, Part::Scale), (norm.shift, Part::Shift)] {
                start.into_iter().for_each(|start| parts.push((index, part, take(start, stage.outputs))));
            }
        }
    }
    parts
}

/// into ← into + the sum of rows.
pub fn add_rows<T: Element>(into: &mut [T], rows: &[T]) {
    for row in rows.chunks_exact(into.len()) {
        into.iter_mut().zip(row).for_each(|(into, d)| *into += *d);
    }
}

impl<T: Element> Site<'_, T> {
    /// Adds the tangents of the parameters' gradients, over the rows of the blocks, to `result`, which is in
    /// the order of the arena.
    pub fn gather(&self, blocks: &[Block<T>], result: &mut [T]) {
        let mut parts = parts(self.network, result);
        parallel::pieces(&mut parts, self.threads, |(index, part, into)| {
            let n = self.network.stages()[*index].outputs;
            match *part {
                Part::Weight { from, col, n } => {
                    let (rows, mut scratch) = (into.len() / n, Vec::new());
                    for block in blocks {
                        let into = MatMut::new(into, rows, n);
                        block.weights(self, *index, (from, col), into, &mut scratch);
                    }
                }
                Part::Table { category, first } => {
                    blocks.iter().for_each(|block| block.table(self, *index, &category, first, into));
                }
                Part::Bias => {
                    let dz_dot = |block: &Block<T>| block.rows * n;
                    blocks.iter().for_each(|b| add_rows(into, &b.slots[*index].delta[..dz_dot(b)]));
                }
                Part::Scale | Part::Shift => {
                    let total = sums(blocks, *index, usize::from(matches!(part, Part::Scale)));
                    into.iter_mut().zip(total).for_each(|(into, d)| *into += T::lit(d));
                }
            }
        });
    }
}
