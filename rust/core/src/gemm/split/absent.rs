//! Replaces [`pack`](super) and the driver on platforms without bfloat16 products. Nothing here can be
//! called, since there is no token.

use std::ops::Range;

use super::Side;
use crate::element::Element;
use crate::gemm::pack::Panels;
use crate::gemm::{Gemm, GemmPlan};
use crate::simd::{Bf16, Simd};
use crate::view::MatRef;

pub fn run<T: Element, S: Simd<T>>(_: S, _: Bf16, _: Gemm<'_, T>, _: &GemmPlan, _: &mut [T]) {
    unreachable!("there is no token of bfloat16")
}

/// Never called.
///
/// # Safety
/// There are no conditions.
pub unsafe fn split<T: Element>(_: Bf16, _: MatRef<'_, T>, _: Side, _: usize, _: (usize, usize), _: *mut T) {
    unreachable!("there is no token of bfloat16")
}

/// Never called.
///
/// # Safety
/// There are no conditions.
pub unsafe fn split_weight<T: Element>(
    _: Bf16,
    _: Panels<'_, T>,
    _: bool,
    _: &Range<usize>,
    _: usize,
    _: *mut T,
) {
    unreachable!("there is no token of bfloat16")
}
