//! Normalizations forward with tangents, and backward with the tangents of that.
//!
//! Batch normalization and normalizations of rows are one formula, with means over the rows of the batch or over
//! the columns of a row; dots are tangents, and s = 1/√(σ² + ε):
//!
//! ```text
//! forward      ẑ = s·(z − μ)                    u = γ·ẑ + β
//!              ẑ˙ = s·(ż − μ̇ − ẑ·q)             u̇ = γ̇·ẑ + γ·ẑ˙ + β̇        q = mean of ẑ·ż,  ṡ = −s²·q
//! backward     w = γ·du,                         dz = s·(w − mean w − ẑ·mean(w·ẑ))
//!              ẇ = γ̇·du + γ·du˙,                 dz˙ = −s·q·dz + s·(ẇ − mean ẇ − ẑ˙·mean(w·ẑ) − ẑ·mean(ẇ·ẑ + w·ẑ˙))
//! parameters   dβ˙ = Σ du˙                       dγ˙ = Σ du˙·ẑ + du·ẑ˙
//! ```
//!
//! RMSNorm is without μ and without the means of w. With running averages in place of statistics, in evaluation,
//! q and all means are 0. Sums are taken in double precision, by blocks of rows, and of the blocks in their order.

use crate::element::Element;

/// What is known of each group of numbers with statistics of their own, which are columns or rows.
#[derive(Clone, Default)]
pub struct Moments {
    /// μ
    pub mean: Vec<f64>,
    /// μ̇
    pub mean_dot: Vec<f64>,
    /// s
    pub inverse: Vec<f64>,
    /// q
    pub along: Vec<f64>,
}

impl Moments {
    /// Of n groups, all 0.
    pub fn zeros(n: usize) -> Self {
        let zeros = || vec![0.0; n];
        Moments { mean: zeros(), mean_dot: zeros(), inverse: zeros(), along: zeros() }
    }
}

/// Scale and shift with their tangents; where there are none, 1 and 0.
#[derive(Clone, Copy)]
pub struct Affine<'a, T> {
    /// γ, γ̇
    pub scale: Option<[&'a [T]; 2]>,
    /// β, β̇
    pub shift: Option<[&'a [T]; 2]>,
}

impl<T: Element> Affine<'_, T> {
    fn scale(&self, j: usize) -> [f64; 2] {
        self.scale.map_or([1.0, 0.0], |both| both.map(|v| v[j].to_f64()))
    }
    fn shift(&self, j: usize) -> [f64; 2] {
        self.shift.map_or([0.0, 0.0], |both| both.map(|v| v[j].to_f64()))
    }
}

/// Sums over a block's rows, by column.
pub type Sums = [Vec<f64>; 4];

/// Σ f over the rows of two matrices of n columns.
pub fn column_sums<T: Element, const K: usize>(
    a: &[T],
    b: &[T],
    n: usize,
    f: impl Fn(usize, f64, f64) -> [f64; K],
) -> [Vec<f64>; K] {
    let mut sums = [(); K].map(|()| vec![0.0; n]);
    for (a, b) in a.chunks_exact(n).zip(b.chunks_exact(n)) {
        for j in 0..n {
            for (sum, x) in sums.iter_mut().zip(f(j, a[j].to_f64(), b[j].to_f64())) {
                sum[j] += x;
            }
        }
    }
    sums
}

/// Adds up the sums of blocks, in their order.
pub fn add_up<'s, const K: usize>(n: usize, of: impl Iterator<Item = &'s [Vec<f64>; K]>) -> [Vec<f64>; K] {
    let mut total = [(); K].map(|()| vec![0.0; n]);
    for sums in of {
        for (total, sum) in total.iter_mut().zip(sums) {
            total.iter_mut().zip(sum).for_each(|(total, x)| *total += x);
        }
    }
    total
}

/// The moments of a row of z and ż.
pub fn row_moments<T: Element>(z: &[T], dot: &[T], centred: bool, eps: f64) -> [f64; 4] {
    let n = z.len() as f64;
    let mean = |v: &[T]| if centred { v.iter().map(|x| x.to_f64()).sum::<f64>() / n } else { 0.0 };
    let (mean, mean_dot) = (mean(z), mean(dot));
    let (mut squares, mut along) = (0.0, 0.0);
    for (z, dot) in z.iter().zip(dot) {
        let d = z.to_f64() - mean;
        squares += d * d;
        along += d * (dot.to_f64() - mean_dot);
    }
    let inverse = 1.0 / (squares / n + eps).sqrt();
    [mean, mean_dot, inverse, inverse * along / n]
}

