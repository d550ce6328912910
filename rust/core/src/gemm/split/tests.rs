//! Products of parts against float64, over shapes that leave blocks partly empty, by every unit that the CPU
//! has. If it has none, the tests check that it says so.

use super::*;
use crate::gemm::pack::{PANEL, Panels, offset};
use crate::gemm::{Ahead, Epilogue, Gemm, GemmPlan, Init, Lhs, Rhs};
use crate::layer::Activation;
use crate::rng::{Purpose, Stream};
use crate::view::{MatMut, MatRef};

/// The token and whether to use tiles, for every unit; for those that are missing, a line in the test's
/// output.
fn units() -> Vec<(Bf16, bool)> {
    let (bf16, tiles) = (Bf16::new(), Amx::new().is_some());
    for (unit, there) in [("vectors", bf16.is_some()), ("tiles", tiles)] {
        if !there {
            println!("no {unit} of bfloat16 here: products by them are not tested");
        }
    }
    let units = |bf16| [false, true].into_iter().take(1 + usize::from(tiles)).map(move |tiles| (bf16, tiles));
    bf16.into_iter().flat_map(units).collect()
}

/// A plan for a unit.
fn plan_for(precision: Precision, (m, k): (usize, usize), on_the_way: bool, tiles: bool) -> GemmPlan {
    GemmPlan { tiles, ..GemmPlan::split::<f32>(Isa::Avx512, precision, (m, k), on_the_way) }
}

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Stream::new(seed, Purpose::Init, 5);
    (0..len).map(|_| rng.normal() as f32).collect()
}

/// Largest relative error of a product of numbers in parts: bfloat16 has eight bits.
fn error_of(precision: Precision) -> f64 {
    let unit = 2f64.powi(-8);
    match precision {
        Precision::Bf16 => 2.0 * unit + unit * unit,
        Precision::Bf16x3 => 3.0 * unit.powi(2),
        _ => 4.0 * unit.powi(3),
    }
}

/// How the operands come: as they are or transposed, and split during the product or before.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a_across: bool,
    a_before: bool,
    b_across: bool,
}

/// Splits all lanes of an operand, into panels that are NaN wherever nothing is written.
fn panels(bf16: Bf16, lanes: MatRef<'_, f32>, side: Side, parts: usize) -> Vec<f32> {
    let k = lanes.cols();
    let mut panels = vec![f32::NAN; split_len(lanes.rows(), k, parts)];
    // In two calls, as blocks of rows do it.
    let cut = (k / 2).next_multiple_of(DEPTH).min(k);
    for (from, to) in [(0, cut), (cut, k)].into_iter().filter(|(from, to)| from < to) {
        let part = lanes.block(0, lanes.rows(), from, to - from);
        // SAFETY: `panels` is ours, and as long as `split_len` says.
        unsafe { split(bf16, part, side, parts, (from, k), panels.as_mut_ptr()) };
    }
    panels
}

