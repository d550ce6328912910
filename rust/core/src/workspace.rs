//! All memory of a plan, allocated once: where everything is, in one flat buffer.

use crate::arena::{Buffer, padded};
use crate::element::Element;
use crate::error::Error;
use crate::loss::RowLoss;
use crate::network::Network;
use crate::plan::{Mode, Plan};

/// Where the parts of a stage start in the workspace. A part that is not needed has no elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageSlots {
    /// Output of the stage, rows × outputs.
    pub output: usize,
    /// Saved derivative of the activation, rows × outputs.
    pub saved: Option<usize>,
    /// Gradient of the loss by what the activation takes, rows × outputs.
    pub delta: usize,
    /// Weights packed for the forward product.
    pub packed_forward: usize,
    /// Weights packed for the backward product.
    pub packed_backward: usize,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows of the batch, gathered: rows × inputs.
    pub input: usize,
    /// By stage.
    pub stages: Vec<StageSlots>,
    /// Scratch of thread 0; thread t's is t times `scratch_len` behind.
    pub scratch: usize,
    /// Elements of a thread's scratch.
    pub scratch_len: usize,
    /// Elements in all.
    pub len: usize,
}

impl Layout {
    /// Lays out the workspace of a plan.
    pub fn new<T: Element>(network: &Network, plan: &Plan) -> Self {
        let mut len = 0;
        let mut place = |elements: usize| {
            let start = len;
            len += padded::<T>(elements);
            start
        };
        let training = plan.mode != Mode::Inference;
        let rows = if training { plan.rows } else { 0 };
        let input = place(rows * network.inputs());
        let stages = network
            .stages()
            .iter()
            .zip(&plan.stages)
            .map(|(stage, planned)| {
                let (k, n) = (stage.inputs, stage.outputs);
                let forward = planned.is_some_and(|p| p.forward_packed);
                let backward = planned.is_some_and(|p| p.backward.is_some());
                StageSlots {
                    output: place(rows * n),
                    saved: (training && stage.act.saves_derivative()).then(|| place(rows * n)),
                    delta: place(rows * n),
                    packed_forward: place(if forward { plan.packed_len::<T>(k, n) } else { 0 }),
                    packed_backward: place(if backward { plan.packed_len::<T>(n, k) } else { 0 }),
                }
            })
            .collect();
        let scratch_len = padded::<T>(plan.scratch) + padded::<T>(plan.tile_scratch);
        let scratch = place(scratch_len * plan.threads);
        Layout { input, stages, scratch, scratch_len, len }
    }
}

/// A plan with its memory.
pub struct Workspace<T> {
    /// What runs.
    pub plan: Plan,
    /// Where its data are.
    pub layout: Layout,
    /// The memory.
    pub values: Buffer<T>,
    /// The loss of each row.
    pub losses: Vec<RowLoss>,
}

impl<T: Element> Workspace<T> {
    /// Allocates what `plan` needs.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(network: &Network, plan: Plan) -> Result<Self, Error> {
        let layout = Layout::new::<T>(network, &plan);
        let values = Buffer::zeroed("the workspace of a pass", layout.len)?;
        let losses = vec![RowLoss::default(); plan.rows];
        Ok(Workspace { plan, layout, values, losses })
    }

    /// Fills everything with NaN, so that a test sees whatever is read before it is written.
    #[cfg(test)]
    pub fn poison(&mut self) {
        self.values.fill(T::lit(f64::NAN));
        self.losses.fill(RowLoss { loss: f64::NAN, correct: true });
    }
}
