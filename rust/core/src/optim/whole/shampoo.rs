//! Shampoo (Gupta, Koren & Singer 2018, arXiv:1802.09568), as in PyTorch's Distributed Shampoo (Shi et al.
//! 2023, arXiv:2309.06497): gradients of weights are multiplied from both sides by inverse fourth roots of
//! the sums of their squares, taken as matrices.
//!
//! ```text
//! L ← β₂·L + (1 − β₂)·G·Gᵀ,  R ← β₂·R + (1 − β₂)·Gᵀ·G       β₂ = 1: L + G·Gᵀ, R + Gᵀ·G
//! M ← M + (1 − β₁)·(G − M)
//! U = (L/(1 − β₂ᵗ) + ε)^-¼ · M/(1 − β₁ᵗ) · (R/(1 − β₂ᵗ) + ε)^-¼
//! W ← (1 − lr·wd)·W − lr·s·U
//! ```
//!
//! with s = 1, or ‖A‖/‖U‖ for the direction A of Adam ("grafting"). A side that is too large has no factor;
//! the root of the other side's factor is then a square root. All other parameters take steps of AdamW, and
//! so do weights before `start_preconditioning_step`.
//!
//! Roots are computed from eigenvalues (see [`eigen`](super::eigen)). Eigenvalues below n·u times the largest
//! one, where u is the unit roundoff, are rounding errors: they count as 0, with ε raised to at least that
//! bound; if ε is 0 they are left out.
//!
//! Phases: averages, G and M as matrices; both factors; their roots; U as two products; its norm; the step.

use super::dense::{Dense, multiply, packs, shape};
use super::eigen::Eigen;
use super::{Items, Own, Piece, Place, Product, TILE, Tile, Whole, Work};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Init;
use crate::optim::adam::{self, Adam};
use crate::optim::method::{
    Extent, Field, Method, Scalars, Slot, Value, apply, filled, fraction, named, non_negative, options, ratio,
};
use crate::simd::{Op, Simd, dispatch, stream_sum};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shampoo {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Decay of the mean, in [0, 1).
    pub beta1: f64,
    /// Decay of the factors, in [0, 1]; with 1 they are sums.
    pub beta2: f64,
    /// Added to eigenvalues, ≥ 0.
    pub eps: f64,
    /// Weight decay, ≥ 0; decoupled.
    pub weight_decay: f64,
    /// Length of the longest side that has a factor, ≥ 1.
    pub max_preconditioner_dim: u32,
    /// Steps between computations of the roots, ≥ 1.
    pub precondition_frequency: u32,
    /// The first step that uses roots, ≥ 1.
    pub start_preconditioning_step: u32,
    /// Which s to use.
    pub grafting: Grafting,
    /// AdamW's decay of the mean square, in [0, 1).
    pub adam_beta2: f64,
    /// AdamW's ε, ≥ 0.
    pub adam_eps: f64,
    /// AdamW's learning rate relative to Shampoo's, ≥ 0.
    pub adam_lr_scale: f64,
}

/// Which method determines the length of a weight's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grafting {
    /// Its own.
    None,
    /// Adam's.
    Adam,
}

impl Field for Grafting {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        named(name, value, &[("none", Grafting::None), ("adam", Grafting::Adam)])
    }
}

impl Default for Shampoo {
    fn default() -> Self {
        Shampoo {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 1.0,
            eps: 1e-12,
            weight_decay: 0.0,
            max_preconditioner_dim: 1024,
            precondition_frequency: 1,
            start_preconditioning_step: 1,
            grafting: Grafting::None,
            adam_beta2: 0.999,
            adam_eps: 1e-8,
            adam_lr_scale: 1.0,
        }
    }
}

