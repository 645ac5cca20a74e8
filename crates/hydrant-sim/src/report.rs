//! What is printed: a failure with its plan and trace, the rate, and the table of coverage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::plan::Plan;
use crate::run::Outcome;
use crate::world::Failure;

/// What many runs showed together.
#[derive(Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub operations: u64,
    pub faults: u64,
    covered: BTreeMap<(String, String), u64>,
}

impl Totals {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.operations += outcome.operations;
        self.faults += outcome.faults;
        for (row, column, count) in &outcome.covered {
            *self.covered.entry((row.clone(), column.clone())).or_default() += count;
        }
    }

    pub fn join(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.faults += other.faults;
        for (cell, count) in &other.covered {
            *self.covered.entry(cell.clone()).or_default() += count;
        }
    }

    /// The table: how often a fault of each kind struck while an operation was under way, or at a store.
    pub fn table(&self) -> String {
        let columns: BTreeSet<_> = self.covered.keys().map(|(_, effect)| effect.clone()).collect();
        let rows: BTreeSet<_> = self.covered.keys().map(|(row, _)| row.clone()).collect();
        let mut table = format!("{:<16}", "");
        for column in &columns {
            let _ = write!(table, "{column:>12}");
        }
        for row in rows {
            let _ = write!(table, "\n{row:<16}");
            for column in &columns {
                let count = self.covered.get(&(row.clone(), column.clone())).copied().unwrap_or_default();
                let _ = write!(table, "{count:>12}");
            }
        }
        table
    }
}

/// A failure as an engineer reads it.
pub fn failure(plan: &Plan, failure: &Failure, trace: &[String], lines_max: usize) -> String {
    let mut text = format!("FAILED {}: {}\n", failure.checker, failure.message);
    let _ = writeln!(text, "config: {:?}", plan.config);
    for op in &plan.ops {
        let _ = writeln!(text, "op {:>4} actor {:>2}: {:?} {:?}", op.id, op.actor, op.act, op.patience);
    }
    for fault in &plan.faults {
        let _ = writeln!(text, "fault {:>2}: {} #{}: {:?}", fault.id, fault.site, fault.nth, fault.effect);
    }
    let skipped = trace.len().saturating_sub(lines_max);
    if skipped > 0 {
        let _ = writeln!(text, "... {skipped} lines before");
    }
    for line in &trace[skipped..] {
        let _ = writeln!(text, "{line}");
    }
    text
}
