//! Minimizes a small quadratic function over nonnegative variables.
//!
//! ```text
//! min ½·uᵀPu + qᵀu,  u ≥ 0,   P symmetric, positive semidefinite
//! ```
//!
//! The active-set method of Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23, with P and
//! q in place of AᵀA and −Aᵀb. It ends after finitely many steps, with variables that are exactly 0 or solve
//! their equations.

/// Memory for problems of one size, so that solving one allocates nothing.
#[derive(Debug, Default)]
pub struct Cone {
    /// u, the solution.
    pub u: Vec<f64>,
    /// Variables that are above 0.
    free: Vec<usize>,
    /// Variables that may not become positive in this round.
    barred: Vec<bool>,
    factor: Vec<f64>,
    z: Vec<f64>,
}

impl Cone {
    /// Memory for `n` variables.
    pub fn new(n: usize) -> Self {
        Cone {
            u: vec![0.0; n],
            free: Vec::with_capacity(n),
            barred: vec![false; n],
            factor: vec![0.0; n * n],
            z: vec![0.0; n],
        }
    }

    /// Solves a problem: P row by row, all numbers finite.
    ///
    /// # Panics
    /// If P or q has another size.
    pub fn solve(&mut self, p: &[f64], q: &[f64]) {
        let n = self.u.len();
        assert_eq!((p.len(), q.len()), (n * n, n));
        self.u.fill(0.0);
        self.free.clear();
        self.barred.fill(false);
        let size = |x: &[f64]| x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let (size_p, size_q) = (size(p), size(q));
        // Each round decreases the function, so no set of free variables comes twice; the limit only guards
        // against rounding.
        for _ in 0..10 * n + 10 {
            let noise = 4.0 * n as f64 * f64::EPSILON * (size_p * size(&self.u) + size_q);
            let slope = |j: usize| -q[j] - (0..n).map(|k| p[j * n + k] * self.u[k]).sum::<f64>();
            let best = (0..n)
                .filter(|j| !self.barred[*j] && !self.free.contains(j))
                .map(|j| (j, slope(j)))
                .filter(|(_, s)| *s > noise)
                .fold(None, |best: Option<(usize, f64)>, one| match best {
                    Some(b) if b.1 >= one.1 => Some(b),
                    _ => Some(one),
                });
            let Some((j, _)) = best else { return };
            self.free.push(j);
            if !self.equations(p, q) || self.z[self.free.len() - 1] <= 0.0 {
                // It depends on others that are already free, or gains nothing beyond rounding.
                self.free.pop();
                self.barred[j] = true;
                continue;
            }
            self.inside(p, q);
            self.barred.fill(false);
        }
    }

    /// Moves u towards the solution of the free variables' equations, and removes variables that would become
    /// negative, until none would.
    fn inside(&mut self, p: &[f64], q: &[f64]) {
        loop {
            let Cone { u, free, z, .. } = self;
            let part = free
                .iter()
                .zip(&*z)
                .filter(|(_, z)| **z <= 0.0)
                .map(|(i, z)| u[*i] / (u[*i] - z))
                .fold(1.0f64, f64::min);
            for (i, z) in free.iter().zip(&*z) {
                u[*i] += part * (z - u[*i]);
            }
            if part == 1.0 && z[..free.len()].iter().all(|z| *z > 0.0) {
                return;
            }
            let least = free.iter().zip(&*z).filter(|(_, z)| **z <= 0.0).map(|(i, _)| u[*i]);
            let least = least.fold(f64::INFINITY, f64::min);
            for at in (0..free.len()).rev() {
                if z[at] <= 0.0 && u[free[at]] <= least.max(0.0) {
                    u[free.remove(at)] = 0.0;
                }
            }
            if free.is_empty() || !self.equations(p, q) {
                return;
            }
        }
    }

    /// Solves P·z = −q for the free variables, by Cholesky's method. Returns false if a row depends on
    /// earlier ones.
    fn equations(&mut self, p: &[f64], q: &[f64]) -> bool {
        let Cone { u, free, factor, z, .. } = self;
        let (n, m) = (u.len(), free.len());
        for i in 0..m {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| factor[i * n + k] * factor[j * n + k]).sum();
                let whole = p[free[i] * n + free[j]];
                let rest = whole - known;
                if i > j {
                    factor[i * n + j] = rest / factor[j * n + j];
                } else if rest > 4.0 * n as f64 * f64::EPSILON * whole {
                    factor[i * n + i] = rest.sqrt();
                } else {
                    return false;
                }
            }
        }
        for i in 0..m {
            let known: f64 = (0..i).map(|k| factor[i * n + k] * z[k]).sum();
            z[i] = (-q[free[i]] - known) / factor[i * n + i];
        }
        for i in (0..m).rev() {
            let known: f64 = (i + 1..m).map(|k| factor[k * n + i] * z[k]).sum();
            z[i] = (z[i] - known) / factor[i * n + i];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    /// P = MMᵀ of `n` random rows of `d` numbers, of which `twins` occur twice, and a random q.
    fn problem(n: usize, d: usize, twins: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let mut stream = Stream::new(seed, Purpose::Init, 0);
        let mut number = || 2.0 * stream.unit() - 1.0;
        let mut rows: Vec<Vec<f64>> = (0..n).map(|_| (0..d).map(|_| number()).collect()).collect();
        for i in 0..twins {
            rows[n - 1 - i] = rows[i].clone();
        }
        let g: Vec<f64> = (0..d).map(|_| number()).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let p = (0..n * n).map(|i| dot(&rows[i / n], &rows[i % n])).collect();
        (p, rows.iter().map(|r| dot(r, &g)).collect())
    }

    #[test]
    fn solutions_meet_the_conditions_of_karush_kuhn_and_tucker() {
        let mut pulled = 0;
        for seed in 0..300 {
            let n = 1 + seed as usize % 12;
            for (d, twins) in [(20, 0), (20, n / 3), (3, 0)] {
                let (p, q) = problem(n, d, twins, seed);
                let mut cone = Cone::new(n);
                for _ in 0..2 {
                    cone.solve(&p, &q); // the second time gives the same as the first
                    for i in 0..n {
                        let slope = q[i] + (0..n).map(|k| p[i * n + k] * cone.u[k]).sum::<f64>();
                        assert!(cone.u[i] >= 0.0 && slope >= -1e-9, "{seed} {d} {twins}: {slope}");
                        assert!((cone.u[i] * slope).abs() <= 1e-9, "{seed} {d} {twins}: {slope}");
                        pulled += usize::from(cone.u[i] > 0.0);
                    }
                }
            }
        }
        assert!(pulled > 1000);
    }
}
