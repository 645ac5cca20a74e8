//! Laws 3 and 4: idempotent, compare-and-append.

use std::sync::PoisonError;

use hydrant::{Batch, Error, ErrorKind, Event, EventId, Result, Retry};

use super::{Page, Paper};
use crate::bugs::Bug;

impl Page {
    /// What of the batch is still to write.
    pub(super) fn compare<'a>(&self, batch: &Batch<'a>, bug: Bug) -> Result<&'a [Event]> {
        let head = self.head();
        let held = batch.held_by(&head);
        match bug {
            Bug::ForgetsToDeduplicate if held.len() == batch.events().len() => return Ok(batch.events()),
            Bug::NeverFenced => return Ok(&batch.events()[held.len()..]),
            Bug::RefusesWhatIsHeld if !held.is_empty() => return Err(Error::fenced("held already")),
            Bug::AcceptsOutdatedSnapshots if batch.first().is_snapshot() && held.is_empty() => {
                return Ok(batch.events());
            }
            Bug::StartsNowhere if self.events.is_empty() && batch.after().is_some() => {
                return Err(Error::gap("holds nothing"));
            }
            _ => {}
        }
        let fresh = match batch.fresh_after(&head) {
            Err(error) if error.kind() == ErrorKind::Gap && bug == Bug::AcceptsHoles => batch.events(),
            Err(_) if bug == Bug::AcceptsSkipped && held.is_empty() => batch.events(),
            other => other?,
        };
        if !held.is_empty() && batch.after() < self.floor_after && bug != Bug::ForgetsTheFloor {
            if bug == Bug::CallsTheFloorFenced {
                return Err(Error::fenced("nothing to compare with"));
            }
            let oldest = self.events.first().map_or(EventId::ZERO, Event::id);
            return Err(Error::pruned(oldest));
        }
        let same = |event: &Event, stored: &Event| match bug {
            Bug::ComparesTheHeadOnly | Bug::ForgetsTheFloor => true,
            Bug::ComparesPayloadsOnly => event.id() == stored.id() && event.payload() == stored.payload(),
            _ => event == stored,
        };
        let stored = &self.events[self.behind(batch.after())..];
        if held.iter().zip(stored).any(|(event, stored)| !same(event, stored)) {
            return Err(Error::fenced("another event is held"));
        }
        Ok(fresh)
    }
}

impl Paper {
    pub(super) fn compare<'a>(&self, batch: &Batch<'a>) -> Result<&'a [Event]> {
        if self.shared.bug == Bug::TrustsItsOwnHead {
            let own = *self.own_head.lock().unwrap_or_else(PoisonError::into_inner);
            return batch.fresh_after(&own);
        }
        let compared = self.shared.page().compare(batch, self.shared.bug);
        compared.map_err(|error| match (self.shared.bug, error.kind()) {
            (Bug::FencedIsSafe, ErrorKind::Fenced) => error.with_retry(Retry::Safe),
            (Bug::GapIsForEver, ErrorKind::Gap) => error.with_retry(Retry::Never),
            _ => error,
        })
    }
}
