//! The writer: one append after the other, each settled before the next begins.
//!
//! # Why no event is lost, and none is written twice
//! A segment goes to the key that names the head, and only if that key is free. So, whatever a network does:
//!
//! - **No answer.** The same bytes are sent again to the same key. Whether the first attempt landed, lands in
//!   between or never, one object is there; `412` says that it is, and reading it says whose it is.
//! - **A PUT that lands late**, after its caller gave up: as long as its key is free, the head is still where
//!   it was, so it lands as if it had been sent just then; once any segment took the key, it is refused.
//!   Until then the handle does not report that the write is absent: the next call on it first sends a write with
//!   an open outcome again ([`Writer::settle`]), which decides the outcome.
//!   After a crash no process sends it again. The next writer appends behind the head that it sees, and either takes
//!   the key, or is refused by the write that landed: never both.
//! - **A future that is dropped**, or reaches its deadline, leaves its task running, which holds the writer until
//!   the PUT is settled or out of time. The next call waits for it. No PUT of a batch begins after its deadline.
//! - **A key that was freed.** Only below the floor, and a writer that saw its head so long ago looks again:
//!   before the PUT, and behind it if the answer came so late that it proves nothing (FORMAT, pruning).

use hydrant::{Batch, Error, ErrorKind, Event, EventSource, Result, Retry};
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::blocking::{INLINE_BYTES_MAX, blocking};
use crate::bucket::{Bucket, Condition, Put, left};
use crate::head::{Head, Moment, View, look};
use crate::keys::Place;
use crate::wire::{Encoded, Object, Snapshot, encode};

/// What one handle knows of its log. Only its holder writes through this handle.
#[derive(Debug)]
pub(crate) struct Writer {
    view: Option<View>,
    /// A segment whose PUT may still land.
    open: Option<(Place, Encoded)>,
    rng: fastrand::Rng,
}

/// What is known of a segment that is about to be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was never sent.
    New,
    /// It was sent, and may land yet.
    Open,
}

/// What became of a segment that was put at the end of the log.
enum Outcome {
    Done(Head),
    /// There is an object under the key.
    Taken,
}

impl Writer {
    pub(crate) fn new(view: View, seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self { view: Some(view), open: None, rng }
    }

    /// The end of the log as this writer saw it last; `None` where it must look first.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Appends a batch. No PUT of it begins after `deadline`, and none is waited for.
    pub(crate) async fn append(
        &mut self,
        bucket: &Bucket,
        log: &impl EventSource,
        batch: Batch<'_>,
        deadline: Instant,
    ) -> Result<()> {
        // What is settled may be this very batch, and so may be what took the key that was tried.
        self.settle(bucket).await.map_err(Error::maybe_applied)?;
        let mut was_sent = false;
        let appended = self.append_behind(bucket, log, batch, deadline, &mut was_sent).await;
        appended.map_err(|error| if was_sent { error.maybe_applied() } else { error }).map_err(|error| {
            match error.target() {
                Some(_) => error,
                None => error.at_target(bucket.url(&bucket.keys.log())),
            }
        })
    }

    async fn append_behind(
        &mut self,
        bucket: &Bucket,
        log: &impl EventSource,
        batch: Batch<'_>,
        deadline: Instant,
        was_sent: &mut bool,
    ) -> Result<()> {
        let mut is_fresh = false;
        loop {
            let view = match self.view.take() {
                Some(view) if view.is_fresh(&bucket.options) => view,
                old => {
                    is_fresh = true;
                    look(bucket, old.as_ref().and_then(|view| view.head.as_ref())).await?
                }
            };
            let view = self.view.insert(view).clone();
            let fresh = match batch.fresh_after(&view.checkpoint()) {
                Ok(fresh) => fresh,
                // Others may have written since.
                Err(_) if !is_fresh => {
                    is_fresh = true;
                    self.view = Some(look(bucket, view.head.as_ref()).await?);
                    continue;
                }
                Err(error) => return Err(error),
            };
            batch.check_held(&view.checkpoint(), log).await?;
            if fresh.is_empty() {
                return Ok(());
            }
            // An empty log may begin at a snapshot, behind an event that it never had.
            let after = if view.head.is_none() { batch.after() } else { view.end() };
            let newest = view.head.as_ref().and_then(|head| head.segment.snapshot);
            let encoded = encode_events(bucket, after, fresh, newest).await?;
            let seen = Moment::now(&bucket.options);
            if left(deadline).is_none() {
                return Err(deadline_passed(bucket, Retry::Safe));
            }
            match self.put(bucket, view.end(), encoded, Fate::New, deadline).await? {
                Outcome::Done(head) if view.is_believed(&bucket.options) => {
                    self.view = Some(View::new(Some(head), seen));
                    return Ok(());
                }
                // Our segment, another writer's, or a tombstone: read the log, then compare what it holds.
                Outcome::Done(_) | Outcome::Taken => {
                    *was_sent = true;
                    let now = look(bucket, view.head.as_ref()).await?;
                    if now.end() == view.end() {
                        return Err(unclear(bucket, view.end()));
                    }
                    is_fresh = true;
                    self.view = Some(now);
                }
            }
        }
    }

