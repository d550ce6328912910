//! Outputs with their first and second derivatives along directions of the inputs, and the parameters'
//! gradients of functions of these: what a differential equation asks of a network.
//!
//! A row goes through the network as a jet: its numbers y and, for each direction, their first derivative ẏ
//! and second derivative ÿ along it ("Taylor mode": Griewank & Walther, "Evaluating derivatives", 2nd ed.,
//! chapter 13). A dense layer takes each of these parts separately, which is one product with more rows; an
//! activation mixes them:
//!
//! ```text
//! z = y·W + b    ż = ẏ·W     z̈ = ÿ·W
//! y = φ(z)       ẏ = φ′·ż    ÿ = φ″·ż² + φ′·z̈
//! ```
//!
//! Backward, from the gradients g, ġ and g̈ with respect to y, ẏ and ÿ, with sums over the directions:
//!
//! ```text
//! dz̈ = φ′·g̈    dż = φ′·ġ + 2φ″·ż·g̈    dz = φ′·g + Σ φ″·(ż·ġ + z̈·g̈) + φ‴·ż²·g̈
//! ```
//!
//! The gradient of W is the sum over all parts, which again is one product with more rows.
//!
//! Rows go through all layers in blocks that stay in a second-level cache. For a block, only the inputs of
//! activations are kept, z and its derivatives: the way back recomputes the rest, which is faster than
//! fetching it from memory.
//!
//! If there are fewer outputs than inputs, going back from the outputs is the faster way to first derivatives
//! with respect to all inputs: [`Slopes`].
//!
//! This module defines jets, `work` takes their blocks through stages, and `kernels` has the arithmetic;
//! `shards` divides rows into blocks, and `stages` has what stages do with rows, for jets and slopes.

mod kernels;
mod shards;
mod slopes;
mod stages;
#[cfg(test)]
mod tests;
mod work;

use std::ops::Deref;

pub use self::slopes::Slopes;

use self::shards::Shard;
use self::stages::Place;
use self::work::{Block, Desk};
use super::{Weights, team, too_large};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::layer::{Activation, Layer};
use crate::model::{Model, check_flat, check_output};
use crate::network::Network;
use crate::parallel;
use crate::simd::{all_finite, max_abs};
use crate::view::MatRef;

/// Derivatives along some directions, and what the way back needs of the rows that went forward last.
pub struct Jet<T> {
    /// Directions, one after the other.
    along: Vec<T>,
    /// The derivatives along each.
    ways: Vec<Way>,
    /// Number of rows that went forward and may go back.
    pending: Option<usize>,
    at: Option<Weights<T>>,
    shards: Vec<Shard<T, Block<T>, Desk<T>>>,
}

/// Which parts are the derivatives along a direction. Part 0 holds the numbers; then come the first
/// derivatives along all directions, and then the second derivatives that are wanted.
#[derive(Clone, Copy, Debug)]
struct Way {
    first: usize,
    second: Option<usize>,
}

/// Number of parts.
fn parts(ways: &[Way]) -> usize {
    1 + ways.len() + ways.iter().filter(|way| way.second.is_some()).count()
}

/// What blocks need to know.
struct Site<'a, T> {
    place: Place<'a, T>,
    /// Directions, one after the other.
    along: &'a [T],
    ways: &'a [Way],
}

impl<'a, T> Deref for Site<'a, T> {
    type Target = Place<'a, T>;

    fn deref(&self) -> &Place<'a, T> {
        &self.place
    }
}

impl<T: Element> Jet<T> {
    /// Along directions, each as wide as the network's input, with derivatives up to the given order for
    /// each.
    ///
    /// # Errors
    /// If there is a layer that jets do not go through, the number of orders is not that of directions, an
    /// order is not 1 or 2, or a direction is not finite.
    pub fn new(network: &Network, along: MatRef<'_, T>, orders: &[usize]) -> Result<Self, Error> {
        let inputs = network.inputs();
        let wrong = |name, value, accepted: String| Err(Error::argument(name, value, accepted));
        refuse(network, false)?;
        if along.cols() != inputs {
            let value = format!("of shape ({}, {})", along.rows(), along.cols());
            return wrong("along", value, format!("it needs a row of {inputs} numbers for each direction"));
        }
        if orders.len() != along.rows() {
            let accepted = format!("one is needed for each of {} directions", along.rows());
            return wrong("order", format!("a list of {}", orders.len()), accepted);
        }
        if let Some(order) = orders.iter().find(|order| !matches!(order, 1 | 2)) {
            return wrong("order", order.to_string(), "1 or 2 is needed".into());
        }
        let along: Vec<T> = (0..along.rows()).flat_map(|r| along.row(r)).copied().collect();
        check_flat("along", &along)?;
        let mut seconds = 1 + orders.len()..;
        let way = |(k, order): (usize, &usize)| Way {
            first: 1 + k,
            second: if *order == 2 { seconds.next() } else { None },
        };
        let ways = orders.iter().enumerate().map(way).collect();
        Ok(Jet { along, ways, pending: None, at: None, shards: Vec::new() })
    }