/// Indices of state arrays: those of Adam, then factors and their roots.
const FACTORS: usize = 2;
const ROOTS: usize = 3;

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    method: Shampoo,
    /// The step of parameters without factors, and of all parameters before the first roots.
    adam: adam::Step,
    /// Bias correction of M.
    unbias: f64,
    /// Bias correction of the factors.
    corrections: f64,
    /// Whether there are no roots yet.
    is_early: bool,
    /// Whether roots are recomputed.
    is_renewed: bool,
}

impl Method for Shampoo {
    type Step = Step;

    options!(
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        max_preconditioner_dim,
        precondition_frequency,
        start_preconditioning_step,
        grafting,
        adam_beta2,
        adam_eps,
        adam_lr_scale,
    );

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        fraction("betas[0]", self.beta1)?;
        if !(0.0..=1.0).contains(&self.beta2) {
            return Err(Error::argument("betas[1]", self.beta2.to_string(), "a number in [0, 1] is needed"));
        }
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)?;
        for (name, value) in [
            ("max_preconditioner_dim", self.max_preconditioner_dim),
            ("precondition_frequency", self.precondition_frequency),
            ("start_preconditioning_step", self.start_preconditioning_step),
        ] {
            if value == 0 {
                return Err(Error::argument(name, "0", "a whole number >= 1 is needed"));
            }
        }
        fraction("adam_beta2", self.adam_beta2)?;
        non_negative("adam_eps", self.adam_eps)?;
        non_negative("adam_lr_scale", self.adam_lr_scale)
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot::signed("exp_avg"),
            Slot::positive("exp_avg_sq"),
            Slot::signed("factors").of(Extent::Squares),
            Slot::signed("roots").of(Extent::Squares),
        ]
    }

    fn squares(&self, shape: &[usize]) -> usize {
        match shape {
            [outputs, inputs] => [outputs, inputs].map(|n| self.square(*n)).iter().sum(),
            _ => 0,
        }
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let Shampoo { beta1, adam_beta2: beta2, adam_eps: eps, weight_decay, .. } = *self;
        let lr = self.lr * self.adam_lr_scale;
        let adam =
            Adam { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay: true, ..Adam::default() };
        let (start, often) = (self.start_preconditioning_step.into(), u64::from(self.precondition_frequency));
        Step {
            method: *self,
            adam: adam.at(t, &Scalars::default()),
            unbias: 1.0 / filled(beta1, t),
            corrections: if self.beta2 < 1.0 { 1.0 / filled(self.beta2, t) } else { 1.0 },
            is_early: t < start,
            is_renewed: t == start || t > start && t.is_multiple_of(often),
        }
    }
}

impl Shampoo {
    /// Elements of the factor of a side.
    fn square(&self, n: usize) -> usize {
        if n <= self.max_preconditioner_dim as usize { n * n } else { 0 }
    }
}

/// A factor of a block, and where it lies relative to the start of the block's state.
struct Factor {
    n: usize,
    from: usize,
    /// The exponent of its root is minus one over this.
    order: f64,
}

/// Where the matrices of a block lie in its scratch: those that make up U, and per side what its eigenvalues
/// need. State has the factor of outputs before that of inputs.
struct Desk {
    dense: Dense,
    wide: Option<Factor>,
    tall: Option<Factor>,
    /// G, later U
    g: usize,
    /// Gᵀ, if the tall side needs it
    turned: usize,
    m: usize,
    half: usize,
    eigen: [usize; 2],
    end: usize,
}

impl Desk {
    fn of(method: &Shampoo, place: &Place) -> Self {
        let dense = Dense::of(place);
        let Dense { tall, wide, turned } = dense;
        let outputs = method.square(place.outputs);
        let has = |n: usize| method.square(n) > 0;
        let order = 2.0 * [tall, wide].into_iter().filter(|n| has(*n)).count() as f64;
        // `turned`: the outputs are the tall side.
        let side = |n: usize, is_outputs: bool| {
            has(n).then_some(Factor { n, from: if is_outputs { 0 } else { outputs }, order })
        };
        let (g, len) = (place.scratch, dense.len());
        let eigen = g + 4 * len;
        let room = |n: usize| if has(n) { n * n + 3 * n } else { 0 };
        let after = eigen + room(wide);
        Desk {
            dense,
            wide: side(wide, !turned),
            tall: side(tall, turned),
            g,
            turned: g + len,
            m: g + 2 * len,
            half: g + 3 * len,
            eigen: [eigen, after],
            end: after + room(tall),
        }
    }

