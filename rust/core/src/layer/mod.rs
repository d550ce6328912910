//! Layers: what users name, and the formulas of those that work element by element.
//!
//! One file per layer, its forward formula beside its backward formula. An element-wise layer runs
//! as an epilogue of the product before it; backward it reads its own output `y`, or, where φ′ cannot
//! be had from `y`, the derivative that it saved on the way forward.

pub mod batch_norm;
mod gelu;
mod leaky_relu;
mod linear;
pub(crate) mod relu;
mod sigmoid;
mod silu;
mod softplus;
pub(crate) mod tanh;

pub use batch_norm::BatchNorm;
pub use linear::{Init, Linear};

use crate::element::Element;
use crate::simd::{Simd, zip_map};

/// A layer as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// y = x·Wᵀ + b
    Linear(Linear),
    /// y = φ(x), element by element.
    Activation(Activation),
    /// y = γ·(x − μ)/√(σ² + ε) + β, column by column.
    BatchNorm(BatchNorm),
}

/// An element-wise function φ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// φ(z) = z
    Identity,
    /// φ(z) = max(0, z)
    Relu,
    /// φ(z) = z for z > 0, else slope · z; slope ≥ 0.
    LeakyRelu(f64),
    /// φ(z) = tanh z
    Tanh,
    /// φ(z) = 1/(1 + e⁻ᶻ)
    Sigmoid,
    /// φ(z) = z·Φ(z), Φ the normal distribution function.
    Gelu,
    /// φ(z) = z/(1 + e⁻ᶻ)
    Silu,
    /// φ(z) = ln(1 + eᶻ)
    Softplus,
}

impl Activation {
    /// The layer's name, as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "Identity",
            Activation::Relu => "ReLU",
            Activation::LeakyRelu(_) => "LeakyReLU",
            Activation::Tanh => "Tanh",
            Activation::Sigmoid => "Sigmoid",
            Activation::Gelu => "GELU",
            Activation::Silu => "SiLU",
            Activation::Softplus => "Softplus",
        }
    }

    /// Whether the forward pass must save φ′, because it cannot be had from φ.
    pub fn saves_derivative(self) -> bool {
        matches!(self, Activation::Gelu | Activation::Silu)
    }

    /// Whether φ has a kink at 0, where finite differences say nothing.
    pub fn has_kink(self) -> bool {
        matches!(self, Activation::Relu | Activation::LeakyRelu(_))
    }

    /// z ← φ(z); and saved ← φ′(z), if it [saves](Self::saves_derivative) and there is room.
    #[inline(always)]
    pub fn forward<T: Element, S: Simd<T>>(self, s: S, z: &mut [T], saved: Option<&mut [T]>) {
        match self {
            Activation::Identity => {}
            Activation::Relu => zip_map(
                s,
                [z],
                [],
                #[inline(always)]
                |[z], []| [relu::forward(s, z)],
            ),
            Activation::LeakyRelu(slope) => {
                let slope = s.splat(T::lit(slope));
                zip_map(
                    s,
                    [z],
                    [],
                    #[inline(always)]
                    |[z], []| [leaky_relu::forward(s, z, slope)],
                );
            }
            Activation::Tanh => zip_map(
                s,
                [z],
                [],
                #[inline(always)]
                |[z], []| [T::tanh(s, z)],
            ),
            Activation::Sigmoid => zip_map(
                s,
                [z],
                [],
                #[inline(always)]
                |[z], []| [T::sigmoid(s, z)],
            ),
            Activation::Gelu => match saved {
                Some(saved) => zip_map(
                    s,
                    [z, saved],
                    [],
                    #[inline(always)]
                    |[z, _], []| gelu::forward(s, z),
                ),
                None => zip_map(
                    s,
                    [z],
                    [],
                    #[inline(always)]
                    |[z], []| [gelu::forward(s, z)[0]],
                ),
            },
            Activation::Silu => match saved {
                Some(saved) => zip_map(
                    s,
                    [z, saved],
                    [],
                    #[inline(always)]
                    |[z, _], []| silu::forward(s, z),
                ),
                None => zip_map(
                    s,
                    [z],
                    [],
                    #[inline(always)]
                    |[z], []| [silu::forward(s, z)[0]],
                ),
            },
            Activation::Softplus => zip_map(
                s,
                [z],
                [],
                #[inline(always)]
                |[z], []| [softplus::forward(s, z)],
            ),
        }
    }

    /// dy ← dy · φ′, read from the output y or from what [`forward`](Self::forward) saved.
    #[inline(always)]
    pub fn backward<T: Element, S: Simd<T>>(self, s: S, dy: &mut [T], from: &[T]) {
        match self {
            Activation::Identity => {}
            Activation::Relu => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [y]| [relu::backward(s, dy, y)],
                );
            }
            Activation::LeakyRelu(slope) => {
                let slope = s.splat(T::lit(slope));
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [y]| [leaky_relu::backward(s, dy, y, slope)],
                );
            }
            Activation::Tanh => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [y]| [tanh::backward(s, dy, y)],
                );
            }
            Activation::Sigmoid => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [y]| [sigmoid::backward(s, dy, y)],
                );
            }
            Activation::Gelu => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [d]| [gelu::backward(s, dy, d)],
                );
            }
            Activation::Silu => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [d]| [silu::backward(s, dy, d)],
                );
            }
            Activation::Softplus => {
                zip_map(
                    s,
                    [dy],
                    [from],
                    #[inline(always)]
                    |[dy], [y]| [softplus::backward(s, dy, y)],
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
