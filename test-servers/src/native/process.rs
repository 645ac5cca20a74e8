//! A child process that cannot be left behind.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::machine::LEASH;

/// How long a process gets to end after its signal, before it is killed.
const ENDING: Duration = Duration::from_secs(10);

/// A server's process and all that it started, apart from what left its group.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    leash: Option<ChildStdin>,
    log: PathBuf,
    /// The log's bytes that earlier processes wrote.
    log_before: usize,
}

impl Process {
    /// The command that runs a program on a leash, for [`Process::spawn`]. `signal` ends it in an orderly way. `file` is
    /// one in its directory that is not created again.
    pub(crate) fn command(signal: &str, dir: &Path, file: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", LEASH, "leash", signal]).arg(dir.join(file)).arg(program).current_dir(dir);
        command
    }

    /// Starts what [`Process::command`] made; its output goes to the end of `log`.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let log_before = usize::try_from(output.metadata()?.len()).unwrap_or(0);
        let errors = output.try_clone()?;
        command.process_group(0).stdin(Stdio::piped()).stdout(output).stderr(errors);
        let mut child = command.spawn()?;
        let leash = child.stdin.take();
        Ok(Self { child, leash, log: log.to_owned(), log_before })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The last lines that it wrote.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(log.get(self.log_before..).unwrap_or_default());
        format!("the end of {}:\n{}", self.log.display(), tail(&log))
    }

    /// Ends it with -9 and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.child.kill());
        self.end();
    }

    /// Ends the group with its signal, with -9 if that takes too long, and waits until it is gone.
    fn end(&mut self) {
        if self.leash.take().is_some() && until(ENDING, || self.ended()).is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    /// Lets it live on without us.
    pub(crate) fn detach(mut self) -> io::Result<()> {
        let mut leash = self.leash.take().expect("only an ended process has none");
        leash.write_all(b"\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last 20 lines.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Asks 50 times a second until there is an answer, or until `patience` ends: for what a process outside does, which
/// knows no paused clock.
#[expect(clippy::disallowed_methods, reason = "a process outside knows no paused clock")]
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
