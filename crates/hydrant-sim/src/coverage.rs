//! Shows as tables what runs reached, and lists the cells that many runs must reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::plan::Store;

/// This many seeds from the fixed beginning must reach every cell that `required` lists.
pub const SEEDS: u64 = 6_000;

/// What the rows and columns of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Table {
    /// Operations, and how they ended.
    Outcomes,
    /// Places, and the faults that struck there.
    Places,
    /// Operations under way, and the faults that struck meanwhile.
    Faults,
    /// Topologies and sorts of sinks, and the states that they were seen in.
    States,
}

/// How many times each cell was reached.
#[derive(Clone, Debug, Default)]
pub struct Coverage(BTreeMap<(Table, String, String), u64>);

impl Coverage {
    pub fn add(&mut self, table: Table, row: &str, column: &str, count: u64) {
        *self.0.entry((table, row.to_owned(), column.to_owned())).or_default() += count;
    }

    pub fn join(&mut self, other: &Self) {
        for ((table, row, column), count) in &other.0 {
            self.add(*table, row, column, *count);
        }
    }

    fn count(&self, table: Table, row: &str, column: &str) -> u64 {
        self.0.get(&(table, row.to_owned(), column.to_owned())).copied().unwrap_or_default()
    }

    /// The cells that must be reached, and are not.
    pub fn missing(&self) -> Vec<String> {
        let is_missing = |(table, row, column): &(Table, &str, &str)| self.count(*table, row, column) == 0;
        let name = |(table, row, column)| format!("{table:?}: {row}, {column}");
        required().into_iter().filter(is_missing).map(name).collect()
    }

    /// All tables as text. An empty cell shows `!` if it must be reached, else `.`.
    pub fn tables(&self) -> String {
        let tables = [Table::Outcomes, Table::Places, Table::Faults, Table::States];
        tables.map(|table| self.table(table)).join("\n\n")
    }

    fn table(&self, table: Table) -> String {
        let required: BTreeSet<_> = required().into_iter().filter(|(of, ..)| *of == table).collect();
        let mine = || self.0.keys().filter(|(of, ..)| *of == table);
        let mut rows: BTreeSet<&str> = mine().map(|(_, row, _)| row.as_str()).collect();
        let mut columns: BTreeSet<&str> = mine().map(|(.., column)| column.as_str()).collect();
        rows.extend(required.iter().map(|(_, row, _)| row));
        columns.extend(required.iter().map(|(.., column)| column));
        let mut text = format!("{:<16}", format!("{table:?}").to_lowercase());
        for column in &columns {
            let _ = write!(text, "{column:>12}");
        }
        for row in rows {
            let _ = write!(text, "\n{row:<16}");
            for column in &columns {
                let cell = match self.count(table, row, column) {
                    0 if required.contains(&(table, row, column)) => "!".to_owned(),
                    0 => ".".to_owned(),
                    count => count.to_string(),
                };
                let _ = write!(text, "{cell:>12}");
            }
        }
        text
    }
}

/// Faults that strike at every place, and during every operation that takes time.
const FAULTS: &str = "refuse deny fail fail-after hang hang-after slow slow-after late panic panic-after crash \
                      crash-after";
/// How an operation that writes may end.
const WRITES: &str = "ok refused unknown failed dropped crashed";
const SECONDARY: &str = "starting catching-up live retrying parked detached";
const LOG: &str = "open closed diverged stale";

/// Each row with the columns that it must reach.
const REQUIRED: &[(Table, &str, &str)] = &[
    (Table::Outcomes, "append", WRITES),
    (Table::Outcomes, "append before", WRITES),
    (Table::Outcomes, "append blind", WRITES),
    (Table::Outcomes, "submit", WRITES),
    (Table::Outcomes, "snapshot", WRITES),
    (Table::Outcomes, "attach", WRITES),
    (Table::Outcomes, "detach", WRITES),
    (Table::Outcomes, "prune", WRITES),
    (Table::Outcomes, "follow", WRITES),
    (Table::Outcomes, "take", WRITES),
    (Table::Outcomes, "hydrate", "ok refused failed dropped crashed"),
    (Table::Outcomes, "slot", "ok failed dropped crashed"),
    (Table::Outcomes, "reopen journal", "ok refused dropped crashed"),
    (Table::Outcomes, "close", "ok dropped crashed"),
    (Table::Outcomes, "delivered", "ok dropped crashed"),
    (Table::Outcomes, "finished", "ok dropped crashed"),
    (Table::Outcomes, "reopen", "ok dropped crashed"),
    (Table::Outcomes, "read", "ok failed dropped"),
    (Table::Outcomes, "park", "ok failed"),
    (Table::Outcomes, "resume", "ok failed"),
    (Table::Outcomes, "cure", "ok failed"),
    (Table::Outcomes, "open follower", "ok"),
    (Table::Outcomes, "let go", "ok"),
    (Table::Outcomes, "cling", "ok"),
    (Table::Outcomes, "watch", "ok"),
    (Table::Outcomes, "status", "ok"),
    (Table::Outcomes, "clock", "ok"),
    (Table::Outcomes, "crash", "ok"),
    (Table::Places, "primary", "end lose fork restore refuse-late"),
    (Table::Places, "inner primary", "end"),
    (Table::Places, "sink", "partial lose forget"),
    (Table::States, "log: fan-out", LOG),
    (Table::States, "log: accepting", LOG),
    (Table::States, "log: journal", LOG),
    (Table::States, "log: acc. journal", LOG),
    (Table::States, "log: relay", LOG),
    (Table::States, "plain", SECONDARY),
    (Table::States, "buffered", SECONDARY),
    (Table::States, "forgetful", SECONDARY),
    (Table::States, "checkpointed", SECONDARY),
    (Table::States, "filtered", SECONDARY),
    (Table::States, "mapped", SECONDARY),
    (Table::States, "dead letter", SECONDARY),
    (Table::States, "picky", SECONDARY),
    (Table::States, "nested", SECONDARY),
];

/// Operations that take time, in which each fault must strike.
const WAITING: [&str; 18] = [
    "append",
    "append before",
    "append blind",
    "submit",
    "slot",
    "snapshot",
    "attach",
    "detach",
    "prune",
    "delivered",
    "close",
    "reopen",
    "reopen journal",
    "follow",
    "take",
    "read",
    "hydrate",
    "finished",
];

/// The cells that [`SEEDS`] seeds must reach. Written down here and not taken from the generator, so that a generator
/// that no longer makes a fault is noticed.
fn required() -> Vec<(Table, &'static str, &'static str)> {
    let places = Store::NAMES.iter().map(|place| (Table::Places, *place, FAULTS));
    let faults = WAITING.iter().map(|operation| (Table::Faults, *operation, FAULTS));
    let rows = REQUIRED.iter().copied().chain(places).chain(faults);
    rows.flat_map(|(table, row, columns)| columns.split_whitespace().map(move |column| (table, row, column)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_not_reached_is_missing() {
        let mut coverage = Coverage::default();
        for (table, row, column) in required() {
            coverage.add(table, row, column, 1);
        }
        assert_eq!(coverage.missing(), Vec::<String>::new());
        coverage.0.remove(&(Table::Places, "sink".to_owned(), "hang".to_owned()));
        assert_eq!(coverage.missing(), ["Places: sink, hang"]);
        assert!(coverage.tables().lines().any(|line| line.starts_with("sink") && line.contains(" !")));
    }
}