/// One product: C and what it should be, together with the sum of the absolute products.
fn product(
    (bf16, tiles): (Bf16, bool),
    precision: Precision,
    case: Case,
    init: usize,
) -> (Vec<f32>, Vec<(f64, f64)>) {
    let Case { m, n, k, a_across, a_before, b_across } = case;
    let slack = 3;
    let matrix = |data: &'static [f32], rows: usize, cols: usize, across: bool| match across {
        false => MatRef::strided(data, rows, cols, cols + slack, 1),
        true => MatRef::strided(data, cols, rows, rows + slack, 1).t(),
    };
    let leak = |seed| &*random(seed, (m.max(n) + slack) * (k + m + slack)).leak();
    let a = matrix(leak(1), m, k, a_across);
    let b = matrix(leak(2), k, n, b_across);
    let (bias, before) = (random(3, n), random(4, m * (n + slack)));
    let parts = precision.parts();
    let right = panels(bf16, b.t(), Side::B, parts);
    let left = panels(bf16, a, Side::A, parts);
    let plan = plan_for(precision, (m, k), !a_before, tiles);
    let mut c = before.clone();
    Gemm {
        a: if a_before { Lhs::Split(SplitPanels::new(&left, m, k, parts)) } else { Lhs::Plain(a) },
        b: Rhs::Split(SplitPanels::new(&right, n, k, parts)),
        c: MatMut::strided(&mut c, m, n, n + slack),
        init: [Init::Zero, Init::Bias(&bias), Init::Accumulate][init],
        epilogue: Epilogue::Activate(Activation::LeakyRelu(0.5), None),
        ahead: &[],
    }
    .run(Isa::Avx512, &plan, &mut vec![f32::NAN; plan.scratch_len()]);
    for (at, (now, was)) in c.iter().zip(&before).enumerate() {
        assert!(at % (n + slack) < n || now == was, "{case:?}: wrote beyond a row");
    }
    let start = |i: usize, j: usize| [0.0, bias[j], before[i * (n + slack) + j]][init];
    let exact = (0..m * n).map(|at| {
        let (i, j) = (at / n, at % n);
        let products = (0..k).map(|p| f64::from(a.at(i, p)) * f64::from(b.at(p, j)));
        let start = f64::from(start(i, j));
        let sum: f64 = start + products.clone().sum::<f64>();
        let size = start.abs() + products.map(f64::abs).sum::<f64>();
        (if sum > 0.0 { sum } else { 0.5 * sum }, size)
    });
    let exact = exact.collect();
    let c = (0..m * n).map(|at| c[at / n * (n + slack) + at % n]).collect();
    (c, exact)
}

#[test]
fn products_are_as_exact_as_their_parts() {
    let shapes =
        [(32, 32, 32), (1, 1, 1), (33, 31, 65), (64, 96, 300), (47, 70, 513), (16, 17, 15), (100, 33, 1)];
    for (unit, precision) in units().into_iter().flat_map(|unit| Precision::SPLIT.map(|p| (unit, p))) {
        let mut worst = 0.0f64;
        for (m, n, k) in shapes {
            for bits in 0..8 {
                let [a_across, a_before, b_across] = [1, 2, 4].map(|bit| bits & bit != 0);
                let case = Case { m, n, k, a_across, a_before, b_across };
                let (c, exact) = product(unit, precision, case, bits % 3);
                for (c, (want, size)) in c.iter().zip(exact) {
                    let error = (f64::from(*c) - want).abs();
                    // Sums of k products in float32 add a rounding error of their own.
                    let rounding = 2f64.powi(-24) * (3.0 + (k as f64).sqrt());
                    assert!(
                        error <= size * (error_of(precision) + rounding),
                        "{unit:?} {precision:?} {case:?}: {c} {want}"
                    );
                    worst = worst.max(error / size);
                }
            }
        }
        // The bound is not so loose that anything would pass.
        assert!(worst > error_of(precision) / 30.0, "{precision:?}: {worst:e}");
    }
}

#[test]
fn three_parts_are_as_good_as_float32() {
    // In tiles only: vectors round after every product, six times as often as float32's multiply-adds.
    units().into_iter().filter(|(_, tiles)| *tiles).for_each(as_good_as_float32);
}

fn as_good_as_float32(unit: (Bf16, bool)) {
    let (m, n, k) = (64, 64, 512);
    let case = Case { m, n, k, a_across: false, a_before: false, b_across: false };
    let (c, exact) = product(unit, Precision::Bf16x6, case, 0);
    let spread = |values: &dyn Fn(usize) -> f64| {
        let errors = (0..m * n).map(|at| (values(at) - exact[at].0).powi(2)).sum::<f64>();
        (errors / exact.iter().map(|e| e.0.powi(2)).sum::<f64>()).sqrt()
    };
    let parts = spread(&|at| f64::from(c[at]));
    // The same sums in float32, one multiply-add after the other.
    let a = random(1, (64 + 3) * (k + m + 3));
    let b = random(2, (64 + 3) * (k + m + 3));
    let plain = spread(&|at| {
        let (i, j) = (at / n, at % n);
        let sum = (0..k).fold(0.0f32, |sum, p| a[i * (k + 3) + p].mul_add(b[p * (n + 3) + j], sum));
        f64::from(if sum > 0.0 { sum } else { 0.5 * sum })
    });
    assert!(parts <= plain, "{parts:e} for {plain:e}");
}

#[test]
fn every_partition_gives_the_same_bits() {
    units().into_iter().for_each(same_bits_however_cut);
}

