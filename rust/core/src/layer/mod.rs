//! Layers: what users name, and the formulas of those that work element by element.
//!
//! One file per layer, its forward formula beside its backward formula. An element-wise layer runs
//! as an epilogue of the product before it; backward it reads its own output `y`, or, where φ′ cannot
//! be had from `y`, the derivative that it saved on the way forward. A new one takes a file that says what
//! a [`Function`] says, and a line in the list of `activation.rs`.

mod activation;
pub mod batch_norm;
mod celu;
pub mod dropout;
mod elu;
pub mod fourier;
mod gelu;
mod gelu_tanh;
mod hardsigmoid;
mod hardswish;
mod hardtanh;
mod identity;
mod leaky_relu;
mod linear;
mod log_sigmoid;
mod mish;
pub(crate) mod relu;
mod relu6;
pub mod row_norm;
mod selu;
mod sigmoid;
mod silu;
mod sine;
mod softplus;
mod softsign;
pub mod standardize;
pub mod tabular;
pub(crate) mod tanh;

use crate::element::Element;
use crate::simd::Simd;

pub use activation::{Activation, Function};

pub use batch_norm::BatchNorm;
pub use fourier::{Fourier, Frequencies};
pub use linear::{Init, Linear};
pub use row_norm::RowNorm;
pub use standardize::Standardize;
pub use tabular::{Category, Pieces, TabularInput};

/// What is taken of each row's gradient before rows are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// g
    One,
    /// g²
    Square,
    /// |g|
    Size,
}

impl Power {
    /// Of each lane.
    #[inline(always)]
    pub fn of<T: Element, S: Simd<T>>(self, s: S, g: S::V) -> S::V {
        match self {
            Power::One => g,
            Power::Square => s.mul(g, g),
            Power::Size => s.abs(g),
        }
    }
}

/// A layer as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// y = x·Wᵀ + b
    Linear(Linear),
    /// y = φ(x), element by element.
    Activation(Activation),
    /// y = γ·(x − μ)/√(σ² + ε) + β, column by column.
    BatchNorm(BatchNorm),
    /// The same row by row, with or without the mean.
    RowNorm(RowNorm),
    /// y = (sin 2πxB, cos 2πxB), B not trained.
    Fourier(Fourier),
    /// y = (x − μ)/σ or back, μ and σ not trained.
    Standardize(Standardize),
    /// Numbers as they are, and vectors for the codes of categories; the first layer.
    Tabular(TabularInput),
    /// y = x + f(x), f these layers one after another.
    Residual(Vec<Layer>),
}

impl Layer {
    /// A layer for messages: `Linear 64→10`.
    pub fn name(&self) -> String {
        match self {
            Layer::Linear(l) => format!("Linear {}→{}", l.inputs, l.outputs),
            Layer::BatchNorm(n) => format!("BatchNorm1d {}", n.features),
            Layer::RowNorm(n) => format!("{} {}", n.name(), n.features),
            Layer::Activation(a) => a.name().into(),
            Layer::Fourier(f) => format!("FourierFeatures {}→{}", f.inputs, 2 * f.count()),
            Layer::Standardize(s) => format!("Standardize {}", s.mean.len()),
            Layer::Tabular(t) => format!("TabularInput {}→{}", t.inputs, t.outputs()),
            Layer::Residual(_) => "Residual".into(),
        }
    }
}

#[cfg(test)]
mod tests;
