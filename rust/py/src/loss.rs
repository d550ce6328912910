//! Losses: parsed from the tuples that represent them, and evaluated on given outputs.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use thalweg_core::loss::{Loss, Objective, Reduction, RowLoss};
use thalweg_core::simd::Isa;
use thalweg_core::view::MatMut;
use thalweg_core::{Dtype, Element, Error};

use crate::arrays::{Answers, Matrix, Weights, matrix_out, room, vector_out};
use crate::dtype::{Real, with_dtype};
use crate::errors::translate;

/// The loss that a tuple represents: its name, the reduction, per-column numbers, and its other numbers.
pub fn parse_loss<T: Real>(spec: &Bound<'_, PyTuple>) -> PyResult<Objective<T>> {
    let number = |i: usize| -> PyResult<f64> { spec.get_item(3 + i)?.extract() };
    let flag = |i: usize| -> PyResult<bool> { spec.get_item(3 + i)?.extract() };
    let (kind, reduction): (String, String) = (spec.get_item(0)?.extract()?, spec.get_item(1)?.extract()?);
    let constants: Vec<f64> = spec.get_item(2)?.extract()?;
    let mut heads = Vec::new();
    let loss = match kind.as_str() {
        "mse" => Loss::Mse,
        "l1" => Loss::L1,
        "huber" => Loss::Huber { delta: number(0)? },
        "cross_entropy" => {
            heads = spec.get_item(5)?.extract()?;
            Loss::CrossEntropy { smoothing: number(0)?, ignore: spec.get_item(4)?.extract()? }
        }
        "bce_with_logits" => Loss::BceWithLogits,
        "gaussian_nll" => Loss::GaussianNll { full: flag(0)?, eps: number(1)? },
        "poisson_nll" => Loss::PoissonNll { log_input: flag(0)?, full: flag(1)?, eps: number(2)? },
        "quantile" => Loss::Quantile,
        "distillation" => Loss::Distillation { temperature: number(0)? },
        _ => {
            let accepted = "one of mse, l1, huber, cross_entropy, bce_with_logits, gaussian_nll, poisson_nll, quantile, \
                 distillation is needed";
            let error = Error::argument("loss", format!("{kind:?}"), accepted);
            return Err(translate(spec.py(), error));
        }
    };
    let reduction = if reduction == "sum" { Reduction::Sum } else { Reduction::Mean };
    Ok(Objective { loss, reduction, constants: constants.into_iter().map(T::lit).collect(), heads })
}

/// The loss of given outputs, the losses of single rows and, if wanted, the gradient with respect to the
/// outputs.
#[pyfunction]
#[pyo3(signature = (loss, output, target, sample_weight=None, *, gradient))]
pub fn loss_of(
    py: Python<'_>,
    loss: &Bound<'_, PyTuple>,
    output: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    sample_weight: Option<&Bound<'_, PyAny>>,
    gradient: bool,
) -> PyResult<(f64, Py<PyAny>, Option<Py<PyAny>>)> {
    let dtype = if Matrix::<f32>::new("output", output).is_ok() { Dtype::F32 } else { Dtype::F64 };
    with_dtype!(dtype, T => {
        let objective = parse_loss::<T>(loss)?;
        let (output, target) = (Matrix::<T>::new("output", output)?, Answers::<T>::new("target", target)?);
        let weights = Weights::<T>::new("sample_weight", sample_weight)?;
        let (output, goals) = (output.view(), weights.with(target.view()));
        let (rows, cols) = (output.rows(), output.cols());
        let found = py.detach(|| {
            let isa = Isa::detect().map_err(Error::Unsupported)?;
            let mut losses = vec![RowLoss::default(); rows];
            let mut grad = room::<T>("the gradient", if gradient { rows } else { 0 }, cols)?;
            let into = gradient.then(|| MatMut::new(&mut grad, rows, cols));
            let value = objective.of_outputs(isa, output, goals, into, &mut losses)?;
            let elements = objective.elements(cols) as f64;
            let losses = losses.iter().map(|row| T::lit(row.loss / elements)).collect();
            Ok((value, losses, grad))
        });
        let (value, losses, grad): (f64, Vec<T>, Vec<T>) = found.map_err(|e| translate(py, e))?;
        let grad = gradient.then(|| matrix_out(py, grad, rows, cols)).transpose()?;
        Ok((value, vector_out(py, losses), grad))
    })
}
