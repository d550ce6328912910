use crate::layer::{Activation, Init, Layer, Linear};
use crate::optim::{Config, Optimizer, Sgd};
use crate::simd::Isa;
use crate::view::MatRef;
use crate::{Model, Trainer, loss::Loss, loss::Targets};

/// Parameters after two steps; `poison` fills the workspaces with NaN before the second.
fn two_steps(isa: Isa, act: Activation, poison: bool) -> Vec<f64> {
    let linear =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let layers = vec![
        linear(600, 33),
        Layer::Activation(act),
        Layer::Activation(Activation::Gelu),
        linear(33, 600),
        Layer::Activation(act),
        linear(600, 3),
    ];
    let mut model = Model::<f64>::with_isa(layers, 0, isa).unwrap();
    let mut trainer = Trainer::new(Loss::CROSS_ENTROPY);
    let config = Config::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() });
    let mut optimizer = Optimizer::new(config, model.network()).unwrap();
    let rows = 150;
    let x: Vec<f64> = (0..rows * 600).map(|i| (i as f64).sin()).collect();
    let y: Vec<i64> = (0..rows as i64).map(|i| i % 3).collect();
    let x = MatRef::new(&x, rows, 600);
    trainer.step(&mut model, &mut optimizer, x, Targets::Labels(&y)).unwrap();
    if poison {
        trainer.poison();
    }
    trainer.step(&mut model, &mut optimizer, x, Targets::Labels(&y)).unwrap();
    trainer.evaluate(&mut model, x, Targets::Labels(&y)).unwrap();
    if poison {
        trainer.poison();
    }
    let tally = trainer.evaluate(&mut model, x, Targets::Labels(&y)).unwrap();
    let mut flat = vec![0.0; model.network().num_parameters()];
    model.parameters(&mut flat);
    flat.push(tally.loss);
    flat
}

#[test]
fn a_pass_reads_nothing_of_its_workspace_that_it_did_not_write() {
    for isa in Isa::available() {
        for act in [Activation::Relu, Activation::Gelu, Activation::Tanh] {
            let clean = two_steps(isa, act, false);
            assert!(clean.iter().all(|x| x.is_finite()));
            assert_eq!(clean, two_steps(isa, act, true), "{isa} {}", act.name());
        }
    }
}
