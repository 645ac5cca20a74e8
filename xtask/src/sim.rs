//! `cargo xtask sim`: builds the simulator and runs it.

use std::process::{Command, ExitCode};

use crate::{cargo, root};

/// How long the simulator runs as a part of the tests.
const TEST_SECONDS: &str = "180";

/// How many seeds that is at most: so that a quick machine tries none that a slow one does not.
const TEST_SEEDS: &str = "33000";

/// How many plans with file logs it runs after that.
const FILE_SEEDS: &str = "1000";

/// Builds the simulator, and runs it with the arguments. `--mutant NAME` needs a build that has the mutants.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, String> {
    let mut simulator = simulator(args.iter().any(|arg| arg == "--mutant" || arg == "--mutants"))?;
    let status =
        simulator.args(args).status().map_err(|cause| format!("{simulator:?} did not start: {cause}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the seeds of the tests for the time that the tests allow, and returns whether all passed.
pub(crate) fn test() -> Result<bool, String> {
    eprintln!("== simulation");
    let succeeds = |args: &[&str]| {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        Ok::<_, String>(run(&args)? == ExitCode::SUCCESS)
    };
    Ok(succeeds(&["--seconds", TEST_SECONDS, "--seeds", TEST_SEEDS, "--jobs", "2"])?
        && succeeds(&["--files", "--seeds", FILE_SEEDS, "--jobs", "2"])?)
}

fn simulator(with_mutants: bool) -> Result<Command, String> {
    let mut build = cargo();
    build.args(["build", "--quiet", "--release", "--package", "hydrant-sim"]);
    let mut target = root().join("target");
    if with_mutants {
        target = target.join("mutants");
        build.env("RUSTFLAGS", "--cfg sim_mutants").arg("--target-dir").arg(&target);
    }
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(format!("{build:?} ended with {status}")),
        Err(cause) => return Err(format!("{build:?} did not start: {cause}")),
    }
    let mut simulator = Command::new(target.join("release/hydrant-sim"));
    simulator.current_dir(root()).args(["--commit", &commit()]);
    Ok(simulator)
}

/// Returns the commit that is built, so that a failure can be reproduced.
fn commit() -> String {
    let describe = Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(root()).output();
    let text =
        describe.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { "unknown".to_owned() } else { text }
}
