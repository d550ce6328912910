//! `Optimizer`: hyper-parameters, and the state that belongs to one model.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_core::network::Network;
use thalweg_core::optim::{Adam, AdamW, Config, Optimizer as CoreOptimizer, Sgd};
use thalweg_core::{Dtype, Error};

use crate::arrays::{vector, vector_out};
use crate::dtype::{AnyOptimizer, Either, Real, with_dtype};
use crate::errors::translate;
use crate::lock;
use crate::model::Model;

/// The state, and whose it is.
struct Bond {
    model: Py<Model>,
    state: AnyOptimizer,
}

struct Inner {
    config: Config,
    bond: Option<Bond>,
}

/// An optimizer. It takes its model at its first step.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Optimizer {
    inner: Mutex<Inner>,
}

fn option(py: Python<'_>, options: &BTreeMap<String, f64>, name: &'static str) -> PyResult<f64> {
    options.get(name).copied().ok_or_else(|| {
        let error = Error::Argument { name, value: "missing".into(), accepted: "it is needed".into() };
        translate(py, error)
    })
}

impl Optimizer {
    /// Runs `f` on the optimizer's state for `model`; to be called detached.
    pub fn locked<T: Real, R>(
        &self,
        model: &Py<Model>,
        arena_len: usize,
        f: impl FnOnce(&mut CoreOptimizer<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut inner = lock(&self.inner);
        let config = inner.config;
        let bond = match &mut inner.bond {
            Some(bond) => bond,
            empty => {
                let state = T::wrap_optimizer(CoreOptimizer::new(config, arena_len)?);
                // Attached for the blink of counting a reference. No lock is taken while attached, so
                // nobody can wait for this one there.
                let model = Python::attach(|py| model.clone_ref(py));
                empty.insert(Bond { model, state })
            }
        };
        if bond.model.as_ptr() != model.as_ptr() {
            let text =
                "this optimizer belongs to another model: its state has that model's shape; make a new one";
            return Err(Error::Mismatch(text.into()));
        }
        let state = T::optimizer(&mut bond.state).expect("of the model's precision");
        state.config = config;
        let result = f(state);
        inner.config = state.config; // a schedule may have set the learning rate
        result
    }
}

#[pymethods]
impl Optimizer {
    #[new]
    fn new(py: Python<'_>, kind: &str, options: BTreeMap<String, f64>) -> PyResult<Self> {
        let get = |name| option(py, &options, name);
        let adam = || -> PyResult<Adam> {
            Ok(Adam {
                lr: get("lr")?,
                beta1: get("beta1")?,
                beta2: get("beta2")?,
                eps: get("eps")?,
                weight_decay: get("weight_decay")?,
            })
        };
        let config = match kind {
            "sgd" => Config::Sgd(Sgd {
                lr: get("lr")?,
                momentum: get("momentum")?,
                dampening: get("dampening")?,
                nesterov: get("nesterov")? != 0.0,
                weight_decay: get("weight_decay")?,
            }),
            "adam" => Config::Adam(adam()?),
            "adamw" => Config::AdamW(AdamW(adam()?)),
            _ => {
                let accepted = "one of sgd, adam, adamw".into();
                return Err(translate(
                    py,
                    Error::Argument { name: "optimizer", value: format!("{kind:?}"), accepted },
                ));
            }
        };
        config.check().map_err(|e| translate(py, e))?;
        Ok(Optimizer { inner: Mutex::new(Inner { config, bond: None }) })
    }

    #[getter]
    fn lr(&self, py: Python<'_>) -> f64 {
        py.detach(|| lock(&self.inner).config.lr())
    }

    #[getter]
    fn steps(&self, py: Python<'_>) -> u64 {
        py.detach(|| match lock(&self.inner).bond.as_ref().map(|bond| &bond.state) {
            Some(Either::F32(o)) => o.steps,
            Some(Either::F64(o)) => o.steps,
            None => 0,
        })
    }

