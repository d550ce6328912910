//! Jets on every instruction set: compared with differences of the outputs, and with the usual backward pass.

use super::{Jet, Slopes};
use crate::diff::tests::{Behind, ROWS, WIDTHS, distance, dot, draw, network};
use crate::layer::{Activation, Fourier, Frequencies, Init, Layer, Linear, RowNorm, Standardize};
use crate::simd::Isa;
use crate::view::MatRef;
use crate::{Element, Model};

/// Networks that jets go through: a sequence of dense layers; one with features in front, scales, a residual
/// block and no bias; and one with blocks that end beside their inputs, the first of which has features.
fn jet_networks(act: Activation) -> [Vec<Layer>; 3] {
    let dense =
        |inputs, outputs, bias| Layer::Linear(Linear { inputs, outputs, bias, init: Init::KaimingUniform });
    let features = Fourier { inputs: WIDTHS[0], frequencies: Frequencies::Normal { count: 9, sigma: 0.2 } };
    let scales = |width, inverse| {
        let numbers = |from: f64| (0..width).map(|j| from + 0.1 * j as f64).collect();
        Layer::Standardize(Standardize { mean: numbers(-0.5), std: numbers(0.9), inverse })
    };
    let (into, out) = (scales(18, false), scales(18, true));
    let inner = vec![into, dense(18, 37, true), Layer::Activation(act), dense(37, 18, false), out];
    let behind = [Layer::Residual(inner), Layer::Activation(act), dense(18, WIDTHS[3], true)];
    let front = [scales(WIDTHS[0], false), Layer::Fourier(features.clone())];
    let with_block = front.into_iter().chain(behind).collect();
    let beside = vec![
        scales(WIDTHS[0], false),
        Layer::Concatenate(vec![Layer::Fourier(features)]),
        dense(WIDTHS[0] + 18, 18, true),
        Layer::Concatenate(vec![Layer::Activation(act), dense(18, 37, false)]),
        Layer::Activation(act),
        dense(18 + 37, WIDTHS[3], true),
    ];
    [network(Behind::Nothing, act), with_block, beside]
}

#[test]
fn jets_are_derivatives_of_the_outputs_along_each_direction() {
    let (along, h) = (draw::<f64>(2 * WIDTHS[0], 5), 3e-5);
    let (x, size) = (draw(ROWS * WIDTHS[0], 1), ROWS * WIDTHS[3]);
    for isa in Isa::available() {
        for (which, layers) in jet_networks(Activation::Tanh).into_iter().enumerate() {
            let mut model = Model::<f64>::with_isa(layers, 3, isa).unwrap();
            let mut jet = Jet::new(model.network(), MatRef::new(&along, 2, WIDTHS[0]), &[2, 2]).unwrap();
            let mut at = |k: usize, step: f64| {
                let direction = &along[k * WIDTHS[0]..][..WIDTHS[0]];
                let moved: Vec<f64> =
                    x.iter().enumerate().map(|(i, x)| x + step * direction[i % WIDTHS[0]]).collect();
                let mut all = vec![f64::NAN; 5 * size];
                jet.forward(&model, MatRef::new(&moved, ROWS, WIDTHS[0]), &mut all).unwrap();
                all
            };
            let here = at(0, 0.0);
            for k in 0..2 {
                let (up, down) = (at(k, h), at(k, -h));
                // From the numbers, and from the first derivatives along the same direction.
                for (part, below) in [(1 + k, 0), (3 + k, 1 + k)] {
                    let [part, below] = [part, below].map(|part| part * size..(part + 1) * size);
                    let pairs = up[below.clone()].iter().zip(&down[below]);
                    let numeric: Vec<f64> = pairs.map(|(a, b)| (a - b) / (2.0 * h)).collect();
                    let error = distance(&here[part], &numeric);
                    assert!(error < 1e-7, "{isa} {which} {k}: {error:e}");
                }
            }
            let mut outputs = vec![0.0; size];
            model.predict(MatRef::new(&x, ROWS, WIDTHS[0]), &mut outputs).unwrap();
            assert!(distance(&here[..size], &outputs) < 1e-14, "{isa} {which}");
        }
    }
}

