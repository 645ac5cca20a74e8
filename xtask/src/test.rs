//! `cargo xtask test`: runs `cargo test` over the workspace, and prints one line with all results at the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::cargo;
use crate::servers::{self, Session};
use crate::sim;
use crate::tally::Tally;

/// How long the whole test command may take. The aim is under 45 minutes on two quiet cores.
const TAKES_MAX: Duration = Duration::from_secs(70 * 60);

/// Runs the tests, prints their output as it arrives, and ends with the tally.
pub(crate) fn run(args: &[String]) -> Result<ExitCode, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long the tests take is measured on the machine's clock"
    )]
    let begun = Instant::now();
    let (packages, filters) = split(args)?;
    let mut command = cargo();
    // A program that fails must not hide the next one.
    command.args(["test", "--no-fail-fast"]);
    if packages.is_empty() {
        command.arg("--workspace");
    }
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    // By default libtest hides the output of passed tests, which says what they skipped.
    command.args(["--", "--show-output"]).args(&filters).stdout(Stdio::piped());
    // Many tests make a sink panic on purpose. Their backtraces would hide the one that matters.
    command.env("RUST_BACKTRACE", "0");

    let servers = if packages.is_empty() || any(&packages, servers::are_needed_by)? {
        eprintln!("== servers");
        let servers = Session::open()?;
        servers.set(&mut command);
        Some(servers)
    } else {
        None
    };
    eprintln!("== tests");
    let mut child = command.spawn().map_err(|cause| format!("{command:?} did not start: {cause}"))?;
    let mut tally = Tally::default();
    let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped, two statements above"));
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line).map_err(|cause| format!("the tests' output: {cause}"))? > 0 {
        if tally.line(String::from_utf8_lossy(&line).trim_end()) {
            // A closed pipe of the reader (`| head`) must not end the tests early.
            drop(std::io::stdout().write_all(&line));
        }
        line.clear();
    }
    let status = child.wait().map_err(|cause| format!("waiting for {command:?}: {cause}"))?;
    let mut tally = tally.finish(status.success());
    // The simulation counts as one test.
    if packages.is_empty() && filters.is_empty() {
        if sim::test()? {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            tally.names.push("simulation".to_owned());
        }
    }

    let wrong = if tally.failed > 0 {
        Some(format!("{} failed; `cargo test` ended with {status}", tally.failed))
    } else if tally.passed == 0 && filters.is_empty() {
        Some("no test ran".to_owned())
    } else if tally.passed == 0 {
        Some(format!("no test ran that is named like {filters:?}"))
    } else if begun.elapsed() > TAKES_MAX {
        Some(format!("the tests may take {} minutes", TAKES_MAX.as_secs() / 60))
    } else {
        None
    };
    if let Some(servers) = servers {
        eprint!("{}", servers.summary());
    }
    let took = begun.elapsed().as_secs();
    eprintln!("took {} min {} s", took / 60, took % 60);
    // The first copy is far above, between the output of all other tests.
    for line in &tally.said {
        eprintln!("{line}");
    }
    for name in &tally.names {
        eprintln!("failed: {name}");
    }
    if let Some(wrong) = &wrong {
        eprintln!("error: {wrong}");
    }
    println!("{tally}");
    Ok(if wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns whether `is` holds for one of the packages.
fn any(packages: &[&str], is: impl Fn(&str) -> Result<bool, String>) -> Result<bool, String> {
    packages.iter().try_fold(false, |found, package| Ok(found || is(package)?))
}

/// Returns the packages to test and the filters for their tests.
fn split(args: &[String]) -> Result<(Vec<&str>, Vec<&str>), String> {
    let (mut packages, mut filters) = (Vec::new(), Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-p" | "--package" => packages.push(args.next().ok_or("`-p` needs the name of a package")?),
            option if option.starts_with('-') => {
                return Err(format!(
                    "unknown option {option:?}; `cargo test {option}` takes cargo's own, without the tally"
                ));
            }
            filter => filters.push(filter),
        }
    }
    Ok((packages, filters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_filters_are_distinguished() {
        let args = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(split(&args("-p a torn --package b tail")), Ok((vec!["a", "b"], vec!["torn", "tail"])));
        assert!(split(&args("--release")).is_err());
        assert!(split(&args("-p")).is_err());
    }
}
