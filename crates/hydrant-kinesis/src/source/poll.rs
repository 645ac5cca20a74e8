//! One shard, read by asking: `GetRecords` at a pace.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hydrant::{Error, Result};
use tokio::time::{Instant, sleep_until};

use super::lineage::ShardId;
use super::order::Place;
use super::upstream::{Begin, Page, Pause, Record, Unanswered, Upstream};

/// The pages of a shard, from `begin` to its end or for ever. An empty page is not the end.
///
/// # Cancel safety
/// Nothing is under way but what the stream itself awaits.
pub(crate) fn pages(
    upstream: Arc<Upstream>,
    shard: ShardId,
    begin: Begin,
) -> BoxStream<'static, Result<Page>> {
    stream::try_unfold(Some(Poll::new(upstream, shard, begin)), |poll| async move {
        let Some(mut poll) = poll else { return Ok(None) };
        let page = poll.next_page().await?;
        let rest = (!page.is_last).then_some(poll);
        Ok(Some((page, rest)))
    })
    .boxed()
}

struct Poll {
    upstream: Arc<Upstream>,
    shard: ShardId,
    /// Where to go on when the iterator expires: behind the last record that came.
    begin: Begin,
    iterator: Option<String>,
    next_call: Instant,
    pause: Pause,
}

/// One page, from `begin`.
pub(super) async fn page(upstream: Arc<Upstream>, shard: ShardId, begin: Begin) -> Result<Page> {
    Poll::new(upstream, shard, begin).next_page().await
}

impl Poll {
    fn new(upstream: Arc<Upstream>, shard: ShardId, begin: Begin) -> Self {
        let pause = Pause::new(&upstream);
        Self { upstream, shard, begin, iterator: None, next_call: Instant::now(), pause }
    }

    async fn next_page(&mut self) -> Result<Page> {
        loop {
            sleep_until(self.next_call).await;
            let asked = Instant::now();
            self.next_call = asked + self.upstream.options.poll_interval;
            let error = match self.ask(asked).await {
                Ok(page) => {
                    self.pause.reset();
                    return Ok(page);
                }
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Missing(error)) => {
                    let has_expired = self.upstream.has_lost(&self.shard).await?;
                    return if has_expired { Ok(Page::of_the_end()) } else { Err(error) };
                }
                Err(Unanswered::TooFast(error)) => error,
                Err(Unanswered::Expired(error)) => {
                    // A second LATEST would pass over what came since the first.
                    if self.begin == Begin::Latest {
                        return Err(self.upstream.lost_its_place(&self.shard).because(error));
                    }
                    self.iterator = None;
                    error
                }
            };
            self.pause.take(error).await?;
        }
    }

    async fn ask(&mut self, asked: Instant) -> Result<Page, Unanswered> {
        let iterator = match self.iterator.clone() {
            Some(iterator) => iterator,
            None => self.new_iterator().await?,
        };
        self.iterator = Some(iterator.clone());
        let options = &self.upstream.options;
        let ask = self.upstream.client.get_records().shard_iterator(iterator).limit(options.page_records_max);
        let answer = self.upstream.ask("GetRecords", ask.send()).await?;
        // A server that does not measure always says 0, also behind a page that was filled up.
        let is_full = i32::try_from(answer.records.len()).unwrap_or(i32::MAX) >= options.page_records_max;
        let at_tip = answer.millis_behind_latest.unwrap_or(0) == 0 && !is_full;
        let is_last = answer.next_shard_iterator.is_none();
        self.iterator = answer.next_shard_iterator;
        let records: Vec<_> = answer.records.into_iter().map(Record::from).collect();
        if let Some(last) = records.last() {
            self.begin = Begin::After(last.number.clone());
        }
        Ok(Page { records, at_tip: at_tip.then_some(asked), next: self.begin.clone(), is_last })
    }

    async fn new_iterator(&self) -> Result<String, Unanswered> {
        let (kind, number, time) = self.begin.iterator();
        let ask = self.upstream.client.get_shard_iterator().stream_name(&self.upstream.stream);
        let ask = ask.shard_id(&*self.shard).shard_iterator_type(kind);
        let ask = ask.set_starting_sequence_number(number).set_timestamp(time);
        let answer = self.upstream.ask("GetShardIterator", ask.send()).await?;
        answer.shard_iterator.ok_or_else(|| {
            let message = "GetShardIterator answered without an iterator";
            Unanswered::Failed(Error::unavailable(message).at_target(self.upstream.place(&self.shard, None)))
        })
    }
}

/// Returns whether the stream still has the record there.
pub(super) async fn still_keeps(upstream: &Arc<Upstream>, place: &Place) -> Result<bool> {
    let begin = Begin::At(place.number.clone());
    let mut pages = pages(upstream.clone(), place.shard.clone(), begin);
    while let Some(page) = pages.next().await.transpose()? {
        if let Some(first) = page.records.first() {
            return Ok(first.number == place.number);
        }
        if page.at_tip.is_some() {
            break;
        }
    }
    Ok(false)
}
