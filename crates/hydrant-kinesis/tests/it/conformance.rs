//! Sink and source under the laws, against each kind of server, in each packing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use hydrant::{Capabilities, Result};
use hydrant_conformance::{Damage, Harness, Hook, Limits, Opened};
use hydrant_kinesis::{
    ClientOptions, KinesisSink, KinesisSinkOptions, KinesisSource, KinesisSourceOptions, Oversize, Packing,
};
use test_servers::proxy::{Action, Answer, Http, operation};
use tokio::sync::OnceCell;

use crate::raw::RawSource;
use crate::servers::{self, Server, make_stream, remove_streams};

/// Each namespace is a stream with one log.
struct Streams {
    /// Whether the kit reads through the crate's own source, or through a reader that shares no code with it.
    with_source: bool,
    reach: Result<ClientOptions, String>,
    client: OnceCell<Client>,
    /// A proxy for the cases that break the connection, and a client that connects through it.
    broken: OnceCell<(Http, Client)>,
    options: KinesisSinkOptions,
}

const LOG: &str = "the log";

/// Large enough for events in chunks of the largest record that a test puts.
const EVENT_BYTES_MAX: usize = 300 << 10;

impl Streams {
    fn on(server: Server, packing: Packing) -> Self {
        let options = server.options().with_packing(packing).with_event_bytes_max(EVENT_BYTES_MAX);
        Self {
            with_source: true,
            reach: server.reach(),
            client: OnceCell::new(),
            broken: OnceCell::new(),
            options,
        }
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

    /// Returns a client for the log of this case, through the proxy if the case breaks the connection.
    async fn client_for(&self, namespace: &str) -> &Client {
        if !(namespace.starts_with("law07") || namespace.starts_with("law08")) {
            return self.client().await;
        }
        let reach = self.reach.clone().expect("it is unavailable");
        let through_a_proxy = || async {
            let endpoint = reach.endpoint.as_deref().expect("a server on loopback");
            let proxy = Http::start(endpoint.trim_start_matches("http://").parse().unwrap()).await;
            let client = servers::unpooled(&reach.clone().with_endpoint(proxy.endpoint())).await;
            (proxy, client)
        };
        &self.broken.get_or_init(through_a_proxy).await.1
    }

    fn proxy(&self) -> &Http {
        &self.broken.get().expect("the log is open").0
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
        // These servers need some milliseconds for each request.
        Limits::default()
            .with_event_bytes_max(EVENT_BYTES_MAX)
            .with_events_max(if self.options.packing == Packing::Single { 150 } else { 2_000 })
            .with_patience(Duration::from_mins(5))
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let client = self.client_for(namespace).await;
        make_stream(self.client().await, namespace, 2).await;
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
        // What was sent before a crash arrives before it or not at all. Another test covers what arrives later.
        Ok(opened
            .closed_by(async move { closing.close().await })
            .crashed_by(async move { crashing.close().await }))
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        match hook {
            Hook::CommitPoint | Hook::Roster => {
                Some("a stream keeps its events for a time, so it is no primary")
            }
            Hook::Damage(Damage::Inside) => Some("a record cannot be changed; `source` puts damaged ones"),
            Hook::Damage(Damage::TornTail) => Some("a record is there or not"),
            Hook::Replace => {
                Some("a stream is never restored; `source_faults` deletes one under its followers")
            }
            Hook::Verify => Some("there is none: each read checks each record"),
            _ => None,
        }
    }

    async fn fail_next_write(&self, _namespace: &str, n: usize) -> Result<bool> {
        let failure = match n {
            0 => Action::Cut,
            1 => Action::LoseAnswer,
            2 => Action::CutAnswer(0),
            3 => Action::CutAnswer(20),
            4 => Action::Answer(Answer::kinesis(500, "InternalFailure")),
            5 => Action::Answer(Answer::kinesis(503, "ServiceUnavailable")),
            6 => Action::Answer(Answer::new(502, "text/html", "<h1>Bad Gateway</h1>")),
            7 => Action::Answer(Answer::kinesis(400, "ProvisionedThroughputExceededException")),
            8 => Action::rewrite(|request| request, |_, _| (500, b"{}".to_vec())),
            _ => return Ok(false),
        };
        self.proxy().next(1, |request| operation(request) == "PutRecord", failure);
        Ok(true)
    }

    fn unfired(&self, _namespace: &str) -> Vec<String> {
        self.proxy().unfired()
    }

    async fn delay(&self, _namespace: &str, delay: Duration) -> Result<bool> {
        self.proxy().next(usize::MAX, |_| true, Action::Delay(delay));
        Ok(true)
    }

    async fn heal(&self, _namespace: &str) -> Result<()> {
        if let Some((proxy, _)) = self.broken.get() {
            proxy.heal();
        }
        Ok(())
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
