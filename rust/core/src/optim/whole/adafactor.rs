//! Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5): of a weight's squared gradients,
//! only the means of rows and columns are kept.
//!
//! ```text
//! βₜ = 1 − t^τ
//! r ← βₜ·r + (1 − βₜ)·mean of g² over inputs         an element for each output
//! c ← βₜ·c + (1 − βₜ)·mean of g² over outputs        an element for each input
//! v = r·cᵀ / mean(r)                                 vectors: v ← βₜ·v + (1 − βₜ)·g²
//! u = g / √v
//! û = u / max(1, rms(u)/d)
//! ```
//!
//! PyTorch does not add ε₁ to the means: mean(r) is at least ε₁ and v at least ε₁². It steps by θ ← (1 −
//! lr·wd)·θ − max(ε₂, rms(θ))·min(lr, 1/√t)·û. Optax adds ε₁ to g², as the paper does, does not factor blocks
//! with fewer than 128 inputs or outputs, and steps by θ ← (1 − wd)·θ − max(ε₂, rms(θ))·lr·û.
//!
//! For a factored v, roots are taken of r and of c/mean(r): u = g·min(r⁻½·(c/mean(r))⁻½, ε₁⁻¹). Dividing by
//! the root of each element would take longer than the update of the element.
//!
//! Phases: sums over parts of rows and columns; their means, and roots; rms(u); the step.

use super::{Items, Own, Piece, Place, Whole, Work};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::PANEL;
use crate::optim::method::{
    Convention, Extent, Method, Scalars, Slot, least_root, non_negative, options, ratio,
};
use crate::simd::{Op, Simd, dispatch, stream_map, stream_sum, zip_map};

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    /// Learning rate, ≥ 0; in PyTorch's convention an upper limit.
    pub lr: f64,
    /// τ ≤ 0
    pub beta2_decay: f64,
    /// ε₁ ≥ 0; by default PyTorch's is the type's ε, Optax' is 1e-30.
    pub eps1: Option<f64>,
    /// ε₂ ≥ 0
    pub eps2: f64,
    /// The largest rms of u, ≥ 1.
    pub d: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// Least number of inputs and of outputs of a weight that is factored.
    pub min_dim_size_to_factor: u32,
    /// PyTorch's or Optax'.
    pub convention: Convention,
}

impl Default for Adafactor {
    fn default() -> Self {
        Adafactor {
            lr: 1e-2,
            beta2_decay: -0.8,
            eps1: None,
            eps2: 1e-3,
            d: 1.0,
            weight_decay: 0.0,
            min_dim_size_to_factor: 1,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    method: Adafactor,
    /// 1 − βₜ
    take: f64,
    /// Learning rate before it is scaled for a block.
    rate: f64,
    /// Fraction that θ loses to weight decay.
    fade: f64,
}

/// The arrays of state.
const ROWS: usize = 0;
const COLS: usize = 1;

impl Method for Adafactor {
    type Step = Step;

    options!(lr, beta2_decay, eps1, eps2, d, weight_decay, min_dim_size_to_factor, convention);

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        if self.beta2_decay.is_nan() || self.beta2_decay > 0.0 {
            return Err(Error::argument("beta2_decay", self.beta2_decay, "a number <= 0 is needed"));
        }
        non_negative("eps[0]", self.eps1.unwrap_or(0.0))?;
        non_negative("eps[1]", self.eps2)?;
        if self.d.is_nan() || self.d < 1.0 {
            return Err(Error::argument("d", self.d, "a number >= 1 is needed"));
        }
        non_negative("weight_decay", self.weight_decay)?;
        self.convention.among(&[Convention::Torch, Convention::Optax])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot::positive("row_var").of(Extent::Outputs),
            Slot::positive("col_var").of(Extent::Inputs),
            Slot::positive("variance").of(Extent::Rest),
        ]
    }

    fn factors(&self, shape: &[usize]) -> bool {
        shape.len() == 2 && shape.iter().all(|n| *n >= self.min_dim_size_to_factor as usize)
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let t = t as f64;
        let (rate, fade) = match self.convention {
            Convention::Optax => (self.lr, self.weight_decay),
            _ => (self.lr.min(1.0 / t.sqrt()), self.lr * self.weight_decay),
        };
        Step { method: *self, take: t.powf(self.beta2_decay), rate, fade }
    }
}