fn same_bits_however_cut((bf16, tiles): (Bf16, bool)) {
    let (m, n, k) = (96, 64, 300);
    let (a_data, b_data) = (random(1, m * k), random(2, k * n));
    let (a, b) = (MatRef::new(&a_data, m, k), MatRef::new(&b_data, k, n));
    for precision in Precision::SPLIT {
        let parts = precision.parts();
        let right = panels(bf16, b.t(), Side::B, parts);
        let plan = plan_for(precision, (m, k), true, tiles);
        let run = |rows: std::ops::Range<usize>, cols: std::ops::Range<usize>, c: &mut [f32]| {
            Gemm {
                a: Lhs::Plain(a.block(rows.start, rows.len(), 0, k)),
                b: Rhs::Split(SplitPanels::new(&right, n, k, parts).block(cols.start, cols.len())),
                c: MatMut::new(c, m, n).block(rows.start, rows.len(), cols.start, cols.len()),
                init: Init::Zero,
                epilogue: Epilogue::None,
                ahead: &[],
            }
            .run(Isa::Avx512, &plan, &mut vec![0.0; plan.scratch_len()]);
        };
        let (mut whole, mut cut) = (vec![0.0; m * n], vec![0.0; m * n]);
        run(0..m, 0..n, &mut whole);
        for rows in [0..7, 7..50, 50..m] {
            for cols in [0..32, 32..n] {
                run(rows.clone(), cols, &mut cut);
            }
        }
        assert_eq!(whole, cut, "{precision:?}");
    }
}

#[test]
fn what_is_not_finite_stays_so_and_what_is_tiny_is_zero() {
    for ((bf16, tiles), precision) in units().into_iter().flat_map(|unit| Precision::SPLIT.map(|p| (unit, p)))
    {
        let parts = precision.parts();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut a = vec![1.0; 40 * 40];
            a[3 * 40 + 7] = bad;
            let b = vec![1.0; 40 * 40];
            let right = panels(bf16, MatRef::new(&b, 40, 40).t(), Side::B, parts);
            let plan = plan_for(precision, (40, 40), true, tiles);
            let mut c = vec![0.0; 40 * 40];
            Gemm {
                a: Lhs::Plain(MatRef::new(&a, 40, 40)),
                b: Rhs::Split(SplitPanels::new(&right, 40, 40, parts)),
                c: MatMut::new(&mut c, 40, 40),
                init: Init::Zero,
                epilogue: Epilogue::None,
                ahead: &[],
            }
            .run(Isa::Avx512, &plan, &mut vec![0.0; plan.scratch_len()]);
            for (i, row) in c.chunks(40).enumerate() {
                assert!(row.iter().all(|x| if i == 3 { !x.is_finite() } else { *x == 40.0 }), "{bad} {i}");
            }
        }
        let tiny = panels(bf16, MatRef::new(&[1e-40f32; 32 * 32], 32, 32), Side::A, parts);
        assert!(tiny.iter().all(|x| x.to_bits() == 0));
    }
}

#[test]
fn weights_are_split_as_they_are_and_transposed() {
    let Some(bf16) = Bf16::new() else { return };
    for (k, n) in [(40, 33), (64, 64), (31, 100)] {
        let data = random(1, k * n);
        let plain = MatRef::new(&data, k, n);
        let mut in_panels = vec![0.0; k * n];
        for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
            in_panels[offset(k, n, p, j)] = plain.at(p, j);
        }
        for parts in 1..=3 {
            for forward in [true, false] {
                let (right, k, n) = if forward { (plain, k, n) } else { (plain.t(), n, k) };
                let want = panels(bf16, right.t(), Side::B, parts);
                let mut found = vec![f32::NAN; want.len()];
                for from in (0..n).step_by(PANEL) {
                    let cols = from..n.min(from + PANEL);
                    let weight = Panels::new(&in_panels, plain.rows(), plain.cols());
                    let into = found[split_len(from, k, parts)..].as_mut_ptr();
                    // SAFETY: `into` is ours, and as long as `split_len` says.
                    unsafe { split_weight(bf16, weight, forward, &cols, parts, into) };
                }
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&want), bits(&found), "{k} {n} {parts} {forward}");
            }
        }
    }
}

