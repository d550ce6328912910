//! All memory of a plan, allocated once as one flat buffer, and where everything lies in it.

mod kept;

use std::ops::Range;

use crate::arena::{Buffer, padded, reserve};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::split::split_len;
use crate::layer::batch_norm::{COLUMNS, GROUP};
use crate::loss::RowLoss;
use crate::network::{Identity, Network};
use crate::plan::{Mode, Plan};
use crate::threads::{self, Trial};

pub(crate) use self::kept::Workspaces;

/// Where the parts of a stage start in the workspace. A part that is not needed has no elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageSlots {
    /// Output of the stage, rows × outputs.
    pub output: usize,
    /// Saved derivative of the activation, rows × outputs.
    pub saved: Option<usize>,
    /// Input of the normalization, rows × outputs.
    pub before_norm: Option<usize>,
    /// What is known about each column of the normalization; see
    /// [`batch_norm::Columns`](crate::layer::batch_norm::Columns).
    pub columns: usize,
    /// Two sums per group of batch rows and per column of the normalization.
    pub groups: usize,
    /// Mean and inverse deviation of each row, for a normalization over rows; rows × 2.
    pub moments: usize,
    /// Gradient of the loss with respect to the activation's input, rows × outputs.
    pub delta: usize,
    /// Weights split into parts for the forward product, if it uses parts.
    pub split: usize,
    /// The stage's input, transposed into panels for the weight gradient.
    pub input_panels: usize,
    /// `delta` copied into panels for the weight gradient.
    pub delta_panels: usize,
    /// Weights transposed for the backward product, split into parts if it uses parts. In shards each thread
    /// has its own copy, and this counts from the start of the thread's part.
    pub transposed: usize,
}

/// Bytes between the memory of two threads: prefetching beyond the end of one thread's part would take cache
/// lines from the next thread, which would then wait for them as if they were shared.
const APART: usize = 4096;

/// Where everything lies.
///
/// Each thread has a part of its own, which holds its scratch and, in shards, its transposed weights and, if
/// blocks [take turns](Plan::by_turns), its rows. All these places are counted from the start of the part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows of a wave, gathered: rows × inputs.
    pub input: usize,
    /// The slots of each stage.
    pub stages: Vec<StageSlots>,
    /// Where thread 0's part starts; that of thread t starts t · `own_len` later.
    own: usize,
    /// Elements from the start of one thread's part to the next.
    own_len: usize,
    /// A thread's scratch, within its part.
    scratch: Range<usize>,
    /// Gradients summed from wave to wave, in the order of the arena, or the gradients of each shard; empty
    /// if there are neither waves nor shards.
    pub gradients: Range<usize>,
    /// Number of elements in total.
    pub len: usize,
}

