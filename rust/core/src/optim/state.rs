//! State arrays, and the blocks to which their elements belong.

use std::ops::Range;

use super::{Config, Extent, Slot};
use crate::element::Element;
use crate::network::{Block, Network};
use crate::simd::Isa;

impl Config {
    /// Whether a state array has an element for each parameter of a block, in the same order.
    pub(super) fn mirrors(&self, slot: &Slot, block: &Block) -> bool {
        match slot.extent {
            Extent::Arena => true,
            Extent::Rest => !self.factors(&block.shape),
            _ => false,
        }
    }

    /// How many elements a state array has for a block of parameters.
    pub(super) fn share(&self, slot: &Slot, block: &Block) -> usize {
        match (slot.extent, self.factors(&block.shape)) {
            _ if self.mirrors(slot, block) => block.len(),
            (Extent::Outputs, true) => block.shape[0],
            (Extent::Inputs, true) => block.shape[1],
            (Extent::Squares, _) => self.squares(&block.shape),
            _ => 0,
        }
    }

    /// How many elements a state array has in memory.
    pub(super) fn length(&self, slot: &Slot, network: &Network) -> usize {
        match slot.extent {
            _ if !slot.kept => 0,
            Extent::Arena => network.arena_len(),
            _ => network.blocks().iter().map(|block| self.share(slot, block)).sum(),
        }
    }

    /// What is kept of each block: whether sums of its rows and columns, and elements of square matrices.
    pub(super) fn kept_by_block(&self, network: &Network) -> Vec<(bool, usize)> {
        let blocks = network.blocks().iter();
        blocks.map(|block| (self.factors(&block.shape), self.squares(&block.shape))).collect()
    }

    /// How many elements a state array has for users.
    pub fn public_length(&self, slot: &Slot, network: &Network) -> usize {
        network.blocks().iter().map(|block| self.share(slot, block)).sum()
    }

    /// Copies out a state array: blocks one after the other, weights as (out, in).
    ///
    /// # Panics
    /// If the lengths are not those of this network.
    pub fn export<T: Element>(&self, isa: Isa, slot: &Slot, network: &Network, array: &[T], flat: &mut [T]) {
        for (block, public, inner) in self.places(slot, network) {
            match block {
                Some(block) => block.export(isa, &array[inner], &mut flat[public]),
                None => flat[public].copy_from_slice(&array[inner]),
            }
        }
    }

    /// The reverse of [`export`](Self::export).
    ///
    /// # Panics
    /// If the lengths are not those of this network.
    pub fn import<T: Element>(&self, isa: Isa, slot: &Slot, network: &Network, flat: &[T], array: &mut [T]) {
        for (block, public, inner) in self.places(slot, network) {
            match block {
                Some(block) => block.import(isa, &flat[public], &mut array[inner]),
                None => array[inner].copy_from_slice(&flat[public]),
            }
        }
    }

    /// Where each block's share lies for users and in memory; and the block itself, if the share is laid out
    /// like it.
    fn places<'n>(
        &'n self,
        slot: &'n Slot,
        network: &'n Network,
    ) -> impl Iterator<Item = (Option<&'n Block>, Range<usize>, Range<usize>)> {
        let mut start = 0;
        network.blocks().iter().map(move |block| {
            let public = start..start + self.share(slot, block);
            start = public.end;
            match slot.extent {
                Extent::Arena => (Some(block), public, block.offset..block.offset + block.len()),
                Extent::Rest if !public.is_empty() => (Some(block), public.clone(), public),
                _ => (None, public.clone(), public),
            }
        })
    }
}
