//! A proxy for any protocol over TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::native::free_port;

/// How a connection breaks.
///
/// A request is what a client sends up to the server's next word, an exchange is a request and its answer. Where
/// requests are pipelined, the first bytes of an answer are those of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// New connections are refused. Those that there are go on; see [`Tcp::cut`].
    Refuse,
    /// The connection is closed when a request arrives, before the server sees any of it.
    CutBefore,
    /// The server gets so many bytes of the request, then the connection is closed; a request that is shorter passes.
    CutWithin(usize),
    /// The server gets what arrived of the request at once, and the connection is closed without waiting for an answer.
    CutAfter,
    /// The server gets the request; when its answer comes, the connection is closed, and the client sees nothing of it.
    LoseAnswer,
    /// The client gets so many bytes of the answer, then the connection is closed; an answer that is shorter passes.
    CutAnswer(usize),
    /// Each request arrives that much later.
    Delay(Duration),
    /// Nothing passes in either direction, and nobody is told, until [`Tcp::heal`]; then it goes on, as it does when
    /// a network is back.
    BlackHole,
    /// When a request arrives, the client's connection is reset (RST) before the server sees any of it.
    Reset,
    /// The server gets the second text wherever the first one stands in what arrived of the request at once. Both have
    /// the same length.
    Replace(&'static str, &'static str),
}

/// When a fault that happens once does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// With the next new connection: with [`Fault::Refuse`] it is reset, with any other its first request breaks.
    Connection,
    /// With the n-th request from now on, of whatever connection; 1 is the next.
    Exchange(u64),
    /// With the next bytes of a client that contain these, and arrive together.
    Sends(Vec<u8>),
}

/// A proxy on a free port of 127.0.0.1 in front of one server.
#[derive(Debug)]
pub struct Tcp {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The fault that stays, once the listener acts by it.
    settled: watch::Receiver<Option<Fault>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The fault that stays, watched by all connections.
    always: watch::Sender<Option<Fault>>,
    /// Counts up to end all connections.
    cut: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    once: Vec<(When, Fault)>,
    connections: u64,
    exchanges: u64,
    open: u64,
}

/// Why a connection ends.
enum End {
    Close,
    Reset,
}

impl Tcp {
    /// Starts a proxy that forwards to `server`, in the current runtime.
    ///
    /// # Panics
    /// When it cannot listen: a test cannot go on.
    pub async fn start(server: SocketAddr) -> Self {
        // Not a port of the range for clients: after `Refuse` we need the same one again.
        let port = free_port().expect("a free port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.expect("a free port on loopback");
        let shared =
            Shared { state: Mutex::default(), always: watch::Sender::new(None), cut: watch::Sender::new(0) };
        let shared = Arc::new(shared);
        let (settle, settled) = watch::channel(None);
        let accepting = tokio::spawn(accept(listener, server, shared.clone(), settle));
        Self { address, shared, settled, accepting }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections like this, from the return of this call until [`Tcp::heal`].
    ///
    /// # Panics
    /// When somebody else took the port while it was closed: a test cannot go on.
    pub async fn always(&self, fault: Fault) {
        self.settle(Some(fault)).await;
    }

    /// Forgets all faults. What a black hole held goes on.
    ///
    /// # Panics
    /// As [`Tcp::always`].
    pub async fn heal(&self) {
        self.shared.state().once.clear();
        self.settle(None).await;
    }

    async fn settle(&self, fault: Option<Fault>) {
        self.shared.always.send_replace(fault);
        let settled = self.settled.clone().wait_for(|settled| *settled == fault).await.map(drop);
        settled.expect("nobody else took our port");
    }

    /// Breaks one exchange. Several wait for their turn together.
    pub fn once(&self, when: When, fault: Fault) {
        self.shared.state().once.push((when, fault));
    }

    /// Closes all connections now. New ones are accepted.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// How many connections there were, with those that were reset at once.
    pub fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// How many connections there are now.
    pub fn open(&self) -> u64 {
        self.shared.state().open
    }

    /// How many requests there were.
    pub fn exchanges(&self) -> u64 {
        self.shared.state().exchanges
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn always(&self) -> Option<Fault> {
        *self.always.borrow()
    }
}

impl State {
    /// The fault of a new connection, if one waits for it.
    fn connected(&mut self) -> Option<Fault> {
        self.connections += 1;
        let next = self.once.iter().position(|(when, _)| *when == When::Connection);
        next.map(|at| self.once.remove(at).1)
    }

    /// The fault of these bytes, which begin a request or go on with one.
    fn sent(&mut self, begins: bool, bytes: &[u8]) -> Option<Fault> {
        self.exchanges += u64::from(begins);
        let mut due = None;
        for (at, (when, _)) in self.once.iter_mut().enumerate() {
            let now = match when {
                When::Connection => false,
                When::Exchange(n) => {
                    *n = n.saturating_sub(u64::from(begins));
                    begins && *n == 0
                }
                When::Sends(part) => bytes.windows(part.len().max(1)).any(|window| window == part),
            };
            if now && due.is_none() {
                due = Some(at);
            }
        }
        due.map(|at| self.once.remove(at).1)
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    shared: Arc<Shared>,
    settle: watch::Sender<Option<Fault>>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    let mut always = shared.always.subscribe();
    // Dropped with us, it ends all connections.
    let mut connections = JoinSet::new();
    loop {
        let fault = *always.borrow_and_update();
        if fault == Some(Fault::Refuse) {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("nobody else took our port"));
        }
        settle.send_replace(fault);
        while connections.try_join_next().is_some() {}
        let Some(listening) = &listener else {
            drop(always.changed().await);
            continue;
        };
        tokio::select! {
            _ = always.changed() => {}
            accepted = listening.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let fault = shared.state().connected();
                if fault == Some(Fault::Refuse) {
                    reset(&client);
                } else {
                    connections.spawn(connection(client, server, fault, shared.clone()));
                }
            }
        }
    }
}

/// One connection, from accepted to closed.
async fn connection(mut client: TcpStream, server: SocketAddr, first: Option<Fault>, shared: Arc<Shared>) {
    /// Counts down also when the task is aborted.
    struct Open<'a>(&'a Shared);
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.0.state().open -= 1;
        }
    }
    let mut cut = shared.cut.subscribe();
    shared.state().open += 1;
    let _open = Open(&shared);
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let link = Link { shared: &shared, answer: Mutex::new(Answer { heard: true, fault: None }) };
        tokio::select! {
            _ = cut.changed() => End::Close,
            end = async {
                let both = tokio::try_join!(link.up(from_client, to_server, first), link.down(from_server, to_client));
                both.map_or_else(|end| end, |_| End::Close)
            } => end,
        }
    };
    if matches!(end, End::Reset) {
        reset(&client);
    }
}

