//! Linear: y = x·Wᵀ + b, W (out, in); dx = dy·W, dW = dyᵀ·x, db = Σ dy over the rows.
//!
//! In the arena W is stored transposed, (in, out): then the forward product and the weight gradient read and
//! write it in its own order, and only dx needs a packed copy. [`Network`](crate::network::Network) converts
//! at the boundary.

use crate::element::Element;
use crate::gemm::pack::PANEL;
use crate::rng::{Stream, normal};
use crate::simd::Isa;

/// A dense layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// How weights are drawn.
    pub init: Init,
}

/// How the weights of a dense layer are initialized. Biases are drawn from U(±1/√in), as in PyTorch, whatever
/// the weights (but are zero with [`Zeros`](Init::Zeros)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// U(±1/√in): PyTorch's default for `Linear`, there written `kaiming_uniform_(a=√5)`.
    KaimingUniform,
    /// N(0, 2/in): He et al. 2015, for ReLU.
    KaimingNormal,
    /// U(±√(6/(in + out))): Glorot & Bengio 2010.
    XavierUniform,
    /// N(0, 2/(in + out)): the normal version of it.
    XavierNormal,
    /// N(0, 1/in): LeCun et al. 1998, for SELU and tanh.
    LecunNormal,
    /// U(±1/in): the first layer of a SIREN, whose [`Sine`](super::Activation::Sine) has ω = 30.
    SirenFirst,
    /// U(±√(6/in)/30): its other layers. Sitzmann et al. 2020, arXiv:2006.09661.
    Siren,
    /// Zeros, including the bias.
    Zeros,
}

impl Init {
    /// All of them, in the order of the documentation.
    pub const ALL: [Init; 8] = [
        Init::KaimingUniform,
        Init::KaimingNormal,
        Init::XavierUniform,
        Init::XavierNormal,
        Init::LecunNormal,
        Init::SirenFirst,
        Init::Siren,
        Init::Zeros,
    ];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Init::KaimingUniform => "kaiming_uniform",
            Init::KaimingNormal => "kaiming_normal",
            Init::XavierUniform => "xavier_uniform",
            Init::XavierNormal => "xavier_normal",
            Init::LecunNormal => "lecun_normal",
            Init::SirenFirst => "siren_first",
            Init::Siren => "siren",
            Init::Zeros => "zeros",
        }
    }
}

impl Init {
    /// Draws weights in the order of the public layout (out, in), stored as (in, out) in panels, then the
    /// bias.
    pub fn draw<T: Element>(
        self,
        isa: Isa,
        rng: &mut Stream,
        inputs: usize,
        weight: &mut [T],
        bias: &mut [T],
    ) {
        let law = self.law(inputs as f64, (weight.len() / inputs) as f64);
        for panel in weight.chunks_mut(PANEL * inputs) {
            let outputs = panel.len() / inputs;
            for o in 0..outputs {
                law.draw(isa, rng, panel[o..].iter_mut().step_by(outputs));
            }
        }
        let of_bias = match self {
            Init::Zeros => Law::Zero,
            _ => Law::Uniform(1.0 / (inputs as f64).sqrt()),
        };
        of_bias.draw(isa, rng, bias.iter_mut());
    }

    fn law(self, fan_in: f64, fan_out: f64) -> Law {
        match self {
            Init::KaimingUniform => Law::Uniform(1.0 / fan_in.sqrt()),
            Init::KaimingNormal => Law::Normal((2.0 / fan_in).sqrt()),
            Init::XavierUniform => Law::Uniform((6.0 / (fan_in + fan_out)).sqrt()),
            Init::XavierNormal => Law::Normal((2.0 / (fan_in + fan_out)).sqrt()),
            Init::LecunNormal => Law::Normal(1.0 / fan_in.sqrt()),
            Init::SirenFirst => Law::Uniform(1.0 / fan_in),
            Init::Siren => Law::Uniform((6.0 / fan_in).sqrt() / 30.0),
            Init::Zeros => Law::Zero,
        }
    }
}

/// A distribution of random numbers.
enum Law {
    /// Uniform between plus and minus this number.
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    Zero,
}

impl Law {
    fn draw<'a, T: Element>(
        &self,
        isa: Isa,
        rng: &mut Stream,
        mut places: impl ExactSizeIterator<Item = &'a mut T>,
    ) {
        let mut units = [0.0; 256];
        while places.len() > 0 {
            match *self {
                Law::Uniform(bound) => {
                    let units = &mut units[..places.len().min(256)];
                    rng.units(isa, units);
                    units.iter().zip(&mut places).for_each(|(u, x)| *x = T::lit(2.0 * bound * u - bound));
                }
                Law::Normal(deviation) => {
                    let units = &mut units[..(2 * places.len()).min(256)];
                    rng.units(isa, units);
                    let pairs = units.as_chunks::<2>().0.iter();
                    pairs.zip(&mut places).for_each(|(pair, x)| *x = T::lit(deviation * normal(*pair)));
                }
                Law::Zero => return places.for_each(|x| *x = T::ZERO),
            }
        }
    }
}
