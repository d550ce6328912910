//! Rows of a table: numbers, and integer category codes, each of which stands for a learned vector (Guo &
//! Berkhahn 2016, "Entity embeddings of categorical variables"). The output has the columns of numbers first,
//! then the vectors. The gradient of a vector is the sum over the rows with its code.
//!
//! A number may be encoded piecewise linearly (Gorishniy, Rubachev & Babenko 2022, "On embeddings for
//! numerical features in tabular deep learning"): with edges b₀ < … < b_T it becomes T numbers y_t = (x −
//! b_{t−1}) / (b_t − b_{t−1}), bounded by 0 below except for the first, and by 1 above except for the last.
//! At an edge, dx is that of the piece above.

use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::offset;

/// The layer as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct TabularInput {
    /// Width of the input.
    pub inputs: usize,
    /// The columns of codes, in their order.
    pub categories: Vec<Category>,
    /// The columns of numbers that are encoded in pieces, in their order.
    pub pieces: Vec<Pieces>,
}

/// A column of numbers whose range is divided into pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Pieces {
    /// Which column of the input.
    pub column: usize,
    /// Ends of the pieces, in increasing order.
    pub edges: Vec<f64>,
}

impl Pieces {
    /// Number of pieces.
    pub fn count(&self) -> usize {
        self.edges.len() - 1
    }

    /// Calls `f(piece, its value, its slope)` for a number.
    #[inline(always)]
    fn each<T: Element>(&self, x: T, mut f: impl FnMut(usize, T, T)) {
        let last = self.count() - 1;
        for (piece, ends) in self.edges.windows(2).enumerate() {
            let [from, to] = [ends[0], ends[1]].map(T::lit);
            let width = to - from;
            match () {
                () if piece > 0 && x < from => f(piece, T::ZERO, T::ZERO),
                () if piece < last && x >= to => f(piece, T::ONE, T::ZERO),
                () => f(piece, (x - from) / width, T::ONE / width),
            }
        }
    }

    /// y from x.
    pub fn forward<T: Element>(&self, x: T, y: &mut [T]) {
        self.each(x, |piece, value, _| y[piece] = value);
    }

    /// ẏ from x and ẋ.
    pub fn tangent<T: Element>(&self, x: T, x_dot: T, y_dot: &mut [T]) {
        self.each(x, |piece, _, slope| y_dot[piece] = slope * x_dot);
    }

    /// dx from x and dy.
    pub fn backward<T: Element>(&self, x: T, dy: &[T]) -> T {
        let mut dx = T::ZERO;
        self.each(x, |piece, _, slope| dx += slope * dy[piece]);
        dx
    }
}

/// A column of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// Which column of the input.
    pub column: usize,
    /// Number of codes, which start at 0.
    pub codes: usize,
    /// Length of a vector.
    pub dim: usize,
}

impl Category {
    /// Where the j-th number of a code's vector lies in the table, which is stored like a weight.
    #[inline(always)]
    pub fn place(&self, code: usize, j: usize) -> usize {
        offset(self.dim, self.codes, j, code)
    }

    /// The code that a number represents, if any.
    #[inline(always)]
    pub fn code(&self, x: f64) -> Option<usize> {
        let code = x as usize; // NaN and negative numbers become 0
        (code as f64 == x && code < self.codes).then_some(code)
    }
}

impl TabularInput {
    /// Columns of the output that come from numbers.
    pub fn numbers(&self) -> usize {
        let spread = self.pieces.iter().map(|p| p.count() - 1).sum::<usize>();
        self.inputs - self.categories.len() + spread
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.numbers() + self.categories.iter().map(|c| c.dim).sum::<usize>()
    }

    /// Checks its own parameters.
    ///
    /// # Errors
    /// If something is wrong; the error says what.
    pub fn check(&self) -> Result<(), Error> {
        let ordered = self.categories.is_sorted_by(|a, b| a.column < b.column);
        let inside = self.categories.iter().all(|c| c.column < self.inputs && c.codes > 0 && c.dim > 0);
        if !(ordered && inside) {
            return Err(Error::argument(
                "categories",
                format!("{:?}", self.categories),
                format!(
                    "columns must ascend and be below {}, each with at least one code and a length >= 1",
                    self.inputs
                ),
            ));
        }
        let ordered = self.pieces.is_sorted_by(|a, b| a.column < b.column);
        let free =
            |p: &Pieces| p.column < self.inputs && self.categories.iter().all(|c| c.column != p.column);
        let rising = |p: &Pieces| {
            p.edges.len() > 1 && p.edges.iter().all(|e| e.is_finite()) && p.edges.is_sorted_by(|a, b| a < b)
        };
        if ordered && self.pieces.iter().all(|p| free(p) && rising(p)) {
            return Ok(());
        }
        Err(Error::argument(
            "pieces",
            format!("{:?}", self.pieces),
            format!(
                "columns must be numeric, ascend and be below {}, each with at least 2 finite, increasing edges",
                self.inputs
            ),
        ))
    }

