//! `Model`: a network with its parameter values.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::layer::{
    Activation, BatchNorm, Category, Fourier, Frequencies, Init, Layer, Linear, Pieces, RowNorm, Standardize,
    TabularInput,
};
use thalweg_core::network::Network;
use thalweg_core::simd::Isa;
use thalweg_core::train::PART_ROWS;
use thalweg_core::update::Clip;
use thalweg_core::{Dtype, Error, Model as CoreModel};

use crate::arrays::{Features, Matrix, is_plain, matrix_out, room, vector, vector_out};
use crate::dtype::{AnyModel, Real, parse, with_dtype};
use crate::errors::translate;
use crate::locks::Lock;

/// A network with its parameters and gradients, in one precision.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Model {
    pub dtype: Dtype,
    /// The structure never changes, so it can be read while the model is in use.
    pub network: Network,
    pub isa: Isa,
    inner: Lock<AnyModel>,
}

impl Model {
    /// Runs `f` on the model, detached.
    pub fn detached<T: Real, R: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut CoreModel<T>) -> Result<R, Error> + Send,
    ) -> PyResult<R> {
        py.detach(|| self.locked(f)).map_err(|e| translate(py, e))
    }

    /// Runs `f` on the model; must be called detached.
    pub fn locked<T: Real, R>(
        &self,
        f: impl FnOnce(&mut CoreModel<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match T::of(&mut self.inner.lock()) {
            Some(model) => f(model),
            None => Err(wrong_dtype::<T>("model", self.dtype)),
        }
    }
}

/// The error if two objects of different precision meet.
pub fn wrong_dtype<T: Real>(what: &str, dtype: Dtype) -> Error {
    Error::Mismatch(format!("the {what} is {}, but {} is needed here", dtype.name(), T::DTYPE.name()))
}

/// Blocks within blocks: many more would need more stack than a thread has.
const DEEPEST: usize = 200;

