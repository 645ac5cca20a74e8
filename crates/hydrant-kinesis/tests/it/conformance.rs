//! Sink and source under the laws, against each kind of server, in each packing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use hydrant::{Capabilities, Result};
use hydrant_conformance::{Harness, Limits, Opened};
use hydrant_kinesis::{
    ClientOptions, KinesisSink, KinesisSinkOptions, KinesisSource, KinesisSourceOptions, Oversize, Packing,
};
use tokio::sync::OnceCell;

use crate::raw::RawSource;
use crate::servers::{self, Server, make_stream, remove_streams};

/// Every namespace is a stream of its own, with one log.
struct Streams {
    /// Seen through the crate's own source, or through a reader that shares nothing with it.
    with_source: bool,
    reach: Result<ClientOptions, String>,
    client: OnceCell<Client>,
    options: KinesisSinkOptions,
}

const LOG: &str = "the log";

/// Large enough for chunks of the largest record that a test puts.
const EVENT_BYTES_MAX: usize = 300 << 10;

impl Streams {
    fn on(server: Server, packing: Packing) -> Self {
        let options = server.options().with_packing(packing).with_event_bytes_max(EVENT_BYTES_MAX);
        Self { with_source: true, reach: server.reach(), client: OnceCell::new(), options }
    }

    fn in_chunks(mut self) -> Self {
        self.options = self.options.with_oversize(Oversize::Chunk).with_record_bytes_max(64 << 10);
        self
    }

    fn sink_alone(mut self) -> Self {
        self.with_source = false;
        self
    }

    async fn client(&self) -> &Client {
        let reach = self.reach.as_ref().expect("it is unavailable");
        self.client.get_or_init(|| servers::unpooled(reach)).await
    }
}

#[async_trait]
impl Harness for Streams {
    fn capabilities(&self) -> Capabilities {
        let source = if self.with_source { KinesisSource::CAPABILITIES } else { Capabilities::NONE };
        KinesisSink::CAPABILITIES | source
    }

    fn unavailable(&self) -> Option<String> {
        self.reach.as_ref().err().cloned()
    }

    fn limits(&self) -> Limits {
        // These servers take some milliseconds a request.
        Limits::default()
            .with_event_bytes_max(EVENT_BYTES_MAX)
            .with_events_max(if self.options.packing == Packing::Single { 150 } else { 2_000 })
            .with_patience(Duration::from_mins(5))
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let client = self.client().await;
        make_stream(client, namespace, 2).await;
        let sink = Arc::new(KinesisSink::open(client.clone(), namespace, LOG, self.options.clone()).await?);
        let (closing, crashing) = (Arc::clone(&sink), Arc::clone(&sink));
        let opened = Opened::sink(sink);
        let opened = if self.with_source {
            // Law 11 allows a quarter of its log, which fits into one answer of these servers.
            let page = if self.options.oversize == Oversize::Chunk { 10 } else { 2 };
            let options = KinesisSourceOptions::default()
                .with_page_records_max(page)
                .with_poll_interval(Duration::from_millis(1))
                .with_settle(Duration::ZERO);
            opened.seen_through(KinesisSource::open(client.clone(), namespace, LOG, options).await?)
        } else {
            let stream = namespace.to_owned();
            opened.seen_through(RawSource { client: client.clone(), stream, log: LOG.to_owned() })
        };
        // What was sent before a crash arrives or not, but not after it: that has a test of its own.
        Ok(opened
            .closed_by(async move { closing.close().await })
            .crashed_by(async move { crashing.close().await }))
    }

    async fn remove(&self, prefix: &str) -> Result<()> {
        remove_streams(self.client().await, prefix).await;
        Ok(())
    }
}

mod shared_server_aggregated {
    use super::*;
    hydrant_conformance::store_suite!(Streams::on(Server::Shared, Packing::Aggregated));
}

mod kinesalite_lines_by_a_reader_of_its_own {
    use super::*;
    hydrant_conformance::sink_suite!(Streams::on(Server::Kinesalite, Packing::Lines).sink_alone());
}

mod kinesis_local_single_by_a_reader_of_its_own {
    use super::*;
    hydrant_conformance::sink_suite!(Streams::on(Server::KinesisLocal, Packing::Single).sink_alone());
}

mod kinesis_local_lines {
    use super::*;
    hydrant_conformance::store_suite!(Streams::on(Server::KinesisLocal, Packing::Lines));
}

mod kinesalite_in_chunks {
    use super::*;
    hydrant_conformance::store_suite!(Streams::on(Server::Kinesalite, Packing::Aggregated).in_chunks());
}
