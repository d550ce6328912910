//! Linear: y = x·Wᵀ + b, W (out, in); dx = dy·W, dW = dyᵀ·x, db = Σ dy over the rows.
//!
//! In the arena W lies transposed, (in, out): then the forward product and the weight gradient
//! read and write it in its own order, and only dx needs a packed copy. [`Network`](crate::Network)
//! translates at the border.

use crate::element::Element;
use crate::gemm::pack::offset;
use crate::rng::Stream;

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

/// How the weights of a dense layer are drawn. Biases are drawn from U(±1/√in), as in PyTorch,
/// whatever the weights (but zero with [`Zeros`](Init::Zeros)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// U(±1/√in): PyTorch's default for `Linear`, there written `kaiming_uniform_(a=√5)`.
    KaimingUniform,
    /// N(0, 2/in): He et al. 2015, for ReLU.
    KaimingNormal,
    /// U(±√(6/(in + out))): Glorot & Bengio 2010.
    XavierUniform,
    /// N(0, 2/(in + out)): the same, normal.
    XavierNormal,
    /// N(0, 1/in): LeCun et al. 1998, for SELU and tanh.
    LecunNormal,
    /// U(±1/in): the first layer of a SIREN, whose [`Sine`](super::Activation::Sine) has ω = 30.
    SirenFirst,
    /// U(±√(6/in)/30): its other layers. Sitzmann et al. 2020, arXiv:2006.09661.
    Siren,
    /// Zeros, also the bias.
    Zeros,
}

impl Init {
    /// All, in the order of the documentation.
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
    /// Draws weights in the order of the public layout (out, in), stored as (in, out) in panels, then the bias.
    pub fn draw<T: Element>(
        self,
        rng: &mut Stream,
        inputs: usize,
        outputs: usize,
        weight: &mut [T],
        bias: &mut [T],
    ) {
        let (fan_in, fan_out) = (inputs as f64, outputs as f64);
        let bound = 1.0 / fan_in.max(1.0).sqrt();
        let draw = |rng: &mut Stream| match self {
            Init::KaimingUniform => rng.uniform(-bound, bound),
            Init::KaimingNormal => rng.normal() * (2.0 / fan_in).sqrt(),
            Init::XavierUniform => {
                let bound = (6.0 / (fan_in + fan_out)).sqrt();
                rng.uniform(-bound, bound)
            }
            Init::XavierNormal => rng.normal() * (2.0 / (fan_in + fan_out)).sqrt(),
            Init::LecunNormal => rng.normal() / fan_in.sqrt(),
            Init::SirenFirst => rng.uniform(-1.0 / fan_in, 1.0 / fan_in),
            Init::Siren => {
                let bound = (6.0 / fan_in).sqrt() / 30.0;
                rng.uniform(-bound, bound)
            }
            Init::Zeros => 0.0,
        };
        for o in 0..outputs {
            for i in 0..inputs {
                weight[offset(inputs, outputs, i, o)] = T::lit(draw(rng));
            }
        }
        for b in bias {
            *b = T::lit(if self == Init::Zeros { 0.0 } else { rng.uniform(-bound, bound) });
        }
    }
}