impl Layout {
    /// Lays out the workspace of a plan. For a step with B rows in the workspace at once (a wave, or the
    /// batch) on t threads, it takes this many elements, not counting padding to cache lines:
    ///
    /// ```text
    /// B·in + Σ over stages (2·B·out + B·in, if the input is copied + B·out, if its gradient is)
    ///      + Σ over all but the first in·out            transposed weights of up to 2 MiB each
    ///      + t·scratch                                  a tile, and blocks of rows
    ///      + all parameters, if there are several waves, or for each shard
    /// ```
    ///
    /// In shards, B is the number of rows of a block, for each thread, and each thread has its own transposed
    /// weights; if forward and backward are separate passes, all rows are kept. Added to this are the
    /// derivatives that activations save and the inputs of normalizations, B·out each, and sums over groups
    /// of rows. Where products use p parts, numbers that are copied or transposed take p/2 elements each, and
    /// the weights are also split untransposed.
    pub fn new<T: Element>(network: &Network, plan: &Plan) -> Self {
        let (mut len, mut own_len) = (0, 0);
        let mut place = |own: bool, elements: usize| {
            let len = if own { &mut own_len } else { &mut len };
            let start = *len;
            *len += padded::<T>(elements);
            start
        };
        let training = plan.mode != Mode::Inference;
        let (sharded, by_turns) = (plan.in_shards(), plan.by_turns());
        let rows = if training { plan.kept_rows() } else { 0 };
        let input = place(by_turns, rows * network.inputs());
        let stages = network
            .stages()
            .iter()
            .zip(&plan.stages)
            .map(|(stage, planned)| {
                let (k, n) = (stage.inputs, stage.outputs);
                let backward = planned.is_some_and(|p| p.backward.is_some_and(|b| !b.pack_b));
                let parts = planned.map_or(0, |p| p.forward.precision.parts());
                let panels = |lanes: usize, k: usize| match parts {
                    0 => lanes * k,
                    _ => split_len(lanes, k, parts),
                };
                let (x, dy) = planned.map_or((false, false), |p| (p.pack_input, p.pack_delta));
                let mut place_if =
                    |wanted: bool, elements: usize| place(by_turns, if wanted { elements } else { 0 });
                StageSlots {
                    output: place_if(true, rows * n),
                    saved: (training && stage.act.saves_derivative()).then(|| place_if(true, rows * n)),
                    before_norm: (training && stage.norm.is_some()).then(|| place_if(true, rows * n)),
                    columns: place_if(stage.norm.is_some(), COLUMNS * n),
                    groups: place_if(stage.norm.is_some(), plan.rows.div_ceil(GROUP) * 2 * n),
                    moments: place_if(stage.norm.is_some_and(|n| !n.over_batch()), rows * 2),
                    delta: place_if(true, rows * n),
                    split: place_if(parts > 0, panels(n, k)),
                    input_panels: place_if(x, panels(k, rows)),
                    delta_panels: place_if(dy, panels(n, rows)),
                    transposed: place(sharded, if backward { panels(k, n) } else { 0 }),
                }
            })
            .collect();
        let scratch_len = padded::<T>(plan.scratch) + padded::<T>(plan.tile_scratch);
        let scratch = place(true, scratch_len);
        let sums = match plan.shards {
            1 if !plan.in_waves() => 0,
            n => n * network.arena_len(),
        };
        let gradients = place(false, sums);
        own_len += APART / size_of::<T>();
        Layout {
            input,
            stages,
            own: len,
            own_len,
            scratch: scratch..scratch + scratch_len,
            gradients: gradients..gradients + sums,
            len: len + plan.threads * own_len,
        }
    }

    /// Where a thread's part starts.
    pub fn own(&self, worker: usize) -> usize {
        self.own + worker * self.own_len
    }

    /// A thread's scratch.
    pub fn scratch(&self, worker: usize) -> Range<usize> {
        self.own(worker) + self.scratch.start..self.own(worker) + self.scratch.end
    }
}

/// The plan of a short step for one thread alone, which may be sooner. Separate forward and backward passes
/// must find data in the same places, so they keep the plan they have.
fn alone<T: Element>(network: &Network, plan: &Plan) -> Option<(Plan, Layout)> {
    (plan.is_short() && plan.mode != Mode::Apart).then(|| {
        let target = (plan.isa, plan.precision);
        let alone = Plan::in_precision::<T>(network, plan.mode, plan.rows, target, 1);
        let layout = Layout::new::<T>(network, &alone);
        (Plan { asked: plan.asked, ..alone }, layout)
    })
}

fn len(layout: &Layout, other: &Option<(Plan, Layout)>) -> usize {
    layout.len.max(other.as_ref().map_or(0, |(_, other)| other.len))
}

/// Bytes of memory that a pass with a plan takes.
pub fn bytes<T: Element>(network: &Network, plan: &Plan) -> usize {
    Workspace::<T>::without_memory(network, plan.clone()).needed()
}

/// A plan with its memory.
pub struct Workspace<T> {
    /// The network that the plan is for.
    network: Identity,
    /// The plan that the next pass runs.
    pub plan: Plan,
    /// Where its data lie.
    pub layout: Layout,
    /// The alternative, which uses the same memory: a short step has one plan for all the threads that may be
    /// worth it, and one for a single thread.
    other: Option<(Plan, Layout)>,
    /// The memory.
    pub values: Buffer<T>,
    /// The stamp of the parameters whose transposed weights are in the memory, if there are any.
    pub transposed: Option<u64>,
    /// The loss of each row.
    pub losses: Vec<RowLoss>,
    /// Measure which of the two plans is faster: for passes that start from the input, and for separate
    /// backward passes.
    pub trials: [Trial; 2],
}

