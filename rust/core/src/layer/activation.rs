//! The trait of element-wise layers, and the list of them.

use crate::element::Element;
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};
use crate::view::{MatMut, MatRef};

/// An element-wise function φ, one per file: its value, its derivatives, and its properties.
pub trait Function: Copy {
    /// The layer's name, as users write it.
    const NAME: &'static str;
    /// Whether the forward pass must save φ′, because it cannot be computed from φ, or not as accurately.
    const SAVES_DERIVATIVE: bool = false;

    /// An invalid parameter, if there is one: its name, its value, and what is accepted.
    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        None
    }

    /// If φ has kinks, at which finite differences say nothing: between which of them y = φ(z) lies.
    fn piece(self, _y: f64) -> Option<u8> {
        None
    }

    /// [φ(z), φ′(z)]; the second is ignored if φ′ is not saved.
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2];

    /// dy · φ′, from what was saved, or otherwise from y.
    #[inline(always)]
    fn backward<T: Element, S: Simd<T>>(self, s: S, dy: S::V, saved: S::V) -> S::V {
        s.mul(dy, saved)
    }

    /// [φ′(z), φ″(z), φ‴(z)], for derivatives beyond the first ([`diff`](crate::diff)). At a kink, φ′ is that
    /// of the negative side, as in [`backward`](Self::backward), and the others are those of either side.
    fn slopes<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 3];
}

/// Makes the enum of all element-wise layers, and its methods, which call those in the layers' files.
macro_rules! activations {
    ($($(#[$doc:meta])* $file:ident::$Name:ident $(($($parameter:ident: $t:ty),+))?,)*) => {
        /// An element-wise function φ.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Activation {
            $($(#[$doc])* $Name $(($($t),+))?,)*
        }

        impl Activation {
            /// The names that other languages use for them: those of their files.
            pub const KINDS: &[&str] = &[$(stringify!($file)),*];

            /// The activation with this name, with its parameters in order; `None` if there is none.
            pub fn of_kind(kind: &str, parameters: &[f64]) -> Option<Self> {
                match (kind, parameters) {
                    $((stringify!($file), &[$($($parameter),+)?]) => {
                        Some(Activation::$Name $(($($parameter),+))?)
                    })*
                    _ => None,
                }
            }

            /// The layer's name, as users write it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Activation::$Name { .. } => super::$file::$Name::NAME,)*
                }
            }

            /// See [`Function::SAVES_DERIVATIVE`].
            pub fn saves_derivative(self) -> bool {
                match self {
                    $(Activation::$Name { .. } => super::$file::$Name::SAVES_DERIVATIVE,)*
                }
            }

            /// See [`Function::wrong`].
            pub fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
                match self {
                    $(Activation::$Name $(($($parameter),+))? => {
                        super::$file::$Name $(($($parameter),+))?.wrong()
                    })*
                }
            }

            /// See [`Function::piece`].
            pub fn piece(self, y: f64) -> Option<u8> {
                match self {
                    $(Activation::$Name $(($($parameter),+))? => {
                        super::$file::$Name $(($($parameter),+))?.piece(y)
                    })*
                }
            }

            /// z ← φ(z); and saved ← φ′(z), if φ [saves](Self::saves_derivative) it and there is room.
            #[inline(always)]
            pub fn forward_in<T: Element, S: Simd<T>>(
                self,
                s: S,
                z: MatMut<'_, T>,
                saved: Option<MatMut<'_, T>>,
            ) {
                if let Activation::Identity = self {
                    return;
                }
                match self {
                    $(Activation::$Name $(($($parameter),+))? => {
                        s.run(Forward(super::$file::$Name $(($($parameter),+))?, z, saved));
                    })*
                }
            }

            /// dy ← dy · φ′, computed from the output y or from what [`forward`](Self::forward) saved.
            #[inline(always)]
            pub fn backward<T: Element, S: Simd<T>>(self, s: S, dy: MatMut<'_, T>, from: MatRef<'_, T>) {
                if let Activation::Identity = self {
                    return;
                }
                match self {
                    $(Activation::$Name $(($($parameter),+))? => {
                        s.run(Backward(super::$file::$Name $(($($parameter),+))?, dy, from));
                    })*
                }
            }

            /// φ and its first three derivatives: from z in the first of the slices, which have the same
            /// length, φ(z), and φ′(z), φ″(z) and φ‴(z) in the others.
            pub fn jet<T: Element>(self, isa: Isa, z: [&mut [T]; 4]) {
                match self {
                    $(Activation::$Name $(($($parameter),+))? => {
                        dispatch(isa, Jet(super::$file::$Name $(($($parameter),+))?, z));
                    })*
                }
            }
        }
    };
}

