//! The input of networks: rows of features. Those in the model's precision are read where they lie; others
//! are converted as they are gathered, one batch at a time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::element::Element;
use crate::error::Error;
use crate::parallel::{self, RUN};
use crate::simd::{Isa, all_finite, prefetch};
use crate::view::MatRef;

/// Which rows of the data form the batch.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Row r of the batch is row `start + r` of the data.
    From(usize),
    /// Row r of the batch is row `order[r]` of the data.
    Listed(&'a [u32]),
}

impl<'a> Rows<'a> {
    /// The row of the data.
    #[inline(always)]
    pub fn at(&self, r: usize) -> usize {
        match self {
            Rows::From(start) => start + r,
            Rows::Listed(order) => order[r] as usize,
        }
    }

    /// The batch without its first rows.
    pub fn skip(self, rows: usize) -> Rows<'a> {
        match self {
            Rows::From(start) => Rows::From(start + rows),
            Rows::Listed(order) => Rows::Listed(&order[rows..]),
        }
    }
}

/// Rows of features.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a, T> {
    /// In the model's precision.
    Native(MatRef<'a, T>),
    /// Bytes, as in images; the byte 255 becomes 255.
    Bytes(MatRef<'a, u8>),
    /// IEEE 754 binary16.
    Half(MatRef<'a, f16>),
    /// Single precision, for a double-precision model.
    Single(MatRef<'a, f32>),
    /// Double precision, for a single-precision model.
    Double(MatRef<'a, f64>),
}

impl<'a, T> From<MatRef<'a, T>> for Samples<'a, T> {
    fn from(rows: MatRef<'a, T>) -> Self {
        Samples::Native(rows)
    }
}

/// `$f` of the matrix, whatever its elements are.
macro_rules! any {
    ($samples:expr, $m:ident => $f:expr) => {
        match $samples {
            Samples::Native($m) => $f,
            Samples::Bytes($m) => $f,
            Samples::Half($m) => $f,
            Samples::Single($m) => $f,
            Samples::Double($m) => $f,
        }
    };
}

impl<'a, T: Element> Samples<'a, T> {
    /// Number of samples.
    pub fn rows(&self) -> usize {
        any!(self, m => m.rows())
    }

    /// Number of features.
    pub fn cols(&self) -> usize {
        any!(self, m => m.cols())
    }

    /// Some of the samples.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let (from, len, cols) = (rows.start, rows.len(), self.cols());
        match self {
            Samples::Native(m) => Samples::Native(m.block(from, len, 0, cols)),
            Samples::Bytes(m) => Samples::Bytes(m.block(from, len, 0, cols)),
            Samples::Half(m) => Samples::Half(m.block(from, len, 0, cols)),
            Samples::Single(m) => Samples::Single(m.block(from, len, 0, cols)),
            Samples::Double(m) => Samples::Double(m.block(from, len, 0, cols)),
        }
    }

    /// The rows themselves, if they need no conversion.
    pub fn native(&self) -> Option<MatRef<'a, T>> {
        match self {
            Samples::Native(m) => Some(*m),
            _ => None,
        }
    }

    /// An element, in double precision.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        match self {
            Samples::Native(m) => m.at(i, j).to_f64(),
            Samples::Bytes(m) => m.at(i, j).into(),
            Samples::Half(m) => m.at(i, j).to_f64(),
            Samples::Single(m) => m.at(i, j).into(),
            Samples::Double(m) => m.at(i, j),
        }
    }

    /// Converts a row, rounding to nearest.
    ///
    /// # Panics
    /// If there is no such row, or `into` has another length.
    pub fn copy_row(&self, i: usize, into: &mut [T]) {
        assert_eq!(into.len(), self.cols());
        match self {
            Samples::Native(m) => into.copy_from_slice(m.row(i)),
            Samples::Bytes(m) => convert(m.row(i), into, |x| T::from_f32(f32::from(x))),
            Samples::Single(m) => convert(m.row(i), into, T::from_f32),
            Samples::Double(m) => convert(m.row(i), into, T::lit),
            Samples::Half(m) => {
                // The `half` crate converts slices with the CPU's own instructions.
                let mut part = [0f32; 64];
                for (from, into) in m.row(i).chunks(part.len()).zip(into.chunks_mut(part.len())) {
                    from.convert_to_f32_slice(&mut part[..from.len()]);
                    convert(&part[..from.len()], into, T::from_f32);
                }
            }
        }
    }

    /// Prefetches the beginning of row `i`, which will soon be copied; the CPU prefetches the rest.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn prefetch_row(&self, i: usize) {
        any!(self, m => prefetch_lines(m.row(i)))
    }

    /// The first number that is NaN or infinite, or becomes so when it is converted.
    pub fn first_not_finite(&self, isa: Isa) -> Option<(usize, usize, f64)> {
        if let Samples::Bytes(_) = self {
            return None;
        }
        // First on all threads, since there is nearly never one.
        let bad = AtomicBool::new(false);
        parallel::runs(self.rows(), (RUN / self.cols().max(1)).max(1), |rows| {
            let finite = match self {
                Samples::Native(m) => crate::pass::finite(isa, m.block(rows.start, rows.len(), 0, m.cols())),
                _ => {
                    let mut row = vec![T::ZERO; self.cols()];
                    rows.into_iter().all(|i| {
                        self.copy_row(i, &mut row);
                        all_finite(isa, &row)
                    })
                }
            };
            bad.fetch_or(!finite, Ordering::Relaxed);
        });
        if !bad.into_inner() {
            return None;
        }
        let mut row = vec![T::ZERO; self.cols()];
        for i in 0..self.rows() {
            self.copy_row(i, &mut row);
            if let Some(j) = row.iter().position(|x| !x.is_finite()) {
                let value = match self {
                    Samples::Double(m) => m.at(i, j),
                    _ => row[j].to_f64(),
                };
                return Some((i, j, value));
            }
        }
        None
    }

    /// Checks that all numbers are finite.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check_finite(&self, argument: &'static str, isa: Isa) -> Result<(), Error> {
        match self.first_not_finite(isa) {
            Some((row, column, value)) => Err(Error::NotFinite { argument, row, column, value }),
            None => Ok(()),
        }
    }
}

