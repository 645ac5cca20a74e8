//! An open log of a trial: appends, looks and reads, with messages that name the operation.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, Capabilities, Checkpoint, CheckpointStore, CommitPoint, Error, ErrorKind, Event, EventId,
    EventSink, EventSource, EventStream, Prune, ReadFrom, Result,
};
use tokio::time::{Instant, sleep, timeout};

use crate::law::{Expected, Finding, Verdict, broken, not_yet};
use crate::opened::{Ending, Verify};
use crate::trial::LOOK_AGAIN;
use crate::{Hook, Opened, Trial};

/// How long a dropped call may continue if no crash ends it.
const LANDING: Duration = Duration::from_millis(20);

/// An open log of a trial.
pub(crate) struct Log<'t> {
    pub(crate) trial: &'t Trial,
    pub(crate) namespace: String,
    pub(crate) opened: Opened,
}

impl<'t> Log<'t> {
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

    /// The commit point, if the store is one.
    pub(crate) fn commit_point(&self) -> Option<Arc<dyn CommitPoint>> {
        self.opened.commit_point.clone()
    }

    /// The roster, if the store keeps one.
    pub(crate) fn roster(&self) -> Option<Arc<dyn CheckpointStore>> {
        self.opened.roster.clone()
    }

    /// The store's own verification, if it has one.
    pub(crate) fn verify(&self) -> Option<Verify> {
        self.opened.verify.clone()
    }

    /// Appends one batch. The append may fail, but must return.
    pub(crate) async fn appended(&self, batch: Batch<'_>) -> Verdict<Result<()>> {
        self.trial.calling(format!("appending {}", name_batch(batch.after(), batch.events())));
        self.trial.call(self.opened.sink.append(batch)).await
    }

    /// Like [`appended`](Log::appended), for a batch of these events.
    pub(crate) async fn try_append(&self, after: Option<EventId>, events: &[Event]) -> Verdict<Result<()>> {
        self.appended(Batch::new(after, events).expect("the case makes valid batches")).await
    }

    /// Appends one batch, which must be acknowledged.
    pub(crate) async fn append(&self, after: Option<EventId>, events: &[Event]) -> Verdict {
        let appended = self.try_append(after, events).await?;
        appended.expected(|| format!("Ok for appending {}", name_batch(after, events)))
    }

    /// Appends all of `events` after `after` in batches of at most this size, each snapshot event the first of one.
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
        match self.try_append(after, events).await? {
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
        self.trial.calling("reading the checkpoint");
        let checkpoint = self.trial.call(self.opened.sink.checkpoint()).await?;
        checkpoint.expected(|| "the sink reports its checkpoint".to_owned())
    }

    /// Prunes, which must succeed.
    pub(crate) async fn pruned(&self, before: u64) -> Verdict {
        self.trial.calling(format!("pruning before event {before}"));
        let pruned = self.trial.call(self.prune().prune(EventId::new(before))).await?;
        pruned.expected(|| format!("Ok for pruning before event {before}"))
    }

