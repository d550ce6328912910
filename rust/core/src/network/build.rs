//! From layers as the user listed them to stages, and to places in the arena.

use super::{Block, Dense, Encoder, Network, Norm, Over, Stage};
use crate::arena::padded;
use crate::error::Error;
use crate::layer::{Activation, Layer, Linear};

/// The first layer that says how wide its input is: its place, itself, and that width.
pub(super) fn first_wide<'l>(path: &str, layers: &'l [Layer]) -> Option<(String, &'l Layer, usize)> {
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
}
