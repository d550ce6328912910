use super::*;
use crate::gemm::split::DEPTH;
use crate::layer::batch_norm::GROUP;
use crate::layer::{Activation, BatchNorm, Category, Init, Layer, Linear, TabularInput};
use crate::workspace::Layout;

fn network(widths: &[usize]) -> Network {
    let layers = widths.windows(2).flat_map(|w| {
        let linear = Linear { inputs: w[0], outputs: w[1], bias: true, init: Init::KaimingUniform };
        [Layer::Linear(linear), Layer::Activation(Activation::Relu)]
    });
    Network::new(layers.collect()).unwrap()
}

const TRAINING: Mode = Mode::Step;

#[test]
fn the_less_there_is_to_do_the_fewer_threads_do_it() {
    let plan = |widths: &[usize], mode, rows, threads| {
        let plan = Plan::new::<f32>(&network(widths), mode, rows, Isa::Scalar, threads);
        (plan.threads, plan.is_short())
    };
    // Very little work is for the caller alone; a little is for two threads at most, if they need not be
    // woken.
    assert_eq!(plan(&[4, 32, 32, 2], TRAINING, 64, 8), (1, false));
    assert_eq!(plan(&[4, 64, 64, 2], TRAINING, 64, 8), (2, true));
    assert_eq!(plan(&[4, 64, 64, 2], TRAINING, 64, 1), (1, false));
    assert_eq!(plan(&[784, 128, 10], TRAINING, 1, 8), (2, true));
    assert_eq!(plan(&[784, 128, 10], TRAINING, 40, 8), (3, true));
    assert_eq!(plan(&[784, 400, 400, 10], TRAINING, 128, 8), (8, false));
    // Where only outputs are wanted, this is not tried.
    assert_eq!(plan(&[4, 64, 64, 2], Mode::Inference, 64, 8), (1, false));
    assert_eq!(plan(&[784, 128, 10], Mode::Inference, 100, 8), (2, false));
    let long = Plan::new::<f32>(&network(&[784, 400, 400, 10]), TRAINING, 128, Isa::Scalar, 2);
    assert_eq!((long.threads, long.blocks(), long.block_rows), (2, 2, 64));
    // Updates of large tables are work, too.
    let table = |codes| {
        let categories = vec![Category { column: 0, codes, dim: 32 }];
        let linear = Linear { inputs: 32, outputs: 2, bias: true, init: Init::KaimingUniform };
        let layers = vec![
            Layer::Tabular(TabularInput { inputs: 1, categories, pieces: vec![] }),
            Layer::Linear(linear),
        ];
        let plan = Plan::new::<f32>(&Network::new(layers).unwrap(), TRAINING, 64, Isa::Scalar, 8);
        (plan.threads, plan.is_short())
    };
    assert_eq!([8, 1_000, 10_000, 100_000].map(table), [(1, false), (2, true), (2, true), (8, false)]);
}

#[test]
fn few_rows_are_one_block_if_caches_hold_the_weights() {
    let blocks = |widths: &[usize], rows, mode| {
        let plan = Plan::new::<f32>(&network(widths), mode, rows, Isa::Scalar, 2);
        assert_eq!(plan.threads, 2, "for the weight gradients");
        plan.blocks()
    };
    let (small, wide) = (&[200, 256, 256, 1][..], &[784, 2000, 2000, 10][..]);
    assert_eq!([2, 8, 9].map(|rows| blocks(small, rows, Mode::Step)), [1, 1, 2]);
    assert_eq!(blocks(wide, 8, Mode::Step), 2);
    // Passes apart do not write weights, so all threads keep those that they have read.
    let held = &[784, 640, 640, 10][..];
    assert_eq!([Mode::Step, Mode::Apart].map(|mode| blocks(held, 8, mode)), [1, 2]);
}

