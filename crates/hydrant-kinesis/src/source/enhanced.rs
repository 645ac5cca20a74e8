//! One shard, as the service pushes it: `SubscribeToShard` under a registered consumer (enhanced fan-out).

use std::sync::Arc;

use aws_sdk_kinesis::config::{Config, StalledStreamProtectionConfig};
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{ConsumerStatus, SubscribeToShardEvent, SubscribeToShardEventStream};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hydrant::{Error, Result};
use tokio::time::{Instant, timeout};

use super::lineage::ShardId;
use super::poll;
use super::upstream::{Begin, Page, Pause, Record, Unanswered, Upstream};

/// After so many intervals of polling without a record, a shard is asked whether it has ended: servers that speak like
/// Kinesis do not say it to a subscriber, and a log must not stop for that.
const IDLE_POLLS: u32 = 40;

type Events = EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>;

/// The pages of a shard, from `begin` to its end or for ever. A subscription ends by itself every five minutes,
/// and is taken anew behind the last record.
///
/// # Cancel safety
/// Nothing is under way but what the stream itself awaits; dropped, it ends the subscription.
pub(super) fn pages(
    upstream: Arc<Upstream>,
    shard: ShardId,
    begin: Begin,
) -> BoxStream<'static, Result<Page>> {
    let pause = Pause::new(&upstream);
    let subscription = Subscription {
        upstream,
        shard,
        begin,
        open: None,
        granted: false,
        pause,
        idle_since: Instant::now(),
    };
    stream::try_unfold(Some(subscription), |subscription| async move {
        let Some(mut subscription) = subscription else { return Ok(None) };
        let page = subscription.next_page().await?;
        let rest = (!page.is_last).then_some(subscription);
        Ok(Some((page, rest)))
    })
    .boxed()
}

struct Subscription {
    upstream: Arc<Upstream>,
    shard: ShardId,
    /// Where to go on when the subscription ends.
    begin: Begin,
    open: Option<Open>,
    /// Whether there was a subscription before.
    granted: bool,
    pause: Pause,
    /// When something last came, or was looked for.
    idle_since: Instant,
}

/// A subscription that is open.
struct Open {
    events: Events,
    /// Whether it said anything.
    has_spoken: bool,
}

impl Subscription {
    async fn next_page(&mut self) -> Result<Page> {
        loop {
            match self.next_event().await {
                Ok(Some(event)) => {
                    self.pause.reset();
                    let page = self.page(event);
                    return if self.is_idle(&page) { self.look().await } else { Ok(page) };
                }
                Ok(None) => {
                    let open = self.open.take();
                    if !open.is_some_and(|open| open.has_spoken) {
                        self.pause.take(self.broke_off()).await?;
                    }
                }
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::Missing(error)) => {
                    if self.upstream.has_lost(&self.shard).await? {
                        return Ok(Page::of_the_end());
                    }
                    // The consumer was deregistered elsewhere: it is registered again.
                    self.upstream.forget_consumer();
                    self.open = None;
                    self.pause.take(error).await?;
                }
                Err(Unanswered::Expired(error) | Unanswered::TooFast(error)) => {
                    self.open = None;
                    self.pause.take(error).await?;
                }
            }
        }
    }

    /// The next piece of the shard; `None` when the subscription has ended.
    async fn next_event(&mut self) -> Result<Option<SubscribeToShardEvent>, Unanswered> {
        if self.open.is_none() {
            // A second LATEST would pass over what came since the first.
            if self.begin == Begin::Latest && self.granted {
                return Err(Unanswered::Failed(self.upstream.lost_its_place(&self.shard)));
            }
            self.open = Some(Open { events: self.subscribe().await?, has_spoken: false });
            self.granted = true;
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        // The service says something every few seconds, records or not: silence is a dead connection.
        let Ok(event) = timeout(self.upstream.options.call_timeout, open.events.recv()).await else {
            // After such a time there is no haste in subscribing again, and nothing to be given up.
            open.has_spoken = true;
            return Ok(None);
        };
        match event {
            Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => {
                open.has_spoken = true;
                Ok(Some(event))
            }
            Ok(Some(_)) => Err(Unanswered::Failed(
                Error::unsupported(
                    "the subscription says what this version does not know; update the reader",
                )
                .at_target(self.upstream.place(&self.shard, None)),
            )),
            Ok(None) => Ok(None),
            // Whatever ended it, the next subscription shows whether the cause lasts.
            Err(cause) => {
                let is_missing = cause
                    .as_service_error()
                    .is_some_and(SubscribeToShardEventStreamError::is_resource_not_found_exception);
                let error = self.broke_off().because(cause);
                Err(if is_missing { Unanswered::Missing(error) } else { Unanswered::TooFast(error) })
            }
        }
    }

    fn broke_off(&self) -> Error {
        let message = "the subscription broke off; subscribing again";
        Error::unavailable(message).at_target(self.upstream.place(&self.shard, None))
    }

    async fn subscribe(&self) -> Result<Events, Unanswered> {
        let consumer = consumer(&self.upstream).await?;
        let position = self.begin.position().map_err(Unanswered::Failed)?;
        let ask = self.upstream.client.subscribe_to_shard();
        let ask = ask.consumer_arn(consumer).shard_id(&*self.shard).starting_position(position).customize();
        // An idle shard is no stalled download.
        let patient = Config::builder().stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let answer = self.upstream.ask("SubscribeToShard", ask.config_override(patient).send()).await?;
        tracing::debug!(shard = &*self.shard, begin = ?self.begin, "subscribed");
        Ok(answer.event_stream)
    }

    fn is_idle(&mut self, page: &Page) -> bool {
        if !page.records.is_empty() {
            self.idle_since = Instant::now();
        }
        let idle_max = self.upstream.options.poll_interval * IDLE_POLLS;
        page.records.is_empty()
            && !page.is_last
            && self.begin != Begin::Latest
            && self.idle_since.elapsed() >= idle_max
    }

    /// Asks once. What it finds comes by the subscription, too, and is dropped then.
    async fn look(&mut self) -> Result<Page> {
        let page = poll::page(self.upstream.clone(), self.shard.clone(), self.begin.clone()).await?;
        self.idle_since = Instant::now();
        Ok(page)
    }

    fn page(&mut self, event: SubscribeToShardEvent) -> Page {
        let records: Vec<_> = event.records.into_iter().map(Record::from).collect();
        let is_last = event.continuation_sequence_number.is_empty();
        if let Some(last) = records.last() {
            self.begin = Begin::After(last.number.clone());
        } else if !is_last {
            self.begin = Begin::At(event.continuation_sequence_number.into());
        }
        // The push may have waited for this reader, so the time at which it was at the end of the shard is unknown.
        Page { records, at_tip: None, next: self.begin.clone(), is_last }
    }
}

