//! What really happened: which event followed which, what was durable, what was acknowledged, what was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hydrant::{Event, EventId};
use tokio::time::Instant;

/// The number of an event, unique in a run, whatever id it has.
pub type Fact = u64;

/// Numbers of events that a foreign writer made in a failover start here.
pub const FOREIGN: Fact = 1_000_000;

/// Numbers of events of the other log on the disk start here.
pub const OTHER: Fact = 2 * FOREIGN;

/// Returns the predecessor of an event of the other log, whose events have consecutive numbers; `None` for any other event.
pub fn parent_in_other_log(fact: Fact) -> Option<Option<Fact>> {
    (fact >= OTHER).then(|| fact.checked_sub(1).filter(|parent| *parent >= OTHER))
}

/// Returns the number that the payload carries.
pub fn fact(event: &Event) -> Fact {
    let digits = event.payload().get(5..).unwrap_or_default();
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + Fact::from(digit - b'0'))
}

/// The payload of an event that a caller of the world appends.
pub fn payload(fact: Fact, bytes: usize) -> String {
    format!(r#"{{"n":{fact},"pad":"{}"}}"#, "x".repeat(bytes))
}

#[derive(Debug, Default)]
pub struct Truth {
    /// The predecessor of each event that was ever committed.
    parents: BTreeMap<Fact, Option<Fact>>,
    /// What the first event of a file of another log follows in the log that the file was copied into.
    joins: BTreeMap<Fact, Fact>,
    snapshots: BTreeSet<Fact>,
    ids: BTreeMap<Fact, EventId>,
    durable: BTreeSet<Fact>,
    /// Committed, lost by a failover or a restore, and not committed again.
    pub lost: BTreeSet<Fact>,
    /// When an event was lost last, committed again or not.
    lost_at: Option<Instant>,
    /// When an event that was lost came back last.
    came_back: Option<Instant>,
    /// Acknowledged to a caller.
    pub acknowledged: BTreeSet<Fact>,
    /// Refused with an error that reports that nothing was applied.
    pub refused: BTreeSet<Fact>,
}

impl Truth {
    /// Records that the primary committed an event after `parent`.
    ///
    /// # Errors
    /// The event has a predecessor already, and is not lost: it was written twice.
    pub fn commit(&mut self, event: &Event, parent: Option<Fact>) -> Result<(), String> {
        let fact = fact(event);
        let was_lost = self.lost.remove(&fact);
        if was_lost {
            self.came_back = Some(Instant::now());
        }
        if let Some(before) = self.parents.insert(fact, parent)
            && !was_lost
        {
            return Err(format!(
                "event n={fact} was committed behind {before:?} and again behind {parent:?}"
            ));
        }
        self.ids.insert(fact, event.id());
        if event.is_snapshot() {
            self.snapshots.insert(fact);
        }
        if self.refused.contains(&fact) {
            return Err(format!("event n={fact} was committed, and its caller had heard that it was not"));
        }
        Ok(())
    }

    pub fn sync(&mut self, event: &Event) {
        self.durable.insert(fact(event));
    }

    pub fn lose(&mut self, event: &Event) {
        self.lost.insert(fact(event));
        self.lost_at = Some(Instant::now());
    }

    /// Whether an event was ever lost, committed again or not.
    pub fn has_ever_lost(&self) -> bool {
        self.lost_at.is_some()
    }

    /// Whether an event was lost within this time.
    pub fn has_just_lost(&self, within: Duration) -> bool {
        self.lost_at.is_some_and(|at| at.elapsed() <= within)
    }

    /// Whether an event is lost, or was lost at some time since then: what compared the log meanwhile shows that still.
    pub fn has_lost_since(&self, begin: Instant) -> bool {
        !self.lost.is_empty() || self.came_back >= Some(begin)
    }

    /// An event that was neither durable nor acknowledged is gone, as if it had never been.
    pub fn void(&mut self, event: &Event) {
        self.parents.remove(&fact(event));
    }

    /// Returns whether both have the same id. A line names its predecessor by id alone. So a file of another log joins an
    /// event of this log that has the id of the file's own predecessor.
    pub fn have_one_id(&self, one: Option<Fact>, other: Option<Fact>) -> bool {
        let id = |fact: Fact| {
            let id = self.id(fact).map(EventId::get);
            id.or(fact.checked_sub(OTHER)) // ids of the other log have no gaps
        };
        one.and_then(id).is_some_and(|one| other.and_then(id) == Some(one))
    }

    /// Records which event comes before `fact` in the files, where another one has the id of its true predecessor.
    pub fn join(&mut self, fact: Fact, before: Option<Fact>, parent: Option<Fact>) {
        self.joins.remove(&fact);
        if let Some(before) = before.filter(|_| before != parent && self.have_one_id(before, parent)) {
            self.joins.insert(fact, before);
        }
    }

    /// As `parent`, but the first event of a file of another log follows what it joins.
    pub fn joined_parent(&self, fact: Fact, keep: impl Fn(Fact) -> bool) -> Option<Fact> {
        let mut at = fact;
        loop {
            at = self.joins.get(&at).copied().or_else(|| *self.parents.get(&at)?)?;
            if keep(at) {
                return Some(at);
            }
        }
    }

    /// The id under which an event was committed last.
    pub fn id(&self, fact: Fact) -> Option<EventId> {
        self.ids.get(&fact).copied()
    }

    pub fn is_snapshot(&self, fact: Fact) -> bool {
        self.snapshots.contains(&fact)
    }

    pub fn is_durable(&self, fact: Fact) -> bool {
        self.durable.contains(&fact)
    }

    pub fn is_committed(&self, fact: Fact) -> bool {
        self.parents.contains_key(&fact) && !self.lost.contains(&fact)
    }

    /// The nearest predecessor that `keep` chooses.
    pub fn parent(&self, fact: Fact, keep: impl Fn(Fact) -> bool) -> Option<Fact> {
        let mut at = fact;
        loop {
            at = (*self.parents.get(&at)?)?;
            if keep(at) {
                return Some(at);
            }
        }
    }

    /// Whether `before` is a predecessor of `fact`.
    pub fn follows(&self, fact: Fact, before: Fact) -> bool {
        self.parent(fact, |at| at == before).is_some()
    }

    /// `fact` and all its predecessors, oldest first.
    pub fn history(&self, fact: Fact) -> Vec<Fact> {
        let mut history = Vec::new();
        let mut at = Some(fact);
        while let Some(now) = at {
            history.push(now);
            at = self.parents.get(&now).copied().flatten();
        }
        history.reverse();
        history
    }
}
