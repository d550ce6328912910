//! A network: layers as the user listed them, stages as they run, and one flat arena of parameters.

use crate::arena::{Buffer, padded};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::{PANEL, offset, transpose};
use crate::layer::{Activation, BatchNorm, Fourier, Init, Layer, Linear, RowNorm, TabularInput};
use crate::rng::{Purpose, Stream};
use crate::simd::Isa;
use crate::view::MatRef;

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

    /// Calls `f(public index, index behind its start in the arena)` for every element.
    pub fn translate(&self, mut f: impl FnMut(usize, usize)) {
        let (outputs, inputs) = match self.shape[..] {
            [outputs, inputs] => (outputs, inputs),
            _ => (self.len(), 1),
        };
        let mut public = 0;
        for o in 0..outputs {
            for i in 0..inputs {
                f(public, offset(inputs, outputs, i, o));
                public += 1;
            }
        }
    }
}

/// The structure of a network, without its numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    layers: Vec<Layer>,
    stages: Vec<Stage>,
    encoders: Vec<Encoder>,
    blocks: Vec<Block>,
    arena_len: usize,
    averages: Vec<Block>,
    averages_len: usize,
}

/// The first layer that says how wide its input is: its place, itself, and that width.
fn first_wide<'l>(path: &str, layers: &'l [Layer]) -> Option<(String, &'l Layer, usize)> {
    layers.iter().enumerate().find_map(|(index, layer)| {
        let place = format!("{path}{index}");
        match layer {
            Layer::Linear(linear) => Some((place, layer, linear.inputs)),
            Layer::BatchNorm(norm) => Some((place, layer, norm.features)),
            Layer::RowNorm(norm) => Some((place, layer, norm.features)),
            Layer::Fourier(fourier) => Some((place, layer, fourier.inputs)),
            Layer::Tabular(table) => Some((place, layer, table.inputs)),
            Layer::Activation(_) => None,
            Layer::Residual(inner) => first_wide(&format!("{place}."), inner),
        }
    })
}

impl Network {
    /// Checks the layers and lays out the arena.
    ///
    /// # Errors
    /// If a layer does not fit the one before, is of width 0, or no layer is dense.
    pub fn new(layers: Vec<Layer>) -> Result<Self, Error> {
        let mut network = Network {
            layers: Vec::new(),
            stages: Vec::new(),
            encoders: Vec::new(),
            blocks: Vec::new(),
            arena_len: 0,
            averages: Vec::new(),
            averages_len: 0,
        };
        if let Some((_, _, width)) = first_wide("", &layers) {
            network.add("", &layers, width, &mut 0)?;
        }
        if !network.stages.iter().any(|s| s.dense.is_some()) {
            return Err(Error::Argument {
                name: "layers",
                value: format!("a list of {} without a Linear", layers.len()),
                accepted: "a network needs at least one Linear layer".into(),
            });
        }
        network.layers = layers;
        Ok(network)
    }

