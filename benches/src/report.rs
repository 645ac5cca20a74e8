//! Writes docs/BENCHMARKS.md and its chart from the saved figures.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use hydrant_benches::Result;
use hydrant_benches::figure::{Bound, Check, Figure, Section, Series, short};

use crate::chart;

/// Sections in the order of the page: name and title.
const SECTIONS: [(&str, &str); 10] = [
    ("append", "Append"),
    ("peers", "Append, beside other logs and databases"),
    ("replay", "Replay"),
    ("seek", "A log of 10 GB"),
    ("fanout", "Fan-out"),
    ("postgres", "Postgres"),
    ("postgres-peers", "Postgres, beside postgres-es"),
    ("s3", "S3"),
    ("kinesis", "Kinesis"),
    ("everywhere", "A fan-out to file, Postgres, S3 and Kinesis"),
];
const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Writes the figures into the page, between its marks, and draws the chart. The rest of the page is kept.
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
    let figures = || sections.iter().flat_map(|(_, section)| &section.figures);
    let checks = || figures().flat_map(|figure| figure.checks.iter().map(move |check| (figure, check)));
    let held = checks().filter(|(_, check)| check.holds()).count();
    writeln!(out, "{held} of {} wanted ratios and limits hold.\n", checks().count())
        .expect("a string takes everything");
    for (figure, missed) in checks().filter(|(_, check)| !check.holds()) {
        let (value, wanted, _) = check(missed);
        writeln!(out, "- Missed: {}, {value} ({wanted}).", figure.name).expect("a string takes everything");
    }
    out.push('\n');
    for (title, section) in sections {
        writeln!(out, "### {title}\n").expect("a string takes everything");
        for figure in &section.figures {
            table(&mut out, figure);
        }
    }
    out
}

/// Writes the values, then the targets.
fn table(out: &mut String, figure: &Figure) {
    writeln!(out, "| {}, {} | median | lowest to highest |\n|---|--:|--:|", figure.name, figure.unit)
        .expect("a string takes everything");
    for series in &figure.series {
        let (label, median, range) = cells(series);
        writeln!(out, "| {label} | {median} | {range} |").expect("a string takes everything");
    }
    out.push('\n');
    for (value, wanted, holds) in figure.checks.iter().map(check) {
        writeln!(out, "- {value}; wanted: {wanted}; {holds}").expect("a string takes everything");
    }
    if !figure.note.is_empty() {
        writeln!(out, "- {}", figure.note).expect("a string takes everything");
    }
    out.push('\n');
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
    let holds = if check.holds() { "holds" } else { "**missed**" };
    (format!("**{}** {}", short(check.value), check.what), wanted, holds.to_owned())
}
