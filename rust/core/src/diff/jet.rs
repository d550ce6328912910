//! Outputs with their first and second derivatives along directions of the inputs, and the gradients by the parameters
//! of what is made of these: what a differential equation asks of a network.
//!
//! A row goes through the network as a jet: its numbers y and, for each direction, their first derivative ẏ and second
//! derivative ÿ along it ("Taylor mode": Griewank & Walther, "Evaluating derivatives", 2nd ed., chapter 13). A dense
//! layer takes each of these parts by itself, which is one product of more rows; an activation mixes them:
//!
//! ```text
//! z = y·W + b    ż = ẏ·W     z̈ = ÿ·W
//! y = φ(z)       ẏ = φ′·ż    ÿ = φ″·ż² + φ′·z̈
//! ```
//!
//! Backward, from the gradients g, ġ and g̈ by y, ẏ and ÿ, with sums over the directions:
//!
//! ```text
//! dz̈ = φ′·g̈    dż = φ′·ġ + 2φ″·ż·g̈    dz = φ′·g + Σ φ″·(ż·ġ + z̈·g̈) + φ‴·ż²·g̈
//! ```
//!
//! The gradient by W is that of all parts together, which is one product of more rows again.

use super::block::{Jet as Values, add, multiply, outer};
use super::gather::{self, Part, add_rows};
use super::{Weights, team, too_large};
use crate::data::Samples;
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Init;
use crate::gemm::pack::Panels;
use crate::layer::{Activation, Layer, fourier};
use crate::model::{Model, check_flat, check_output};
use crate::network::{Encoder, Network};
use crate::parallel;
use crate::simd::{Isa, Op, Simd, all_finite, dispatch, max_abs, zip_map};
use crate::view::{MatMut, MatRef};

/// Rows of a block, those of all parts: few enough for their numbers to stay in a second-level cache.
const BLOCK: usize = 192;

/// Derivatives along some directions, and what the way back needs of the last rows that went forward.
pub struct Jet<T> {
    /// Directions, one after the other.
    along: Vec<T>,
    /// 1 or 2: the highest derivatives.
    order: usize,
    /// Rows that went forward, and may go back.
    pending: Option<usize>,
    at: Option<Weights<T>>,
    blocks: Vec<Block<T>>,
}

impl<T: Element> Jet<T> {
    /// Along directions, each as wide as the network's input, with derivatives up to `order`.
    ///
    /// # Errors
    /// If there is a layer that jets do not go through, or the order is not 1 or 2, or there is no direction, or one is
    /// not finite.
    pub fn new(network: &Network, along: MatRef<'_, T>, order: usize) -> Result<Self, Error> {
        let inputs = network.inputs();
        let wrong = |name, value, accepted: String| Err(Error::Argument { name, value, accepted });
        if let Some((place, layer)) = refused("", network.layers()) {
            return Err(Error::Unsupported(format!(
                "layer {place} ({}) is in the way: derivatives by the inputs go through Linear, Residual, \
                 FourierFeatures in front, and layers that work element by element, but Dropout",
                layer.name()
            )));
        }
        if !matches!(order, 1 | 2) {
            return wrong("order", order.to_string(), "it is 1 or 2".into());
        }
        if along.rows() == 0 || along.cols() != inputs {
            let value = format!("shape ({}, {})", along.rows(), along.cols());
            return wrong("along", value, format!("it has a row for each direction, of {inputs} numbers"));
        }
        let along: Vec<T> = (0..along.rows()).flat_map(|r| along.row(r)).copied().collect();
        check_flat("along", &along)?;
        Ok(Jet { along, order, pending: None, at: None, blocks: Vec::new() })
    }

    /// Parts of an output: itself, and its first and then its second derivatives along each direction.
    pub fn parts(&self, network: &Network) -> usize {
        1 + self.order * self.along.len() / network.inputs()
    }

