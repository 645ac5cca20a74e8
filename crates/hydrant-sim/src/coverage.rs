//! What runs reached, as tables; and the cells that many runs must reach.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::plan::Store;

/// So many seeds from the fixed beginning must reach every cell that [`required`] lists.
pub const SEEDS: u64 = 4_000;

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

/// How often each cell was reached.
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

    /// All tables as text. A cell that must be reached and is not shows `!`, one that cannot be reached `.`
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

/// Faults that strike at every place.
const EVERYWHERE: &str = "refuse deny fail fail-after hang hang-after slow slow-after late panic panic-after \
                          crash crash-after";

/// Each row with the columns that it must reach.
const REQUIRED: &[(Table, &str, &str)] = &[
    (Table::Places, "primary", "end lose fork restore"),
    (Table::Places, "inner primary", "end"),
    (Table::Places, "sink", "partial lose forget"),
];

/// The cells that [`SEEDS`] seeds must reach. Written down here and not taken from the generator, so that a generator
/// that no longer makes a fault is noticed.
fn required() -> Vec<(Table, &'static str, &'static str)> {
    let places = Store::NAMES.iter().map(|place| (Table::Places, *place, EVERYWHERE));
    let rows = REQUIRED.iter().copied().chain(places);
    rows.flat_map(|(table, row, columns)| columns.split_whitespace().map(move |column| (table, row, column)))
        .collect()
}