    /// Where the final U is.
    fn result(&self) -> usize {
        if self.tall.is_some() { self.g } else { self.half }
    }
}

impl Step {
    /// Whether a block has a factor.
    fn takes(&self, place: &Place) -> bool {
        self.method.squares(&place.shape) > 0
    }

    fn desk(&self, place: &Place) -> Desk {
        Desk::of(&self.method, place)
    }
}

impl<T: Element> Whole<T> for Step {
    fn phases(&self) -> usize {
        8
    }

    fn items(&self, phase: usize) -> Items {
        match phase {
            1 => Items::Tiles(Product::Wide),
            2 => Items::Tiles(Product::Tall),
            3 => Items::Sides,
            4 | 5 => Items::Tiles(Product::Mixed),
            _ => Items::Pieces,
        }
    }

    fn products(&self, place: &Place) -> &[Product] {
        let has = |n: usize| self.method.square(n) > 0;
        let Dense { tall, wide, .. } = Dense::of(place);
        match (self.takes(place), has(wide), has(tall)) {
            (false, ..) => &[],
            (_, true, true) => &[Product::Mixed, Product::Wide, Product::Tall],
            (_, true, false) => &[Product::Mixed, Product::Wide],
            (_, false, _) => &[Product::Mixed, Product::Tall],
        }
    }

    fn has_sides(&self, place: &Place) -> bool {
        self.takes(place)
    }

    fn scratch(&self, place: &Place) -> usize {
        if self.takes(place) { self.desk(place).end - place.scratch } else { 0 }
    }

