//! The reading of one log across the shards of its stream: what `read`, `follow` and the sink's look for its
//! own checkpoint share.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hydrant::{Checkpoint, Error, ErrorKind, Event, EventId, Result, Retry};
use tokio::time::{Instant, sleep};

use super::active::{Active, Step};
use super::lineage::{Lineage, ShardId};
use super::options::{KinesisShards, KinesisStart};
use super::order::{Order, Place, Standing};
use super::poll;
use super::positions::Position;
use super::upstream::{Begin, Page, SequenceNumber, Upstream};
use crate::wire::{self, Predecessor};

/// How long the child of a shard that ended may take to be listed.
const CHILD_LISTED_MAX: Duration = Duration::from_mins(1);

/// How the shards are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// By asking, up to what was acknowledged when the reader began.
    Read,
    /// For ever.
    Follow,
}

/// Yields the events of a log in order, each once, whatever shards they lie in.
///
/// It owns all that it does, and does it only while it is awaited: dropped, it leaves no task, no subscription
/// and no call. It holds one page of each shard that is open, one unpacked record of each, and what is under
/// way in chunks.
pub(crate) struct Reader {
    upstream: Arc<Upstream>,
    mode: Mode,
    began: Instant,
    lineage: Lineage,
    active: Vec<Active>,
    order: Order,
    /// What the caller has already, with all before it.
    behind: Option<EventId>,
    /// The first event that came, and the one before it.
    floor: Option<(EventId, Predecessor)>,
    /// Where a shard begins of which nothing was read, unless at its oldest record.
    start: Option<Begin>,
    /// The records of the saved position, if it names one in each of its shards.
    frontier: Option<Vec<Place>>,
}

/// What may be yielded now.
enum Picked {
    Event(Event),
    /// An event whose predecessor will not come any more.
    Ahead(EventId),
    /// As the shards seem to end, if they are open.
    Unsure,
    /// Not before it is known that no other shard has anything that was visible then.
    NotBefore(Instant),
    Nothing,
}

impl Reader {
    /// Begins at a saved position, or where the options say. What lies up to `behind` comes, too, as far as the stream
    /// has it, but need not.
    ///
    /// # Errors
    /// What the service answers.
    ///
    /// # Cancel safety
    /// It only asks.
    pub(crate) async fn open(
        upstream: Arc<Upstream>,
        mode: Mode,
        at: Option<Position>,
        behind: Option<EventId>,
    ) -> Result<Self> {
        let began = Instant::now();
        let options = &upstream.options;
        let hash = match options.shards {
            KinesisShards::OfLog => Some(wire::hash_key(&upstream.log)),
            KinesisShards::OfHashKey(hash) => Some(hash),
            KinesisShards::All => None,
        };
        let mut lineage = Lineage::new(hash);
        lineage.learn(upstream.list_shards().await?);
        let last = at.as_ref().map(|position| position.last);
        let order = Order::new(options.unnamed, options.compared_events_max, last);
        let start = match options.start {
            _ if at.is_some() => None,
            KinesisStart::TrimHorizon => None,
            KinesisStart::At(time) => Some(Begin::AtTimestamp(time.into())),
            KinesisStart::Latest => {
                lineage.skip_closed();
                Some(Begin::Latest)
            }
        };
        let frontier = at.map(|position| position.shards).unwrap_or_default();
        for (shard, _) in &frontier {
            lineage.skip_ancestors(shard);
        }
        let places = frontier
            .iter()
            .map(|(shard, number)| number.clone().map(|number| Place { shard: shard.clone(), number }));
        let frontier_places = places.collect();
        let mut reader = Self {
            upstream,
            mode,
            began,
            lineage,
            active: Vec::new(),
            order,
            behind,
            floor: None,
            start,
            frontier: frontier_places,
        };
        reader.begin_shards(&frontier);
        if reader.start == Some(Begin::Latest) {
            reader.start = None; // what appears from here on came later, all of it
        }
        Ok(reader)
    }

