//! Every kernel of every ISA against the naive product: bit for bit, because the order of additions is part
//! of the contract.

use super::pack::{LhsPanels, PANEL, Panels, offset, pack_rows, pack_transposed};
use super::plan::{GemmShape, TileShape};
use super::*;
use crate::rng::{Purpose, Stream};
use proptest::prelude::*;

fn random<T: Element>(rng: &mut Stream, len: usize) -> Vec<T> {
    (0..len).map(|_| T::lit(rng.normal())).collect()
}

fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|x| if x.to_f64().is_nan() { u64::MAX } else { x.to_f64().to_bits() }).collect()
}

/// A matrix in panels, element by element.
fn in_panels<T: Element>(b: MatRef<'_, T>) -> Vec<T> {
    let (k, n) = (b.rows(), b.cols());
    let mut panels = vec![T::lit(f64::NAN); k * n];
    for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
        panels[offset(k, n, p, j)] = b.at(p, j);
    }
    panels
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Plain,
    Transposed,
    Panels,
    /// The right operand's transpose, in panels.
    TransposedPanels,
}

/// One product on one ISA, with operands in every layout, strides longer than the rows, and canaries around
/// C, compared with the reference.
#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    slack: usize,
    a: Layout,
    b: Layout,
    init: usize,
    plan: Option<(usize, usize, bool, bool)>,
}

fn check<T: Element>(isa: Isa, case: &Case) {
    let Case { m, n, k, slack, .. } = *case;
    let mut rng = Stream::new(11, Purpose::Init, (m * 10007 + n * 101 + k) as u64);
    let (a_rows, a_cols) = if case.a == Layout::Transposed { (k, m) } else { (m, k) };
    let a_data = random::<T>(&mut rng, a_rows * (a_cols + slack));
    let a = MatRef::strided(&a_data, a_rows, a_cols, a_cols + slack, 1);
    let a = if case.a == Layout::Transposed { a.t() } else { a };
    let b_data = random::<T>(&mut rng, k * (n + slack));
    let b = MatRef::strided(&b_data, k, n, n + slack, 1);
    let bias = random::<T>(&mut rng, n);
    let before = random::<T>(&mut rng, m * (n + slack) + slack);
    let init = [Init::Zero, Init::Bias(&bias), Init::Accumulate][case.init];

    let tile = TileShape::of::<T>(isa);
    let mut plan = GemmPlan::choose::<T>(
        isa,
        GemmShape {
            m,
            n,
            k,
            a_row_stride: a.row_stride(),
            a_col_stride: a.col_stride(),
            b_row_stride: (case.b == Layout::Plain).then_some(b.row_stride()),
        },
    );
    if let Some((kc, mc, pack_a, pack_b)) = case.plan {
        // Blocks of what is transposed consist of whole panels.
        let kc = if case.b == Layout::TransposedPanels { kc.next_multiple_of(PANEL) } else { kc };
        let pack_b = pack_b && case.b == Layout::Plain;
        plan = GemmPlan::blocked(tile, (m, k), (mc * tile.mr, kc), pack_a, pack_b);
    }

    let (panels, transposed) = (in_panels(b), in_panels(b.t()));
    let rhs = match case.b {
        Layout::Panels => Rhs::Panels(Panels::new(&panels, k, n)),
        Layout::TransposedPanels => {
            plan = plan.transposing();
            Rhs::Transposed(Panels::new(&transposed, n, k))
        }
        _ => Rhs::Plain(b),
    };

    let mut c_data = before.clone();
    let c = MatMut::strided(&mut c_data, m, n, n + slack);
    let mut scratch = vec![T::lit(f64::NAN); plan.scratch_len()];
    Gemm { a: Lhs::Plain(a), b: rhs, c, init, epilogue: Epilogue::None, ahead: &[] }.run(
        isa,
        &plan,
        &mut scratch,
    );

    let fused = isa != Isa::Scalar;
    let start = MatRef::strided(&before, m, n, n + slack, 1);
    let want = reference::product(a, b, start, init, fused);
    for i in 0..m {
        let row = &c_data[i * (n + slack)..];
        assert_eq!(bits(&row[..n]), bits(&want[i * n..(i + 1) * n]), "{isa} row {i} of {case:?}");
        let (after, untouched) = (&row[n..n + slack], &before[i * (n + slack) + n..][..slack]);
        assert_eq!(bits(after), bits(untouched), "{isa} wrote behind row {i} of {case:?}");
    }
}

