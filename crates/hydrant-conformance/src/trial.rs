//! One case on one store: opening, appending and looking, with words for whatever goes wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, Capabilities, Checkpoint, Durability, Error, ErrorKind, Event, EventId, EventSink, EventSource,
    EventSourceExt, EventStream, Prune, ReadFrom, Result,
};
use tokio::time::{Instant, sleep};

use crate::harness::Hook;
use crate::law::{Expected, Verdict, broken};
use crate::{Generator, Harness, Limits, Opened};

/// How often the kit looks again for what may take a moment to show.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What a dropped call still does takes no longer where it ends by itself.
const LANDING: Duration = Duration::from_millis(20);

/// One run of one case: the store under test, a namespace of its own, and a seed.
pub(crate) struct Trial {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) limits: Limits,
    seed: u64,
    namespace: String,
    notes: Mutex<Vec<String>>,
    skipped: AtomicBool,
}

impl Trial {
    pub(crate) fn new(harness: Arc<dyn Harness>, seed: u64, namespace: String) -> Self {
        let limits = harness.limits();
        Self { harness, limits, seed, namespace, notes: Mutex::default(), skipped: AtomicBool::new(false) }
    }

    pub(crate) fn has(&self, capabilities: Capabilities) -> bool {
        self.harness.capabilities().has(capabilities)
    }

    /// Whether `Ok` already means durable and shown.
    pub(crate) fn is_durable(&self) -> bool {
        self.harness.durability() == Durability::Durable
    }

    /// Whether what was acknowledged may take a moment to be seen.
    pub(crate) fn shows_late(&self) -> bool {
        !self.is_durable() || !self.has(Capabilities::SOURCE)
    }

    pub(crate) fn generator(&self) -> Generator {
        Generator::new(self.seed)
    }

    /// How many events a case of this size appends here.
    pub(crate) fn events(&self, count: usize) -> usize {
        count.min(self.limits.events_max)
    }

    /// Says in the run that something could not be tried.
    pub(crate) fn not_exercised(&self, what: &str) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.iter().any(|note| note == what) {
            notes.push(what.to_owned());
        }
    }

    /// Says in the run that nothing of the case could be tried.
    pub(crate) fn skip(&self, what: &str) {
        self.skipped.store(true, Ordering::Relaxed);
        self.not_exercised(what);
    }

    /// What could not be tried, and whether that was all.
    pub(crate) fn notes(&self) -> (Vec<String>, bool) {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        (notes.clone(), self.skipped.load(Ordering::Relaxed))
    }

    /// The namespace of this case, or with a suffix another one beside it.
    pub(crate) fn namespace(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.namespace)
    }

    /// Opens the log of this case.
    pub(crate) async fn open(&self) -> Verdict<Log<'_>> {
        self.open_another("").await
    }

    /// Opens the log of this case once what was dropped has let go of it: that may take until a call that was
    /// in flight ends.
    pub(crate) async fn open_once_released(&self) -> Verdict<Log<'_>> {
        let deadline = Instant::now() + self.limits.patience / 4;
        loop {
            match self.open().await {
                Err(_) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                opened => return opened,
            }
        }
    }

    /// Opens another log of this case.
    pub(crate) async fn open_another(&self, suffix: &str) -> Verdict<Log<'_>> {
        let namespace = self.namespace(suffix);
        let opened = self.harness.open(&namespace).await.expected(|| "the log opens".to_owned())?;
        Ok(Log { trial: self, opened, namespace })
    }

    /// A log that holds `events`.
    pub(crate) async fn holding(&self, events: &[Event]) -> Verdict<Log<'_>> {
        let log = self.open().await?;
        log.append_all(None, events, 1_000).await?;
        Ok(log)
    }

    /// Waits until `look` finds what is expected, if that may take a moment, and tells what it saw last.
    pub(crate) async fn settled<F>(&self, late: bool, mut look: impl FnMut() -> F) -> Verdict
    where
        F: Future<Output = Verdict>,
    {
        let deadline = Instant::now() + self.limits.patience / 4;
        loop {
            match look().await {
                Err(_) if late && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                verdict => return verdict,
            }
        }
    }
}

/// An open log of a trial.
pub(crate) struct Log<'t> {
    pub(crate) trial: &'t Trial,
    pub(crate) namespace: String,
    opened: Opened,
}

