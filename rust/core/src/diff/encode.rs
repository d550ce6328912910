//! What a block does in the stage of an encoder: features of Fourier, and categories.

use super::Linearization;
use super::block::Block;
use crate::element::Element;
use crate::layer::{Category, fourier};
use crate::network::Encoder;
use crate::simd::{Op, Simd, dispatch};
use crate::view::MatRef;

impl<T: Element> Block<T> {
    /// y and ẏ. The derivative by a code is 0: it does not change by small amounts.
    pub fn encode(&mut self, net: &Linearization<'_, T>, index: usize, encoder: usize) {
        let stage = &net.network.stages()[index];
        let (before, rest) = self.slots.split_at_mut(index);
        let (x, x_dot) = match index {
            0 => (&self.x, self.x_dot.as_ref()),
            _ => (&before[index - 1].y[0], Some(&before[index - 1].y[1])),
        };
        let [y, dot] = &mut rest[0].y;
        for r in 0..self.rows {
            let (from, to) =
                (r * stage.inputs..(r + 1) * stage.inputs, r * stage.outputs..(r + 1) * stage.outputs);
            let (x, x_dot) = (&x[from.clone()], x_dot.map(|dot| &dot[from]));
            let (y, dot) = (&mut y[to.clone()], &mut dot[to]);
            match &net.network.encoders()[encoder] {
                Encoder::Fourier { layer, start, .. } => {
                    let frequencies = &net.averages[*start..start + layer.inputs * layer.count()];
                    dispatch(net.isa, Forward { x, frequencies, y });
                    match x_dot {
                        Some(x_dot) => fourier::tangent(y, x_dot, frequencies, dot),
                        None => dot.fill(T::ZERO),
                    }
                }
                Encoder::Tabular { layer, starts, .. } => {
                    let table = |k: usize| {
                        let Category { codes, dim, .. } = layer.categories[k];
                        starts[k]..starts[k] + codes * dim
                    };
                    layer.forward(x, y, |k| &net.params[table(k)]);
                    layer.forward(x, dot, |k| &net.dots[table(k)]);
                    layer.tangent(x, x_dot, dot);
                }
            }
        }
    }

    /// Adds the gradient by what the encoder takes, and its tangent, to `back`.
    pub fn decode(&mut self, net: &Linearization<'_, T>, index: usize, encoder: usize) {
        let Encoder::Fourier { layer, start, .. } = &net.network.encoders()[encoder] else {
            return; // Categories are an input: nothing is behind them.
        };
        let frequencies = &net.averages[*start..start + layer.inputs * layer.count()];
        let (inputs, outputs) = (layer.inputs, net.network.stages()[index].outputs);
        let slots = &self.slots[index];
        let [dx, dx_dot] = &mut self.back;
        for r in 0..self.rows {
            let (to, from) = (r * inputs..(r + 1) * inputs, r * outputs..(r + 1) * outputs);
            let y = slots.y.each_ref().map(|y| &y[from.clone()]);
            let dy = slots.delta.each_ref().map(|d| &d[from.clone()]);
            fourier::curve(y, dy, frequencies, [&mut dx[to.clone()], &mut dx_dot[to]]);
        }
    }

    /// Adds the block's part to the tangent of the gradient by the table of a category, whose vectors stand in the
    /// output from column `first` on.
    pub fn table(
        &self,
        net: &Linearization<'_, T>,
        index: usize,
        category: &Category,
        first: usize,
        into: &mut [T],
    ) {
        let stage = &net.network.stages()[index];
        let x = MatRef::new(&self.x, self.rows, stage.inputs);
        let delta = MatRef::new(&self.slots[index].delta[1], self.rows, stage.outputs);
        for r in 0..self.rows {
            let Some(code) = category.code(x.at(r, category.column).to_f64()) else { continue };
            for (j, d) in delta.row(r)[first..first + category.dim].iter().enumerate() {
                into[category.place(code, j)] += *d;
            }
        }
    }
}

/// [`fourier::forward`]
struct Forward<'r, T> {
    x: &'r [T],
    frequencies: &'r [T],
    y: &'r mut [T],
}

impl<T: Element> Op<T> for Forward<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        fourier::forward(s, self.x, self.frequencies, self.y);
    }
}
