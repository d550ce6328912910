//! Optimizers against their formulas, written out for single numbers.

use std::mem::discriminant;

use super::Convention::{Ema, Keras, Optax, Textbook, Torch};
use super::*;
use crate::layer::{Init, Layer, Linear};
use crate::rng::{Purpose, Stream};
use crate::simd::Isa;

const STEPS: u64 = 60;

/// The reference's state for one number: as many entries as the method needs, in its own order.
type Memory = [f64; 4];

/// θ after step `t`, according to the papers and the documentation of other libraries.
fn formula(config: Config, t: i32, p: f64, g: f64, memory: &mut Memory) -> f64 {
    let first = t == 1;
    let [a, b, c, product] = memory;
    match config {
        Config::Sgd(o) => {
            let (mut p, mut g) = (p, g);
            match o.convention {
                Keras => p -= p * o.weight_decay * o.lr,
                _ => g += o.weight_decay * p,
            }
            match o.convention {
                _ if o.momentum == 0.0 => p - o.lr * g,
                Keras | Textbook => {
                    *a = o.momentum * *a - g * o.lr;
                    p + if o.nesterov { *a * o.momentum - g * o.lr } else { *a }
                }
                Ema => {
                    *a = o.momentum * *a + (1.0 - o.momentum) * g;
                    p - o.lr * *a
                }
                Torch | Optax => {
                    *a = if first { g } else { o.momentum * *a + (1.0 - o.dampening) * g };
                    p - o.lr * if o.nesterov { g + o.momentum * *a } else { *a }
                }
            }
        }
        Config::Adagrad(o) => {
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, o.convention == Keras);
            if first {
                *a = o.initial_accumulator_value;
            }
            *a += g * g;
            let lr = o.lr / (1.0 + f64::from(t - 1) * o.lr_decay);
            p - lr * g / if o.convention == Torch { a.sqrt() + o.eps } else { (*a + o.eps).sqrt() }
        }
        Config::Rmsprop(o) => {
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, o.convention == Keras);
            *a = o.alpha * *a + (1.0 - o.alpha) * g * g;
            *b = o.alpha * *b + (1.0 - o.alpha) * g;
            let square = if o.centered { *a - *b * *b } else { *a };
            match o.convention {
                Torch => {
                    *c = o.momentum * *c + g / (square.sqrt() + o.eps);
                    p - o.lr * *c
                }
                _ => {
                    *c = o.momentum * *c + o.lr * g / (square + o.eps).sqrt();
                    p - *c
                }
            }
        }
        Config::Adadelta(o) => {
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, o.convention == Keras);
            *a = o.rho * *a + (1.0 - o.rho) * g * g;
            let delta = (*b + o.eps).sqrt() / (*a + o.eps).sqrt() * g;
            *b = o.rho * *b + (1.0 - o.rho) * delta * delta;
            p - o.lr * delta
        }
        Config::Adam(o) => {
            let decoupled = o.decoupled_weight_decay || o.convention == Keras;
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, decoupled);
            *a = o.beta1 * *a + (1.0 - o.beta1) * g;
            *b = o.beta2 * *b + (1.0 - o.beta2) * g * g;
            let (mean, square) = (1.0 - o.beta1.powi(t), 1.0 - o.beta2.powi(t));
            let corrected = if o.convention == Optax { *b / square } else { *b };
            *c = c.max(corrected);
            let used = if o.amsgrad { *c } else { corrected };
            match o.convention {
                Torch => p - o.lr * (*a / mean) / ((used / square).sqrt() + o.eps),
                Optax => p - o.lr * (*a / mean) / (used.sqrt() + o.eps),
                Keras => p - o.lr * square.sqrt() / mean * *a / (used.sqrt() + o.eps),
                _ if o.amsgrad => p - o.lr * *a / (used.sqrt() + o.eps),
                _ => p - o.lr * (*a / mean) / ((used / square).sqrt() + o.eps),
            }
        }
        Config::Nadam(o) => {
            let decoupled = o.decoupled_weight_decay || o.convention == Keras;
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, decoupled);
            *a = o.beta1 * *a + (1.0 - o.beta1) * g;
            *b = o.beta2 * *b + (1.0 - o.beta2) * g * g;
            let root = (*b / (1.0 - o.beta2.powi(t))).sqrt() + o.eps;
            if o.convention == Optax {
                let ahead = o.beta1 * *a / (1.0 - o.beta1.powi(t + 1));
                return p - o.lr * (ahead + (1.0 - o.beta1) * g / (1.0 - o.beta1.powi(t))) / root;
            }
            let mu = |t: i32| o.beta1 * (1.0 - 0.5 * 0.96f64.powf(f64::from(t) * o.momentum_decay));
            *product = mu(t) * if first { 1.0 } else { *product };
            let mean = mu(t + 1) * *a / (1.0 - *product * mu(t + 1)) + (1.0 - mu(t)) * g / (1.0 - *product);
            p - o.lr * mean / root
        }
        Config::Radam(o) => {
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, o.decoupled_weight_decay);
            *a = o.beta1 * *a + (1.0 - o.beta1) * g;
            *b = o.beta2 * *b + (1.0 - o.beta2) * g * g;
            let (mean, power) = (*a / (1.0 - o.beta1.powi(t)), o.beta2.powi(t));
            let longest = 2.0 / (1.0 - o.beta2) - 1.0;
            let rho = longest - 2.0 * f64::from(t) * power / (1.0 - power);
            if rho <= 5.0 {
                return p - o.lr * mean;
            }
            let top = (rho - 4.0) * (rho - 2.0) * longest;
            let rectified = (top / ((longest - 4.0) * (longest - 2.0) * rho)).sqrt();
            let inverse = match o.convention {
                Torch => (1.0 - power).sqrt() / (b.sqrt() + o.eps),
                _ => 1.0 / ((*b / (1.0 - power)).sqrt() + o.eps),
            };
            p - o.lr * mean * rectified * inverse
        }
        Config::Adamax(o) => {
            let (p, g) = decayed(p, g, o.weight_decay, o.lr, o.convention == Keras);
            *a = o.beta1 * *a + (1.0 - o.beta1) * g;
            let lr = o.lr / (1.0 - o.beta1.powi(t));
            if o.convention == Keras {
                *b = (o.beta2 * *b).max(g.abs());
                return p - lr * *a / (*b + o.eps);
            }
            *b = (o.beta2 * *b).max(g.abs() + o.eps);
            p - lr * *a / *b
        }
        Config::Lion(o) => {
            let c = o.beta1 * *a + (1.0 - o.beta1) * g;
            *a = o.beta2 * *a + (1.0 - o.beta2) * g;
            p - o.lr * (c.signum() + o.weight_decay * p)
        }
        Config::Rprop(o) => {
            let mut g = g;
            if first {
                *b = o.lr;
            }
            if g * *a > 0.0 {
                *b *= o.eta2;
            } else if g * *a < 0.0 {
                *b *= o.eta1;
                g = 0.0;
            }
            *b = b.clamp(o.step_size1, o.step_size2);
            *a = g;
            if g == 0.0 { p } else { p - *b * g.signum() }
        }
        Config::ScheduleFree(o) => {
            // a: z, b: v, c: x; z and x begin as the parameter.
            if first {
                (*a, *c) = (p, p);
            }
            *b = o.beta2 * *b + (1.0 - o.beta2) * g * g;
            let direction = g / ((*b / (1.0 - o.beta2.powi(t))).sqrt() + o.eps) + o.weight_decay * p;
            *a -= o.lr * direction;
            // The learning rate never exceeds the first one, so the weights are equal.
            *c += (*a - *c) / f64::from(t);
            (1.0 - o.beta1) * *a + o.beta1 * *c
        }
        Config::Lamb(_)
        | Config::Adafactor(_)
        | Config::Muon(_)
        | Config::Prodigy(_)
        | Config::Shampoo(_) => {
            panic!("not a formula for one number")
        }
    }
}

