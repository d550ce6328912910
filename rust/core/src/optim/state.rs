//! Arrays of state and the blocks that their elements belong to.

use super::{Config, Extent, Slot};
use crate::element::Element;
use crate::network::{Block, Network};

impl Config {
    /// How many elements an array of state has for a block of parameters.
    pub(super) fn share(&self, slot: &Slot, block: &Block) -> usize {
        match (slot.extent, self.factors(&block.shape)) {
            (Extent::Arena, _) | (Extent::Rest, false) => block.len(),
            (Extent::Outputs, true) => block.shape[0],
            (Extent::Inputs, true) => block.shape[1],
            (Extent::Squares, _) => self.squares(&block.shape),
            _ => 0,
        }
    }

    /// How many elements an array of state has in memory.
    pub(super) fn length(&self, slot: &Slot, network: &Network) -> usize {
        match slot.extent {
            _ if !slot.kept => 0,
            Extent::Arena => network.arena_len(),
            _ => network.blocks().iter().map(|block| self.share(slot, block)).sum(),
        }
    }

    /// How many elements an array of state has for users.
    pub fn public_length(&self, slot: &Slot, network: &Network) -> usize {
        network.blocks().iter().map(|block| self.share(slot, block)).sum()
    }

    /// Copies an array of state out: blocks one after the other, weights as (out, in).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn export<T: Element>(&self, slot: &Slot, network: &Network, array: &[T], flat: &mut [T]) {
        self.translate(slot, network, |public, inner| flat[public] = array[inner]);
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If lengths are not those of this network.
    pub fn import<T: Element>(&self, slot: &Slot, network: &Network, flat: &[T], array: &mut [T]) {
        self.translate(slot, network, |public, inner| array[inner] = flat[public]);
    }

    fn translate(&self, slot: &Slot, network: &Network, mut f: impl FnMut(usize, usize)) {
        let mut start = 0;
        for block in network.blocks() {
            let len = self.share(slot, block);
            match slot.extent {
                Extent::Arena => block.translate(|at, inner| f(start + at, block.offset + inner)),
                Extent::Rest if len > 0 => block.translate(|at, inner| f(start + at, start + inner)),
                _ => (start..start + len).for_each(|at| f(at, at)),
            }
            start += len;
        }
    }
}