    /// Checks that edges and codes remain distinct in a precision.
    ///
    /// # Errors
    /// If two edges, or two codes, become the same number.
    pub fn check_precision<T: Element>(&self) -> Result<(), Error> {
        let name = T::DTYPE.name();
        let apart = |p: &Pieces| {
            let edges: Vec<T> = p.edges.iter().map(|e| T::lit(*e)).collect();
            edges.iter().all(|e| e.is_finite()) && edges.is_sorted_by(|a, b| a < b)
        };
        if let Some(pieces) = self.pieces.iter().find(|p| !apart(p)) {
            return Err(Error::argument(
                "pieces",
                format!("{:?} for column {}", pieces.edges, pieces.column),
                format!("they must be finite and increase in {name}: scale the column, or use float64"),
            ));
        }
        let most = 2.0 / T::EPSILON;
        if let Some(category) = self.categories.iter().find(|c| c.codes as f64 > most) {
            return Err(Error::argument(
                "categories",
                format!("{} codes for column {}", category.codes, category.column),
                format!("{name} can represent only {most} of them exactly: use float64"),
            ));
        }
        Ok(())
    }

    /// Calls `f(column of the input, its pieces if it has some, first column of the output)` for the columns of
    /// numbers.
    #[inline(always)]
    pub fn each_number(&self, mut f: impl FnMut(usize, Option<&Pieces>, usize)) {
        let mut coded = self.categories.iter().map(|c| c.column).peekable();
        let mut cut = self.pieces.iter().peekable();
        let mut to = 0;
        for column in 0..self.inputs {
            if coded.next_if_eq(&column).is_none() {
                let pieces = cut.next_if(|p| p.column == column);
                f(column, pieces, to);
                to += pieces.map_or(1, Pieces::count);
            }
        }
    }

    /// Calls `f(k, category, first column of the output)` for each category.
    #[inline(always)]
    pub fn each_category(&self, mut f: impl FnMut(usize, &Category, usize)) {
        let mut to = self.numbers();
        for (k, category) in self.categories.iter().enumerate() {
            f(k, category, to);
            to += category.dim;
        }
    }

    /// The part of ẏ that comes from the numbers of one row; 0 without ẋ.
    pub fn tangent<T: Element>(&self, x: &[T], x_dot: Option<&[T]>, y_dot: &mut [T]) {
        self.each_number(|from, pieces, to| {
            let dot = x_dot.map_or(T::ZERO, |dot| dot[from]);
            match pieces {
                Some(pieces) => pieces.tangent(x[from], dot, &mut y_dot[to..to + pieces.count()]),
                None => y_dot[to] = dot,
            }
        });
    }

    /// dx ← dx + its gradient, for one row. Codes have none.
    pub fn backward<T: Element>(&self, x: &[T], dy: &[T], dx: &mut [T]) {
        self.each_number(|from, pieces, to| {
            dx[from] += match pieces {
                Some(pieces) => pieces.backward(x[from], &dy[to..to + pieces.count()]),
                None => dy[to],
            };
        });
    }

