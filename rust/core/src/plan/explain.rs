//! Describes a plan in words: what will run, where, and why.

use std::fmt::{self, Write};

use super::cut::{FEW_ROWS, PAIR_WORK, SHARDED_WORK, SHARDS, WORK_PER_THREAD};
use super::{Mode, Plan, RowStep, TileItem};
use crate::gemm::split::LANES;
use crate::gemm::{GemmPlan, Precision};
use crate::network::Network;

/// What a training step does with gradients.
pub struct Then<'a> {
    /// Whether gradients are wanted of the parameters that start at a place of the arena.
    pub wanted: &'a dyn Fn(usize) -> bool,
    /// Whether each is followed by its update.
    pub fused: bool,
}

impl Plan {
    /// Describes the plan of a pass over that network.
    pub fn explain(&self, network: &Network, then: &Then<'_>) -> String {
        let mut text = String::new();
        self.write(&mut text, network, then).expect("a String takes everything");
        text
    }

    fn write(&self, f: &mut String, network: &Network, then: &Then<'_>) -> fmt::Result {
        let wants = |stage: usize| network.starts(&network.stages()[stage]).any(then.wanted);
        let goes_through = |stage: usize| (0..stage).any(wants);
        let mode = match self.mode {
            Mode::Inference => "inference",
            Mode::Step => "training step",
            Mode::Gather => "part of a training step",
            Mode::Apart => "gradients",
            Mode::Frozen => "gradients, as in evaluation,",
        };
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        writeln!(
            f,
            "{mode} of {} rows on {} thread{}, {} kernels of {}x{}",
            self.rows,
            self.threads,
            plural(self.threads),
            self.isa,
            self.tile.mr,
            self.tile.nr
        )?;
        if self.threads == self.shards && self.in_shards() && self.threads < self.asked {
            writeln!(
                f,
                "  {} threads are allowed, but its {} shards are too few for more",
                self.asked, self.shards
            )?;
        } else if self.threads < self.asked {
            let least = match self.mode {
                _ if self.in_shards() => SHARDED_WORK / SHARDS.0,
                Mode::Step | Mode::Gather if self.threads == 1 => PAIR_WORK / 2,
                _ => WORK_PER_THREAD,
            };
            let (work, least) = (self.work as f64 / 1e6, least as f64 / 1e6);
            writeln!(
                f,
                "  {} threads are allowed, but its {work:.1} million multiply-adds are too few for more: each thread \
                 needs {least} million to be worth waking",
                self.asked
            )?;
        }
        if self.is_short() {
            writeln!(
                f,
                "  or on a single thread, whichever is measured to be faster: one wins where the others must be woken, \
                 run on distant cores, or share cores with other work"
            )?;
        }
        let waves = self.rows.div_ceil(self.wave_rows);
        if waves > 1 {
            let rows = self.wave_rows;
            writeln!(
                f,
                "in {waves} waves of {rows} rows, since activations of more rows would not fit the cache"
            )?;
        }
        let n = self.panels.iter().filter(|item| item.forward || goes_through(item.stage)).count();
        if n > 0 {
            let does = match self.precision {
                Precision::Full => "weights transposed, for gradients with respect to inputs",
                _ => "weights split, both as they are and transposed",
            };
            let unless = if self.renews_transposes() { ", unless the last step left them so" } else { "" };
            writeln!(f, "pack: {n} item{}: {does}{unless}", plural(n))?;
        }
        let n = self.blocks();
        if self.in_shards() {
            writeln!(
                f,
                "rows: {} shards of {} through all layers, {} at a time, each with its own gradients, since moving \
                 activations between cores would take longer than computing them",
                self.shards,
                self.shard_rows(),
                self.block_rows
            )?;
        } else {
            let alone = match n < self.threads && self.rows <= FEW_ROWS {
                true => ", on one thread: so few rows take less time than fetching weights from other cores",
                false => "",
            };
            writeln!(f, "rows: {n} block{} of {} through all layers{alone}", plural(n), self.block_rows)?;
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let Some(stage) = stage else {
                writeln!(f, "  stage {i}: element by element")?;
                continue;
            };
            if self.steps.contains(&RowStep::Measure(i)) {
                writeln!(
                    f,
                    "  stage {i}: interrupted twice, for statistics over all rows and for their gradients"
                )?;
            }
            let describe = |g: &GemmPlan| match g.pack_a {
                _ if g.precision != Precision::Full => {
                    let unit = if g.tiles { "tiles" } else { "vectors" };
                    format!(
                        "in blocks of {LANES}x{LANES} by {unit}, numbers split into {} bfloat16",
                        g.precision.parts()
                    )
                }
                true => {
                    format!("tiles of {} rows, copied in blocks of {}x{} (rows x depth)", g.rows, g.mc, g.kc)
                }
                false => format!("tiles of {} rows, read in place", g.rows),
            };
            let transposing = |g: &GemmPlan| if g.pack_b { ", weights transposed on the way" } else { "" };
            write!(f, "  stage {i}: forward {}", describe(&stage.forward))?;
            match stage.backward.filter(|_| goes_through(i)) {
                Some(backward) => {
                    writeln!(f, "; backward {}{}", describe(&backward), transposing(&backward))?
                }
                None => writeln!(f)?,
            }
        }
        let update = if then.fused { " and its update" } else { "" };
        let wanted = |tile: &TileItem| {
            let dense = network.stages()[tile.stage].dense;
            dense.is_some_and(|d| (then.wanted)(d.weight) || (tile.bias && d.bias.is_some_and(then.wanted)))
        };
        let n = self.tiles.iter().filter(|tile| wanted(tile)).count();
        if n > 0 {
            match self.in_shards() {
                true => {
                    let then = if then.fused { ", and updates are made from the sums" } else { "" };
                    writeln!(f, "weights: gradients of {} shards are added up{then}", self.shards)?;
                }
                false => writeln!(f, "weights: {n} tile{}, each a weight gradient{update}", plural(n))?,
            }
            for (i, stage) in self.stages.iter().enumerate() {
                let Some(stage) = stage else { continue };
                if !wants(i) {
                    writeln!(f, "  stage {i}: frozen")?;
                    continue;
                }
                let how = |copied: bool| match copied {
                    true if stage.weight.precision != Precision::Full => "split first",
                    true => "copied first (its rows are long, so reading down columns is slow)",
                    false => "read in place",
                };
                let (x, dy) = (how(stage.pack_input), how(stage.pack_delta));
                writeln!(f, "  stage {i}: input {x}; gradient of the output {dy}")?;
            }
        }
        if !self.tables.is_empty() && wants(0) {
            let n = self.tables.len();
            writeln!(f, "tables: {n} part{}, each a gradient over all rows{update}", plural(n))?;
        }
        write!(f, "scratch: {} elements per thread", self.scratch)
    }
}