fn decayed(p: f64, g: f64, weight_decay: f64, lr: f64, decoupled: bool) -> (f64, f64) {
    if decoupled { (p * (1.0 - lr * weight_decay), g) } else { (p, g + weight_decay * p) }
}

/// Every method that works element by element, with several settings.
fn configs() -> Vec<Config> {
    let mut all = Vec::new();
    let (momentum, weight_decay) = (0.9, 0.1);
    let sgd = Sgd { lr: 0.1, ..Sgd::default() };
    all.push(Config::Sgd(sgd));
    all.push(Config::Sgd(Sgd { momentum, dampening: 0.5, weight_decay, ..sgd }));
    for convention in [Torch, Optax, Keras, Textbook, Ema] {
        all.push(Config::Sgd(Sgd { weight_decay, convention, ..sgd }));
        all.push(Config::Sgd(Sgd { momentum, weight_decay, convention, ..sgd }));
        if convention != Ema {
            all.push(Config::Sgd(Sgd { momentum, nesterov: true, weight_decay, convention, ..sgd }));
        }
    }
    let adam = Adam { lr: 0.01, ..Adam::default() };
    for convention in [Torch, Optax, Keras, Textbook] {
        for amsgrad in [false, true] {
            all.push(Config::Adam(Adam { amsgrad, convention, ..adam }));
            for decoupled_weight_decay in [false, true] {
                let (beta1, beta2, eps) = (0.5, 0.9, 1e-3);
                let rest = Adam { amsgrad, convention, decoupled_weight_decay, ..adam };
                all.push(Config::Adam(Adam { beta1, beta2, eps, weight_decay, ..rest }));
            }
        }
    }
    let adagrad = Adagrad { lr: 0.1, ..Adagrad::default() };
    let (rmsprop, adadelta) = (Rmsprop::default(), Adadelta::default());
    let (nadam, radam, adamax) = (Nadam::default(), Radam::default(), Adamax::default());
    for convention in [Torch, Optax, Keras] {
        let initial_accumulator_value = 0.1;
        let rest = Adagrad { initial_accumulator_value, convention, ..adagrad };
        all.push(Config::Adagrad(Adagrad { convention, ..adagrad }));
        all.push(Config::Adagrad(Adagrad { lr_decay: 0.1, weight_decay, eps: 0.1, ..rest }));
        for (centered, momentum) in [(false, 0.0), (false, 0.5), (true, 0.0), (true, 0.5)] {
            let rest = Rmsprop { centered, momentum, convention, ..rmsprop };
            all.push(Config::Rmsprop(Rmsprop { eps: 1e-2, ..rest }));
            all.push(Config::Rmsprop(Rmsprop { alpha: 0.8, eps: 1e-1, weight_decay, ..rest }));
        }
        all.push(Config::Adadelta(Adadelta { convention, ..adadelta }));
        all.push(Config::Adadelta(Adadelta { rho: 0.5, eps: 1e-3, weight_decay, convention, ..adadelta }));
        let momentum_decay = if convention == Optax { 0.0 } else { 0.5 };
        all.push(Config::Nadam(Nadam { momentum_decay, convention, ..nadam }));
        for decoupled_weight_decay in [false, true] {
            let rest = Nadam { momentum_decay, convention, decoupled_weight_decay, ..nadam };
            all.push(Config::Nadam(Nadam { beta1: 0.5, beta2: 0.9, eps: 0.1, weight_decay, ..rest }));
            if convention != Keras {
                let rest = Radam { convention, decoupled_weight_decay, ..radam };
                all.push(Config::Radam(rest));
                // Rectified from the sixth step on, and never rectified.
                all.push(Config::Radam(Radam { beta2: 0.9, eps: 0.1, weight_decay, ..rest }));
                all.push(Config::Radam(Radam { beta2: 0.5, ..rest }));
            }
        }
        all.push(Config::Adamax(Adamax { convention, ..adamax }));
        all.push(Config::Adamax(Adamax {
            beta1: 0.5,
            beta2: 0.9,
            eps: 0.1,
            weight_decay,
            convention,
            ..adamax
        }));
    }
    all.push(Config::Lion(Lion { lr: 0.01, ..Lion::default() }));
    all.push(Config::Lion(Lion { lr: 0.01, beta1: 0.5, beta2: 0.8, weight_decay }));
    let free = ScheduleFree { lr: 0.01, ..ScheduleFree::default() };
    all.push(Config::ScheduleFree(free));
    all.push(Config::ScheduleFree(ScheduleFree { beta1: 0.5, beta2: 0.9, eps: 0.1, weight_decay, ..free }));
    all.push(Config::Rprop(Rprop::default()));
    all.push(Config::Rprop(Rprop { lr: 0.1, eta1: 0.3, eta2: 1.5, step_size1: 0.05, step_size2: 0.2 }));
    all
}

