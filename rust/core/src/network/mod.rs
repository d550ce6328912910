//! A network: layers as the user listed them, stages as they run, and one flat arena of parameters. `build`
//! turns layers into stages, and `transfer` copies parameters between the arena and the order that users see.

mod build;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::atomic::{AtomicU64, Ordering};

use self::build::Places;
use crate::arena::Buffer;
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::layer::{Activation, BatchNorm, Fourier, Init, Layer, RowNorm, Standardize, TabularInput};
use crate::rng::{Purpose, Stream};
use crate::simd::Isa;

/// A dense layer's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Where its weight (in, out) starts, which is stored in panels ([`gemm::pack`](crate::gemm::pack)).
    pub weight: usize,
    /// Where its bias starts, if it has one.
    pub bias: Option<usize>,
    /// How both are initialized.
    pub init: Init,
    /// Its number among all layers, which determines its random stream.
    pub number: u64,
}

/// A normalization's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// What it is.
    pub over: Over,
    /// Where γ starts, if there is one.
    pub scale: Option<usize>,
    /// Where β starts, if there is one.
    pub shift: Option<usize>,
}

impl Norm {
    /// Whether its statistics are over the rows of a batch.
    pub fn over_batch(&self) -> bool {
        matches!(self.over, Over::Batch { .. })
    }
}

/// What the statistics of a normalization are taken over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    /// The rows of a batch.
    Batch {
        /// The layer.
        layer: BatchNorm,
        /// Where its running mean and variance start in the arena of averages.
        running: (usize, usize),
    },
    /// The columns of each row.
    Row(RowNorm),
}

/// A layer that turns rows into others of a different kind, alone in its stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoder {
    /// Fourier features.
    Fourier {
        /// The layer.
        layer: Fourier,
        /// Where its frequencies start in the arena of averages.
        start: usize,
        /// Its number among all layers, which determines its random stream.
        number: u64,
    },
    /// Columns scaled to a common scale, or back.
    Standardize {
        /// The layer.
        layer: Standardize,
        /// Where its means and deviations start in the arena of averages.
        starts: [usize; 2],
    },
    /// Numbers and categories.
    Tabular {
        /// The layer.
        layer: TabularInput,
        /// Where its tables start in the arena of parameters.
        starts: Vec<usize>,
        /// Its number among all layers, which determines its random stream.
        number: u64,
    },
}

/// What runs as a unit: a dense layer with the normalization and the element-wise layer after it, or some of
/// the three alone. The end of a block of layers, where its input joins its output, takes the place of a dense
/// layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The dense layer, if there is one.
    pub dense: Option<Dense>,
    /// The number of the encoder, if the stage is one; then there is nothing else.
    pub encoder: Option<usize>,
    /// The normalization, if there is one.
    pub norm: Option<Norm>,
    /// If this ends a block, the stage whose input is added to this one's: the block's first stage, or this
    /// one if nothing runs in the block. Where this one's output is wider than its input, it comes in front of
    /// this one's instead.
    pub skip: Option<usize>,
    /// The activation; [`Activation::Identity`] if there is none.
    pub act: Activation,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
}

impl Stage {
    /// Columns of the output in front of those that come from the stage's own input, in a stage without a
    /// dense layer or an encoder: those of the input of the block that it ends.
    pub fn front(&self) -> usize {
        self.outputs - self.inputs
    }

    /// Whether an activation or a normalization that follows can become part of it.
    fn is_open(&self) -> bool {
        self.encoder.is_none() && self.act == Activation::Identity
    }
}

/// A parameter array as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// `"0.weight"`, as in PyTorch's state dicts.
    pub name: String,
    /// `(out, in)` or `(out,)`.
    pub shape: Vec<usize>,
    /// Where it starts in the arena.
    pub offset: usize,
}

impl Block {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The structure of a network, without parameter values.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    identity: Identity,
    layers: Vec<Layer>,
    stages: Vec<Stage>,
    encoders: Vec<Encoder>,
    params: Places,
    averages: Places,
}

