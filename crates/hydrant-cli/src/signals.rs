//! Ctrl-C and SIGTERM: the first asks the command to drain, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{FutureExt as _, StreamExt as _};
use hydrant::{Error, Event, EventStream, Result};
use tokio::sync::watch;

use crate::output::say;

/// Shows a command that the operator asked it to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    signal: watch::Receiver<()>,
}

/// What comes next of a log.
pub(crate) enum Next {
    Event(Event),
    Failed(Error),
    End,
    /// The program was asked to stop.
    Stopped,
}

impl From<Option<Result<Event>>> for Next {
    fn from(next: Option<Result<Event>>) -> Self {
        match next {
            Some(Ok(event)) => Self::Event(event),
            Some(Err(error)) => Self::Failed(error),
            None => Self::End,
        }
    }
}

impl Stop {
    /// Resolves when the first signal comes.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub(crate) async fn wait(&self) {
        let mut signal = self.signal.clone();
        if !self.asked.load(Ordering::Acquire) && signal.changed().await.is_err() {
            // The listener is gone, so no signal will ever come.
            std::future::pending::<()>().await;
        }
    }

    /// The next event, if it is there already: the quick way through a long log.
    pub(crate) fn next_at_once(&self, events: &mut EventStream) -> Option<Next> {
        if self.asked.load(Ordering::Acquire) {
            return Some(Next::Stopped);
        }
        events.next().now_or_never().map(Next::from)
    }

    /// The next event, or the first signal.
    ///
    /// # Cancel safety
    /// No event is lost when it is dropped.
    pub(crate) async fn next(&self, events: &mut EventStream) -> Next {
        if let Some(next) = self.next_at_once(events) {
            return next;
        }
        tokio::select! {
            biased;
            () = self.wait() => Next::Stopped,
            next = events.next() => next.into(),
        }
    }
}

/// Listens from now on; must be called inside the runtime.
pub(crate) fn listen() -> std::io::Result<Stop> {
    let (sender, signal) = watch::channel(());
    let stop = Stop { asked: Arc::default(), signal };
    let asked = stop.asked.clone();
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        asked.store(true, Ordering::Release);
        sender.send_replace(());
        say("hydrant: stopping; once more ends at once");
        let code = signals.next().await;
        std::process::exit(code);
    });
    Ok(stop)
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal, and returns its exit code.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        130
    }
}
