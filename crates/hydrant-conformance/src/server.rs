//! A server that runs for a test and ends with it.
//!
//! ```no_run
//! # async fn test() -> std::io::Result<()> {
//! use std::process::Command;
//! use std::time::Duration;
//!
//! use hydrant_conformance::proxy::{Tcp, free_port};
//! use hydrant_conformance::server::Server;
//!
//! let port = free_port();
//! let server = Server::start(Command::new("redis-server").args(["--port", &port.to_string(), "--save", ""]))?;
//! let address = ([127, 0, 0, 1], port).into();
//! server.listens(address, Duration::from_secs(10)).await;
//! let proxy = Tcp::start(address).await; // the client of the test connects to the proxy
//! # drop(proxy); Ok(()) }
//! ```

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::machine::LEASH;

/// How many lines of a server's output are kept.
const LOG_LINES_MAX: usize = 200;

/// How often the kit asks whether a server listens.
const ASKS_EVERY: Duration = Duration::from_millis(20);

/// A server's process with all that it started, in a process group of its own.
///
/// Dropping it kills the group, also when the test panics, and then prints the end of its log. If the test process
/// itself is killed, the group ends as well. Unix only.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// The pipe of the watcher: closing it ends the group.
    leash: Option<ChildStdin>,
    log: Arc<Mutex<VecDeque<String>>>,
    name: String,
}

impl Server {
    /// Starts a program with its arguments, environment and directory; standard output and error are its log.
    ///
    /// # Errors
    /// If the shell cannot be started. If the program is missing, the server's log reports it.
    pub fn start(program: &Command) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LEASH, "leash", "KILL", "/dev/null"])
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = program.get_current_dir() {
            command.current_dir(directory);
        }
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let log = Arc::default();
        keep(child.stdout.take(), &log);
        keep(child.stderr.take(), &log);
        let name = program.get_program().to_string_lossy().into_owned();
        Ok(Self { leash: child.stdin.take(), child, log, name })
    }

    /// The process id, which is also the id of the group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines that the server wrote.
    pub fn log(&self) -> String {
        lines(&self.log).iter().cloned().collect::<Vec<_>>().join("\n")
    }

    /// Waits until the server accepts connections.
    ///
    /// # Panics
    /// With the server's log, if it does not within `patience`.
    pub async fn listens(&self, address: SocketAddr, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Err(cause) = TcpStream::connect(address).await {
            assert!(Instant::now() < deadline, "{} does not listen at {address}: {cause}", self.name);
            sleep(ASKS_EVERY).await;
        }
    }

    /// Kills the group with -9 and waits until the server is gone.
    pub fn kill(&mut self) {
        if self.leash.take().is_some() {
            let kill = ["-c", "kill -s KILL -- -$0"];
            drop(
                Command::new("/bin/sh").args(kill).arg(self.id().to_string()).stderr(Stdio::null()).status(),
            );
            drop(self.child.wait());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("the log of {}:\n{}", self.name, self.log());
        }
    }
}

fn lines(log: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the last lines of a pipe until the server closes it.
fn keep(pipe: Option<impl Read + Send + 'static>, log: &Arc<Mutex<VecDeque<String>>>) {
    let (Some(pipe), log) = (pipe, Arc::clone(log)) else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut lines = lines(&log);
            if lines.len() == LOG_LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
}
