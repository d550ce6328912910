//! What can be wrong with a call. Each variant carries the place, and what was found and expected.

use std::fmt;

/// An error of the core. A call that returns one has changed nothing, unless its documentation says so.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// Consecutive layers do not fit.
    LayerWidth {
        /// Place of the layer that cannot take its input: `2`, or `2.0` inside a block.
        layer: String,
        /// What it is, for example `Linear 64→10`.
        name: String,
        /// The width it expects.
        expected: usize,
        /// The width it would get.
        found: usize,
    },
    /// A block's output has another width than its input, so the two cannot be added.
    BlockWidth {
        /// Place of the block.
        layer: String,
        /// The width of its input.
        inputs: usize,
        /// The width of its output.
        outputs: usize,
    },
    /// The input is not as wide as the first layer expects.
    InputWidth {
        /// Place of the layer that takes the input.
        layer: String,
        /// What it is.
        name: String,
        /// Rows of the input.
        rows: usize,
        /// Its width.
        found: usize,
        /// The width the layer expects.
        expected: usize,
    },
    /// There are no rows.
    Empty,
    /// x and what belongs to it differ in length.
    Lengths {
        /// Rows of x.
        x: usize,
        /// The other argument.
        what: &'static str,
        /// Its rows.
        found: usize,
    },
    /// The targets do not have the width that the loss needs.
    TargetWidth {
        /// The loss.
        loss: &'static str,
        /// The network's outputs.
        outputs: usize,
        /// The width of the targets that belongs to them.
        wanted: usize,
        /// Width of the targets.
        found: usize,
    },
    /// The loss needs numbers and got labels.
    TargetKind {
        /// The loss.
        loss: &'static str,
    },
    /// A target for which the loss is not defined.
    Target {
        /// The loss.
        loss: &'static str,
        /// Row of the first such target.
        row: usize,
        /// Its column.
        column: usize,
        /// The target.
        value: f64,
        /// What is accepted.
        accepted: &'static str,
    },
    /// The network does not have as many outputs as the loss needs.
    LossOutputs {
        /// The loss.
        loss: &'static str,
        /// What it has or needs.
        wanted: String,
        /// The network's outputs.
        outputs: usize,
    },
    /// The weight of a row is negative or not finite.
    Weight {
        /// The row.
        row: usize,
        /// The weight.
        value: f64,
    },
    /// No row counts, so there is no mean.
    NothingCounts,
    /// A label is a class that does not take part.
    Inactive {
        /// Its row.
        row: usize,
        /// The label.
        label: i64,
    },
    /// A number in a category column is not a code.
    Code {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The number.
        value: f64,
        /// How many codes there are.
        codes: usize,
    },
    /// A label is not a class.
    Label {
        /// Its row.
        row: usize,
        /// The label.
        label: i64,
        /// The network's outputs.
        classes: usize,
    },
    /// NaN or infinity in the data.
    NotFinite {
        /// The argument.
        argument: &'static str,
        /// Row of the first such number.
        row: usize,
        /// Its column.
        column: usize,
        /// The number.
        value: f64,
    },
    /// NaN or infinity in a flat vector.
    NotFiniteAt {
        /// The argument.
        argument: &'static str,
        /// Where the first such number is.
        index: usize,
        /// The number.
        value: f64,
    },
    /// The loss became NaN or infinite with finite data: training diverged.
    Diverged {
        /// The loss.
        loss: f64,
        /// Optimizer steps taken before it.
        step: u64,
        /// The learning rate.
        lr: f64,
    },
    /// A variance before a BatchNorm1d is not finite, although the input is.
    VarianceOverflow,
    /// An update made a parameter, or the optimizer's state, infinite.
    StepOverflow {
        /// Which of them.
        what: &'static str,
        /// Number of the update, from 1.
        step: u64,
        /// Its learning rate.
        lr: f64,
    },
    /// Parameters have been NaN or infinite since an earlier call.
    Lost {
        /// The learning rate.
        lr: f64,
    },
    /// A model that is to be followed holds NaN or infinity.
    Astray {
        /// Where.
        name: String,
        /// The number.
        value: f64,
    },
    /// The outputs became NaN or infinite although the input is finite: the weights are too large.
    Overflow {
        /// Row of the first such output.
        row: usize,
        /// Its column.
        column: usize,
        /// The output.
        value: f64,
    },
    /// A gradient with respect to the output does not have the output's shape.
    GradientShape {
        /// Its shape.
        found: (usize, usize),
        /// The output's.
        expected: (usize, usize),
    },
    /// Something is wrong with the validation data.
    Validation(Box<Error>),
    /// An array does not fit into memory.
    Memory {
        /// What it is for.
        what: &'static str,
        /// Its elements.
        elements: usize,
    },
    /// A hyper-parameter is out of range.
    Argument {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is accepted.
        accepted: String,
    },
    /// Two things do not belong together: an optimizer and another model, a gradient and no forward pass.
    Mismatch(String),
    /// The machine or this build cannot do it.
    Unsupported(String),
}