    /// The parts one after the other, each rows × outputs.
    ///
    /// # Errors
    /// If the input has another width, no rows, or NaN or infinity in it, or something overflows.
    ///
    /// # Panics
    /// If `output` has another length, or the network is not as that which this was made for.
    pub fn forward(&mut self, model: &Model<T>, x: MatRef<'_, T>, output: &mut [T]) -> Result<(), Error> {
        self.pending = None;
        let (network, isa, rows) = (model.network(), model.isa(), x.rows());
        network.check_input(Samples::from(x))?;
        Samples::from(x).check_finite("x", isa)?;
        let (parts, part) = (self.parts(network), rows * network.outputs());
        assert_eq!(output.len(), parts * part);
        let write = |into: &mut [T]| into.copy_from_slice(&model.params);
        let at = Weights::new(network, isa, self.at.take(), T::ONE, true, write)?;
        let site = Site { network, isa, at: &at, averages: &model.averages, order: self.order };
        let block_rows = (BLOCK / parts).max(1);
        self.blocks.resize_with(rows.div_ceil(block_rows), Block::default);
        for (block, first) in self.blocks.iter_mut().zip((0..rows).step_by(block_rows)) {
            block.fit(&site, x.block(first, block_rows.min(rows - first), 0, x.cols()), &self.along);
        }
        parallel::pieces(&mut self.blocks, team(network, rows * parts), |block| {
            (0..network.stages().len()).for_each(|index| block.forward(&site, index));
        });
        let (last, n) = (network.stages().len() - 1, network.outputs());
        for (which, into) in output.chunks_exact_mut(part).enumerate() {
            for (block, into) in self.blocks.iter().zip(into.chunks_mut(block_rows * n)) {
                into.copy_from_slice(&block.slots[last].y[which * into.len()..][..into.len()]);
            }
        }
        check_output(isa, &output[..part], n)?;
        if !all_finite(isa, output) {
            return Err(too_large("a derivative of the outputs by the inputs"));
        }
        (self.at, self.pending) = (Some(at), Some(rows));
        Ok(())
    }

    /// Back from the gradients by all parts of the outputs, laid out as these: adds to the model's gradients what they are
    /// by the parameters, as those were on the way forward.
    ///
    /// # Errors
    /// If nothing went forward before, or the gradient is not as long as the outputs or not finite; nothing is changed
    /// then.
    ///
    /// # Panics
    /// If the network is not as that which this was made for.
    pub fn backward(&mut self, model: &mut Model<T>, gradient: MatRef<'_, T>) -> Result<(), Error> {
        let isa = model.isa();
        let Some((rows, at)) = self.pending.zip(self.at.as_ref()) else {
            return Err(Error::Mismatch("backward needs a forward pass before it".into()));
        };
        let (parts, n) = (self.parts(model.network()), model.network().outputs());
        let (found, expected) = ((gradient.rows(), gradient.cols()), (parts * rows, n));
        if found != expected {
            return Err(Error::GradientShape { found, expected });
        }
        Samples::from(gradient).check_finite("the gradient", isa)?;
        let still = model.still_parts();
        let network = still.network;
        let site = Site { network, isa, at, averages: still.averages, order: self.order };
        let threads = team(network, rows * parts);
        let mut first = 0;
        for block in &mut self.blocks {
            let size = block.rows * n;
            for (which, into) in block.back[..parts * size].chunks_exact_mut(size).enumerate() {
                let from = gradient.block(which * rows + first, block.rows, 0, n);
                into.chunks_exact_mut(n).enumerate().for_each(|(r, into)| into.copy_from_slice(from.row(r)));
            }
            first += block.rows;
        }
        parallel::pieces(&mut self.blocks, threads, |block| {
            (0..network.stages().len()).rev().for_each(|index| block.backward(&site, index));
        });
        let blocks = &self.blocks;
        parallel::pieces(&mut gather::parts(network, still.grads), threads, |(index, part, into)| {
            let (stage, mut scratch) = (&network.stages()[*index], Vec::new());
            for block in blocks {
                let dz = &block.slots[*index].dz;
                match *part {
                    Part::Weight { from, col, n } => {
                        let into = MatMut::new(into, into.len() / n, n);
                        outer(
                            isa,
                            [block.input(*index), dz],
                            parts * block.rows,
                            [from, col],
                            into,
                            &mut scratch,
                        );
                    }
                    Part::Bias => add_rows(into, &dz[..block.rows * stage.outputs]),
                    Part::Table { .. } | Part::Scale | Part::Shift => {
                        unreachable!("refused when this was made")
                    }
                }
            }
        });
        let size = max_abs(isa, still.grads).to_f64();
        model.note_gradients(size);
        Ok(())
    }
}