impl<T: Element> Workspace<T> {
    /// Allocates what `plan` needs.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(network: &Network, plan: Plan) -> Result<Self, Error> {
        let mut workspace = Self::without_memory(network, plan);
        workspace.equip(Memory::default())?;
        Ok(workspace)
    }

    /// The same instead of one that is not needed any more, in its memory unless that is far too large.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn instead(of: Option<Self>, network: &Network, plan: Plan) -> Result<Self, Error> {
        let mut workspace = Self::without_memory(network, plan);
        let most = Self::SPARE.max(4 * workspace.needed());
        let old = of.filter(|old| old.held() <= most);
        workspace.equip(old.map(|mut old| old.memory()).unwrap_or_default())?;
        Ok(workspace)
    }

    /// Bytes of spare memory that are reused in any case.
    const SPARE: usize = 4 << 20;

    /// What `plan` needs, except for memory.
    fn without_memory(network: &Network, plan: Plan) -> Self {
        let layout = Layout::new::<T>(network, &plan);
        let other = alone::<T>(network, &plan);
        let (network, trials) = (network.identity(), Default::default());
        let Memory { values, losses } = Memory::default();
        Workspace { network, plan, layout, other, values, transposed: None, losses, trials }
    }

    /// Bytes of memory that it needs.
    fn needed(&self) -> usize {
        len(&self.layout, &self.other) * size_of::<T>() + self.plan.rows * size_of::<RowLoss>()
    }

    /// Bytes of memory that it has.
    fn held(&self) -> usize {
        self.values.len() * size_of::<T>() + self.losses.capacity() * size_of::<RowLoss>()
    }

    /// Whether it has memory.
    fn is_equipped(&self) -> bool {
        self.losses.len() == self.plan.rows
    }

    /// Sees to its memory: takes `spare` if that is enough, otherwise allocates.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn equip(&mut self, spare: Memory<T>) -> Result<(), Error> {
        let (needed, Memory { values, mut losses }) = (len(&self.layout, &self.other), spare);
        self.transposed = None;
        self.values = match values.len() >= needed {
            true => values,
            false => {
                drop(values);
                Buffer::zeroed("the workspace of a pass", needed)?
            }
        };
        losses.clear();
        reserve("losses of rows", &mut losses, self.plan.rows)?;
        losses.resize(self.plan.rows, RowLoss::default());
        self.losses = losses;
        Ok(())
    }

    /// Takes its memory away, if it has any.
    fn memory(&mut self) -> Memory<T> {
        let values = std::mem::replace(&mut self.values, Buffer::empty());
        Memory { values, losses: std::mem::take(&mut self.losses) }
    }

    /// Switches to the plan with as many threads as the next pass should have. Returns whether the choice is
    /// still being tried out.
    pub fn turn(&mut self) -> bool {
        let Workspace { plan, layout, other, trials: [trial, _], .. } = self;
        if let Some(other) = other
            && trial.alone() != (plan.threads == 1)
        {
            std::mem::swap(plan, &mut other.0);
            std::mem::swap(layout, &mut other.1);
            self.transposed = None;
        }
        other.is_some() || plan.is_short()
    }

    /// Whether this workspace fits such a pass over this network, with as many threads as are allowed now.
    pub fn serves(&self, network: &Network, mode: Mode, rows: usize) -> bool {
        let Plan { mode: planned, rows: kept, asked, .. } = self.plan;
        let threads = threads::num_threads().0;
        self.network.is(network.identity()) && (planned, kept, asked) == (mode, rows, threads)
    }

    /// Fills everything with NaN, so that a test notices whatever is read before it is written; nothing is kept
    /// from earlier passes.
    #[cfg(test)]
    pub fn poison(&mut self) {
        self.transposed = None;
        self.values.fill(T::lit(f64::NAN));
        self.losses.fill(RowLoss { loss: f64::NAN, right: f64::NAN });
    }
}

/// What a workspace computes in.
struct Memory<T> {
    values: Buffer<T>,
    losses: Vec<RowLoss>,
}

