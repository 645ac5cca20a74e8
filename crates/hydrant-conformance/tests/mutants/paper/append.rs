//! An append, step by step: what is refused, what waits, what fails, what is written.

use std::time::Duration;

use async_trait::async_trait;
use hydrant::{Batch, Checkpoint, Error, ErrorKind, EventSink, Result, Retry};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::Paper;
use crate::bugs::{Bug, altered};

#[async_trait]
impl EventSink for Paper {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        let shared = &self.shared;
        self.connected()?;
        let too_large = batch.events().iter().find(|event| event.size() > shared.event_bytes_max);
        match too_large {
            Some(_) if shared.has(Bug::AcceptsTooLarge) => {}
            Some(_) if shared.has(Bug::InvalidNamesNothing) => return Err(Error::invalid("too large")),
            Some(event) if shared.has(Bug::HalfRefuses) => {
                let half = batch.events().iter().take_while(|other| other.id() < event.id());
                self.commit(&batch, &half.cloned().collect::<Vec<_>>());
                return Err(Error::invalid("too large").at(event.id()));
            }
            Some(event) => return Err(Error::invalid("too large").at(event.id())),
            None => {}
        }
        match batch.deadline() {
            Some(deadline) if deadline <= Instant::now() && shared.has(Bug::CallsADeadlineNever) => {
                return Err(Error::new(ErrorKind::Unavailable, Retry::Never, "the deadline passed"));
            }
            _ => {}
        }
        if shared.has(Bug::BlocksItsThread) {
            #[expect(clippy::disallowed_methods, reason = "the bug is to block the thread")]
            std::thread::sleep(Duration::from_millis(300));
        }
        if shared.has(Bug::LocksInItsTask) {
            return self.append_in_a_task(&batch).await;
        }
        let _readers = match shared.bug {
            Bug::ReadersBlockTheWriter => Some(shared.readers.write().await),
            _ => None,
        };
        let _turn = match shared.bug {
            Bug::WritesWithoutTurns => None,
            _ => Some(shared.turn.lock().await),
        };
        yield_now().await;
        self.answer(batch.deadline()).await?;
        if shared.page().busy && shared.has(Bug::StaysBusyWhenDropped) {
            return Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "a checkpoint is being read"));
        }
        let fresh = match self.compare(&batch) {
            Err(error) if error.kind() == ErrorKind::Gap && shared.has(Bug::CheckpointHidesHoles) => {
                shared.page().claims = Some(Checkpoint::at(batch.last()));
                return Err(error);
            }
            other => other?,
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let fails = if shared.has(Bug::MissesItsFault) { None } else { shared.page().fail_next.take() };
        if fails == Some(1) {
            return Err(self.jammed(&batch, fresh));
        }
        self.write(&batch, &altered(fresh, shared.bug)).await;
        match fails {
            Some(_) if shared.has(Bug::SafeAfterApplying) => {
                Err(Error::new(ErrorKind::Unavailable, Retry::Safe, "the paper jammed after the event"))
            }
            Some(_) => Err(Error::new(
                ErrorKind::Unavailable,
                Retry::AfterCheckpoint,
                "the paper jammed after the event",
            )),
            None => Ok(()),
        }
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        self.reported().await
    }
}