#[test]
fn jets_have_the_second_derivatives_that_are_wanted() {
    let (along, x) = (draw::<f64>(3 * WIDTHS[0], 5), draw(ROWS * WIDTHS[0], 1));
    let (along, x) = (MatRef::new(&along, 3, WIDTHS[0]), MatRef::new(&x, ROWS, WIDTHS[0]));
    for layers in jet_networks(Activation::Tanh) {
        let model = Model::<f64>::new(layers, 3).unwrap();
        let run = |orders: &[usize]| {
            let mut jet = Jet::new(model.network(), along, orders).unwrap();
            let mut all = vec![f64::NAN; jet.parts() * ROWS * WIDTHS[3]];
            jet.forward(&model, x, &mut all).unwrap();
            all.chunks(ROWS * WIDTHS[3]).map(<[f64]>::to_vec).collect::<Vec<_>>()
        };
        let all = run(&[2, 2, 2]);
        let near = |found: Vec<Vec<f64>>, parts: &[usize]| {
            assert_eq!(found.len(), parts.len());
            let pairs = found.iter().zip(parts);
            assert!(pairs.into_iter().all(|(found, part)| distance(found, &all[*part]) < 1e-14), "{parts:?}");
        };
        near(run(&[1, 1, 1]), &[0, 1, 2, 3]);
        near(run(&[1, 2, 1]), &[0, 1, 2, 3, 5]);
        near(run(&[2, 1, 2]), &[0, 1, 2, 3, 4, 6]);
    }
}

#[test]
fn what_goes_back_from_a_jet_is_the_gradient() {
    let (along, rows) = (draw::<f64>(3 * WIDTHS[0], 5), 70);
    let x = draw(rows * WIDTHS[0], 1);
    let (along, x) = (MatRef::new(&along, 3, WIDTHS[0]), MatRef::new(&x, rows, WIDTHS[0]));
    let acts = [Activation::Tanh, Activation::Gelu, Activation::Sine(1.3), Activation::Softplus(2.0)];
    for isa in Isa::available() {
        let orders = [[1; 3], [2; 3], [1, 2, 1]];
        for (act, orders) in acts.into_iter().flat_map(|act| orders.map(|orders| (act, orders))) {
            for (which, layers) in jet_networks(act).into_iter().enumerate() {
                let mut model = Model::<f64>::with_isa(layers, 3, isa).unwrap();
                let n = model.network().num_parameters();
                let mut jet = Jet::new(model.network(), along, &orders).unwrap();
                let parts = jet.parts();
                let weights = draw::<f64>(parts * rows * WIDTHS[3], 8);
                let mut output = vec![0.0; weights.len()];
                jet.forward(&model, x, &mut output).unwrap();
                // The result is added to what was there.
                model.set_gradients(&vec![1.0; n]).unwrap();
                jet.backward(&mut model, MatRef::new(&weights, parts * rows, WIDTHS[3])).unwrap();
                let (mut gradient, mut theta) = (vec![0.0; n], vec![0.0; n]);
                model.gradients(&mut gradient);
                gradient.iter_mut().for_each(|g| *g -= 1.0);
                model.parameters(&mut theta);
                let v = draw::<f64>(n, 9);
                let h = 3e-5;
                let mut at = |step: f64| {
                    let moved: Vec<f64> = theta.iter().zip(&v).map(|(p, v)| p + step * v).collect();
                    model.set_parameters(&moved).unwrap();
                    jet.forward(&model, x, &mut output).unwrap();
                    dot(&output, &weights)
                };
                // A difference of fourth order: third derivatives of second derivatives are large.
                let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                let found = dot(&gradient, &v);
                let error = (found - numeric).abs() / numeric.abs();
                assert!(error < 1e-7, "{isa} {} {orders:?} {which}: {found} {numeric}", act.name());
            }
        }
    }
}

/// A network whose first stage begins a block, in which derivatives with respect to the inputs meet.
fn skipped(act: Activation) -> Vec<Layer> {
    let dense =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let inner = vec![dense(WIDTHS[0], 18), Layer::Activation(act), dense(18, WIDTHS[0])];
    vec![Layer::Residual(inner), Layer::Activation(act), dense(WIDTHS[0], WIDTHS[3]), Layer::Activation(act)]
}

