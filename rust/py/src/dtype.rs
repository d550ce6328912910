//! Objects of either precision behind one Python class.

use thalweg_core::diff::Curvature;
use thalweg_core::diff::jet::Jet;
use thalweg_core::optim::Optimizer;
use thalweg_core::{Dtype, Element, Fit, Model, Trainer};

/// One thing per precision.
pub enum Either<A, B> {
    /// float32
    F32(A),
    /// float64
    F64(B),
}

/// A core type for each precision.
pub type Typed<A, B> = Either<A, B>;
/// A model.
pub type AnyModel = Typed<Model<f32>, Model<f64>>;
/// An optimizer at work.
pub type AnyOptimizer = Typed<Optimizer<f32>, Optimizer<f64>>;
/// A trainer.
pub type AnyTrainer = Typed<Trainer<f32>, Trainer<f64>>;
/// A fit.
pub type AnyFit = Typed<Fit<f32>, Fit<f64>>;
/// What products at a point keep.
pub type AnyCurvature = Typed<Curvature<f32>, Curvature<f64>>;
/// Derivatives by the inputs.
pub type AnyJet = Typed<Jet<f32>, Jet<f64>>;

/// A precision, and how to get at objects of it.
pub trait Real: Element + numpy::Element {
    /// The model inside, if it is of this precision.
    fn model(any: &mut AnyModel) -> Option<&mut Model<Self>>;
    /// Likewise.
    fn optimizer(any: &mut AnyOptimizer) -> Option<&mut Optimizer<Self>>;
    /// Likewise.
    fn trainer(any: &mut AnyTrainer) -> Option<&mut Trainer<Self>>;
    /// Likewise.
    fn fit(any: &mut AnyFit) -> Option<&mut Fit<Self>>;
    /// Likewise.
    fn curvature(any: AnyCurvature) -> Option<Curvature<Self>>;
    /// Likewise.
    fn jet(any: &mut AnyJet) -> Option<&mut Jet<Self>>;
    /// The other way.
    fn wrap_model(model: Model<Self>) -> AnyModel;
    /// Likewise.
    fn wrap_optimizer(optimizer: Optimizer<Self>) -> AnyOptimizer;
    /// Likewise.
    fn wrap_trainer(trainer: Trainer<Self>) -> AnyTrainer;
    /// Likewise.
    fn wrap_fit(fit: Fit<Self>) -> AnyFit;
    /// Likewise.
    fn wrap_curvature(curvature: Curvature<Self>) -> AnyCurvature;
    /// Likewise.
    fn wrap_jet(jet: Jet<Self>) -> AnyJet;
}

macro_rules! real {
    ($t:ty, $variant:ident) => {
        impl Real for $t {
            fn model(any: &mut AnyModel) -> Option<&mut Model<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn optimizer(any: &mut AnyOptimizer) -> Option<&mut Optimizer<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn trainer(any: &mut AnyTrainer) -> Option<&mut Trainer<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn fit(any: &mut AnyFit) -> Option<&mut Fit<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn curvature(any: AnyCurvature) -> Option<Curvature<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn jet(any: &mut AnyJet) -> Option<&mut Jet<Self>> {
                if let Either::$variant(x) = any { Some(x) } else { None }
            }
            fn wrap_model(model: Model<Self>) -> AnyModel {
                Either::$variant(model)
            }
            fn wrap_optimizer(optimizer: Optimizer<Self>) -> AnyOptimizer {
                Either::$variant(optimizer)
            }
            fn wrap_trainer(trainer: Trainer<Self>) -> AnyTrainer {
                Either::$variant(trainer)
            }
            fn wrap_fit(fit: Fit<Self>) -> AnyFit {
                Either::$variant(fit)
            }
            fn wrap_curvature(curvature: Curvature<Self>) -> AnyCurvature {
                Either::$variant(curvature)
            }
            fn wrap_jet(jet: Jet<Self>) -> AnyJet {
                Either::$variant(jet)
            }
        }
    };
}

real!(f32, F32);
real!(f64, F64);

/// Runs an expression with `$t` standing for the precision of a [`Dtype`].
macro_rules! with_dtype {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            thalweg_core::Dtype::F32 => {
                type $t = f32;
                $body
            }
            thalweg_core::Dtype::F64 => {
                type $t = f64;
                $body
            }
        }
    };
}
pub(crate) use with_dtype;

/// The precision that a name stands for.
pub fn parse(name: &str) -> Option<Dtype> {
    [Dtype::F32, Dtype::F64].into_iter().find(|d| d.name() == name)
}
