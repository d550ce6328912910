//! Muon (Jordan 2024, <https://kellerjordan.github.io/posts/muon>): momentum whose singular values are all
//! brought close to 1 by five steps of a Newton–Schulz iteration. For hidden weights; other parameters take
//! steps of AdamW.
//!
//! ```text
//! B ← B + (1 − μ)·(G − B)
//! U = G + μ·(B − G)                           Nesterov; else B
//! X = U/max(‖U‖, ε)
//! X ← a·X + (b·A + c·A²)·X,  A = X·Xᵀ         (a, b, c) = (3.4445, −4.7750, 2.0315)
//! W ← (1 − lr·wd)·W − lr·s·X
//! ```
//!
//! with s = √max(1, out/in), or 0.2·√max(out, in). That is PyTorch's version; Optax corrects the bias of U,
//! adds ε to the norm, and uses Nesterov's Adam for other parameters.
//!
//! The iteration commutes with transposition, so it runs on whichever of W and Wᵀ is not wide: then every
//! product reads its operands as they lie in memory, X ← a·X + X·(b·A + c·A²) with A = Xᵀ·X.
//!
//! Phases: momentum, and AdamW for other parameters; X; three products for each step of the iteration; the
//! step of W.

use super::dense::{Dense, multiply, packs, shape};
use super::{Items, Own, Piece, Place, Product, TILE, Tile, Whole, Work};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Init;
use crate::optim::method::{
    Average, Convention, Field, Method, Scalars, Slot, Value, apply, fraction, named, non_negative, options,
};
use crate::optim::{Adam, Nadam, adam, nadam};
use crate::simd::{Op, Simd, dispatch, stream_sum};
use crate::view::MatMut;

/// Hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate, ≥ 0.
    pub lr: f64,
    /// Weight decay, ≥ 0.
    pub weight_decay: f64,
    /// μ, in [0, 1).
    pub momentum: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
    /// a
    pub ns_coefficient1: f64,
    /// b
    pub ns_coefficient2: f64,
    /// c
    pub ns_coefficient3: f64,
    /// ε, ≥ 0.
    pub eps: f64,
    /// Number of steps of the iteration, below 100.
    pub ns_steps: u32,
    /// Which s to use.
    pub adjust_lr_fn: Scale,
    /// Which parameters take steps of Muon.
    pub matrices: Matrices,
    /// AdamW's decay of the mean, in [0, 1).
    pub adam_beta1: f64,
    /// AdamW's decay of the mean square, in [0, 1).
    pub adam_beta2: f64,
    /// AdamW's ε, ≥ 0.
    pub adam_eps: f64,
    /// AdamW's learning rate relative to Muon's, ≥ 0.
    pub adam_lr_scale: f64,
    /// PyTorch's or Optax'.
    pub convention: Convention,
}

/// How the step of a matrix is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// √max(1, out/in)
    Original,
    /// 0.2·√max(out, in): steps as large as those of AdamW.
    MatchRmsAdamw,
}

/// Which parameters take steps of Muon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrices {
    /// Weights except those of the first and the last layer.
    Hidden,
    /// All weights.
    All,
    /// None.
    None,
}

impl Field for Scale {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        named(name, value, &[("original", Scale::Original), ("match_rms_adamw", Scale::MatchRmsAdamw)])
    }
}

impl Field for Matrices {
    fn read(name: &'static str, value: &Value) -> Result<Self, Error> {
        let known = [("hidden", Matrices::Hidden), ("all", Matrices::All), ("none", Matrices::None)];
        named(name, value, &known)
    }
}

impl Default for Muon {
    fn default() -> Self {
        Muon {
            lr: 1e-3,
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_coefficient1: 3.4445,
            ns_coefficient2: -4.7750,
            ns_coefficient3: 2.0315,
            eps: 1e-7,
            ns_steps: 5,
            adjust_lr_fn: Scale::Original,
            matrices: Matrices::Hidden,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_eps: 1e-8,
            adam_lr_scale: 1.0,
            convention: Convention::Torch,
        }
    }
}

/// Constants of one step.
#[derive(Clone, Copy)]
pub struct Step {
    method: Muon,
    mean: Average,
    /// Coefficients of B and G in U.
    blend: [f64; 2],
    rest: Rest,
}

/// What other parameters do.
#[derive(Clone, Copy)]
enum Rest {
    Adam(adam::Step),
    Nadam(nadam::Step),
}

impl Method for Muon {
    type Step = Step;

    options!(
        lr,
        weight_decay,
        momentum,
        nesterov,
        ns_coefficient1,
        ns_coefficient2,
        ns_coefficient3,
        eps,
        ns_steps,
        adjust_lr_fn,
        matrices,
        adam_beta1,
        adam_beta2,
        adam_eps,
        adam_lr_scale,
        convention,
    );

