//! `cargo xtask bench`: measures in a release build, and writes docs/BENCHMARKS.md and its chart.

use std::process::ExitCode;

use crate::{cargo, step};

/// In the order in which they run; `peers` is a workspace of its own.
const SECTIONS: [&str; 5] = ["append", "peers", "replay", "seek", "fanout"];

/// Runs these sections, or all, and writes the page from these figures and the kept ones of the others.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, String> {
    if let Some(unknown) = args.iter().find(|arg| !SECTIONS.contains(&arg.as_str())) {
        return Err(format!("there is no section {unknown:?}; there are: {}", SECTIONS.join(", ")));
    }
    let wanted = |section: &&&str| args.is_empty() || args.iter().any(|arg| arg == **section);
    step("building", cargo().args(["build", "--release", "--package", "hydrant-benches"]))?;
    for section in SECTIONS.iter().filter(wanted) {
        let mut run = cargo();
        if *section == "peers" {
            run.args(["run", "--release", "--quiet", "--manifest-path", "benches/peers/Cargo.toml"]);
        } else {
            run.args(["run", "--release", "--quiet", "--package", "hydrant-benches", section]);
        }
        step(&format!("measuring: {section}"), &mut run)?;
    }
    let mut report = cargo();
    report.args(["run", "--release", "--quiet", "--package", "hydrant-benches", "report"]);
    step("docs/BENCHMARKS.md", &mut report)?;
    Ok(ExitCode::SUCCESS)
}