impl Step {
    fn factors(&self, place: &Place) -> bool {
        self.method.factors(&place.shape)
    }

    /// What is added to squares; the least mean of r; the least v.
    fn floors<T: Element>(&self) -> [f64; 3] {
        match (self.method.convention, self.method.eps1) {
            (Convention::Optax, eps) => [eps.unwrap_or(1e-30), 0.0, 0.0],
            (_, eps) => {
                let eps = eps.unwrap_or(T::EPSILON);
                [0.0, eps, eps * eps]
            }
        }
    }
}

/// Where sums over parts lie in the block's scratch: first those over each panel's outputs, for each input,
/// then those over each chunk of inputs, for each output.
fn scratch_of(place: &Place) -> (usize, usize) {
    let (inputs, outputs) = (place.inputs, place.outputs);
    (outputs.div_ceil(PANEL) * inputs, place.chunks * outputs)
}

impl<T: Element> Whole<T> for Step {
    fn phases(&self) -> usize {
        4
    }

    fn items(&self, phase: usize) -> Items {
        if phase == 1 { Items::Blocks } else { Items::Pieces }
    }

    fn scratch(&self, place: &Place) -> usize {
        let (cols, rows) = scratch_of(place);
        if self.factors(place) { cols + rows } else { 0 }
    }

    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>) {
        let place = work.place(piece);
        let Own { params, grads, state: [_, _, v, _] } = own; // v is empty if it is factored
        let [added, _, least] = self.floors::<T>();
        let factors = self.factors(place);
        if phase == 0 {
            let size = dispatch(work.isa, Square(params));
            // SAFETY: the item's own sum, which only the last phase reads.
            unsafe { work.note(piece, [size]) };
            if factors {
                let (panels, _) = scratch_of(place);
                let cols = place.scratch + piece.column / PANEL * place.inputs + piece.rows.start;
                let rows = place.scratch + panels + piece.chunk * place.outputs + piece.column;
                let (cols, rows) = (cols..cols + piece.rows.len(), rows..rows + piece.width);
                // SAFETY: the item's own parts: one for each panel, the other for each chunk.
                let (cols, rows) = unsafe { (work.scratch_mut(cols), work.scratch_mut(rows)) };
                dispatch(work.isa, Sums { grads, cols, rows });
            } else {
                dispatch(work.isa, Mean { take: self.take, added, grads, v });
            }
            return;
        }
        let v = match factors {
            true => {
                let (panels, _) = scratch_of(place);
                let by_output = work.mat(place.scratch + panels, 1, place.outputs).row(0);
                let by_input = work.mat(place.scratch, 1, place.inputs).row(0);
                Estimate::Factors {
                    rows: &by_output[piece.column..piece.column + piece.width],
                    cols: &by_input[piece.rows.clone()],
                    most: 1.0 / least.sqrt().max(least_root::<T>()),
                }
            }
            false => Estimate::Whole { v, least },
        };
        if phase == 2 {
            let length = dispatch(work.isa, Length { grads, v });
            // SAFETY: the item's own sum, which only the last phase reads.
            unsafe { work.note_second(piece, length) };
        } else {
            let [size, length] = [0, 1].map(|k| (work.total(piece, k) / place.len as f64).sqrt());
            let rate = self.method.eps2.max(size) * self.rate / (length / self.method.d).max(1.0);
            dispatch(work.isa, Go { fade: -self.fade, rate: -rate, params, grads, v });
        }
    }

    unsafe fn block(&self, _: usize, place: &Place, work: &Work<'_, T>) {
        if !self.factors(place) {
            return;
        }
        let [added, least_mean, _] = self.floors::<T>();
        let (inputs, outputs) = (place.inputs, place.outputs);
        let (panels, len) = scratch_of(place);
        // SAFETY: the block's own part.
        let sums = unsafe { work.scratch_mut(place.scratch..place.scratch + panels + len) };
        let (by_input, by_output) = sums.split_at_mut(panels);
        for (parts, state, n) in [(&mut *by_input, COLS, outputs), (&mut *by_output, ROWS, inputs)] {
            // SAFETY: the block's own part, of which there is no other reference until the loop is over.
            let means = unsafe { work.kept_mut(place, state) };
            let (total, others) = parts.split_at_mut(means.len());
            for part in others.chunks_exact(means.len()) {
                total.iter_mut().zip(part).for_each(|(sum, x)| *sum += *x);
            }
            let (take, n, added) = (T::lit(self.take), T::lit(1.0 / n as f64), T::lit(added));
            for (mean, sum) in means.iter_mut().zip(total) {
                *mean += take * (*sum * n + added - *mean);
            }
        }
        // Roots, in place of the sums.
        let [rows, cols] = [ROWS, COLS].map(|state| work.kept(place, state));
        let mean = rows.iter().map(|x| x.to_f64()).sum::<f64>() / outputs as f64;
        let mean = mean.max(least_mean);
        let scale = if mean == 0.0 { 1.0 } else { 1.0 / mean };
        for (root, r) in by_output.iter_mut().zip(rows) {
            *root = T::lit(1.0 / r.to_f64().sqrt());
        }
        for (root, c) in by_input.iter_mut().zip(cols) {
            *root = T::lit(1.0 / (c.to_f64() * scale).sqrt());
        }
    }
}