impl Error {
    /// The error of a call with the rows from `start` on, as that of a call with all `rows` of them.
    pub fn in_part(mut self, start: usize, all: usize) -> Self {
        match &mut self {
            Error::Code { row, .. } | Error::NotFinite { row, .. } | Error::Overflow { row, .. } => {
                *row += start
            }
            Error::InputWidth { rows, .. } => *rows = all,
            _ => {}
        }
        self
    }
}

impl Error {
    /// An argument that is out of range: what its value is, and what would be accepted.
    pub fn argument(name: &'static str, value: impl fmt::Display, accepted: impl Into<String>) -> Self {
        Error::Argument { name, value: value.to_string(), accepted: accepted.into() }
    }
}

/// `Ok` if it is a finite number ≥ 0.
pub(crate) fn non_negative(name: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(name, value, "a finite number >= 0 is needed"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::LayerWidth { layer, name, expected, found } => {
                write!(f, "layer {layer} ({name}): its input has {found} features, expected {expected}")
            }
            Error::BlockWidth { layer, inputs, outputs } => write!(
                f,
                "layer {layer} (Residual): its layers turn {inputs} features into {outputs}; both numbers must be \
                 the same, since input and output are added"
            ),
            Error::InputWidth { layer, name, rows, found, expected } => write!(
                f,
                "layer {layer} ({name}): input has shape ({rows}, {found}), expected ({rows}, {expected})"
            ),
            Error::Empty => f.write_str("the input has no rows; at least one is needed"),
            Error::Lengths { x, what, found } => {
                write!(f, "x has {x} rows but {what} has {found}; they must have the same length")
            }
            Error::TargetWidth { outputs, wanted, found, .. } if outputs == wanted => {
                let (c, o) = (plural(*found), plural(*outputs));
                write!(
                    f,
                    "y has {found} column{c} but the network has {outputs} output{o}; y needs one column for each \
                     output"
                )
            }
            Error::TargetWidth { loss, outputs, wanted, found } => write!(
                f,
                "y has {found} column{}, but {loss} needs {wanted} for a network with {outputs} output{}",
                plural(*found),
                plural(*outputs)
            ),
            Error::TargetKind { loss } => {
                write!(f, "y must be numbers of shape (n, k) for {loss}; got class labels")
            }
            Error::Target { loss, row, column, value, accepted } => {
                write!(f, "y[{row}, {column}] is {value}, but {loss} takes {accepted}")
            }
            Error::LossOutputs { loss, wanted, outputs } => {
                write!(f, "{loss}: {wanted}, but the network has {outputs} output{}", plural(*outputs))
            }
            Error::Weight { row, value } => {
                write!(f, "sample_weight[{row}] is {value}; a finite number >= 0 is needed")
            }
            Error::NothingCounts => f.write_str(
                "no row counts: each has a sample_weight of 0, an ignored label, or a label whose class has weight 0",
            ),
            Error::Label { row, label, classes: 1 } => write!(
                f,
                "y[{row}] is {label}, but the network has 1 output, which allows label 0 only: use one output for \
                 each class, or BCEWithLogitsLoss for two classes"
            ),
            Error::Label { row, label, classes } => write!(
                f,
                "y[{row}] is {label}, but the network has {classes} outputs: labels must be from 0 to {}",
                *classes as i64 - 1
            ),
            Error::Code { row, column, value, codes } => write!(
                f,
                "x[{row}, {column}] is {value}, but column {column} holds categories: codes must be whole \
                 numbers from 0 to {}",
                codes - 1
            ),
            Error::Inactive { row, label } => write!(
                f,
                "y[{row}] is {label}, which is not an active class: its probability would be 0 and the loss \
                 infinite; add {label} to the loss's `active`"
            ),
            Error::NotFinite { argument, row, column, value } if value.is_finite() => {
                let largest = f32::MAX;
                write!(
                    f,
                    "{argument}[{row}, {column}] = {value:e} is too large for float32, whose largest number is \
                     {largest:e}; scale {argument}, or use a model with dtype=\"float64\""
                )
            }
            Error::NotFinite { argument, row, column, value } => {
                write!(f, "{argument}[{row}, {column}] is {value}; remove or replace NaN and infinity first")
            }
            Error::NotFiniteAt { argument: argument @ "gradients", index, value } => write!(
                f,
                "{argument}[{index}] is {value}: scale the data or the loss, or use a model with dtype=\"float64\""
            ),
            Error::NotFiniteAt { argument, index, value } => {
                write!(f, "{argument}[{index}] is {value}; remove or replace NaN and infinity first")
            }
            Error::Diverged { loss, step, lr } => write!(
                f,
                "the loss became {loss} after {step} optimizer step{} with lr={lr:?}: (a) the learning rate is too \
                 large, try a tenth of it; (b) inputs or targets are badly scaled, standardize them; (c) weights \
                 were set to huge values. Weights and optimizer are as they were before this call",
                plural(*step as usize)
            ),
            Error::VarianceOverflow => f.write_str(
                "the mean or variance computed by a BatchNorm1d is not finite although x is: x or the weights are too \
                 large; scale x, or retrain with a smaller learning rate",
            ),
            Error::StepOverflow { what, step, lr } => write!(
                f,
                "{what} became infinite in step {step} with lr={lr:?}: gradients, or their squares, are too large; \
                 standardize inputs and targets, clip gradients, or use dtype=\"float64\". Weights and optimizer are as \
                 they were before this call"
            ),
            Error::Lost { lr } => write!(
                f,
                "a parameter has been NaN or infinite since an earlier step, when lr={lr:?} or the gradients were too \
                 large: continue from an earlier save, or from a new model, with a smaller learning rate or clipped \
                 gradients"
            ),
            Error::Astray { name, value } => write!(
                f,
                "the model to follow holds {value} in {name}: its training diverged. Follow an earlier save of it, or \
                 a new model; this one is as it was before this call"
            ),
            Error::Overflow { row, column, value } => write!(
                f,
                "output[{row}, {column}] is {value} although the input is finite: the weights are too large; \
                 retrain with a smaller learning rate, or set them to smaller values"
            ),
            Error::GradientShape { found, expected } => write!(
                f,
                "grad_output has shape {found:?}, but the output of the last forward pass had shape {expected:?}"
            ),
            Error::Validation(error) => write!(f, "validation_data: {error}"),
            Error::Memory { what, elements } => {
                write!(
                    f,
                    "there is not enough memory for {what}: {elements} elements; use narrower layers, or fewer rows"
                )
            }
            Error::Argument { name, value, accepted } => write!(f, "{name} is {value}; {accepted}"),
            Error::Mismatch(text) | Error::Unsupported(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// The plural ending of a noun after a number.
fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
