//! Copies parameters between the arena, in the layout that kernels need, and the order that users see.

use super::{Block, Network};
use crate::element::Element;
use crate::gemm::pack::{PANEL, offset, transpose};
use crate::simd::Isa;
use crate::view::MatRef;

impl Block {
    /// Copies the block from its layout in the arena into public order: a weight as (out, in).
    ///
    /// # Panics
    /// If a length differs from the block's.
    pub fn export<T: Element>(&self, isa: Isa, inner: &[T], public: &mut [T]) {
        assert!(inner.len() == self.len() && public.len() == self.len());
        match self.shape[..] {
            [_, inputs] if inputs > 0 => {
                let panels = inner.chunks(PANEL * inputs).zip(public.chunks_mut(PANEL * inputs));
                for (panel, public) in panels {
                    transpose(isa, MatRef::new(panel, inputs, panel.len() / inputs), public);
                }
            }
            _ => public.copy_from_slice(inner),
        }
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If a length differs from the block's.
    pub fn import<T: Element>(&self, isa: Isa, public: &[T], inner: &mut [T]) {
        assert!(inner.len() == self.len() && public.len() == self.len());
        match self.shape[..] {
            [_, inputs] if inputs > 0 => {
                let panels = inner.chunks_mut(PANEL * inputs).zip(public.chunks(PANEL * inputs));
                for (panel, public) in panels {
                    transpose(isa, MatRef::new(public, public.len() / inputs, inputs), panel);
                }
            }
            _ => inner.copy_from_slice(public),
        }
    }
}

impl Network {
    /// Copies an arena into public order: blocks one after the other, weights as (out, in).
    ///
    /// # Panics
    /// If the lengths do not match this network.
    pub fn export<T: Element>(&self, isa: Isa, arena: &[T], flat: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in self.blocks() {
            let (public, after) = rest.split_at_mut(block.len());
            rest = after;
            block.export(isa, &arena[block.offset..block.offset + block.len()], public);
        }
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If the lengths do not match this network.
    pub fn import<T: Element>(&self, isa: Isa, flat: &[T], arena: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in self.blocks() {
            let (public, after) = rest.split_at(block.len());
            rest = after;
            block.import(isa, public, &mut arena[block.offset..block.offset + block.len()]);
        }
    }

    /// Calls `f(public index, arena index)` for every parameter, for callers that access single ones.
    pub fn translate(&self, mut f: impl FnMut(usize, usize)) {
        let mut public = 0;
        for block in self.blocks() {
            let (outputs, inputs) = match block.shape[..] {
                [outputs, inputs] => (outputs, inputs),
                _ => (block.len(), 1),
            };
            for o in 0..outputs {
                for i in 0..inputs {
                    f(public, block.offset + offset(inputs, outputs, i, o));
                    public += 1;
                }
            }
        }
    }
}
