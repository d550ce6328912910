//! A network: layers as the user listed them, stages as they run, and one flat arena of parameters.

use crate::arena::{Buffer, padded};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::offset;
use crate::layer::{Activation, Layer, Linear};
use crate::rng::{Purpose, Stream};

/// A dense layer's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dense {
    /// Where its weight (in, out) starts, which lies in panels ([`gemm::pack`](crate::gemm::pack)).
    pub weight: usize,
    /// Where its bias starts, if it has one.
    pub bias: Option<usize>,
}

/// What runs in one go: a dense layer with the element-wise layer behind it, or the latter alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// The dense layer, if there is one.
    pub dense: Option<Dense>,
    /// What follows, [`Activation::Identity`] if nothing does.
    pub act: Activation,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
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
    layers: Vec<Layer>,
    stages: Vec<Stage>,
    blocks: Vec<Block>,
    arena_len: usize,
}

impl Network {
    /// Checks the layers and lays out the arena.
    ///
    /// # Errors
    /// If a layer does not fit the one before, is of width 0, or no layer is dense.
    pub fn new(layers: Vec<Layer>) -> Result<Self, Error> {
        let Some(first_width) = layers.iter().find_map(|l| match l {
            Layer::Linear(linear) => Some(linear.inputs),
            Layer::Activation(_) => None,
        }) else {
            return Err(Error::Argument {
                name: "layers",
                value: format!("a list of {} without a Linear", layers.len()),
                accepted: "a network needs at least one Linear layer".into(),
            });
        };
        let mut network = Network { layers, stages: Vec::new(), blocks: Vec::new(), arena_len: 0 };
        let mut width = first_width;
        for index in 0..network.layers.len() {
            match network.layers[index].clone() {
                Layer::Linear(linear) => {
                    let name = network.layer_name(index);
                    for (argument, value) in
                        [("in_features", linear.inputs), ("out_features", linear.outputs)]
                    {
                        if value == 0 {
                            return Err(Error::Argument {
                                name: argument,
                                value: format!("0 in layer {index} ({name})"),
                                accepted: "a whole number ≥ 1 is needed".into(),
                            });
                        }
                    }
                    if linear.inputs != width {
                        return Err(Error::LayerWidth {
                            layer: index,
                            name,
                            expected: linear.inputs,
                            found: width,
                        });
                    }
                    let dense = network.place(index, &linear).ok_or_else(|| Error::Argument {
                        name: "in_features · out_features",
                        value: format!("more than can be counted in layer {index} ({name})"),
                        accepted: "use narrower layers, whose weights fit into memory".into(),
                    })?;
                    let act = Activation::Identity;
                    network.stages.push(Stage {
                        dense: Some(dense),
                        act,
                        inputs: linear.inputs,
                        outputs: linear.outputs,
                    });
                    width = linear.outputs;
                }
                Layer::Activation(Activation::Identity) => {}
                Layer::Activation(act) => {
                    if let Activation::LeakyRelu(slope) = act
                        && !(slope >= 0.0 && slope.is_finite())
                    {
                        return Err(Error::Argument {
                            name: "negative_slope",
                            value: format!("{slope} in layer {index} (LeakyReLU)"),
                            accepted: "a number ≥ 0 is needed".into(),
                        });
                    }
                    match network.stages.last_mut() {
                        Some(stage) if stage.dense.is_some() && stage.act == Activation::Identity => {
                            stage.act = act
                        }
                        _ => network.stages.push(Stage { dense: None, act, inputs: width, outputs: width }),
                    }
                }
            }
        }
        Ok(network)
    }

    /// Gives a dense layer its place in the arena; `None` if that would be beyond counting.
    fn place(&mut self, index: usize, linear: &Linear) -> Option<Dense> {
        let mut block = |name: &str, shape: Vec<usize>| {
            let len = shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
            let offset = self.arena_len;
            // Blocks start on cache lines of either type, so that both have one layout. Half of the
            // address space is out of reach anyway, and leaves room for rounding up.
            self.arena_len =
                offset.checked_add(len).filter(|end| *end < usize::MAX / 2).map(padded::<f32>)?;
            self.blocks.push(Block { name: format!("{index}.{name}"), shape, offset });
            Some(offset)
        };
        let weight = block("weight", vec![linear.outputs, linear.inputs])?;
        let bias = match linear.bias {
            true => Some(block("bias", vec![linear.outputs])?),
            false => None,
        };
        Some(Dense { weight, bias })
    }

