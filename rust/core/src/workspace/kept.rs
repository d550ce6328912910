//! Workspaces that are kept for passes to come.

use super::{Memory, Workspace};
use crate::element::Element;
use crate::error::Error;
use crate::gemm::Precision;
use crate::network::Network;
use crate::plan::{Mode, Plan};
use crate::simd::Isa;
use crate::threads;

/// The plans of the latest shapes, and the memory that those of one mode share: a training loop has two shapes
/// (its last batch is shorter); where something learns whenever something happens, there are many.
pub(crate) struct Workspaces<T> {
    kept: Vec<Kept<T>>,
    /// Which of them was used last.
    latest: usize,
    precision: Precision,
    /// How many passes there have been.
    passes: usize,
}

/// A workspace, and the pass that last used it. Only the one that was used last of its mode has memory.
struct Kept<T> {
    /// Those of its plan, so that a search touches little memory.
    mode: Mode,
    rows: usize,
    used: usize,
    workspace: Box<Workspace<T>>,
}

impl<T> Default for Workspaces<T> {
    fn default() -> Self {
        Workspaces { kept: Vec::new(), latest: 0, precision: Precision::Full, passes: 0 }
    }
}

impl<T: Element> Workspaces<T> {
    /// How many are kept at most.
    const KEPT: usize = 128;
    /// Those are dropped that have not been used in so many passes, and memory of which the others need less
    /// than half: an epoch that is as long hardly notices that its validation needs new memory.
    const IDLE: usize = 1024;

    /// Without workspaces yet, for passes that train in this precision.
    pub fn of(precision: Precision) -> Self {
        Workspaces { precision, ..Self::default() }
    }

    /// The workspace for a mode and a number of rows, created if necessary.
    ///
    /// # Errors
    /// If there is not enough memory, or this machine lacks the precision.
    pub fn get(
        &mut self,
        network: &Network,
        isa: Isa,
        mode: Mode,
        rows: usize,
    ) -> Result<&mut Workspace<T>, Error> {
        self.passes += 1;
        if self.passes.is_multiple_of(Self::IDLE) {
            self.forget();
        }
        let is = |k: &Kept<T>| (k.mode, k.rows) == (mode, rows) && k.workspace.serves(network, mode, rows);
        let found = match self.kept.get(self.latest).is_some_and(is) {
            true => Some(self.latest),
            false => self.kept.iter().position(is),
        };
        self.latest = match found {
            Some(index) => index,
            None => {
                self.precision.check::<T>(isa)?;
                let threads = threads::num_threads().0;
                let plan = Plan::in_precision::<T>(network, mode, rows, (isa, self.precision), threads);
                self.kept.retain(|k| k.workspace.plan.asked == threads); // others serve no longer
                if self.kept.len() == Self::KEPT {
                    let oldest = (0..Self::KEPT).min_by_key(|&index| self.kept[index].used);
                    oldest.map(|index| self.kept.swap_remove(index));
                }
                let workspace = Box::new(Workspace::without_memory(network, plan));
                self.kept.push(Kept { mode, rows, used: 0, workspace });
                self.kept.len() - 1
            }
        };
        self.equip(mode)?;
        let kept = &mut self.kept[self.latest];
        kept.used = self.passes;
        Ok(&mut kept.workspace)
    }

    /// Sees to the memory of the latest, which is of this mode.
    fn equip(&mut self, mode: Mode) -> Result<(), Error> {
        let index = self.latest;
        if self.kept[index].workspace.is_equipped() {
            return Ok(());
        }
        let mut holders = self.kept.iter_mut().filter(|k| k.mode == mode && k.workspace.is_equipped());
        let spare = holders.next().map(|k| k.workspace.memory()).unwrap_or_default();
        match self.kept[index].workspace.equip(spare) {
            Err(Error::Memory { .. }) => {
                self.kept.iter_mut().for_each(|k| drop(k.workspace.memory()));
                self.kept[index].workspace.equip(Memory::default())
            }
            other => other,
        }
    }