/// Bytes of a row that are prefetched before it is copied.
const ASKED: usize = 1024;

fn prefetch_lines<S>(row: &[S]) {
    let bytes = size_of_val(row).min(ASKED);
    (0..bytes).step_by(64).for_each(|at| prefetch(row.as_ptr().wrapping_byte_add(at)));
}

fn convert<S: Copy, T>(from: &[S], into: &mut [T], f: impl Fn(S) -> T) {
    for (into, x) in into.iter_mut().zip(from) {
        *into = f(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_kind_become_the_same_numbers() {
        // Integers up to 255 are exact in all of these types.
        let numbers: Vec<f64> = (0..2 * 131).map(|i| (i % 256) as f64).collect();
        let bytes: Vec<u8> = numbers.iter().map(|x| *x as u8).collect();
        let halves: Vec<f16> = numbers.iter().map(|x| f16::from_f64(*x)).collect();
        let singles: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
        let check = |samples: Samples<'_, f32>| {
            let mut row = vec![f32::NAN; 131];
            samples.copy_row(1, &mut row);
            assert_eq!(row, singles[131..], "{samples:?}");
            row.fill(f32::NAN);
            samples.part(1..2).copy_row(0, &mut row);
            assert_eq!(row, singles[131..], "{samples:?}");
            assert_eq!(samples.part(1..2).rows(), 1);
            assert_eq!((samples.rows(), samples.cols()), (2, 131));
            assert_eq!(samples.first_not_finite(Isa::Scalar), None);
        };
        check(MatRef::new(&singles, 2, 131).into());
        check(Samples::Bytes(MatRef::new(&bytes, 2, 131)));
        check(Samples::Half(MatRef::new(&halves, 2, 131)));
        check(Samples::Double(MatRef::new(&numbers, 2, 131)));
        let mut row = vec![f64::NAN; 131];
        Samples::<f64>::Single(MatRef::new(&singles, 2, 131)).copy_row(0, &mut row);
        assert_eq!(row, numbers[..131]);
    }

    #[test]
    fn the_first_of_many_that_is_not_finite_is_found() {
        let (rows, cols) = (3 * RUN / 7, 11);
        let mut numbers = vec![1.0f32; rows * cols];
        for isa in Isa::available() {
            assert_eq!(Samples::from(MatRef::new(&numbers, rows, cols)).first_not_finite(isa), None);
        }
        for (row, column) in [(rows - 1, 10), (rows / 2, 3), (5, 0)] {
            numbers[row * cols + column] = f32::INFINITY;
            let native = Samples::from(MatRef::new(&numbers, rows, cols));
            let single = Samples::<f64>::Single(MatRef::new(&numbers, rows, cols));
            let found = Some((row, column, f64::INFINITY));
            assert_eq!(native.first_not_finite(Isa::Scalar), found);
            assert_eq!(single.first_not_finite(Isa::Scalar), found);
        }
    }

    #[test]
    fn what_is_not_finite_or_too_large_is_found() {
        let numbers = [1.0, 2.0, 3.0, 1e300];
        let samples = Samples::<f32>::Double(MatRef::new(&numbers, 2, 2));
        assert_eq!(samples.first_not_finite(Isa::Scalar), Some((1, 1, 1e300)));
        let halves = [f16::NAN, f16::ONE];
        let samples = Samples::<f32>::Half(MatRef::new(&halves, 1, 2));
        assert_eq!(
            samples.check_finite("x", Isa::Scalar).unwrap_err().to_string().split(';').next(),
            Some("x[0, 0] is NaN")
        );
    }
}
