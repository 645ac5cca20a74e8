//! What all private servers have in common.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::machine::is_free;
use super::process::{Process, until};
use crate::Service;

/// A loaded machine takes its time; a server that is broken says so before.
const STARTING: Duration = Duration::from_secs(60);

/// How long what a killed server left may take to go.
const RECOVERING: Duration = Duration::from_secs(10);

/// How one kind of server is installed, started and asked. Its implementations are the servers of this module.
pub trait Program: Sized {
    /// What it is called in messages and in the names of files.
    const NAME: &'static str;
    /// The name in `HYDRANT_TEST_REQUIRE` that makes its absence a failure, if one does.
    const SERVICE: Option<Service>;

    /// Installs what is missing and makes the data's directory.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    fn prepare(dir: &Path, settings: &[&str]) -> Result<Self, String>;

    /// The version that is installed.
    fn version(&self) -> String;

    /// What starts it on this port.
    fn command(&self, port: u16) -> Command;

    /// Returns whether what it left says that it was killed, so that it may not start at once.
    fn was_killed(&self) -> bool;

    /// Removes from its data what a kill left, and what a kill of the real service cannot leave. Called before each start.
    ///
    /// # Errors
    /// Any error of the file system.
    fn tidy(&self) -> io::Result<()>;

    /// Returns whether it answers to clients.
    fn is_ready(&self, at: SocketAddr) -> bool;

    /// Makes what its URLs name, where that is not there yet.
    ///
    /// # Errors
    /// What it answered instead.
    fn furnish(&self, at: SocketAddr) -> Result<(), String>;

    /// A complete URL for this service, if it has that one.
    fn url(&self, service: Service, at: SocketAddr) -> Option<String>;
}

/// A private server on loopback. Dropped, it ends with all of its processes; its data stays in the directory.
#[derive(Debug)]
pub struct Server<P: Program> {
    // Dropped first: the program may remove what the process uses.
    process: Option<Process>,
    program: P,
    dir: PathBuf,
    port: u16,
}

impl<P: Program> Server<P> {
    /// Starts it on a free port with its data under `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// The reason to skip: what is missing, or how it failed and the end of its log.
    ///
    /// # Panics
    /// Instead, when `HYDRANT_TEST_REQUIRE` names its service.
    pub fn start(dir: &Path) -> Result<Self, String> {
        Self::start_with(dir, &[])
    }

    /// The same with settings of its own, `name=value`: parameters of Postgres, environment variables of all others.
    /// They win over ours. `&["fsync=on", "full_page_writes=on"]` makes Postgres durable, for benchmarks.
    ///
    /// # Errors
    /// As [`Server::start`].
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_with(dir: &Path, settings: &[&str]) -> Result<Self, String> {
        let started = Self::launch(dir, settings, None);
        match P::SERVICE {
            Some(service) => service.or_required(started),
            None => started,
        }
    }