/// The first layer that jets do not go through, and its place.
fn refused<'l>(path: &str, layers: &'l [Layer]) -> Option<(String, &'l Layer)> {
    layers.iter().enumerate().find_map(|(index, layer)| {
        let place = format!("{path}{index}");
        match layer {
            Layer::Linear(_) => None,
            Layer::Activation(act) => matches!(act, Activation::Dropout(_)).then_some((place, layer)),
            Layer::Residual(inner) => refused(&format!("{place}."), inner),
            Layer::Fourier(_) => (place != "0").then_some((place, layer)),
            Layer::BatchNorm(_) | Layer::RowNorm(_) | Layer::Tabular(_) => Some((place, layer)),
        }
    })
}

/// What blocks are told of the network.
struct Site<'a, T> {
    network: &'a Network,
    isa: Isa,
    at: &'a Weights<T>,
    averages: &'a [T],
    order: usize,
}

/// Some rows, with all parts of what was computed of them: numbers, first derivatives, second derivatives.
#[derive(Default)]
struct Block<T> {
    rows: usize,
    x: Vec<T>,
    slots: Vec<Slots<T>>,
    /// The gradient by a stage's output, on the way back.
    back: Vec<T>,
    /// For products.
    scratch: Vec<T>,
}

/// A block's numbers of a stage.
#[derive(Default)]
struct Slots<T> {
    /// What it gives.
    y: Vec<T>,
    /// What its activation takes; none without one.
    z: Vec<T>,
    /// φ′, φ″ and φ‴.
    slopes: [Vec<T>; 3],
    /// The gradient by z.
    dz: Vec<T>,
}

impl<T: Element> Block<T> {
    /// Takes rows in, and makes room for what comes of them: whatever is in there, it is written before it is read.
    fn fit(&mut self, site: &Site<'_, T>, x: MatRef<'_, T>, along: &[T]) {
        self.rows = x.rows();
        let parts = 1 + site.order * along.len() / x.cols();
        self.x.clear();
        (0..self.rows).for_each(|r| self.x.extend_from_slice(x.row(r)));
        for direction in along.chunks_exact(x.cols()) {
            (0..self.rows).for_each(|_| self.x.extend_from_slice(direction));
        }
        self.x.resize(parts * self.rows * x.cols(), T::ZERO);
        self.slots.resize_with(site.network.stages().len(), Slots::default);
        for (stage, slots) in site.network.stages().iter().zip(&mut self.slots) {
            let (part, acts) = (self.rows * stage.outputs, stage.act != Activation::Identity);
            slots.y.resize(parts * part, T::ZERO);
            slots.dz.resize(parts * part, T::ZERO);
            slots.z.resize(if acts { parts * part } else { 0 }, T::ZERO);
            slots.slopes.iter_mut().for_each(|slope| slope.resize(if acts { part } else { 0 }, T::ZERO));
        }
        self.back.resize(parts * self.rows * site.network.max_width(), T::ZERO);
    }

    /// What a stage takes.
    fn input(&self, index: usize) -> &[T] {
        if index == 0 { &self.x } else { &self.slots[index - 1].y }
    }

