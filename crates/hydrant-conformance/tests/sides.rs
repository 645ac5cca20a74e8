//! Each side of a store alone: a sink that declares nothing, and a source with another writing side.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hydrant::{
    Batch, Capabilities, Checkpoint, EventSink, EventSource, EventStream, MemoryStore, MemoryStoreOptions,
    ReadFrom, Result,
};
use hydrant_conformance::{Harness, Hook, Limits, Opened, cases, check};

#[derive(Default)]
struct Logs(Mutex<HashMap<String, MemoryStore>>);

impl Logs {
    fn get(&self, namespace: &str, limits: Limits) -> MemoryStore {
        let options = MemoryStoreOptions::default().with_event_bytes_max(limits.event_bytes_max);
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.entry(namespace.to_owned()).or_insert_with(|| MemoryStore::new(options)).clone()
    }
}

/// A sink without memory, as one that sends datagrams.
struct Sends(MemoryStore);

#[async_trait]
impl EventSink for Sends {
    async fn append(&self, batch: Batch<'_>) -> Result<()> {
        self.0.append(batch).await
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Unknown)
    }
}

/// What is sent arrives in a log that only the test sees.
#[derive(Default)]
struct Sending(Logs);

#[async_trait]
impl Harness for Sending {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(1_472).with_events_max(2_000)
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        (hook == Hook::FailNextWrite).then_some("what was handed over was sent")
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let arrives = self.0.get(namespace, self.limits());
        Ok(Opened::sink(Sends(arrives.clone())).seen_through(arrives))
    }
}

mod a_sink_alone {
    use super::*;

    hydrant_conformance::sink_suite!(Sending::default());
}

/// What a store cannot have is reported with its reason, apart from what it only does not have.
#[test]
fn what_is_not_possible_is_reported_with_its_reason() {
    let report = |name| {
        let case = cases().iter().find(|case| case.name == name).expect(name);
        check(Sending::default, case, 1).expect("a sink that sends holds the laws")
    };
    let failing = report("law_07_a_handle_works_again_after_a_retryable_error");
    let why = "errors of the server or disk (`Harness::fail_next_write`): what was handed over was sent";
    assert!(failing.skipped);
    assert_eq!((failing.not_possible, failing.not_exercised), (vec![why.to_owned()], Vec::new()));
    let slow = report("law_08_no_call_blocks_its_thread");
    let what = "a server or disk that is slow (`Harness::delay`)";
    assert!(!slow.skipped);
    assert_eq!((slow.not_possible, slow.not_exercised), (Vec::new(), vec![what.to_owned()]));
}

/// Reads what another sink wrote.
struct Reads(MemoryStore);

impl EventSource for Reads {
    fn read(&self, from: ReadFrom) -> EventStream {
        self.0.read(from)
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        self.0.follow(from)
    }
}

#[derive(Default)]
struct Reading(Logs);

#[async_trait]
impl Harness for Reading {
    fn capabilities(&self) -> Capabilities {
        Capabilities::SOURCE
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let log = self.0.get(namespace, self.limits());
        Ok(Opened::source(Reads(log.clone()), Sends(log)))
    }
}

mod a_source_alone {
    use super::*;

    hydrant_conformance::source_suite!(Reading::default());
}
