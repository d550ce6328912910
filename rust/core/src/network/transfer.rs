//! Parameters between the arena, where kernels want them, and the order that users see.

use super::{Block, Network};
use crate::element::Element;
use crate::gemm::pack::{PANEL, offset, transpose};
use crate::simd::Isa;
use crate::view::MatRef;

impl Block {
    /// Calls `f(public index, index behind its start in the arena)` for every element.
    pub fn translate(&self, mut f: impl FnMut(usize, usize)) {
        let (outputs, inputs) = match self.shape[..] {
            [outputs, inputs] => (outputs, inputs),
            _ => (self.len(), 1),
        };
        let mut public = 0;
        for o in 0..outputs {
            for i in 0..inputs {
                f(public, offset(inputs, outputs, i, o));
                public += 1;
            }
        }
    }
}

impl Network {
    /// Copies an arena into public order: blocks one after the other, weights as (out, in).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn export<T: Element>(&self, arena: &[T], flat: &mut [T]) {
        self.translate(flat.len(), |public, inner| flat[public] = arena[inner]);
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn import<T: Element>(&self, flat: &[T], arena: &mut [T]) {
        self.translate(flat.len(), |public, inner| arena[inner] = flat[public]);
    }

    /// [`export`](Self::export) and [`import`](Self::import) with the vectors of an ISA, for those who do it often.
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn export_on<T: Element>(&self, isa: Isa, arena: &[T], flat: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in &self.blocks {
            let (public, after) = rest.split_at_mut(block.len());
            rest = after;
            let inner = &arena[block.offset..block.offset + block.len()];
            match block.shape[..] {
                [_, inputs] if inputs > 0 => {
                    let panels = inner.chunks(PANEL * inputs).zip(public.chunks_mut(PANEL * inputs));
                    for (panel, public) in panels {
                        transpose(isa, MatRef::new(panel, inputs, panel.len() / inputs), public);
                    }
                }
                _ => public.copy_from_slice(inner),
            }
        }
    }

    /// See [`export_on`](Self::export_on).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn import_on<T: Element>(&self, isa: Isa, flat: &[T], arena: &mut [T]) {
        assert_eq!(flat.len(), self.num_parameters());
        let mut rest = flat;
        for block in &self.blocks {
            let (public, after) = rest.split_at(block.len());
            rest = after;
            let inner = &mut arena[block.offset..block.offset + block.len()];
            match block.shape[..] {
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

    /// Calls `f(public index, arena index)` for every parameter.
    pub fn translate(&self, len: usize, mut f: impl FnMut(usize, usize)) {
        assert_eq!(len, self.num_parameters());
        let mut public = 0;
        for block in &self.blocks {
            block.translate(|at, inner| f(public + at, block.offset + inner));
            public += block.len();
        }
    }
}
