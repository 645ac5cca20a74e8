//! A separate place for a test on each real server: a schema, a prefix, a stream. It is removed when the test ends.

use std::net::SocketAddr;
use std::time::Duration;

use aws_credential_types::Credentials;
use hydrant::Result;
use hydrant_kinesis::{KinesisSink, KinesisSinkOptions, KinesisSource, KinesisSourceOptions};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use hydrant_s3::{S3Store, S3StoreOptions};
use test_servers::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Service, StoreUrl};

/// How often the creation of a stream is tried.
const STREAM_TRIES_MAX: u32 = 100;

/// A schema, a prefix or a stream that no other test uses.
#[derive(Clone, Debug)]
pub struct Place {
    service: Service,
    /// The URL of the server, as `cargo xtask servers env` prints it.
    url: String,
    namespace: String,
}

impl Place {
    /// Creates a new place on this server. If there is no server, prints why and returns `None`.
    ///
    /// # Panics
    /// If the server refuses to create it, or `HYDRANT_TEST_REQUIRE` names a server that is missing.
    pub async fn on(service: Service) -> Option<Self> {
        let found = match service {
            Service::Postgres => test_servers::postgres(),
            Service::S3 => test_servers::s3(),
            Service::Kinesis => test_servers::kinesis(),
        };
        match found {
            Ok(url) => Some(Self::at(service, url).await),
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }

    /// Creates a new place on the server of this URL.
    ///
    /// # Panics
    /// If the server refuses to create it.
    pub async fn at(service: Service, url: String) -> Self {
        let place = Self { service, url, namespace: test_servers::namespace() };
        if service == Service::Kinesis {
            place.make_stream().await;
        }
        place
    }

    /// Parses a place that another process wrote as text.
    ///
    /// # Panics
    /// If the text is no place.
    pub fn from_text(text: &str) -> Self {
        let mut parts = text.splitn(3, ' ');
        let mut part = || parts.next().expect("a place has three parts").to_owned();
        let (name, namespace, url) = (part(), part(), part());
        let service = Service::ALL.into_iter().find(|service| service.name() == name).expect("a server");
        Self { service, url, namespace }
    }

    /// Returns the place as text, for another process.
    pub fn to_text(&self) -> String {
        format!("{} {} {}", self.service, self.namespace, self.url)
    }

    /// Returns the server of the place.
    pub fn service(&self) -> Service {
        self.service
    }

    /// Returns the address of the server, for a proxy in front of it.
    ///
    /// # Panics
    /// If the server is not on loopback.
    pub fn address(&self) -> SocketAddr {
        let address = match self.service {
            Service::Postgres => {
                self.url.split(['@', '/', '?']).find(|part| part.parse::<SocketAddr>().is_ok())
            }
            Service::S3 | Service::Kinesis => None,
        };
        let url = (self.service != Service::Postgres).then(|| StoreUrl::parse(&self.url));
        let address = address.or_else(|| url.as_ref().and_then(StoreUrl::endpoint_address));
        address.and_then(|address| address.parse().ok()).expect("the server is on loopback")
    }

    /// Returns the same place, reached through a proxy.
    #[must_use]
    pub fn through(&self, proxy: SocketAddr) -> Self {
        let url = self.url.replace(&self.address().to_string(), &proxy.to_string());
        Self { url, ..self.clone() }
    }

    /// Returns the URL of a log in this place, for the program.
    pub fn url(&self, log: &str) -> String {
        let Self { service, url, namespace } = self;
        match service {
            Service::Postgres => format!("{url}&schema={namespace}&log={log}"),
            Service::S3 => {
                let (path, query) = url.split_once('?').unwrap_or((url, ""));
                format!("{path}/{namespace}/{log}?{query}")
            }
            Service::Kinesis => {
                let (_, query) = url.split_once('?').unwrap_or((url, ""));
                format!("kinesis://{namespace}?{query}&log={log}&settle=1ms&poll_interval=1ms")
            }
        }
    }

    /// Opens a log in this place, on Postgres.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn postgres_store(&self, log: &str) -> Result<PostgresStore> {
        let options = PostgresStoreOptions::default()
            .with_schema(&self.namespace)
            .with_call_timeout(Duration::from_secs(5));
        PostgresStore::open(&self.url, log, options).await
    }

    /// Opens a log in this place, on S3.
    ///
    /// # Errors
    /// As [`S3Store::open`].
    pub async fn s3_store(&self, log: &str) -> Result<S3Store> {
        let url = StoreUrl::parse(&self.url);
        let prefix = format!("{}/{}/{log}", url.prefix, self.namespace);
        let options = S3StoreOptions::default()
            .with_request_timeout(Duration::from_secs(2))
            .with_append_timeout(Duration::from_secs(4));
        S3Store::open(self.s3().await, &url.name, &prefix, options).await
    }

