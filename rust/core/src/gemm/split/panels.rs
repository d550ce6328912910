//! Operands split into parts, in the order in which tiles are read.
//!
//! A left operand is m × k, a right one k × n; here both are seen as **lanes** (rows of A, columns of B) of k
//! numbers. Panels of [`LANES`] lanes come one after the other, each
//!
//! ```text
//! for each step of DEPTH of k; for each part; for each half of the lanes: a tile of 1 KB
//! ```
//!
//! A tile of A has a row per lane, a tile of B a row per pair of neighbours in k; both hold such pairs:
//! `A[i][p] = (a(i, 2p), a(i, 2p+1))`, `B[p][j] = (b(2p, j), b(2p+1, j))`. Beyond the last lane, and beyond
//! the end of k, they hold 0.

use super::{DEPTH, LANES};
use crate::element::Element;

/// Which operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The left one.
    A,
    /// The right one.
    B,
}

/// Four-byte elements that the panels of an operand take.
pub fn split_len(lanes: usize, k: usize, parts: usize) -> usize {
    lanes.next_multiple_of(LANES) * k.next_multiple_of(DEPTH) * parts / 2
}

/// An operand in panels.
#[derive(Clone, Copy, Debug)]
pub struct SplitPanels<'a, T> {
    data: &'a [T],
    lanes: usize,
    k: usize,
    parts: usize,
}

impl<'a, T: Element> SplitPanels<'a, T> {
    /// Views `data` as the panels of `lanes` lanes of k numbers.
    ///
    /// # Panics
    /// If there are not [`split_len`] elements.
    pub fn new(data: &'a [T], lanes: usize, k: usize, parts: usize) -> Self {
        assert_eq!(data.len(), split_len(lanes, k, parts));
        SplitPanels { data, lanes, k, parts }
    }

    /// The lanes `from .. from + lanes`.
    ///
    /// # Panics
    /// If `from` is not the start of a panel, or the lanes do not end with a panel.
    pub fn block(self, from: usize, lanes: usize) -> Self {
        assert!(from.is_multiple_of(LANES) && from + lanes <= self.lanes);
        assert!(lanes.is_multiple_of(LANES) || from + lanes == self.lanes);
        let at = |lanes| split_len(lanes, self.k, self.parts);
        SplitPanels { data: &self.data[at(from)..at(from + lanes)], lanes, ..self }
    }

    /// Number of lanes.
    pub fn lanes(&self) -> usize {
        self.lanes
    }
    /// Numbers of a lane.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Parts of a number.
    pub fn parts(&self) -> usize {
        self.parts
    }
    /// All elements.
    pub fn data(&self) -> &'a [T] {
        self.data
    }
}
