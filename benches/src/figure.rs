//! Figures: what was measured, and what was wanted.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Result, median, scratch};

/// One thing, measured in several rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Whose values these are.
    pub label: String,
    /// One value for each round, in order.
    pub values: Vec<f64>,
}

impl Series {
    /// Without a value yet.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), values: Vec::new() }
    }

    /// Adds the value of the next round.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value of the middle round.
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The lowest and the highest.
    pub fn range(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64| self.values.iter().copied().fold(f64::NAN, pick);
        (fold(f64::min), fold(f64::max))
    }

    /// The ratio to another series: the middle one of the rounds' own.
    pub fn ratio(&self, other: &Self) -> f64 {
        let ratios: Vec<f64> =
            self.values.iter().zip(&other.values).map(|(ours, theirs)| ours / theirs).collect();
        median(&ratios)
    }
}

/// What a value should be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Bound {
    /// This, or more.
    AtLeast(f64),
    /// This, or less.
    AtMost(f64),
}

/// A value beside what was wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What the value is, with its unit: `of the raw loop`, `events/s`.
    pub what: String,
    /// The value.
    pub value: f64,
    /// What was wanted.
    pub bound: Bound,
}

impl Check {
    /// Whether it is what was wanted.
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
        }
    }
}

/// One measurement: ours first, and what took turns with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The unit of all values.
    pub unit: String,
    /// Ours first.
    pub series: Vec<Series>,
    /// What was wanted.
    pub checks: Vec<Check>,
    /// What a reader has to know to understand the values.
    pub note: String,
    /// The title of its part of the chart, if it is in the chart.
    pub chart: Option<String>,
}

impl Figure {
    /// A measurement; `series` begins with ours.
    pub fn new(name: impl Into<String>, unit: &str, series: Vec<Series>) -> Self {
        let (name, unit) = (name.into(), unit.to_owned());
        Self { name, unit, series, checks: Vec::new(), note: String::new(), chart: None }
    }

    /// Wants our ratio to the series `other` to be like this.
    #[must_use]
    pub fn wants_ratio(self, other: usize, what: &str, bound: Bound) -> Self {
        let value = self.series[0].ratio(&self.series[other]);
        self.wants(what, value, bound)
    }

    /// Wants our median to be like this.
    #[must_use]
    pub fn wants_median(self, bound: Bound) -> Self {
        let (value, unit) = (self.series[0].median(), self.unit.clone());
        self.wants(&unit, value, bound)
    }

    /// Wants a value to be like this.
    #[must_use]
    pub fn wants(mut self, what: &str, value: f64, bound: Bound) -> Self {
        self.checks.push(Check { what: what.to_owned(), value, bound });
        self
    }

    /// Explains.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Shows it in the chart.
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
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
}

impl Section {
    fn path(name: &str) -> PathBuf {
        scratch().join(format!("{name}.json"))
    }

    /// What was measured last; `None` where it never was.
    ///
    /// # Errors
    /// What reading it meets.
    pub fn load(name: &str) -> Result<Option<Self>> {
        match fs::read(Self::path(name)) {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause.into()),
        }
    }

    /// Keeps it, and prints it.
    ///
    /// # Errors
    /// What writing it meets.
    pub fn save(&self, name: &str) -> Result<()> {
        fs::create_dir_all(scratch())?;
        fs::write(Self::path(name), serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }
}

/// Tells a figure on the terminal as soon as it is known.
pub fn tell(figure: &Figure) {
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

/// A number as a person reads it: three digits that count, thousands set apart.
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
