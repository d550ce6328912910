//! The core of thalweg: dense neural networks on CPUs, with no Python in it.
//!
//! A [`Model`] is a [`Network`](network::Network) (layers over one flat parameter arena) together with its
//! parameter values. A [`Plan`](plan::Plan) says how a pass over it will run; `pass` runs it on the
//! [`threads`] in a [`Workspace`](workspace::Workspace); [`Trainer`] and [`Fit`] turn passes into training.
//!
//! | what | modules |
//! |---|---|
//! | formulas, a file each, with how to add one | [`layer`], [`loss`], [`optim`], [`math`] |
//! | what a model is | [`network`], [`parameters`], [`model`] |
//! | how a pass runs | [`plan`], [`workspace`], `pass`, [`gemm`], [`simd`], [`threads`], `parallel` |
//! | training | [`train`], [`update`] (clipping, the step), [`sam`], [`rng`] |
//! | what accompanies training on tasks | [`along`] (parameter by parameter), [`project`] (gradients) |
//! | derivatives beyond a batch's gradient | [`diff`] (second ones), [`jacobian`], [`check`] (differences) |
//! | memory, numbers, errors | [`arena`], `pages`, [`view`], [`data`], [`element`], [`error`] |
//!
//! ```
//! use thalweg_core::layer::{Activation, Init, Layer, Linear};
//! use thalweg_core::loss::{Loss, Targets};
//! use thalweg_core::optim::{Config, Optimizer, Sgd};
//! use thalweg_core::view::MatRef;
//! use thalweg_core::{Model, Trainer};
//!
//! let linear = |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
//! let layers = vec![linear(2, 8), Layer::Activation(Activation::Tanh), linear(8, 1)];
//! let mut model = Model::<f32>::new(layers, 0)?;
//! let config = Config::Sgd(Sgd { lr: 0.5, momentum: 0.9, ..Sgd::default() });
//! let mut optimizer = Optimizer::new(config, model.network())?;
//! let mut trainer = Trainer::new(Loss::Mse);
//!
//! let x = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
//! let y = [0.0, 1.0, 1.0, 0.0];
//! let (x, y) = (MatRef::new(&x, 4, 2), Targets::Values(MatRef::new(&y, 4, 1)));
//! let mut loss = f64::INFINITY;
//! for _ in 0..500 {
//!     loss = trainer.step(&mut model, &mut optimizer, x, y)?;
//! }
//! assert!(loss < 1e-3);
//! # Ok::<(), thalweg_core::Error>(())
//! ```

#![deny(unsafe_code)] // but in the modules that allow it at their top, with what they need it for

#[cfg(not(target_pointer_width = "64"))]
compile_error!("thalweg is for 64-bit platforms");

pub mod along;
pub mod arena;
pub mod check;
pub mod data;
pub mod diff;
pub mod element;
pub mod error;
pub mod gemm;
pub mod jacobian;
pub mod layer;
pub mod loss;
pub mod math;
pub mod model;
pub mod network;
pub mod optim;
mod pages;
pub(crate) mod parallel;
pub mod parameters;
mod pass;
pub mod plan;
pub mod project;
pub mod rng;
pub mod sam;
pub mod simd;
pub mod threads;
pub mod train;
pub mod update;
pub mod view;
pub mod workspace;

#[cfg(test)]
mod tests;

pub use element::{Dtype, Element};
pub use error::Error;
pub use model::Model;
pub use train::{Fit, FitOptions, Trainer};
