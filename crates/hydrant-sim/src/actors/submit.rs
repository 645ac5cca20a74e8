//! Callers with a deadline of their own, and callers that submit to a journal ahead of the disk.

use std::ops::RangeInclusive;
use std::time::Duration;

use hydrant::{EventId, Result, Slot};
use tokio::time::Instant;

use super::Actor;
use super::act::{events_behind, facts};
use super::system::{Engine, Saved, Up};
use crate::check;
use crate::plan::{Act, Op, Topology};
use crate::world::process::unknown;

impl Actor {
    /// Appends once, before a deadline, as a component above a fan-out does.
    pub(super) async fn append_before(&self, up: &Up, op: u32, events: u8, timeout: Duration) -> Result<()> {
        let Engine::FanOut(log) = &up.engine else { return self.append(up, op, events, 4, false).await };
        if self.system.topology != Topology::FanOut {
            return self.append(up, op, events, 4, false).await;
        }
        let mut known = up.writer.lock().await;
        let head = if let Some(head) = known.take() { head } else { self.head(log).await? };
        let events = events_behind(head, &facts(op, events), 4, false, false)?;
        self.append_batch(up, log, head, &events, Some(Instant::now() + timeout)).await?;
        *known = Some(events.last().map(hydrant::Event::id));
        Ok(())
    }

    /// Submits several times before the first outcome is known.
    pub(super) async fn submit(&self, up: &Up, op: &Op) -> Result<()> {
        let Act::Submit { events, count, tries, hold_ms, waits } = op.act else { return Ok(()) };
        if self.system.topology != Topology::Journal {
            return self.append(up, op.id, events, 4, false).await;
        }
        let journal = self.system.journal(up).await?;
        let mut submitted: Vec<(Vec<u64>, hydrant::Submitted)> = Vec::new();
        let mut refusal = Ok(());
        for round in 0..count {
            let slot = if tries { journal.try_reserve() } else { self.reserve(&journal).await };
            let slot = match slot {
                Ok(slot) => slot,
                Err(error) => {
                    refusal = Err(error);
                    break;
                }
            };
            if hold_ms > 0 {
                tokio::time::sleep(Duration::from_millis(hold_ms)).await;
            }
            let facts: Vec<u64> =
                facts(op.id, events).iter().map(|fact| fact + 12 * u64::from(round)).collect();
            let saved = |&n| (Saved { n, pad: String::new(), state: None }, None);
            let values: Vec<_> = facts.iter().map(saved).collect();
            match slot.submit(&values) {
                Ok(submission) => submitted.push((facts, submission)),
                Err(error) => {
                    refusal = Err(error);
                    break;
                }
            }
        }
        let is_at_once = tries && hold_ms == 0;
        check_order(self, submitted.iter().map(|(_, submission)| &submission.ids), is_at_once);
        if !waits {
            return refusal; // the outcomes are dropped
        }
        let mut failed = Ok(());
        for (facts, submission) in submitted {
            let bound = self.append_bound();
            let durable = submission.durable;
            let durable = self.system.bounds.within(&self.system.world, "durable", bound, durable).await;
            let durable = durable.unwrap_or_else(|| Err(unknown()));
            check::refused(&self.system.world, &durable, facts.iter().copied());
            check::is_the_only_writer(&self.system.world, up, &durable);
            match durable {
                Ok(()) if is_at_once && failed.is_err() => {
                    self.system.world.fail("ids", "a submission is durable, and one before it failed");
                }
                Ok(()) => {
                    check::acknowledged(&self.system.world, facts.iter().copied());
                    let ids = self.system.ids(submission.ids);
                    check::ids(&self.system.world, &ids, &facts);
                }
                Err(error) => failed = Err(error),
            }
        }
        failed.and(refusal)
    }

    /// Takes room in the journal, and gives it back.
    pub(super) async fn hold_slot(&self, up: &Up, held: Duration) -> Result<()> {
        if self.system.topology != Topology::Journal {
            return Ok(());
        }
        let journal = self.system.journal(up).await?;
        let slot = self.reserve(&journal).await?;
        tokio::time::sleep(held).await;
        drop(slot);
        Ok(())
    }

    async fn reserve(&self, journal: &hydrant::Journal<Saved>) -> Result<Slot<Saved>> {
        // Appends under way, and slots that other callers hold, take room.
        let bound = 4 * self.append_bound();
        let reserved =
            self.system.bounds.within(&self.system.world, "reserve", bound, journal.reserve()).await;
        reserved.unwrap_or_else(|| Err(unknown()))
    }
}

/// Checks that ids are assigned in the order of the calls, without a gap if no other caller came between.
fn check_order<'a>(actor: &Actor, all: impl Iterator<Item = &'a RangeInclusive<EventId>>, is_at_once: bool) {
    let all: Vec<_> = all.collect();
    for pair in all.windows(2) {
        let next = pair[0].end().next();
        if is_at_once && Some(*pair[1].start()) != next {
            let message = format!("a submission has the ids {:?}, the next one {:?}", pair[0], pair[1]);
            actor.system.world.fail("ids", message);
        }
    }
}