#[test]
fn small_networks_go_in_shards_whatever_the_threads() {
    let plan = |widths: &[usize], rows, mode, threads| {
        Plan::new::<f32>(&network(widths), mode, rows, Isa::Scalar, threads)
    };
    for threads in [1, 2, 8] {
        let step = plan(&[64, 100, 10], 200, Mode::Step, threads);
        assert_eq!(
            (step.shards, step.shard_rows(), step.block_rows, step.threads),
            (2, 100, 100, threads.min(2))
        );
        assert_eq!(plan(&[64, 100, 10], 200, Mode::Apart, threads).shards, 2);
        assert_eq!(plan(&[4, 64, 64, 2], 96, Mode::Step, threads).shards, 2);
        for (widths, rows) in [(&[4, 64, 64, 2][..], 64), (&[64, 500, 10], 20_000), (&[300, 300, 9], 20)] {
            assert_eq!(plan(widths, rows, Mode::Step, threads).shards, 1, "{widths:?}");
        }
        assert_eq!(plan(&[64, 100, 10], 600, Mode::Inference, threads).shards, 1);
        // Wide networks too, if they have few weights.
        let wide = plan(&[300, 80, 9], 128, Mode::Step, threads);
        assert!(wide.shards == 2 && wide.stages[0].unwrap().pack_input);
        // A few more rows, a few more threads.
        let more = plan(&[64, 100, 10], 600, Mode::Step, threads);
        assert_eq!((more.shards, more.shard_rows(), more.threads), (4, 150, threads.min(4)));
        // Many rows: more threads have work, and each keeps the activations of one block only.
        let many = plan(&[64, 100, 10], 5000, Mode::Step, threads);
        assert_eq!((many.shards, many.shard_rows(), many.block_rows, many.threads), (16, 313, 105, threads));
        assert_eq!(many.kept_rows(), 105);
        assert_eq!(plan(&[64, 100, 10], 5000, Mode::Apart, threads).kept_rows(), 5000);
    }
}

#[test]
fn blocks_and_tiles_cover_everything_once() {
    for widths in [&[1, 1][..], &[4, 64, 64, 2], &[784, 400, 400, 10], &[5, 3000, 7]] {
        for rows in [1, 2, 13, 14, 15, 127, 128, 129, 1000, 20_011] {
            for threads in [1, 2, 3, 64] {
                let network = network(widths);
                let plan = Plan::new::<f32>(&network, TRAINING, rows, Isa::Scalar, threads);
                let mut next = 0;
                let blocks: Vec<_> = match plan.in_shards() {
                    true => (0..plan.shards).flat_map(|shard| plan.shard(shard)).collect(),
                    false => (0..plan.blocks()).map(|block| plan.block(block)).collect(),
                };
                for block in blocks {
                    assert_eq!(block.start, next);
                    assert!((1..=plan.block_rows).contains(&block.len()));
                    next = block.end;
                }
                assert_eq!(next, rows);
                for (index, stage) in network.stages().iter().enumerate() {
                    let mut seen = vec![0u8; stage.inputs * stage.outputs];
                    let mut biases = vec![0u8; stage.outputs];
                    for t in plan.tiles.iter().filter(|t| t.stage == index) {
                        for j in t.cols.clone() {
                            biases[j] += u8::from(t.bias);
                            t.rows.clone().for_each(|i| seen[i * stage.outputs + j] += 1);
                        }
                    }
                    assert!(seen.iter().chain(&biases).all(|&n| n == 1));
                }
            }
        }
    }
}

#[test]
fn many_rows_go_in_waves_unless_a_normalization_needs_them_all() {
    let narrow = network(&[2, 256, 256, 256, 3]);
    let plan = Plan::new::<f32>(&narrow, Mode::Step, 4096, Isa::Scalar, 2);
    assert!(plan.in_waves() && plan.kept_rows() < 1024, "{plan:?}");
    let waves = plan.phases.iter().filter(|p| matches!(p, Phase::Weights { .. })).count();
    assert_eq!(waves, 4096usize.div_ceil(plan.wave_rows));
    assert!(!Plan::new::<f32>(&narrow, Mode::Apart, 4096, Isa::Scalar, 2).in_waves());
    // Weights outweigh activations by far: a wave would cost more than it saves.
    assert!(!Plan::new::<f32>(&network(&[9, 4000, 4000, 3]), Mode::Step, 512, Isa::Scalar, 2).in_waves());

    let linear = Linear { inputs: 256, outputs: 256, bias: true, init: Init::KaimingUniform };
    let norm = BatchNorm { features: 256, eps: 1e-5, momentum: 0.1, affine: true };
    let layers = vec![Layer::Linear(linear.clone()), Layer::BatchNorm(norm), Layer::Linear(linear)];
    let plan = Plan::new::<f32>(&Network::new(layers).unwrap(), Mode::Step, 4000, Isa::Scalar, 2);
    assert!(!plan.in_waves() && plan.block_rows.is_multiple_of(GROUP));
}

#[test]
fn tiles_are_even_enough_to_share() {
    for widths in [&[784, 128, 10][..], &[784, 400, 400, 10], &[256, 256, 256], &[2000, 2000]] {
        for threads in [2, 4] {
            let plan = Plan::new::<f32>(&network(widths), TRAINING, 256, Isa::Scalar, threads);
            let size = |t: &TileItem| t.rows.len() * t.cols.len();
            let (all, most) =
                (plan.tiles.iter().map(size).sum::<usize>(), plan.tiles.iter().map(size).max().unwrap());
            assert!(most * threads * 3 <= all, "{widths:?}: one of {} is {most} of {all}", plan.tiles.len());
        }
    }
}