    /// Number of parts of an output: itself, its first derivatives along each direction, and then the second
    /// ones.
    pub fn parts(&self) -> usize {
        parts(&self.ways)
    }

    /// Computes the parts, one after the other, each rows × outputs.
    ///
    /// # Errors
    /// If the input has another width, no rows, or NaN or infinity in it, or something overflows.
    ///
    /// # Panics
    /// If `output` has another length, or the network differs from the one that this was made for.
    pub fn forward(&mut self, model: &Model<T>, x: MatRef<'_, T>, output: &mut [T]) -> Result<(), Error> {
        self.pending = None;
        let (network, isa, rows) = (model.network(), model.isa(), x.rows());
        network.check_input(Samples::from(x))?;
        Samples::from(x).check_finite("x", isa)?;
        let (parts, part) = (self.parts(), rows * network.outputs());
        assert_eq!(output.len(), parts * part);
        let write = |into: &mut [T]| into.copy_from_slice(&model.params);
        let at = Weights::new(network, isa, self.at.take(), T::ONE, Some(1), write)?;
        let Jet { along, ways, shards, .. } = self;
        let place = Place { network, isa, at: &at, averages: &model.averages };
        let site = Site { place, along, ways };
        shards::share(shards, network, rows, parts)?;
        parallel::pieces(shards, team(network, rows * parts), |shard| shard.forward(&site, x));
        for (which, into) in output.chunks_exact_mut(part).enumerate() {
            shards.iter().for_each(|shard| shard.outputs(which, network.outputs(), into));
        }
        check_output(isa, &output[..part], network.outputs())?;
        if !all_finite(isa, output) {
            return Err(too_large("a derivative of the outputs with respect to the inputs"));
        }
        (self.at, self.pending) = (Some(at), Some(rows));
        Ok(())
    }

    /// Goes back from the gradients with respect to all parts of the outputs, laid out like these: adds the
    /// resulting gradients of the parameters to the model's, for the parameters as they were on the way
    /// forward.
    ///
    /// # Errors
    /// If nothing went forward before, or the gradient is not as long as the outputs or not finite; nothing
    /// is changed then.
    ///
    /// # Panics
    /// If the network differs from the one that this was made for.
    pub fn backward(&mut self, model: &mut Model<T>, gradient: MatRef<'_, T>) -> Result<(), Error> {
        let isa = model.isa();
        let still = model.still_parts();
        let network = still.network;
        let parts = self.parts();
        let Jet { along, ways, shards, pending, at } = self;
        let Some((rows, at)) = pending.zip(at.as_ref()) else {
            return Err(Error::Mismatch("backward needs a forward pass before it".into()));
        };
        let found = (gradient.rows(), gradient.cols());
        let expected = (parts * rows, network.outputs());
        if found != expected {
            return Err(Error::GradientShape { found, expected });
        }
        Samples::from(gradient).check_finite("the gradient", isa)?;
        let place = Place { network, isa, at, averages: still.averages };
        let site = Site { place, along, ways };
        parallel::pieces(shards, team(network, rows * parts), |shard| shard.backward(&site, gradient, rows));
        shards::add(isa, shards, still.grads);
        let size = max_abs(isa, still.grads).to_f64();
        model.note_gradients(size);
        Ok(())
    }
}

/// Refuses a network with a layer that derivatives do not go through: of first derivatives that go back, or of
/// all.
fn refuse(network: &Network, back: bool) -> Result<(), Error> {
    let Some((place, layer)) = refused("", network.layers(), true, back) else { return Ok(()) };
    let more = if matches!(layer, Layer::RowNorm(_)) {
        ". Normalizations over rows are supported with order=1"
    } else {
        ""
    };
    Err(Error::Unsupported(format!(
        "derivatives with respect to the inputs are not supported for layer {place} ({}); the network may have \
         Linear, Residual, Concatenate, Standardize, layers that work element by element, except Dropout, and \
         FourierFeatures with nothing but Standardize before it{more}",
        layer.name()
    )))
}

/// The first such layer, and its place.
fn refused<'l>(path: &str, layers: &'l [Layer], mut scaled: bool, back: bool) -> Option<(String, &'l Layer)> {
    layers.iter().enumerate().find_map(|(index, layer)| {
        let place = format!("{path}{index}");
        let front = scaled;
        scaled &= matches!(layer, Layer::Standardize(_));
        match layer {
            Layer::Linear(_) | Layer::Standardize(_) => None,
            Layer::RowNorm(_) if back => None,
            Layer::Activation(act) => matches!(act, Activation::Dropout(_)).then_some((place, layer)),
            Layer::Residual(inner) | Layer::Concatenate(inner) => {
                refused(&format!("{place}."), inner, front, back)
            }
            Layer::Fourier(_) => {
                // Second derivatives of its inputs are taken to be 0, and nothing before it learns.
                (!front).then_some((place, layer))
            }
            Layer::BatchNorm(_) | Layer::RowNorm(_) | Layer::Tabular(_) => Some((place, layer)),
        }
    })
}
