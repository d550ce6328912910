//! Element-wise layers against their formulas, and their derivatives against differences in f64.

use std::mem::discriminant;

use super::*;
use crate::element::Element;
use crate::simd::{Isa, Op, Simd, dispatch};
use crate::tests::ACTIVATIONS;
use crate::view::{MatMut, MatRef};

/// All of them, including dropout as in evaluation.
fn all() -> impl Iterator<Item = Activation> {
    ACTIVATIONS.into_iter().chain([Activation::Dropout(0.3)])
}

/// φ of one number, from the definition.
fn formula(act: Activation, z: f64) -> f64 {
    match act {
        Activation::Identity | Activation::Dropout(_) => z,
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
        Activation::Softplus(beta) => libm::log1p(libm::exp(beta * z)) / beta,
        Activation::Elu(alpha) if z <= 0.0 => alpha * libm::expm1(z),
        Activation::Celu(alpha) if z <= 0.0 => alpha * libm::expm1(z / alpha),
        Activation::Elu(_) | Activation::Celu(_) => z,
        // PyTorch's constants.
        Activation::Selu => {
            let elu = if z > 0.0 { z } else { 1.673_263_242_354_377_2 * libm::expm1(z) };
            1.050_700_987_355_480_5 * elu
        }
        Activation::LogSigmoid => -libm::log1p(libm::exp(-z)),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z * z * z);
            0.5 * z * (1.0 + libm::tanh(u))
        }
        Activation::Mish => z * libm::tanh(libm::log1p(libm::exp(z))),
        Activation::Softsign => z / (1.0 + z.abs()),
        Activation::Sine(omega) => libm::sin(omega * z),
        Activation::Hardtanh(low, high) => z.clamp(low, high),
        Activation::Relu6 => z.clamp(0.0, 6.0),
        Activation::Hardsigmoid => ((z + 3.0) / 6.0).clamp(0.0, 1.0),
        Activation::Hardswish => z * ((z + 3.0) / 6.0).clamp(0.0, 1.0),
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
            let n = z.len();
            let room = act.saves_derivative().then(|| MatMut::new(&mut *saved, 1, n));
            act.forward_in(s, MatMut::new(&mut *z, 1, n), room);
            let from = if act.saves_derivative() { saved } else { z };
            act.backward(s, MatMut::new(dy, 1, n), MatRef::new(from, 1, n));
        }
    }
    let (mut y, mut saved, mut grad) = (z.to_vec(), vec![T::lit(f64::NAN); z.len()], vec![dy; z.len()]);
    dispatch(isa, Run(act, &mut y, &mut saved, &mut grad));
    (y, grad)
}

fn points() -> Vec<f64> {
    // An odd number of points, none at a kink, from the flat ends to the middle.
    (-150..=150).map(|i| f64::from(i) * 0.061 + 0.0007).collect()
}