/// Computes the sum of squares.
struct Square<'a, T>(&'a [T]);

impl<T: Element> Op<T> for Square<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let [sum] = stream_sum(
            s,
            [],
            [self.0],
            #[inline(always)]
            |[], [x]| ([], [s.mul(x, x)]),
        );
        sum
    }
}

/// Vectors of a strip. A piece is worked on strip by strip, so that what belongs to outputs stays in registers.
const STRIP: usize = 2;

/// Where the strips of rows of `width` elements begin, and whether they are whole.
#[inline(always)]
fn strips<T: Element, S: Simd<T>>(_: S, width: usize) -> impl Iterator<Item = (usize, bool)> {
    (0..width).step_by(STRIP * S::N).map(move |at| (at, at + STRIP * S::N <= width))
}

/// A row's elements in a strip, or zeros beyond the row's end.
#[inline(always)]
fn load<T: Element, S: Simd<T>>(s: S, row: &[T], (at, whole): (usize, bool)) -> [S::V; STRIP] {
    let mut strip = [s.splat(T::ZERO); STRIP];
    for (k, v) in strip.iter_mut().enumerate() {
        let from = &row[row.len().min(at + k * S::N)..];
        *v = if whole { s.load(from) } else { s.load_partial(&from[..from.len().min(S::N)]) };
    }
    strip
}

/// Writes a row's elements in a strip.
#[inline(always)]
fn store<T: Element, S: Simd<T>>(s: S, row: &mut [T], (at, whole): (usize, bool), strip: [S::V; STRIP]) {
    let len = row.len();
    for (k, v) in strip.into_iter().enumerate() {
        let into = &mut row[len.min(at + k * S::N)..];
        if whole {
            s.store(into, v);
        } else {
            let n = into.len().min(S::N);
            s.store_partial(&mut into[..n], v);
        }
    }
}

/// Sums of g² over the outputs of the piece, for each input, and over its inputs, for each output.
struct Sums<'a, T> {
    grads: &'a [T],
    cols: &'a mut [T],
    rows: &'a mut [T],
}

impl<T: Element> Op<T> for Sums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let width = self.rows.len();
        self.cols.fill(T::ZERO);
        for strip in strips(s, width) {
            let mut rows = [s.splat(T::ZERO); STRIP];
            for (col, g) in self.cols.iter_mut().zip(self.grads.chunks_exact(width)) {
                let mut sum = s.splat(T::ZERO);
                for (row, g) in rows.iter_mut().zip(load(s, g, strip)) {
                    let square = s.mul(g, g);
                    *row = s.add(*row, square);
                    sum = s.add(sum, square);
                }
                *col += s.reduce_add(sum);
            }
            store(s, self.rows, strip, rows);
        }
    }
}

