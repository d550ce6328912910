//! Matrices in borrowed memory: shape, strides, and a pointer that was checked once.

#![allow(unsafe_code)] // strided rows behind a pointer that was checked once

use std::marker::PhantomData;

use crate::element::Element;

/// A read-only matrix with any strides.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T> {
    ptr: *const T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    life: PhantomData<&'a T>,
}

/// A writable matrix whose rows are contiguous.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    ptr: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    life: PhantomData<&'a mut T>,
}

// SAFETY: except for its type, a MatRef is a shared reference to its elements, and a MatMut an exclusive one.
unsafe impl<T: Sync> Send for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

/// Number of elements from the first to the last of a matrix, inclusive; `None` if it overflows.
fn span(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?.checked_add(1)
}

/// Whether `count` elements starting at `from` are within `all` elements.
fn inside(from: usize, count: usize, all: usize) -> bool {
    from <= all && count <= all - from
}

impl<'a, T: Copy> MatRef<'a, T> {
    /// A row-major matrix over a whole slice.
    ///
    /// # Panics
    /// If the slice does not have exactly `rows · cols` elements.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a {rows} × {cols} matrix");
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with the given strides, in elements.
    ///
    /// # Panics
    /// If an element would lie outside the slice.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        let span = span(rows, cols, row_stride, col_stride);
        assert!(span.is_some_and(|span| span <= data.len()), "a {rows} × {cols} matrix");
        MatRef { ptr: data.as_ptr(), rows, cols, row_stride, col_stride, life: PhantomData }
    }

    /// A matrix at a raw address.
    ///
    /// # Safety
    /// All its elements must be readable, and must not be written, for `'a`.
    pub(crate) unsafe fn from_raw(ptr: *const T, rows: usize, cols: usize, row_stride: usize) -> Self {
        MatRef { ptr, rows, cols, row_stride, col_stride: 1, life: PhantomData }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }
    /// Elements from one column to the next.
    pub fn col_stride(&self) -> usize {
        self.col_stride
    }
    /// Address of element (0, 0).
    pub fn as_ptr(&self) -> *const T {
        self.ptr
    }

    /// The same elements with rows and columns exchanged.
    pub fn t(self) -> Self {
        MatRef {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `from .. from + rows`, columns `col .. col + cols`.
    ///
    /// # Panics
    /// If that is not inside the matrix.
    pub fn block(self, from: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(inside(from, rows, self.rows) && inside(col, cols, self.cols), "block outside of the matrix");
        let ptr = self.ptr.wrapping_add(from * self.row_stride + col * self.col_stride);
        MatRef { ptr, rows, cols, ..self }
    }

    /// Whether all elements lie row by row in memory, without gaps.
    pub fn is_dense(&self) -> bool {
        self.col_stride == 1 && (self.row_stride == self.cols || self.rows <= 1)
    }

    /// The same elements as a single row.
    ///
    /// # Panics
    /// If they do not lie that way in memory.
    pub fn joined(self) -> Self {
        assert!(self.is_dense());
        MatRef { rows: 1, cols: self.rows * self.cols, ..self }
    }

    /// All elements, row by row, if they lie that way in memory.
    pub fn as_slice(&self) -> Option<&'a [T]> {
        // SAFETY: whoever made the view promised that its elements are readable for 'a, and dense rows have
        // nothing between them.
        self.is_dense().then(|| unsafe { std::slice::from_raw_parts(self.ptr, self.rows * self.cols) })
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row or its elements are not contiguous.
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows && self.col_stride == 1);
        // SAFETY: i is checked above; whoever made the view promised that its elements are readable for 'a.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.row_stride), self.cols) }
    }

    /// The element in row `i`, column `j`.
    ///
    /// # Panics
    /// If there is none.
    pub fn at(&self, i: usize, j: usize) -> T {
        assert!(i < self.rows && j < self.cols);
        // SAFETY: i and j are checked above; whoever made the view promised that its elements are readable
        // for 'a.
        unsafe { *self.ptr.add(i * self.row_stride + j * self.col_stride) }
    }
}

