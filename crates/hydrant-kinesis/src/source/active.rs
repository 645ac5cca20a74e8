//! One shard of those that are read at a time: its page, unpacked as far as it must be.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use hydrant::{Error, Result};
use tokio::time::{Instant, sleep_until};

use super::lineage::ShardId;
use super::order::Place;
use super::reader::Mode;
use super::upstream::{Begin, Page, Record, SequenceNumber, Upstream};
use super::{enhanced, poll};
use crate::wire::{self, Assembly, Marked, Unpacked};

/// A shard that is being read.
pub(super) struct Active {
    pub(super) shard: ShardId,
    pages: BoxStream<'static, Result<Page>>,
    /// Where pushed pages continue; `None` if pages are polled. A pushed page does not show the end of the shard.
    pushed_up_to: Option<Begin>,
    /// One page that is asked for, to know that.
    look: Option<BoxFuture<'static, Result<Page>>>,
    next_look: Instant,
    records: VecDeque<Record>,
    /// What is unpacked of the records before those.
    pub(super) events: VecDeque<Step>,
    assembly: Assembly,
    pub(super) begin: Begin,
    /// The last record of which everything is disposed of.
    pub(super) behind: Option<SequenceNumber>,
    /// When the last page with records came.
    pub(super) arrived: Instant,
    /// When the page was asked for that last reached the end of the shard, unless that is known to be closed.
    pub(super) at_tip: Option<Instant>,
    /// Whether the shard is known to have been open then, so that nothing older is still to come in a child.
    is_sure: bool,
    is_closed: bool,
    is_last: bool,
}

/// The contents of a shard, in order.
pub(super) enum Step {
    Event(Marked, Arc<Place>),
    /// Everything up to here is disposed of.
    Settled(SequenceNumber),
}

impl Active {
    pub(super) fn new(upstream: &Arc<Upstream>, mode: Mode, shard: ShardId, begin: Begin) -> Self {
        let is_pushed = mode == Mode::Follow && upstream.options.enhanced_fan_out.is_some();
        let pages = if is_pushed { enhanced::pages } else { poll::pages };
        Self {
            pages: pages(upstream.clone(), shard.clone(), begin.clone()),
            pushed_up_to: is_pushed.then(|| begin.clone()),
            look: None,
            next_look: Instant::now(),
            shard,
            records: VecDeque::new(),
            events: VecDeque::new(),
            assembly: Assembly::new(upstream.options.event_bytes_max),
            begin,
            behind: None,
            arrived: Instant::now(),
            at_tip: None,
            is_sure: false,
            is_closed: false,
            is_last: false,
        }
    }

    pub(super) fn take(&mut self, page: Page) {
        if !page.records.is_empty() {
            self.arrived = Instant::now();
        }
        self.records = page.records.into();
        if let Some(begin) = &mut self.pushed_up_to {
            *begin = page.next;
        }
        self.is_last = page.is_last;
        if page.is_last {
            self.close();
        } else if page.at_tip.is_some() && !self.is_closed {
            (self.at_tip, self.is_sure) = (page.at_tip, false);
        }
    }

    /// The next page: pushed, polled, or looked for.
    pub(super) fn poll_page(&mut self, cx: &mut Context<'_>) -> Poll<Result<Page>> {
        if let Some(look) = &mut self.look
            && let Poll::Ready(page) = look.poll_unpin(cx)
        {
            self.look = None;
            return Poll::Ready(page);
        }
        let ended = || Err(Error::bug("a shard was read past its end"));
        self.pages.poll_next_unpin(cx).map(|page| page.unwrap_or_else(ended))
    }

    /// Asks for a page, if needed, to learn that this shard holds nothing more from before `visible`; an event of
    /// another shard waits for that. The records of the page are also pushed, and dropped when they come again.
    pub(super) fn look(&mut self, upstream: &Arc<Upstream>, visible: Instant) {
        let is_known = self.has_event() || self.at_tip >= Some(visible);
        // The place of LATEST is not known before something was pushed.
        let Some(begin) = self.pushed_up_to.clone().filter(|begin| *begin != Begin::Latest) else { return };
        if is_known || self.look.is_some() {
            return;
        }
        let at = self.next_look.max(visible);
        self.next_look = at + upstream.options.poll_interval;
        let (upstream, shard) = (upstream.clone(), self.shard.clone());
        let look = async move {
            sleep_until(at).await;
            poll::page(upstream, shard, begin).await
        };
        self.look = Some(look.boxed());
    }

    /// Returns whether it is not known yet if the end of the shard is the end of the log there.
    pub(super) fn is_unsure(&self) -> bool {
        self.at_tip.is_some() && !self.is_sure && !self.has_event()
    }

    /// Takes what a listing says that was asked for after the last page.
    pub(super) fn learn(&mut self, is_open: bool) {
        if is_open {
            self.is_sure = true;
        } else {
            self.close();
        }
    }

    /// The shard takes no more records: it is read to its last page.
    fn close(&mut self) {
        (self.is_closed, self.at_tip) = (true, None);
    }

    pub(super) fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_last && self.records.is_empty() && self.events.is_empty()
    }

    /// Unpacks records until an event is there, or none is left.
    pub(super) fn unpack(&mut self, upstream: &Upstream) -> Result<()> {
        loop {
            while let Some(Step::Settled(number)) = self.events.front() {
                self.behind = Some(number.clone());
                self.events.pop_front();
            }
            if self.has_event() {
                self.look = None; // it would not be polled
                return Ok(());
            }
            let Some(record) = self.records.pop_front() else { return Ok(()) };
            let place = Arc::new(Place { shard: self.shard.clone(), number: record.number.clone() });
            let stands = |error: Error| error.at_target(upstream.place(&place.shard, Some(&place.number)));
            for unpacked in
                wire::unpack(&upstream.log, &record.partition_key, &record.data).map_err(stands)?
            {
                let marked = match unpacked {
                    Unpacked::Event(marked) => Some(marked),
                    Unpacked::Chunk(chunk) => self.assembly.take(chunk).map_err(stands)?,
                };
                if let Some(marked) = marked {
                    self.assembly.forget_up_to(marked.event.id());
                    self.events.push_back(Step::Event(marked, place.clone()));
                }
            }
            if !self.assembly.is_partial() {
                self.events.push_back(Step::Settled(record.number));
            }
        }
    }
}
