//! Flat buffers: where parameters, gradients, optimizer state and workspaces live.

#![allow(unsafe_code)] // allocates, and lends disjoint parts to threads

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use crate::element::Element;
use crate::error::Error;
use crate::pages;
use crate::view::{MatMut, MatRef};

/// Alignment of the blocks of an arena, in bytes: a cache line, and the widest vector.
pub const ALIGN: usize = 64;

/// The smallest number of elements of `T`, at least `len`, that fills whole cache lines.
pub const fn padded<T>(len: usize) -> usize {
    len.next_multiple_of(ALIGN / size_of::<T>())
}

/// A flat, zeroed buffer that starts on a cache line. It never grows.
pub struct Buffer<T> {
    ptr: NonNull<T>,
    len: usize,
}

// SAFETY: a Buffer owns its elements exclusively, as a Vec does, so it may be sent if they may.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: a `&Buffer` gives only shared access to the elements, which are `Sync`.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Element> Buffer<T> {
    /// Allocates `len` zeros for `what` (used in the error's text).
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn zeroed(what: &'static str, len: usize) -> Result<Self, Error> {
        if len == 0 {
            return Ok(Self::empty());
        }
        let failed = Error::Memory { what, elements: len };
        let Some(layout) = Self::layout(len) else { return Err(failed) };
        let ptr = match pages::wanted(layout.size()) {
            true => pages::map(layout.size()),
            // SAFETY: the layout has a size above 0.
            false => unsafe { alloc_zeroed(layout) },
        };
        // All-zero bytes are a valid f32 and f64, the only Elements.
        NonNull::new(ptr.cast::<T>()).map(|ptr| Buffer { ptr, len }).ok_or(failed)
    }

    /// A buffer without elements.
    pub fn empty() -> Self {
        Buffer { ptr: NonNull::dangling(), len: 0 }
    }

    /// Lends the buffer to the threads of a region; see [`Shared`].
    pub fn share(&mut self) -> Shared<'_, T> {
        Shared { ptr: self.ptr.as_ptr(), len: self.len, life: PhantomData }
    }
}