impl<'a, T: Element> MatMut<'a, T> {
    /// A row-major matrix over a whole slice.
    ///
    /// # Panics
    /// If the slice does not have exactly `rows · cols` elements.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(cols), "a {rows} × {cols} matrix");
        MatMut { ptr: data.as_mut_ptr(), rows, cols, row_stride: cols, life: PhantomData }
    }

    /// A matrix whose rows start `row_stride` elements apart.
    ///
    /// # Panics
    /// If rows would overlap or an element would lie outside the slice.
    pub fn strided(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let span = span(rows, cols, row_stride, 1).filter(|_| row_stride >= cols);
        assert!(span.is_some_and(|span| span <= data.len()), "a {rows} × {cols} matrix");
        MatMut { ptr: data.as_mut_ptr(), rows, cols, row_stride, life: PhantomData }
    }

    /// A matrix at a raw address.
    ///
    /// # Safety
    /// All its elements must be readable and writable, and accessed through nothing else, for `'a`.
    pub(crate) unsafe fn from_raw(ptr: *mut T, rows: usize, cols: usize, row_stride: usize) -> Self {
        MatMut { ptr, rows, cols, row_stride, life: PhantomData }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }
    /// Address of element (0, 0).
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }

    /// The same matrix for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { ..*self }
    }

    /// The same elements, read-only.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef {
            ptr: self.ptr,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: 1,
            life: PhantomData,
        }
    }

    /// Rows `from .. from + rows`, columns `col .. col + cols`.
    ///
    /// # Panics
    /// If that is not inside the matrix.
    pub fn block(&mut self, from: usize, rows: usize, col: usize, cols: usize) -> MatMut<'_, T> {
        assert!(inside(from, rows, self.rows) && inside(col, cols, self.cols), "block outside of the matrix");
        let ptr = self.ptr.wrapping_add(from * self.row_stride + col);
        MatMut { ptr, rows, cols, ..*self }
    }

    /// Whether all elements lie row by row in memory, without gaps.
    pub fn is_dense(&self) -> bool {
        self.row_stride == self.cols || self.rows <= 1
    }

    /// The same elements as a single row.
    ///
    /// # Panics
    /// If there are gaps between rows.
    pub fn joined(&mut self) -> MatMut<'_, T> {
        assert!(self.is_dense());
        MatMut { rows: 1, cols: self.rows * self.cols, ..*self }
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: i is checked above; whoever made the view promised exclusive access for 'a, and self is
        // borrowed meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.row_stride), self.cols) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_a_transpose_is_the_transpose_of_a_block() {
        let data: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let m = MatRef::new(&data, 4, 5);
        let (a, b) = (m.t().block(1, 3, 2, 2), m.block(2, 2, 1, 3).t());
        for i in 0..3 {
            for j in 0..2 {
                assert_eq!(a.at(i, j), b.at(i, j));
                assert_eq!(a.at(i, j), data[(j + 2) * 5 + i + 1]);
            }
        }
    }

    #[test]
    fn only_rows_without_gaps_are_one_slice() {
        let mut data: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(MatRef::new(&data, 3, 4).block(1, 2, 0, 4).as_slice(), Some(&data[4..]));
        assert_eq!(MatRef::new(&data, 3, 4).block(0, 3, 0, 3).as_slice(), None);
        assert_eq!(MatRef::new(&data, 3, 4).t().as_slice(), None);
        assert_eq!(MatRef::new(&data, 3, 4).block(2, 1, 1, 2).as_slice(), Some(&data[9..11]));
        assert_eq!(MatRef::new(&data, 3, 4).block(1, 2, 0, 4).joined().row(0), &data[4..]);
        assert_eq!(MatMut::new(&mut data, 3, 4).block(1, 2, 0, 4).joined().row_mut(0).len(), 8);
        assert!(!MatMut::new(&mut data, 3, 4).block(0, 3, 0, 3).is_dense());
    }

    #[test]
    #[should_panic(expected = "a 3 × 4 matrix")]
    fn a_slice_that_is_too_short_is_refused() {
        MatRef::strided(&[0.0f32; 11], 3, 4, 4, 1);
    }

    #[test]
    #[should_panic(expected = "block outside")]
    fn a_block_that_sticks_out_is_refused() {
        let _ = MatRef::new(&[0.0f32; 6], 2, 3).block(1, 2, 0, 1);
    }

    #[test]
    #[should_panic(expected = "a 2 × 2 matrix")]
    fn strides_beyond_counting_are_refused() {
        MatRef::strided(&[0.0f32; 2], 2, 2, usize::MAX, 1);
    }

    #[test]
    #[should_panic(expected = "block outside")]
    fn a_block_from_beyond_counting_is_refused() {
        let _ = MatRef::new(&[0.0f32; 6], 2, 3).block(usize::MAX, 1, 0, 1);
    }
}