    /// Reads everything from `from` on; the read may fail, but each item must come in time.
    pub(crate) async fn try_read(&self, from: ReadFrom) -> Verdict<Result<Vec<Event>>> {
        self.trial.calling(format!("a read from {from:?}"));
        let mut stream = self.source().read(from);
        let mut events = Vec::new();
        loop {
            let next = self.trial.call(async { stream.next().await.transpose() }).await?;
            match next {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return Ok(Ok(events)),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Reads everything from `from` on.
    pub(crate) async fn read(&self, from: ReadFrom) -> Verdict<Vec<Event>> {
        self.try_read(from).await?.expected(|| format!("a read from {from:?} without an error"))
    }

    /// Checks that a read from `from` yields exactly these events.
    pub(crate) async fn reads(&self, from: ReadFrom, expected: &[Event]) -> Verdict {
        let look = || async {
            let found = same_events(&format!("a read from {from:?}"), expected, &self.read(from).await?);
            // A snapshot that is not shown yet leaves the read at an older one.
            if from == ReadFrom::Snapshot { found.may_pass(true) } else { found }
        };
        self.trial.settled(self.trial.shows_late(), look).await
    }

    /// Checks that the log holds exactly these events, in every way in which it can be seen.
    pub(crate) async fn holds(&self, expected: &[Event]) -> Verdict {
        self.trial.settled(self.trial.shows_late(), || self.holds_now(expected)).await
    }

    /// Reads all that the log shows, even if it begins above its first event.
    async fn shown(&self, first: Option<&Event>) -> Verdict<Vec<Event>> {
        match (self.try_read(ReadFrom::Origin).await?, first) {
            // A sink that started at a snapshot has no origin.
            (Err(error), Some(first)) if error.kind() == (ErrorKind::Pruned { oldest: first.id() }) => {
                self.read(ReadFrom::At(first.id())).await
            }
            (read, _) => read.expected(|| "a read from the origin without an error".to_owned()),
        }
    }

    async fn holds_now(&self, expected: &[Event]) -> Verdict {
        if self.opened.source.is_some() {
            same_events("the log", expected, &self.shown(expected.first()).await?)?;
        }
        if self.trial.has(Capabilities::MEMORY) {
            let wanted = expected.last().map_or(Checkpoint::Empty, Checkpoint::at);
            let seen = self.checkpoint().await?;
            if seen != wanted {
                let found = broken(
                    format!("the checkpoint {}, where the log ends", name(&wanted)),
                    format!("the checkpoint {}", name(&seen)),
                );
                return found.may_pass(seen.id() < wanted.id());
            }
        }
        Ok(())
    }

    /// Returns how many of `events` the log holds. It must hold the first of them and nothing else.
    pub(crate) async fn prefix(&self, events: &[Event]) -> Verdict<usize> {
        let held = Mutex::new(0);
        let look = || async {
            let count = if self.trial.has(Capabilities::MEMORY) {
                let head = self.checkpoint().await?.id();
                events.iter().take_while(|event| Some(event.id()) <= head).count()
            } else if self.opened.source.is_some() {
                self.read(ReadFrom::Origin).await?.len().min(events.len())
            } else {
                self.trial.without(Hook::Seen);
                events.len()
            };
            *held.lock().unwrap_or_else(PoisonError::into_inner) = count;
            let found = self.holds_now(&events[..count]).await;
            // Accepted events may become durable between the two looks; no wait makes other events right.
            let is_prefix = match &self.opened.source {
                Some(_) if found.is_err() => events.starts_with(&self.shown(events.first()).await?),
                _ => true,
            };
            found.may_pass(is_prefix)
        };
        self.trial.settled(self.trial.shows_late(), look).await?;
        Ok(held.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another handle on the same log.
    pub(crate) fn beside(&self, opened: Opened) -> Log<'t> {
        Log { trial: self.trial, namespace: self.namespace.clone(), opened }
    }

    /// Closes the log as its harness says, or by dropping it.
    pub(crate) async fn close(self) -> Verdict {
        let Log { trial, opened, .. } = self;
        match opened.into_close() {
            Some(close) => {
                trial.calling("closing the log");
                trial.call(ended(close)).await?.expected(|| "the log closes".to_owned())
            }
            None => Ok(()),
        }
    }

    /// Closes the log and opens it again.
    pub(crate) async fn reopen(self) -> Verdict<Self> {
        let (trial, namespace) = (self.trial, self.namespace.clone());
        self.close().await?;
        trial.calling("opening the log again");
        let opened = trial.call(trial.harness.open(&namespace)).await?;
        let opened = opened.expected(|| "a log that was closed opens again".to_owned())?;
        Ok(Log { trial, namespace, opened })
    }

    /// Crashes the log and opens it again.
    pub(crate) async fn crash(self) -> Verdict<Self> {
        let Log { trial, namespace, mut opened } = self;
        trial.calling("a crash");
        if let Some(crash) = opened.crash.take() {
            trial.call(ended(crash)).await?.expected(|| "the harness can crash the log".to_owned())?;
            drop(opened);
        } else {
            trial.without(Hook::Crash);
            drop(opened);
            // Only a crash ends a dropped call at once; here the call ends on its own.
            sleep(LANDING).await;
        }
        // A dropped handle releases the log when its last call ends.
        let deadline = Instant::now() + trial.settle_max();
        loop {
            match trial.call(trial.harness.open(&namespace)).await? {
                Ok(opened) => return Ok(Log { trial, namespace, opened }),
                Err(_) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                Err(error) => return broken("a log that crashed opens again", format!("{error:?}")),
            }
        }
    }
}

impl Trial {
    /// The next `count` events of a stream, which must come in time and without an error.
    pub(crate) async fn next(&self, stream: &mut EventStream, count: usize) -> Verdict<Vec<Event>> {
        next_events(self.call_max(), stream, count).await
    }
}

/// The next `count` events of a stream, each within `wait_max` and without an error.
pub(crate) async fn next_events(
    wait_max: Duration,
    stream: &mut EventStream,
    count: usize,
) -> Verdict<Vec<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        let end = || {
            let last = last(&events).map_or_else(String::new, |id| format!(", the last of them {id}"));
            format!("{} of them{last}", events.len())
        };
        match timeout(wait_max, stream.next()).await {
            Ok(Some(Ok(event))) => events.push(event),
            Ok(Some(Err(error))) => return broken("events without an error", format!("{error:?}")),
            Ok(None) => return broken(format!("{count} events"), format!("the end, after {}", end())),
            Err(_) => {
                return broken(
                    format!("{count} events of a stream, each within {wait_max:?}"),
                    format!("{}, then silence", end()),
                );
            }
        }
    }
    Ok(events)
}

async fn ended(ending: Ending) -> Result<()> {
    ending.into_inner().unwrap_or_else(PoisonError::into_inner).await
}

/// The id of the last event.
pub(crate) fn last(events: &[Event]) -> Option<EventId> {
    events.last().map(Event::id)
}

/// Compares two runs of events byte for byte, and names the first position that differs.
pub(crate) fn same_events(what: &str, expected: &[Event], seen: &[Event]) -> Verdict {
    let at = expected.iter().zip(seen).position(|(expected, seen)| expected != seen);
    let at = match at {
        Some(at) => at,
        None if expected.len() == seen.len() => return Ok(()),
        None => expected.len().min(seen.len()),
    };
    let name = |events: &[Event]| {
        let event = events.get(at).map_or_else(|| "nothing".to_owned(), clip);
        let end = last(events).map_or_else(String::new, |id| format!(" up to {id}"));
        format!("{} events{end}, at position {at} {event}", events.len())
    };
    let (expected_text, seen_text) = (format!("{what} to yield {}", name(expected)), name(seen));
    if at == seen.len() { not_yet(expected_text, seen_text) } else { broken(expected_text, seen_text) }
}

/// A checkpoint with its digest, for messages.
pub(crate) fn name(checkpoint: &Checkpoint) -> String {
    match checkpoint {
        Checkpoint::At { id, digest } => format!("{id} (digest {digest})"),
        other => other.to_string(),
    }
}

fn clip(event: &Event) -> String {
    let text = event.to_string();
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], event.size()),
        None => text,
    }
}

fn name_batch(after: Option<EventId>, events: &[Event]) -> String {
    let after = after.map_or_else(|| "at the beginning".to_owned(), |after| format!("after event {after}"));
    match (events.first(), events.last()) {
        (Some(first), Some(last)) if events.len() > 1 => {
            format!("{} events, {} to {}, {after}", events.len(), first.id(), last.id())
        }
        (Some(only), _) => format!("event {} {after}", only.id()),
        _ => format!("nothing {after}"),
    }
}
