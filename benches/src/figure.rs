//! Figures: what was measured, and the targets.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Result, median, scratch};

/// One thing, measured in several rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub label: String,
    /// One value for each round, in order.
    pub values: Vec<f64>,
}

impl Series {
    /// Creates a series without values.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), values: Vec::new() }
    }

    /// Adds the value of the next round.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Returns the median of all rounds.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// Returns the lowest and the highest value.
    pub fn range(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64| self.values.iter().copied().fold(f64::NAN, pick);
        (fold(f64::min), fold(f64::max))
    }

    /// Returns the ratio to another series: the median of the ratios of the rounds.
    pub fn ratio(&self, other: &Self) -> f64 {
        let ratios: Vec<f64> =
            self.values.iter().zip(&other.values).map(|(ours, theirs)| ours / theirs).collect();
        median(&ratios)
    }
}

/// The target for a value.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Bound {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// A value and its target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What the value is, with its unit: `of the raw loop`, `events/s`.
    pub what: String,
    /// The value.
    pub value: f64,
    /// The target.
    pub bound: Bound,
}

impl Check {
    /// Returns whether the value meets its target.
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }
}

/// One measurement: Hydrant's series first, then those that took turns with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The unit of all values.
    pub unit: String,
    /// Hydrant's series first.
    pub series: Vec<Series>,
    /// The targets.
    pub checks: Vec<Check>,
    /// What a reader needs to understand the values.
    pub note: String,
    /// The title of its part of the chart, if it is in the chart.
    pub chart: Option<String>,
}

impl Figure {
    /// Creates a measurement; `series` begins with Hydrant's.
    pub fn new(name: impl Into<String>, unit: &str, series: Vec<Series>) -> Self {
        let (name, unit) = (name.into(), unit.to_owned());
        Self { name, unit, series, checks: Vec::new(), note: String::new(), chart: None }
    }

    /// Sets a target for Hydrant's ratio to the series `other`.
    #[must_use]
    pub fn wants_ratio(self, other: usize, what: &str, bound: Bound) -> Self {
        let value = self.series[0].ratio(&self.series[other]);
        self.wants(what, value, bound)
    }

    /// Sets a target for Hydrant's median.
    #[must_use]
    pub fn wants_median(self, bound: Bound) -> Self {
        let (value, unit) = (self.series[0].median(), self.unit.clone());
        self.wants(&unit, value, bound)
    }

    /// Sets a target for a value.
    #[must_use]
    pub fn wants(mut self, what: &str, value: f64, bound: Bound) -> Self {
        self.checks.push(Check { what: what.to_owned(), value, bound });
        self
    }

    /// Sets the note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Shows the figure in the chart, with this title.
    #[must_use]
    pub fn chart(mut self, title: &str) -> Self {
        self.chart = Some(title.to_owned());
        self
    }
}

/// A section's figures, kept until the section is measured again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Section {
    /// The machine, in one line.
    pub machine: String,
    /// The figures in the order in which they were measured.
    pub figures: Vec<Figure>,
}

impl Section {
    fn path(name: &str) -> PathBuf {
        scratch().join(format!("{name}.json"))
    }

    /// Loads the section as it was measured last; `None` if it never was measured.
    ///
    /// # Errors
    /// If the file cannot be read or decoded.
    pub fn load(name: &str) -> Result<Option<Self>> {
        match fs::read(Self::path(name)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Saves the section.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, name: &str) -> Result<()> {
        fs::create_dir_all(scratch())?;
        fs::write(Self::path(name), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

/// Prints a figure on the terminal as soon as it is known.
pub fn print(figure: &Figure) {
    println!("{}", figure.name);
    for series in &figure.series {
        let (min, max) = series.range();
        let (label, unit) = (&series.label, &figure.unit);
        println!("  {label:<44} {:>14} {unit}  ({} to {})", short(series.median()), short(min), short(max));
    }
    for check in &figure.checks {
        let mark = if check.holds() { "ok    " } else { "MISSED" };
        let (sign, bound) = match check.bound {
            Bound::AtLeast(bound) => ("at least", bound),
            Bound::AtMost(bound) => ("at most", bound),
        };
        println!("  {mark} {} {} ({sign} {})", short(check.value), check.what, short(bound));
    }
    if !figure.note.is_empty() {
        println!("  {}", figure.note);
    }
}

/// Formats a number for reading: three significant digits, with separated thousands.
pub fn short(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    if value.abs() < 99.95 {
        let digits = if value.abs() < 9.995 { 2 } else { 1 };
        return format!("{value:.digits$}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