    /// The same on this port if it is free, and without a look at `HYDRANT_TEST_REQUIRE`.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn launch(dir: &Path, settings: &[&str], port: Option<u16>) -> Result<Self, String> {
        fs::create_dir_all(dir).map_err(|cause| format!("{}: {cause}", dir.display()))?;
        let dir = dir.canonicalize().map_err(|cause| format!("{}: {cause}", dir.display()))?;
        let program = P::prepare(&dir, settings)?;
        let mut server = Self { process: None, program, dir, port: 0 };
        for wanted in [port, None, None, None] {
            server.port = wanted.filter(|port| is_free(*port)).map_or_else(free_port, Ok)?;
            let patience = if server.program.was_killed() { RECOVERING } else { Duration::ZERO };
            match server.start_within(patience) {
                // Another process was quicker.
                Err(_)
                    if server.process.take().is_some_and(|mut it| it.ended().is_some())
                        && !is_free(server.port) => {}
                started => return started.map(|()| server),
            }
        }
        Err(format!("{}: each port that was free was taken a moment later; try again", P::NAME))
    }

    /// The port on 127.0.0.1; a restart keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `http://127.0.0.1:<port>`, as the AWS SDK wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The URL of a store on it, complete: the database, bucket or stream is there. LocalStack's is the bucket's;
    /// [`Server::url_of`] has both.
    pub fn url(&self) -> String {
        let url = Service::ALL.iter().find_map(|service| self.url_of(*service));
        url.expect("each server has a service")
    }

    /// The URL of a store of this kind on it, if it has that one.
    pub fn url_of(&self, service: Service) -> Option<String> {
        self.program.url(service, self.address())
    }

    /// The version of the program.
    pub fn version(&self) -> String {
        self.program.version()
    }

    /// Where it keeps its data and its log. (A Postgres that cannot reach this directory keeps its data elsewhere until
    /// it is dropped, and says so.)
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process, as long as it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Kills it with -9 and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same port with the same data, after it was ended if it still runs, and waits until it is
    /// ready.
    ///
    /// # Panics
    /// When it does not start any more, with the end of its log.
    pub fn restart(&mut self) {
        self.restart_within(STARTING);
    }

    /// The same, but tries again no longer than this.
    ///
    /// # Panics
    /// As [`Server::restart`].
    pub fn restart_within(&mut self, patience: Duration) {
        self.process = None;
        let started = self.start_within(patience);
        started.unwrap_or_else(|message| panic!("{message}"));
    }

    /// Lets it outlive this process, until an operator ends it.
    ///
    /// # Errors
    /// When it has just ended by itself.
    pub fn detach(mut self) -> Result<(), String> {
        let process = self.process.take().ok_or_else(|| format!("{} does not run", P::NAME))?;
        process.detach().map_err(|cause| format!("{} ended: {cause}", P::NAME))?;
        // The data is the living server's.
        std::mem::forget(self);
        Ok(())
    }

    pub(super) fn program(&self) -> &P {
        &self.program
    }

    /// What a killed one left (its port, its shared memory) may take a moment to go.
    fn start_within(&mut self, patience: Duration) -> Result<(), String> {
        let mut failure = String::new();
        let started = until(patience, || self.try_start().map_err(|message| failure = message).ok());
        started.ok_or(failure)
    }

    fn try_start(&mut self) -> Result<(), String> {
        let (address, log) = (self.address(), self.dir.join(log(P::NAME)));
        self.program.tidy().map_err(|cause| format!("{}: {cause}", self.dir.display()))?;
        let started = Process::spawn(self.program.command(self.port), &log);
        let process =
            self.process.insert(started.map_err(|cause| format!("{} did not start: {cause}", P::NAME))?);
        let ready = until(STARTING, || match process.ended() {
            Some(status) => Some(Err(format!("{} ended with {status}; {}", P::NAME, process.log_tail()))),
            None => self.program.is_ready(address).then_some(Ok(())),
        });
        ready.unwrap_or_else(|| {
            Err(format!("{} was not ready in {STARTING:?}; {}", P::NAME, process.log_tail()))
        })?;
        self.program
            .furnish(address)
            .map_err(|message| format!("{}: {message}; {}", P::NAME, process.log_tail()))
    }
}

/// The file that holds what a server wrote.
pub(super) fn log(name: &str) -> String {
    format!("{name}.log")
}

/// A port that no client of the system takes while the server restarts.
pub(super) fn free_port() -> Result<u16, String> {
    super::machine::free_port().ok_or_else(|| "no free port from 20000 to 31999".to_owned())
}

/// Settings as environment variables.
pub(super) fn settings_env(settings: &[&str]) -> Result<Vec<(String, String)>, String> {
    let pair = |setting: &&str| {
        let pair = setting.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| format!("{setting:?} is no setting: name=value"))
    };
    settings.iter().map(pair).collect()
}
