//! Element-wise layers against their formulas, and their derivatives against differences in f64.

use super::*;
use crate::simd::{Isa, Op, dispatch};

const ALL: [Activation; 8] = [
    Activation::Identity,
    Activation::Relu,
    Activation::LeakyRelu(0.01),
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

/// φ on one number, from the definition.
fn formula(act: Activation, z: f64) -> f64 {
    match act {
        Activation::Identity => z,
        Activation::Relu => z.max(0.0),
        Activation::LeakyRelu(slope) => {
            if z > 0.0 {
                z
            } else {
                slope * z
            }
        }
        Activation::Tanh => libm::tanh(z),
        Activation::Sigmoid => 1.0 / (1.0 + libm::exp(-z)),
        Activation::Gelu => z * 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2),
        Activation::Silu => z / (1.0 + libm::exp(-z)),
        Activation::Softplus => libm::log1p(libm::exp(z)),
    }
}

/// (φ(z), dy·φ′(z)) by the layer's own code.
fn run<T: Element>(isa: Isa, act: Activation, z: &[T], dy: T) -> (Vec<T>, Vec<T>) {
    struct Run<'a, T>(Activation, &'a mut [T], &'a mut [T], &'a mut [T]);
    impl<T: Element> Op<T> for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let Run(act, z, saved, dy) = self;
            act.forward(s, z, act.saves_derivative().then_some(&mut *saved));
            act.backward(s, dy, if act.saves_derivative() { saved } else { z });
        }
    }
    let (mut y, mut saved, mut grad) = (z.to_vec(), vec![T::lit(f64::NAN); z.len()], vec![dy; z.len()]);
    dispatch(isa, Run(act, &mut y, &mut saved, &mut grad));
    (y, grad)
}

fn points() -> Vec<f64> {
    // An odd number, none of them a kink, from the flat ends to the middle.
    (-150..=150).map(|i| f64::from(i) * 0.061 + 0.0007).collect()
}

#[test]
fn outputs_follow_the_formulas() {
    for isa in Isa::available() {
        for act in ALL {
            let (y, _) = run::<f64>(isa, act, &points(), 1.0);
            let (y32, _) = run::<f32>(isa, act, &points().iter().map(|z| *z as f32).collect::<Vec<_>>(), 1.0);
            for ((z, y), y32) in points().into_iter().zip(y).zip(y32) {
                let want = formula(act, z);
                assert!((y - want).abs() <= 1e-15 * (1.0 + z.abs()), "{isa} {} {z}: {y} {want}", act.name());
                let want = formula(act, f64::from(z as f32));
                assert!((f64::from(y32) - want).abs() <= 1e-6 * (1.0 + z.abs()), "{isa} {} {z}", act.name());
            }
        }
    }
}

#[test]
fn derivatives_are_those_of_the_outputs() {
    let h = 6e-6;
    for isa in Isa::available() {
        for act in ALL {
            let (_, grad) = run::<f64>(isa, act, &points(), 3.0);
            for (z, grad) in points().into_iter().zip(grad) {
                let numeric = 3.0 * (formula(act, z + h) - formula(act, z - h)) / (2.0 * h);
                assert!((grad - numeric).abs() < 3e-9, "{isa} {} at {z}: {grad} {numeric}", act.name());
            }
        }
    }
}

#[test]
fn at_a_kink_the_derivative_is_that_of_the_negative_side() {
    for isa in Isa::available() {
        assert_eq!(run::<f64>(isa, Activation::Relu, &[0.0, -0.0], 1.0).1, [0.0, 0.0]);
        assert_eq!(run::<f64>(isa, Activation::LeakyRelu(0.5), &[0.0, -0.0], 1.0).1, [0.5, 0.5]);
        // A slope of zero is ReLU.
        assert_eq!(run::<f64>(isa, Activation::LeakyRelu(0.0), &[-2.0, 3.0], 1.0).1, [0.0, 1.0]);
    }
}

#[test]
fn derivatives_far_left_are_accurate_relative_to_themselves() {
    for isa in Isa::available() {
        for z in [-3.0, -17.5, -40.25, -80.0] {
            let sigma = libm::exp(z) / (1.0 + libm::exp(z));
            let wanted =
                [(Activation::Softplus, sigma), (Activation::Silu, sigma * (1.0 + z * (1.0 - sigma)))];
            for (act, want) in wanted {
                let (double, single) =
                    (run::<f64>(isa, act, &[z], 1.0).1[0], run::<f32>(isa, act, &[z as f32], 1.0).1[0]);
                assert!((double / want - 1.0).abs() < 1e-15, "{isa} {} at {z}: {double} {want}", act.name());
                assert!(
                    (f64::from(single) / want - 1.0).abs() < 5e-7,
                    "{isa} {} at {z}: {single}",
                    act.name()
                );
            }
        }
    }
}

#[test]
fn nan_is_never_hidden() {
    for isa in Isa::available() {
        for act in ALL {
            assert!(
                run::<f32>(isa, act, &[f32::NAN; 19], 1.0).0.iter().all(|y| y.is_nan()),
                "{isa} {}",
                act.name()
            );
            assert!(
                run::<f64>(isa, act, &[f64::NAN; 19], 1.0).0.iter().all(|y| y.is_nan()),
                "{isa} {}",
                act.name()
            );
        }
    }
}
