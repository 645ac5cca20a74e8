//! A client whose requests go wrong on command: what a network and a server may do, made to order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use tokio::sync::watch;
use tokio::time::timeout;

/// A way in which a request goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing goes wrong.
    Pass,
    /// It never reaches the server.
    Cut,
    /// The server does it, and its answer is lost.
    LoseAnswer,
    /// The server answers this instead of doing it.
    Answer(u16, &'static str),
    /// The server does it, and then this comes instead of its answer.
    AnswerAfter(u16, &'static str),
    /// The caller sees a broken connection. The request lands later, when the test calls `land`.
    LandLater,
    /// Its conditions are taken off, as a server does that ignores them.
    StripConditions,
    /// The request waits until the test calls `land`, and then continues.
    Hold,
}

/// The kinds of requests that tests distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Get,
    Head,
    List,
    Other,
}

fn kind(request: &HttpRequest) -> Kind {
    match request.method() {
        "PUT" => Kind::Put,
        "HEAD" => Kind::Head,
        "GET" if request.uri().contains("list-type=2") => Kind::List,
        "GET" => Kind::Get,
        _ => Kind::Other,
    }
}

#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<(Kind, Fault)>,
    always: Vec<(Kind, Fault)>,
    seen: Vec<(Kind, String)>,
    /// Of the PUT that was seen last.
    put_headers: Vec<(String, String)>,
    under_way: usize,
    is_dead: bool,
    keeps_no_connections: bool,
    /// How long each answer takes.
    delay: Option<Duration>,
}

/// The switch of one client; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    plan: Arc<Mutex<Plan>>,
    landing: watch::Sender<u64>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { plan: Arc::default(), landing: watch::Sender::new(0) }
    }

    /// The same client, with these faults in its way.
    pub(crate) fn on(&self, client: &Client) -> Client {
        let inner = client.config().http_client().expect("the client has an HTTP client");
        let faulty = SharedHttpClient::new(FaultyClient { inner, faults: self.clone() });
        Client::from_conf(client.config().to_builder().http_client(faulty).build())
    }

    /// Each request gets a connection of its own: what is left open then is not the pool's.
    pub(crate) fn without_pool(self) -> Self {
        self.lock().keeps_no_connections = true;
        self
    }

    /// The next request of this kind goes wrong; several queue up.
    pub(crate) fn next(&self, kind: Kind, fault: Fault) {
        self.lock().next.push_back((kind, fault));
    }

    /// From now on all requests of this kind go wrong.
    pub(crate) fn always(&self, kind: Kind, fault: Fault) {
        self.lock().always = vec![(kind, fault)];
    }

    /// And those of this kind as well.
    pub(crate) fn always_also(&self, kind: Kind, fault: Fault) {
        self.lock().always.push((kind, fault));
    }

    /// The faults that were queued and met no request yet.
    pub(crate) fn unfired(&self) -> Vec<String> {
        self.lock().next.iter().map(|(kind, fault)| format!("{fault:?} at a {kind:?}")).collect()
    }

    /// Each answer takes so long, until the faults are healed.
    pub(crate) fn delay(&self, delay: Duration) {
        self.lock().delay = Some(delay);
    }

    /// No more faults and no delay; what was to land later lands now.
    pub(crate) fn heal(&self) {
        self.clear();
        self.lock().delay = None;
        self.land();
    }

    /// No more faults; what was to land later still has not.
    pub(crate) fn clear(&self) {
        let mut plan = self.lock();
        plan.next.clear();
        plan.always.clear();
    }

    /// Lets land what was to land later.
    pub(crate) fn land(&self) {
        self.landing.send_modify(|count| *count += 1);
    }

    /// The requests since it was asked last.
    pub(crate) fn requests(&self) -> Vec<(Kind, String)> {
        std::mem::take(&mut self.lock().seen)
    }

    /// How many requests of this kind there were since it was asked last.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.requests().iter().filter(|(seen, _)| *seen == kind).count()
    }

    /// A header of the PUT that was seen last.
    pub(crate) fn put_header(&self, name: &str) -> Option<String> {
        let plan = self.lock();
        plan.put_headers.iter().find(|(seen, _)| seen == name).map(|(_, value)| value.clone())
    }

    /// As if the process ended now: what is under way on the server ends, and nothing more leaves.
    pub(crate) async fn crash(&self) {
        self.lock().is_dead = true;
        while self.lock().under_way > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    fn draw(&self, request: &HttpRequest) -> Result<Option<Fault>, ConnectorError> {
        let mut plan = self.lock();
        if plan.is_dead {
            return Err(broken());
        }
        let kind = kind(request);
        plan.seen.push((kind, request.uri().to_owned()));
        if kind == Kind::Put {
            let headers = request.headers().iter();
            plan.put_headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        }
        let is_next = plan.next.front().is_some_and(|(wanted, _)| *wanted == kind);
        let queued = if is_next { plan.next.pop_front() } else { None };
        let always = plan.always.iter().find(|(wanted, _)| *wanted == kind).cloned();
        plan.under_way += 1;
        Ok(queued.or(always).map(|(_, fault)| fault))
    }
}

/// Counts down also where the request is dropped.
struct UnderWay(Faults);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

fn broken() -> ConnectorError {
    ConnectorError::io(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())
}

fn answer(status: u16, code: &str) -> HttpResponse {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>made to order</Message></Error>"
    );
    HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body))
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
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        if faults.lock().keeps_no_connections {
            request.headers_mut().insert("connection", "close");
        }
        // In its own task: a request that was sent continues when its caller is dropped.
        let task = tokio::spawn(async move {
            let mut request = request;
            let fault = faults.draw(&request)?;
            let under_way = UnderWay(faults.clone());
            let mut landing = faults.landing.subscribe();
            let delay = faults.lock().delay;
            if let Some(delay) = delay {
                drop(timeout(delay, landing.changed()).await);
            }
            match fault {
                None | Some(Fault::Pass) => {}
                Some(Fault::Cut) => return Err(broken()),
                Some(Fault::Answer(status, code)) => return Ok(answer(status, code)),
                Some(Fault::LoseAnswer) => {
                    inner.call(request).await?;
                    return Err(broken());
                }
                Some(Fault::AnswerAfter(status, code)) => {
                    inner.call(request).await?;
                    return Ok(answer(status, code));
                }
                Some(Fault::LandLater) => {
                    drop(under_way);
                    tokio::spawn(async move {
                        landing.changed().await.ok();
                        inner.call(request).await.ok();
                    });
                    return Err(broken());
                }
                Some(Fault::StripConditions) => {
                    request.headers_mut().remove("if-none-match");
                    request.headers_mut().remove("if-match");
                }
                Some(Fault::Hold) => drop(landing.changed().await),
            }
            let answered = inner.call(request).await;
            drop(under_way);
            if faults.lock().is_dead { Err(broken()) } else { answered }
        });
        HttpConnectorFuture::new(async move { task.await.unwrap_or_else(|_| Err(broken())) })
    }
}