#[test]
fn slopes_and_their_gradients_are_those_of_a_jet_along_each_input() {
    let (rows, [inputs, outputs]) = (70, [WIDTHS[0], WIDTHS[3]]);
    let x = draw::<f64>(rows * inputs, 1);
    let x = MatRef::new(&x, rows, inputs);
    let mut unit = vec![0.0; inputs * inputs];
    (0..inputs).for_each(|i| unit[i * inputs + i] = 1.0);
    for isa in Isa::available() {
        for act in [Activation::Tanh, Activation::Gelu, Activation::Softplus(2.0)] {
            for (which, layers) in jet_networks(act).into_iter().chain([skipped(act)]).enumerate() {
                let mut model = Model::<f64>::with_isa(layers, 3, isa).unwrap();
                let n = model.network().num_parameters();
                let gradient = |model: &Model<f64>| {
                    let mut gradient = vec![0.0; n];
                    model.gradients(&mut gradient);
                    gradient
                };
                let mut jet =
                    Jet::new(model.network(), MatRef::new(&unit, inputs, inputs), &[1; WIDTHS[0]]).unwrap();
                let mut all = vec![f64::NAN; (1 + inputs) * rows * outputs];
                jet.forward(&model, x, &mut all).unwrap();
                let weights = draw::<f64>(all.len(), 8);
                model.zero_grad();
                jet.backward(&mut model, MatRef::new(&weights, (1 + inputs) * rows, outputs)).unwrap();
                let want = gradient(&model);

                let mut slopes = Slopes::new(model.network()).unwrap();
                let mut y = vec![f64::NAN; rows * outputs];
                let mut found = vec![f64::NAN; outputs * rows * inputs];
                slopes.forward(&model, x, &mut y, &mut found).unwrap();
                // From direction, row and output to output, row and direction.
                let turned = |from: &[f64]| {
                    let at = |k: usize, r: usize, i: usize| from[((1 + i) * rows + r) * outputs + k];
                    let mut into = Vec::new();
                    for (k, r) in (0..outputs).flat_map(|k| (0..rows).map(move |r| (k, r))) {
                        into.extend((0..inputs).map(|i| at(k, r, i)));
                    }
                    into
                };
                assert_eq!(y, all[..y.len()]);
                let error = distance(&found, &turned(&all));
                assert!(error < 1e-13, "{isa} {} {which}: {error:e}", act.name());

                // The result is added to what was there.
                model.set_gradients(&vec![1.0; n]).unwrap();
                let by_slopes = turned(&weights);
                let by_slopes = MatRef::new(&by_slopes, outputs * rows, inputs);
                slopes
                    .backward(&mut model, MatRef::new(&weights[..rows * outputs], rows, outputs), by_slopes)
                    .unwrap();
                let found: Vec<f64> = gradient(&model).iter().map(|g| g - 1.0).collect();
                let error = distance(&found, &want);
                assert!(error < 1e-13, "{isa} {} {which}: {error:e}", act.name());
            }
        }
    }
}

/// Networks with normalizations over rows: behind and before activations, without a mean or parameters, first,
/// last, and where a block ends.
fn normed_networks(act: Activation) -> [Vec<Layer>; 3] {
    let dense =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let norm = |features, centred, scale, shift| {
        Layer::RowNorm(RowNorm { features, eps: Some(0.1), centred, scale, shift })
    };
    let act = || Layer::Activation(act);
    let [inputs, _, _, outputs] = WIDTHS;
    [
        vec![dense(inputs, 37), norm(37, true, true, true), act(), dense(37, outputs)],
        vec![
            norm(inputs, false, true, false),
            dense(inputs, 18),
            act(),
            norm(18, true, false, false),
            Layer::Residual(vec![norm(18, false, true, false), dense(18, 18), act()]),
            norm(18, true, true, true),
            dense(18, outputs),
            norm(outputs, false, true, true),
        ],
        vec![
            Layer::Concatenate(vec![dense(inputs, 9), norm(9, true, true, true), act()]),
            norm(inputs + 9, true, true, true),
            act(),
            dense(inputs + 9, outputs),
        ],
    ]
}

