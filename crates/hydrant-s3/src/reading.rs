//! Reading: listing pages and objects fetched ahead, in order, in bounded memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesOrdered};
use futures_util::{FutureExt, StreamExt};
use hydrant::{Error, ErrorKind, Event, EventId, EventStream, ReadFrom, Result};

use crate::ahead::Ahead;
use crate::blocking::{INLINE_BYTES_MAX, blocking};
use crate::bucket::{Bucket, Fetched, Listed};
use crate::chain::{self, next_place};
use crate::head::{Head, hole};
use crate::keys::Place;
use crate::wire::{Lines, Object, Segment, decompress};

/// Everything from `from` to the head that is given, as a stream; an error is its last item.
pub(crate) fn read(bucket: Arc<Bucket>, from: ReadFrom, head: Head) -> EventStream {
    if matches!(from.exclusive(), ReadFrom::After(id) if id >= head.segment.last) {
        return stream::empty().boxed();
    }
    let begun = async move {
        match Reading::begin(bucket, from, &head).await {
            Ok(reading) => reading.into_stream(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    };
    stream::once(begun).flatten().boxed()
}

/// How often an object is looked for that should be there: as it is looked for, others may merge and prune.
const LOOKS_MAX: u32 = 5;

/// An object that is on its way, and its size.
type Fetching = BoxFuture<'static, (Listed, Result<Option<Fetched>>)>;

/// A walk along the chain.
struct Reading {
    bucket: Arc<Bucket>,
    /// The place of the next object of the chain.
    reach: Place,
    /// The last event that was yielded or is not wanted.
    skip: Option<EventId>,
    /// The last event that is wanted.
    end: EventId,
    /// What was listed and is not fetched yet.
    listed: VecDeque<Listed>,
    /// Where the listing continues; `None` if there is no more.
    list_from: Option<Place>,
    fetching: FuturesOrdered<Fetching>,
    fetching_bytes: u64,
    lines: Option<Lines>,
}

impl Reading {
    async fn begin(bucket: Arc<Bucket>, from: ReadFrom, head: &Head) -> Result<Self> {
        let begins = chain::begin(&bucket, from, head).await?;
        Ok(Self {
            bucket,
            reach: begins.place,
            skip: begins.skip,
            end: head.segment.last,
            listed: VecDeque::new(),
            list_from: Some(begins.place),
            fetching: FuturesOrdered::new(),
            fetching_bytes: 0,
            lines: None,
        })
    }

    fn into_stream(self) -> EventStream {
        let next = |reading: Option<Self>| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        };
        stream::unfold(Some(self), next).boxed()
    }

    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if self.skip >= Some(self.end) {
                return Ok(None);
            }
            let Some(lines) = &mut self.lines else {
                self.next_segment().await?;
                continue;
            };
            match lines.next().transpose().map_err(|error| error.at_target(self.bucket.url_at(self.reach)))? {
                // A head that was read is no less than what it once was, so the end is always met.
                Some(event) if Some(event.id()) > self.skip => {
                    self.skip = Some(event.id());
                    return Ok((event.id() <= self.end).then_some(event));
                }
                Some(_) => {}
                None => self.lines = None,
            }
        }
    }

    /// Fetches ahead, and takes the next object of the chain.
    async fn next_segment(&mut self) -> Result<()> {
        self.fetch_ahead().await?;
        let Some((listed, fetched)) = self.fetching.next().await else {
            let greater = self.listed.front().and_then(|listed| listed.place);
            return self.look_elsewhere(greater).await;
        };
        self.fetching_bytes -= listed.size;
        if listed.place < self.reach {
            // Inside of what was read: what a crash in compaction left.
            return Ok(());
        }
        if listed.place > self.reach {
            return self.look_elsewhere(listed.place).await;
        }
        match fetched? {
            Some(Fetched { object: Object::Segment(segment), body, .. }) => {
                self.take(listed.place, segment, body).await
            }
            // It was compacted or pruned since it was listed.
            _ => self.look_elsewhere(None).await,
        }
    }

    /// Goes on with this object, behind what was read.
    async fn take(&mut self, place: Place, segment: Segment, body: Bytes) -> Result<()> {
        let named = |error: Error| {
            let error = error.at_target(self.bucket.url_at(place));
            if error.event().is_some() { error } else { error.at(segment.first) }
        };
        let next = next_place(&self.bucket, place, &segment)?;
        let lines = if segment.bytes > INLINE_BYTES_MAX as u64 {
            let segment = segment.clone();
            blocking(move || decompress(&segment, body)).await
        } else {
            decompress(&segment, body)
        };
        self.lines = Some(Lines::new(segment.clone(), lines.map_err(named)?));
        self.reach = next;
        // What was merged into this object left tombstones: they need not be listed.
        while self.listed.front().is_some_and(|listed| listed.place < next) {
            self.listed.pop_front();
        }
        if self.listed.is_empty() && self.list_from.is_some_and(|from| from < next) {
            self.list_from = Some(next);
        }
        Ok(())
    }

    /// Lists and asks for objects until the bounds of what is fetched ahead are met.
    async fn fetch_ahead(&mut self) -> Result<()> {
        let options = &self.bucket.options;
        let mut pages = 0;
        while self.fetching.len() < options.prefetch_objects.max(1) {
            let Some(listed) = self.listed.pop_front() else {
                let Some(from) = self.list_from else { return Ok(()) };
                // Many more pages of tombstones may follow this one. Objects under way show how far to list.
                if pages > 0 && !self.fetching.is_empty() {
                    return Ok(());
                }
                pages += 1;
                let page = self.bucket.list(from, options.list_keys).await?;
                let next =
                    page.listed.last().and_then(|last| last.place.map_or(Some(EventId::ZERO), EventId::next));
                self.list_from = next.filter(|_| page.has_more).map(Some);
                self.listed.extend(page.listed);
                continue;
            };
            // What came since the read began is not wanted.
            if listed.place >= Some(self.end) {
                (self.listed, self.list_from) = (VecDeque::new(), None);
                return Ok(());
            }
            let is_tombstone = listed.size == 0;
            if is_tombstone || listed.place < self.reach {
                continue;
            }
            // The next object is missing, so nothing behind it is worth fetching yet.
            if self.fetching.is_empty() && listed.place > self.reach {
                self.listed.push_front(listed);
                return Ok(());
            }
            let fits = self.fetching_bytes + listed.size <= options.prefetch_bytes;
            if !fits && !self.fetching.is_empty() {
                self.listed.push_front(listed);
                return Ok(());
            }
            self.fetching_bytes += listed.size;
            self.fetching.push_back(fetch(self.bucket.clone(), listed));
        }
        Ok(())
    }

    /// The object that should be next is not where it was listed, or was not listed: it may be there now, it
    /// may have been merged into another, or pruned. Otherwise the chain is broken.
    async fn look_elsewhere(&mut self, greater: Place) -> Result<()> {
        // Objects fetched ahead are dropped, and asked for again from where the chain continues.
        self.fetching = FuturesOrdered::new();
        self.fetching_bytes = 0;
        self.listed.clear();
        let mut looks = 0;
        let (place, segment, body) = loop {
            looks += 1;
            match self.find(greater).await {
                // What was found first may have been merged or pruned before it was fetched.
                Err(error) if error.kind() == ErrorKind::Corrupt && looks < LOOKS_MAX => {
                    tracing::debug!(%error, "looking again: the log may have changed under this read");
                }
                found => break found?,
            }
        };
        self.skip = self.skip.max(self.reach);
        self.take(place, segment, body).await?;
        self.list_from = Some(self.reach);
        Ok(())
    }

    /// The object that holds what comes next, by asking for it.
    async fn find(&mut self, greater: Place) -> Result<(Place, Segment, Bytes)> {
        let (bucket, reach) = (&self.bucket, self.reach);
        let root = chain::root(bucket).await?.ok_or_else(|| hole(bucket, reach, greater))?;
        if reach < root.place {
            return Err(Error::pruned(root.oldest).at_target(bucket.url(&bucket.keys.log())));
        }
        let place = match reach {
            Some(id) => chain::seek(bucket, id).await?,
            None => None,
        };
        match bucket.get(place).await? {
            Some(Fetched { object: Object::Segment(segment), body, .. }) if Some(segment.last) > reach => {
                Ok((place, segment, body))
            }
            _ => Err(hole(bucket, reach, greater)),
        }
    }
}

fn fetch(bucket: Arc<Bucket>, listed: Listed) -> Fetching {
    let place = listed.place;
    let fetched = Ahead::new(async move { bucket.get(place).await });
    async move { (listed, fetched.await) }.boxed()
}
