//! Readers: a position in what is held, and the refill for what is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use hydrant::{Error, ErrorKind, Event, EventId, EventSource, EventStream, ReadFrom, Result, Retry};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::held::{Entry, Held};
use crate::options::UdpListenerOptions;
use crate::source::UdpListenerStats;

/// What the task and all readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    pub(crate) options: UdpListenerOptions,
    pub(crate) address: String,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) held: Held,
    pub(crate) stats: UdpListenerStats,
    closed: bool,
}

impl Shared {
    pub(crate) fn new(options: UdpListenerOptions, address: String) -> Self {
        let held = Held::new(options.held_events_max, options.held_bytes_max);
        let state = State { held, stats: UdpListenerStats::default(), closed: false };
        Self { state: Mutex::new(state), changed: watch::Sender::default(), options, address }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count<T>(&self, add: impl FnOnce(&mut UdpListenerStats) -> T) -> T {
        add(&mut self.lock().stats)
    }

    pub(crate) fn wake(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }
}

/// Missing events between two known ones.
#[derive(Debug)]
pub(crate) struct Hole {
    /// The last event before it, as this reader knows it.
    pub(crate) after: Option<EventId>,
    /// The first event behind it.
    pub(crate) next: Entry,
    /// Whether events in it were held, and dropped to make room before this reader came by.
    evicted: bool,
}

/// What a reader comes to next.
#[derive(Debug)]
pub(crate) enum Step {
    Event(Event),
    Hole(Box<Hole>),
    /// The end of a read.
    End,
    /// The listener was closed, and everything held was read.
    Closed,
}

/// A reader is only a position.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    pub(crate) position: Option<EventId>,
    until: Until,
}

/// Where a reader ends.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// At the newest event that was held when it began.
    Head(Option<EventId>),
    Forever,
}

impl Reader {
    pub(crate) fn reading(shared: Arc<Shared>, from: ReadFrom) -> Self {
        let until = Until::Head(shared.lock().held.last_id());
        Self { until, ..Self::following(shared, from) }
    }

    pub(crate) fn following(shared: Arc<Shared>, from: ReadFrom) -> Self {
        let position = match from.exclusive() {
            ReadFrom::After(id) => Some(id),
            ReadFrom::Snapshot => shared.lock().held.before_snapshot(),
            ReadFrom::Origin | ReadFrom::At(_) => None,
        };
        let changed = shared.changed.subscribe();
        Self { shared, changed, position, until: Until::Forever }
    }

    /// Waits for what comes next.
    ///
    /// # Cancel safety
    /// The position moves only when an event is returned.
    pub(crate) async fn step(&mut self) -> Step {
        loop {
            // Seen *before* looking: a change between the two is not slept through.
            self.changed.mark_unchanged();
            match self.look() {
                Ok(Step::Event(event)) => {
                    self.position = Some(event.id());
                    return Step::Event(event);
                }
                Ok(step) => return step,
                // The sender of `changed` lives in `shared`, so waiting for it cannot fail.
                Err(None) => drop(self.changed.changed().await),
                Err(Some(settled)) => {
                    tokio::select! {
                        _ = self.changed.changed() => {}
                        () = tokio::time::sleep_until(settled) => {}
                    }
                }
            }
        }
    }

    /// What comes next, or until when it is worth waiting for it.
    fn look(&self) -> Result<Step, Option<Instant>> {
        let state = self.shared.lock();
        if let Until::Head(head) = self.until
            && self.position >= head
        {
            return Ok(Step::End);
        }
        let Some(next) = state.held.next(self.position) else {
            return if state.closed { Ok(Step::Closed) } else { Err(None) };
        };
        if next.after <= self.position {
            return Ok(Step::Event(next.event.clone()));
        }
        let options = &self.shared.options;
        let settled = next.arrived + options.reorder_max;
        let waits = !state.closed
            && Instant::now() < settled
            && !state.held.has(options.reorder_events_max.saturating_add(1), self.position);
        if waits {
            return Err(Some(settled));
        }
        let evicted = state.held.evicted().is_some_and(|evicted| Some(evicted) > self.position);
        Ok(Step::Hole(Box::new(Hole { after: self.position, next: next.clone(), evicted })))
    }
}

/// The complete view of a listener: what is held, and the refill for what is missing.
pub(crate) struct View {
    reader: Reader,
    refill: Option<Arc<dyn EventSource>>,
    filling: Option<Filling>,
    started: bool,
    ended: bool,
}

/// A read of the refill under way.
struct Filling {
    stream: EventStream,
    /// The hole that it fills; `None` when it fetches whatever there is.
    hole: Option<Box<Hole>>,
    /// Whether it has yet to say where it starts.
    jumps: bool,
}