#[test]
fn slopes_go_through_normalizations_over_rows() {
    // Compared with the usual backward pass, and with differences of a sum of slopes and outputs.
    let (rows, [inputs, _, _, outputs]) = (70, WIDTHS);
    let x = draw::<f64>(rows * inputs, 1);
    let x = MatRef::new(&x, rows, inputs);
    let weights = draw::<f64>(rows * outputs, 7);
    let by_slopes = draw::<f64>(outputs * rows * inputs, 8);
    for isa in Isa::available() {
        for (which, layers) in normed_networks(Activation::Tanh).into_iter().enumerate() {
            let mut model = Model::<f64>::with_isa(layers, 3, isa).unwrap();
            let n = model.network().num_parameters();
            let mut theta = vec![0.0; n];
            model.parameters(&mut theta);
            let moved: Vec<f64> = theta.iter().zip(draw::<f64>(n, 6)).map(|(p, v)| p + 0.2 * v).collect();
            theta = moved; // scales and shifts are no longer 1 and 0
            model.set_parameters(&theta).unwrap();
            let mut slopes = Slopes::new(model.network()).unwrap();
            let mut y = vec![f64::NAN; rows * outputs];
            let mut found = vec![f64::NAN; outputs * rows * inputs];
            slopes.forward(&model, x, &mut y, &mut found).unwrap();
            for (k, found) in found.chunks(rows * inputs).enumerate() {
                let only: Vec<f64> =
                    (0..rows * outputs).map(|i| f64::from(u8::from(i % outputs == k))).collect();
                let (mut want, mut out) = (vec![f64::NAN; rows * inputs], vec![0.0; rows * outputs]);
                model.forward(x, &mut out, true).unwrap();
                model.backward(MatRef::new(&only, rows, outputs), Some(&mut want), false).unwrap();
                let errors = [distance(&y, &out), distance(found, &want)];
                assert!(errors[0] < 1e-14 && errors[1] < 1e-13, "{isa} {which} {k}: {errors:?}");
            }
            model.zero_grad();
            let (by_y, by) =
                (MatRef::new(&weights, rows, outputs), MatRef::new(&by_slopes, outputs * rows, inputs));
            slopes.backward(&mut model, by_y, by).unwrap();
            let mut gradient = vec![0.0; n];
            model.gradients(&mut gradient);
            let (v, h) = (draw::<f64>(n, 9), 3e-5);
            let mut at = |step: f64| {
                let moved: Vec<f64> = theta.iter().zip(&v).map(|(p, v)| p + step * v).collect();
                model.set_parameters(&moved).unwrap();
                slopes.forward(&model, x, &mut y, &mut found).unwrap();
                dot(&y, &weights) + dot(&found, &by_slopes)
            };
            let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let exact = dot(&gradient, &v);
            let error = (exact - numeric).abs() / numeric.abs();
            assert!(error < 1e-7, "{isa} {which}: {exact} {numeric}");
        }
    }
}

#[test]
fn slopes_are_of_the_rows_that_went_forward_last() {
    // Fewer rows, and then more, in memory of others; sums over blocks are those of the rows alone.
    let [layers, _, _] = jet_networks(Activation::Tanh);
    let mut model = Model::<f64>::new(layers, 3).unwrap();
    let network = model.network().clone();
    let (inputs, outputs) = (WIDTHS[0], WIDTHS[3]);
    let x = draw::<f64>(500 * inputs, 1);
    let mut run = |slopes: &mut Slopes<f64>, rows: usize| {
        let x = MatRef::new(&x[..rows * inputs], rows, inputs);
        let (mut y, mut of) = (vec![f64::NAN; rows * outputs], vec![f64::NAN; outputs * rows * inputs]);
        slopes.forward(&model, x, &mut y, &mut of).unwrap();
        model.zero_grad();
        let (a, b) = (MatRef::new(&y, rows, outputs), MatRef::new(&of, outputs * rows, inputs));
        slopes.backward(&mut model, a, b).unwrap();
        let mut gradient = vec![0.0; model.network().num_parameters()];
        model.gradients(&mut gradient);
        gradient
    };
    let mut kept = Slopes::new(&network).unwrap();
    for rows in [500, 3, 77, 500, 1] {
        let mut new = Slopes::new(&network).unwrap();
        assert_eq!(run(&mut kept, rows), run(&mut new, rows), "{rows} rows");
    }
}

