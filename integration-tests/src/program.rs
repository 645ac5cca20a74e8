//! The program `hydrant`, as a process of its own: started, read, killed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// How long a process may say nothing before the test gives up on it; far more than it ever needs.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// The path of the program, built now if it is not up to date.
///
/// # Panics
/// When it does not build.
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
/// When it does not end, or cannot be started.
pub async fn run<I, S>(args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let output = command(hydrant()).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(SILENCE_MAX, output).await.expect("the program ends").expect("the program starts")
}

/// A program, with the keys that servers on loopback take unless there are others.
fn command(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        command.env("AWS_ACCESS_KEY_ID", test_servers::ACCESS_KEY_ID);
        command.env("AWS_SECRET_ACCESS_KEY", test_servers::SECRET_ACCESS_KEY);
    }
    command
}

/// A run of a program that goes on beside the test. Dropped, also by a panic, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What was read of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Running {
    /// Starts it; its standard error is the test's.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<I, S>(args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self::start_program(hydrant(), args)
    }

    /// The same with another program.
    ///
    /// # Panics
    /// When it cannot be started.
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

    /// The next whole line of its standard output, without the line break; `None` at the end. What a killed
    /// program left of a line is no line.
    ///
    /// # Panics
    /// When it says nothing for too long.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn line(&mut self) -> Option<String> {
        let read = tokio::time::timeout(SILENCE_MAX, self.stdout.read_until(b'\n', &mut self.begun)).await;
        read.expect("the program says something, or ends").expect("its output can be read");
        let line = std::mem::take(&mut self.begun);
        let line = line.strip_suffix(b"\n")?;
        Some(String::from_utf8(line.to_vec()).expect("its output is UTF-8"))
    }

    /// SIGKILL: no chance to say or save anything.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill(&mut self) {
        self.child.start_kill().expect("a child can be killed");
    }

    /// SIGTERM: a polite request to drain and end.
    ///
    /// # Panics
    /// When there is no `kill`.
    pub fn terminate(&self) {
        let id = self.child.id().expect("it has not been waited for").to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &id]).status().expect("`kill` is there");
        assert!(sent.success(), "the signal was not sent");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn end(mut self) -> ExitStatus {
        let ended = tokio::time::timeout(SILENCE_MAX, self.child.wait()).await;
        ended.expect("the program ends").expect("a child can be waited for")
    }
}