fn check_all(case: &Case) {
    for isa in Isa::available() {
        check::<f32>(isa, case);
        check::<f64>(isa, case);
    }
}

#[test]
fn every_remainder_of_every_tile() {
    // Every number of rows and columns up to two tiles, which covers every instantiation.
    for isa in Isa::available() {
        let tile = TileShape::of::<f32>(isa);
        for m in 0..=tile.mr + 2 {
            for n in 0..=tile.nr + 3 {
                for (a, k) in [(Layout::Plain, 5), (Layout::Transposed, 3), (Layout::Plain, 0)] {
                    let b = [Layout::Plain, Layout::Panels, Layout::TransposedPanels][(m / 2 + n) % 3];
                    let case = Case { m, n, k, slack: 3, a, b, init: (m + n) % 3, plan: None };
                    check::<f32>(isa, &case);
                    check::<f64>(isa, &case);
                }
            }
        }
    }
}

#[test]
fn every_number_of_few_steps() {
    for k in 0..=FEW_STEPS + 1 {
        for (m, n) in [(1, 1), (3, 8), (9, 31), (20, 64), (33, 67)] {
            for init in 0..3 {
                let (a, b) = (Layout::Transposed, Layout::Plain);
                check_all(&Case { m, n, k, slack: 3, a, b, init, plan: None });
            }
        }
    }
}

#[test]
fn one_or_two_rows_times_every_number_of_panels() {
    for n in 0..=9 * PANEL + 5 {
        for (m, b) in [(1, Layout::Plain), (1, Layout::Panels), (2, Layout::Plain), (2, Layout::Panels)] {
            check_all(&Case { m, n, k: 7, slack: 3, a: Layout::Plain, b, init: n % 3, plan: None });
        }
    }
}