impl Log<'_> {
    pub(crate) fn sink(&self) -> Arc<dyn EventSink> {
        Arc::clone(&self.opened.sink)
    }

    /// The source; a case that needs one declares [`Capabilities::SOURCE`].
    pub(crate) fn source(&self) -> Arc<dyn EventSource> {
        Arc::clone(self.opened.source.as_ref().expect("a store that declares Source opens with a source"))
    }

    pub(crate) fn prune(&self) -> Arc<dyn Prune> {
        Arc::clone(self.opened.prune.as_ref().expect("a store that declares Segments opens as `prunable`"))
    }

    pub(crate) async fn try_append(&self, after: Option<EventId>, events: &[Event]) -> Result<()> {
        let batch = Batch::new(after, events).expect("the case makes valid batches");
        self.opened.sink.append(batch).await
    }

    /// Appends one batch, which must be acknowledged.
    pub(crate) async fn append(&self, after: Option<EventId>, events: &[Event]) -> Verdict {
        let appended = self.try_append(after, events).await;
        appended.expected(|| format!("Ok for appending {}", name_batch(after, events)))
    }

    /// Appends all of `events` behind `after` in batches of at most this size, each snapshot event the first of one.
    pub(crate) async fn append_all(
        &self,
        mut after: Option<EventId>,
        events: &[Event],
        batch_events: usize,
    ) -> Verdict {
        for batch in Batch::segments(events).flat_map(|segment| segment.chunks(batch_events)) {
            self.append(after, batch).await?;
            after = last(batch);
        }
        Ok(())
    }

    /// Appends a batch that must be refused with this kind of error.
    pub(crate) async fn refused(
        &self,
        after: Option<EventId>,
        events: &[Event],
        with: &str,
        is_kind: impl Fn(ErrorKind) -> bool,
    ) -> Verdict<Error> {
        let expected = || format!("{with} for appending {}", name_batch(after, events));
        match self.try_append(after, events).await {
            Err(error) if is_kind(error.kind()) => Ok(error),
            Err(error) => broken(expected(), format!("{error:?}")),
            Ok(()) => broken(expected(), "Ok"),
        }
    }

    pub(crate) async fn fenced(&self, after: Option<EventId>, events: &[Event]) -> Verdict<Error> {
        self.refused(after, events, "Fenced", |kind| kind == ErrorKind::Fenced).await
    }

    pub(crate) async fn gap(&self, after: Option<EventId>, events: &[Event]) -> Verdict<Error> {
        self.refused(after, events, "Gap", |kind| kind == ErrorKind::Gap).await
    }

    pub(crate) async fn checkpoint(&self) -> Verdict<Checkpoint> {
        self.opened.sink.checkpoint().await.expected(|| "the sink tells its checkpoint".to_owned())
    }

    /// Everything from `from` on.
    pub(crate) async fn read(&self, from: ReadFrom) -> Verdict<Vec<Event>> {
        self.source().collect(from).await.expected(|| format!("a read from {from:?} without an error"))
    }

    /// The read from `from` must yield exactly these events.
    pub(crate) async fn reads(&self, from: ReadFrom, expected: &[Event]) -> Verdict {
        let late = self.trial.shows_late();
        let look =
            || async { same_events(&format!("a read from {from:?}"), expected, &self.read(from).await?) };
        self.trial.settled(late, look).await
    }

    /// The log must hold exactly these events, by everything that it lets be seen.
    pub(crate) async fn holds(&self, expected: &[Event]) -> Verdict {
        self.trial.settled(self.trial.shows_late(), || self.holds_now(expected)).await
    }

    async fn holds_now(&self, expected: &[Event]) -> Verdict {
        if let Some(source) = &self.opened.source {
            let seen = match (source.collect(ReadFrom::Origin).await, expected.first()) {
                // A sink that started at a snapshot has no origin.
                (Err(error), Some(first)) if error.kind() == (ErrorKind::Pruned { oldest: first.id() }) => {
                    let before = first.id().prev();
                    self.read(before.into()).await?
                }
                (read, _) => read.expected(|| "a read from the origin without an error".to_owned())?,
            };
            same_events("the log", expected, &seen)?;
        }
        if self.trial.has(Capabilities::MEMORY) {
            let wanted = expected.last().map_or(Checkpoint::Empty, Checkpoint::at);
            let seen = self.checkpoint().await?;
            if seen != wanted {
                return broken(format!("the checkpoint {wanted:?}"), format!("{seen:?}"));
            }
        }
        Ok(())
    }

    /// How many of `events` the log holds, which must be the first of them and nothing else.
    pub(crate) async fn prefix(&self, events: &[Event]) -> Verdict<usize> {
        let held = Mutex::new(0);
        let look = || async {
            let count = if self.trial.has(Capabilities::MEMORY) {
                let head = self.checkpoint().await?.id();
                events.iter().take_while(|event| Some(event.id()) <= head).count()
            } else if self.opened.source.is_some() {
                self.read(ReadFrom::Origin).await?.len().min(events.len())
            } else {
                self.trial.not_exercised("what the sink holds (`Opened::seen_through`); its Ok was believed");
                events.len()
            };
            *held.lock().unwrap_or_else(PoisonError::into_inner) = count;
            self.holds_now(&events[..count]).await
        };
        // What is accepted may become durable between two looks.
        self.trial.settled(self.trial.shows_late(), look).await?;
        Ok(held.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another handle on the same log.
    pub(crate) fn beside(&self, opened: Opened) -> Self {
        Self { trial: self.trial, namespace: self.namespace.clone(), opened }
    }

    /// Closes the log as its author says, or by dropping it.
    pub(crate) async fn close(self) -> Verdict {
        let Opened { sink, source, prune, close, crash } = self.opened;
        drop((sink, source, prune, crash));
        match close {
            Some(close) => await_hook(close).await.expected(|| "the log closes".to_owned()),
            None => Ok(()),
        }
    }

    /// Closes the log and opens it again.
    pub(crate) async fn reopen(self) -> Verdict<Self> {
        let (trial, namespace) = (self.trial, self.namespace.clone());
        self.close().await?;
        let opened = trial.harness.open(&namespace).await;
        let opened = opened.expected(|| "a log that was closed opens again".to_owned())?;
        Ok(Log { trial, namespace, opened })
    }

    /// Crashes the log and opens it again.
    pub(crate) async fn crash(self) -> Verdict<Self> {
        let (trial, namespace) = (self.trial, self.namespace.clone());
        let Opened { sink, source, prune, close, crash } = self.opened;
        if let Some(crash) = crash {
            await_hook(crash).await.expected(|| "the harness can crash the log".to_owned())?;
            drop((sink, source, prune, close));
        } else {
            trial.not_exercised("a crash (`Opened::crashed_by`); the log was dropped without close instead");
            drop((sink, source, prune, close));
            // Only a crash cuts off what a dropped call still does; here it ends by itself.
            sleep(LANDING).await;
        }
        // Dropped, it lets go when its last call ends.
        let deadline = Instant::now() + trial.limits.patience / 4;
        loop {
            match trial.harness.open(&namespace).await {
                Ok(opened) => return Ok(Log { trial, namespace, opened }),
                Err(_) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                Err(error) => return broken("a log that crashed opens again", format!("{error:?}")),
            }
        }
    }
}

async fn await_hook(hook: Hook) -> Result<()> {
    hook.into_inner().unwrap_or_else(PoisonError::into_inner).await
}

/// The id of the last event.
pub(crate) fn last(events: &[Event]) -> Option<EventId> {
    events.last().map(Event::id)
}

/// The next `count` events of a stream, which must come without an error.
pub(crate) async fn next_events(stream: &mut EventStream, count: usize) -> Verdict<Vec<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        match stream.next().await {
            Some(event) => events.push(event.expected(|| "events without an error".to_owned())?),
            None => return broken(format!("{count} events"), format!("the end, after {}", events.len())),
        }
    }
    Ok(events)
}

