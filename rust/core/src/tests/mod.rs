//! Tests of the core as a whole. They are here rather than next to `src`, since a binary of their own would
//! compile every kernel again, which takes minutes.

mod allocations;
mod disjoint;
mod explained;
mod fits;
mod kept;
mod training;
mod works;

use std::sync::Mutex;

use crate::layer::Activation;

/// The number of threads belongs to the process: tests that set it take turns.
pub static THREADS: Mutex<()> = Mutex::new(());

/// Activations, with unusual parameters.
pub const ACTIVATIONS: [Activation; 21] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu(0.1),
    Activation::Elu(0.7),
    Activation::Celu(0.7),
    Activation::Selu,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::LogSigmoid,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Mish,
    Activation::Softplus(1.0),
    Activation::Softplus(2.5),
    Activation::Softsign,
    Activation::Sine(3.0),
    Activation::Hardtanh(-0.5, 1.25),
    Activation::Relu6,
    Activation::Hardsigmoid,
    Activation::Hardswish,
];