/// v ← v + take·(g² + added − v)
struct Mean<'a, T> {
    take: f64,
    added: f64,
    grads: &'a [T],
    v: &'a mut [T],
}

impl<T: Element> Op<T> for Mean<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [take, added] = [self.take, self.added].map(|x| s.splat(T::lit(x)));
        stream_map(
            s,
            [self.v],
            [self.grads],
            #[inline(always)]
            |[v], [g]| [s.fma(take, s.sub(s.fma(g, g, added), v), v)],
        );
    }
}

/// The estimate v for a piece.
#[derive(Clone, Copy)]
enum Estimate<'a, T> {
    /// As it is.
    Whole { v: &'a [T], least: f64 },
    /// The inverse root of v, at most `most`: `rows` times one element of `cols` for each input.
    Factors { rows: &'a [T], cols: &'a [T], most: f64 },
}

/// Rows of a piece whose squares are summed before the sum is added to the others in double precision.
const SUMMED: usize = 64;

/// Computes the sum of u².
struct Length<'a, T> {
    grads: &'a [T],
    v: Estimate<'a, T>,
}

impl<T: Element> Op<T> for Length<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let (rows, cols, most) = match self.v {
            Estimate::Factors { rows, cols, most } => (rows, cols, s.splat(T::lit(most))),
            Estimate::Whole { v, least } => {
                let least = s.splat(T::lit(least));
                let [sum] = stream_sum(
                    s,
                    [],
                    [self.grads, v],
                    #[inline(always)]
                    |[], [g, v]| {
                        let u = ratio(s, g, s.sqrt(s.max(least, v)));
                        ([], [s.mul(u, u)])
                    },
                );
                return sum;
            }
        };
        let width = rows.len();
        let mut total = 0.0;
        for strip in strips(s, width) {
            let rows = load(s, rows, strip);
            for (grads, cols) in self.grads.chunks(SUMMED * width).zip(cols.chunks(SUMMED)) {
                let mut sums = [s.splat(T::ZERO); STRIP];
                for (col, g) in cols.iter().zip(grads.chunks_exact(width)) {
                    let col = s.splat(*col);
                    for ((sum, g), row) in sums.iter_mut().zip(load(s, g, strip)).zip(rows) {
                        let u = s.mul(g, s.min(most, s.mul(row, col)));
                        *sum = s.fma(u, u, *sum);
                    }
                }
                total += sums
                    .into_iter()
                    .map(
                        #[inline(always)]
                        |sum| s.reduce_add(sum).to_f64(),
                    )
                    .sum::<f64>();
            }
        }
        total
    }
}

/// θ ← θ + fade·θ + rate·u
struct Go<'a, T> {
    fade: f64,
    rate: f64,
    params: &'a mut [T],
    grads: &'a [T],
    v: Estimate<'a, T>,
}

impl<T: Element> Op<T> for Go<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let [fade, rate] = [self.fade, self.rate].map(|x| s.splat(T::lit(x)));
        let (rows, cols, most) = match self.v {
            Estimate::Factors { rows, cols, most } => (rows, cols, s.splat(T::lit(most))),
            Estimate::Whole { v, least } => {
                let least = s.splat(T::lit(least));
                return zip_map(
                    s,
                    [self.params],
                    [self.grads, v],
                    #[inline(always)]
                    |[p], [g, v]| {
                        let u = ratio(s, g, s.sqrt(s.max(least, v)));
                        [s.fma(rate, u, s.fma(fade, p, p))]
                    },
                );
            }
        };
        let width = rows.len();
        for strip in strips(s, width) {
            let rows = load(s, rows, strip);
            let slices = self.params.chunks_exact_mut(width).zip(self.grads.chunks_exact(width));
            for (col, (params, g)) in cols.iter().zip(slices) {
                let (col, mut p) = (s.splat(*col), load(s, params, strip));
                for ((p, g), row) in p.iter_mut().zip(load(s, g, strip)).zip(rows) {
                    let u = s.mul(g, s.min(most, s.mul(row, col)));
                    *p = s.fma(rate, u, s.fma(fade, *p, *p));
                }
                store(s, params, strip, p);
            }
        }
    }
}