/// Two runs of events must be the same, byte for byte; tells the first that is not.
pub(crate) fn same_events(what: &str, expected: &[Event], seen: &[Event]) -> Verdict {
    let at = expected.iter().zip(seen).position(|(expected, seen)| expected != seen);
    let at = match at {
        Some(at) => at,
        None if expected.len() == seen.len() => return Ok(()),
        None => expected.len().min(seen.len()),
    };
    let tell = |events: &[Event]| {
        let event = events.get(at).map_or_else(|| "nothing more".to_owned(), clip);
        format!("{} events, and at position {at}: {event}", events.len())
    };
    broken(format!("{what} to yield {}", tell(expected)), tell(seen))
}

fn clip(event: &Event) -> String {
    let text = event.to_string();
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], event.size()),
        None => text,
    }
}

fn name_batch(after: Option<EventId>, events: &[Event]) -> String {
    let after = after.map_or_else(|| "at the beginning".to_owned(), |after| format!("behind event {after}"));
    match (events.first(), events.last()) {
        (Some(first), Some(last)) if events.len() > 1 => {
            format!("{} events, {} to {}, {after}", events.len(), first.id(), last.id())
        }
        (Some(only), _) => format!("event {} {after}", only.id()),
        _ => format!("nothing {after}"),
    }
}