    /// The layers, as listed.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
    /// What runs.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }
    /// The parameters in their public order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }
    /// Elements of the arena, padding included.
    pub fn arena_len(&self) -> usize {
        self.arena_len
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
    /// The widest that rows get between the layers.
    pub fn max_width(&self) -> usize {
        self.stages.iter().map(|s| s.outputs).max().unwrap_or(0)
    }

    /// A layer for messages: `Linear 64→10`.
    pub fn layer_name(&self, index: usize) -> String {
        match &self.layers[index] {
            Layer::Linear(l) => format!("Linear {}→{}", l.inputs, l.outputs),
            Layer::Activation(a) => a.name().into(),
        }
    }

    /// Checks the shape of an input.
    ///
    /// # Errors
    /// If it has no rows or another width.
    pub fn check_input(&self, rows: usize, width: usize) -> Result<(), Error> {
        if width != self.inputs() {
            let layer = self.layers.iter().position(|l| matches!(l, Layer::Linear(_))).unwrap_or(0);
            let name = self.layer_name(layer);
            return Err(Error::InputWidth { layer, name, rows, found: width, expected: self.inputs() });
        }
        if rows == 0 { Err(Error::Empty) } else { Ok(()) }
    }

    /// Draws initial parameters into an arena.
    pub fn initialize<T: Element>(&self, seed: u64, arena: &mut Buffer<T>) {
        let linears = self.layers.iter().enumerate().filter_map(|(i, l)| match l {
            Layer::Linear(linear) => Some((i, linear)),
            Layer::Activation(_) => None,
        });
        for ((index, linear), stage) in linears.zip(self.stages.iter().filter_map(|s| s.dense)) {
            let mut rng = Stream::new(seed, Purpose::Init, index as u64);
            let (_, rest) = arena.split_at_mut(stage.weight);
            let (weight, rest) = rest.split_at_mut(linear.inputs * linear.outputs);
            let bias = match stage.bias {
                Some(bias) => &mut rest[bias - stage.weight - weight.len()..][..linear.outputs],
                None => &mut [],
            };
            linear.initialize(&mut rng, weight, bias);
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

    /// Calls `f(public index, arena index)` for every parameter.
    pub fn translate(&self, len: usize, mut f: impl FnMut(usize, usize)) {
        assert_eq!(len, self.num_parameters());
        let mut public = 0;
        for block in &self.blocks {
            let (outputs, inputs) = match block.shape[..] {
                [outputs, inputs] => (outputs, inputs),
                _ => (block.len(), 1),
            };
            for o in 0..outputs {
                for i in 0..inputs {
                    f(public, block.offset + offset(inputs, outputs, i, o));
                    public += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Init;

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
    fn initial_weights_follow_the_named_law() {
        for init in Init::ALL {
            let layer = Layer::Linear(Linear { inputs: 200, outputs: 100, bias: true, init });
            let network = Network::new(vec![layer]).unwrap();
            let mut arena = Buffer::<f64>::zeroed("a test", network.arena_len()).unwrap();
            network.initialize(5, &mut arena);
            let w = &arena[..20_000];
            let variance = w.iter().map(|x| x * x).sum::<f64>() / 2e4;
            let (expected, bound) = match init {
                Init::KaimingUniform => (1.0 / 600.0, 1.0 / 200f64.sqrt()),
                Init::KaimingNormal => (0.01, f64::INFINITY),
                Init::XavierUniform => (2.0 / 300.0, (6.0 / 300f64).sqrt()),
                Init::XavierNormal => (2.0 / 300.0, f64::INFINITY),
                Init::LecunNormal => (1.0 / 200.0, f64::INFINITY),
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
