//! `Optimizer`: hyper-parameters, and the state that belongs to one model.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use thalweg_core::arena::zeros;
use thalweg_core::network::Network;
use thalweg_core::optim::{
    Clock, Clocks, Config, Group, Optimizer as CoreOptimizer, Options, Scalars, Value,
};
use thalweg_core::simd::Isa;
use thalweg_core::update::Clip;
use thalweg_core::{Dtype, Error};

use crate::arrays::{vector, vector_out};
use crate::dtype::{Any, AnyOptimizer, Kind, Real, either, with_dtype};
use crate::errors::translate;
use crate::locks::Lock;
use crate::model::Model;

/// The state, and the model that it belongs to.
struct Bond {
    model: Py<Model>,
    state: AnyOptimizer,
}

struct Inner {
    config: Config,
    groups: Vec<Group>,
    bond: Option<Bond>,
}

/// An optimizer. Its first step binds it to a model.
#[pyclass(frozen, module = "thalweg._core")]
pub struct Optimizer {
    inner: Lock<Inner>,
}

/// A hyper-parameter as given by Python.
#[derive(FromPyObject)]
enum Given {
    Number(f64),
    Name(String),
}

impl From<Given> for Value {
    fn from(given: Given) -> Value {
        match given {
            Given::Number(x) => Value::Number(x),
            Given::Name(text) => Value::Name(text),
        }
    }
}

fn options(given: BTreeMap<String, Given>) -> Options {
    given.into_iter().map(|(name, value)| (name, value.into())).collect()
}