    fn forward(&mut self, site: &Site<'_, T>, index: usize) {
        let stage = &site.network.stages()[index];
        let (before, rest) = self.slots.split_at_mut(index);
        let input = |stage: usize| if stage == 0 { &self.x } else { &before[stage - 1].y };
        let Slots { y, z, slopes, .. } = &mut rest[0];
        let part = self.rows * stage.outputs;
        if let Some(encoder) = stage.encoder {
            let Encoder::Fourier { layer, start, .. } = &site.network.encoders()[encoder] else {
                unreachable!("refused when this was made");
            };
            let frequencies = &site.averages[*start..start + layer.inputs * layer.count()];
            return encode(site, &self.x, stage.inputs, frequencies, y, part);
        }
        let into = if z.is_empty() { &mut *y } else { &mut *z };
        match stage.dense {
            Some(dense) => {
                let arena = &site.at.arena;
                let weight = &arena[dense.weight..dense.weight + stage.inputs * stage.outputs];
                let mut product = |x: &[T], into: &mut [T], init: Init<'_, T>| {
                    let weight = Panels::new(weight, stage.inputs, stage.outputs);
                    multiply(site.isa, x, weight, into, x.len() / stage.inputs, init, &mut self.scratch);
                };
                // The bias is a part of the numbers, and of no derivative.
                let bias = dense.bias.map_or(Init::Zero, |b| Init::Bias(&arena[b..b + stage.outputs]));
                let ((x, x_dots), (z, dots)) =
                    (input(index).split_at(self.rows * stage.inputs), into.split_at_mut(part));
                product(x, z, bias);
                product(x_dots, dots, Init::Zero);
            }
            None => {
                into.copy_from_slice(input(index));
                stage.skip.into_iter().for_each(|first| add(into, input(first)));
            }
        }
        if !z.is_empty() {
            y[..part].copy_from_slice(&z[..part]);
            let [first, second, third] = slopes;
            dispatch(site.isa, Values(stage.act, [&mut y[..part], first, second, third]));
            dispatch(site.isa, Forth { order: site.order, z, slopes, y });
        }
    }

    fn backward(&mut self, site: &Site<'_, T>, index: usize) {
        let stage = &site.network.stages()[index];
        let Slots { y, z, slopes, dz } = &mut self.slots[index];
        let g = &self.back[..y.len()];
        if z.is_empty() {
            dz.copy_from_slice(g);
        } else {
            dispatch(site.isa, Back { order: site.order, z, slopes, g, dz });
        }
        if index == 0 {
            return; // Nothing to be learned is behind it.
        }
        let len = y.len() / stage.outputs * stage.inputs;
        let dx = &mut self.back[..len];
        let mut init = Init::Zero;
        for end in site.network.ends(index) {
            if let Init::Zero = init {
                dx.fill(T::ZERO);
                init = Init::Accumulate;
            }
            add(dx, &self.slots[end].dz);
        }
        let dz = &self.slots[index].dz;
        if stage.dense.is_some() {
            let weight = Panels::new(&site.at.transposed[index], stage.outputs, stage.inputs);
            multiply(site.isa, dz, weight, dx, dz.len() / stage.outputs, init, &mut self.scratch);
        } else if let Init::Zero = init {
            dx.copy_from_slice(dz);
        } else {
            add(dx, dz);
        }
    }
}

/// Features of Fourier of the inputs, whose second derivatives are 0. With u̇ = 2πẋB it is ẏ = (c·u̇, −s·u̇) and
/// ÿ = −y·u̇², where u̇² is the sum of the squares of both halves of ẏ.
fn encode<T: Element>(
    site: &Site<'_, T>,
    x: &[T],
    inputs: usize,
    frequencies: &[T],
    y: &mut [T],
    part: usize,
) {
    let n = 2 * frequencies.len() / inputs;
    let (rows, m) = (part / n, n / 2);
    let (x, x_dots) = x.split_at(rows * inputs);
    let (y, dots) = y.split_at_mut(part);
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(n)) {
        dispatch(site.isa, Features { x, frequencies, y });
    }
    let (firsts, seconds) = dots.split_at_mut(dots.len() / site.order);
    for (r, (x_dot, dot)) in x_dots.chunks_exact(inputs).zip(firsts.chunks_exact_mut(n)).enumerate() {
        let y = &y[r % rows * n..][..n];
        fourier::tangent(y, x_dot, frequencies, dot);
        if let Some(second) = seconds.chunks_exact_mut(n).nth(r) {
            for (j, second) in second.iter_mut().enumerate() {
                let (a, b) = (dot[j % m], dot[m + j % m]);
                *second = -y[j] * (a * a + b * b);
            }
        }
    }
}