impl<T: Element> Default for Memory<T> {
    fn default() -> Self {
        Memory { values: Buffer::empty(), losses: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Activation, Init, Layer, Linear};
    use crate::simd::Isa;

    #[test]
    fn a_short_step_has_turns_of_one_thread_in_the_same_memory() {
        let linear = |inputs, outputs| {
            Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
        };
        let network = Network::new(vec![linear(4, 64), linear(64, 64), linear(64, 2)]).unwrap();
        let workspace = |mode, rows| {
            let plan = Plan::new::<f32>(&network, mode, rows, Isa::Scalar, 2);
            let bytes = bytes::<f32>(&network, &plan);
            let workspace = Workspace::<f32>::new(&network, plan).unwrap();
            assert_eq!(workspace.held(), bytes);
            workspace
        };
        let threads = |mut workspace: Workspace<f32>| -> (bool, String) {
            let mut tried = false;
            let threads = (0..10).map(|_| {
                let before = workspace.plan.threads;
                workspace.transposed = Some(1);
                tried |= workspace.turn();
                // The other plan may keep them elsewhere.
                assert_eq!(workspace.transposed.is_none(), workspace.plan.threads != before);
                workspace.trials[0].run(|| ());
                let own = workspace.layout.own(workspace.plan.threads);
                assert!(workspace.layout.len == own && own <= workspace.values.len());
                char::from_digit(workspace.plan.threads as u32, 10).unwrap()
            });
            let threads = threads.collect();
            (tried, threads)
        };
        assert_eq!(threads(workspace(Mode::Step, 64)), (true, "2222211111".into()));
        assert_eq!(threads(workspace(Mode::Step, 200)), (true, "2222211111".into()), "in shards");
        assert_eq!(
            threads(workspace(Mode::Apart, 200)),
            (true, "2222222222".into()),
            "the plan is one for both passes"
        );
        assert_eq!(threads(workspace(Mode::Step, 5000)), (false, "2222222222".into()), "a long one");
        assert_eq!(threads(workspace(Mode::Step, 5)), (false, "1111111111".into()), "next to nothing");
    }

    #[test]
    fn a_workspace_instead_of_another_takes_its_memory_unless_that_is_far_too_large() {
        let _turn = crate::tests::THREADS.lock().unwrap();
        let linear = Linear { inputs: 64, outputs: 300, bias: true, init: Init::KaimingUniform };
        let network = Network::new(vec![Layer::Linear(linear)]).unwrap();
        let plan = |rows| Plan::new::<f32>(&network, Mode::Apart, rows, Isa::Scalar, 2);
        let held = |w: &Workspace<f32>| (w.values.as_ptr(), w.values.len());
        let mut before = Workspace::new(&network, plan(20_000)).unwrap();
        let large = held(&before);
        before.losses[19_999] = RowLoss { loss: 1.0, right: 1.0 };
        let some = Workspace::instead(Some(before), &network, plan(10_000)).unwrap();
        assert_eq!(held(&some), large);
        assert_eq!(some.losses, vec![RowLoss::default(); 10_000]);
        let few = Workspace::instead(Some(some), &network, plan(32)).unwrap();
        assert!(held(&few).1 < large.1 / 100, "a step of few rows does not hold the memory of many");
        let many = Workspace::instead(Some(few), &network, plan(20_000)).unwrap();
        assert_eq!(held(&many).1, large.1);
    }

    #[test]
    fn a_workspace_is_as_large_as_the_formula_says() {
        for (widths, rows, threads) in [
            (&[64, 100, 10][..], 200, 1),
            (&[64, 100, 10], 200, 2),
            (&[64, 100, 10], 2000, 1),
            (&[784, 400, 400, 10], 128, 2),
            (&[2, 256, 256, 256, 3], 4096, 2),
            (&[1024, 4096, 1024], 512, 2),
        ] {
            let layers = widths.windows(2).flat_map(|w| {
                let linear = Linear { inputs: w[0], outputs: w[1], bias: true, init: Init::KaimingUniform };
                [Layer::Linear(linear), Layer::Activation(Activation::Relu)]
            });
            let network = Network::new(layers.collect()).unwrap();
            let plan = Plan::new::<f32>(&network, Mode::Step, rows, Isa::Scalar, threads);
            let copies = if plan.in_shards() { plan.threads } else { 1 };
            let b = copies * plan.kept_rows();
            let mut want = b * widths[0] + plan.threads * (plan.scratch + plan.tile_scratch + APART / 4);
            for (i, (w, planned)) in widths.windows(2).zip(&plan.stages).enumerate() {
                let planned = planned.unwrap();
                let small = size_of::<f32>() * w[0] * w[1] <= 2 << 20;
                want += 2 * b * w[1] + if i > 0 && small { copies * w[0] * w[1] } else { 0 };
                want += if planned.pack_input { b * w[0] } else { 0 };
                want += if planned.pack_delta { b * w[1] } else { 0 };
            }
            want +=
                if plan.in_waves() || plan.in_shards() { plan.shards * network.num_parameters() } else { 0 };
            let len = Layout::new::<f32>(&network, &plan).len;
            let rounding = 16 * (8 * plan.stages.len() * copies + 2 * plan.threads + 8);
            assert!(len >= want && len <= want + rounding, "{widths:?}: {len}, not {want}");
        }
    }
}
