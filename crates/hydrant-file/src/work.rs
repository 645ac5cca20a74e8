//! The seam between this crate and the machine: where blocking work runs, and where the writer runs.
//!
//! By default, on threads. In the simulator ([`sim`](crate::sim)), as tasks of its runtime, so that the simulator's
//! seed decides the order of everything.

use hydrant::{Error, ErrorKind, Result, Retry};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::directory::Directory;
use crate::error::io_error;
use crate::writer::{Command, Writer};

/// Where the work of a log runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// The writer on a thread of its own, everything else on the runtime's blocking threads.
    Threads,
    /// In tasks of the runtime, which block it for one piece of work or one command.
    #[cfg(any(test, feature = "sim"))]
    Inline,
}

impl Directory {
    /// Starts blocking work. It continues if the returned handle is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self.work {
            Work::Threads => tokio::task::spawn_blocking(work),
            #[cfg(any(test, feature = "sim"))]
            Work::Inline => {
                let disk = self.disk.clone();
                tokio::spawn(async move {
                    disk.turn().await;
                    let done = crate::sim::stepped::run(&disk, work).await;
                    disk.turn().await;
                    done
                })
            }
        }
    }

    /// Runs blocking work and waits for it. It continues if the future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work).await.unwrap_or_else(|panic| {
            let message = "work on a file failed inside; report it";
            Err(Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, message).because(panic))
        })
    }

    /// Starts the writer, which serves `commands` until it is closed or no sender is left.
    pub(crate) fn start(&self, writer: Writer, commands: mpsc::Receiver<Command>) -> Result<()> {
        match self.work {
            Work::Threads => std::thread::Builder::new()
                .name("hydrant-file".to_owned())
                .spawn(move || writer.run(commands))
                .map(drop)
                .map_err(|cause| io_error(&self.path, "starting the writer", Retry::Safe, cause)),
            #[cfg(any(test, feature = "sim"))]
            Work::Inline => {
                let disk = self.disk.clone();
                tokio::spawn(async move { writer.run_inline(commands, disk).await });
                Ok(())
            }
        }
    }
}
