//! Arrays that are read where they lie: the binding's only `unsafe`.
//!
//! The `numpy` crate's safe borrows are entered in a table, so that a Rust extension which reads an array notices
//! another that writes to it. No function of ours writes to an array that it is given, so the table would never
//! object; and each entry takes 0.05 us, when a step of a small network takes 8 and an inference 1. Python code and C extensions
//! may write to an array meanwhile with or without it, as they may with any library that releases the GIL.

#![allow(unsafe_code)]

use numpy::ndarray::Dimension;
use numpy::{Element, Ix1, Ix2, IxDyn, PyArray, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// An aligned array whose elements lie one after the other, in the order of C. While it is borrowed, it stays
/// where it is.
pub struct Borrowed<'py, E, D>(Bound<'py, PyArray<E, D>>);

/// A borrowed vector.
pub type Vector<'py, E> = Borrowed<'py, E, Ix1>;
/// A borrowed matrix.
pub type Plane<'py, E> = Borrowed<'py, E, Ix2>;
/// A borrowed array of any dimension.
pub type AnyShape<'py, E> = Borrowed<'py, E, IxDyn>;

impl<'py, E: Element, D: Dimension> Borrowed<'py, E, D> {
    /// Borrows an array, if it has this type and its elements lie so.
    pub fn new(array: &Bound<'py, PyAny>) -> Option<Self> {
        let array = array.cast::<PyArray<E, D>>().ok()?;
        (array.is_c_contiguous() && (array.is_aligned() || array.len() == 0)).then(|| Borrowed(array.clone()))
    }

    /// Its lengths.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Its elements.
    pub fn as_slice(&self) -> &[E] {
        // SAFETY: we hold a reference to the array, and nothing in this extension writes to arrays that it is
        // given.
        unsafe { self.0.as_slice() }.expect("checked when it was borrowed")
    }
}