    fn packs(&self, place: &Place) -> usize {
        if !self.takes(place) {
            return 0;
        }
        let Desk { dense: Dense { tall, wide, .. }, wide: low, tall: high, .. } = self.desk(place);
        let (up, across) = (TILE.min(tall), TILE.min(wide));
        let of_wide = low.map_or(0, |_| {
            packs::<T>(&[
                shape((across, across, tall), (wide, wide), true),
                shape((up, across, wide), (wide, wide), false),
                shape((wide, wide, wide), (wide, wide), true),
            ])
        });
        let of_tall = high.map_or(0, |_| {
            packs::<T>(&[
                shape((up, up, wide), (tall, tall), true),
                shape((up, across, tall), (tall, wide), false),
                shape((tall, tall, tall), (tall, tall), true),
            ])
        });
        of_wide.max(of_tall)
    }

    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>) {
        let place = work.place(piece);
        let Own { params, grads, state } = own;
        let takes = self.takes(place);
        if phase == 0 {
            if takes {
                // SAFETY: this is the piece's item, and only later phases read what it writes.
                unsafe { self.write(piece, work, grads) };
            }
            if takes && !self.is_early {
                let [means, squares, ..] = state;
                let averages = Averages { step: self, means: &mut *means, squares, grads };
                let length = dispatch(work.isa, averages);
                // SAFETY: as above.
                unsafe {
                    work.note(piece, [length]);
                    self.write_mean(piece, work, means);
                }
            } else {
                apply(work.isa, &self.adam, params, grads, state);
            }
            return;
        }
        if !takes || self.is_early {
            return;
        }
        let desk = self.desk(place);
        let (dense, result) = (desk.dense, desk.result());
        if phase == 6 {
            if self.method.grafting == Grafting::Adam {
                let mut sum = 0.0;
                for input in piece.rows.clone() {
                    let (start, apart) = dense.row(result, piece, input);
                    sum +=
                        (0..piece.width).map(|j| work.get(start + j * apart).to_f64().powi(2)).sum::<f64>();
                }
                // SAFETY: the item's own sum, which only the next phase reads.
                unsafe { work.note_second(piece, sum) };
            }
            return;
        }
        let lr = self.method.lr;
        let length = match self.method.grafting {
            Grafting::None => 1.0,
            Grafting::Adam => {
                let [wanted, own] = [0, 1].map(|k| work.total(piece, k).sqrt());
                if own == 0.0 { 0.0 } else { wanted / own }
            }
        };
        let [rate, decay] = [lr * length, lr * self.method.weight_decay].map(T::lit);
        for (input, params) in piece.rows.clone().zip(params.chunks_exact_mut(piece.width)) {
            let (start, apart) = dense.row(result, piece, input);
            for (j, p) in params.iter_mut().enumerate() {
                *p = *p - (decay * *p + rate * work.get(start + j * apart));
            }
        }
    }

    unsafe fn tile(&self, phase: usize, place: &Place, tile: &Tile, work: &Work<'_, T>, pack: &mut [T]) {
        let desk = self.desk(place);
        let Dense { tall, wide, .. } = desk.dense;
        if self.is_early && phase > 2 {
            return;
        }
        let (m, n) = (tile.rows.len(), tile.cols.len());
        let root = |factor: &Factor| work.square(place, ROOTS, factor.from, factor.n);
        let at = tile.rows.start * wide + tile.cols.start;
        match phase {
            1 | 2 => {
                let (factor, rows, g) = match phase {
                    1 => (desk.wide.expect("has tiles"), tall, desk.g),
                    _ => (desk.tall.expect("has tiles"), wide, desk.turned),
                };
                let at = factor.from + tile.rows.start * factor.n + tile.cols.start;
                // SAFETY: the item's own tile of a factor, which other phases read.
                let mut into = unsafe { work.part_of_square(place, FACTORS, at, (m, n, factor.n)) };
                let keep = T::lit(self.method.beta2);
                for i in 0..m {
                    into.row_mut(i).iter_mut().for_each(|x| *x = keep * *x);
                }
                let g = work.mat(g, rows, factor.n);
                multiply(work.isa, (g.t(), g), tile, into, Init::Accumulate, pack);
            }
            4 => {
                let Some(factor) = &desk.wide else { return };
                // SAFETY: the item's own tile of a product, which the next phase reads.
                let into = unsafe { work.mat_mut(desk.half + at, m, n, wide) };
                let left = work.mat(desk.m, tall, wide);
                multiply(work.isa, (left, root(factor)), tile, into, Init::Zero, pack);
            }
            _ => {
                let Some(factor) = &desk.tall else { return };
                let right = if desk.wide.is_some() { desk.half } else { desk.m };
                // SAFETY: the item's own tile of U, which later phases read.
                let into = unsafe { work.mat_mut(desk.g + at, m, n, wide) };
                let right = work.mat(right, tall, wide);
                multiply(work.isa, (root(factor), right), tile, into, Init::Zero, pack);
            }
        }
    }

    unsafe fn side(&self, _: usize, place: &Place, tall: bool, work: &Work<'_, T>, pack: &mut [T]) {
        let desk = self.desk(place);
        let (factor, start) = match tall {
            true => (desk.tall, desk.eigen[1]),
            false => (desk.wide, desk.eigen[0]),
        };
        let Some(Factor { n, from, order }) = factor.filter(|_| self.is_renewed) else { return };
        // SAFETY: the side's own part.
        let room = unsafe { work.scratch_mut(start..start + n * n + 3 * n) };
        let (z, room) = room.split_at_mut(n * n);
        let (values, spare) = room.split_at_mut(n);
        let factor = work.square(place, FACTORS, from, n);
        let correction = T::lit(self.corrections);
        for (i, row) in z.chunks_exact_mut(n).enumerate() {
            row.iter_mut().zip(factor.row(i)).for_each(|(z, x)| *z = correction * *x);
        }
        dispatch(work.isa, Eigen { a: z, values, spare });
        // The root is Zᵀ·Z, with each z scaled so that z·zᵀ is multiplied by λ^(-1/order).
        let noise = values.iter().map(|x| x.to_f64()).fold(0.0, f64::max) * T::EPSILON * n as f64;
        for (row, value) in z.chunks_exact_mut(n).zip(&*values) {
            let by = match value.to_f64() {
                x if x > noise => (x + self.method.eps).powf(-0.5 / order),
                x if x.is_nan() => x,
                _ if self.method.eps == 0.0 => 0.0,
                _ => self.method.eps.max(noise).powf(-0.5 / order),
            };
            row.iter_mut().for_each(|z| *z = T::lit(by) * *z);
        }
        let z = work.mat(start, n, n);
        let all = Tile { block: place.number, rows: 0..n, cols: 0..n };
        // SAFETY: the side's own root, which later phases read.
        let into = unsafe { work.part_of_square(place, ROOTS, from, (n, n, n)) };
        multiply(work.isa, (z.t(), z), &all, into, Init::Zero, pack);
    }
}

