//! What [`pack`](super) and the driver are on platforms that have no tiles: nothing that could be called, for lack
//! of a token.

use std::ops::Range;

use super::Side;
use crate::element::Element;
use crate::gemm::pack::Panels;
use crate::gemm::{Gemm, GemmPlan};
use crate::simd::{Amx, Simd};
use crate::view::MatRef;

pub fn run<T: Element, S: Simd<T>>(_: S, _: Amx, _: Gemm<'_, T>, _: &GemmPlan, _: &mut [T]) {
    unreachable!("there is no token of tiles")
}

/// Nothing.
///
/// # Safety
/// None is needed.
pub unsafe fn split<T: Element>(_: Amx, _: MatRef<'_, T>, _: Side, _: usize, _: (usize, usize), _: *mut T) {
    unreachable!("there is no token of tiles")
}

/// Nothing.
///
/// # Safety
/// None is needed.
pub unsafe fn split_weight<T: Element>(
    _: Amx,
    _: Panels<'_, T>,
    _: bool,
    _: &Range<usize>,
    _: usize,
    _: *mut T,
) {
    unreachable!("there is no token of tiles")
}