#[test]
fn shapes_of_networks() {
    for (m, n, k) in [
        (128, 400, 784),
        (1, 128, 9),
        (1, 129, 5),
        (1, 400, 7),
        (1, 64, 1),
        (64, 64, 64),
        (200, 10, 100),
        (1, 300, 600),
        (2, 300, 70),
        (3, 131, 40),
        (300, 1, 600),
        (70, 600, 600),
        (40, 70, 1300),
    ] {
        for (a, b) in [
            (Layout::Plain, Layout::Plain),
            (Layout::Plain, Layout::Panels),
            (Layout::Transposed, Layout::Plain),
            (Layout::Transposed, Layout::Panels),
            (Layout::Plain, Layout::TransposedPanels),
        ] {
            check_all(&Case { m, n, k, slack: 0, a, b, init: 1, plan: None });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_blocking_gives_the_same_bits(
        m in 0usize..60, n in 0usize..80, k in 0usize..70, slack in 0usize..5,
        a in prop_oneof![Just(Layout::Plain), Just(Layout::Transposed)],
        b in prop_oneof![Just(Layout::Plain), Just(Layout::Panels), Just(Layout::TransposedPanels)],
        init in 0usize..3,
        plan in prop::option::of((1usize..40, 1usize..4, any::<bool>(), any::<bool>())),
    ) {
        check_all(&Case { m, n, k, slack, a, b, init, plan });
    }
}

#[test]
fn copies_in_panels_hold_every_element_where_it_belongs() {
    in_panels_of::<f32>();
    in_panels_of::<f64>();
}

fn in_panels_of<T: Element>() {
    for isa in Isa::available() {
        for (k, n) in [(1, 1), (5, 31), (40, 32), (33, 33), (64, 100), (100, 10)] {
            let data: Vec<T> = (0..k * n).map(|i| T::lit(i as f64)).collect();
            let b = MatRef::new(&data, k, n);
            // Parts of the rows, one after the other, in panels of a right and of a left operand.
            for width in [PANEL, 13] {
                let mut copy = vec![T::lit(f64::NAN); k * n];
                for from in (0..k).step_by(7) {
                    let part = b.block(from, 7.min(k - from), 0, n);
                    // SAFETY: the copy has k · n elements.
                    unsafe { pack_rows(isa, part, width, (from, k), copy.as_mut_ptr()) };
                }
                for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
                    let panel = j / width * width;
                    let place = panel * k + p * width.min(n - panel) + j % width;
                    assert_eq!(copy[place], b.at(p, j), "{isa} {k} × {n} in {width}");
                }
            }
            // The transpose, in two parts.
            let source = in_panels(b);
            let (cut, mut copy) = (k.min(PANEL), vec![T::lit(f64::NAN); k * n]);
            let (first, second) = copy.split_at_mut(cut * n);
            pack_transposed(isa, Panels::new(&source, k, n), 0, first);
            pack_transposed(isa, Panels::new(&source, k, n), PANEL, second);
            assert_eq!(copy, in_panels(b.t()), "{isa} {k} × {n}");
            let mut turned = vec![T::lit(f64::NAN); k * n];
            pack::transpose(isa, b, &mut turned);
            assert!((0..k * n).all(|at| turned[at] == b.at(at % k, at / k)), "{isa} {k} × {n}");
        }
    }
}

#[test]
fn a_left_operand_in_panels_gives_the_same_bits() {
    left_in_panels::<f32>();
    left_in_panels::<f64>();
}

fn left_in_panels<T: Element>() {
    for isa in Isa::available() {
        for (m, n, k) in [(100, 32, 300), (29, 7, 5), (784, 20, 130)] {
            let mut rng = Stream::new(3, Purpose::Init, m as u64);
            let (x, b) = (random::<T>(&mut rng, k * m), random::<T>(&mut rng, k * n));
            let (x, b) = (MatRef::new(&x, k, m), MatRef::new(&b, k, n));
            let tile = TileShape::of::<T>(isa);
            let plan = GemmPlan::gradient::<T>(isa, tile.mr, 64);
            let mut panels = vec![T::lit(f64::NAN); m * k];
            // SAFETY: `panels` has as many elements as the matrix.
            unsafe { pack_rows(isa, x, plan.rows, (0, k), panels.as_mut_ptr()) };
            let whole = LhsPanels::new(&panels, m, k, plan.rows);
            let cut = m / 2 / plan.rows * plan.rows;
            let mut c = vec![T::lit(f64::NAN); m * n];
            // In four parts: by rows, and by steps, where the second part continues the first.
            for ((from, to), (first, last)) in
                [(0, cut), (cut, m)].into_iter().flat_map(|rows| [(0, k / 3), (k / 3, k)].map(|k| (rows, k)))
            {
                let gemm = Gemm {
                    a: Lhs::Panels(whole.block(from, to - from)).steps(first, last - first),
                    b: Rhs::Plain(b.block(first, last - first, 0, n)),
                    c: MatMut::new(&mut c[from * n..to * n], to - from, n),
                    init: if first == 0 { Init::Zero } else { Init::Accumulate },
                    epilogue: Epilogue::None,
                    ahead: &[Ahead { start: panels.as_ptr().cast(), bytes: size_of::<T>() * m * k }],
                };
                gemm.run(isa, &plan, &mut []);
            }
            let want = reference::product(x.t(), b, b, Init::Zero, isa != Isa::Scalar);
            assert_eq!(bits(&c), bits(&want), "{isa} {m} × {n} × {k}");
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    for isa in Isa::available() {
        let (m, n, k) = (20, 40, 9);
        let mut a = vec![1.0f32; m * k];
        let mut b = vec![1.0f32; k * n];
        a[7 * k + 3] = f32::NAN;
        b[2 * n + 33] = f32::INFINITY;
        let mut c = vec![0.0f32; m * n];
        let shape = GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) };
        let gemm = Gemm {
            a: Lhs::Plain(MatRef::new(&a, m, k)),
            b: Rhs::Plain(MatRef::new(&b, k, n)),
            c: MatMut::new(&mut c, m, n),
            init: Init::Zero,
            epilogue: Epilogue::None,
            ahead: &[],
        };
        gemm.run(isa, &GemmPlan::choose::<f32>(isa, shape), &mut []);
        for (index, x) in c.iter().enumerate() {
            match (index / n, index % n) {
                (7, _) => assert!(x.is_nan()),
                (_, 33) => assert_eq!(*x, f32::INFINITY),
                _ => assert_eq!(*x, k as f32),
            }
        }
    }
}

/// A plan may be for another shape if its scratch suffices: here, a plan for one row serves two.
#[test]
fn a_plan_for_fewer_rows_gives_the_same() {
    let (m, n, k) = (2, 64, 5);
    let mut rng = Stream::new(3, Purpose::Init, 0);
    let (a, b) = (random::<f32>(&mut rng, m * k), random::<f32>(&mut rng, k * n));
    let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
    for isa in Isa::available() {
        let shape = GemmShape { m: 1, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) };
        let mut c = vec![0.0f32; m * n];
        let gemm = Gemm {
            a: Lhs::Plain(a),
            b: Rhs::Plain(b),
            c: MatMut::new(&mut c, m, n),
            init: Init::Zero,
            epilogue: Epilogue::None,
            ahead: &[],
        };
        gemm.run(isa, &GemmPlan::choose::<f32>(isa, shape), &mut []);
        let want = reference::product(a, b, b, Init::Zero, isa != Isa::Scalar);
        assert_eq!(bits(&c), bits(&want), "{isa}");
    }
}

