//! The log's last event, found again on the stream itself.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_sdk_kinesis::primitives::DateTime;
use futures_util::StreamExt;
use hydrant::{Checkpoint, Error, ErrorKind, Event, Result};
use tokio::time::{Instant, sleep};

use super::Shared;
use crate::source::{Begin, Lineage, Record, pages};
use crate::wire::{Assembly, Unpacked, hash_key, unpack};

/// How much farther each look back goes than the one before, and how many there are before the last, which goes to
/// the oldest record kept. What is read twice is an eighth of the whole, then.
const FARTHER: u32 = 8;
const LOOKS: u32 = 4;

/// How many times the youngest shard may be found closed in one look, and its children not listed yet.
const RESHARDS_MAX: u32 = 30;

/// What the stream holds of the log.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) checkpoint: Checkpoint,
    /// The number of the last record of the log.
    pub(super) number: Option<String>,
}

/// What one look has found.
struct Look {
    head: Option<Event>,
    number: Option<String>,
    assembly: Assembly,
}

impl Shared {
    /// Looks back farther and farther, until an event of the log is there whole.
    ///
    /// # Errors
    /// `Corrupt` for a record under the log's key that does not decode; whatever the service answers.
    pub(super) async fn read_back(&self) -> Result<Found> {
        // What was acknowledged just before, by a process that has ended since, may not be visible yet.
        let visible = Instant::now() + self.options.settle;
        for look in 0..=LOOKS {
            let since = if look < LOOKS { self.since(FARTHER.pow(look)) } else { None };
            tracing::debug!(log = self.name, ?since, "reading the stream back for the log's last event");
            let looked = match self.look(since, visible).await {
                // A time that is still to come, for the service: this machine's clock is ahead.
                Err(error) if since.is_some() && error.kind() == ErrorKind::Invalid => continue,
                looked => looked?,
            };
            if let Some(head) = looked.head {
                return Ok(Found { checkpoint: Checkpoint::at(&head), number: looked.number });
            }
            if since.is_none() {
                break;
            }
        }
        Ok(Found { checkpoint: Checkpoint::Empty, number: None })
    }

    /// So many windows ago; `None` for before there was any stream.
    fn since(&self, windows: u32) -> Option<DateTime> {
        let back = self.options.read_back_window.checked_mul(windows)?;
        let since = self.options.clock.now().checked_sub(back)?;
        (since > UNIX_EPOCH).then(|| since.into())
    }

    /// Everything of the log since then, or all that is kept, up to the tip of the youngest of the shards that hold
    /// or held its key.
    async fn look(&self, since: Option<DateTime>, visible: Instant) -> Result<Look> {
        let key = self.options.explicit_hash_key.unwrap_or_else(|| hash_key(&self.wire.log));
        let begin = since.map_or(Begin::TrimHorizon, Begin::AtTimestamp);
        let mut lineage = Lineage::new(Some(key));
        let mut looked =
            Look { head: None, number: None, assembly: Assembly::new(self.options.event_bytes_max) };
        for _ in 0..RESHARDS_MAX {
            lineage.learn(self.upstream.list_shards().await?);
            let mut shards = lineage.begin();
            while let Some(shard) = shards.pop() {
                let name = format!("{}: {shard}", self.name);
                let mut pages = pages(Arc::clone(&self.upstream), shard.clone(), begin.clone());
                let mut is_open = true;
                while let Some(page) = pages.next().await {
                    let page = page?;
                    for record in page.records {
                        self.take(&record, &mut looked).map_err(|error| {
                            error.at_target(format!("{name}: sequence number {}", record.number))
                        })?;
                    }
                    // Of a closed shard that is not the end: the log went on in a child.
                    is_open = is_open && !page.is_last;
                    if is_open && page.at_tip >= Some(visible) {
                        is_open = self.upstream.open_shards().await?.contains(&shard);
                        if is_open {
                            return Ok(looked);
                        }
                    }
                }
                lineage.finish(&shard);
                shards.extend(lineage.begin());
            }
            sleep(self.options.backoff_max).await;
        }
        let message = "the stream is resharded all the time; wait until it is ACTIVE";
        Err(Error::unavailable(message).at_target(&self.name))
    }

    fn take(&self, record: &Record, looked: &mut Look) -> Result<()> {
        for unpacked in unpack(&self.wire.log, &record.partition_key, &record.data)? {
            looked.number = Some(record.number.to_string());
            let whole = match unpacked {
                Unpacked::Event(marked) => Some(marked),
                // The beginning of an event may lie before the look.
                Unpacked::Chunk(chunk) => looked.assembly.take(chunk)?,
            };
            // An event that was put twice may be behind a later one, so the head is the highest id.
            if let Some(marked) = whole
                && looked.head.as_ref().is_none_or(|head| marked.event.id() > head.id())
            {
                looked.head = Some(marked.event.detached());
            }
        }
        Ok(())
    }
}