    /// The next event; `None` where a read ends.
    ///
    /// # Errors
    /// What the service answers; `Corrupt` for what does not decode; `Pruned` and `Diverged` where the log
    /// does not go on behind the last event.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing: the next call continues.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            self.unpack()?;
            if let Some(at) = self.first_done() {
                self.finish(at).await?;
                continue;
            }
            match self.pick()? {
                Picked::Event(event) => return Ok(Some(event)),
                Picked::Ahead(id) => {
                    return Err(self.missing(id).await.at_target(self.upstream.name()));
                }
                // What was left of a shard had come before.
                Picked::Nothing | Picked::NotBefore(_) if self.first_done().is_some() => continue,
                Picked::Nothing => {}
                Picked::NotBefore(visible) => {
                    self.active.iter_mut().for_each(|active| active.look(&self.upstream, visible));
                }
                Picked::Unsure => {
                    self.ask_which_are_open().await?;
                    continue;
                }
            }
            let waiting: Vec<usize> = (0..self.active.len()).filter(|&at| self.is_wanted(at)).collect();
            if waiting.is_empty() && self.active.iter().any(Active::is_unsure) {
                self.ask_which_are_open().await?;
                continue;
            }
            if waiting.is_empty() {
                return Ok(None);
            }
            let (at, page) = self.page_of(&waiting).await;
            self.active[at].take(page?);
        }
    }

    /// The last event that came.
    pub(crate) fn last(&self) -> Checkpoint {
        self.order.last()
    }

    /// The first event that came, and the one before it in the log.
    pub(crate) fn floor(&self) -> Option<(EventId, Predecessor)> {
        self.floor
    }

    /// Returns where a reader may begin that wants all events behind the last one.
    pub(crate) fn position(&self) -> Option<Position> {
        let Checkpoint::At { id, digest } = self.order.last() else { return None };
        let shards = self.active.iter().map(|active| match (&active.behind, &active.begin) {
            (Some(number), _) | (None, Begin::After(number)) => {
                Some((active.shard.clone(), Some(number.clone())))
            }
            (None, Begin::TrimHorizon) => Some((active.shard.clone(), None)),
            (None, Begin::AtTimestamp(_) | Begin::Latest | Begin::At(_)) => None,
        });
        let shards: Vec<_> = shards.collect::<Option<_>>()?;
        (!shards.is_empty()).then_some(Position { last: (id, digest), shards })
    }

    /// Where a reader may begin that wants the last event again, and all behind it; `None` before the second.
    pub(crate) fn position_before_last(&self) -> Option<Position> {
        // What the shards are behind lies before the last event: its record is not done with.
        let position = self.position()?;
        Some(Position { last: self.order.before_last()?, ..position })
    }

    /// The stream and the log, for errors.
    pub(crate) fn name(&self) -> String {
        self.upstream.name()
    }

    fn begin_shards(&mut self, frontier: &[(ShardId, Option<SequenceNumber>)]) {
        for shard in self.lineage.begin() {
            let saved = frontier.iter().find(|(id, _)| *id == shard).and_then(|(_, number)| number.clone());
            let begin = match (saved, &self.start) {
                (Some(number), _) => Begin::After(number),
                (None, Some(start)) => start.clone(),
                (None, None) => Begin::TrimHorizon,
            };
            tracing::debug!(shard = &*shard, ?begin, "a shard begins");
            self.active.push(Active::new(&self.upstream, self.mode, shard, begin));
        }
    }

    /// A service need not say at once that a shard has no more, so the end of one is only the end of the log there if
    /// the shard is open.
    async fn ask_which_are_open(&mut self) -> Result<()> {
        let open = self.upstream.open_shards().await?;
        self.active.iter_mut().for_each(|active| active.learn(open.contains(&active.shard)));
        Ok(())
    }

    /// A shard was read to its end: its children may begin.
    ///
    /// # Cancel safety
    /// The shard stays where it is until its children are known.
    async fn finish(&mut self, at: usize) -> Result<()> {
        let shard = self.active[at].shard.clone();
        let since = Instant::now();
        loop {
            self.lineage.learn(self.upstream.list_shards().await?);
            if self.lineage.has_child(&shard) {
                break;
            }
            if since.elapsed() > CHILD_LISTED_MAX {
                let message =
                    "the shard ended, and no shard is listed that goes on; is the stream being deleted?";
                return Err(Error::unavailable(message).at_target(self.upstream.place(&shard, None)));
            }
            sleep(self.upstream.options.poll_interval.max(Duration::from_millis(10))).await;
        }
        tracing::debug!(shard = &*shard, "a shard ended");
        self.lineage.finish(&shard);
        self.active.swap_remove(at);
        self.begin_shards(&[]);
        Ok(())
    }

    fn unpack(&mut self) -> Result<()> {
        for active in &mut self.active {
            active.unpack(&self.upstream)?;
        }
        Ok(())
    }

    /// Takes the event that is next, if that is certain.
    fn pick(&mut self) -> Result<Picked> {
        let mut lowest: Option<(EventId, Standing, usize)> = None;
        let mut at = 0;
        while let Some(active) = self.active.get_mut(at) {
            let Some(Step::Event(marked, place)) = active.events.front() else {
                at += 1;
                continue;
            };
            let error_at = |error: Error| error.at_target(self.upstream.name());
            match self.order.stand(marked, place).map_err(error_at)? {
                Standing::Next => return Ok(Picked::Event(self.take(at))),
                Standing::Again => {
                    active.events.pop_front();
                    active.unpack(&self.upstream)?;
                }
                standing => {
                    let id = marked.event.id();
                    if lowest.is_none_or(|(lowest, ..)| id < lowest) {
                        lowest = Some((id, standing, at));
                    }
                    at += 1;
                }
            }
        }
        Ok(match lowest {
            Some((_, _, at)) if !self.is_settled(at) => Picked::NotBefore(self.visible(at)),
            Some(_) if self.active.iter().any(Active::is_unsure) => Picked::Unsure,
            Some((_, Standing::Ahead, at)) if self.lacks_only_what_the_caller_has(at) => {
                self.order.forget();
                Picked::Event(self.take(at))
            }
            Some((id, Standing::Ahead, _)) => Picked::Ahead(id),
            Some((_, _, at)) => Picked::Event(self.take(at)),
            None => Picked::Nothing,
        })
    }

    fn first_done(&self) -> Option<usize> {
        self.active.iter().position(Active::is_done)
    }

    /// Returns whether no other shard can still have what belongs before the first event of this one: each has a
    /// later event itself, or was at its end long enough after this one came. What belongs before it was
    /// acknowledged before it was put.
    fn is_settled(&self, at: usize) -> bool {
        let visible = Some(self.visible(at));
        let mut others = self.active.iter().enumerate().filter(|(other, _)| *other != at);
        others.all(|(_, other)| other.has_event() || other.at_tip >= visible)
    }

    /// When everything must be visible that was acknowledged before the first event of this shard came.
    fn visible(&self, at: usize) -> Instant {
        self.active[at].arrived + self.settle()
    }

    /// Returns whether what is missing before the first event of this shard is what the caller has already.
    fn lacks_only_what_the_caller_has(&self, at: usize) -> bool {
        let Some(Step::Event(marked, _)) = self.active[at].events.front() else { return false };
        matches!(self.order.predecessor(marked), Predecessor::Named(before) if before <= self.behind)
    }

    fn take(&mut self, at: usize) -> Event {
        let Some(Step::Event(marked, place)) = self.active[at].events.pop_front() else {
            unreachable!("the caller saw it there");
        };
        if self.floor.is_none() {
            self.floor = Some((marked.event.id(), self.order.predecessor(&marked)));
        }
        self.order.take(&marked, &place);
        marked.event
    }

    /// Returns whether more of a shard is needed.
    fn is_wanted(&self, at: usize) -> bool {
        let active = &self.active[at];
        if active.has_event() {
            return false;
        }
        let some_wait = self.active.iter().any(Active::has_event);
        self.mode == Mode::Follow || some_wait || active.at_tip < Some(self.began + self.settle())
    }

    fn settle(&self) -> Duration {
        self.upstream.options.settle
    }

    async fn page_of(&mut self, waiting: &[usize]) -> (usize, Result<Page>) {
        poll_fn(|cx| {
            for &at in waiting {
                if let Poll::Ready(page) = self.active[at].poll_page(cx) {
                    return Poll::Ready((at, page));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What to say of an event whose predecessor did not come: expired, or never there.
    async fn missing(&mut self, before: EventId) -> Error {
        let last = self.order.last();
        match self.still_keeps_the_last().await {
            Err(error) => error,
            Ok(false) => Error::new(
                ErrorKind::Pruned { oldest: before },
                Retry::Never,
                format!(
                    "what stood between {last} and event {before} has left the stream, because its retention is \
                     shorter than this reader's delay; read from event {before}, or fill the gap from another copy"
                ),
            ),
            Ok(true) => Error::diverged(format!(
                "it was not written behind {last}, and the stream still keeps that one, so nothing expired: \
                     another writer, or one that lost events; compare the log with its origin"
            ))
            .at(before),
        }
    }

    /// Returns whether the stream keeps the record at the reader's position, so that nothing behind it has expired.
    async fn still_keeps_the_last(&mut self) -> Result<bool> {
        if let Some(place) = self.order.last_place() {
            return poll::still_keeps(&self.upstream, &place).await;
        }
        // Nothing came since the saved position.
        for place in self.frontier.iter().flatten() {
            if !poll::still_keeps(&self.upstream, place).await? {
                return Ok(false);
            }
        }
        Ok(self.frontier.as_ref().is_some_and(|places| !places.is_empty()))
    }
}
