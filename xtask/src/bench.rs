//! `cargo xtask bench`: measures in a release build, and writes docs/BENCHMARKS.md and its chart.

use std::process::ExitCode;

use crate::{cargo, step};

/// The sections in the order in which they run, each with the workspace and the package that measure it. Those with
/// peers are separate workspaces.
const SECTIONS: [(&str, &str, &str); 10] = [
    ("append", "Cargo.toml", "hydrant-benches"),
    ("peers", "benches/peers/Cargo.toml", "hydrant-benches-peers"),
    ("replay", "Cargo.toml", "hydrant-benches"),
    ("seek", "Cargo.toml", "hydrant-benches"),
    ("fanout", "Cargo.toml", "hydrant-benches"),
    ("postgres", "Cargo.toml", "hydrant-benches-servers"),
    ("postgres-peers", "benches/peers-postgres/Cargo.toml", "hydrant-benches-peers-postgres"),
    ("s3", "Cargo.toml", "hydrant-benches-servers"),
    ("kinesis", "Cargo.toml", "hydrant-benches-servers"),
    ("everywhere", "Cargo.toml", "hydrant-benches-servers"),
];

/// Runs these sections, or all. Then writes the page from the new figures and the saved figures of the other sections.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, String> {
    let names = SECTIONS.map(|(name, ..)| name);
    if let Some(unknown) = args.iter().find(|arg| !names.contains(&arg.as_str())) {
        return Err(format!("there is no section {unknown:?}; there are: {}", names.join(", ")));
    }
    let wanted = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    for (name, workspace, package) in SECTIONS.into_iter().filter(|(name, ..)| wanted(name)) {
        let of = ["--release", "--manifest-path", workspace, "--package", package];
        step(&format!("building: {name}"), cargo().arg("build").args(of))?;
        step(&format!("measuring: {name}"), cargo().args(["run", "--quiet"]).args(of).arg(name))?;
    }
    let mut report = cargo();
    report.args(["run", "--release", "--quiet", "--package", "hydrant-benches", "report"]);
    step("docs/BENCHMARKS.md", &mut report)?;
    Ok(ExitCode::SUCCESS)
}
