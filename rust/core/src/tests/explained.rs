//! What trainers say of their steps is what they do.

use super::THREADS;
use super::works::{ways, works};
use crate::layer::Activation;
use crate::loss::{Loss, Targets};
use crate::optim::{Adam, Config, Group, Optimizer, Sgd};
use crate::sam::Sam;
use crate::tests::training::layers;
use crate::threads::set_num_threads;
use crate::train::StepOptions;
use crate::update::Clip;
use crate::view::MatRef;
use crate::{Model, Trainer};

fn text(options: StepOptions, groups: &[Group], model: &Model<f32>) -> String {
    let trainer = Trainer::with_options(Loss::Mse, options).unwrap();
    let mut optimizer = Optimizer::new(Config::Sgd(Sgd::default()), model.network()).unwrap();
    optimizer.set_groups(groups, model.network()).unwrap();
    trainer.explain(model, &optimizer, 64).0
}

#[test]
fn updates_follow_each_gradient_or_are_a_pass_of_their_own() {
    let model = Model::<f32>::new(layers(&[300, 300, 10], Activation::Relu), 0).unwrap();
    let plain = StepOptions::default();
    let text = |options| text(options, &[], &model);
    let whole = text(plain);
    assert!(
        whole.contains("each a weight gradient and its update") && !whole.contains("update: "),
        "{whole}"
    );
    for (options, says) in [
        (
            StepOptions { clip: Some(Clip::Norm(1.0)), ..plain },
            "the norm of all gradients must be known first",
        ),
        (StepOptions { clip: Some(Clip::Value(1.0)), ..plain }, "gradients are clipped first"),
        (StepOptions { accumulate: 4, ..plain }, "added up over 4 batches"),
        (StepOptions { sam: Some(Sam { rho: 0.05, adaptive: false }), ..plain }, "twice: at the parameters"),
    ] {
        let text = text(options);
        assert!(text.contains("each a weight gradient\n") && text.contains("update: a pass"), "{text}");
        assert!(text.contains(says) && text.is_ascii(), "{text}");
    }
    for (name, options, config) in ways() {
        let trainer = Trainer::<f32>::with_options(Loss::Mse, options).unwrap();
        let optimizer = Optimizer::new(config, model.network()).unwrap();
        let text = trainer.explain(&model, &optimizer, 64).0;
        assert_eq!(text.contains("update: a pass of its own"), name != "fused", "{name}: {text}");
    }
}

#[test]
fn nothing_is_said_to_go_back_through_frozen_layers() {
    let model = Model::<f32>::new(layers(&[30, 40, 50, 10], Activation::Relu), 0).unwrap();
    let frozen = |pattern: &str| Group { pattern: pattern.into(), frozen: Some(true), ..Group::default() };
    let packed = |text: &str| -> usize {
        let line = text.lines().find_map(|line| line.strip_prefix("pack: "));
        line.map_or(0, |line| line.split(' ').next().unwrap().parse().unwrap())
    };
    let of = |groups: &[Group]| text(StepOptions::default(), groups, &model);
    let [all, first, both] = [of(&[]), of(&[frozen("0.*")]), of(&[frozen("0.*"), frozen("2.*")])];
    let through = [&all, &first, &both].map(|text| text.matches("; backward").count());
    assert_eq!(through, [2, 1, 0], "{all}{first}{both}");
    let ignored = [&all, &first, &both].map(|text| text.matches(": frozen").count());
    assert_eq!(ignored, [0, 1, 2], "{all}{first}{both}");
    assert!(packed(&all) > packed(&first) && packed(&first) > 0 && packed(&both) == 0, "{all}{first}{both}");
}

#[test]
fn the_memory_of_a_step_is_what_it_holds() {
    let _turn = THREADS.lock().unwrap();
    let before = crate::threads::num_threads().0;
    for (name, layers, x, rows) in works() {
        for (way, options, config) in ways() {
            let mut model = Model::<f32>::new(layers.clone(), 3).unwrap();
            let mut optimizer = Optimizer::new(config, model.network()).unwrap();
            let (inputs, outputs) = (x.len() / rows, model.network().outputs());
            let y = vec![0.5; rows * outputs];
            let y = Targets::Values(MatRef::new(&y, rows, outputs));
            for threads in [1, 2] {
                set_num_threads(threads);
                let mut trainer = Trainer::with_options(Loss::Mse, options).unwrap();
                let said = trainer.explain(&model, &optimizer, rows).1;
                trainer.step(&mut model, &mut optimizer, MatRef::new(&x, rows, inputs), y).unwrap();
                assert_eq!(trainer.held(), said, "{name}, {way}, {threads} threads");
            }
        }
    }
    set_num_threads(before);
    let mut model = Model::<f64>::new(layers(&[20, 300, 3], Activation::Tanh), 0).unwrap();
    let mut optimizer = Optimizer::new(Config::Adam(Adam::default()), model.network()).unwrap();
    let mut trainer = Trainer::new(Loss::Mse);
    let (x, y) = (vec![0.5; 5 * 20], vec![0.5; 5 * 3]);
    let said = trainer.explain(&model, &optimizer, 5).1;
    let y = Targets::Values(MatRef::new(&y, 5, 3));
    trainer.step(&mut model, &mut optimizer, MatRef::new(&x, 5, 20), y).unwrap();
    assert_eq!(trainer.held(), said, "a few rows in double precision");
}
