//! The naive product, against which kernels are compared.

use super::Init;
use crate::element::Element;
use crate::view::MatRef;

/// What [`Gemm::run`](super::Gemm::run) without an epilogue must give, to the last bit: one chain per
/// element, fused if the ISA fuses.
pub fn product<T: Element>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    c: MatRef<'_, T>,
    init: Init<'_, T>,
    fused: bool,
) -> Vec<T> {
    let mut out = Vec::new();
    for i in 0..a.rows() {
        for j in 0..b.cols() {
            let mut sum = match init {
                Init::Zero => T::ZERO,
                Init::Bias(bias) => bias[j],
                Init::Accumulate => c.at(i, j),
            };
            for p in 0..a.cols() {
                sum = a.at(i, p).mul_add(b.at(p, j), sum, fused);
            }
            out.push(sum);
        }
    }
    out
}

/// The same in double precision, to measure the error of the chain itself, with Σ|a·b| per element.
pub fn exact<T: Element>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for i in 0..a.rows() {
        for j in 0..b.cols() {
            let products = (0..a.cols()).map(|p| a.at(i, p).to_f64() * b.at(p, j).to_f64());
            out.push(products.fold((0.0, 0.0), |(s, t), x| (s + x, t + x.abs())));
        }
    }
    out
}