#[test]
fn outputs_follow_the_formulas() {
    for isa in Isa::available() {
        for act in all() {
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
        for act in all() {
            let (_, grad) = run::<f64>(isa, act, &points(), 3.0);
            for (z, grad) in points().into_iter().zip(grad) {
                let numeric = 3.0 * (formula(act, z + h) - formula(act, z - h)) / (2.0 * h);
                assert!((grad - numeric).abs() < 3e-9, "{isa} {} at {z}: {grad} {numeric}", act.name());
            }
        }
    }
}

#[test]
fn each_derivative_is_that_of_the_one_before() {
    let h = 6e-6;
    for isa in Isa::available() {
        for act in all() {
            let jet = |by: f64| {
                let z: Vec<f64> = points().iter().map(|z| z + by).collect();
                let mut jet = [z.clone(), z.clone(), z.clone(), z];
                act.jet(isa, jet.each_mut().map(|part| &mut part[..]));
                jet
            };
            let (here, up, down) = (jet(0.0), jet(h), jet(-h));
            let (forward, grad) = run::<f64>(isa, act, &points(), 1.0);
            assert_eq!(here[0], forward, "{isa} {}", act.name());
            for (i, z) in points().into_iter().enumerate() {
                let place = format!("{isa} {} at {z}", act.name());
                assert!((here[1][i] - grad[i]).abs() < 1e-14, "{place}: {} {}", here[1][i], grad[i]);
                for order in [2, 3] {
                    let numeric = (up[order - 1][i] - down[order - 1][i]) / (2.0 * h);
                    // The list's sine has ω = 3: each derivative is larger than the one before.
                    let bound = 1e-8 * if order == 3 { 30.0 } else { 1.0 };
                    let found = here[order][i];
                    assert!((found - numeric).abs() < bound, "{place}, {order}: {found} {numeric}");
                }
            }
        }
    }
}

#[test]
fn at_a_kink_the_derivative_is_that_of_the_negative_side() {
    for isa in Isa::available() {
        assert_eq!(run::<f64>(isa, Activation::Relu, &[0.0, -0.0], 1.0).1, [0.0, 0.0]);
        assert_eq!(run::<f64>(isa, Activation::LeakyRelu(0.5), &[0.0, -0.0], 1.0).1, [0.5, 0.5]);
        assert_eq!(run::<f64>(isa, Activation::Elu(0.5), &[0.0, -0.0], 1.0).1, [0.5, 0.5]);
        // Hard functions are flat at both ends of their slope.
        assert_eq!(run::<f64>(isa, Activation::Relu6, &[0.0, 1.0, 6.0], 1.0).1, [0.0, 1.0, 0.0]);
        assert_eq!(run::<f64>(isa, Activation::Hardtanh(-1.0, 2.0), &[-1.0, 2.0], 1.0).1, [0.0, 0.0]);
        assert_eq!(run::<f64>(isa, Activation::Hardswish, &[-3.0, 3.0], 1.0).1, [0.0, 1.0]);
        // With slope zero it is ReLU.
        assert_eq!(run::<f64>(isa, Activation::LeakyRelu(0.0), &[-2.0, 3.0], 1.0).1, [0.0, 1.0]);
    }
}

#[test]
fn derivatives_far_left_are_accurate_relative_to_themselves() {
    for isa in Isa::available() {
        for z in [-3.0, -17.5, -40.25, -80.0] {
            let sigma = libm::exp(z) / (1.0 + libm::exp(z));
            let wanted = [
                (Activation::Softplus(1.0), sigma),
                (Activation::Silu, sigma * (1.0 + z * (1.0 - sigma))),
                (Activation::Elu(2.0), 2.0 * libm::exp(z)),
                (Activation::Celu(2.0), libm::exp(z / 2.0)),
            ];
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
fn pieces_tell_kinks_apart_and_nothing_else() {
    let kinks: [(Activation, &[f64]); 8] = [
        (Activation::Relu, &[0.0]),
        (Activation::LeakyRelu(0.1), &[0.0]),
        (Activation::Elu(0.7), &[0.0]),
        (Activation::Selu, &[0.0]),
        (Activation::Hardtanh(-0.5, 1.25), &[-0.5, 1.25]),
        (Activation::Relu6, &[0.0, 6.0]),
        (Activation::Hardsigmoid, &[-3.0, 3.0]),
        (Activation::Hardswish, &[-3.0, 3.0]),
    ];
    for act in all() {
        let kinks = kinks.iter().find(|(a, _)| *a == act).map_or(&[][..], |(_, at)| at);
        let mut z = points();
        z.extend(kinks.iter().flat_map(|k| [k - 1e-6, k + 1e-6]));
        z.sort_by(f64::total_cmp);
        let (y, _) = run::<f64>(Isa::Scalar, act, &z, 1.0);
        for (z, y) in z.windows(2).zip(y.windows(2)) {
            let crossed = kinks.iter().any(|k| z[0] < *k && *k < z[1]);
            assert_eq!(act.piece(y[0]) != act.piece(y[1]), crossed, "{} between {z:?}", act.name());
        }
    }
    assert_eq!(Activation::Elu(1.0).piece(3.0), None, "it is smooth");
}

/// And so is among those that these tests go through.
#[test]
fn every_kind_is_found_by_its_name_and_parameters() {
    for kind in Activation::KINDS {
        let found = (0..3).find_map(|n| Activation::of_kind(kind, &[0.5, 1.0][..n]));
        let found = found.unwrap_or_else(|| panic!("{kind}"));
        assert!(all().any(|act| discriminant(&act) == discriminant(&found)), "ACTIVATIONS has no {kind}");
    }
    assert_eq!(Activation::of_kind("leaky_relu", &[0.5]), Some(Activation::LeakyRelu(0.5)));
    assert_eq!(Activation::of_kind("hardtanh", &[0.5, 1.0]), Some(Activation::Hardtanh(0.5, 1.0)));
    assert_eq!(Activation::of_kind("relu", &[0.5]), None);
    assert_eq!(Activation::of_kind("linear", &[]), None);
}

/// Fourier features are as accurate after many turns as in the first: their angle is exact here.
#[test]
fn features_of_many_turns_are_accurate() {
    for isa in Isa::available() {
        for x in [0.25, 1.0, 64.0, 4096.0, -65536.0] {
            let mut y = [0.0; 6];
            let frequencies = [3.3f32, -0.7, 0.25];
            fourier::forward(isa, MatRef::new(&[x], 1, 1), &frequencies, MatMut::new(&mut y, 1, 6));
            for (j, b) in frequencies.into_iter().enumerate() {
                let angle = std::f64::consts::TAU * (f64::from(x) * f64::from(b)).fract();
                let (sin, cos) = angle.sin_cos();
                assert!((f64::from(y[j]) - sin).abs() < 5e-7, "{isa} {x} {b}");
                assert!((f64::from(y[3 + j]) - cos).abs() < 5e-7, "{isa} {x} {b}");
            }
        }
    }
}

#[test]
fn nan_is_never_hidden() {
    for isa in Isa::available() {
        for act in all() {
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