#[test]
fn the_error_of_a_chain_is_within_its_bound() {
    let (m, n, k) = (10, 20, 4096);
    let mut rng = Stream::new(1, Purpose::Init, 0);
    let (a, b) = (random::<f32>(&mut rng, m * k), random::<f32>(&mut rng, k * n));
    let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
    for isa in Isa::available() {
        let shape = GemmShape { m, n, k, a_row_stride: k, a_col_stride: 1, b_row_stride: Some(n) };
        let plan = GemmPlan::choose::<f32>(isa, shape);
        let mut c = vec![0.0f32; m * n];
        let gemm = Gemm {
            a: Lhs::Plain(a),
            b: Rhs::Plain(b),
            c: MatMut::new(&mut c, m, n),
            init: Init::Zero,
            epilogue: Epilogue::None,
            ahead: &[],
        };
        gemm.run(isa, &plan, &mut vec![0.0; plan.scratch_len()]);
        // Always |error| ≤ k·u·Σ|ab| (Higham, ch. 3); with random signs it stays below a few √k·u.
        let unit = f64::from(f32::EPSILON) / 2.0;
        for (got, (want, size)) in c.iter().zip(reference::exact(a, b)) {
            assert!((f64::from(*got) - want).abs() <= 4.0 * (k as f64).sqrt() * unit * size);
        }
    }
}

