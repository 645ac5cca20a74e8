//! What is printed: a failure with its plan and trace, the rate, and the tables of coverage.

use std::fmt::Write as _;

use crate::coverage::Coverage;
use crate::plan::Plan;
use crate::run::Outcome;
use crate::world::Failure;

/// What many runs showed together.
#[derive(Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub operations: u64,
    pub faults: u64,
    pub coverage: Coverage,
}

impl Totals {
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.operations += outcome.operations;
        self.faults += outcome.faults;
        for (table, row, column, count) in &outcome.covered {
            self.coverage.add(*table, row, column, *count);
        }
    }

    pub fn join(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.operations += other.operations;
        self.faults += other.faults;
        self.coverage.join(&other.coverage);
    }
}

/// Formats a failure for an engineer.
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