    /// Adds layers behind `width` columns, as stages; gives the width behind them. `path` stands before
    /// their places, and `drawn` counts the layers, inside of blocks and out, by which weights are drawn.
    fn add(
        &mut self,
        path: &str,
        layers: &[Layer],
        mut width: usize,
        drawn: &mut u64,
    ) -> Result<usize, Error> {
        // What was before a block ends there: the block's input is needed as it is.
        let start = self.stages.len();
        let alone = |width| Stage {
            dense: None,
            encoder: None,
            norm: None,
            act: Activation::Identity,
            skip: None,
            inputs: width,
            outputs: width,
        };
        for (index, layer) in layers.iter().enumerate() {
            let place = format!("{path}{index}");
            let number = *drawn;
            *drawn += 1;
            match layer {
                Layer::Linear(linear) => {
                    let name = layer.name();
                    for (argument, value) in
                        [("in_features", linear.inputs), ("out_features", linear.outputs)]
                    {
                        if value == 0 {
                            return Err(Error::Argument {
                                name: argument,
                                value: format!("0 in layer {place} ({name})"),
                                accepted: "a whole number ≥ 1 is needed".into(),
                            });
                        }
                    }
                    if linear.inputs != width {
                        return Err(Error::LayerWidth {
                            layer: place,
                            name,
                            expected: linear.inputs,
                            found: width,
                        });
                    }
                    let dense = self.place(&place, number, linear).ok_or_else(|| Error::Argument {
                        name: "in_features · out_features",
                        value: format!("more than can be counted in layer {place} ({name})"),
                        accepted: "use narrower layers, whose weights fit into memory".into(),
                    })?;
                    width = linear.outputs;
                    let inputs = linear.inputs;
                    self.stages.push(Stage { dense: Some(dense), inputs, ..alone(width) });
                }
                Layer::BatchNorm(_) | Layer::RowNorm(_) => {
                    let norm = self.place_norm(&place, width, layer)?;
                    match self.stages[start..].last_mut() {
                        Some(stage) if stage.is_open() && stage.norm.is_none() => stage.norm = Some(norm),
                        _ => self.stages.push(Stage { norm: Some(norm), ..alone(width) }),
                    }
                }
                Layer::Activation(Activation::Identity) => {}
                Layer::Activation(act) => {
                    if let Some((name, value, accepted)) = act.wrong() {
                        return Err(Error::Argument {
                            name,
                            value: format!("{value} in layer {place} ({})", act.name()),
                            accepted: accepted.into(),
                        });
                    }
                    match self.stages[start..].last_mut() {
                        // Dropout is alone: what comes before it reads its own output on the way back.
                        Some(stage) if stage.is_open() && !matches!(act, Activation::Dropout(_)) => {
                            stage.act = *act
                        }
                        _ => self.stages.push(Stage { act: *act, ..alone(width) }),
                    }
                }
                Layer::Fourier(fourier) => {
                    if fourier.inputs != width {
                        let (name, expected) = (layer.name(), fourier.inputs);
                        return Err(Error::LayerWidth { layer: place, name, expected, found: width });
                    }
                    let shape = vec![fourier.inputs, fourier.count()];
                    let start = self.averages_len;
                    self.averages_len += padded::<f32>(shape[0] * shape[1]);
                    self.averages.push(Block { name: format!("{place}.frequencies"), shape, offset: start });
                    width = 2 * fourier.count();
                    self.encode(Encoder::Fourier { layer: fourier.clone(), start, number }, &alone(width));
                }
                Layer::Tabular(table) => {
                    table.check()?;
                    if place != "0" {
                        return Err(Error::Argument {
                            name: "layers",
                            value: format!("{} as layer {place}", layer.name()),
                            accepted: "codes of categories are an input: it must be the first layer".into(),
                        });
                    }
                    let mut starts = Vec::new();
                    for category in &table.categories {
                        let shape = vec![category.codes, category.dim];
                        let start = self.arena_len;
                        starts.push(start);
                        self.arena_len += padded::<f32>(shape[0] * shape[1]);
                        let name = format!("{place}.{}.weight", category.column);
                        self.blocks.push(Block { name, shape, offset: start });
                    }
                    width = table.outputs();
                    self.encode(Encoder::Tabular { layer: table.clone(), starts, number }, &alone(width));
                }
                Layer::Residual(inner) => {
                    let skip = Some(self.stages.len());
                    let outputs = self.add(&format!("{place}."), inner, width, drawn)?;
                    if outputs != width {
                        return Err(Error::BlockWidth { layer: place, inputs: width, outputs });
                    }
                    self.stages.push(Stage { skip, ..alone(width) });
                }
            }
        }
        Ok(width)
    }

    /// Adds the stage of an encoder.
    fn encode(&mut self, encoder: Encoder, alone: &Stage) {
        let inputs = match &encoder {
            Encoder::Fourier { layer, .. } => layer.inputs,
            Encoder::Tabular { layer, .. } => layer.inputs,
        };
        self.stages.push(Stage { encoder: Some(self.encoders.len()), inputs, ..*alone });
        self.encoders.push(encoder);
    }

    /// Gives a dense layer its place in the arena; `None` if that would be beyond counting.
    fn place(&mut self, place: &str, number: u64, linear: &Linear) -> Option<Dense> {
        let mut block = |name: &str, shape: Vec<usize>| {
            let len = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
            let offset = self.arena_len;
            // Blocks start on cache lines of either type, so that both have one layout. Half of the
            // address space is out of reach anyway, and leaves room for rounding up.
            self.arena_len =
                offset.checked_add(len).filter(|end| *end < usize::MAX / 2).map(padded::<f32>)?;
            self.blocks.push(Block { name: format!("{place}.{name}"), shape, offset });
            Some(offset)
        };
        let weight = block("weight", vec![linear.outputs, linear.inputs])?;
        let bias = match linear.bias {
            true => Some(block("bias", vec![linear.outputs])?),
            false => None,
        };
        Some(Dense { weight, bias, init: linear.init, number })
    }