    fn check(&self) -> Result<(), Error> {
        non_negative("lr", self.lr)?;
        non_negative("weight_decay", self.weight_decay)?;
        fraction("momentum", self.momentum)?;
        non_negative("eps", self.eps)?;
        if self.ns_steps >= 100 {
            return Err(Error::argument("ns_steps", self.ns_steps, "a whole number < 100 is needed"));
        }
        fraction("adam_betas[0]", self.adam_beta1)?;
        fraction("adam_betas[1]", self.adam_beta2)?;
        non_negative("adam_eps", self.adam_eps)?;
        non_negative("adam_lr_scale", self.adam_lr_scale)?;
        self.convention.among(&[Convention::Torch, Convention::Optax])
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot::signed("momentum_buffer"), Slot::positive("exp_avg_sq")]
    }

    fn at(&self, t: u64, _: &Scalars) -> Step {
        let mu = self.momentum;
        let short = |t: u64| 1.0 - mu.powf(t as f64);
        let blend = match (self.convention, self.nesterov) {
            (Convention::Optax, true) => [mu / short(t + 1), (1.0 - mu) / short(t)],
            (Convention::Optax, false) => [1.0 / short(t), 0.0],
            (_, true) => [mu, 1.0 - mu],
            (_, false) => [1.0, 0.0],
        };
        let lr = self.lr * self.adam_lr_scale;
        let Muon { adam_beta1: beta1, adam_beta2: beta2, adam_eps: eps, weight_decay, .. } = *self;
        let rest = if self.convention == Convention::Optax && self.nesterov {
            let nadam = Nadam {
                lr,
                beta1,
                beta2,
                eps,
                weight_decay,
                momentum_decay: 0.0,
                decoupled_weight_decay: true,
                convention: Convention::Optax,
            };
            Rest::Nadam(nadam.at(t, &[beta1.powf(t as f64), 0.0])) // the product of its momentum factors
        } else {
            let decoupled_weight_decay = true;
            let adam =
                Adam { lr, beta1, beta2, eps, weight_decay, decoupled_weight_decay, ..Adam::default() };
            Rest::Adam(adam.at(t, &Scalars::default()))
        };
        Step { method: *self, mean: Average::new(mu), blend, rest }
    }
}

impl Step {
    /// Whether a block takes steps of Muon.
    fn takes(&self, place: &Place) -> bool {
        match self.method.matrices {
            Matrices::Hidden => place.hidden,
            Matrices::All => place.shape.len() == 2,
            Matrices::None => false,
        }
    }

    /// U as a function of B and G.
    #[inline(always)]
    fn blend<T: Element, S: Simd<T>>(&self, s: S) -> impl Fn(S::V, S::V) -> S::V {
        let [b, g] = self.blend.map(|x| s.splat(T::lit(x)));
        #[inline(always)]
        move |buffer, grad| s.fma(b, buffer, s.mul(g, grad))
    }

    /// Learning rate for a matrix.
    fn rate(&self, place: &Place) -> f64 {
        let (out, inputs) = (place.outputs as f64, place.inputs as f64);
        self.method.lr
            * match self.method.adjust_lr_fn {
                Scale::Original => (out / inputs).max(1.0).sqrt(),
                Scale::MatchRmsAdamw => 0.2 * out.max(inputs).sqrt(),
            }
    }
}

/// Where the matrices of a block lie in its scratch: X, `tall` × `wide`, and another for the next X; A and
/// b·A + c·A², `wide` × `wide`.
struct Desk {
    dense: Dense,
    x: [usize; 2],
    gram: usize,
    poly: usize,
}

impl Desk {
    fn of(place: &Place) -> Self {
        let dense = Dense::of(place);
        let x = [place.scratch, place.scratch + dense.len()];
        let gram = x[1] + dense.len();
        Desk { dense, x, gram, poly: gram + dense.wide * dense.wide }
    }
}

impl<T: Element> Whole<T> for Step {
    fn phases(&self) -> usize {
        3 + 3 * self.method.ns_steps as usize
    }

    fn items(&self, phase: usize) -> Items {
        match phase.checked_sub(2) {
            Some(p) if p < 3 * self.method.ns_steps as usize => match p % 3 {
                2 => Items::Tiles(Product::Mixed),
                _ => Items::Tiles(Product::Wide),
            },
            _ => Items::Pieces,
        }
    }

    fn products(&self, place: &Place) -> &[Product] {
        if self.takes(place) { &[Product::Wide, Product::Mixed] } else { &[] }
    }

    fn scratch(&self, place: &Place) -> usize {
        let Dense { tall, wide, .. } = Dense::of(place);
        if self.takes(place) { 2 * wide * (tall + wide) } else { 0 }
    }

    fn packs(&self, place: &Place) -> usize {
        let Dense { tall, wide, .. } = Dense::of(place);
        if !self.takes(place) {
            return 0;
        }
        let (high, low) = (TILE.min(tall), TILE.min(wide));
        packs::<T>(&[
            shape((low, low, tall), (wide, wide), true),
            shape((low, low, wide), (wide, wide), false),
            shape((high, low, wide), (wide, wide), false),
        ])
    }