/// A row forward: z and ż become u and u̇; ẑ and ẑ˙ go beside them. `of` gives μ, μ̇, s and q by column.
pub fn forward<T: Element>(
    [z, dot]: [&mut [T]; 2],
    [hat, hat_dot]: [&mut [T]; 2],
    of: impl Fn(usize) -> [f64; 4],
    affine: &Affine<'_, T>,
) {
    for j in 0..z.len() {
        let [mean, mean_dot, inverse, along] = of(j);
        let x = inverse * (z[j].to_f64() - mean);
        let x_dot = inverse * (dot[j].to_f64() - mean_dot - x * along);
        let ([gamma, gamma_dot], [beta, beta_dot]) = (affine.scale(j), affine.shift(j));
        (hat[j], hat_dot[j]) = (T::lit(x), T::lit(x_dot));
        z[j] = T::lit(gamma * x + beta);
        dot[j] = T::lit(gamma_dot * x + gamma * x_dot + beta_dot);
    }
}

/// Σ du, Σ du·ẑ and the tangents of both, over a block's rows.
pub fn collect<T: Element>([du, du_dot]: [&[T]; 2], [hat, hat_dot]: [&[T]; 2], n: usize) -> Sums {
    let mut sums = [(); 4].map(|()| vec![0.0; n]);
    let rows = du.chunks_exact(n).zip(du_dot.chunks_exact(n));
    for ((d, d_dot), (x, x_dot)) in rows.zip(hat.chunks_exact(n).zip(hat_dot.chunks_exact(n))) {
        for j in 0..n {
            let [d, d_dot, x, x_dot] = [d[j], d_dot[j], x[j], x_dot[j]].map(T::to_f64);
            sums[0][j] += d;
            sums[1][j] += d * x;
            sums[2][j] += d_dot;
            sums[3][j] += d_dot * x + d * x_dot;
        }
    }
    sums
}

/// Means of w, w·ẑ, ẇ and ẇ·ẑ + w·ẑ˙ over each column, from the [`collect`]ed sums of all rows.
pub fn column_means<T: Element>(sums: &Sums, rows: usize, affine: &Affine<'_, T>) -> Vec<[f64; 4]> {
    let mean = |j: usize| {
        let [a, b, a_dot, b_dot] = [0, 1, 2, 3].map(|i| sums[i][j] / rows as f64);
        let [gamma, gamma_dot] = affine.scale(j);
        [gamma * a, gamma * b, gamma_dot * a + gamma * a_dot, gamma_dot * b + gamma * b_dot]
    };
    (0..sums[0].len()).map(mean).collect()
}

/// The same over a row.
pub fn row_means<T: Element>(
    [du, du_dot]: [&[T]; 2],
    [hat, hat_dot]: [&[T]; 2],
    centred: bool,
    affine: &Affine<'_, T>,
) -> [f64; 4] {
    let mut sums = [0.0; 4];
    for j in 0..du.len() {
        let [d, d_dot, x, x_dot] = [du[j], du_dot[j], hat[j], hat_dot[j]].map(T::to_f64);
        let [gamma, gamma_dot] = affine.scale(j);
        let (w, w_dot) = (gamma * d, gamma_dot * d + gamma * d_dot);
        sums[1] += w * x;
        sums[3] += w_dot * x + w * x_dot;
        if centred {
            sums[0] += w;
            sums[2] += w_dot;
        }
    }
    sums.map(|sum| sum / du.len() as f64)
}

/// A row backward: du and du˙ become dz and dz˙. `of` gives s, q and the four means by column.
pub fn backward<T: Element>(
    [du, du_dot]: [&mut [T]; 2],
    [hat, hat_dot]: [&[T]; 2],
    of: impl Fn(usize) -> ([f64; 2], [f64; 4]),
    affine: &Affine<'_, T>,
) {
    for j in 0..du.len() {
        let [d, d_dot, x, x_dot] = [du[j], du_dot[j], hat[j], hat_dot[j]].map(T::to_f64);
        let [gamma, gamma_dot] = affine.scale(j);
        let ([s, along], [w, wx, w_dot, wx_dot]) = of(j);
        let dz = s * (gamma * d - w - x * wx);
        let moved = gamma_dot * d + gamma * d_dot - w_dot - x_dot * wx - x * wx_dot;
        du[j] = T::lit(dz);
        du_dot[j] = T::lit(s * moved - s * along * dz);
    }
}
