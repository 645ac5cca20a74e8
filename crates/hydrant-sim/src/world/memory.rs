//! Bounds what the code under test may hold in memory of what it read.

use super::held::Held;
use super::state::State;
use crate::plan::{Config, SinkKind, Topology};

/// No event of a run is larger.
const EVENT_BYTES: usize = 600;
/// How many events a pump holds beside its batch: its position, one that did not fit, one that is compared.
const PUMP_EVENTS: usize = 8;
/// How many events the log itself holds beside its ring.
const LOG_EVENTS: usize = 12;
/// What a relay takes from its source at once.
const CHUNK_EVENTS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

/// Operations that read for themselves.
const READERS: [&str; 5] = ["follow", "take", "read", "hydrate", "snapshot"];

/// The bounds of one opening of the program, in events and in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    events: usize,
    bytes: usize,
}

impl Bound {
    pub(super) fn of(config: &Config) -> Self {
        let mut bound = Self { events: 0, bytes: 0 };
        bound.add(LOG_EVENTS, LOG_EVENTS * EVENT_BYTES);
        bound.add(config.ring_events, config.ring_bytes);
        if config.topology == Topology::Relay {
            bound.add(CHUNK_EVENTS, config.ring_bytes.min(CHUNK_BYTES) + 2 * EVENT_BYTES);
        }
        for sink in &config.sinks {
            let pumps = if sink.kind == SinkKind::Nested { 2 } else { 1 };
            for _ in 0..pumps {
                bound.add(sink.batch_events.max(1), sink.batch_bytes.max(1));
                bound.add(PUMP_EVENTS, PUMP_EVENTS * EVENT_BYTES);
            }
            if sink.kind == SinkKind::Nested {
                bound.add(config.ring_events, config.ring_bytes);
                bound.add(LOG_EVENTS, LOG_EVENTS * EVENT_BYTES);
            }
        }
        bound
    }

    fn add(&mut self, events: usize, bytes: usize) {
        self.events = self.events.saturating_add(events);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl State {
    /// What a process holds of what it read is within the options, for each opening that is alive.
    pub(super) fn check_memory(&mut self, held: &Held) {
        let is_reading = self.under_way.values().any(|name| READERS.contains(name));
        if is_reading || held.readers() > 0 {
            return;
        }
        let openings = held.openings().max(1);
        let (events, bytes) = (held.events() / openings, held.bytes() / openings);
        if events > self.memory.events || bytes > self.memory.bytes {
            let bound = self.memory;
            let message =
                format!("{events} events with {bytes} bytes that were read are in memory, not {bound:?}");
            self.fail("memory", message);
        }
    }
}