/// Identifies the network that something was made for: a number shared only with copies, which have the same
/// structure.
#[derive(Clone, Copy, Debug)]
pub struct Identity(u64);

impl Identity {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Identity(MADE.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether both identify the same network, or copies of one.
    pub fn is(self, other: Self) -> bool {
        self.0 == other.0
    }
}

/// Networks are equal if their structures are, so identities do not count.
impl PartialEq for Identity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Network {
    /// Its identity.
    pub fn identity(&self) -> Identity {
        self.identity
    }
    /// The layers, as listed.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
    /// The stages, in the order in which they run.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }
    /// The encoders of stages.
    pub fn encoders(&self) -> &[Encoder] {
        &self.encoders
    }
    /// Where the tables of an encoder start.
    pub fn tables(&self, encoder: usize) -> &[usize] {
        match &self.encoders[encoder] {
            Encoder::Tabular { starts, .. } => starts,
            Encoder::Fourier { .. } | Encoder::Standardize { .. } => &[],
        }
    }

    /// Where the parameters of a stage start: of its dense layer, its normalization and its tables.
    pub fn starts<'n>(&'n self, stage: &Stage) -> impl Iterator<Item = usize> + use<'n> {
        let dense = stage.dense.map(|dense| [Some(dense.weight), dense.bias]);
        let norm = stage.norm.map(|norm| [norm.scale, norm.shift]);
        let tables = stage.encoder.map_or(&[][..], |encoder| self.tables(encoder));
        dense.into_iter().chain(norm).flatten().flatten().chain(tables.iter().copied())
    }

    /// The tables of the input's codes, if there are any.
    pub fn table(&self) -> Option<&TabularInput> {
        match self.encoders.first() {
            Some(Encoder::Tabular { layer, .. }) => Some(layer),
            _ => None,
        }
    }
    /// The parameter arrays, in public order.
    pub fn blocks(&self) -> &[Block] {
        &self.params.blocks
    }
    /// Elements of the arena, padding included.
    pub fn arena_len(&self) -> usize {
        self.params.len
    }
    /// The running averages of normalizations, as users see them; offsets are in an arena of their own.
    pub fn averages(&self) -> &[Block] {
        &self.averages.blocks
    }
    /// Elements of the running averages' arena, padding included.
    pub fn averages_len(&self) -> usize {
        self.averages.len
    }
    /// Whether a row's output depends on the other rows of its batch while training.
    pub fn couples_rows(&self) -> bool {
        self.stages.iter().any(|s| s.norm.is_some_and(|n| n.over_batch()))
    }
    /// Whether there are normalizations, whose gradients are sums over groups of rows.
    pub fn has_norms(&self) -> bool {
        self.stages.iter().any(|s| s.norm.is_some())
    }
    /// The stages that end a block whose first stage is `first`: its input is part of what they read.
    pub fn ends(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let ends = move |(index, stage): (usize, &Stage)| (stage.skip == Some(first)).then_some(index);
        self.stages.iter().enumerate().filter_map(ends)
    }
    /// Most blocks whose inputs wait for their ends at the same time: how deeply blocks are nested.
    pub fn depth(&self) -> usize {
        let waiting = |index| {
            let over = |(end, s): (usize, &Stage)| end >= index && s.skip.is_some_and(|first| first <= index);
            self.stages.iter().enumerate().filter(|stage| over(*stage)).count()
        };
        (0..self.stages.len()).map(waiting).max().unwrap_or(0)
    }
    /// Number of parameters.
    pub fn num_parameters(&self) -> usize {
        self.blocks().iter().map(Block::len).sum()
    }
    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.stages[0].inputs
    }
    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.stages[self.stages.len() - 1].outputs
    }
    /// The largest width of rows, including the input.
    pub fn max_width(&self) -> usize {
        self.stages.iter().map(|s| s.outputs).chain([self.inputs()]).max().unwrap_or(0)
    }

    /// Checks the shape of an input, and its category codes.
    ///
    /// # Errors
    /// If it has no rows or another width, or a number is not a code.
    pub fn check_input<T: Element>(&self, x: Samples<'_, T>) -> Result<(), Error> {
        let (rows, width) = (x.rows(), x.cols());
        if width != self.inputs() {
            let (layer, name) = build::first_wide(&self.layers)
                .map(|(place, layer, _)| (place, layer.name()))
                .unwrap_or_default();
            return Err(Error::InputWidth { layer, name, rows, found: width, expected: self.inputs() });
        }
        if rows == 0 {
            return Err(Error::Empty);
        }
        let Some(table) = self.table() else { return Ok(()) };
        for row in 0..rows {
            for category in &table.categories {
                let (column, value) = (category.column, x.at(row, category.column));
                if category.code(value).is_none() {
                    return Err(Error::Code { row, column, value, codes: category.codes });
                }
            }
        }
        Ok(())
    }

    /// Checks that a batch has enough rows for training.
    ///
    /// # Errors
    /// If it has only one, and statistics are taken over rows.
    pub fn check_training_rows(&self, rows: usize) -> Result<(), Error> {
        if rows == 1 && self.couples_rows() {
            return Err(Error::argument(
                "x",
                "1 row to train on",
                "BatchNorm1d needs 2 rows or more for the statistics of a batch; LayerNorm \
                            normalizes each row by itself",
            ));
        }
        Ok(())
    }

    /// Checks that the encoders' constants are usable in a precision.
    ///
    /// # Errors
    /// If two that must differ become equal, or one is too large or too small.
    pub fn check_precision<T: Element>(&self) -> Result<(), Error> {
        self.encoders.iter().try_for_each(|encoder| match encoder {
            Encoder::Fourier { .. } => Ok(()),
            Encoder::Standardize { layer, .. } => layer.check_precision::<T>(),
            Encoder::Tabular { layer, .. } => layer.check_precision::<T>(),
        })
    }

    /// Draws initial parameters into an arena, and initializes running averages as for standardized inputs.
    pub fn initialize<T: Element>(
        &self,
        isa: Isa,
        seed: u64,
        arena: &mut Buffer<T>,
        averages: &mut Buffer<T>,
    ) {
        for stage in &self.stages {
            let (Some(norm), n) = (stage.norm, stage.outputs) else { continue };
            if let Over::Batch { running: (_, variance), .. } = norm.over {
                averages[variance..variance + n].fill(T::ONE);
            }
            if let Some(gamma) = norm.scale {
                arena[gamma..gamma + n].fill(T::ONE);
            }
        }
        for encoder in &self.encoders {
            match encoder {
                Encoder::Fourier { layer, start, number } => {
                    let mut rng = Stream::new(seed, Purpose::Init, *number);
                    layer.draw(&mut rng, &mut averages[*start..start + layer.inputs * layer.count()]);
                }
                Encoder::Standardize { layer, starts } => {
                    for (values, start) in [&layer.mean, &layer.std].into_iter().zip(starts) {
                        let into = &mut averages[*start..start + values.len()];
                        into.iter_mut().zip(values).for_each(|(into, value)| *into = T::lit(*value));
                    }
                }
                Encoder::Tabular { layer, starts, number } => {
                    let mut rng = Stream::new(seed, Purpose::Init, *number);
                    for (category, start) in layer.categories.iter().zip(starts) {
                        for code in 0..category.codes {
                            for j in 0..category.dim {
                                arena[start + category.place(code, j)] = T::lit(rng.normal());
                            }
                        }
                    }
                }
            }
        }
        for stage in &self.stages {
            let Some(Dense { weight: start, bias, init, number }) = stage.dense else { continue };
            let Stage { inputs, outputs, .. } = *stage;
            let mut rng = Stream::new(seed, Purpose::Init, number);
            let (weight, rest) = arena[start..].split_at_mut(inputs * outputs);
            let bias = match bias {
                Some(bias) => &mut rest[bias - start - weight.len()..][..outputs],
                None => &mut [],
            };
            init.draw(isa, &mut rng, inputs, weight, bias);
        }
    }
}