/// [`fourier::forward`]
struct Features<'r, T> {
    x: &'r [T],
    frequencies: &'r [T],
    y: &'r mut [T],
}

impl<T: Element> Op<T> for Features<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        fourier::forward(s, self.x, self.frequencies, self.y);
    }
}

/// Where the first and the second derivative along direction `k` begin, in parts of so many elements.
fn places(k: usize, part: usize, all: usize, order: usize) -> (usize, Option<usize>) {
    let count = (all / part - 1) / order;
    ((1 + k) * part, (order == 2).then_some((1 + count + k) * part))
}

/// ẏ and ÿ of an activation.
struct Forth<'m, T> {
    order: usize,
    z: &'m [T],
    slopes: &'m [Vec<T>; 3],
    y: &'m mut [T],
}

impl<T: Element> Op<T> for Forth<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { order, z, slopes: [first, second, _], y } = self;
        let (part, all) = (first.len(), z.len());
        for k in 0..(all / part - 1) / order {
            let (one, two) = places(k, part, all, order);
            let z_dot = &z[one..one + part];
            zip_map(
                s,
                [&mut y[one..one + part]],
                [first, z_dot],
                #[inline(always)]
                |_, [first, z_dot]| [s.mul(first, z_dot)],
            );
            let Some(two) = two else { continue };
            zip_map(
                s,
                [&mut y[two..two + part]],
                [first, second, z_dot, &z[two..two + part]],
                #[inline(always)]
                |_, [first, second, z_dot, z_dots]| {
                    [s.fma(s.mul(second, z_dot), z_dot, s.mul(first, z_dots))]
                },
            );
        }
    }
}

/// dz, dż and dz̈ of an activation.
struct Back<'m, T> {
    order: usize,
    z: &'m [T],
    slopes: &'m [Vec<T>; 3],
    g: &'m [T],
    dz: &'m mut [T],
}

impl<T: Element> Op<T> for Back<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { order, z, slopes: [first, second, third], g, dz } = self;
        let (part, all) = (first.len(), z.len());
        let (dz, dots) = dz.split_at_mut(part);
        zip_map(
            s,
            [&mut *dz],
            [first, &g[..part]],
            #[inline(always)]
            |_, [first, g]| [s.mul(first, g)],
        );
        for k in 0..(all / part - 1) / order {
            let (one, two) = places(k, part, all, order);
            let (z_dot, g_dot) = (&z[one..one + part], &g[one..one + part]);
            let dz_dot = &mut dots[one - part..one];
            zip_map(
                s,
                [&mut *dz, &mut *dz_dot],
                [first, second, z_dot, g_dot],
                #[inline(always)]
                |[dz, _], [first, second, z_dot, g_dot]| {
                    [s.fma(s.mul(second, z_dot), g_dot, dz), s.mul(first, g_dot)]
                },
            );
            let Some(two) = two else { continue };
            let (z_dots, g_dots) = (&z[two..two + part], &g[two..two + part]);
            zip_map(
                s,
                [&mut *dz, dz_dot],
                [second, third, z_dot, z_dots, g_dots],
                #[inline(always)]
                |[dz, dz_dot], [second, third, z_dot, z_dots, g]| {
                    let bent = s.mul(second, g);
                    let turned = s.mul(s.mul(third, z_dot), s.mul(z_dot, g));
                    [s.add(dz, s.fma(bent, z_dots, turned)), s.fma(s.add(bent, bent), z_dot, dz_dot)]
                },
            );
            zip_map(
                s,
                [&mut dots[two - part..two]],
                [first, g_dots],
                #[inline(always)]
                |_, [first, g]| [s.mul(first, g)],
            );
        }
    }
}
