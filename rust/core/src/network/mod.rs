//! A network: layers as the user listed them, stages as they run, and one flat arena of parameters. `build` makes stages
//! of layers, and `transfer` carries parameters between the arena and the order that users see.

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
    /// Where its weight (in, out) starts, which lies in panels ([`gemm::pack`](crate::gemm::pack)).
    pub weight: usize,
    /// Where its bias starts, if it has one.
    pub bias: Option<usize>,
    /// How both are drawn at first.
    pub init: Init,
    /// Its number among all layers, which they are drawn by.
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

/// What a normalization takes its statistics over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Over {
    /// The rows of a batch.
    Batch {
        /// What it is.
        layer: BatchNorm,
        /// Where its running mean and variance start in the arena of averages.
        running: (usize, usize),
    },
    /// The columns of a row.
    Row(RowNorm),
}

/// A layer that makes rows of another kind, by itself in its stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoder {
    /// Features of Fourier.
    Fourier {
        /// What it is.
        layer: Fourier,
        /// Where its frequencies start in the arena of averages.
        start: usize,
        /// Its number among all layers, which they are drawn by.
        number: u64,
    },
    /// Columns on their common scale, or back.
    Standardize {
        /// What it is.
        layer: Standardize,
        /// Where its means and deviations start in the arena of averages.
        starts: [usize; 2],
    },
    /// Numbers and categories.
    Tabular {
        /// What it is.
        layer: TabularInput,
        /// Where its tables start in the arena of parameters.
        starts: Vec<usize>,
        /// Its number among all layers, which they are drawn by.
        number: u64,
    },
}

/// What runs in one go: a dense layer with the normalization and the element-wise layer behind it, or
/// some of the three alone. The sum at the end of a block stands where a dense layer would.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The dense layer, if there is one.
    pub dense: Option<Dense>,
    /// The encoder, if it is one, by its number; there is nothing else then.
    pub encoder: Option<usize>,
    /// The normalization, if there is one.
    pub norm: Option<Norm>,
    /// Which stage's input is added to this one's, if this ends a block: that of the block's first, or of
    /// this one if nothing runs in the block.
    pub skip: Option<usize>,
    /// What follows, [`Activation::Identity`] if nothing does.
    pub act: Activation,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
}

impl Stage {
    /// Whether an activation or a normalization behind it can be a part of it.
    fn is_open(&self) -> bool {
        self.encoder.is_none() && self.act == Activation::Identity
    }
}

/// A parameter as users see it.
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

/// The structure of a network, without its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    identity: Identity,
    layers: Vec<Layer>,
    stages: Vec<Stage>,
    encoders: Vec<Encoder>,
    params: Places,
    averages: Places,
}

/// Which network something was made for: a number that no other has but copies, which are of one structure.
#[derive(Clone, Copy, Debug)]
pub struct Identity(u64);

impl Identity {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Identity(MADE.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether both are of one network, or of copies of one.
    pub fn is(self, other: Self) -> bool {
        self.0 == other.0
    }
}

/// Networks are equal if their structures are, whoever made them.
impl PartialEq for Identity {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Network {
    /// Which it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }
    /// The layers, as listed.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
    /// What runs.
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
    /// The tables that the input's codes are of, if there are some.
    pub fn table(&self) -> Option<&TabularInput> {
        match self.encoders.first() {
            Some(Encoder::Tabular { layer, .. }) => Some(layer),
            _ => None,
        }
    }
    /// The parameters in their public order.
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
    /// The stages that end a block with the input of stage `first` to add.
    pub fn ends(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let ends = move |(index, stage): (usize, &Stage)| (stage.skip == Some(first)).then_some(index);
        self.stages.iter().enumerate().filter_map(ends)
    }
    /// How many blocks' inputs wait for their ends at most at the same time: how deep blocks are nested.
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
    /// The widest that rows get, the input included.
    pub fn max_width(&self) -> usize {
        self.stages.iter().map(|s| s.outputs).chain([self.inputs()]).max().unwrap_or(0)
    }

    /// Checks the shape of an input, and the codes of categories in it.
    ///
    /// # Errors
    /// If it has no rows or another width, or a number is no code.
    pub fn check_input<T: Element>(&self, x: Samples<'_, T>) -> Result<(), Error> {
        let (rows, width) = (x.rows(), x.cols());
        if width != self.inputs() {
            let (layer, name) = build::first_wide("", &self.layers)
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

    /// Checks that a batch has rows enough to train on.
    ///
    /// # Errors
    /// If it has one, and there are statistics to take over rows.
    pub fn check_training_rows(&self, rows: usize) -> Result<(), Error> {
        if rows == 1 && self.couples_rows() {
            let accepted =
                "BatchNorm1d takes statistics over the rows of a batch, which takes 2 rows or more";
            return Err(Error::Argument {
                name: "x",
                value: "1 row to train on".into(),
                accepted: accepted.into(),
            });
        }
        Ok(())
    }

    /// Checks that what its encoders are given are numbers of use in a precision.
    ///
    /// # Errors
    /// If two of them that must differ are the same, or one is too large or too small.
    pub fn check_precision<T: Element>(&self) -> Result<(), Error> {
        self.encoders.iter().try_for_each(|encoder| match encoder {
            Encoder::Fourier { .. } => Ok(()),
            Encoder::Standardize { layer, .. } => layer.check_precision::<T>(),
            Encoder::Tabular { layer, .. } => layer.check_precision::<T>(),
        })
    }

    /// Draws initial parameters into an arena, and sets running averages to those of standard numbers.
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