#[test]
fn the_first_layer_needs_no_input_gradient() {
    let plan = Plan::new::<f32>(&network(&[784, 128, 10]), TRAINING, 128, Isa::Scalar, 1);
    assert!(plan.stages[0].unwrap().backward.is_none());
    assert!(plan.stages[1].unwrap().backward.is_some());
    assert!(plan.panels.iter().all(|p| p.stage == 1));
}

#[test]
fn weights_too_large_for_the_cache_are_transposed_on_the_way() {
    let net = network(&[30, 900, 700, 5]);
    for threads in [1, 2] {
        let plan = Plan::new::<f32>(&net, TRAINING, 800, Isa::Scalar, threads);
        let on_the_way: Vec<_> =
            plan.stages.iter().map(|s| s.unwrap().backward.is_some_and(|b| b.pack_b)).collect();
        assert_eq!(on_the_way, [false, true, false], "900 × 700 only");
        assert!(plan.panels.iter().all(|p| p.stage == 2));
        let layout = Layout::new::<f32>(&net, &plan);
        assert_eq!(layout.stages[2].output - layout.stages[1].transposed, 0, "no room for a copy");
        assert!(layout.gradients.start - layout.stages[2].transposed >= 700 * 5);
        assert!(explained(&plan, &net).contains("weights transposed on the way"));

        // With so many rows, a tile keeps the sums of all its panels.
        assert!(!plan.in_waves() && plan.stages[1].unwrap().weight.kc < 800);
        let most = plan.tiles.iter().map(|t| t.rows.len() * t.cols.len()).max().unwrap();
        assert!(plan.tile_scratch >= most);
    }
}

/// The text of a plan whose gradients are all applied at once.
fn explained(plan: &Plan, network: &Network) -> String {
    plan.explain(network, &Then { wanted: &|_| true, fused: true })
}

#[test]
fn a_plan_prints_what_will_run() {
    let text = |widths: &[usize], rows, threads| {
        let network = network(widths);
        explained(&Plan::new::<f32>(&network, TRAINING, rows, Isa::Scalar, threads), &network)
    };
    let few = text(&[784, 100, 10], 8, 2);
    assert!(few.contains("rows: 1 block of 8 through all layers, on one thread: so few rows"), "{few}");
    let wide = text(&[784, 400, 10], 128, 2);
    assert!(wide.starts_with("training step of 128 rows on 2 threads, scalar kernels of 4x8"), "{wide}");
    assert!(wide.is_ascii(), "not every terminal shows more: {wide}");
    assert!(wide.contains("rows: 2 blocks of 64") && !wide.contains("or on a single thread"), "{wide}");
    let sharded = text(&[64, 100, 10], 200, 8);
    assert!(sharded.contains("8 threads are allowed, but its 2 shards are too few for more"), "{sharded}");
    assert!(sharded.contains("rows: 2 shards of 100") && sharded.contains("of 2 shards are added up"));
    assert!(sharded.contains("or on a single thread, whichever is measured to be faster"), "{sharded}");
    assert!(
        text(&[4, 20, 2], 64, 8)
            .contains("its 0.0 million multiply-adds are too few for more: each thread needs 0.15 million")
    );
    assert!(
        text(&[4, 64, 64, 2], 64, 8)
            .contains("its 0.9 million multiply-adds are too few for more: each thread needs 4 million")
    );
}

#[test]
fn large_layers_are_taken_in_parts_and_no_two_blocks_share_a_tile() {
    let network = network(&[784, 400, 31, 64, 10]);
    for precision in Precision::SPLIT {
        let plan = |mode, rows, threads| {
            Plan::in_precision::<f32>(&network, mode, rows, (Isa::Scalar, precision), threads)
        };
        for threads in [1, 2, 3, 64] {
            let step = plan(Mode::Step, 200, threads);
            assert!(!step.in_shards() && step.block_rows.is_multiple_of(DEPTH));
            let of =
                |plan: &Plan| plan.stages.iter().map(|s| s.unwrap().weight.precision).collect::<Vec<_>>();
            let full = Precision::Full;
            assert_eq!(of(&step), [precision, full, full, full], "to 31, from 31, and to 10");
            // Weights of the only layer with such a product are split untransposed; nothing goes back through
            // it.
            assert!(step.panels.iter().all(|item| item.forward == (item.stage == 0)));
            let text = explained(&step, &network);
            assert!(text.contains(&format!("split into {} bfloat16", precision.parts())), "{text}");
            for plain in [
                plan(Mode::Inference, 200, threads),
                plan(Mode::Frozen, 200, threads),
                plan(Mode::Step, 31, 1),
            ] {
                assert!(of(&plain).iter().all(|p| *p == full) && plain.precision == full);
            }
        }
    }
}