#[test]
fn jets_have_the_same_bits_for_any_number_of_threads_and_are_near_in_single_precision() {
    fn run<T: Element>(threads: usize) -> Vec<T> {
        crate::threads::set_num_threads(threads);
        let [layers, _, _] = jet_networks(Activation::Silu);
        let mut model = Model::<T>::new(layers, 3).unwrap();
        let rows = 700;
        let (x, along) = (draw::<T>(rows * WIDTHS[0], 1), draw::<T>(2 * WIDTHS[0], 5));
        let mut jet = Jet::new(model.network(), MatRef::new(&along, 2, WIDTHS[0]), &[2, 2]).unwrap();
        let weights = draw::<T>(5 * rows * WIDTHS[3], 8);
        let mut all = vec![T::ZERO; weights.len()];
        jet.forward(&model, MatRef::new(&x, rows, WIDTHS[0]), &mut all).unwrap();
        jet.backward(&mut model, MatRef::new(&weights, 5 * rows, WIDTHS[3])).unwrap();
        let mut gradient = vec![T::ZERO; model.network().num_parameters()];
        let by = [&all[..rows * WIDTHS[3]], &draw::<T>(rows * WIDTHS[3] * WIDTHS[0], 7)].map(<[T]>::to_vec);
        let (mut y, mut of) = (by[0].clone(), by[1].clone());
        let mut slopes = Slopes::new(model.network()).unwrap();
        slopes.forward(&model, MatRef::new(&x, rows, WIDTHS[0]), &mut y, &mut of).unwrap();
        let [by_y, by_slopes] =
            [(&by[0], WIDTHS[3]), (&by[1], WIDTHS[0])].map(|(m, n)| MatRef::new(m, m.len() / n, n));
        slopes.backward(&mut model, by_y, by_slopes).unwrap();
        model.gradients(&mut gradient);
        all.extend(gradient);
        all.extend(of);
        all
    }
    let _turn = crate::tests::THREADS.lock().unwrap();
    let before = crate::threads::num_threads().0;
    let single = run::<f32>(1);
    for threads in [2, 3, 8] {
        assert_eq!(run::<f32>(threads), single, "{threads} threads");
    }
    let (single, double): (Vec<f64>, _) = (single.into_iter().map(f64::from).collect(), run::<f64>(2));
    crate::threads::set_num_threads(before);
    let error = distance(&single, &double);
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn jets_do_not_go_through_what_they_cannot() {
    let make = |layers| Model::<f64>::new(layers, 0).unwrap();
    let model = make(network(Behind::RowNorm, Activation::Tanh));
    let along = [1.0; WIDTHS[0]];
    let text = Jet::new(model.network(), MatRef::new(&along, 1, WIDTHS[0]), &[2]).err().unwrap().to_string();
    assert!(text.contains("layer 1 (LayerNorm 37)"), "{text}");
    let [layers, _, _] = jet_networks(Activation::Tanh);
    let mut model = make(layers);
    let text = Jet::new(model.network(), MatRef::new(&along[..4], 1, 4), &[2]).err().unwrap().to_string();
    assert!(text.contains("of 5 numbers"), "{text}");
    for orders in [&[3][..], &[], &[2, 1]] {
        assert!(Jet::new(model.network(), MatRef::new(&along, 1, WIDTHS[0]), orders).is_err());
    }
    let mut jet = Jet::new(model.network(), MatRef::new(&along, 1, WIDTHS[0]), &[2]).unwrap();
    let (x, gradient) = (draw::<f64>(4 * WIDTHS[0], 1), draw::<f64>(12 * WIDTHS[3], 2));
    let gradient = MatRef::new(&gradient, 12, WIDTHS[3]);
    assert!(jet.backward(&mut model, gradient).is_err(), "nothing went forward");
    jet.forward(&model, MatRef::new(&x, 4, WIDTHS[0]), &mut [0.0; 12 * WIDTHS[3]]).unwrap();
    let short = MatRef::new(&gradient.row(0)[..3], 1, 3);
    assert!(jet.backward(&mut model, short).is_err(), "too few rows");
    assert!(jet.backward(&mut model, gradient).is_ok());

    let of_norm = make(network(Behind::BatchNorm, Activation::Tanh));
    let text = Slopes::<f64>::new(of_norm.network()).err().unwrap().to_string();
    assert!(text.contains("layer 1 (BatchNorm1d 37)"), "{text}");
    let mut slopes = Slopes::new(model.network()).unwrap();
    let by_slopes = draw::<f64>(WIDTHS[3] * 4 * WIDTHS[0], 2);
    let (by_output, by_slopes) =
        (gradient.block(0, 4, 0, WIDTHS[3]), MatRef::new(&by_slopes, WIDTHS[3] * 4, WIDTHS[0]));
    assert!(slopes.backward(&mut model, by_output, by_slopes).is_err(), "nothing went forward");
    let (mut y, mut of) = ([0.0; 4 * WIDTHS[3]], [0.0; WIDTHS[3] * 4 * WIDTHS[0]]);
    slopes.forward(&model, MatRef::new(&x, 4, WIDTHS[0]), &mut y, &mut of).unwrap();
    let few = by_slopes.block(0, 4, 0, WIDTHS[0]);
    assert!(slopes.backward(&mut model, by_output, few).is_err(), "one output's are missing");
    let wrong = [f64::NAN; 4 * WIDTHS[3]];
    assert!(slopes.backward(&mut model, MatRef::new(&wrong, 4, WIDTHS[3]), by_slopes).is_err(), "not finite");
    assert!(slopes.backward(&mut model, by_output, by_slopes).is_ok());
}