impl Optimizer {
    /// Runs `f` on the optimizer's state for `model`; must be called detached.
    pub fn locked<T: Real, R>(
        &self,
        model: &Py<Model>,
        f: impl FnOnce(&mut CoreOptimizer<T>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut inner = self.inner.lock();
        let Inner { config, groups, bond } = &mut *inner;
        let new = bond.is_none();
        let bond = match bond {
            Some(bond) => bond,
            empty => {
                let mut state = CoreOptimizer::new(*config, &model.get().network)?;
                state.set_groups(groups, &model.get().network)?;
                let state = T::wrap(state);
                // Attached only for the moment of counting a reference. No lock is taken while attached, so
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
        let state = T::of(&mut bond.state).expect("of the model's precision");
        state.config = *config;
        let result = f(state);
        *config = state.config; // a schedule may have set the learning rate
        if new && result.is_err() {
            inner.bond = None; // as before this call: it may still step another model
        }
        result
    }
}

/// The state's scalars, and the time of each block that was frozen during some steps, whose scalars are named
/// "steps of 0.weight" and so on; `None` if something is missing, or if there is anything else.
fn scalars_of(config: &Config, named: &BTreeMap<String, f64>) -> Option<(Vec<f64>, Clocks)> {
    let names: Vec<_> = config.scalars().iter().map(|scalar| scalar.name).collect();
    let all = |of: &str| -> Option<Vec<f64>> {
        names.iter().map(|name| named.get(&format!("{name}{of}")).copied()).collect()
    };
    let late = named.iter().filter_map(|(name, steps)| Some((name.strip_prefix("steps of ")?, *steps)));
    let clocks = late.map(|(block, steps)| {
        let mut clock = Clock { steps: steps as u64, scalars: Scalars::default() };
        clock.scalars[..names.len()].copy_from_slice(&all(&format!(" of {block}"))?);
        (clock.steps as f64 == steps).then(|| (block.to_owned(), clock))
    });
    let (own, clocks) = (all("")?, clocks.collect::<Option<Vec<_>>>()?);
    let expected = names.len() + clocks.len() * (1 + names.len());
    (named.len() == expected).then_some((own, clocks))
}

#[pymethods]
impl Optimizer {
    #[new]
    fn new(py: Python<'_>, kind: &str, options: BTreeMap<String, Given>) -> PyResult<Self> {
        let config = Config::new(kind, &self::options(options)).map_err(|e| translate(py, e))?;
        Ok(Optimizer { inner: Lock::new(Inner { config, groups: Vec::new(), bond: None }) })
    }

    /// Adds a parameter group; what is left out is as in earlier groups, or as the optimizer has it.
    #[pyo3(signature = (pattern, changes, lr_scale=None, frozen=None))]
    fn add_group(
        &self,
        py: Python<'_>,
        pattern: String,
        changes: BTreeMap<String, Given>,
        lr_scale: Option<f64>,
        frozen: Option<bool>,
    ) -> PyResult<()> {
        let changes = options(changes);
        let add = || {
            let mut inner = self.inner.lock();
            inner.config.with(&changes)?;
            let mut groups = inner.groups.clone();
            groups.push(Group { pattern, changes, lr_scale, frozen });
            if let Some(Bond { model, state }) = &mut inner.bond {
                let network = &model.get().network;
                either!(state, state => state.set_groups(&groups, network)?);
            }
            inner.groups = groups;
            Ok(())
        };
        py.detach(add).map_err(|e| translate(py, e))
    }

    /// Sets hyper-parameters, from the next step on.
    fn set_options(&self, py: Python<'_>, changes: BTreeMap<String, Given>) -> PyResult<()> {
        let changes = options(changes);
        let set = || {
            let mut inner = self.inner.lock();
            let config = inner.config.with(&changes)?;
            let Inner { groups, bond, .. } = &mut *inner;
            match bond {
                Some(Bond { model, state }) => {
                    let network = &model.get().network;
                    either!(state, state => state.set_config(config, groups, network)?);
                }
                None => groups.iter().try_for_each(|group| config.with(&group.changes).map(drop))?,
            }
            inner.config = config;
            Ok(())
        };
        py.detach(set).map_err(|e| translate(py, e))
    }

    #[getter]
    fn lr(&self, py: Python<'_>) -> f64 {
        py.detach(|| self.inner.lock().config.lr())
    }

    #[getter]
    fn is_elementwise(&self, py: Python<'_>) -> bool {
        py.detach(|| self.inner.lock().config.is_elementwise())
    }

    #[getter]
    fn steps(&self, py: Python<'_>) -> u64 {
        py.detach(|| match &self.inner.lock().bond {
            Some(bond) => either!(&bond.state, state => state.steps),
            None => 0,
        })
    }

    fn set_lr(&self, py: Python<'_>, lr: f64) -> PyResult<()> {
        py.detach(|| self.inner.lock().config.set_lr(lr)).map_err(|e| translate(py, e))
    }

    /// Clips a model's gradients, without those of frozen parameters.
    fn clip(
        &self,
        py: Python<'_>,
        model: &Bound<'_, Model>,
        norm: Option<f64>,
        value: Option<f64>,
    ) -> PyResult<f64> {
        let clip = norm.map(Clip::Norm).or(value.map(Clip::Value)).expect("one of the two");
        let (owner, model) = (model.as_unbound(), model.get());
        with_dtype!(model.dtype, T => model.detached::<T, _>(py, |m| {
            self.locked::<T, _>(owner, |o| m.clip_gradients(clip, o.frozen()))
        }))
    }

    /// Whether its state belongs to this model.
    fn belongs(&self, py: Python<'_>, model: &Bound<'_, Model>) -> bool {
        let owner = model.as_ptr() as usize;
        py.detach(|| {
            self.inner.lock().bond.as_ref().is_some_and(|bond| bond.model.as_ptr() as usize == owner)
        })
    }

    fn step(&self, py: Python<'_>, model: &Bound<'_, Model>) -> PyResult<()> {
        let (owner, model) = (model.as_unbound(), model.get());
        with_dtype!(model.dtype, T => model.detached::<T, _>(py, |m| {
            self.locked::<T, _>(owner, |o| m.apply(o))
        }))
    }

    fn state(&self, py: Python<'_>) -> PyResult<(u64, Py<PyDict>, Py<PyDict>)> {
        type Arrays<T> = Vec<(&'static str, Vec<T>)>;
        struct Copies;
        impl Kind for Copies {
            type Of<T: Real> = Arrays<T>;
        }
        fn export<T: Real>(
            isa: Isa,
            network: &Network,
            optimizer: &CoreOptimizer<T>,
        ) -> Result<Arrays<T>, Error> {
            let config = &optimizer.config;
            let slots = config.slots().into_iter().zip(&optimizer.state);
            let kept = slots.filter(|(slot, _)| slot.kept);
            let arrays = kept.map(|(slot, array)| {
                let mut flat =
                    zeros("a copy of the optimizer's state", config.public_length(&slot, network))?;
                config.export(isa, &slot, network, array, &mut flat);
                Ok((slot.name, flat))
            });
            arrays.collect()
        }
        // Copied detached, because a fit may hold the lock; turned into arrays attached.
        let copy = py.detach(|| {
            let inner = self.inner.lock();
            let scalars = inner.config.scalars();
            let copy = |bond: &Bond| {
                let Model { network, isa, .. } = bond.model.get();
                let arrays: Any<Copies> = match &bond.state {
                    Any::F32(o) => Any::F32(export(*isa, network, o)?),
                    Any::F64(o) => Any::F64(export(*isa, network, o)?),
                };
                let (steps, values, clocks) =
                    either!(&bond.state, o => (o.steps, o.scalars, o.clocks(network)));
                let names: Vec<_> = scalars.iter().map(|scalar| scalar.name).collect();
                let pairs = |values: Scalars| names.clone().into_iter().zip(values);
                let mut named: Vec<_> = pairs(values).map(|(name, x)| (name.to_owned(), x)).collect();
                for (block, Clock { steps, scalars }) in clocks {
                    let own = std::iter::once(("steps", steps as f64)).chain(pairs(scalars));
                    named.extend(own.map(|(name, x)| (format!("{name} of {block}"), x)));
                }
                Ok((steps, named, arrays))
            };
            inner.bond.as_ref().map(copy).transpose()
        });
        fn fill<T: Real>(py: Python<'_>, dict: &Bound<'_, PyDict>, arrays: Arrays<T>) -> PyResult<()> {
            arrays.into_iter().try_for_each(|(name, flat)| dict.set_item(name, vector_out(py, flat)))
        }
        let (scalars, dict) = (PyDict::new(py), PyDict::new(py));
        let Some((steps, values, arrays)) = copy.map_err(|e| translate(py, e))? else {
            return Ok((0, scalars.unbind(), dict.unbind()));
        };
        for (name, value) in values {
            scalars.set_item(name, value)?;
        }
        either!(arrays, arrays => fill(py, &dict, arrays)?);
        Ok((steps, scalars.unbind(), dict.unbind()))
    }

    fn set_state(
        &self,
        py: Python<'_>,
        model: &Bound<'_, Model>,
        changes: BTreeMap<String, Given>,
        steps: u64,
        scalars: BTreeMap<String, f64>,
        arrays: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        fn import<T: Real>(
            (config, groups): (Config, &[Group]),
            model: &Model,
            steps: u64,
            scalars: &BTreeMap<String, f64>,
            arrays: &Bound<'_, PyDict>,
        ) -> PyResult<AnyOptimizer> {
            let py = arrays.py();
            let fail = |e| translate(py, e);
            let mut optimizer = CoreOptimizer::<T>::new(config, &model.network).map_err(fail)?;
            optimizer.set_groups(groups, &model.network).map_err(fail)?;
            let slots = config.slots();
            let expected: Vec<_> = slots.iter().filter(|s| s.kept).map(|s| s.name).collect();
            let fresh = steps == 0 && arrays.is_empty() && scalars.is_empty();
            let has = |name: &&str| arrays.contains(name).unwrap_or(false);
            if !fresh && (arrays.len() != expected.len() || !expected.iter().all(has)) {
                let text =
                    format!("the optimizer's state has arrays {}, expected {expected:?}", arrays.keys());
                return Err(fail(Error::Mismatch(text)));
            }
            let (values, clocks) = match scalars_of(&config, scalars) {
                Some(found) => found,
                None if fresh => Default::default(),
                None => {
                    let expected: Vec<_> = config.scalars().iter().map(|s| s.name).collect();
                    let text = format!(
                        "the optimizer's state has scalars {:?}, expected {expected:?}",
                        scalars.keys()
                    );
                    return Err(fail(Error::Mismatch(text)));
                }
            };
            for (slot, into) in slots.iter().zip(&mut optimizer.state) {
                let Some(array) = arrays.get_item(slot.name)? else { continue };
                let flat = vector::<T>(slot.name, &array, config.public_length(slot, &model.network))?;
                slot.check(&flat).map_err(fail)?;
                config.import(model.isa, slot, &model.network, &flat, into);
            }
            if !fresh {
                optimizer.set_scalars(&values).map_err(fail)?;
            }
            optimizer.steps = steps;
            optimizer.set_clocks(&clocks, &model.network).map_err(fail)?;
            Ok(T::wrap(optimizer))
        }
        let changes = options(changes);
        let settings = || {
            let inner = self.inner.lock();
            let config = inner.config.with(&changes)?;
            Ok((config, inner.groups.clone()))
        };
        let (config, groups) = py.detach(settings).map_err(|e| translate(py, e))?;
        let owner = model.get();
        let state = match owner.dtype {
            Dtype::F32 => import::<f32>((config, &groups), owner, steps, &scalars, arrays)?,
            Dtype::F64 => import::<f64>((config, &groups), owner, steps, &scalars, arrays)?,
        };
        let bond = Bond { model: model.clone().unbind(), state };
        let before = py.detach(|| {
            let mut inner = self.inner.lock();
            inner.config = config;
            inner.bond.replace(bond)
        });
        drop(before);
        Ok(())
    }
}