    /// Forgets what has not been used for long.
    fn forget(&mut self) {
        let since = self.passes - Self::IDLE;
        self.kept.retain(|k| k.used > since);
        self.latest = 0;
        for index in 0..self.kept.len() {
            let mode = self.kept[index].mode;
            let needed = self.kept.iter().filter(|k| k.mode == mode).map(|k| k.workspace.needed()).max();
            if self.kept[index].workspace.held() > 2 * needed.unwrap_or(0) {
                self.kept[index].workspace.memory();
            }
        }
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.kept.iter().map(|k| k.workspace.held()).sum()
    }

    /// What the latest of them [keeps](Workspace::transposed).
    #[cfg(test)]
    pub fn transposed(&self) -> Option<u64> {
        self.kept.get(self.latest)?.workspace.transposed
    }

    #[cfg(test)]
    pub fn poison(&mut self) {
        self.kept.iter_mut().for_each(|k| k.workspace.poison());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Init, Layer, Linear};

    /// Where the workspace for so many rows of a small network lies.
    fn place(kept: &mut Workspaces<f32>, network: &Network, rows: usize) -> *const f32 {
        let workspace = kept.get(network, Isa::Scalar, Mode::Apart, rows).unwrap();
        assert!(workspace.values.len() >= workspace.layout.len);
        workspace.values.as_ptr()
    }

    #[test]
    fn shapes_share_the_memory_of_the_largest_and_not_for_long() {
        let _turn = crate::tests::THREADS.lock().unwrap();
        let linear = |inputs, outputs| {
            Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
        };
        let network = Network::new(vec![linear(64, 100), linear(100, 10)]).unwrap();
        let mut kept = Workspaces::<f32>::default();
        // Whole batches and the last one, in turns: memory is allocated once.
        let first = place(&mut kept, &network, 20_000);
        let one = kept.held();
        for rows in [19_000, 20_000, 18_000, 1, 20_000] {
            assert_eq!(place(&mut kept, &network, rows), first);
        }
        assert_eq!(kept.held(), one);
        // Another mode may have to leave alone what lies there.
        kept.get(&network, Isa::Scalar, Mode::Step, 32).unwrap();
        assert_eq!(place(&mut kept, &network, 20_000), first);

        for _ in 0..2 * Workspaces::<f32>::IDLE {
            kept.get(&network, Isa::Scalar, Mode::Apart, 32).unwrap();
        }
        assert!(kept.held() < one / 100, "small batches alone need little");
    }

    #[test]
    fn plans_of_many_shapes_are_kept_and_weights_are_transposed_anew_for_another() {
        let _turn = crate::tests::THREADS.lock().unwrap();
        let linear = Linear { inputs: 8, outputs: 4, bias: true, init: Init::KaimingUniform };
        let network = Network::new(vec![Layer::Linear(linear)]).unwrap();
        let mut kept = Workspaces::<f32>::default();
        let plan = |kept: &mut Workspaces<f32>, rows| {
            let workspace = kept.get(&network, Isa::Scalar, Mode::Apart, rows).unwrap();
            assert_eq!((workspace.plan.rows, workspace.losses.len()), (rows, rows));
            let fresh = workspace.transposed.replace(1).is_none();
            (std::ptr::from_ref(&workspace.plan), fresh)
        };
        let shapes = || (1..=Workspaces::<f32>::KEPT).rev();
        let plans: Vec<_> = shapes().map(|rows| plan(&mut kept, rows)).collect();
        assert!(plans.iter().all(|(_, fresh)| *fresh));
        for _ in 0..3 {
            assert_eq!(shapes().map(|rows| plan(&mut kept, rows)).collect::<Vec<_>>(), plans);
        }
        assert!(!plan(&mut kept, 1).1, "the same shape as before");
        plan(&mut kept, 1000);
        assert_eq!(kept.kept.len(), Workspaces::<f32>::KEPT);
    }
}
