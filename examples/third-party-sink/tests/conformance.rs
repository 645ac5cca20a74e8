//! The sink holds the laws.

use hydrant::{Capabilities, Result};
use hydrant_conformance::{Harness, Limits, Opened};
use third_party_sink::{CsvSink, EVENT_BYTES_MAX, rows};

struct Csv {
    directory: tempfile::TempDir,
}

#[async_trait::async_trait]
impl Harness for Csv {
    fn capabilities(&self) -> Capabilities {
        Capabilities::IDEMPOTENT | Capabilities::FENCING | Capabilities::MEMORY
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(EVENT_BYTES_MAX)
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let path = self.directory.path().join(namespace).with_extension("csv");
        let sink = CsvSink::open(&path).await?;
        Ok(Opened::sink(sink).seen_as(move || rows(&path)?.map(|row| Ok(row?.0)).collect()))
    }
}

hydrant_conformance::sink_suite!(Csv { directory: tempfile::tempdir().expect("a directory for the test") });
