//! Single-threaded matrix products: C = init + A·B, then an epilogue on each finished tile.
//!
//! Every element of C is **one chain of fused multiply-adds in the order of k**, starting from its initial
//! value, whatever the tiles, the packing, the blocking of k, or the thread that ran it:
//!
//! ```text
//! c = init(i, j);  for p in 0..k { c = fma(a[i, p], b[p, j], c) }
//! ```
//!
//! So results have the same bits for every partition of the work, and on every ISA with fused multiply-add.
//! (Compared with several partial sums, the price is a slightly larger rounding error, O(√k·ε) in practice.)
//!
//! Modules: [`plan`] decides packing and blocking from the shapes, [`pack`] copies operands into panels,
//! `kernel` multiplies one register tile, `driver` loops over tiles, and `outer` is for very few steps.
//! [`Epilogue`] is what happens to a tile while it is in the first-level cache.

#![allow(unsafe_code)] // kernels read and write tiles that the driver has checked

mod driver;
mod kernel;
mod outer;
pub mod pack;
pub mod plan;
#[cfg(test)]
mod reference;
pub mod split;
#[cfg(test)]
mod tests;

pub use kernel::Kernels;
pub use outer::FEW_STEPS;
pub use plan::GemmPlan;
pub use split::Precision;
use split::SplitPanels;

use crate::element::Element;
use crate::layer::Activation;
use crate::simd::{Bf16, Isa, Op, Simd, dispatch};
use crate::view::{MatMut, MatRef};

/// The left operand, m × k.
#[derive(Clone, Copy, Debug)]
pub enum Lhs<'a, T> {
    /// As it lies in memory, with contiguous rows or columns.
    Plain(MatRef<'a, T>),
    /// In panels of rows.
    Panels(pack::LhsPanels<'a, T>),
    /// Split into parts, if the plan uses parts.
    Split(SplitPanels<'a, T>),
}

impl<T: Element> Lhs<'_, T> {
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Lhs::Plain(a) => a.rows(),
            Lhs::Panels(a) => a.m(),
            Lhs::Split(a) => a.lanes(),
        }
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        match self {
            Lhs::Plain(a) => a.cols(),
            Lhs::Panels(a) => a.k(),
            Lhs::Split(a) => a.k(),
        }
    }

    /// The columns `from .. from + k`.
    ///
    /// # Panics
    /// If there are fewer, or if the operand is split into parts, which can only be used whole.
    pub fn steps(self, from: usize, k: usize) -> Self {
        match self {
            Lhs::Plain(a) => Lhs::Plain(a.block(0, a.rows(), from, k)),
            Lhs::Panels(a) => Lhs::Panels(a.steps(from, k)),
            Lhs::Split(a) => {
                assert!((from, k) == (0, a.k()));
                self
            }
        }
    }
}

/// The right operand, k × n.
#[derive(Clone, Copy, Debug)]
pub enum Rhs<'a, T> {
    /// As it lies in memory.
    Plain(MatRef<'a, T>),
    /// In panels.
    Panels(pack::Panels<'a, T>),
    /// The transpose of a matrix in panels, copied on the fly, if [the plan](GemmPlan::transposing) provides
    /// for it.
    Transposed(pack::Panels<'a, T>),
    /// Split into parts, if the plan uses parts.
    Split(SplitPanels<'a, T>),
}

/// Memory that will be needed when a product is done, to be prefetched meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Where it starts.
    pub start: *const u8,
    /// How long it is, in bytes.
    pub bytes: usize,
}

/// What an element of C starts from.
#[derive(Clone, Copy, Debug)]
pub enum Init<'a, T> {
    /// Zero.
    Zero,
    /// One value per column, the bias of a layer.
    Bias(&'a [T]),
    /// What C already holds.
    Accumulate,
}

/// What is done to each tile of C when its sums are complete.
#[derive(Debug)]
pub enum Epilogue<'a, T> {
    /// Nothing.
    None,
    /// C ← φ(C). If φ needs it ([`Activation::saves_derivative`]), `saved` ← φ′(C), with C before φ.
    Activate(Activation, Option<MatMut<'a, T>>),
    /// C ← C · φ′, with φ′ read from the layer's output, or from what `Activate` saved.
    Derivative(Activation, MatRef<'a, T>),
}

impl<T: Element> Epilogue<'_, T> {
    /// Checks its operands against an m × n product.
    #[inline(always)]
    fn check(&self, m: usize, n: usize) {
        match self {
            Epilogue::Activate(_, Some(saved)) => assert!(saved.rows() == m && saved.cols() == n),
            Epilogue::Derivative(_, from) => {
                assert!(from.rows() == m && from.cols() == n && from.col_stride() == 1)
            }
            _ => {}
        }
    }
}

/// One product.
#[derive(Debug)]
pub struct Gemm<'a, T> {
    /// The left operand, m × k.
    pub a: Lhs<'a, T>,
    /// The right operand, k × n.
    pub b: Rhs<'a, T>,
    /// The result, m × n.
    pub c: MatMut<'a, T>,
    /// What C starts from.
    pub init: Init<'a, T>,
    /// What is done to finished tiles of C.
    pub epilogue: Epilogue<'a, T>,
    /// What to prefetch for use afterwards. If empty, the product prefetches B instead.
    pub ahead: &'a [Ahead],
}

impl<'a, T: Element> Gemm<'a, T> {
    /// Computes the product as the plan says.
    ///
    /// `scratch` must hold at least [`GemmPlan::scratch_len`] elements, with any content.
    ///
    /// # Panics
    /// If shapes disagree, or the scratch is too short.
    pub fn run(self, isa: Isa, plan: &GemmPlan, scratch: &mut [T]) {
        struct Run<'g, 'p, T>(Gemm<'g, T>, &'p GemmPlan, &'p mut [T]);
        impl<T: Element> Op<T> for Run<'_, '_, T> {
            type Output = ();
            #[inline(always)]
            fn eval<S: Simd<T>>(self, s: S) {
                let Run(gemm, plan, scratch) = self;
                match plan.precision {
                    Precision::Full => match gemm.outer() {
                        Some((a, b)) => outer::run(s, a, b, gemm.c, gemm.init),
                        None => driver::run(s, gemm, plan, scratch),
                    },
                    _ => {
                        let bf16 = Bf16::new().expect("planned where there is bfloat16");
                        split::run(s, bf16, gemm, plan, scratch);
                    }
                }
            }
        }
        dispatch(isa, Run(self, plan, scratch));
    }

    /// The operands of a product of few steps that lie as those of a weight gradient do: row by row, each row
    /// of them a step.
    fn outer(&self) -> Option<(MatRef<'a, T>, MatRef<'a, T>)> {
        match (self.a, self.b, &self.epilogue) {
            (Lhs::Plain(a), Rhs::Plain(b), Epilogue::None)
                if a.cols() <= FEW_STEPS && a.row_stride() == 1 && b.col_stride() == 1 =>
            {
                Some((a, b))
            }
            _ => None,
        }
    }
}
