//! The workspace's commands: `cargo xtask test`, `cargo xtask ci`, `cargo xtask servers`, `cargo xtask sim`
//! and `cargo xtask bench`.
//!
//! It depends on std and this workspace only, on purpose: it is the first thing that a fresh machine compiles.

mod arrows;
mod bench;
mod language;
mod servers;
mod sim;
mod tally;
mod test;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
usage: cargo xtask <command>

  test [-p <package>].. [<filter>..]   unit, integration and doc tests; the last line counts them
  ci                                   formatting, language, lints, docs, the crates' arrows, then `test`
  servers up [<server>..]              Postgres, S3 and Kinesis for tests and examples, in Docker or natively
  servers down|status|env              ends them, lists them, prints the variables that name them
  sim [--seeds <n>] [--seconds <s>] [--from <seed>] [--jobs <n>] [--files] [--plan <file>] [--mutant <name>]
                                       simulates the fan-out under faults; prints the rate and the table of coverage
  bench [<section>..]                  measures, and writes docs/BENCHMARKS.md
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let result = match args.split_first() {
        Some((command, rest)) if command == "test" => test::run(rest),
        Some((command, [])) if command == "ci" => ci(),
        Some((command, rest)) if command == "servers" => servers::run(rest),
        Some((command, rest)) if command == "bench" => bench::run(rest),
        Some((command, rest)) if command == "sim" => sim::run(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything that a change has to pass, cheapest first.
fn ci() -> Result<ExitCode, String> {
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    language::check()?;
    step("lints", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    for store in ["", "kinesis", "postgres", "s3"] {
        let mut small = cargo();
        small.args(["clippy", "--package", "hydrant-cli", "--no-default-features", "--features", store]);
        step("the program with fewer stores", small.args(["--", "-D", "warnings"]))?;
    }
    let mut doc = cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", &mut doc)?;
    arrows::check()?;
    test::run(&[])
}

/// Runs one command of `ci`.
fn step(name: &str, command: &mut Command) -> Result<(), String> {
    eprintln!("== {name}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {command:?} ended with {status}")),
        Err(cause) => Err(format!("{name}: {command:?} did not start: {cause}")),
    }
}

/// Returns the cargo that runs this program, at the root of the workspace. It reads nothing from the terminal.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// Returns the root of the workspace, wherever the command was started.
fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let mut root = PathBuf::from(manifest);
    root.pop();
    root
}