    /// y for one row; `table` returns the k-th table.
    pub fn forward<'t, T: Element>(&self, x: &[T], y: &mut [T], table: impl Fn(usize) -> &'t [T]) {
        self.each_number(|from, pieces, to| match pieces {
            Some(pieces) => pieces.forward(x[from], &mut y[to..to + pieces.count()]),
            None => y[to] = x[from],
        });
        self.each_category(|k, category, to| {
            // Codes were checked earlier; a code that has been changed since belongs to no vector.
            let code = category.code(x[category.column].to_f64());
            for (j, y) in y[to..to + category.dim].iter_mut().enumerate() {
                *y = code.map_or(T::lit(f64::NAN), |code| table(k)[category.place(code, j)]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_whole_numbers_in_range() {
        let category = Category { column: 0, codes: 3, dim: 1 };
        for (x, code) in [(0.0, Some(0)), (2.0, Some(2)), (-0.0, Some(0))] {
            assert_eq!(category.code(x), code);
        }
        for x in [3.0, -1.0, 0.5, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(category.code(x), None, "{x}");
        }
    }

    #[test]
    fn numbers_come_first_and_then_vectors() {
        let categories = [(1, 2, 3), (2, 4, 1)].map(|(column, codes, dim)| Category { column, codes, dim });
        let layer = TabularInput { inputs: 4, categories: categories.to_vec(), pieces: vec![] };
        assert_eq!((layer.numbers(), layer.outputs()), (2, 6));
        let tables = categories.map(|c| {
            let mut table = vec![0.0; c.codes * c.dim];
            for (code, j) in (0..c.codes).flat_map(|code| (0..c.dim).map(move |j| (code, j))) {
                table[c.place(code, j)] = (100 * c.column + 10 * code + j) as f64;
            }
            table
        });
        let mut y = [0.0; 6];
        layer.forward(&[0.5, 1.0, 3.0, -0.5], &mut y, |k| &tables[k]);
        assert_eq!(y, [0.5, -0.5, 110.0, 111.0, 112.0, 230.0]);
        assert!(layer.check().is_ok());
        let unordered = TabularInput { categories: vec![categories[1], categories[0]], ..layer };
        assert!(unordered.check().is_err());
    }

    #[test]
    fn edges_and_codes_must_be_apart_in_the_precision() {
        let of = |edges: &[f64], codes| TabularInput {
            inputs: 2,
            categories: vec![Category { column: 0, codes, dim: 1 }],
            pieces: vec![Pieces { column: 1, edges: edges.to_vec() }],
        };
        for (layer, single, double) in [
            (of(&[0.0, 1.0], 1 << 24), true, true),
            (of(&[1.7e9, 1.7e9 + 10.0, 1.7e9 + 20.0], 3), false, true),
            (of(&[0.0, 1e300], 3), false, true),
            (of(&[0.0, 1.0], (1 << 24) + 1), false, true),
        ] {
            assert!(layer.check().is_ok());
            assert_eq!(layer.check_precision::<f32>().is_ok(), single, "{layer:?}");
            assert_eq!(layer.check_precision::<f64>().is_ok(), double, "{layer:?}");
        }
    }

    #[test]
    fn a_number_fills_the_pieces_below_it() {
        let pieces = Pieces { column: 1, edges: vec![-1.0, 0.0, 2.0, 3.0] };
        let layer = TabularInput { inputs: 2, categories: vec![], pieces: vec![pieces] };
        assert_eq!((layer.numbers(), layer.outputs()), (4, 4));
        for (x, expected, slope) in [
            (-3.0, [-2.0, 0.0, 0.0], [1.0, 0.0, 0.0]), // the first piece extends downwards
            (-0.5, [0.5, 0.0, 0.0], [1.0, 0.0, 0.0]),
            (0.0, [1.0, 0.0, 0.0], [0.0, 0.5, 0.0]),
            (1.5, [1.0, 0.75, 0.0], [0.0, 0.5, 0.0]),
            (5.0, [1.0, 1.0, 3.0], [0.0, 0.0, 1.0]), // and the last one upwards
        ] {
            let mut y = [f64::NAN; 4];
            layer.forward(&[7.0, x], &mut y, |_| &[]);
            assert_eq!(y, [7.0, expected[0], expected[1], expected[2]], "{x}");
            let mut dot = [f64::NAN; 4];
            layer.tangent(&[7.0, x], Some(&[0.0, 2.0]), &mut dot);
            assert_eq!(dot, [0.0, 2.0 * slope[0], 2.0 * slope[1], 2.0 * slope[2]], "{x}");
            let mut dx = [1.0; 2];
            layer.backward(&[7.0, x], &[4.0, 1.0, 10.0, 100.0], &mut dx);
            assert_eq!(dx, [5.0, 1.0 + slope[0] + 10.0 * slope[1] + 100.0 * slope[2]], "{x}");
        }
        let wrong = |edges: &[f64]| TabularInput {
            pieces: vec![Pieces { column: 1, edges: edges.to_vec() }],
            ..layer.clone()
        };
        assert!(layer.check().is_ok());
        for edges in [&[1.0][..], &[1.0, 1.0], &[0.0, f64::NAN], &[0.0, f64::INFINITY]] {
            assert!(wrong(edges).check().is_err(), "{edges:?}");
        }
    }
}