/// What the two directions of a connection know of each other.
struct Link<'a> {
    shared: &'a Shared,
    answer: Mutex<Answer>,
}

struct Answer {
    /// The server has said something since the client's last bytes: the next begin a request.
    heard: bool,
    /// How the answer to the current request breaks.
    fault: Option<Fault>,
}

impl Link<'_> {
    async fn up(
        &self,
        mut client: ReadHalf<'_>,
        mut server: WriteHalf<'_>,
        mut first: Option<Fault>,
    ) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        let mut left = None;
        loop {
            let n = client.read(&mut buffer).await.map_err(|_| End::Close)?;
            if n == 0 {
                return server.shutdown().await.map_err(|_| End::Close);
            }
            let bytes = &mut buffer[..n];
            let begins = {
                let mut answer = self.answer.lock().expect("no holder panics");
                let begins = std::mem::take(&mut answer.heard);
                if begins {
                    // The last exchange ended before it could break: the next one is none of its business.
                    (left, answer.fault) = (None, None);
                }
                begins
            };
            let once = self.shared.state().sent(begins, bytes);
            let fault = first.take().or(once).or_else(|| self.shared.always());
            if let Some(Fault::CutWithin(bytes_max)) = fault {
                left.get_or_insert(bytes_max);
            }
            if let Some(left) = &mut left {
                let part = &bytes[..n.min(*left)];
                *left -= part.len();
                forward(&mut server, part).await?;
                if *left == 0 {
                    return Err(End::Close);
                }
                continue;
            }
            match fault {
                Some(Fault::CutBefore) => return Err(End::Close),
                Some(Fault::Reset) => return Err(End::Reset),
                Some(Fault::CutAfter) => {
                    forward(&mut server, bytes).await?;
                    return Err(End::Close);
                }
                Some(Fault::LoseAnswer | Fault::CutAnswer(_)) => {
                    self.answer.lock().expect("no holder panics").fault = fault;
                }
                Some(Fault::Delay(delay)) if begins => tokio::time::sleep(delay).await,
                Some(Fault::BlackHole) => self.healed().await,
                Some(Fault::Replace(from, to)) => replace(bytes, from.as_bytes(), to.as_bytes()),
                _ => {}
            }
            forward(&mut server, bytes).await?;
        }
    }

    async fn down(&self, mut server: ReadHalf<'_>, mut client: WriteHalf<'_>) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = server.read(&mut buffer).await.map_err(|_| End::Close)?;
            if n == 0 {
                return client.shutdown().await.map_err(|_| End::Close);
            }
            if self.shared.always() == Some(Fault::BlackHole) {
                self.healed().await;
            }
            let fault = {
                let mut answer = self.answer.lock().expect("no holder panics");
                answer.heard = true;
                if let Some(Fault::CutAnswer(left)) = &mut answer.fault {
                    let now = n.min(*left);
                    *left -= now;
                    Some((now, *left == 0))
                } else {
                    (answer.fault == Some(Fault::LoseAnswer)).then_some((0, true))
                }
            };
            let (now, ends) = fault.unwrap_or((n, false));
            forward(&mut client, &buffer[..now]).await?;
            if ends {
                return Err(End::Close);
            }
        }
    }

    /// Waits until the black hole is gone.
    async fn healed(&self) {
        let mut always = self.shared.always.subscribe();
        drop(always.wait_for(|fault| *fault != Some(Fault::BlackHole)).await);
    }
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "lengths are on the wire");
    for at in 0..(bytes.len() + 1).saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    }
}

async fn forward(to: &mut WriteHalf<'_>, bytes: &[u8]) -> Result<(), End> {
    let written: io::Result<()> = to.write_all(bytes).await;
    written.map_err(|_| End::Close)
}

/// Closes it with RST instead of FIN, when it is dropped.
fn reset(client: &TcpStream) {
    drop(client.set_zero_linger());
}