#[test]
fn a_precision_that_is_not_there_is_an_error_that_says_why() {
    assert!(Precision::Full.check::<f64>(Isa::Scalar).is_ok());
    let why = |result: Result<(), Error>| result.unwrap_err().to_string();
    for precision in Precision::SPLIT {
        let double = why(precision.check::<f64>(Isa::Avx512));
        assert!(double.contains(precision.name()) && double.contains("float64"), "{double}");
        let there = Bf16::new().is_some() && (precision == Precision::Bf16 || Amx::new().is_some());
        if there {
            assert!(precision.check::<f32>(Isa::Avx512).is_ok());
            assert!(why(precision.check::<f32>(Isa::Avx2)).contains("avx2"));
        } else {
            let wanted = if Bf16::new().is_some() { "AMX" } else { "AVX-512 BF16" };
            assert!(why(precision.check::<f32>(Isa::Avx512)).contains(wanted));
        }
    }
}

/// Epilogues, starts and hints of products in parts, compared with the same sums without them.
#[test]
fn what_goes_with_a_product_in_parts_is_what_it_says() {
    for ((bf16, tiles), precision) in units().into_iter().flat_map(|unit| Precision::SPLIT.map(|p| (unit, p)))
    {
        let parts = precision.parts();
        for (m, n, k) in [(64, 64, 300), (33, 70, 65), (5, 3, 33)] {
            let (a, b, before) = (random(1, m * k), random(2, k * n), random(3, m * n));
            let left = panels(bf16, MatRef::new(&a, m, k), Side::A, parts);
            let right = panels(bf16, MatRef::new(&b, k, n).t(), Side::B, parts);
            let plan = plan_for(precision, (m, k), false, tiles);
            let hints = [Ahead { start: a.as_ptr().cast(), bytes: 4 * a.len() }; 2];
            let run = |epilogue: Epilogue<'_, f32>, ahead: &[Ahead]| {
                let mut c = before.clone();
                let gemm = Gemm {
                    a: Lhs::Split(SplitPanels::new(&left, m, k, parts)),
                    b: Rhs::Split(SplitPanels::new(&right, n, k, parts)),
                    c: MatMut::new(&mut c, m, n),
                    init: Init::Accumulate,
                    epilogue,
                    ahead,
                };
                gemm.run(Isa::Avx512, &plan, &mut []);
                c
            };
            let sums = run(Epilogue::None, &[]);
            assert_eq!(sums, run(Epilogue::None, &hints), "hints change nothing");
            let (mut want, mut slopes) = (sums.clone(), vec![0.0; m * n]);
            let all = MatMut::new(&mut want, m, n);
            Activation::Gelu.forward(Isa::Avx512, all, Some(MatMut::new(&mut slopes, m, n)));
            let mut saved = vec![f32::NAN; m * n];
            let into = MatMut::new(&mut saved, m, n);
            assert_eq!(want, run(Epilogue::Activate(Activation::Gelu, Some(into)), &hints));
            assert_eq!(saved, slopes);
            let want: Vec<f32> = sums.iter().zip(&slopes).map(|(z, slope)| z * slope).collect();
            assert_eq!(want, run(Epilogue::Derivative(Activation::Gelu, MatRef::new(&saved, m, n)), &[]));
        }
    }
}

#[test]
#[should_panic]
fn operands_in_other_parts_than_the_plan_is_for_are_refused() {
    let Some((bf16, tiles)) = units().pop() else { panic!("no unit here") };
    let numbers = random(1, 64 * 64);
    let m = MatRef::new(&numbers, 64, 64);
    let (left, right) = (panels(bf16, m, Side::A, 1), panels(bf16, m.t(), Side::B, 3));
    let mut c = vec![0.0; 64 * 64];
    let gemm = Gemm {
        a: Lhs::Split(SplitPanels::new(&left, 64, 64, 1)),
        b: Rhs::Split(SplitPanels::new(&right, 64, 64, 3)),
        c: MatMut::new(&mut c, 64, 64),
        init: Init::Zero,
        epilogue: Epilogue::None,
        ahead: &[],
    };
    gemm.run(Isa::Avx512, &plan_for(Precision::Bf16x6, (64, 64), false, tiles), &mut []);
}
