//! Executes runs in child processes, so that a run that gets stuck inside a poll ends no other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::EXIT_STUCK;
use crate::plan::Plan;
use crate::run::Outcome;
use crate::world::Failure;

/// The checker of a run whose process had to be ended.
pub const STUCK: &str = "stuck";

/// A child process that runs the plans that it is given. It is started again when a plan got it stuck.
#[derive(Default)]
pub struct Runner {
    process: Option<(Child, BufReader<std::process::ChildStdout>)>,
}

impl Runner {
    pub fn run(&mut self, plan: &Plan) -> Option<Failure> {
        if self.process.is_none() {
            let mut child = spawn(&["--plans".to_owned(), "-".to_owned()], Stdio::piped(), None)?;
            let lines = BufReader::new(child.stdout.take()?);
            self.process = Some((child, lines));
        }
        let (child, lines) = self.process.as_mut()?;
        let json = serde_json::to_string(plan).ok()?;
        writeln!(child.stdin.as_mut()?, "{json}").ok()?;
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        if line.is_empty() {
            let (mut child, _) = self.process.take()?;
            return Some(died(child.wait().ok()?));
        }
        serde_json::from_str::<Outcome>(&line).ok()?.failure
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Some((mut child, _)) = self.process.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The failure of a run whose process ended.
fn died(status: ExitStatus) -> Failure {
    if status.code() == Some(EXIT_STUCK) {
        return stuck();
    }
    Failure { checker: "panic".to_owned(), message: format!("the process ended with {status}") }
}

pub fn stuck() -> Failure {
    Failure {
        checker: STUCK.to_owned(),
        message: "a poll does not return: a loop without an await".to_owned(),
    }
}

fn spawn(args: &[String], stdin: Stdio, mutant: Option<&str>) -> Option<Child> {
    let program = std::env::current_exe().ok()?;
    let selected = mutant.map(|name| (crate::mutants::VARIABLE, name));
    Command::new(program)
        .args(args)
        .envs(selected)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

/// A process that runs every `step`th seed from `from` on, and prints an outcome for each.
pub struct Worker {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Worker {
    pub fn spawn(from: u64, step: u64, mutant: Option<&str>) -> Option<Self> {
        let args = ["--worker".to_owned(), format!("{from}"), "--step".to_owned(), format!("{step}")];
        let mut child = spawn(&args, Stdio::null(), mutant)?;
        let lines = BufReader::new(child.stdout.take()?);
        Some(Self { child, lines })
    }

    /// The next outcome; `None` when the process ended.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let mut line = String::new();
        self.lines.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