    fn set_lr(&self, py: Python<'_>, lr: f64) -> PyResult<()> {
        py.detach(|| lock(&self.inner).config.set_lr(lr)).map_err(|e| translate(py, e))
    }

    fn step(&self, py: Python<'_>, model: &Bound<'_, Model>) -> PyResult<()> {
        let (owner, model) = (model.as_unbound(), model.get());
        let arena = model.network.arena_len();
        with_dtype!(model.dtype, T => model.detached::<T, _>(py, |m| {
            self.locked::<T, _>(owner, arena, |o| m.apply(o))
        }))
    }

    fn state(&self, py: Python<'_>) -> PyResult<(u64, Py<PyDict>)> {
        type Arrays<T> = Vec<(&'static str, Vec<T>)>;
        fn export<T: Real>(network: &Network, optimizer: &CoreOptimizer<T>) -> (u64, Arrays<T>) {
            let names = optimizer.config.state_names().iter().zip(&optimizer.state);
            let arrays = names.map(|(name, arena)| {
                let mut flat = vec![T::default(); network.num_parameters()];
                network.export(arena, &mut flat);
                (*name, flat)
            });
            (optimizer.steps, arrays.collect())
        }
        // Copied detached, because the lock may be held by a fit; turned into arrays attached.
        let copy = py.detach(|| {
            lock(&self.inner).bond.as_ref().map(|bond| match &bond.state {
                Either::F32(o) => Either::F32(export(&bond.model.get().network, o)),
                Either::F64(o) => Either::F64(export(&bond.model.get().network, o)),
            })
        });
        fn fill<T: Real>(py: Python<'_>, dict: &Bound<'_, PyDict>, arrays: Arrays<T>) -> PyResult<()> {
            arrays.into_iter().try_for_each(|(name, flat)| dict.set_item(name, vector_out(py, flat)))
        }
        let dict = PyDict::new(py);
        let steps = match copy {
            None => 0,
            Some(Either::F32((steps, arrays))) => fill(py, &dict, arrays).map(|()| steps)?,
            Some(Either::F64((steps, arrays))) => fill(py, &dict, arrays).map(|()| steps)?,
        };
        Ok((steps, dict.unbind()))
    }

    fn set_state(
        &self,
        py: Python<'_>,
        model: &Bound<'_, Model>,
        steps: u64,
        arrays: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        fn import<T: Real>(
            config: Config,
            model: &Model,
            steps: u64,
            arrays: &Bound<'_, PyDict>,
        ) -> PyResult<AnyOptimizer> {
            let py = arrays.py();
            let names = config.state_names();
            let mut optimizer =
                CoreOptimizer::<T>::new(config, model.network.arena_len()).map_err(|e| translate(py, e))?;
            let fresh = steps == 0 && arrays.is_empty();
            let has = |name: &&str| arrays.contains(name).unwrap_or(false);
            if !fresh && (arrays.len() != names.len() || !names.iter().all(has)) {
                let text = format!("the state has arrays {}, expected {names:?}", arrays.keys());
                return Err(translate(py, Error::Mismatch(text)));
            }
            for (name, arena) in names.iter().zip(&mut optimizer.state) {
                let Some(array) = arrays.get_item(name)? else { continue };
                let flat = vector::<T>(name, &array, model.network.num_parameters())?;
                model.network.import(&flat, arena);
            }
            optimizer.steps = steps;
            Ok(T::wrap_optimizer(optimizer))
        }
        let config = py.detach(|| lock(&self.inner).config);
        let owner = model.get();
        let state = match owner.dtype {
            Dtype::F32 => import::<f32>(config, owner, steps, arrays)?,
            Dtype::F64 => import::<f64>(config, owner, steps, arrays)?,
        };
        let bond = Bond { model: model.clone().unbind(), state };
        let before = py.detach(|| lock(&self.inner).bond.replace(bond));
        drop(before);
        Ok(())
    }
}