impl View {
    pub(crate) fn new(reader: Reader, from: ReadFrom) -> Self {
        // Read first and to its end, which is where the log ended now: the newest datagrams may be lost. What
        // it does not have yet is taken from what is held.
        let refill = reader.shared.options.refill.clone();
        let jumps = from == ReadFrom::Snapshot;
        let filling = refill.as_ref().map(|refill| Filling { stream: refill.read(from), hole: None, jumps });
        Self { reader, refill, filling, started: false, ended: false }
    }

    pub(crate) fn into_stream(self) -> EventStream {
        Box::pin(futures_util::stream::unfold(self, |mut view| async move {
            if view.ended {
                return None;
            }
            let event = view.next().await.transpose()?;
            view.started = true;
            view.ended = event.is_err();
            Some((event, view))
        }))
    }

    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(filling) = self.filling.take()
                && let Some(event) = self.fill(filling).await?
            {
                return Ok(Some(event));
            }
            let step = match (&self.refill, self.reader.until) {
                // Nothing came for a while: perhaps the newest datagrams were lost.
                (Some(refill), Until::Forever) => {
                    let interval = self.reader.shared.options.refill_interval;
                    let Ok(step) = timeout(interval, self.reader.step()).await else {
                        let stream = refill.read(self.reader.position.into());
                        self.filling = Some(Filling { stream, hole: None, jumps: false });
                        continue;
                    };
                    step
                }
                _ => self.reader.step().await,
            };
            match step {
                Step::Event(event) => return Ok(Some(event)),
                Step::End => return Ok(None),
                Step::Closed => return Err(closed(&self.reader.shared.address)),
                Step::Hole(hole) => {
                    let Some(refill) = &self.refill else { return Err(self.missing(&hole)) };
                    let from = hole.after.into();
                    let stream = match self.reader.until {
                        Until::Head(_) => refill.read(from),
                        Until::Forever => refill.follow(from),
                    };
                    self.filling = Some(Filling { stream, hole: Some(hole), jumps: false });
                }
            }
        }
    }

    /// The next event of the refill; `None` when it has nothing more that is wanted.
    async fn fill(&mut self, mut filling: Filling) -> Result<Option<Event>> {
        let limit = self.reader.shared.options.refill_timeout;
        let (event, id) = loop {
            let next = match &filling.hole {
                Some(hole) => {
                    timeout(limit, filling.stream.next()).await.map_err(|_| self.refill_lacks(hole))?
                }
                None => filling.stream.next().await,
            };
            let Some(event) = next.transpose()? else {
                return filling.hole.map_or(Ok(None), |hole| Err(self.refill_lacks(&hole)));
            };
            let id = event.id();
            if Some(id) > self.reader.position {
                break (event, id);
            }
            // A refill that lags may have an older snapshot as its newest than the one that is held.
            if !filling.jumps {
                let message = "the refill source goes back in its ids";
                return Err(Error::bug(message).at(id));
            }
        };
        let position = self.reader.position;
        let jumps = std::mem::replace(&mut filling.jumps, false);
        if !jumps && self.reader.shared.lock().held.contradicts(position, &event) {
            return Err(self.diverged(id));
        }
        if let Some(hole) = &filling.hole {
            let next = &hole.next;
            if id > next.event.id() {
                return Ok(None); // the event behind the hole is no longer held: there is another hole now
            }
            // If the datagram names no predecessor, only the refill shows that nothing is missing before it.
            if id == next.event.id() || next.named && Some(id) == next.after {
                self.reader.position = Some(id);
                return Ok(Some(event));
            }
        }
        self.reader.position = Some(id);
        self.filling = Some(filling);
        Ok(Some(event))
    }

    fn missing(&self, hole: &Hole) -> Error {
        let (place, next) = (place(hole), hole.next.event.id());
        let address = &self.reader.shared.address;
        if hole.evicted || !self.started {
            let why = if hole.evicted {
                "dropped to make room"
            } else {
                "sent before the listener was there, or lost"
            };
            let message = format!(
                "the events {place} were {why}; give the listener a refill, or read from event {next}"
            );
            return Error::new(ErrorKind::Pruned { oldest: next }, Retry::Never, message).at_target(address);
        }
        let message = format!("the events {place} were lost on the way; give the listener a refill");
        Error::gap(message).with_retry(Retry::Never).at(next).at_target(address)
    }

    fn refill_lacks(&self, hole: &Hole) -> Error {
        let message = format!(
            "the events {} were lost on the way, and the refill source does not have them yet",
            place(hole)
        );
        Error::unavailable(message).at(hole.next.event.id()).at_target(&self.reader.shared.address)
    }

    fn diverged(&self, id: EventId) -> Error {
        let message = "the refill source has another history than what is sent; refill from the same log";
        Error::diverged(message).at(id).at_target(&self.reader.shared.address)
    }
}

fn place(hole: &Hole) -> String {
    let next = hole.next.event.id();
    hole.after.map_or_else(|| format!("before {next}"), |after| format!("between {after} and {next}"))
}

pub(crate) fn closed(address: &str) -> Error {
    Error::closed("the listener was closed; open it again").at_target(address)
}
