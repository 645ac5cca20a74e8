//! A model of a checkpoint store: the roster of a fan-out, or the cell of a `Checkpointed`.

use std::sync::Arc;

use async_trait::async_trait;
use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Error, Result};

use super::Process;
use super::state::State;
use super::truth;
use crate::plan::{Call, SinkKind, Site, Store};

/// A handle of one process.
pub struct ModelRoster {
    process: Arc<Process>,
    store: Store,
}

impl ModelRoster {
    pub fn new(process: Arc<Process>, store: Store) -> Self {
        Self { process, store }
    }

    fn site(&self, call: Call) -> Site {
        Site { store: self.store, call }
    }
}

#[async_trait]
impl CheckpointStore for ModelRoster {
    async fn load(&self, name: &str) -> Result<Option<CheckpointEntry>> {
        let (store, name) = (self.store, name.to_owned());
        self.process
            .call(self.site(Call::Load), move |state| Ok(state.rosters[&store].get(&name).cloned()))
            .await
    }

    async fn list(&self) -> Result<Vec<CheckpointEntry>> {
        let store = self.store;
        self.process
            .call(self.site(Call::List), move |state| Ok(state.rosters[&store].values().cloned().collect()))
            .await
    }

    async fn swap(
        &self,
        name: &str,
        expected: Option<&CheckpointEntry>,
        new: Option<&CheckpointEntry>,
    ) -> Result<()> {
        let (store, name, expected, new) = (self.store, name.to_owned(), expected.cloned(), new.cloned());
        let swap = move |state: &mut State| {
            if state.rosters[&store].get(&name) != expected.as_ref() {
                return Err(Error::fenced("another runner moved this checkpoint").at_target(&name));
            }
            state.note(|| {
                let to = new.as_ref().map_or("nothing".to_owned(), |entry| entry.checkpoint.to_string());
                format!("     {store:?} {name} -> {to}")
            });
            if let Some(entry) = &new {
                check_entry(state, store, entry);
            } else if let (Store::Roster, Some(sink)) = (store, sink_of(&name)) {
                state.sinks[usize::from(sink)].left = true;
            }
            let roster = state.rosters.get_mut(&store).expect("every roster is there from the start");
            match new {
                Some(entry) => drop(roster.insert(name, entry)),
                None => drop(roster.remove(&name)),
            }
            Ok(())
        };
        self.process.call(self.site(Call::Swap), swap).await
    }
}

/// The sink of this name in the roster of the outer fan-out.
pub fn sink_of(name: &str) -> Option<u8> {
    name.strip_prefix("sink").and_then(|digits| digits.parse().ok())
}

/// A checkpoint is never ahead of what its sink held durably.
fn check_entry(state: &mut State, store: Store, entry: &CheckpointEntry) {
    let Some(sink) = sink_of(&entry.name) else { return };
    let Checkpoint::At { id, digest } = entry.checkpoint else { return };
    let kind = state.kind(sink);
    let log = match (store, kind) {
        (Store::Roster, SinkKind::Nested) => &state.logs[&Store::Inner(sink)],
        (_, SinkKind::Plain | SinkKind::Buffered | SinkKind::Checkpointed | SinkKind::Nested) => {
            &state.logs[&Store::Sink(sink)]
        }
        _ => return,
    };
    let facts = &state.sinks[usize::from(sink)];
    let held = log.event(id).is_some_and(|event| {
        Checkpoint::at(event) == (Checkpoint::At { id, digest }) && facts.held.contains(&truth::fact(event))
    });
    if !held && !facts.forgot {
        let durable = log.checkpoint();
        let message = format!("the entry of {} says {id}, its sink holds {durable} durably", entry.name);
        state.fail("ahead", message);
    }
}
