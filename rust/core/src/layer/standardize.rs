//! Scales columns to a common scale, y = (x − μ)/σ, or back, y = σ·x + μ, with given μ and σ that are not
//! trained. In a direction ẋ, ẏ = ẋ/σ, or σ·ẋ; backward is the same, since columns are independent.

use crate::element::Element;
use crate::error::Error;
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};
use crate::view::{MatMut, MatRef};

/// The layer as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardize {
    /// μ, a number for each column.
    pub mean: Vec<f64>,
    /// σ > 0, one for each column.
    pub std: Vec<f64>,
    /// Whether it is the inverse, from the common scale back.
    pub inverse: bool,
}

impl Standardize {
    /// Checks itself as layer `place`.
    ///
    /// # Errors
    /// If μ and σ differ in length, are not finite, or σ is not above 0.
    pub fn check(&self, place: &str) -> Result<(), Error> {
        let wrong = |name, value: String, accepted: &str| {
            Err(Error::argument(name, format!("{value} in layer {place} (Standardize)"), accepted))
        };
        if self.mean.is_empty() || self.mean.len() != self.std.len() {
            let value = format!("of length {}, and mean of length {},", self.std.len(), self.mean.len());
            return wrong("std", value, "both need one number for each column");
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return wrong("mean", mean.to_string(), "finite numbers are needed");
        }
        match self.std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            Some(std) => wrong("std", std.to_string(), "finite numbers > 0 are needed"),
            None => Ok(()),
        }
    }

    /// Checks that μ and σ are usable in a precision.
    ///
    /// # Errors
    /// If one becomes infinite, or a σ becomes 0 or so small that 1/σ is infinite.
    pub fn check_precision<T: Element>(&self) -> Result<(), Error> {
        let one = T::ONE;
        let fits = |x: &f64| T::lit(*x).is_finite() && (one / T::lit(*x)).is_finite();
        let wrong = |name, value: &f64| {
            Error::argument(
                name,
                format!("{value:e} in a Standardize layer"),
                format!(
                    "it, or its reciprocal, is not finite in {}: use other units, or float64",
                    T::DTYPE.name()
                ),
            )
        };
        match (self.mean.iter().find(|m| !T::lit(**m).is_finite()), self.std.iter().find(|s| !fits(s))) {
            (Some(mean), _) => Err(wrong("mean", mean)),
            (_, Some(std)) => Err(wrong("std", std)),
            _ => Ok(()),
        }
    }
}

/// μ and σ in the precision of the network.
#[derive(Clone, Copy)]
pub struct Scales<'a, T> {
    mean: &'a [T],
    std: &'a [T],
    inverse: bool,
}

impl<'a, T: Element> Scales<'a, T> {
    /// Those of a layer, given where they start in the arena of averages.
    pub fn of(layer: &Standardize, [mean, std]: [usize; 2], averages: &'a [T]) -> Self {
        let n = layer.mean.len();
        Scales { mean: &averages[mean..mean + n], std: &averages[std..std + n], inverse: layer.inverse }
    }

    /// y for rows x.
    pub fn forward(self, isa: Isa, x: MatRef<'_, T>, y: MatMut<'_, T>) {
        dispatch(isa, Forward(self, x, y));
    }

    /// ẏ for rows ẋ, or dx for rows dy, which are the same; added to what is there, or replacing it.
    pub fn slope(self, isa: Isa, x_dot: MatRef<'_, T>, y_dot: MatMut<'_, T>, adds: bool) {
        dispatch(isa, Slope(self, x_dot, y_dot, adds));
    }
}

struct Forward<'r, T>(Scales<'r, T>, MatRef<'r, T>, MatMut<'r, T>);

impl<T: Element> Op<T> for Forward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self(Scales { mean, std, inverse }, x, mut y) = self;
        for r in 0..x.rows() {
            zip_map(
                s,
                [y.row_mut(r)],
                [x.row(r), mean, std],
                #[inline(always)]
                |_, [x, mean, std]| [if inverse { s.fma(x, std, mean) } else { s.div(s.sub(x, mean), std) }],
            );
        }
    }
}

struct Slope<'r, T>(Scales<'r, T>, MatRef<'r, T>, MatMut<'r, T>, bool);

impl<T: Element> Op<T> for Slope<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self(Scales { std, inverse, .. }, x, mut y, adds) = self;
        for r in 0..x.rows() {
            zip_map(
                s,
                [y.row_mut(r)],
                [x.row(r), std],
                #[inline(always)]
                |[y], [x, std]| {
                    let x = if inverse { s.mul(x, std) } else { s.div(x, std) };
                    [if adds { s.add(y, x) } else { x }]
                },
            );
        }
    }
}
