//! The event of all measurements: 170 bytes as an envelope, from a small bank.

use hydrant::{Batch, Event, EventId, EventSink, Journal, Result};
use serde::{Deserialize, Serialize};

/// The size of an envelope, its line break included, at an id of six digits.
pub const EVENT_BYTES: usize = 170;

/// A change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    tag: Tag,
    account: u64,
    amount: u64,
    note: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Tag {
    Deposited,
    Withdrawn,
}

/// The state: the sum of the changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// How many changes were folded.
    pub changes: u64,
    /// The sum of payments in, minus the sum of payments out.
    pub balance: i128,
}

impl Ledger {
    /// Folds a change.
    #[expect(clippy::needless_pass_by_value, reason = "a fold is given its event to keep")]
    pub fn apply(&mut self, change: Change) {
        self.changes += 1;
        let amount = i128::from(change.amount);
        self.balance += match change.tag {
            Tag::Deposited => amount,
            Tag::Withdrawn => -amount,
        };
    }
}

/// Returns the `n`-th change. All have the same size.
pub fn change(n: u64) -> Change {
    let tag = if n.is_multiple_of(3) { Tag::Withdrawn } else { Tag::Deposited };
    let amount = 100_000 + n.wrapping_mul(7919) % 900_000;
    Change { tag, account: 10_000_000 + n % 1000, amount, note: "rent, second quarter, paid late".to_owned() }
}

/// Returns `count` events, from the id `first` on.
///
/// # Errors
/// None in practice: the changes are JSON.
pub fn events(first: u64, count: u64) -> Result<Vec<Event>> {
    (first..first + count)
        .map(|id| {
            let time = format!("2026-01-05T09:{:02}:{:02}.{:09}Z", id / 60 % 60, id % 60, id % 1_000_000_000);
            Event::builder(EventId::new(id)).time(time).payload(&change(id))?.build()
        })
        .collect()
}

/// Returns an envelope with its line break, as a raw loop writes it.
///
/// # Errors
/// None in practice: the changes are JSON.
pub fn line() -> Result<Vec<u8>> {
    let mut line = events(500_000, 1)?[0].to_vec();
    line.push(b'\n');
    Ok(line)
}

/// Writes a log of `events` events through a journal, in large commits, two of them in flight at a time.
///
/// # Errors
/// As the journal.
pub async fn fill(journal: &Journal<Change>, events: u64) -> Result<()> {
    const TOGETHER: u64 = 2048;
    let changes: std::sync::Arc<Vec<Change>> = std::sync::Arc::new((0..TOGETHER).map(change).collect());
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let (journal, changes) = (journal.clone(), changes.clone());
            let mut left = events / 2 + writer * (events % 2);
            tokio::spawn(async move {
                while left > 0 {
                    let together = usize::try_from(left.min(TOGETHER)).unwrap_or(changes.len());
                    journal.append_all(&changes[..together]).await?;
                    left -= together as u64;
                }
                Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.await.map_err(|cause| hydrant::Error::invalid("a writer panicked").because(cause))??;
    }
    Ok(())
}

/// Appends all events, in batches of this size, after the event `after`.
///
/// # Errors
/// As the sink.
pub async fn append(
    sink: &dyn EventSink,
    mut after: Option<EventId>,
    events: &[Event],
    batch: usize,
) -> Result<()> {
    for events in Batch::segments(events).flat_map(|segment| segment.chunks(batch)) {
        sink.append(Batch::new(after, events)?).await?;
        after = events.last().map(Event::id);
    }
    Ok(())
}
