//! Measures the speed of dense layers' products, in GFLOP/s on one thread: `cargo run --release --example
//! rates`.
//!
//! For each shape (rows × inputs × outputs), the three products of a training step, planned as in a pass, on
//! every instruction set of this machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use thalweg_core::Element;
use thalweg_core::arena::Buffer;
use thalweg_core::gemm::pack::{Panels, offset};
use thalweg_core::gemm::plan::GemmShape;
use thalweg_core::gemm::split::{Side, SplitPanels, split, split_len};
use thalweg_core::gemm::{Epilogue, Gemm, GemmPlan, Init, Lhs, Precision, Rhs};
use thalweg_core::simd::{Bf16, Isa};
use thalweg_core::view::{MatMut, MatRef};

const SHAPES: [(usize, usize, usize); 10] = [
    (64, 64, 64),
    (200, 64, 100),
    (200, 100, 10),
    (256, 256, 256),
    (64, 784, 128),
    (128, 784, 400),
    (128, 400, 400),
    (128, 2000, 2000),
    (256, 2000, 2000),
    (128, 4096, 4096),
];

fn rate<T: Element>(isa: Isa, a: MatRef<'_, T>, b: MatRef<'_, T>, packed: bool) -> f64 {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    let shape = GemmShape {
        m,
        n,
        k,
        a_row_stride: a.row_stride(),
        a_col_stride: a.col_stride(),
        b_row_stride: (!packed).then_some(b.row_stride()),
    };
    let plan = GemmPlan::choose::<T>(isa, shape);
    let mut panels = vec![T::ZERO; if packed { k * n } else { 0 }];
    if packed {
        for (p, j) in (0..k).flat_map(|p| (0..n).map(move |j| (p, j))) {
            panels[offset(k, n, p, j)] = b.at(p, j);
        }
    }
    let (mut c, mut scratch) = (vec![T::ZERO; m * n], vec![T::ZERO; plan.scratch_len()]);
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(60) {
        let start = Instant::now();
        let rhs = if packed { Rhs::Panels(Panels::new(&panels, k, n)) } else { Rhs::Plain(b) };
        let view = MatMut::new(&mut c, m, n);
        Gemm { a: Lhs::Plain(a), b: rhs, c: view, init: Init::Zero, epilogue: Epilogue::None, ahead: &[] }
            .run(isa, &plan, &mut scratch);
        black_box(&mut c);
        best = best.min(start.elapsed());
    }
    2.0 * (m * n * k) as f64 / best.as_secs_f64() / 1e9
}

fn table<T: Element>(isa: Isa) {
    println!("{isa} {}                 y = x·Wᵀ   (panels)   dx = dy·W   dW = xᵀ·dy", T::DTYPE.name());
    for (rows, inputs, outputs) in SHAPES {
        let random = |n: usize| -> Vec<T> { (0..n).map(|i| T::lit((i as f64 * 0.7).sin())).collect() };
        let (x, w, dy) = (random(rows * inputs), random(inputs * outputs), random(rows * outputs));
        let x = MatRef::new(&x, rows, inputs);
        let w = MatRef::new(&w, inputs, outputs);
        let dy = MatRef::new(&dy, rows, outputs);
        println!(
            "{rows:5} × {inputs:4} × {outputs:4} {:14.0} {:10.0} {:11.0} {:12.0}",
            rate(isa, x, w, false),
            rate(isa, x, w, true),
            rate(isa, dy, w.t(), true),
            rate(isa, x.t(), dy, false),
        );
    }
}

/// The speed of a product in parts. Its right operand is split in advance, as weights are; the left one
/// during the product or, if `split_left`, also in advance.
fn split_rate(
    bf16: Bf16,
    precision: Precision,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
    split_left: bool,
) -> f64 {
    let (m, n, k, parts) = (a.rows(), b.cols(), a.cols(), precision.parts());
    let plan = GemmPlan::split::<f32>(Isa::Avx512, precision, (m, k), !split_left);
    let in_panels = |lanes: MatRef<'_, f32>, side| {
        let mut panels = Buffer::<f32>::zeroed("panels", split_len(lanes.rows(), k, parts)).unwrap();
        // SAFETY: `panels` is ours, and as long as `split_len` says.
        unsafe { split(bf16, lanes, side, parts, (0, k), panels.as_mut_ptr()) };
        panels
    };
    let (left, right) = (in_panels(a, Side::A), in_panels(b.t(), Side::B));
    let mut c = vec![0.0; m * n];
    let mut scratch = Buffer::zeroed("scratch", plan.scratch_len()).unwrap();
    let mut best = Duration::MAX;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(60) {
        let start = Instant::now();
        let a = if split_left { Lhs::Split(SplitPanels::new(&left, m, k, parts)) } else { Lhs::Plain(a) };
        let b = Rhs::Split(SplitPanels::new(&right, n, k, parts));
        let c = MatMut::new(&mut c, m, n);
        Gemm { a, b, c, init: Init::Zero, epilogue: Epilogue::None, ahead: &[] }.run(
            Isa::Avx512,
            &plan,
            &mut scratch,
        );
        best = best.min(start.elapsed());
    }
    2.0 * (m * n * k) as f64 / best.as_secs_f64() / 1e9
}

fn split_table(bf16: Bf16, precision: Precision) {
    println!("{}                      y = x·Wᵀ   dx = dy·W   dW = xᵀ·dy", precision.name());
    for (rows, inputs, outputs) in SHAPES {
        let random = |n: usize| -> Vec<f32> { (0..n).map(|i| (i as f32 * 0.7).sin()).collect() };
        let (x, w, dy) = (random(rows * inputs), random(inputs * outputs), random(rows * outputs));
        let x = MatRef::new(&x, rows, inputs);
        let w = MatRef::new(&w, inputs, outputs);
        let dy = MatRef::new(&dy, rows, outputs);
        println!(
            "{rows:5} × {inputs:4} × {outputs:4} {:14.0} {:11.0} {:12.0}",
            split_rate(bf16, precision, x, w, false),
            split_rate(bf16, precision, dy, w.t(), false),
            split_rate(bf16, precision, x.t(), dy, true),
        );
    }
}

fn main() {
    if let Some(bf16) = Bf16::new() {
        Precision::SPLIT.iter().for_each(|precision| split_table(bf16, *precision));
    }
    for isa in Isa::available().into_iter().rev() {
        table::<f32>(isa);
        table::<f64>(isa);
    }
}