/// The ARN of the registered consumer, which is registered where there is none and waited for.
async fn consumer(upstream: &Upstream) -> Result<String, Unanswered> {
    if let Some(known) = upstream.consumer() {
        return Ok(known);
    }
    let name = upstream.options.enhanced_fan_out.as_deref().unwrap_or_default();
    let mut pause = Pause::new(upstream);
    loop {
        let ask = upstream.client.describe_stream_consumer().stream_arn(&upstream.arn).consumer_name(name);
        let not_yet = match upstream.ask("DescribeStreamConsumer", ask.send()).await {
            Ok(found) => {
                let found = found.consumer_description;
                if let Some(found) = found.filter(|found| found.consumer_status == ConsumerStatus::Active) {
                    upstream.remember_consumer(found.consumer_arn.clone());
                    return Ok(found.consumer_arn);
                }
                None
            }
            Err(Unanswered::Missing(_)) => register(upstream, name).await?,
            Err(Unanswered::TooFast(error)) => Some(error),
            Err(other) => return Err(other),
        };
        let not_yet = not_yet.unwrap_or_else(|| {
            let message = format!("the consumer {name} is not ACTIVE yet; check it, or wait longer");
            Error::unavailable(message).at_target(upstream.name())
        });
        pause.take(not_yet).await.map_err(Unanswered::Failed)?;
    }
}

/// Asks for the consumer to be registered; gives back what to say if it takes too long.
async fn register(upstream: &Upstream, name: &str) -> Result<Option<Error>, Unanswered> {
    let ask = upstream.client.register_stream_consumer().stream_arn(&upstream.arn).consumer_name(name);
    match upstream.ask("RegisterStreamConsumer", ask.send()).await {
        Ok(_) => Ok(None),
        // Registered meanwhile, by another reader: it will be found. Or there are too many.
        Err(Unanswered::TooFast(error)) => Ok(Some(error)),
        Err(other) => Err(other),
    }
}

/// Deregisters the consumer; one that is not there is fine, and one that is being changed is waited for.
pub(super) async fn deregister(upstream: &Upstream) -> Result<()> {
    let Some(name) = &upstream.options.enhanced_fan_out else { return Ok(()) };
    upstream.forget_consumer();
    let mut pause = Pause::new(upstream);
    loop {
        let ask = upstream.client.deregister_stream_consumer().stream_arn(&upstream.arn).consumer_name(name);
        match upstream.ask("DeregisterStreamConsumer", ask.send()).await {
            Ok(_) | Err(Unanswered::Missing(_)) => return Ok(()),
            Err(Unanswered::TooFast(error)) => pause.take(error).await?,
            Err(other) => return Err(other.into_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::types;
    use hydrant::EventId;

    use super::*;
    use crate::KinesisSourceOptions;

    #[tokio::test]
    async fn a_push_names_its_continuation_and_proves_no_silence() {
        let client = crate::client::nowhere().await;
        let upstream = Arc::new(Upstream::new(client, "stream", "log", KinesisSourceOptions::default()));
        let mut subscription = Subscription {
            pause: Pause::new(&upstream),
            upstream,
            shard: "shardId-0".into(),
            begin: Begin::TrimHorizon,
            open: None,
            granted: true,
            idle_since: Instant::now(),
        };
        let event = hydrant::Event::new(EventId::ZERO, "x").unwrap();
        let record = types::Record::builder().sequence_number("48").partition_key("log");
        let record = record.data(event.to_vec().into()).build().unwrap();
        for (records, next) in [(vec![], Begin::At("49".into())), (vec![record], Begin::After("48".into()))] {
            let push = SubscribeToShardEvent::builder().set_records(Some(records)).millis_behind_latest(0);
            let page = subscription.page(push.continuation_sequence_number("49").build().unwrap());
            assert_eq!((page.next, page.at_tip, page.is_last), (next, None, false));
        }
    }
}