fn layer(spec: &Bound<'_, PyTuple>, depth: usize) -> PyResult<Layer> {
    if depth > DEEPEST {
        let error =
            Error::argument("layers", format!("nested more than {DEEPEST} deep"), "use a flatter network");
        return Err(translate(spec.py(), error));
    }
    let kind: String = spec.get_item(0)?.extract()?;
    match kind.as_str() {
        "linear" => {
            let (_, inputs, outputs, bias, init): (String, usize, usize, bool, String) = spec.extract()?;
            let init = Init::ALL.into_iter().find(|i| i.name() == init).ok_or_else(|| {
                let names = Init::ALL.map(Init::name).join(", ");
                let error = Error::argument("init", format!("{init:?}"), format!("one of {names} is needed"));
                translate(spec.py(), error)
            })?;
            return Ok(Layer::Linear(Linear { inputs, outputs, bias, init }));
        }
        "batch_norm" => {
            let (_, features, eps, momentum, affine): (String, usize, f64, f64, bool) = spec.extract()?;
            return Ok(Layer::BatchNorm(BatchNorm { features, eps, momentum, affine }));
        }
        "layer_norm" => {
            let (_, features, eps, scale, shift): (String, usize, f64, bool, bool) = spec.extract()?;
            return Ok(Layer::RowNorm(RowNorm { features, eps: Some(eps), centred: true, scale, shift }));
        }
        "rms_norm" => {
            let (_, features, eps, scale): (String, usize, Option<f64>, bool) = spec.extract()?;
            return Ok(Layer::RowNorm(RowNorm { features, eps, centred: false, scale, shift: false }));
        }
        "fourier" => {
            let (_, inputs, count, sigma, bands): (String, usize, usize, f64, Vec<f64>) = spec.extract()?;
            let frequencies = match bands.is_empty() {
                true => Frequencies::Normal { count, sigma },
                false => Frequencies::Axes(bands),
            };
            return Ok(Layer::Fourier(Fourier { inputs, frequencies }));
        }
        "standardize" => {
            let (_, mean, std, inverse): (String, Vec<f64>, Vec<f64>, bool) = spec.extract()?;
            return Ok(Layer::Standardize(Standardize { mean, std, inverse }));
        }
        "tabular" => {
            type Edges = Vec<(usize, Vec<f64>)>;
            let (_, inputs, categories, pieces): (String, usize, Vec<[usize; 3]>, Edges) = spec.extract()?;
            let category = |[column, codes, dim]: [usize; 3]| Category { column, codes, dim };
            let categories = categories.into_iter().map(category).collect();
            let pieces = pieces.into_iter().map(|(column, edges)| Pieces { column, edges }).collect();
            return Ok(Layer::Tabular(TabularInput { inputs, categories, pieces }));
        }
        "residual" | "concatenate" => {
            let (_, inner): (String, Vec<Bound<'_, PyTuple>>) = spec.extract()?;
            let inner = inner.iter().map(|spec| layer(spec, depth + 1)).collect::<PyResult<_>>()?;
            return Ok(if kind == "residual" { Layer::Residual(inner) } else { Layer::Concatenate(inner) });
        }
        _ => {}
    }
    let parameters: Vec<f64> = spec.get_slice(1, spec.len()).extract()?;
    Activation::of_kind(&kind, &parameters).map(Layer::Activation).ok_or_else(|| {
        translate(spec.py(), Error::argument("layer", format!("{spec}"), format!(
            "one of linear, batch_norm, layer_norm, rms_norm, fourier, standardize, tabular, residual, concatenate, {} is \
             needed, \
             with its parameters",
            Activation::KINDS.join(", ")
        )))
    })
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, layers: Vec<Bound<'_, PyTuple>>, dtype: &str, seed: u64) -> PyResult<Self> {
        let layers = layers.iter().map(|spec| layer(spec, 0)).collect::<PyResult<Vec<_>>>()?;
        let Some(dtype) = parse(dtype) else {
            let error =
                Error::Unsupported(format!("dtype must be \"float32\" or \"float64\"; got {dtype:?}"));
            return Err(translate(py, error));
        };
        let build = || {
            with_dtype!(dtype, T => {
                let model = CoreModel::<T>::new(layers, seed)?;
                let (network, isa) = (model.network().clone(), model.isa());
                Ok(Model { dtype, network, isa, inner: Lock::new(T::wrap(model)) })
            })
        };
        py.detach(build).map_err(|e| translate(py, e))
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }

    #[getter]
    fn in_features(&self) -> usize {
        self.network.inputs()
    }

    #[getter]
    fn out_features(&self) -> usize {
        self.network.outputs()
    }

    #[getter]
    fn num_parameters(&self) -> usize {
        self.network.num_parameters()
    }

    fn blocks<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyTuple>)>> {
        let blocks = self.network.blocks().iter();
        blocks.map(|b| Ok((b.name.clone(), PyTuple::new(py, &b.shape)?))).collect()
    }

    fn average_blocks<'py>(&self, py: Python<'py>) -> PyResult<Vec<(String, Bound<'py, PyTuple>)>> {
        let blocks = self.network.averages().iter();
        blocks.map(|b| Ok((b.name.clone(), PyTuple::new(py, &b.shape)?))).collect()
    }

    fn passes(&self, py: Python<'_>) -> PyResult<u64> {
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| Ok(m.passes())))
    }

    fn kept(&self, py: Python<'_>) -> PyResult<u64> {
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| Ok(m.kept())))
    }

    fn set_passes(&self, py: Python<'_>, passes: u64) -> PyResult<()> {
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| { m.set_passes(passes); Ok(()) }))
    }

    fn averages(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        with_dtype!(self.dtype, T => {
            let flat = self.detached::<T, _>(py, |m| Ok(m.averages()))?;
            Ok(vector_out(py, flat))
        })
    }

    fn set_averages(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        with_dtype!(self.dtype, T => {
            let len = self.network.averages().iter().map(|b| b.len()).sum();
            let flat = vector::<T>("running averages", values, len)?;
            self.detached::<T, _>(py, |m| m.set_averages(&flat))
        })
    }

    fn parameters(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        with_dtype!(self.dtype, T => {
            let flat = self.detached::<T, _>(py, |m| {
                let mut flat = room("a copy of the parameters", self.network.num_parameters(), 1)?;
                m.parameters(&mut flat);
                Ok(flat)
            })?;
            Ok(vector_out(py, flat))
        })
    }

    fn set_parameters(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        with_dtype!(self.dtype, T => {
            let flat = vector::<T>("parameters", values, self.network.num_parameters())?;
            self.detached::<T, _>(py, |m| m.set_parameters(&flat))
        })
    }

    /// The parameters and the running averages of one moment.
    fn numbers(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
        with_dtype!(self.dtype, T => {
            let (parameters, averages) = self.detached::<T, _>(py, |m| {
                let mut flat = room("a copy of the parameters", self.network.num_parameters(), 1)?;
                m.parameters(&mut flat);
                Ok((flat, m.averages()))
            })?;
            Ok((vector_out(py, parameters), vector_out(py, averages)))
        })
    }

    /// Sets both, for which no other thread sees one without the other.
    fn set_numbers(
        &self,
        py: Python<'_>,
        parameters: &Bound<'_, PyAny>,
        averages: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        with_dtype!(self.dtype, T => {
            let parameters = vector::<T>("parameters", parameters, self.network.num_parameters())?;
            let len = self.network.averages().iter().map(|b| b.len()).sum();
            let averages = vector::<T>("running averages", averages, len)?;
            self.detached::<T, _>(py, |m| m.set_numbers(&parameters, &averages))
        })
    }

    /// Moves towards another model.
    fn follow(&self, py: Python<'_>, other: &Model, tau: f64) -> PyResult<()> {
        if std::ptr::eq(self, other) {
            return Ok(()); // already there
        }
        with_dtype!(self.dtype, T => {
            let run = || {
                // Always in the same order, so that two models may follow each other from two threads.
                let order = std::ptr::from_ref(self) < std::ptr::from_ref(other);
                match order {
                    true => self.locked::<T, _>(|m| other.locked::<T, _>(|o| m.follow(o, tau))),
                    false => other.locked::<T, _>(|o| self.locked::<T, _>(|m| m.follow(o, tau))),
                }
            };
            py.detach(run).map_err(|e| translate(py, e))
        })
    }

    fn gradients(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        with_dtype!(self.dtype, T => {
            let flat = self.detached::<T, _>(py, |m| {
                let mut flat = room("a copy of the gradients", self.network.num_parameters(), 1)?;
                m.gradients(&mut flat);
                Ok(flat)
            })?;
            Ok(vector_out(py, flat))
        })
    }

    fn set_gradients(&self, py: Python<'_>, values: &Bound<'_, PyAny>) -> PyResult<()> {
        with_dtype!(self.dtype, T => {
            let flat = vector::<T>("gradients", values, self.network.num_parameters())?;
            self.detached::<T, _>(py, |m| m.set_gradients(&flat))
        })
    }

    fn clip_gradients(&self, py: Python<'_>, norm: Option<f64>, value: Option<f64>) -> PyResult<f64> {
        let clip = norm.map(Clip::Norm).or(value.map(Clip::Value)).expect("one of the two");
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| m.clip_gradients(clip, std::iter::empty())))
    }

    fn zero_grad(&self, py: Python<'_>) -> PyResult<()> {
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| { m.zero_grad(); Ok(()) }))
    }

    /// Outputs if the array can be read as it is, otherwise `None`, as for `Trainer.step`.
    fn predict(&self, py: Python<'_>, x: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        if !is_plain(x) {
            return Ok(None);
        }
        with_dtype!(self.dtype, T => {
            let Ok(x) = Features::<T>::new("x", x) else { return Ok(None) };
            let (x, outputs) = (x.view(), self.network.outputs());
            let (all, mut y, mut done) = (x.rows(), Vec::new(), 0);
            loop {
                let rows = done..all.min(done + PART_ROWS);
                done = rows.end;
                self.detached::<T, _>(py, |m| {
                    if rows.start == 0 {
                        y = room("the outputs", all, outputs)?;
                    }
                    let into = &mut y[rows.start * outputs..rows.end * outputs];
                    m.predict(x.part(rows.clone()), into).map_err(|e| e.in_part(rows.start, all))
                })?;
                if done == all {
                    return matrix_out(py, y, all, outputs).map(Some);
                }
                py.check_signals()?;
            }
        })
    }

    #[pyo3(signature = (x, training=true))]
    fn forward(&self, py: Python<'_>, x: &Bound<'_, PyAny>, training: bool) -> PyResult<Py<PyAny>> {
        with_dtype!(self.dtype, T => {
            let x = Features::<T>::new("x", x)?;
            let (x, outputs) = (x.view(), self.network.outputs());
            let y = self.detached::<T, _>(py, |m| {
                let mut y = room("the outputs", x.rows(), outputs)?;
                m.forward(x, &mut y, training).map(|()| y)
            })?;
            matrix_out(py, y, x.rows(), outputs)
        })
    }

    /// Lets no backward pass follow the last forward pass.
    fn forget(&self, py: Python<'_>) -> PyResult<()> {
        with_dtype!(self.dtype, T => self.detached::<T, _>(py, |m| {
            m.forget();
            Ok(())
        }))
    }

    /// Outputs, and their derivatives with respect to the parameters, with a row for each output of each row
    /// of x.
    fn jacobian(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        training: bool,
    ) -> PyResult<(Py<PyAny>, Py<PyAny>)> {
        with_dtype!(self.dtype, T => {
            let x = Features::<T>::new("x", x)?;
            let (x, outputs, size) = (x.view(), self.network.outputs(), self.network.num_parameters());
            let count = x.rows() * outputs;
            let (y, j) = self.detached::<T, _>(py, |m| {
                let (mut y, mut j) = (room("the outputs", count, 1)?, room("the Jacobian", count, size)?);
                m.jacobian(x, training, &mut y, &mut j).map(|()| (y, j))
            })?;
            Ok((matrix_out(py, y, x.rows(), outputs)?, matrix_out(py, j, count, size)?))
        })
    }

    /// For each row of x, its slopes of the outputs times their derivatives with respect to the parameters.
    fn row_gradients(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        slopes: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        with_dtype!(self.dtype, T => {
            let (x, slopes) = (Features::<T>::new("x", x)?, Matrix::<T>::new("slopes", slopes)?);
            let (x, slopes, size) = (x.view(), slopes.view(), self.network.num_parameters());
            let rows = x.rows();
            let gradients = self.detached::<T, _>(py, |m| {
                let mut y = room("the outputs", rows, m.network().outputs())?;
                let mut gradients = room("the gradients of rows", rows, size)?;
                m.row_gradients(x, slopes, &mut y, &mut gradients).map(|()| gradients)
            })?;
            matrix_out(py, gradients, rows, size)
        })
    }

    fn recalibrate(&self, py: Python<'_>, x: &Bound<'_, PyAny>, batch_rows: usize) -> PyResult<()> {
        with_dtype!(self.dtype, T => {
            let x = Features::<T>::new("x", x)?;
            let x = x.view();
            self.detached::<T, _>(py, |m| m.recalibrate(x, batch_rows.max(1)))
        })
    }

    /// Adds to the parameters' gradients, if these are wanted; returns the gradient with respect to the
    /// input.
    fn backward(
        &self,
        py: Python<'_>,
        grad_output: &Bound<'_, PyAny>,
        parameters: bool,
        inputs: bool,
    ) -> PyResult<Option<Py<PyAny>>> {
        with_dtype!(self.dtype, T => {
            let gradient = Matrix::<T>::new("grad_output", grad_output)?;
            let (gradient, width) = (gradient.view(), self.network.inputs());
            let (flat, rows) = self.detached::<T, _>(py, |m| {
                let rows = m.pending_rows()?;
                let mut into = if inputs { Some(room("the input's gradient", rows, width)?) } else { None };
                m.backward(gradient, into.as_deref_mut(), parameters)?;
                Ok((into, rows))
            })?;
            flat.map(|flat| matrix_out(py, flat, rows, width)).transpose()
        })
    }
}
