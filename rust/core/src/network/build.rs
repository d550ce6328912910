//! Turns layers as the user listed them into stages, and gives parameters their places in the arena.

use super::{Block, Dense, Encoder, Identity, Network, Norm, Over, Stage};
use crate::arena::padded;
use crate::error::Error;
use crate::layer::{Activation, Layer, Linear};

/// The first layer that determines its input width: its place, the layer, and the width of the network's input
/// that follows. In front of it, blocks whose input passes them by may have repeated the input; if that width
/// is no multiple of the input's, the layer does not fit, which [`check_width`] finds.
pub(super) fn first_wide(layers: &[Layer]) -> Option<(String, &Layer, usize)> {
    search("", layers, &mut 1)
}

/// The search within layers that get the network's input `times` times, as `times` becomes behind them.
fn search<'l>(path: &str, layers: &'l [Layer], times: &mut usize) -> Option<(String, &'l Layer, usize)> {
    layers.iter().enumerate().find_map(|(index, layer)| {
        let place = format!("{path}{index}");
        let width = match layer {
            Layer::Linear(linear) => linear.inputs,
            Layer::BatchNorm(norm) => norm.features,
            Layer::RowNorm(norm) => norm.features,
            Layer::Fourier(fourier) => fourier.inputs,
            Layer::Standardize(scales) => scales.mean.len(),
            Layer::Tabular(table) => table.inputs,
            Layer::Activation(_) => return None,
            Layer::Residual(inner) => return search(&format!("{place}."), inner, times),
            Layer::Concatenate(inner) => {
                let before = *times;
                let found = search(&format!("{place}."), inner, times);
                *times = times.saturating_add(before);
                return found;
            }
        };
        Some((place, layer, (width / *times).max(1.min(width))))
    })
}

/// Outputs that layers without weights may have: no layer with weights leads to more, and a file of a few
/// kilobytes that nests blocks must not ask for gigabytes.
const WIDEST: usize = 1 << 24;

/// Places in an arena, assigned one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Places {
    pub blocks: Vec<Block>,
    /// Elements so far, padding included.
    pub len: usize,
}

impl Places {
    /// Assigns a place to an array of this shape; returns where it starts. Places start on cache lines for
    /// either type, so that both types have the same layout.
    fn lay(&mut self, name: String, shape: Vec<usize>) -> Result<usize, Error> {
        // Half of the address space is unusable anyway, and leaves room for rounding up.
        let count = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
        let end = count.and_then(|count| self.len.checked_add(count)).filter(|end| *end < usize::MAX / 2);
        let Some(end) = end else {
            return Err(Error::argument(
                "layers",
                format!("too large: {name} of shape {shape:?} has more numbers than can be counted"),
                "use narrower layers, whose weights fit into memory",
            ));
        };
        self.blocks.push(Block { name, shape, offset: self.len });
        Ok(std::mem::replace(&mut self.len, padded::<f32>(end)))
    }
}

/// A stage that leaves `width` columns as they are, to be completed.
fn alone(width: usize) -> Stage {
    Stage {
        dense: None,
        encoder: None,
        norm: None,
        act: Activation::Identity,
        skip: None,
        inputs: width,
        outputs: width,
    }
}

/// Checks that a layer accepts its input.
fn check_width(place: &str, layer: &Layer, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::LayerWidth { layer: place.into(), name: layer.name(), expected, found })
}

impl Network {
    /// Checks the layers and lays out the arena.
    ///
    /// # Errors
    /// If a layer does not fit the previous one, has width 0, or no layer is dense.
    pub fn new(layers: Vec<Layer>) -> Result<Self, Error> {
        let mut network = Network {
            identity: Identity::new(),
            layers: Vec::new(),
            stages: Vec::new(),
            encoders: Vec::new(),
            params: Places::default(),
            averages: Places::default(),
        };
        if let Some((_, _, width)) = first_wide(&layers) {
            network.add("", &layers, width, &mut 0)?;
        }
        if !network.stages.iter().any(|s| s.dense.is_some()) {
            return Err(Error::argument(
                "layers",
                format!("a list of {} without a Linear", layers.len()),
                "a network needs at least one Linear layer",
            ));
        }
        network.layers = layers;
        Ok(network)
    }