#[test]
fn an_epilogue_sees_every_element_once_when_it_is_complete() {
    // Leaky slope 2: if it were applied twice, or before the last block of k, the result would show it.
    let act = Activation::LeakyRelu(2.0);
    for isa in Isa::available() {
        for (m, n, k) in [(33, 70, 40), (5, 3, 1), (1, 1, 0)] {
            let mut rng = Stream::new(2, Purpose::Init, m as u64);
            let (a, b) = (random::<f64>(&mut rng, m * k), random::<f64>(&mut rng, k * n));
            let bias = random::<f64>(&mut rng, n);
            let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
            let tile = TileShape::of::<f64>(isa);
            let plan = GemmPlan::blocked(tile, (m, k), (2 * tile.mr, 16), true, true);
            let mut scratch = vec![f64::NAN; plan.scratch_len()];
            let mut product = |c: &mut [f64], epilogue: Epilogue<'_, f64>| {
                let (c, init) = (MatMut::new(c, m, n), Init::Bias(&bias));
                let gemm = Gemm { a: Lhs::Plain(a), b: Rhs::Plain(b), c, init, epilogue, ahead: &[] };
                gemm.run(isa, &plan, &mut scratch);
            };
            let mut c = vec![f64::NAN; m * n];
            product(&mut c, Epilogue::Activate(act, None));
            let plain = reference::product(a, b, a, Init::Bias(&bias), isa != Isa::Scalar);
            let want: Vec<f64> = plain.iter().map(|z| if *z > 0.0 { *z } else { 2.0 * z }).collect();
            assert_eq!(c, want, "{isa}");

            let mut d = vec![f64::NAN; m * n];
            product(&mut d, Epilogue::Derivative(act, MatRef::new(&c, m, n)));
            let want: Vec<f64> = plain.iter().map(|z| if *z > 0.0 { *z } else { 2.0 * z }).collect();
            assert_eq!(d, want, "{isa}");
        }
    }
}

/// The derivative of φ from its output, for a scalar, rounded as in the kernels.
fn slope<T: Element>(act: Activation, y: T, fused: bool) -> T {
    match act {
        Activation::Identity => T::ONE,
        Activation::Relu if y > T::ZERO => T::ONE,
        Activation::Relu => T::ZERO,
        Activation::Tanh => (-y).mul_add(y, T::ONE, fused),
        _ => unreachable!("not one of the epilogues in registers"),
    }
}

/// The epilogues that are applied in registers, in every instantiation: all remainders of rows and columns,
/// wide tiles, several blocks of k, every start.
#[test]
fn epilogues_in_registers_are_those_of_the_formulas() {
    fn check<T: Element>(isa: Isa, (m, n, k): (usize, usize, usize), init: usize, write: bool) {
        let fused = isa != Isa::Scalar;
        let mut rng = Stream::new(5, Purpose::Init, (m * 1009 + n * 31 + k) as u64);
        let (slack, tile) = (3, TileShape::of::<T>(isa));
        let (a, b) = (random::<T>(&mut rng, m * k), random::<T>(&mut rng, k * n));
        let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
        let (bias, before) = (random::<T>(&mut rng, n), random::<T>(&mut rng, m * n));
        // What derivatives are computed from: in (-1, 1), with zeros of both signs and NaN, in separated rows.
        let mut y: Vec<T> =
            random::<T>(&mut rng, m * (n + slack)).iter().map(|x| T::lit(x.to_f64().sin())).collect();
        y.iter_mut().step_by(7).for_each(|y| *y = T::ZERO);
        y.iter_mut().skip(3).step_by(11).for_each(|y| *y = T::lit(-0.0));
        y.iter_mut().skip(5).step_by(97).for_each(|y| *y = T::lit(f64::NAN));
        let y = MatRef::strided(&y, m, n, n + slack, 1);
        let init = [Init::Zero, Init::Bias(&bias), Init::Accumulate][init];
        let sums = reference::product(a, b, MatRef::new(&before, m, n), init, fused);
        let ahead = [Ahead { start: bias.as_ptr().cast(), bytes: size_of_val(&bias[..]) }];
        for (act, forward) in [
            (Activation::Relu, true),
            (Activation::Relu, false),
            (Activation::Tanh, false),
            (Activation::Identity, true),
            (Activation::Identity, false),
        ] {
            for kc in [k.max(1), 2] {
                let plan = GemmPlan::blocked(tile, (m, k), (m, kc), kc < k, false);
                let mut c = before.clone();
                let epilogue =
                    if forward { Epilogue::Activate(act, None) } else { Epilogue::Derivative(act, y) };
                Gemm {
                    a: Lhs::Plain(a),
                    b: Rhs::Plain(b),
                    c: MatMut::new(&mut c, m, n),
                    init,
                    epilogue,
                    ahead: &ahead[..usize::from(write)],
                }
                .run(isa, &plan, &mut vec![T::lit(f64::NAN); plan.scratch_len()]);
                let want: Vec<T> = (0..m * n)
                    .map(|at| match (act, forward) {
                        (Activation::Relu, true) if sums[at] < T::ZERO => T::ZERO,
                        (_, true) => sums[at],
                        (Activation::Relu, false) if slope(act, y.at(at / n, at % n), fused) == T::ZERO => {
                            T::ZERO
                        }
                        (_, false) => sums[at] * slope(act, y.at(at / n, at % n), fused),
                    })
                    .collect();
                assert_eq!(bits(&c), bits(&want), "{isa} {m} × {n} × {k} by {kc}: {} {forward}", act.name());
            }
        }
    }
    for isa in Isa::available() {
        let (single, double) = (TileShape::of::<f32>(isa), TileShape::of::<f64>(isa));
        for m in 1..=single.mr + 2 {
            for n in (1..=single.nr + 3).chain([129, 300].into_iter().filter(|_| m <= 2)) {
                check::<f32>(isa, (m, n, 5), (m + n) % 3, n % 2 == 0);
            }
            for n in (1..=double.nr + 3).chain([65, 150].into_iter().filter(|_| m <= 2)) {
                check::<f64>(isa, (m, n, 5), (m + n) % 3, n % 2 == 0);
            }
        }
    }
}

