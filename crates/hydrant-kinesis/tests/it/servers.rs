//! Servers and streams for tests, and clients of them.

use std::sync::OnceLock;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::create_stream::CreateStreamError;
use aws_sdk_kinesis::types::StreamStatus;
use aws_smithy_http_client::tls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use hydrant_kinesis::{ClientOptions, KinesisSinkOptions, connect};
use test_servers::native::{Kinesalite, KinesisLocal};
use test_servers::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, StoreUrl};

/// The kind of server that a test runs against. Its name stands in the test's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Whatever `HYDRANT_TEST_KINESIS_URL` or `cargo xtask servers up` names.
    Shared,
    /// Reshards, and has enhanced fan-out.
    KinesisLocal,
    /// Keeps its streams, and is strict about arguments.
    Kinesalite,
}

impl Server {
    /// The endpoint and region of the one that all tests of this kind share.
    pub(crate) fn reach(self) -> Result<ClientOptions, String> {
        static KINESIS_LOCAL: OnceLock<Result<KinesisLocal, String>> = OnceLock::new();
        static KINESALITE: OnceLock<Result<Kinesalite, String>> = OnceLock::new();
        match self {
            Self::Shared => test_servers::kinesis().map(|url| by_url(&url)),
            Self::KinesisLocal => {
                let server = KINESIS_LOCAL.get_or_init(|| KinesisLocal::start(&directory("kinesis-local")));
                server.as_ref().map(|server| at(&server.endpoint())).map_err(Clone::clone)
            }
            Self::Kinesalite => {
                let server = KINESALITE.get_or_init(|| Kinesalite::start(&directory("kinesalite")));
                server.as_ref().map(|server| at(&server.endpoint())).map_err(Clone::clone)
            }
        }
    }

    /// Options of a sink on it, impatient ones.
    pub(crate) fn options(self) -> KinesisSinkOptions {
        let options = KinesisSinkOptions::default()
            .with_read_back_interval(Duration::ZERO)
            .with_settle(Duration::ZERO)
            .with_backoff(Duration::from_millis(5), Duration::from_millis(20));
        match self {
            // It never answers to AT_TIMESTAMP when nothing came since.
            Self::Kinesalite => options.with_read_back_window(Duration::MAX),
            Self::Shared | Self::KinesisLocal => options,
        }
    }

    /// A client of it, or `None` after saying why there is none.
    pub(crate) async fn client(self) -> Option<Client> {
        match self.reach() {
            Ok(options) => Some(connect(&options).await.unwrap()),
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }
}

/// A client that keeps no connection: what a pool keeps for the next request looks like a leak of the last one.
pub(crate) async fn unpooled(options: &ClientOptions) -> Client {
    let http = aws_smithy_http_client::Builder::new().pool_max_idle_per_host(0);
    let http = http.tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build_https();
    let client = connect(options).await.unwrap();
    Client::from_conf(client.config().to_builder().http_client(http).build())
}

/// Where a private server keeps its data: a new directory for each run.
pub(crate) fn directory(server: &str) -> std::path::PathBuf {
    let name = format!("{server}-{}", test_servers::namespace());
    std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// How to reach a server on loopback, by its endpoint.
pub(crate) fn at(endpoint: &str) -> ClientOptions {
    ClientOptions::default().with_endpoint(endpoint).with_region(REGION).with_credentials(keys())
}

fn by_url(url: &str) -> ClientOptions {
    let url = StoreUrl::parse(url);
    let options = ClientOptions::default().with_region(url.option("region").unwrap_or(REGION));
    match url.option("endpoint") {
        // A server on loopback takes any keys; AWS itself wants those of the environment.
        Some(endpoint) => options.with_endpoint(endpoint).with_credentials(keys()),
        None => options,
    }
}

fn keys() -> Credentials {
    Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test")
}

/// Makes a stream, unless it is there, and waits until it can be used.
pub(crate) async fn make_stream(client: &Client, stream: &str, shards: i32) {
    let made = client.create_stream().stream_name(stream).shard_count(shards).send().await;
    if let Err(cause) = made {
        assert!(
            cause.as_service_error().is_some_and(CreateStreamError::is_resource_in_use_exception),
            "{cause:?}"
        );
    }
    until_active(client, stream).await;
}

pub(crate) async fn until_active(client: &Client, stream: &str) {
    loop {
        let answer = client.describe_stream_summary().stream_name(stream).send().await;
        let status = answer.ok().and_then(|answer| answer.stream_description_summary);
        if status.is_some_and(|stream| *stream.stream_status() == StreamStatus::Active) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A stream of one test, removed when the test asks for it.
pub(crate) async fn new_stream(client: &Client, shards: i32) -> String {
    let stream = test_servers::namespace();
    make_stream(client, &stream, shards).await;
    stream
}

/// Removes the streams whose names begin so.
pub(crate) async fn remove_streams(client: &Client, prefix: &str) {
    let mut pages = client.list_streams().into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        names.extend(page.unwrap().stream_names);
    }
    for name in names.iter().filter(|name| name.starts_with(prefix)) {
        client.delete_stream().stream_name(name).enforce_consumer_deletion(true).send().await.ok();
    }
}
