//! A proxy that understands HTTP/1.1.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_LENGTH;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Answer;

/// What happens to a request instead of being passed on.
pub enum Action {
    /// The proxy answers, and the server sees nothing.
    Answer(Answer),
    /// The connection is closed, and the server sees nothing.
    Cut,
    /// The server answers, and then the connection is closed: the client cannot know what happened.
    LoseAnswer,
    /// The client gets the answer's status, headers and so many bytes of its body, then the connection is closed.
    CutAnswer(usize),
    /// It is passed on that much later. It arrives even if the client does not wait for it.
    Delay(Duration),
    /// It is passed on when the gate opens. It arrives even if the client does not wait for it.
    Hold(Gate),
    /// It is passed on, and its answer when the gate opens.
    HoldAnswer(Gate),
    /// It is passed on with another body, and answered with another status and body; see [`Action::rewrite`].
    Rewrite(RewriteRequest, RewriteAnswer),
}

/// From the client's body to the server's.
type RewriteRequest = Box<dyn Fn(Vec<u8>) -> Vec<u8> + Send + Sync>;
/// From the server's status and body to the client's.
type RewriteAnswer = Box<dyn Fn(u16, Vec<u8>) -> (u16, Vec<u8>) + Send + Sync>;

impl Action {
    /// Passes the request on with another body, and its answer with another status and body: a `PutRecords` that loses
    /// one of its records, for example.
    pub fn rewrite(
        request: impl Fn(Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
        answer: impl Fn(u16, Vec<u8>) -> (u16, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        Self::Rewrite(Box::new(request), Box::new(answer))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => f.debug_tuple("Answer").field(&answer.status).finish(),
            Self::Cut => f.write_str("Cut"),
            Self::LoseAnswer => f.write_str("LoseAnswer"),
            Self::CutAnswer(bytes_max) => f.debug_tuple("CutAnswer").field(bytes_max).finish(),
            Self::Delay(delay) => f.debug_tuple("Delay").field(delay).finish(),
            Self::Hold(_) => f.write_str("Hold"),
            Self::HoldAnswer(_) => f.write_str("HoldAnswer"),
            Self::Rewrite(..) => f.write_str("Rewrite"),
        }
    }
}

/// Holds requests until it is opened. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { arrived: Arc::new(watch::Sender::new(0)), open: Arc::new(watch::Sender::new(false)) }
    }

    /// Waits until so many requests, counted from the first, have come to the gate.
    pub async fn arrived(&self, requests: usize) {
        let mut arrived = self.arrived.subscribe();
        drop(arrived.wait_for(|count| *count >= requests).await);
    }

    /// Lets all through that wait, and that come from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        drop(self.open.subscribe().wait_for(|open| *open).await);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// The operation of an AWS request by its `x-amz-target`: `PutRecords` of `Kinesis_20131202.PutRecords`. Empty for S3.
pub fn operation(request: &Parts) -> &str {
    let target =
        request.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    target.split_once('.').map_or(target, |(_, operation)| operation)
}

/// A proxy on a free port of 127.0.0.1 in front of one server. It leaves the headers alone, also `host`, which is part of
/// what AWS clients sign.
#[derive(Debug)]
pub struct Http {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Parts>,
    rules: Vec<Rule>,
}

/// What happens to the next requests that match.
struct Rule {
    left: usize,
    matches: Box<dyn Fn(&Parts) -> bool + Send>,
    action: Arc<Action>,
}

impl Http {
    /// Starts a proxy that forwards to `server`, in the current runtime.
    ///
    /// # Panics
    /// When it cannot listen: a test cannot go on.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { server, seen: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, accepting }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, as the AWS SDK wants it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does this with the next `n` requests that match (`usize::MAX`: with all). Where several such rules match a
    /// request, the oldest counts it.
    pub fn next(&self, n: usize, matches: impl Fn(&Parts) -> bool + Send + 'static, action: Action) {
        let rule = Rule { left: n, matches: Box::new(matches), action: Arc::new(action) };
        self.shared.seen().rules.push(rule);
    }

    /// The actions that wait for a request, except those for all requests.
    pub fn unfired(&self) -> Vec<String> {
        let seen = self.shared.seen();
        let waits = |rule: &&Rule| rule.left > 0 && rule.left < usize::MAX / 2;
        seen.rules
            .iter()
            .filter(waits)
            .map(|rule| format!("{:?} of {} requests", rule.action, rule.left))
            .collect()
    }

    /// Forgets all rules. What a gate holds stays until the gate opens.
    pub fn heal(&self) {
        self.shared.seen().rules.clear();
    }

