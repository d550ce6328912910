//! Rows of a table: numbers, and integer codes of categories, each of which stands for a learned vector
//! (Guo & Berkhahn 2016, "Entity embeddings of categorical variables"). The output has the columns of numbers
//! first, as they are, then the vectors. The gradient of a vector is the sum over the rows with its code.

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
}

/// A column of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    /// Which column of the input.
    pub column: usize,
    /// How many codes there are: from 0 on.
    pub codes: usize,
    /// Numbers of a vector.
    pub dim: usize,
}

impl Category {
    /// Where the j-th number of a code's vector lies in the table, which is stored as a weight is.
    #[inline(always)]
    pub fn place(&self, code: usize, j: usize) -> usize {
        offset(self.dim, self.codes, j, code)
    }

    /// The code that a number is, if it is one.
    #[inline(always)]
    pub fn code(&self, x: f64) -> Option<usize> {
        let code = x as usize; // NaN becomes 0, what is negative too
        (code as f64 == x && code < self.codes).then_some(code)
    }
}

impl TabularInput {
    /// Columns of numbers.
    pub fn numbers(&self) -> usize {
        self.inputs - self.categories.len()
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.numbers() + self.categories.iter().map(|c| c.dim).sum::<usize>()
    }

    /// Checks itself.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let ordered = self.categories.is_sorted_by(|a, b| a.column < b.column);
        let inside = self.categories.iter().all(|c| c.column < self.inputs && c.codes > 0 && c.dim > 0);
        if ordered && inside {
            return Ok(());
        }
        Err(Error::Argument {
            name: "categories",
            value: format!("{:?}", self.categories),
            accepted: format!("columns below {} in their order, with codes and numbers", self.inputs),
        })
    }

    /// Calls `f(column of the input, column of the output)` for the columns of numbers.
    #[inline(always)]
    pub fn each_number(&self, mut f: impl FnMut(usize, usize)) {
        let mut coded = self.categories.iter().map(|c| c.column).peekable();
        let mut to = 0;
        for column in 0..self.inputs {
            if coded.next_if_eq(&column).is_none() {
                f(column, to);
                to += 1;
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

    /// y of one row; `table` gives the k-th table.
    pub fn forward<'t, T: Element>(&self, x: &[T], y: &mut [T], table: impl Fn(usize) -> &'t [T]) {
        self.each_number(|from, to| y[to] = x[from]);
        self.each_category(|k, category, to| {
            // Codes were checked; a row that was changed since is nobody's.
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
        let layer = TabularInput { inputs: 4, categories: categories.to_vec() };
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
        let unordered = TabularInput { inputs: 4, categories: vec![categories[1], categories[0]] };
        assert!(unordered.check().is_err());
    }
}
