//! What stages do with rows, up to their normalizations and activations: dense layers, encoders, and the ends
//! of blocks.

use crate::diff::Weights;
use crate::diff::block::{matrix, multiply};
use crate::element::Element;
use crate::gemm::Init;
use crate::gemm::pack::Panels;
use crate::layer::skip::{join, put};
use crate::layer::standardize::Scales;
use crate::layer::{Activation, fourier};
use crate::network::{Encoder, Network, Stage};
use crate::simd::Isa;
use crate::view::MatMut;

/// A network at its parameters.
#[derive(Clone, Copy)]
pub struct Place<'a, T> {
    pub network: &'a Network,
    pub isa: Isa,
    pub at: &'a Weights<T>,
    pub averages: &'a [T],
}

/// Whether a stage has an activation.
pub fn acts(stage: &Stage) -> bool {
    stage.act != Activation::Identity
}

impl<T: Element> Place<'_, T> {
    /// The frequencies of a stage that encodes its input by Fourier features.
    pub fn frequencies(&self, stage: &Stage) -> Option<&[T]> {
        match &self.network.encoders()[stage.encoder?] {
            Encoder::Fourier { layer, start, .. } => {
                Some(&self.averages[*start..start + layer.inputs * layer.count()])
            }
            _ => None,
        }
    }

    /// The scales of a stage that standardizes its input.
    fn scales(&self, stage: &Stage) -> Option<Scales<'_, T>> {
        match &self.network.encoders()[stage.encoder?] {
            Encoder::Standardize { layer, starts } => Some(Scales::of(layer, *starts, self.averages)),
            _ => None,
        }
    }

    /// The first stage that learns: nothing needs to go back beyond it.
    pub fn first_that_learns(&self) -> usize {
        let stages = self.network.stages();
        let learns = |stage: &Stage| self.network.starts(stage).next().is_some();
        stages.iter().position(learns).unwrap_or(stages.len())
    }

    /// Computes z from x. `beside` is the input of the block that the stage ends, if it does.
    pub fn values(&self, stage: &Stage, x: &[T], beside: Option<&[T]>, z: &mut [T], scratch: &mut Vec<T>) {
        let (rows, n) = (z.len() / stage.outputs, stage.outputs);
        if let Some(frequencies) = self.frequencies(stage) {
            fourier::forward(self.isa, matrix(x, rows), frequencies, MatMut::new(z, rows, n));
        } else if let Some(scales) = self.scales(stage) {
            scales.forward(self.isa, matrix(x, rows), MatMut::new(z, rows, n));
        } else {
            let arena = &self.at.arena;
            let bias = stage.dense.and_then(|dense| dense.bias).map(|b| Init::Bias(&arena[b..b + n]));
            self.linear(stage, x, beside, z, bias.unwrap_or(Init::Zero), scratch);
        }
    }

    /// Computes first derivatives of z from those of x: those along one or several directions, one below the
    /// other. `z` are the numbers themselves.
    pub fn dots(
        &self,
        stage: &Stage,
        x_dots: &[T],
        beside: Option<&[T]>,
        z: &[T],
        dots: &mut [T],
        scratch: &mut Vec<T>,
    ) {
        let (rows, n) = (dots.len() / stage.outputs, stage.outputs);
        if let Some(frequencies) = self.frequencies(stage) {
            let z = z.chunks_exact(n).cycle();
            for ((x_dot, z), dot) in x_dots.chunks_exact(stage.inputs).zip(z).zip(dots.chunks_exact_mut(n)) {
                fourier::tangent(z, x_dot, frequencies, dot);
            }
        } else if let Some(scales) = self.scales(stage) {
            scales.slope(self.isa, matrix(x_dots, rows), MatMut::new(dots, rows, n), false);
        } else {
            // The bias belongs to the numbers only.
            self.linear(stage, x_dots, beside, dots, Init::Zero, scratch);
        }
    }

    fn linear(
        &self,
        stage: &Stage,
        x: &[T],
        beside: Option<&[T]>,
        z: &mut [T],
        init: Init<'_, T>,
        scratch: &mut Vec<T>,
    ) {
        let rows = z.len() / stage.outputs;
        if let Some(dense) = stage.dense {
            let weight = &self.at.arena[dense.weight..dense.weight + stage.inputs * stage.outputs];
            let weight = Panels::new(weight, stage.inputs, stage.outputs);
            multiply(self.isa, x, weight, z, rows, init, scratch);
        } else {
            let beside = beside.map(|x| matrix(x, rows));
            join(self.isa, beside, matrix(x, rows), MatMut::new(z, rows, stage.outputs));
        }
    }

    /// Goes back to the gradients with respect to a stage's input, from those with respect to z, which `dz`
    /// returns for this stage and for the ends of blocks that begin here: for one or several things, one below
    /// the other. `z` are the numbers themselves.
    pub fn back<'d>(
        &self,
        index: usize,
        z: &[T],
        dz: impl Fn(usize) -> &'d [T],
        dx: &mut [T],
        scratch: &mut Vec<T>,
    ) where
        T: 'd,
    {
        let stage = &self.network.stages()[index];
        let rows = dx.len() / stage.inputs;
        let (mut init, mut into) = (Init::Zero, MatMut::new(dx, rows, stage.inputs));
        let part = |end: usize, col| matrix(dz(end), rows).block(0, rows, col, stage.inputs);
        for end in self.network.ends(index) {
            put(self.isa, part(end, 0), &mut into, &mut init);
        }
        if let Some(frequencies) = self.frequencies(stage) {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
            }
            let few = z.len() / stage.outputs;
            let all = dz(index).chunks_exact(z.len()).zip(dx.chunks_exact_mut(few * stage.inputs));
            for (dz, dx) in all {
                let dx = MatMut::new(dx, few, stage.inputs);
                fourier::backward(self.isa, matrix(z, few), matrix(dz, few), frequencies, dx);
            }
        } else if let Some(scales) = self.scales(stage) {
            scales.slope(self.isa, matrix(dz(index), rows), into, matches!(init, Init::Accumulate));
        } else if stage.dense.is_some() {
            let weight = Panels::new(&self.at.transposed[index], stage.outputs, stage.inputs);
            multiply(self.isa, dz(index), weight, dx, rows, init, scratch);
        } else {
            put(self.isa, part(index, stage.front()), &mut into, &mut init);
        }
    }
}
