//! The program `hydrant` as a separate process: started, read, killed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// How long a process may print nothing before the test fails. It never needs nearly as long.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// Returns the path of the program. Builds the program if it is not up to date.
///
/// # Panics
/// If it does not build.
pub fn hydrant() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its own program");
        // <target>/<profile>/deps/<test>
        let profile_dir = test.ancestors().nth(2).expect("cargo puts tests two directories down");
        let profile = match profile_dir.file_name().and_then(OsStr::to_str) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let built = std::process::Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "hydrant-cli", "--bin", "hydrant", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .status()
            .expect("cargo, which runs this test, can be started");
        assert!(built.success(), "the program `hydrant` does not build");
        profile_dir.join(format!("hydrant{}", std::env::consts::EXE_SUFFIX))
    })
}

/// Runs the program to its end.
///
/// # Panics
/// If it does not end, or cannot be started.
pub async fn run<I, S>(args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output = command(hydrant()).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(SILENCE_MAX, output).await.expect("the program ends").expect("the program starts")
}

/// Returns the command of a program. If the environment has no keys, adds those that servers on loopback accept.
fn command(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        command.env("AWS_ACCESS_KEY_ID", test_servers::ACCESS_KEY_ID);
        command.env("AWS_SECRET_ACCESS_KEY", test_servers::SECRET_ACCESS_KEY);
    }
    command
}

/// A program that runs beside the test. It is killed when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// The beginning of a line whose end was not read yet.
    begun: Vec<u8>,
}

impl Running {
    /// Starts the program. Its standard error is the test's.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start<I, S>(args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::start_program(hydrant(), args)
    }

    /// Like `start`, with another program.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_program<I, S>(program: impl AsRef<OsStr>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut child = command(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        Self { child, stdout: BufReader::new(stdout), begun: Vec::new() }
    }

    /// Returns the next whole line of the standard output, without the line break; `None` at the end. A part of a line
    /// that a killed program left is ignored.
    ///
    /// # Panics
    /// If the program prints nothing for too long.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped future loses no output.
    pub async fn line(&mut self) -> Option<String> {
        let read = tokio::time::timeout(SILENCE_MAX, self.stdout.read_until(b'\n', &mut self.begun)).await;
        read.expect("the program says something, or ends").expect("its output can be read");
        let line = std::mem::take(&mut self.begun);
        let line = line.strip_suffix(b"\n")?;
        Some(String::from_utf8(line.to_vec()).expect("its output is UTF-8"))
    }

    /// Sends SIGKILL: the program can neither print nor save anything.
    ///
    /// # Panics
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.child.start_kill().expect("a child can be killed");
    }

    /// Sends SIGTERM: requests the program to drain and end.
    ///
    /// # Panics
    /// If there is no `kill`.
    pub fn terminate(&self) {
        let id = self.child.id().expect("it has not been waited for").to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &id]).status().expect("`kill` is there");
        assert!(sent.success(), "the signal was not sent");
    }

    /// Waits for the end of the program.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(SILENCE_MAX, self.child.wait()).await;
        ended.expect("the program ends").expect("a child can be waited for")
    }
}
