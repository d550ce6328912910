use super::*;
use crate::layer::{Activation, Init, Layer, Linear};
use crate::model::Parts;
use crate::optim::{Config, Group, Optimizer, Sgd};
use crate::train::StepOptions;
use crate::{Model, Trainer, loss::Loss, loss::Targets};

/// Parameters after two steps; `poison` fills the workspaces with NaN before the second. The network has
/// layers wide enough for copies in panels, and runs in shards or not.
fn two_steps(isa: Isa, act: Activation, shards: bool, poison: bool) -> Vec<f64> {
    let wide = if shards { 200 } else { 600 };
    let linear =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let layers = vec![
        linear(wide, 70),
        Layer::Activation(act),
        Layer::Activation(Activation::Gelu),
        linear(70, wide),
        Layer::Activation(act),
        linear(wide, 3),
    ];
    let mut model = Model::<f64>::with_isa(layers, 0, isa).unwrap();
    let mut trainer = Trainer::new(Loss::CROSS_ENTROPY);
    let config = Config::Sgd(Sgd { lr: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() });
    let mut optimizer = Optimizer::new(config, model.network()).unwrap();
    let rows = if shards { 301 } else { 150 };
    let plan = trainer.plan(&model, rows);
    assert_eq!(plan.in_shards(), shards);
    let copies = |s: &Option<StagePlan>| s.is_some_and(|s| s.pack_input || s.pack_delta);
    assert!(plan.stages.iter().any(copies));
    let x: Vec<f64> = (0..rows * wide).map(|i| (i as f64).sin()).collect();
    let y: Vec<i64> = (0..rows as i64).map(|i| i % 3).collect();
    let x = MatRef::new(&x, rows, wide);
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

/// Nothing goes back through frozen layers, unless an earlier layer needs it.
#[test]
fn a_pass_goes_back_as_far_as_somebody_wants_it() {
    let linear =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let mut model = Model::<f32>::new(vec![linear(5, 4), linear(4, 3), linear(3, 2)], 0).unwrap();
    let mut optimizer = Optimizer::<f32>::new(Config::Sgd(Sgd::default()), model.network()).unwrap();
    let mut beyond = |frozen: &[&str], input: bool| -> Vec<bool> {
        let group = |name: &&str| Group { pattern: (*name).into(), frozen: Some(true), ..Group::default() };
        let groups: Vec<_> = frozen.iter().map(group).collect();
        optimizer.set_groups(&groups, model.network()).unwrap();
        let plan = Plan::new::<f32>(model.network(), Mode::Step, 6, model.isa(), 1);
        let mut workspace = Workspace::new(model.network(), plan).unwrap();
        let mut unused = vec![0.0; 6 * 5];
        let Parts { network, params, grads, averages } = model.parts();
        let steps = Some(optimizer.begin().0);
        let pass = Pass {
            weights: Some(WeightTask { steps, ..WeightTask::gradients(grads.share()) }),
            input_gradient: input.then(|| Shared::new(&mut unused)),
            ..Pass::new(network, &mut workspace, params.share(), averages, None, Rows::From(0))
        };
        (0..3).map(|index| pass.goes_beyond(index)).collect()
    };
    assert_eq!(beyond(&[], false), [false, true, true]);
    assert_eq!(beyond(&["0.*"], false), [false, false, true]);
    assert_eq!(beyond(&["0.weight"], false), [false, true, true]);
    assert_eq!(beyond(&["0.*", "1.*"], false), [false; 3]);
    assert_eq!(beyond(&["1.*", "2.*"], false), [false, true, true]);
    assert_eq!(beyond(&["*"], true), [true; 3]);
}

#[test]
fn a_pass_in_parts_reads_nothing_that_it_did_not_write() {
    let step = |precision, poison: bool| {
        let linear = |inputs, outputs| {
            Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
        };
        let layers = vec![linear(70, 45), Layer::Activation(Activation::Gelu), linear(45, 60), linear(60, 3)];
        let mut model = Model::<f32>::new(layers, 0).unwrap();
        let options = StepOptions { precision, ..StepOptions::default() };
        let mut trainer = Trainer::with_options(Loss::CROSS_ENTROPY, options).ok()?;
        let mut optimizer = Optimizer::new(Config::Sgd(Sgd::default()), model.network()).unwrap();
        let x: Vec<f32> = (0..150 * 70).map(|i| (i as f32).sin()).collect();
        let y: Vec<i64> = (0..150).map(|i| i % 3).collect();
        let x = MatRef::new(&x, 150, 70);
        for _ in 0..3 {
            trainer.step(&mut model, &mut optimizer, x, Targets::Labels(&y)).unwrap();
            trainer.backward(&mut model, &optimizer, x, Targets::Labels(&y)).unwrap();
            if poison {
                trainer.poison();
            }
        }
        let mut flat = vec![0.0; model.network().num_parameters()];
        model.gradients(&mut flat);
        Some(flat)
    };
    for precision in Precision::SPLIT {
        let clean = step(precision, false);
        assert!(clean.iter().flatten().all(|x| x.is_finite()));
        assert_eq!(clean, step(precision, true), "{precision:?}");
    }
}

#[test]
fn a_pass_reads_nothing_of_its_workspace_that_it_did_not_write() {
    for isa in Isa::available() {
        for act in [Activation::Relu, Activation::Gelu, Activation::Tanh] {
            for shards in [false, true] {
                let clean = two_steps(isa, act, shards, false);
                assert!(clean.iter().all(|x| x.is_finite()));
                assert_eq!(clean, two_steps(isa, act, shards, true), "{isa} {} {shards}", act.name());
            }
        }
    }
}
