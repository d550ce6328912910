//! Dropout: in training, y = z·m with a factor m that is 0 with probability p, else 1/(1 − p), drawn for each
//! element; dz = dy·m. In evaluation, y = z.
//!
//! As an element-wise layer, it is the identity with a saved derivative; a training pass stores the factors
//! in its place. Each factor is a function of the model's seed, the number of the training pass, the layer,
//! the row's place in the batch and the column only: it does not depend on threads or waves.
//!
//! Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, JMLR 15, 2014; the scaling in training
//! ("inverted") is PyTorch's.

use super::Function;
use crate::element::Element;
use crate::rng::{Purpose, philox_lanes};
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};
use crate::view::MatMut;

/// Dropout as an element-wise layer, as it is in evaluation.
#[derive(Clone, Copy)]
pub struct Dropout(pub f64);

impl Function for Dropout {
    const NAME: &'static str = "Dropout";
    const SAVES_DERIVATIVE: bool = true;

    fn wrong(self) -> Option<(&'static str, f64, &'static str)> {
        let fits = (0.0..=1.0).contains(&self.0);
        (!fits).then_some(("p", self.0, "a number from 0 to 1 is needed"))
    }

    #[inline(always)]
    fn forward<T: Element, S: Simd<T>>(self, s: S, z: S::V) -> [S::V; 2] {
        [z, s.splat(T::ONE)]
    }

    #[inline(always)]
    fn slopes<T: Element, S: Simd<T>>(self, s: S, _: S::V) -> [S::V; 3] {
        [s.splat(T::ONE), s.splat(T::ZERO), s.splat(T::ZERO)]
    }
}

/// What the factors of a training pass are drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draw {
    /// The model's seed.
    pub seed: u64,
    /// Number of the training pass.
    pub pass: u64,
}

/// Counters that are processed at once.
const LANES: usize = 16;

/// z ← z·m, factors ← m, for rows of a batch starting at `first`.
pub fn forward<T: Element>(
    isa: Isa,
    (p, draw, layer, first): (f64, Draw, usize, usize),
    z: MatMut<'_, T>,
    factors: MatMut<'_, T>,
) {
    struct Forward<'m, T>((f64, Draw, usize, usize), MatMut<'m, T>, MatMut<'m, T>);
    impl<T: Element> Op<T> for Forward<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            rows(s, self.0, self.1, self.2);
        }
    }
    dispatch(isa, Forward((p, draw, layer, first), z, factors));
}

#[inline(always)]
fn rows<T: Element, S: Simd<T>>(
    s: S,
    (p, draw, layer, first): (f64, Draw, usize, usize),
    mut z: MatMut<'_, T>,
    mut factors: MatMut<'_, T>,
) {
    // 2³² is out of range; the largest threshold makes p equal to 1 in nine digits.
    let threshold = (p * f64::exp2(32.0)).round().min(u32::MAX.into()) as u32;
    let kept = if p < 1.0 { T::lit(1.0 / (1.0 - p)) } else { T::ZERO };
    let key = [draw.seed as u32, (draw.seed >> 32) as u32];
    // 40 bits of the pass allow for 10¹² steps; 16 bits are for the layer.
    let [purpose, layer] = [Purpose::Dropout as u32, layer as u32 & 0xffff];
    let high = (purpose << 24) | (layer << 8) | ((draw.pass >> 32) as u32 & 0xff);
    for r in 0..z.rows() {
        let row = factors.row_mut(r);
        for (block, factors) in row.chunks_mut(4 * LANES).enumerate() {
            let counter = [(block * LANES) as u32, (first + r) as u32, draw.pass as u32, high];
            let words = philox_lanes::<LANES>(counter, key);
            // Word j of counter i is for column i + LANES·j of the block.
            for (factors, words) in factors.chunks_mut(LANES).zip(&words) {
                for (factor, word) in factors.iter_mut().zip(words) {
                    *factor = if *word >= threshold { kept } else { T::ZERO };
                }
            }
        }
        zip_map(
            s,
            [z.row_mut(r)],
            [&*row],
            #[inline(always)]
            |[z], [m]| [s.mul(z, m)],
        );
    }
}