impl Activation {
    /// [`forward_in`](Self::forward_in), on an instruction set that it enters for this.
    pub fn forward<T: Element>(self, isa: Isa, z: MatMut<'_, T>, saved: Option<MatMut<'_, T>>) {
        struct Enter<'m, T>(Activation, MatMut<'m, T>, Option<MatMut<'m, T>>);
        impl<T: Element> Op<T> for Enter<'_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                self.0.forward_in(s, self.1, self.2);
            }
        }
        dispatch(isa, Enter(self, z, saved));
    }
}

/// Applies a function to the elements of a matrix. Through [`Simd::run`] this is compiled as separate code,
/// shared by all callers.
struct Forward<'m, F, T>(F, MatMut<'m, T>, Option<MatMut<'m, T>>);

impl<F: Function, T: Element> Op<T> for Forward<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Forward(f, mut z, saved) = self;
        let Some(mut saved) = saved.filter(|_| F::SAVES_DERIVATIVE) else {
            let mut z = if z.is_dense() { z.joined() } else { z.reborrow() };
            for r in 0..z.rows() {
                zip_map(
                    s,
                    [z.row_mut(r)],
                    [],
                    #[inline(always)]
                    |[z], []| [f.forward(s, z)[0]],
                );
            }
            return;
        };
        let joined = z.is_dense() && saved.is_dense();
        let mut z = if joined { z.joined() } else { z.reborrow() };
        let mut saved = if joined { saved.joined() } else { saved.reborrow() };
        for r in 0..z.rows() {
            zip_map(
                s,
                [z.row_mut(r), saved.row_mut(r)],
                [],
                #[inline(always)]
                |[z, _], []| f.forward(s, z),
            );
        }
    }
}

/// The same for its derivative.
struct Backward<'m, F, T>(F, MatMut<'m, T>, MatRef<'m, T>);

impl<F: Function, T: Element> Op<T> for Backward<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Backward(f, mut dy, from) = self;
        let joined = dy.is_dense() && from.is_dense();
        let mut dy = if joined { dy.joined() } else { dy.reborrow() };
        let from = if joined { from.joined() } else { from };
        for r in 0..dy.rows() {
            zip_map(
                s,
                [dy.row_mut(r)],
                [from.row(r)],
                #[inline(always)]
                |[dy], [from]| [f.backward(s, dy, from)],
            );
        }
    }
}

/// The same for [`Activation::jet`].
struct Jet<'m, F, T>(F, [&'m mut [T]; 4]);

impl<F: Function, T: Element> Op<T> for Jet<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Jet(f, z) = self;
        zip_map(
            s,
            z,
            [],
            #[inline(always)]
            |z, []| {
                let [first, second, third] = f.slopes(s, z[0]);
                [f.forward(s, z[0])[0], first, second, third]
            },
        );
    }
}

activations! {
    /// φ(z) = z
    identity::Identity,
    /// φ(z) = max(0, z)
    relu::Relu,
    /// φ(z) = z for z > 0, else slope · z; slope ≥ 0.
    leaky_relu::LeakyRelu(slope: f64),
    /// φ(z) = z for z > 0, else α·(eᶻ − 1); α ≥ 0.
    elu::Elu(alpha: f64),
    /// φ(z) = z for z > 0, else α·(e^(z/α) − 1); α > 0.
    celu::Celu(alpha: f64),
    /// φ(z) = λ·z for z > 0, else λα·(eᶻ − 1), with the λ and α that keep mean 0 and variance 1.
    selu::Selu,
    /// φ(z) = tanh z
    tanh::Tanh,
    /// φ(z) = 1/(1 + e⁻ᶻ)
    sigmoid::Sigmoid,
    /// φ(z) = ln 1/(1 + e⁻ᶻ)
    log_sigmoid::LogSigmoid,
    /// φ(z) = z·Φ(z), Φ the normal distribution function.
    gelu::Gelu,
    /// φ(z) = z/2·(1 + tanh(√(2/π)·(z + 0.044715·z³)))
    gelu_tanh::GeluTanh,
    /// φ(z) = z/(1 + e⁻ᶻ)
    silu::Silu,
    /// φ(z) = z·tanh ln(1 + eᶻ)
    mish::Mish,
    /// φ(z) = ln(1 + e^(βz))/β; β > 0.
    softplus::Softplus(beta: f64),
    /// φ(z) = z/(1 + |z|)
    softsign::Softsign,
    /// φ(z) = sin ωz
    sine::Sine(omega: f64),
    /// φ(z) = min(max(z, low), high); low < high.
    hardtanh::Hardtanh(low: f64, high: f64),
    /// φ(z) = min(max(z, 0), 6)
    relu6::Relu6,
    /// φ(z) = min(max(z/6 + ½, 0), 1)
    hardsigmoid::Hardsigmoid,
    /// φ(z) = z·min(max(z/6 + ½, 0), 1)
    hardswish::Hardswish,
    /// φ(z) = z; in training, each element is 0 with probability p, else z/(1 − p).
    dropout::Dropout(p: f64),
}
