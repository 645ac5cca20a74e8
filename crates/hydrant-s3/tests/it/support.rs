//! Where the tests find S3, and the keys under which they work.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::types::Object;
use hydrant::{Batch, Event, EventId, EventSink};
use hydrant_s3::{ClientOptions, S3Store, S3StoreOptions, connect};
use test_servers::StoreUrl;

use crate::faults::Faults;

/// A bucket on some server, and a prefix in it for tests.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) path_style: bool,
}

impl Place {
    pub(crate) fn parse(url: &str) -> Self {
        let url = StoreUrl::parse(url);
        let option = |name| url.option(name).map(str::to_owned);
        Self {
            bucket: url.name.clone(),
            prefix: url.prefix.clone(),
            endpoint: option("endpoint"),
            region: option("region"),
            path_style: option("path_style").is_some_and(|on| on == "true"),
        }
    }

    pub(crate) fn options(&self) -> ClientOptions {
        // The SDK tries again at once: what is tested is what it leaves.
        let mut options = ClientOptions::default()
            .with_path_style(self.path_style)
            .with_backoff_initial(Duration::from_millis(1));
        if let Some(endpoint) = &self.endpoint {
            options = options.with_endpoint(endpoint).with_credentials(test_keys());
        }
        if let Some(region) = &self.region {
            options = options.with_region(region);
        }
        options
    }

    pub(crate) async fn client(&self) -> Client {
        connect(&self.options()).await.unwrap()
    }
}

/// What the servers of the tests take; AWS itself gets those of the environment.
pub(crate) fn test_keys() -> Credentials {
    Credentials::new(test_servers::ACCESS_KEY_ID, test_servers::SECRET_ACCESS_KEY, None, None, "tests")
}

/// The server that all tests share, or why there is none.
pub(crate) fn shared() -> Result<Place, String> {
    test_servers::s3().map(|url| Place::parse(&url))
}

/// Says in the run that a test could not be tried.
macro_rules! or_skip {
    ($found:expr) => {
        match $found {
            Ok(found) => found,
            Err(reason) => return println!("skipped: {reason}"),
        }
    };
}
pub(crate) use or_skip;

/// A log of a test: a prefix of its own, and a client to look at it past all faults.
pub(crate) struct Scratch {
    pub(crate) place: Place,
    pub(crate) client: Client,
}

impl Scratch {
    /// A prefix of its own on the server that all tests share, or why there is none.
    pub(crate) async fn shared() -> Result<Self, String> {
        Ok(Self::at(shared()?).await)
    }

    pub(crate) async fn at(place: Place) -> Self {
        let client = place.client().await;
        let prefix = format!("{}/{}", place.prefix, test_servers::namespace());
        Self { place: Place { prefix, ..place }, client }
    }

    /// A handle of its own on the log.
    pub(crate) async fn open(&self, options: S3StoreOptions) -> S3Store {
        self.open_through(&Faults::new(), options).await
    }

    /// A handle whose requests go wrong as these faults say.
    pub(crate) async fn open_through(&self, faults: &Faults, options: S3StoreOptions) -> S3Store {
        self.try_open(faults, options).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        faults: &Faults,
        options: S3StoreOptions,
    ) -> hydrant::Result<S3Store> {
        let client = faults.on(&self.place.client().await);
        S3Store::open(client, &self.place.bucket, &self.place.prefix, options).await
    }

    /// The key of the object behind this event; of the first, without one.
    pub(crate) fn key(&self, after: Option<u64>) -> String {
        let name = after.map_or_else(|| "-origin".to_owned(), |id| format!("{id:020}"));
        format!("{}/log/{name}", self.place.prefix)
    }

    /// The names of all objects of the log.
    pub(crate) async fn names(&self) -> Vec<String> {
        let log = format!("{}/log/", self.place.prefix);
        let all = objects(&self.client, &self.place.bucket, &log).await;
        all.iter().map(|object| object.key().unwrap().strip_prefix(&log).unwrap().to_owned()).collect()
    }

    /// The object behind this event, and its metadata.
    pub(crate) async fn get(&self, after: Option<u64>) -> (Vec<u8>, HashMap<String, String>) {
        let got =
            self.client.get_object().bucket(&self.place.bucket).key(self.key(after)).send().await.unwrap();
        let metadata = got.metadata().cloned().unwrap();
        (got.body.collect().await.unwrap().to_vec(), metadata)
    }

    /// Puts an object there, whatever was there before.
    pub(crate) async fn put(&self, after: Option<u64>, body: Vec<u8>, metadata: HashMap<String, String>) {
        let put = self.client.put_object().bucket(&self.place.bucket).key(self.key(after));
        put.set_metadata(Some(metadata)).body(body.into()).send().await.unwrap();
    }

    /// Removes the object behind this event.
    pub(crate) async fn delete(&self, after: Option<u64>) {
        self.client.delete_object().bucket(&self.place.bucket).key(self.key(after)).send().await.unwrap();
    }

    /// Removes all that the test made.
    pub(crate) async fn remove(self) {
        remove(&self.client, &self.place.bucket, &format!("{}/", self.place.prefix)).await;
    }
}

/// Appends all of `events` in batches of this size, behind what is there.
pub(crate) async fn append_all(store: &S3Store, events: &[Event], batch_events: usize) {
    let mut after = store.checkpoint().await.unwrap().id();
    for batch in Batch::segments(events).flat_map(|segment| segment.chunks(batch_events)) {
        store.append(Batch::new(after, batch).unwrap()).await.unwrap();
        after = batch.last().map(Event::id);
    }
}

/// All objects under a prefix, in order.
pub(crate) async fn objects(client: &Client, bucket: &str, prefix: &str) -> Vec<Object> {
    let mut all = Vec::new();
    let mut pages = client.list_objects_v2().bucket(bucket).prefix(prefix).into_paginator().send();
    while let Some(page) = pages.next().await {
        all.extend(page.unwrap().contents.unwrap_or_default());
    }
    all
}

/// Removes all objects under a prefix.
pub(crate) async fn remove(client: &Client, bucket: &str, prefix: &str) {
    for object in objects(client, bucket, prefix).await {
        client.delete_object().bucket(bucket).key(object.key().unwrap()).send().await.unwrap();
    }
}

/// An event whose payload names its writer.
pub(crate) fn event_by(by: &str, id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json(format!("{{\"by\":{by:?}}}")).build().unwrap()
}

pub(crate) fn event(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json(format!("{{\"n\":{id}}}")).build().unwrap()
}

pub(crate) fn snapshot(id: u64) -> Event {
    Event::builder(EventId::new(id)).payload_json(format!("{{\"n\":{id}}}")).snapshot().build().unwrap()
}

pub(crate) fn log(ids: std::ops::Range<u64>) -> Vec<Event> {
    ids.map(event).collect()
}
