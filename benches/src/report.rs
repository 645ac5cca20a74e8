//! docs/BENCHMARKS.md and its chart, from the figures that were kept.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use hydrant_benches::Result;
use hydrant_benches::figure::{Bound, Check, Figure, Section, Series, short};

use crate::chart;

/// Sections in the order of the page: name and title.
const SECTIONS: [(&str, &str); 5] = [
    ("append", "Append"),
    ("peers", "Append, beside other logs and databases"),
    ("replay", "Replay"),
    ("seek", "A log of 10 GB"),
    ("fanout", "Fan-out"),
];
const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Puts the figures into the page, between its marks, and draws the chart. What people wrote stays.
pub(crate) fn write() -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let path = docs.join("BENCHMARKS.md");
    let page = fs::read_to_string(&path)?;
    let marks = page.find(BEGIN).zip(page.find(END));
    let (begin, end) = marks.ok_or("docs/BENCHMARKS.md has lost the marks that the figures stand between")?;

    let mut sections = Vec::new();
    for (name, title) in SECTIONS {
        match Section::load(name)? {
            Some(section) => sections.push((title, section)),
            None => eprintln!("warning: section {name:?} was not measured; the page is without it"),
        }
    }
    let figures: Vec<&Figure> = sections.iter().flat_map(|(_, section)| &section.figures).collect();
    fs::write(docs.join("benchmarks.svg"), chart::draw(&figures))?;
    let text =
        format!("{}{}{}{}", &page[..begin + BEGIN.len()], body(&sections), END, &page[end + END.len()..]);
    fs::write(&path, text)?;

    let checks = || figures.iter().flat_map(|figure| &figure.checks);
    println!(
        "{} of {} wanted ratios and limits hold",
        checks().filter(|check| check.holds()).count(),
        checks().count()
    );
    Ok(())
}

fn body(sections: &[(&str, Section)]) -> String {
    let mut out = String::new();
    let mut machines: Vec<&str> = sections.iter().map(|(_, section)| section.machine.as_str()).collect();
    machines.dedup();
    writeln!(out, "\nMeasured on: {}.\n", machines.join("; then ")).expect("a string takes everything");
    for (title, section) in sections {
        writeln!(out, "### {title}\n").expect("a string takes everything");
        out.push_str("| | median | lowest to highest | | wanted | |\n|---|--:|--:|---|---|---|\n");
        for figure in &section.figures {
            rows(&mut out, figure);
        }
        out.push('\n');
        for figure in section.figures.iter().filter(|figure| !figure.note.is_empty()) {
            writeln!(out, "- {}: {}", figure.name, figure.note).expect("a string takes everything");
        }
        out.push('\n');
    }
    out
}

/// A figure: its name in a row of its own, then a row for each series; the checks stand beside them.
fn rows(out: &mut String, figure: &Figure) {
    writeln!(out, "| **{}**, {} | | | | | |", figure.name, figure.unit).expect("a string takes everything");
    for at in 0..figure.series.len().max(figure.checks.len()) {
        let (label, median, range) = figure.series.get(at).map(cells).unwrap_or_default();
        let (value, wanted, holds) = figure.checks.get(at).map(check).unwrap_or_default();
        writeln!(out, "| {label} | {median} | {range} | {value} | {wanted} | {holds} |")
            .expect("a string takes everything");
    }
}

fn cells(series: &Series) -> (String, String, String) {
    let (min, max) = series.range();
    (series.label.clone(), short(series.median()), format!("{} to {}", short(min), short(max)))
}

fn check(check: &Check) -> (String, String, String) {
    let wanted = match check.bound {
        Bound::AtLeast(bound) => format!("at least {}", short(bound)),
        Bound::AtMost(bound) => format!("at most {}", short(bound)),
    };
    let holds = if check.holds() { "yes" } else { "**missed**" };
    (format!("**{}** {}", short(check.value), check.what), wanted, holds.to_owned())
}