impl<T> Buffer<T> {
    fn layout(len: usize) -> Option<Layout> {
        Layout::array::<T>(len).ok()?.align_to(ALIGN).ok()
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|_| self.len > 0) {
            let ptr = self.ptr.as_ptr().cast::<u8>();
            match pages::wanted(layout.size()) {
                // SAFETY: `zeroed` mapped this memory with this size, and nobody can use it any more; f32 and
                // f64 need no drop.
                true => unsafe { pages::unmap(ptr, layout.size()) },
                // SAFETY: `zeroed` allocated this memory with this layout, and nobody can use it any more.
                false => unsafe { dealloc(ptr, layout) },
            }
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `ptr` points to `len` elements, which `zeroed` allocated and initialized (or is dangling,
        // with `len` 0).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

/// Allocates `len` default values for `what` (used in the error's text).
///
/// # Errors
/// If there is not enough memory.
pub fn zeros<T: Clone + Default>(what: &'static str, len: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::Memory { what, elements: len })?;
    values.resize(len, T::default());
    Ok(values)
}

/// Makes sure that a vector, for `what` (used in the error's text), can hold `len` values.
///
/// # Errors
/// If there is not enough memory.
pub fn reserve<T>(what: &'static str, values: &mut Vec<T>, len: usize) -> Result<(), Error> {
    let more = len.saturating_sub(values.len());
    values.try_reserve_exact(more).map_err(|_| Error::Memory { what, elements: len })
}

/// Makes sure that there is memory for `len` values of `what` (used in the error's text), which many small
/// vectors will take: an error while there still is memory for everything else, instead of at the last of it.
///
/// # Errors
/// If there is not enough memory.
pub fn check_fits<T>(what: &'static str, len: usize) -> Result<(), Error> {
    reserve(what, &mut Vec::<T>::new(), len)
}

/// Allocates a copy of `from` for `what` (used in the error's text).
///
/// # Errors
/// If there is not enough memory.
pub fn copied<T: Copy>(what: &'static str, from: &[T]) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    values.try_reserve_exact(from.len()).map_err(|_| Error::Memory { what, elements: from.len() })?;
    values.extend_from_slice(from);
    Ok(values)
}

/// The same for the elements of a matrix, row by row.
///
/// # Errors
/// If there is not enough memory.
pub fn copied_rows<T: Copy>(what: &'static str, from: MatRef<'_, T>) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    reserve(what, &mut values, from.rows() * from.cols())?;
    (0..from.rows()).for_each(|i| values.extend_from_slice(from.row(i)));
    Ok(values)
}

/// A buffer lent to the threads of one region, which work on disjoint parts of it.
///
/// The borrow checker cannot see that the items of a phase write disjoint tiles: the plan arranges it, and
/// callers of the unsafe methods here promise it. Bounds are always checked.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut T>,
}

// SAFETY: elements are accessed only through unsafe methods or raw pointers, whose users promise that there
// are no races.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as for `Send`; several threads may read the same element, so `T` must be `Sync` too.
unsafe impl<T: Send + Sync> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Lends a slice; see [`Buffer::share`].
    pub fn new(slice: &'a mut [T]) -> Self {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements to read.
    ///
    /// # Safety
    /// No thread may write these elements while the slice is in use.
    pub unsafe fn slice(&self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        self.lent(range.start, (1, range.len(), 0), false);
        // SAFETY: the range is inside the buffer, as checked above; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.ptr.add(range.start), range.len()) }
    }

    /// Elements to write.
    ///
    /// # Safety
    /// Nothing else may read or write these elements while the slice is in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        self.lent(range.start, (1, range.len(), 0), true);
        // SAFETY: the range is inside the buffer, as checked above; the caller excludes all other use.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }

    /// Tells the witness, in tests, about rows of elements that are lent.
    #[inline(always)]
    fn lent(&self, start: usize, rows: (usize, usize, usize), write: bool) {
        #[cfg(test)]
        crate::threads::witness::touch(self.ptr.wrapping_add(start), rows, write);
        #[cfg(not(test))]
        let _ = (start, rows, write);
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pointer to the start of `range`, for callers that write the given `runs`, counted from there.
    pub fn ptr(&self, range: Range<usize>, runs: impl IntoIterator<Item = Range<usize>>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len);
        for run in runs {
            assert!(run.end <= range.len());
            self.lent(range.start + run.start, (1, run.len(), 0), true);
        }
        self.ptr.wrapping_add(range.start)
    }

    /// [`slice_mut`](Self::slice_mut), or an empty slice if the buffer is empty.
    ///
    /// # Safety
    /// As for [`slice_mut`](Self::slice_mut).
    pub unsafe fn slice_mut_or_empty(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: the caller makes the promise that `slice_mut` asks for.
        unsafe { self.slice_mut(if self.len == 0 { 0..0 } else { range }) }
    }
}

impl<'a, T: Element> Shared<'a, T> {
    /// A matrix to read, its rows contiguous.
    ///
    /// # Safety
    /// No thread may write the elements of the matrix while it is in use.
    pub unsafe fn mat(&self, start: usize, rows: usize, cols: usize, row_stride: usize) -> MatRef<'a, T> {
        self.check(start, rows, cols, row_stride);
        self.lent(start, (rows, cols, row_stride), false);
        // SAFETY: the matrix is inside the buffer, as checked above; the caller excludes writers.
        unsafe { MatRef::from_raw(self.ptr.add(start), rows, cols, row_stride) }
    }

    /// A matrix to write, its rows contiguous.
    ///
    /// # Safety
    /// Nothing else may read or write the elements of the matrix while it is in use.
    pub unsafe fn mat_mut(&self, start: usize, rows: usize, cols: usize, row_stride: usize) -> MatMut<'a, T> {
        self.check(start, rows, cols, row_stride);
        self.lent(start, (rows, cols, row_stride), true);
        // SAFETY: the matrix is inside the buffer, as checked above; the caller excludes all other use.
        unsafe { MatMut::from_raw(self.ptr.add(start), rows, cols, row_stride) }
    }

    fn check(&self, start: usize, rows: usize, cols: usize, row_stride: usize) {
        assert!(cols <= row_stride || rows <= 1);
        let span = rows.saturating_sub(1).checked_mul(row_stride).and_then(|end| end.checked_add(cols));
        assert!(start <= self.len && span.is_some_and(|span| span <= self.len - start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_start_on_a_cache_line() {
        for len in [0, 1, 7, 1000, 1 << 17, 200_000, 300_000, 1 << 20] {
            let mut b = Buffer::<f64>::zeroed("a test", len).unwrap();
            assert_eq!(b.len(), len);
            assert!(len == 0 || (b.as_ptr() as usize).is_multiple_of(ALIGN));
            assert!(b.iter().all(|x| *x == 0.0));
            // All elements can be written.
            b.fill(1.0);
        }
        assert_eq!((padded::<f32>(1), padded::<f32>(16), padded::<f64>(9)), (16, 16, 16));
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 55] {
            assert!(Buffer::<f64>::zeroed("a test", len).is_err());
        }
    }

    #[test]
    #[should_panic]
    fn a_share_checks_bounds() {
        let mut b = Buffer::<f32>::zeroed("a test", 10).unwrap();
        // SAFETY: panics before a reference is made.
        unsafe { b.share().mat(1, 2, 5, 5) };
    }
}
