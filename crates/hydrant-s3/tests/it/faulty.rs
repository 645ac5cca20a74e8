//! A client whose requests can be counted, refused, and robbed of their answers, one by one.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use hydrant_s3::{ClientOptions, connect};
use test_servers::StoreUrl;
use tokio::sync::Notify;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It goes through.
    None,
    /// The server never sees it.
    Refuse,
    /// The server does it, and the answer is lost.
    LoseAnswer,
    /// The server sees it without its conditions.
    StripConditions,
    /// It waits until the other call of [`Faults::while_held`] is through, and then goes through itself.
    Hold,
}

type Plan = Box<dyn FnMut(u64, &HttpRequest) -> Fault + Send>;

/// Decides about each request, by its number (from 0) and what it asks for.
#[derive(Clone)]
pub(crate) struct Faults(Arc<Inner>);

struct Inner {
    plan: Mutex<Plan>,
    sent: AtomicU64,
    held: Notify,
    go: Notify,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faults")
    }
}

impl Faults {
    /// From here on, requests count from 0 and go by this plan.
    pub(crate) fn plan(&self, plan: impl FnMut(u64, &HttpRequest) -> Fault + Send + 'static) {
        *self.0.plan.lock().unwrap() = Box::new(plan);
        self.0.sent.store(0, Ordering::SeqCst);
    }

    /// Everything goes through again.
    pub(crate) fn heal(&self) {
        self.plan(|_, _| Fault::None);
    }

    /// From request `nth` on, the process is as good as dead: nothing leaves it. Of the request before, the
    /// answer is lost if `loses_answer`.
    pub(crate) fn die_at(&self, nth: u64, loses_answer: bool) {
        self.plan(move |at, _| match at {
            at if at >= nth => Fault::Refuse,
            at if loses_answer && at + 1 == nth => Fault::LoseAnswer,
            _ => Fault::None,
        });
    }

    /// Runs `other` while request `nth` of `call` waits; `None` where `call` ends before.
    pub(crate) async fn while_held<T, U>(
        &self,
        nth: u64,
        call: impl Future<Output = T>,
        other: impl Future<Output = U>,
    ) -> (T, Option<U>) {
        self.plan(move |at, _| if at == nth { Fault::Hold } else { Fault::None });
        let mut call = pin!(call);
        tokio::select! {
            biased;
            () = self.0.held.notified() => {}
            done = &mut call => {
                self.heal();
                return (done, None);
            }
        }
        let answer = other.await;
        self.0.go.notify_one();
        (call.await, Some(answer))
    }

    /// How many requests there were since the last plan.
    pub(crate) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct FaultyClient {
    inner: SharedHttpClient,
    faults: Faults,
}

impl HttpClient for FaultyClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector { inner, faults: self.faults.clone() })
    }
}

#[derive(Debug)]
struct FaultyConnector {
    inner: SharedHttpConnector,
    faults: Faults,
}

impl HttpConnector for FaultyConnector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let nth = self.faults.0.sent.fetch_add(1, Ordering::SeqCst);
        let fault = (self.faults.0.plan.lock().unwrap())(nth, &request);
        let broken = || ConnectorError::io("the test broke this connection".into());
        match fault {
            Fault::None => self.inner.call(request),
            Fault::Refuse => HttpConnectorFuture::ready(Err(broken())),
            Fault::LoseAnswer => {
                let answer = self.inner.call(request);
                HttpConnectorFuture::new(async move {
                    drop(answer.await?);
                    Err(broken())
                })
            }
            Fault::Hold => {
                let (faults, inner) = (self.faults.clone(), self.inner.clone());
                HttpConnectorFuture::new(async move {
                    faults.0.held.notify_one();
                    faults.0.go.notified().await;
                    inner.call(request).await
                })
            }
            Fault::StripConditions => {
                request.headers_mut().remove("if-match");
                request.headers_mut().remove("if-none-match");
                self.inner.call(request)
            }
        }
    }
}

/// How long a request may take where no test is about that.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A bucket for tests, and a new prefix in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) faults: Faults,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
}

impl Place {
    /// `None` where there is no server: the test says so and ends.
    pub(crate) async fn find() -> Option<Self> {
        let patient =
            ClientOptions::default().with_attempt_timeout(PATIENCE).with_operation_timeout(2 * PATIENCE);
        let options = patient.with_attempts_max(1);
        let url = match test_servers::s3() {
            Ok(url) => StoreUrl::parse(&url),
            Err(reason) => {
                println!("skipped: {reason}");
                return None;
            }
        };
        let mut options = options.with_path_style(url.option("path_style") == Some("true"));
        if let Some(endpoint) = url.option("endpoint") {
            options = options.with_endpoint(endpoint);
            // A server of our own takes any keys; those of the environment are for AWS.
            if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
                let (id, key) = (test_servers::ACCESS_KEY_ID, test_servers::SECRET_ACCESS_KEY);
                options = options.with_credentials(Credentials::new(id, key, None, None, "tests"));
            }
        }
        if let Some(region) = url.option("region") {
            options = options.with_region(region);
        }
        options = options.with_backoff_initial(Duration::from_millis(1));
        let client = connect(&options).await.unwrap();
        let inner = client.config().http_client().unwrap();
        let faults = Faults(Arc::new(Inner {
            plan: Mutex::new(Box::new(|_, _| Fault::None)),
            sent: AtomicU64::new(0),
            held: Notify::new(),
            go: Notify::new(),
        }));
        let http = FaultyClient { inner, faults: faults.clone() };
        let client = Client::from_conf(client.config().to_builder().http_client(http).build());
        let name = test_servers::namespace();
        let prefix = if url.prefix.is_empty() { name } else { format!("{}/{name}", url.prefix) };
        Some(Self { client, faults, bucket: url.name, prefix })
    }

    /// The same prefix, by a client of its own.
    pub(crate) async fn again(&self) -> Self {
        let other = Self::find().await.expect("there was a server before");
        Self { prefix: self.prefix.clone(), ..other }
    }

    /// Another prefix in the same bucket.
    pub(crate) fn beside(&self) -> Self {
        Self { prefix: format!("{}-{}", self.prefix, test_servers::namespace()), ..self.clone() }
    }

    /// All keys under the prefix.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix);
        let mut pages = list.into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.unwrap().contents().iter().map(|object| object.key().unwrap().to_owned()));
        }
        keys
    }

    /// Removes what the test made.
    pub(crate) async fn remove(&self) {
        self.faults.heal();
        for key in self.keys().await {
            self.client.delete_object().bucket(&self.bucket).key(key).send().await.unwrap();
        }
    }
}