    /// Checks a normalization behind `n` columns, and gives it its places.
    fn place_norm(&mut self, path: &str, n: usize, layer: &Layer) -> Result<Norm, Error> {
        let name = layer.name();
        let block = |name: &str, blocks: &mut Vec<Block>, len: &mut usize| {
            blocks.push(Block { name: format!("{path}.{name}"), shape: vec![n], offset: *len });
            std::mem::replace(len, *len + padded::<f32>(n))
        };
        let (over, scale, shift) = match *layer {
            Layer::BatchNorm(layer) => {
                layer.check(path, n, &name)?;
                let mean = block("running_mean", &mut self.averages, &mut self.averages_len);
                let running = (mean, block("running_var", &mut self.averages, &mut self.averages_len));
                (Over::Batch { layer, running }, layer.affine, layer.affine)
            }
            Layer::RowNorm(layer) => {
                layer.check(path, n, &name)?;
                (Over::Row(layer), layer.scale, layer.shift)
            }
            _ => unreachable!("not a normalization"),
        };
        let mut place = |name| block(name, &mut self.blocks, &mut self.arena_len);
        Ok(Norm { over, scale: scale.then(|| place("weight")), shift: shift.then(|| place("bias")) })
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
    /// The tables that the input's codes are of, if there are some.
    pub fn table(&self) -> Option<&TabularInput> {
        match self.encoders.first() {
            Some(Encoder::Tabular { layer, .. }) => Some(layer),
            _ => None,
        }
    }
    /// The parameters in their public order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    /// Elements of the arena, padding included.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }
    /// The running averages of normalizations, as users see them; offsets are in an arena of their own.
    pub fn averages(&self) -> &[Block] {
        &self.averages
    }
    /// Elements of the running averages' arena, padding included.
    pub fn averages_len(&self) -> usize {
        self.averages_len
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
        self.blocks.iter().map(Block::len).sum()
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
            let (layer, name) = first_wide("", &self.layers)
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

    /// Draws initial parameters into an arena, and sets running averages to those of standard numbers.
    pub fn initialize<T: Element>(&self, seed: u64, arena: &mut Buffer<T>, averages: &mut Buffer<T>) {
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
            init.draw(&mut rng, inputs, outputs, weight, bias);
        }
    }

    /// Copies an arena into public order: blocks one after the other, weights as (out, in).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn export<T: Element>(&self, arena: &[T], flat: &mut [T]) {
        self.translate(flat.len(), |public, inner| flat[public] = arena[inner]);
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn import<T: Element>(&self, flat: &[T], arena: &mut [T]) {
        self.translate(flat.len(), |public, inner| arena[inner] = flat[public]);
    }

    /// [`export`](Self::export) and [`import`](Self::import) with the vectors of an ISA, for those who do it often.
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn export_on<T: Element>(&self, isa: Isa, arena: &[T], flat: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in &self.blocks {
            let (public, after) = rest.split_at_mut(block.len());
            rest = after;
            let inner = &arena[block.offset..block.offset + block.len()];
            match block.shape[..] {
                [_, inputs] if inputs > 0 => {
                    let panels = inner.chunks(PANEL * inputs).zip(public.chunks_mut(PANEL * inputs));
                    for (panel, public) in panels {
                        transpose(isa, MatRef::new(panel, inputs, panel.len() / inputs), public);
                    }
                }
                _ => public.copy_from_slice(inner),
            }
        }
    }

    /// See [`export_on`](Self::export_on).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn import_on<T: Element>(&self, isa: Isa, flat: &[T], arena: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in &self.blocks {
            let (public, after) = rest.split_at(block.len());
            rest = after;
            let inner = &mut arena[block.offset..block.offset + block.len()];
            match block.shape[..] {
                [_, inputs] if inputs > 0 => {
                    let panels = inner.chunks_mut(PANEL * inputs).zip(public.chunks(PANEL * inputs));
                    for (panel, public) in panels {
                        transpose(isa, MatRef::new(public, public.len() / inputs, inputs), panel);
                    }
                }
                _ => inner.copy_from_slice(public),
            }
        }
    }

    /// Calls `f(public index, arena index)` for every parameter.
    pub fn translate(&self, len: usize, mut f: impl FnMut(usize, usize)) {
        assert_eq!(len, self.num_parameters());
        let mut public = 0;
        for block in &self.blocks {
            block.translate(|at, inner| f(public + at, block.offset + inner));
            public += block.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(inputs: usize, outputs: usize) -> Layer {
        Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
    }
    fn act(a: Activation) -> Layer {
        Layer::Activation(a)
    }

    #[test]
    fn an_activation_runs_with_the_dense_layer_before_it() {
        let layers = vec![
            act(Activation::Tanh),
            linear(3, 4),
            act(Activation::Identity),
            act(Activation::Relu),
            act(Activation::Gelu),
            linear(4, 2),
        ];
        let network = Network::new(layers).unwrap();
        let acts: Vec<_> = network.stages().iter().map(|s| (s.dense.is_some(), s.act)).collect();
        assert_eq!(
            acts,
            [
                (false, Activation::Tanh),
                (true, Activation::Relu),
                (false, Activation::Gelu),
                (true, Activation::Identity)
            ]
        );
        assert_eq!(
            (network.inputs(), network.outputs(), network.num_parameters()),
            (3, 2, 3 * 4 + 4 + 4 * 2 + 2)
        );
        let names: Vec<_> = network.blocks().iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["1.weight", "1.bias", "5.weight", "5.bias"]);
    }

    #[test]
    fn layers_that_do_not_fit_are_named() {
        let error = Network::new(vec![linear(64, 32), act(Activation::Relu), linear(64, 10)]).unwrap_err();
        assert_eq!(error.to_string(), "layer 2 (Linear 64→10): its input has 32 features, expected 64");
        assert!(Network::new(vec![act(Activation::Relu)]).is_err());
        assert!(Network::new(vec![linear(3, 0)]).is_err());
        assert!(Network::new(vec![linear(1 << 32, 1 << 32)]).is_err());
        assert!(Network::new(vec![linear(3, 1), act(Activation::LeakyRelu(-0.1))]).is_err());
    }

    #[test]
    fn import_undoes_export_and_weights_are_transposed() {
        let network = Network::new(vec![linear(3, 2)]).unwrap();
        let mut arena = Buffer::<f32>::zeroed("a test", network.arena_len()).unwrap();
        let flat: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        network.import(&flat, &mut arena);
        assert_eq!(arena[..6], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let mut back = vec![0.0; 8];
        network.export(&arena, &mut back);
        assert_eq!(back, flat);
    }

    #[test]
    fn vectors_carry_parameters_to_the_same_places() {
        for (inputs, outputs) in [(1, 1), (3, 2), (17, 33), (40, 70), (64, 32)] {
            let network = Network::new(vec![linear(inputs, outputs), linear(outputs, 3)]).unwrap();
            let flat: Vec<f64> = (0..network.num_parameters()).map(|i| i as f64).collect();
            let mut expected = vec![0.0; network.arena_len()];
            network.import(&flat, &mut expected);
            for isa in Isa::available() {
                let (mut arena, mut back) = (vec![0.0; expected.len()], vec![0.0; flat.len()]);
                network.import_on(isa, &flat, &mut arena);
                assert_eq!(arena, expected, "{isa} {inputs} {outputs}");
                network.export_on(isa, &arena, &mut back);
                assert_eq!(back, flat, "{isa} {inputs} {outputs}");
            }
        }
    }

    #[test]
    fn initial_weights_follow_the_named_law() {
        for init in Init::ALL {
            let layer = Layer::Linear(Linear { inputs: 200, outputs: 100, bias: true, init });
            let network = Network::new(vec![layer]).unwrap();
            let mut arena = Buffer::<f64>::zeroed("a test", network.arena_len()).unwrap();
            let mut averages = Buffer::zeroed("a test", 0).unwrap();
            network.initialize(5, &mut arena, &mut averages);
            let w = &arena[..20_000];
            let variance = w.iter().map(|x| x * x).sum::<f64>() / 2e4;
            let (expected, bound) = match init {
                Init::KaimingUniform => (1.0 / 600.0, 1.0 / 200f64.sqrt()),
                Init::KaimingNormal => (0.01, f64::INFINITY),
                Init::XavierUniform => (2.0 / 300.0, (6.0 / 300f64).sqrt()),
                Init::XavierNormal => (2.0 / 300.0, f64::INFINITY),
                Init::LecunNormal => (1.0 / 200.0, f64::INFINITY),
                Init::SirenFirst => (1.0 / 120_000.0, 1.0 / 200.0),
                Init::Siren => (2.0 / 180_000.0, (6.0 / 200f64).sqrt() / 30.0),
                Init::Zeros => (0.0, 0.0),
            };
            // Five standard errors of a variance over 20 000 draws.
            assert!((variance - expected).abs() <= 0.05 * expected, "{}: {variance} {expected}", init.name());
            assert!(w.iter().all(|x| x.abs() <= bound));
            let bias = &arena[20_000..20_100];
            assert!(bias.iter().all(|x| x.abs() <= 1.0 / 200f64.sqrt()));
            assert_eq!(bias.iter().all(|x| *x == 0.0), init == Init::Zeros);
        }
    }
}