    /// Opens a log in this place, on Kinesis, to write.
    ///
    /// # Errors
    /// As [`KinesisSink::open`].
    pub async fn kinesis_sink(&self, log: &str) -> Result<KinesisSink> {
        let options = KinesisSinkOptions::default()
            .with_read_back_interval(Duration::ZERO)
            .with_read_back_window(Duration::MAX) // kinesalite never replies if there was no record since
            .with_settle(Duration::ZERO)
            .with_put_timeout(Duration::from_secs(2))
            .with_append_timeout(Duration::from_secs(4));
        KinesisSink::open(self.kinesis().await, &self.namespace, log, options).await
    }

    /// Opens a log in this place, on Kinesis, to read.
    ///
    /// # Errors
    /// As [`KinesisSource::open`].
    pub async fn kinesis_source(&self, log: &str) -> Result<KinesisSource> {
        let options = KinesisSourceOptions::default()
            .with_poll_interval(Duration::from_millis(1))
            .with_settle(Duration::from_millis(1));
        KinesisSource::open(self.kinesis().await, &self.namespace, log, options).await
    }

    /// Removes everything that was created in this place.
    ///
    /// # Panics
    /// If the server refuses: what is left would disturb other tests.
    pub async fn remove(self) {
        match self.service {
            Service::Postgres => {
                let connect = PostgresConnect::parse(&self.url).expect("the URL is right");
                let client = connect.connect().await.expect("the server is there");
                let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", self.namespace);
                client.batch_execute(&drop).await.expect("the schema can be dropped");
                client.close().await;
            }
            Service::S3 => self.empty_prefix().await,
            Service::Kinesis => {
                let deleted = self.kinesis().await.delete_stream().stream_name(&self.namespace).send().await;
                deleted.expect("the stream can be deleted");
            }
        }
    }

    async fn empty_prefix(&self) {
        let (client, url) = (self.s3().await, StoreUrl::parse(&self.url));
        let prefix = format!("{}/{}/", url.prefix, self.namespace);
        loop {
            let page = client.list_objects_v2().bucket(&url.name).prefix(&prefix).send().await;
            let page = page.expect("the bucket can be listed");
            for object in page.contents() {
                let key = object.key().expect("an object has a key");
                let deleted = client.delete_object().bucket(&url.name).key(key).send().await;
                deleted.expect("an object can be deleted");
            }
            if page.is_truncated() != Some(true) {
                return;
            }
        }
    }

    /// Creates the stream. A server under load is slow, so the reply may be lost.
    async fn make_stream(&self) {
        let client = self.kinesis().await;
        for _ in 0..STREAM_TRIES_MAX {
            let made = client.create_stream().stream_name(&self.namespace).shard_count(1).send().await;
            if self.stream_is_active().await {
                return;
            }
            if let Err(cause) = made {
                println!("making a stream: {cause:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no stream can be made");
    }

    async fn stream_is_active(&self) -> bool {
        let asked = self.kinesis().await.describe_stream_summary().stream_name(&self.namespace).send().await;
        let status = asked.ok().and_then(|answer| answer.stream_description_summary);
        status.is_some_and(|stream| stream.stream_status().as_str() == "ACTIVE")
    }

    async fn s3(&self) -> aws_sdk_s3::Client {
        let mut options = hydrant_s3::ClientOptions::default().with_attempts_max(1);
        let url = StoreUrl::parse(&self.url);
        options = options.with_path_style(url.option("path_style") == Some("true"));
        options = options.with_region(url.option("region").unwrap_or(REGION));
        if let Some(endpoint) = url.option("endpoint") {
            options = options.with_endpoint(endpoint).with_credentials(keys());
        }
        hydrant_s3::connect(&options).await.expect("the options are right")
    }

    async fn kinesis(&self) -> aws_sdk_kinesis::Client {
        let mut options = hydrant_kinesis::ClientOptions::default().with_attempts_max(1);
        let url = StoreUrl::parse(&self.url);
        options = options.with_region(url.option("region").unwrap_or(REGION));
        if let Some(endpoint) = url.option("endpoint") {
            options = options.with_endpoint(endpoint).with_credentials(keys());
        }
        hydrant_kinesis::connect(&options).await.expect("the options are right")
    }
}

/// Returns the keys of tests: a server on loopback accepts any; AWS itself needs those of the environment.
fn keys() -> Credentials {
    Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test")
}