    fn needs_matrices(&self) -> bool {
        true
    }

    unsafe fn piece(&self, phase: usize, piece: &Piece, own: Own<'_, T>, work: &Work<'_, T>) {
        let place = work.place(piece);
        let Own { params, grads, state } = own;
        if !self.takes(place) {
            if phase == 0 {
                match &self.rest {
                    Rest::Adam(step) => apply(work.isa, step, params, grads, state),
                    Rest::Nadam(step) => apply(work.isa, step, params, grads, state),
                }
            }
            return;
        }
        let desk = Desk::of(place);
        let width = piece.width;
        let [buffer, ..] = state;
        if phase == 0 {
            let size = dispatch(work.isa, Momentum { step: self, buffer, grads });
            // SAFETY: the item's own sum, which only the second phase reads.
            unsafe { work.note(piece, [size]) };
        } else if phase == 1 {
            let norm = work.total(piece, 0).sqrt();
            let norm = match self.method.convention {
                Convention::Optax => norm + self.method.eps,
                _ => norm.max(self.method.eps),
            };
            let [b, g] = self.blend.map(|x| T::lit(if norm > 0.0 { x / norm } else { 0.0 }));
            let rows = buffer.chunks_exact(width).zip(grads.chunks_exact(width));
            for (input, (buffer, grads)) in piece.rows.clone().zip(rows) {
                let (start, apart) = desk.dense.row(desk.x[0], piece, input);
                for (j, (x, y)) in buffer.iter().zip(grads).enumerate() {
                    // SAFETY: the item's own element of X.
                    unsafe { work.set(start + j * apart, b * *x + g * *y) };
                }
            }
        } else {
            let (rate, decay) = (self.rate(place), self.method.lr * self.method.weight_decay);
            let [rate, decay] = [rate, decay].map(T::lit);
            let last = self.method.ns_steps as usize % 2;
            for (input, params) in piece.rows.clone().zip(params.chunks_exact_mut(width)) {
                let (start, apart) = desk.dense.row(desk.x[last], piece, input);
                for (j, p) in params.iter_mut().enumerate() {
                    *p = *p - (decay * *p + rate * work.get(start + j * apart));
                }
            }
        }
    }

    unsafe fn tile(&self, phase: usize, place: &Place, tile: &Tile, work: &Work<'_, T>, pack: &mut [T]) {
        let (round, product) = ((phase - 2) / 3, (phase - 2) % 3);
        let Desk { dense: Dense { tall, wide, .. }, x, gram, poly } = Desk::of(place);
        let (now, next) = (x[round % 2], x[(round + 1) % 2]);
        let [a, b, c] =
            [self.method.ns_coefficient1, self.method.ns_coefficient2, self.method.ns_coefficient3]
                .map(T::lit);
        let (m, n) = (tile.rows.len(), tile.cols.len());
        // A = Xᵀ·X, then b·A + c·A², then a·X + X·(b·A + c·A²)
        let (left, right, into) = match product {
            0 => (work.mat(now, tall, wide).t(), work.mat(now, tall, wide), gram),
            1 => (work.mat(gram, wide, wide), work.mat(gram, wide, wide), poly),
            _ => (work.mat(now, tall, wide), work.mat(poly, wide, wide), next),
        };
        // SAFETY: the item's own tile, of a matrix that the phase's other items do not read.
        let mut out = unsafe { work.mat_mut(into + tile.rows.start * wide + tile.cols.start, m, n, wide) };
        let each = |out: &mut MatMut<'_, T>, f: &dyn Fn(T, T) -> T| {
            for i in 0..m {
                let from = left.block(tile.rows.start + i, 1, tile.cols.start, n).row(0);
                out.row_mut(i).iter_mut().zip(from).for_each(|(y, x)| *y = f(*x, *y));
            }
        };
        if product == 2 {
            each(&mut out, &|x, _| a * x);
        }
        let init = if product == 2 { Init::Accumulate } else { Init::Zero };
        multiply(work.isa, (left, right), tile, out.reborrow(), init, pack);
        if product == 1 {
            each(&mut out, &|x, y| b * x + c * y);
        }
    }
}

/// Updates B; computes ‖U‖².
struct Momentum<'a, T> {
    step: &'a Step,
    buffer: &'a mut [T],
    grads: &'a [T],
}

impl<T: Element> Op<T> for Momentum<'_, T> {
    type Output = f64;
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) -> f64 {
        let (mean, blend) = (self.step.mean.splat(s), self.step.blend::<T, S>(s));
        let [sum] = stream_sum(
            s,
            [self.buffer],
            [self.grads],
            #[inline(always)]
            |[buffer], [g]| {
                let buffer = mean.mean(s, buffer, g);
                let u = blend(buffer, g);
                ([buffer], [s.mul(u, u)])
            },
        );
        sum
    }
}