/// θ after each step; the second half uses a tenth of the learning rate.
fn trajectory<T: Element>(isa: Isa, config: Config, theta: &[f64], grads: &[Vec<f64>]) -> Vec<Vec<T>> {
    let linear = Linear { inputs: theta.len(), outputs: 1, bias: false, init: Init::Zeros };
    let network = Network::new(vec![Layer::Linear(linear)]).unwrap();
    let mut params: Vec<T> = theta.iter().map(|x| T::lit(*x)).collect();
    let mut optimizer = Optimizer::<T>::new(config, &network).unwrap();
    let mut path = Vec::new();
    for (i, g) in grads.iter().enumerate() {
        if i == grads.len() / 2 {
            optimizer.config.set_lr(config.lr() / 10.0).unwrap();
        }
        let g: Vec<T> = g.iter().map(|x| T::lit(*x)).collect();
        let step = *optimizer.begin().0.at(0).unwrap();
        let mut state = optimizer.state.iter_mut();
        // Arenas end with padding; arrays that are not kept are empty.
        let state = std::array::from_fn(|_| match state.next() {
            Some(array) if !array.is_empty() => &mut array[..theta.len()],
            _ => &mut [],
        });
        step.update(isa, &mut params, &g, state);
        optimizer.advance();
        path.push(params.clone());
    }
    path
}

