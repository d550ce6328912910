//! Layers: those that users name, and the formulas of those that work element by element.
//!
//! There is one file per layer, with the forward formula next to the backward formula. An element-wise layer
//! runs as an epilogue of the product before it. Backward, it reads its own output `y` or, where φ′ cannot be
//! computed from `y`, the derivative that it saved on the way forward.
//!
//! A new one needs a file that implements [`Function`], its `mod` here, a line in the list of `activation.rs`,
//! and in the tests its formula (`tests.rs`) and an entry of `ACTIVATIONS` (`crate::tests`). Then users need
//! its class: CONTRIBUTING.md has what belongs to that.

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
pub mod skip;
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

/// What is applied to each row's gradient before rows are summed.
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
    /// Applies it to each lane.
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
    /// The same row by row, with or without subtracting the mean.
    RowNorm(RowNorm),
    /// y = (sin 2πxB, cos 2πxB), with B not trained.
    Fourier(Fourier),
    /// y = (x − μ)/σ or its inverse, with μ and σ not trained.
    Standardize(Standardize),
    /// Numbers as they are, and vectors for category codes; must be the first layer.
    Tabular(TabularInput),
    /// y = x + f(x), where f is these layers one after another.
    Residual(Vec<Layer>),
    /// y = (x, f(x)), where f is these layers one after another.
    Concatenate(Vec<Layer>),
}

impl Layer {
    /// A layer's name in messages: `Linear 64→10`.
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
            Layer::Concatenate(_) => "Concatenate".into(),
        }
    }
}

#[cfg(test)]
mod tests;
