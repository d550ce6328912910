//! Heads: groups of columns with a softmax each, one per task; and classes that do not take part.
//!
//! A label belongs to one head, which alone determines the row's loss; the gradient of all other columns is
//! 0. So one batch may hold rows of several tasks, without saying which.

use std::ops::Range;

use super::{Objective, Row};
use crate::element::Element;

impl<T: Element> Objective<T> {
    /// Whether the heads partition the outputs.
    pub(super) fn heads_fit(&self, outputs: usize) -> bool {
        let ends = &self.heads;
        ends.last().is_none_or(|last| *last == outputs && ends[0] > 0 && ends.is_sorted_by(|a, b| a < b))
    }

    /// The columns of all heads.
    pub(super) fn heads_of(&self, outputs: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let ends = self.heads.iter().copied().chain(self.heads.is_empty().then_some(outputs));
        ends.scan(0, |start, end| Some(std::mem::replace(start, end)..end))
    }

    /// Whether a class takes part.
    #[inline(always)]
    pub(super) fn competes(&self, class: usize) -> bool {
        self.constants.get(class).is_none_or(|weight| *weight >= T::ZERO)
    }

    /// The columns of a label's head, and the weights of its classes, if there are any.
    #[inline(always)]
    pub(super) fn head(&self, label: usize, outputs: usize) -> (Range<usize>, &[T]) {
        let columns = match &self.heads[..] {
            [] => 0..outputs,
            ends => {
                let index = ends.partition_point(|end| *end <= label);
                (if index == 0 { 0 } else { ends[index - 1] })..ends[index]
            }
        };
        let weights = self.constants.get(columns.clone()).unwrap_or_default();
        (columns, weights)
    }
}

impl<'a, T: Element> Row<'a, T> {
    /// The part of a row that belongs to a head; the rest of its gradient is 0.
    #[inline(always)]
    pub(super) fn within(self, head: &Range<usize>) -> Row<'a, T> {
        Row {
            output: &self.output[head.clone()],
            target: self.target.get(head.clone()).unwrap_or_default(),
            grad: self.grad.map(|grad| within(grad, head)),
            scale: self.scale,
        }
    }
}

/// The part of a row's gradient that belongs to a head; the rest ← 0.
#[inline(always)]
pub(super) fn within<'g, T: Element>(grad: &'g mut [T], head: &Range<usize>) -> &'g mut [T] {
    let (before, rest) = grad.split_at_mut(head.start);
    let (part, after) = rest.split_at_mut(head.len());
    before.fill(T::ZERO);
    after.fill(T::ZERO);
    part
}