    /// How many requests there were that match, whatever happened to them.
    pub fn count(&self, matches: impl Fn(&Parts) -> bool) -> usize {
        self.shared.seen().requests.iter().filter(|request| matches(request)).count()
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A rule may panic, in the task of its connection; that must not hide what the test finds.
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Seen {
    /// Notes the request, and what is to happen to it.
    fn request(&mut self, request: &Parts) -> Option<Arc<Action>> {
        self.requests.push(request.clone());
        let rule = self.rules.iter_mut().find(|rule| rule.left > 0 && (rule.matches)(request))?;
        rule.left -= 1;
        Some(rule.action.clone())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with us, it ends all connections.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        drop(client.set_nodelay(true));
        let shared = shared.clone();
        connections.spawn(async move {
            let serve = service_fn(|request| serve(request, shared.clone()));
            // An error is a connection that was cut, by either side.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(client), serve)
                    .await,
            );
        });
    }
}

/// Passes a request on; an error ends its connection.
async fn serve(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> io::Result<Response<Either<Incoming, Whole>>> {
    let (parts, body) = request.into_parts();
    let action = shared.seen().request(&parts);
    let Some(action) = action else {
        return Ok(pass(shared.server, Request::from_parts(parts, body)).await?.map(Either::Left));
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    // A task of its own: what the client no longer waits for arrives all the same.
    let acted = tokio::spawn(act(shared.server, parts, body, action)).await.map_err(io::Error::other)?;
    Ok(acted?.map(Either::Right))
}

async fn act(
    server: SocketAddr,
    parts: Parts,
    body: Bytes,
    action: Arc<Action>,
) -> io::Result<Response<Whole>> {
    let cut = || io::Error::other("cut by the proxy");
    let whole = async |mut parts: Parts, body: Bytes| {
        if parts.headers.contains_key(CONTENT_LENGTH) {
            parts.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let answer = pass(server, Request::from_parts(parts, Full::new(body))).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        io::Result::Ok(Response::from_parts(parts, body))
    };
    match &*action {
        Action::Answer(answer) => Ok(made(answer)?.map(Whole::new)),
        Action::Cut => Err(cut()),
        Action::LoseAnswer => {
            whole(parts, body).await?;
            Err(cut())
        }
        Action::CutAnswer(bytes_max) => {
            Ok(whole(parts, body).await?.map(|body| Whole::torn(&body, *bytes_max)))
        }
        Action::Delay(delay) => {
            tokio::time::sleep(*delay).await;
            Ok(whole(parts, body).await?.map(Whole::new))
        }
        Action::Hold(gate) => {
            gate.pass().await;
            Ok(whole(parts, body).await?.map(Whole::new))
        }
        Action::HoldAnswer(gate) => {
            let answer = whole(parts, body).await?;
            gate.pass().await;
            Ok(answer.map(Whole::new))
        }
        Action::Rewrite(request, answer) => {
            let (mut parts, body) = whole(parts, request(body.into()).into()).await?.into_parts();
            let (status, body) = answer(parts.status.as_u16(), body.into());
            parts.status = status.try_into().map_err(io::Error::other)?;
            parts.headers.remove(CONTENT_LENGTH);
            Ok(Response::from_parts(parts, Whole::new(body.into())))
        }
    }
}

fn made(answer: &Answer) -> io::Result<Response<Bytes>> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    response.body(answer.body.clone().into()).map_err(io::Error::other)
}

/// Sends a request on a connection of its own, and returns its answer with a body that still streams.
async fn pass<B>(server: SocketAddr, request: Request<B>) -> io::Result<Response<Incoming>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(io::Error::other)?;
    // It ends with the answer's body, or when that is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(io::Error::other)
}

/// A body that is in memory, and perhaps breaks off.
struct Whole {
    bytes: Option<Bytes>,
    torn: Option<Torn>,
}

/// Hyper writes out what it has only when a body makes it wait: so wait once before the error.
enum Torn {
    Wait,
    Break,
}

impl Whole {
    fn new(bytes: Bytes) -> Self {
        Self { bytes: Some(bytes), torn: None }
    }

    fn torn(bytes: &Bytes, bytes_max: usize) -> Self {
        Self { bytes: Some(bytes.slice(..bytes.len().min(bytes_max))), torn: Some(Torn::Wait) }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(bytes) = self.bytes.take().filter(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.torn {
            None => Poll::Ready(None),
            Some(Torn::Wait) => {
                self.torn = Some(Torn::Break);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Torn::Break) => Poll::Ready(Some(Err(io::Error::other("cut by the proxy")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.torn.is_none() && self.bytes.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.torn, &self.bytes) {
            (None, Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            (None, None) => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