/// What an activation saves, and a derivative computed from that, in all blocks and remainders.
#[test]
fn an_activation_saves_what_its_derivative_is_read_from() {
    fn check<T: Element>(isa: Isa, (m, n, k): (usize, usize, usize)) {
        let mut rng = Stream::new(6, Purpose::Init, (m * 1009 + n) as u64);
        let (a, b) = (random::<T>(&mut rng, m * k), random::<T>(&mut rng, k * n));
        let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
        let plan = GemmPlan::blocked(TileShape::of::<T>(isa), (m, k), (m, 4), true, true);
        let slack = 2;
        let run = |epilogue: Epilogue<'_, T>| {
            let mut c = vec![T::lit(f64::NAN); m * n];
            let (a, b, into) = (Lhs::Plain(a), Rhs::Plain(b), MatMut::new(&mut c, m, n));
            let gemm = Gemm { a, b, c: into, init: Init::Zero, epilogue, ahead: &[] };
            gemm.run(isa, &plan, &mut vec![T::lit(f64::NAN); plan.scratch_len()]);
            c
        };
        let sums = run(Epilogue::None);
        let (mut want, mut slopes) = (sums.clone(), vec![T::ZERO; m * n]);
        let all = MatMut::new(&mut want, m, n);
        Activation::Gelu.forward(isa, all, Some(MatMut::new(&mut slopes, m, n)));

        let mut saved = vec![T::lit(f64::NAN); m * (n + slack)];
        let into = MatMut::strided(&mut saved, m, n, n + slack);
        let found = run(Epilogue::Activate(Activation::Gelu, Some(into)));
        assert_eq!(bits(&found), bits(&want), "{isa} {m} × {n}");
        for (i, row) in saved.chunks(n + slack).enumerate() {
            assert_eq!(bits(&row[..n]), bits(&slopes[i * n..(i + 1) * n]), "{isa} {m} × {n}");
            assert!(row[n..].iter().all(|x| x.to_f64().is_nan()), "{isa} wrote behind row {i}");
        }
        let from = MatRef::strided(&saved, m, n, n + slack, 1);
        let found = run(Epilogue::Derivative(Activation::Gelu, from));
        let want: Vec<T> = sums.iter().zip(&slopes).map(|(z, slope)| *z * *slope).collect();
        assert_eq!(bits(&found), bits(&want), "{isa} {m} × {n}");
    }
    for isa in Isa::available() {
        for shape in [(1, 300, 9), (2, 131, 9), (15, 33, 9), (30, 70, 3)] {
            check::<f32>(isa, shape);
            check::<f64>(isa, shape);
        }
    }
}
