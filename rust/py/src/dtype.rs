//! Objects of either precision behind one Python class.

use thalweg_core::diff::Curvature;
use thalweg_core::diff::jet::{Jet, Slopes};
use thalweg_core::optim::Optimizer;
use thalweg_core::{Dtype, Element, Fit, Model, Trainer};

/// A type that the core has in each precision.
pub trait Kind {
    /// The type in one precision.
    type Of<T: Real>;
}

/// An object of either precision.
pub enum Any<K: Kind> {
    /// float32
    F32(K::Of<f32>),
    /// float64
    F64(K::Of<f64>),
}

macro_rules! kinds {
    ($($core:ident as $kind:ident, $any:ident;)*) => {$(
        #[doc = concat!("`", stringify!($core), "` of the core.")]
        pub struct $kind;
        impl Kind for $kind {
            type Of<T: Real> = $core<T>;
        }
        #[doc = concat!("`", stringify!($core), "`, of either precision.")]
        pub type $any = Any<$kind>;
    )*};
}

kinds! {
    Model as Models, AnyModel;
    Optimizer as Optimizers, AnyOptimizer;
    Trainer as Trainers, AnyTrainer;
    Fit as Fits, AnyFit;
    Curvature as Curvatures, AnyCurvature;
    Jet as Jets, AnyJet;
    Slopes as AllSlopes, AnySlopes;
}

/// A precision, and how to access objects of it.
pub trait Real: Element + numpy::Element {
    /// The object inside, if it has this precision.
    fn of<K: Kind>(any: &mut Any<K>) -> Option<&mut K::Of<Self>>;
    /// The same, taken out.
    fn out_of<K: Kind>(any: Any<K>) -> Option<K::Of<Self>>;
    /// Puts an object inside.
    fn wrap<K: Kind>(inner: K::Of<Self>) -> Any<K>;
}

macro_rules! real {
    ($t:ty, $variant:ident) => {
        impl Real for $t {
            fn of<K: Kind>(any: &mut Any<K>) -> Option<&mut K::Of<Self>> {
                if let Any::$variant(inner) = any { Some(inner) } else { None }
            }
            fn out_of<K: Kind>(any: Any<K>) -> Option<K::Of<Self>> {
                if let Any::$variant(inner) = any { Some(inner) } else { None }
            }
            fn wrap<K: Kind>(inner: K::Of<Self>) -> Any<K> {
                Any::$variant(inner)
            }
        }
    };
}

real!(f32, F32);
real!(f64, F64);

/// Evaluates an expression with the object inside [`Any`], in whichever precision it is.
macro_rules! either {
    ($any:expr, $inner:ident => $body:expr) => {
        match $any {
            $crate::dtype::Any::F32($inner) => $body,
            $crate::dtype::Any::F64($inner) => $body,
        }
    };
}
pub(crate) use either;

/// Evaluates an expression in which `$t` stands for the type of a [`Dtype`].
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