    /// The end of the log as it is now, once nothing of this handle may land any more.
    pub(crate) async fn look(&mut self, bucket: &Bucket) -> Result<&View> {
        self.settle(bucket).await?;
        let known = self.view.take();
        let view = look(bucket, known.as_ref().and_then(|view| view.head.as_ref())).await?;
        Ok(self.view.insert(view))
    }

    /// Settles a write of an earlier call whose outcome is open, by sending the same bytes again.
    async fn settle(&mut self, bucket: &Bucket) -> Result<()> {
        let Some((place, encoded)) = self.open.clone() else { return Ok(()) };
        let view = look(bucket, self.view.as_ref().and_then(|view| view.head.as_ref())).await?;
        if view.end() == place {
            tracing::info!(object = bucket.url_at(place), "sending a segment again whose outcome is open");
            // It has its own time: the look before it, however slow, leaves enough to settle what is open.
            let deadline = Instant::now() + bucket.options.append_timeout;
            match self.put(bucket, place, encoded, Fate::Open, deadline).await {
                // The server takes no such bytes, so it took none of them before.
                Err(error) if error.kind() == ErrorKind::Invalid => {}
                settled => {
                    settled?;
                }
            }
        }
        // Where the log went on, the key is taken, by ours or by another: nothing more can land there.
        self.open = None;
        self.view = None;
        Ok(())
    }

    /// Puts a segment at the end of the log, until there is an answer or the deadline passes.
    async fn put(
        &mut self,
        bucket: &Bucket,
        place: Place,
        encoded: Encoded,
        fate: Fate,
        deadline: Instant,
    ) -> Result<Outcome> {
        let object = Object::Segment(encoded.segment.clone());
        // Dropped in the middle (the runtime ends), the outcome is open as well.
        self.open = Some((place, encoded.clone()));
        let mut is_open = fate == Fate::Open;
        let mut backoff = Backoff::new(&mut self.rng);
        loop {
            let error = match bucket.put_segment(place, &object, encoded.body.clone(), deadline).await {
                Ok(Put::Done(_)) => {
                    self.open = None;
                    return Ok(Outcome::Done(Head { place, segment: encoded.segment }));
                }
                Ok(Put::Refused) => {
                    self.open = None;
                    return Ok(Outcome::Taken);
                }
                // Of a batch that is too large as a whole no event is at fault, nor while it is in doubt.
                Err(error)
                    if error.kind() == ErrorKind::Invalid && (encoded.segment.count > 1 || is_open) =>
                {
                    error
                }
                Err(error) => error.at(encoded.segment.first),
            };
            is_open |= error.retry() == Retry::AfterCheckpoint;
            let pause = backoff.pause();
            // What wants a long pause is the caller's to repeat.
            let is_over = error.retry() == Retry::Never || error.pause_min().is_some();
            if is_over || left(deadline).is_none_or(|left| left <= pause) {
                if is_open {
                    // Refused for good, but an earlier attempt may have landed: the next attempt finds out.
                    return Err(match fate {
                        Fate::New => error.with_retry(Retry::AfterCheckpoint),
                        Fate::Open => error.maybe_applied(),
                    });
                }
                self.open = None;
                return Err(error);
            }
            tracing::debug!(%error, ?pause, "a segment is sent again");
            sleep(pause).await;
        }
    }
}

/// The key is taken, says the server, and yet nothing is there.
fn unclear(bucket: &Bucket, place: Place) -> Error {
    let message = "the server says that the key is taken, and lists nothing there: ask it again, and check that it \
                   is consistent";
    Error::outcome_unknown(message).at_target(bucket.url_at(place))
}

/// The answer to an append whose deadline passed.
pub(crate) fn deadline_passed(bucket: &Bucket, retry: Retry) -> Error {
    let message = match retry {
        Retry::Safe => "the deadline of the append passed before anything of it was sent; append again",
        _ => {
            "the deadline of the append passed before the server answered; the batch may be stored all the same"
        }
    };
    Error::new(ErrorKind::Unavailable, retry, message).at_target(bucket.url(&bucket.keys.log()))
}

/// Encodes events, on a thread of their own where they are many.
async fn encode_events(
    bucket: &Bucket,
    after: Place,
    events: &[Event],
    newest: Option<Snapshot>,
) -> Result<Encoded> {
    let encoding = bucket.options.encoding;
    let size: usize = events.iter().map(Event::size).sum();
    if size <= INLINE_BYTES_MAX {
        return encode(after, events, newest, encoding);
    }
    let events = events.to_vec();
    blocking(move || encode(after, &events, newest, encoding)).await
}

impl Bucket {
    /// Puts a segment under a free key.
    async fn put_segment(
        &self,
        place: Place,
        object: &Object,
        body: bytes::Bytes,
        deadline: Instant,
    ) -> Result<Put> {
        if self.is_conditional {
            return self.put(place, object, body, Condition::Free, deadline).await;
        }
        // Without conditions this is all that can be done, and it is no fence: hence the option's name.
        match self.head(place).await? {
            Some(_) => Ok(Put::Refused),
            None => self.put(place, object, body, Condition::None, deadline).await,
        }
    }
}