#[test]
fn the_list_has_every_method_that_works_element_by_element() {
    for method in Config::elementwise() {
        assert!(configs().iter().any(|c| discriminant(c) == discriminant(&method)), "no {method:?}");
    }
}

#[test]
fn every_optimizer_follows_its_formula() {
    let mut rng = Stream::new(5, Purpose::Init, 0);
    let n = 37; // vectors and a remainder on every ISA
    // Numbers representable in float32, so that both precisions get the same.
    let mut draw = || (0..n).map(|_| f64::from(rng.normal() as f32)).collect::<Vec<_>>();
    let (theta, grads) = (draw(), (0..STEPS).map(|_| draw()).collect::<Vec<_>>());
    for config in configs() {
        config.check().unwrap();
        let want: Vec<Vec<f64>> = (0..n)
            .map(|j| {
                let (mut config, mut p, mut memory) = (config, theta[j], Memory::default());
                let step = |(i, g): (usize, &Vec<f64>)| {
                    if i == grads.len() / 2 {
                        config.set_lr(config.lr() / 10.0).unwrap();
                    }
                    p = formula(config, i as i32 + 1, p, g[j], &mut memory);
                    p
                };
                grads.iter().enumerate().map(step).collect()
            })
            .collect();
        for isa in Isa::available() {
            let double = trajectory::<f64>(isa, config, &theta, &grads);
            let single = trajectory::<f32>(isa, config, &theta, &grads);
            for (j, want) in want.iter().enumerate() {
                for (t, want) in want.iter().enumerate() {
                    let error = (double[t][j] - want).abs();
                    assert!(error <= 1e-13 * (1.0 + want.abs()), "{isa} {config:?} step {t}: {error:e}");
                    let error = (f64::from(single[t][j]) - want).abs();
                    assert!(error <= 1e-5 * (1.0 + want.abs()), "{isa} {config:?} step {t}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn the_first_step_of_adam_is_the_sign_of_the_gradient() {
    let adam = Adam { lr: 0.01, eps: 0.0, ..Adam::default() };
    let grads = [vec![1e-5, -3.0, 1e5], vec![0.0; 3]];
    let path = trajectory::<f64>(Isa::Scalar, Config::Adam(adam), &[0.0; 3], &grads);
    for (got, want) in path[0].iter().zip([-0.01, 0.01, -0.01]) {
        assert!((got - want).abs() < 1e-15);
    }
}

/// Every method, without an ε that keeps denominators from zero.
fn without_eps() -> Vec<Config> {
    let without = |config| match config {
        Config::Adagrad(c) => Config::Adagrad(Adagrad { eps: 0.0, initial_accumulator_value: 0.0, ..c }),
        Config::Rmsprop(c) => Config::Rmsprop(Rmsprop { eps: 0.0, ..c }),
        Config::Adadelta(c) => Config::Adadelta(Adadelta { eps: 0.0, ..c }),
        Config::Adam(c) => Config::Adam(Adam { eps: 0.0, ..c }),
        Config::Nadam(c) => Config::Nadam(Nadam { eps: 0.0, ..c }),
        Config::Radam(c) => Config::Radam(Radam { eps: 0.0, ..c }),
        Config::Adamax(c) => Config::Adamax(Adamax { eps: 0.0, ..c }),
        Config::ScheduleFree(c) => Config::ScheduleFree(ScheduleFree { eps: 0.0, ..c }),
        Config::Sgd(_) | Config::Lion(_) | Config::Rprop(_) => config, // which have none
        Config::Lamb(_)
        | Config::Adafactor(_)
        | Config::Muon(_)
        | Config::Prodigy(_)
        | Config::Shampoo(_) => {
            panic!("it is not in the list")
        }
    };
    configs().into_iter().map(without).collect()
}

#[test]
fn padding_stays_zero_without_eps() {
    for isa in Isa::available() {
        for config in without_eps() {
            let grads = vec![vec![0.0; 19]; 12];
            assert_eq!(trajectory::<f32>(isa, config, &[0.0; 19], &grads)[11], [0.0; 19], "{isa} {config:?}");
            assert_eq!(trajectory::<f64>(isa, config, &[0.0; 19], &grads)[11], [0.0; 19], "{isa} {config:?}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_a_number_does_not_get_lost() {
    for isa in Isa::available() {
        for config in without_eps() {
            let grads = vec![vec![f64::NAN; 19]; 12];
            let path = trajectory::<f32>(isa, config, &[1.0; 19], &grads);
            assert!(path[11].iter().all(|p| p.is_nan()), "{isa} {config:?}");
        }
    }
}

#[test]
fn a_variance_that_rounding_makes_negative_counts_as_zero() {
    let config = Config::Rmsprop(Rmsprop { centered: true, alpha: 0.5, ..Rmsprop::default() });
    for isa in Isa::available() {
        // Equal gradients, so that v tends to m².
        let grads: Vec<Vec<f64>> = vec![(0..37).map(|j| 0.1 + f64::from(j) / 7.0).collect(); 200];
        let path = trajectory::<f32>(isa, config, &[0.0; 37], &grads);
        assert!(path[199].iter().all(|p| p.is_finite()), "{isa}");
    }
}

#[test]
fn options_are_taken_by_name() {
    let number = |(name, x): (&str, f64)| (name.to_string(), Value::Number(x));
    let named = |convention: &str| {
        let numbers =
            [("lr", 0.1), ("momentum", 0.9), ("dampening", 0.0), ("weight_decay", 0.2), ("nesterov", 1.0)];
        let mut options: Options = numbers.into_iter().map(number).collect();
        options.insert("convention".into(), Value::Name(convention.into()));
        options
    };
    let options = named("keras");
    let want = Sgd {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 0.2,
        nesterov: true,
        convention: Keras,
        ..Sgd::default()
    };
    assert_eq!(Config::new("sgd", &options), Ok(Config::Sgd(want)));

    let fails = |kind: &str, options: &Options, text: &str| {
        let error = Config::new(kind, options).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    fails("sdg", &options, "optimizer is \"sdg\"; one of sgd, adagrad");
    fails(
        "sgd",
        &named("tensorflow"),
        "convention is \"tensorflow\"; one of torch, optax, keras, textbook, ema",
    );
    fails("sgd", &Options::new(), "lr is missing");
    let mut more = options.clone();
    more.insert("speed".into(), Value::Number(1.0));
    fails("sgd", &more, "no option \"speed\"");
    more.remove("speed");
    more.insert("momentum".into(), Value::Name("much".into()));
    fails("sgd", &more, "momentum is \"much\"");
}

#[test]
fn hyper_parameters_out_of_range_are_named() {
    let (sgd, adam) = (Sgd::default(), Adam::default());
    let (nadam, rprop) = (Nadam::default(), Rprop::default());
    let cases = [
        (Config::Sgd(Sgd { lr: -1.0, ..sgd }), "lr is -1"),
        (Config::Sgd(Sgd { lr: f64::NAN, ..sgd }), "lr is NaN"),
        (Config::Sgd(Sgd { momentum: 1.0, ..sgd }), "momentum is 1"),
        (Config::Sgd(Sgd { nesterov: true, ..sgd }), "nesterov is True"),
        (Config::Sgd(Sgd { dampening: 0.5, convention: Optax, ..sgd }), "dampening is 0.5"),
        (Config::Sgd(Sgd { momentum: 0.5, nesterov: true, convention: Ema, ..sgd }), "nesterov is True"),
        (Config::Adagrad(Adagrad { lr_decay: -1.0, ..Adagrad::default() }), "lr_decay is -1"),
        (Config::Adagrad(Adagrad { convention: Ema, ..Adagrad::default() }), "convention is \"ema\""),
        (Config::Rmsprop(Rmsprop { alpha: 1.0, ..Rmsprop::default() }), "alpha is 1"),
        (Config::Rmsprop(Rmsprop { momentum: -1.0, ..Rmsprop::default() }), "momentum is -1"),
        (Config::Adadelta(Adadelta { rho: 1.5, ..Adadelta::default() }), "rho is 1.5"),
        (Config::Adam(Adam { beta1: 1.0, ..adam }), "betas[0] is 1"),
        (Config::Adam(Adam { beta2: -0.1, ..adam }), "betas[1] is -0.1"),
        (Config::Adam(Adam { eps: -1.0, ..adam }), "eps is -1"),
        (Config::Adam(Adam { weight_decay: f64::INFINITY, ..adam }), "weight_decay is inf"),
        (Config::Nadam(Nadam { momentum_decay: -1.0, ..nadam }), "momentum_decay is -1"),
        (Config::Nadam(Nadam { convention: Optax, ..nadam }), "momentum_decay is 0.004"),
        (Config::Radam(Radam { convention: Keras, ..Radam::default() }), "convention is \"keras\""),
        (Config::Adamax(Adamax { beta2: 1.0, ..Adamax::default() }), "betas[1] is 1"),
        (Config::Lion(Lion { beta1: 2.0, ..Lion::default() }), "betas[0] is 2"),
        (Config::Rprop(Rprop { eta1: 1.0, ..rprop }), "etas[0] is 1"),
        (Config::Rprop(Rprop { eta2: 1.0, ..rprop }), "etas[1] is 1"),
        (Config::Rprop(Rprop { step_size2: 0.0, ..rprop }), "step_sizes[1] is 0"),
    ];
    for (config, text) in cases {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    let mut config = Config::Sgd(sgd);
    assert!(config.set_lr(-0.5).is_err());
    assert_eq!(config.lr(), 1e-3);
    config.set_lr(0.0).unwrap();
    assert_eq!(config.lr(), 0.0);
}

/// Methods place a block's state by the optimizer's own options: a group that would place it elsewhere is refused.
#[test]
fn a_group_with_a_state_of_another_size_is_refused() {
    let linear = Linear { inputs: 8, outputs: 4, bias: true, init: Init::KaimingUniform };
    let network = Network::new(vec![Layer::Linear(linear)]).unwrap();
    let own = Adafactor { min_dim_size_to_factor: 2, ..Adafactor::default() };
    let mut optimizer = Optimizer::<f32>::new(Config::Adafactor(own), &network).unwrap();
    let mut with = |least| {
        let changes = [("min_dim_size_to_factor".into(), Value::Number(f64::from(least)))].into();
        let group = Group { pattern: "0.weight".into(), changes, ..Group::default() };
        optimizer.set_groups(&[group], &network)
    };
    assert!(with(4).is_ok(), "factored as well");
    let error = with(5).unwrap_err().to_string();
    assert!(error.contains("a state of another size"), "{error}");
}

/// Of several groups that match, each says what it says, and the last one that says something counts.
#[test]
fn groups_of_the_same_parameters_say_it_together() {
    let linear = || Layer::Linear(Linear { inputs: 1, outputs: 1, bias: true, init: Init::KaimingUniform });
    let network = Network::new(vec![linear(), linear()]).unwrap();
    let own = Sgd { lr: 1.0, weight_decay: 0.5, ..Sgd::default() };
    let decay = |x| Options::from([("weight_decay".into(), Value::Number(x))]);
    let group = |pattern: &str| Group { pattern: pattern.into(), ..Group::default() };
    let groups = [
        Group { changes: decay(0.0), ..group("*.bias") },
        Group { lr_scale: Some(0.5), ..group("0.*") },
        Group { frozen: Some(true), ..group("*.weight") },
        Group { frozen: Some(false), changes: decay(0.25), ..group("0.weight") },
    ];
    // θ ← 1 − lr·(0 + decay·1)
    let after = |groups: &[Group]| -> Vec<f64> {
        let mut optimizer = Optimizer::<f64>::new(Config::Sgd(own), &network).unwrap();
        optimizer.set_groups(groups, &network).unwrap();
        let steps = optimizer.begin().0;
        let value = |block: &crate::network::Block| {
            let (mut theta, grad) = ([1.0], [0.0]);
            if let Some(step) = steps.at(block.offset) {
                step.update(Isa::Scalar, &mut theta, &grad, std::array::from_fn(|_| &mut [][..]));
            }
            theta[0]
        };
        network.blocks().iter().map(value).collect()
    };
    let names: Vec<_> = network.blocks().iter().map(|block| block.name.as_str()).collect();
    assert_eq!(names, ["0.weight", "0.bias", "1.weight", "1.bias"]);
    assert_eq!(after(&[]), [0.5; 4]);
    assert_eq!(after(&groups), [1.0 - 0.5 * 0.25, 1.0, 1.0, 1.0]);
    assert_eq!(after(&groups[..2]), [1.0 - 0.5 * 0.5, 1.0, 0.5, 1.0]);
    assert_eq!(after(&groups[1..3]), [1.0, 1.0 - 0.5 * 0.5, 1.0, 0.5]);
}

/// Also if all groups are taken away.
#[test]
fn what_was_frozen_counts_its_own_steps() {
    let linear = Linear { inputs: 3, outputs: 2, bias: true, init: Init::KaimingUniform };
    let network = Network::new(vec![Layer::Linear(linear)]).unwrap();
    let nadam = Nadam::default();
    let mut optimizer = Optimizer::<f64>::new(Config::Nadam(nadam), &network).unwrap();
    let frozen = Group { pattern: "*.bias".into(), frozen: Some(true), ..Group::default() };
    let mut after = |groups: &[Group]| {
        optimizer.set_groups(groups, &network).unwrap();
        optimizer.advance();
        optimizer.advance();
        optimizer.clocks(&network)
    };
    assert_eq!(after(&[]), []);
    let product = |t: i32| nadam.beta1 * (1.0 - 0.5 * 0.96f64.powf(f64::from(t) * nadam.momentum_decay));
    for (groups, steps) in [(&[frozen][..], 2), (&[], 4), (&[], 6)] {
        let clocks = after(groups);
        let [(name, Clock { steps: found, scalars })] = &clocks[..] else { panic!("{clocks:?}") };
        assert_eq!((name.as_str(), *found), ("0.bias", steps));
        let expected: f64 = (1..=steps as i32).map(product).product();
        assert!((scalars[0] - expected).abs() < 1e-12, "{} {expected}", scalars[0]);
    }
    assert_eq!(optimizer.steps, 8);
}