impl Step {
    /// Writes down G, as often as factors need it, times √(1 − β₂).
    ///
    /// # Safety
    /// Only the piece's own item may call this, and no other item of the phase may use G.
    unsafe fn write<T: Element>(&self, piece: &Piece, work: &Work<'_, T>, grads: &[T]) {
        let desk = self.desk(work.place(piece));
        let share = 1.0 - self.method.beta2;
        let share = T::lit(if share > 0.0 { share.sqrt() } else { 1.0 });
        for (input, grads) in piece.rows.clone().zip(grads.chunks_exact(piece.width)) {
            for (start, apart) in
                [desk.dense.row(desk.g, piece, input), desk.dense.row_of_transpose(desk.turned, piece, input)]
            {
                for (j, g) in grads.iter().enumerate() {
                    // SAFETY: an element for each of the piece, with which the caller promises to be alone.
                    unsafe { work.set(start + j * apart, share * *g) };
                }
            }
        }
    }

    /// Writes down M.
    ///
    /// # Safety
    /// As for [`write`](Self::write), with M.
    unsafe fn write_mean<T: Element>(&self, piece: &Piece, work: &Work<'_, T>, means: &[T]) {
        let desk = self.desk(work.place(piece));
        let unbias = T::lit(self.unbias);
        for (input, means) in piece.rows.clone().zip(means.chunks_exact(piece.width)) {
            let (start, apart) = desk.dense.row(desk.m, piece, input);
            for (j, m) in means.iter().enumerate() {
                // SAFETY: as in `write`.
                unsafe { work.set(start + j * apart, unbias * *m) };
            }
        }
    }
}

/// Updates Adam's averages; computes ‖A‖².
struct Averages<'a, T> {
    step: &'a Step,
    means: &'a mut [T],
    squares: &'a mut [T],
    grads: &'a [T],
}

impl<T: Element> Op<T> for Averages<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let Step { adam, unbias, .. } = self.step;
        let (mean, square) = (adam.mean.splat(s), adam.square.splat(s));
        let [unbias, correction, eps] = [*unbias, adam.correction, adam.eps].map(|x| s.splat(T::lit(x)));
        let [sum] = stream_sum(
            s,
            [self.means, self.squares],
            [self.grads],
            #[inline(always)]
            |[m, v], [g]| {
                let (m, v) = (mean.mean(s, m, g), square.square(s, v, g));
                let a = s.mul(unbias, ratio(s, m, s.fma(s.sqrt(v), correction, eps)));
                ([m, v], [s.mul(a, a)])
            },
        );
        sum
    }
}