    /// Adds layers that follow `width` columns, as stages; returns the width after them. `path` precedes
    /// their places, and `drawn` counts the layers, inside and outside of blocks, which determines their
    /// random streams.
    fn add(
        &mut self,
        path: &str,
        layers: &[Layer],
        mut width: usize,
        drawn: &mut u64,
    ) -> Result<usize, Error> {
        // Stages do not extend across the start of a block, whose input is needed as it is.
        let start = self.stages.len();
        for (index, layer) in layers.iter().enumerate() {
            let place = format!("{path}{index}");
            let number = *drawn;
            *drawn += 1;
            match layer {
                Layer::Linear(linear) => {
                    self.add_linear(&place, number, linear, width)?;
                    width = linear.outputs;
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
                        return Err(Error::argument(
                            name,
                            format!("{value} in layer {place} ({})", act.name()),
                            accepted,
                        ));
                    }
                    match self.stages[start..].last_mut() {
                        // Dropout is alone: the layer before it reads its own output on the way back.
                        Some(stage) if stage.is_open() && !matches!(act, Activation::Dropout(_)) => {
                            stage.act = *act
                        }
                        _ => self.stages.push(Stage { act: *act, ..alone(width) }),
                    }
                }
                Layer::Fourier(fourier) => {
                    check_width(&place, layer, fourier.inputs, width)?;
                    let shape = vec![fourier.inputs, fourier.count()];
                    let start = self.averages.lay(format!("{place}.frequencies"), shape)?;
                    self.encode(Encoder::Fourier { layer: fourier.clone(), start, number }, width);
                    width = 2 * fourier.count();
                }
                Layer::Standardize(scales) => {
                    scales.check(&place)?;
                    check_width(&place, layer, scales.mean.len(), width)?;
                    let mut lay =
                        |name: &str| self.averages.lay(format!("{place}.{name}"), vec![scales.mean.len()]);
                    let starts = [lay("mean")?, lay("std")?];
                    self.encode(Encoder::Standardize { layer: scales.clone(), starts }, width);
                }
                Layer::Tabular(table) => {
                    table.check()?;
                    if place != "0" {
                        return Err(Error::argument(
                            "layers",
                            format!("{} as layer {place}", layer.name()),
                            "it reads category codes from x, so it must be the first layer",
                        ));
                    }
                    let tables = table.categories.iter().map(|category| {
                        let name = format!("{place}.{}.weight", category.column);
                        self.params.lay(name, vec![category.codes, category.dim])
                    });
                    let starts = tables.collect::<Result<_, _>>()?;
                    self.encode(Encoder::Tabular { layer: table.clone(), starts, number }, width);
                    width = table.outputs();
                }
                Layer::Residual(inner) => {
                    let skip = Some(self.stages.len());
                    let outputs = self.add(&format!("{place}."), inner, width, drawn)?;
                    if outputs != width {
                        return Err(Error::BlockWidth { layer: place, inputs: width, outputs });
                    }
                    self.stages.push(Stage { skip, ..alone(width) });
                }
                Layer::Concatenate(inner) => {
                    let skip = Some(self.stages.len());
                    let inputs = self.add(&format!("{place}."), inner, width, drawn)?;
                    width = width.checked_add(inputs).filter(|all| *all <= WIDEST).ok_or_else(|| {
                        let what = format!("too large: layer {place} has more than {WIDEST} outputs");
                        Error::argument("layers", what, "use fewer blocks that widen what they are given")
                    })?;
                    self.stages.push(Stage { skip, inputs, ..alone(width) });
                }
            }
        }
        Ok(width)
    }

    /// Adds the stage of a dense layer that follows `width` columns.
    fn add_linear(&mut self, place: &str, number: u64, linear: &Linear, width: usize) -> Result<(), Error> {
        let &Linear { inputs, outputs, bias, init } = linear;
        let layer = Layer::Linear(linear.clone());
        for (name, value) in [("in_features", inputs), ("out_features", outputs)] {
            if value == 0 {
                return Err(Error::argument(
                    name,
                    format!("0 in layer {place} ({})", layer.name()),
                    "a whole number >= 1 is needed",
                ));
            }
        }
        check_width(place, &layer, inputs, width)?;
        let weight = self.params.lay(format!("{place}.weight"), vec![outputs, inputs])?;
        let bias = match bias {
            true => Some(self.params.lay(format!("{place}.bias"), vec![outputs])?),
            false => None,
        };
        let dense = Some(Dense { weight, bias, init, number });
        self.stages.push(Stage { dense, inputs, ..alone(outputs) });
        Ok(())
    }

    /// Adds the stage of an encoder that follows `inputs` columns.
    fn encode(&mut self, encoder: Encoder, inputs: usize) {
        let outputs = match &encoder {
            Encoder::Fourier { layer, .. } => 2 * layer.count(),
            Encoder::Standardize { layer, .. } => layer.mean.len(),
            Encoder::Tabular { layer, .. } => layer.outputs(),
        };
        self.stages.push(Stage { encoder: Some(self.encoders.len()), inputs, ..alone(outputs) });
        self.encoders.push(encoder);
    }

    /// Checks a normalization that follows `n` columns, and assigns its places.
    fn place_norm(&mut self, path: &str, n: usize, whole: &Layer) -> Result<Norm, Error> {
        let lay = |places: &mut Places, name: &str| places.lay(format!("{path}.{name}"), vec![n]);
        let (over, scale, shift) = match *whole {
            Layer::BatchNorm(layer) => {
                check_width(path, whole, layer.features, n)?;
                layer.check(path)?;
                let mean = lay(&mut self.averages, "running_mean")?;
                let running = (mean, lay(&mut self.averages, "running_var")?);
                (Over::Batch { layer, running }, layer.affine, layer.affine)
            }
            Layer::RowNorm(layer) => {
                check_width(path, whole, layer.features, n)?;
                layer.check(path)?;
                (Over::Row(layer), layer.scale, layer.shift)
            }
            _ => unreachable!("not a normalization"),
        };
        let mut place = |wanted: bool, name| wanted.then(|| lay(&mut self.params, name)).transpose();
        Ok(Norm { over, scale: place(scale, "weight")?, shift: place(shift, "bias")? })
    }
}
