//! What a block does in an encoder's stage: Fourier features, scales, and categories.

use super::block::{Block, halves};
use super::{Site, Weights};
use crate::element::Element;
use crate::layer::standardize::Scales;
use crate::layer::{Category, fourier};
use crate::network::{Encoder, Stage};
use crate::view::{MatMut, MatRef};

/// The range of row r in a matrix with n columns.
fn part(r: usize, n: usize) -> std::ops::Range<usize> {
    r * n..(r + 1) * n
}

impl<T: Element> Block<T> {
    /// Computes y.
    pub fn encode(&mut self, site: &Site<'_, T>, index: usize, encoder: usize) {
        let stage = &site.network.stages()[index];
        let (before, rest) = self.slots.split_at_mut(index);
        let x = if index == 0 { &self.x } else { &before[index - 1].y };
        let y = halves(&mut rest[0].y).0;
        let x = MatRef::new(&x[..self.rows * stage.inputs], self.rows, stage.inputs);
        let mut y = MatMut::new(y, self.rows, stage.outputs);
        match &site.network.encoders()[encoder] {
            Encoder::Fourier { layer, start, .. } => {
                let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
                fourier::forward(site.isa, x, frequencies, y);
            }
            Encoder::Standardize { layer, starts } => {
                Scales::of(layer, *starts, site.averages).forward(site.isa, x, y);
            }
            Encoder::Tabular { layer, starts, .. } => {
                let table = |k: usize| {
                    let Category { codes, dim, .. } = layer.categories[k];
                    &site.at.arena[starts[k]..starts[k] + codes * dim]
                };
                (0..self.rows).for_each(|r| layer.forward(x.row(r), y.row_mut(r), table));
            }
        }
    }

    /// Computes ẏ. The derivative with respect to a code is 0: codes do not change by small amounts.
    pub fn encode_dot(&mut self, site: &Site<'_, T>, way: &Weights<T>, index: usize, encoder: usize) {
        let stage = &site.network.stages()[index];
        let (before, rest) = self.slots.split_at_mut(index);
        let (x, x_dot) = match index {
            0 => (&self.x[..], self.x_dot.as_deref()),
            _ => {
                let (y, dot) = before[index - 1].y.split_at(self.rows * stage.inputs);
                (y, Some(dot))
            }
        };
        let (y, dot) = halves(&mut rest[0].y);
        for r in 0..self.rows {
            let (from, to) = (part(r, stage.inputs), part(r, stage.outputs));
            let (x, x_dot) = (&x[from.clone()], x_dot.map(|dot| &dot[from]));
            let (y, dot) = (&y[to.clone()], &mut dot[to]);
            match &site.network.encoders()[encoder] {
                Encoder::Fourier { layer, start, .. } => {
                    let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
                    match x_dot {
                        Some(x_dot) => fourier::tangent(y, x_dot, frequencies, dot),
                        None => dot.fill(T::ZERO),
                    }
                }
                Encoder::Standardize { layer, starts } => match x_dot {
                    Some(x_dot) => {
                        let n = stage.outputs;
                        let (x_dot, dot) = (MatRef::new(x_dot, 1, n), MatMut::new(dot, 1, n));
                        Scales::of(layer, *starts, site.averages).slope(site.isa, x_dot, dot, false);
                    }
                    None => dot.fill(T::ZERO),
                },
                Encoder::Tabular { layer, starts, .. } => {
                    layer.forward(x, dot, |k| {
                        let Category { codes, dim, .. } = layer.categories[k];
                        &way.arena[starts[k]..starts[k] + codes * dim]
                    });
                    layer.tangent(x, x_dot, dot);
                }
            }
        }
    }

    /// Adds the gradient with respect to the encoder's input to `back`.
    pub fn decode(&mut self, site: &Site<'_, T>, index: usize, encoder: usize) {
        let &Stage { inputs, outputs, .. } = &site.network.stages()[index];
        let slots = &mut self.slots[index];
        let y = MatRef::new(&slots.y[..self.rows * outputs], self.rows, outputs);
        let dy = MatRef::new(halves(&mut slots.delta).1, self.rows, outputs);
        let dx = MatMut::new(&mut self.back[0][..self.rows * inputs], self.rows, inputs);
        match &site.network.encoders()[encoder] {
            Encoder::Fourier { layer, start, .. } => {
                let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
                fourier::backward(site.isa, y, dy, frequencies, dx);
            }
            Encoder::Standardize { layer, starts } => {
                Scales::of(layer, *starts, site.averages).slope(site.isa, dy, dx, true);
            }
            Encoder::Tabular { .. } => {} // Categories are the network's input: nothing comes before.
        }
    }

    /// Adds the tangent of that gradient.
    pub fn decode_dot(&mut self, site: &Site<'_, T>, index: usize, encoder: usize) {
        let &Stage { inputs, outputs, .. } = &site.network.stages()[index];
        let (layer, start) = match &site.network.encoders()[encoder] {
            Encoder::Fourier { layer, start, .. } => (layer, start),
            Encoder::Standardize { layer, starts } => {
                let dy_dot = MatRef::new(&self.slots[index].delta[..self.rows * outputs], self.rows, outputs);
                let dx_dot = MatMut::new(&mut self.back[1][..self.rows * inputs], self.rows, inputs);
                return Scales::of(layer, *starts, site.averages).slope(site.isa, dy_dot, dx_dot, true);
            }
            Encoder::Tabular { .. } => return,
        };
        let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
        let (y, y_dot) = self.slots[index].y.split_at(self.rows * outputs);
        let (dz_dot, dz) = self.slots[index].delta.split_at(self.rows * outputs);
        let (none, mut unread) = (vec![T::ZERO; outputs], vec![T::ZERO; inputs]);
        for r in 0..self.rows {
            let row = part(r, outputs);
            let dy = if site.curved { &dz[row.clone()] } else { &none };
            let (y, dy) = ([&y[row.clone()], &y_dot[row.clone()]], [dy, &dz_dot[row]]);
            fourier::curve(y, dy, frequencies, [&mut unread, &mut self.back[1][part(r, inputs)]]);
        }
    }

    /// Adds the block's part to the tangent of the gradient of a category's table, whose vectors are in the
    /// output from column `first` on.
    pub fn table(&self, site: &Site<'_, T>, index: usize, category: &Category, first: usize, into: &mut [T]) {
        let stage = &site.network.stages()[index];
        let x = MatRef::new(&self.x, self.rows, stage.inputs);
        let len = self.rows * stage.outputs;
        let delta = MatRef::new(&self.slots[index].delta[..len], self.rows, stage.outputs);
        for r in 0..self.rows {
            let Some(code) = category.code(x.at(r, category.column).to_f64()) else { continue };
            for (j, d) in delta.row(r)[first..first + category.dim].iter().enumerate() {
                into[category.place(code, j)] += *d;
            }
        }
    }
}
