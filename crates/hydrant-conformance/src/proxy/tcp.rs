//! A proxy for any protocol over TCP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::fault::{Acting, Armed, Fault, When};
use super::link::{connection, reset};

/// A proxy on a free port of 127.0.0.1 in front of one server.
///
/// Dropping it closes its connections, and panics if a fault was armed once and did not fire.
#[derive(Debug)]
pub struct Tcp {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The fault that stays, once the listener acts by it.
    settled: watch::Receiver<Option<Fault>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The fault that stays, watched by all connections.
    always: watch::Sender<Option<Fault>>,
    /// Counts up to end all connections.
    pub(super) cut: watch::Sender<u64>,
    /// How many times the proxy was healed.
    heals: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    armed: Armed,
    connections: u64,
    exchanges: u64,
    pub(super) open: u64,
}

impl Tcp {
    /// Starts a proxy that forwards to `server`, in the current runtime.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(server: SocketAddr) -> Self {
        // Not a port of the range for clients: after `Refuse` the proxy needs the same one again.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listener = TcpListener::bind(address).await.expect("a free port on loopback");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            always: watch::Sender::new(None),
            cut: watch::Sender::new(0),
            heals: watch::Sender::new(0),
        });
        let (settle, settled) = watch::channel(None);
        let accepting = tokio::spawn(accept(listener, server, shared.clone(), settle));
        Self { address, shared, settled, accepting }
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections like this, from the return of this call until [`Tcp::heal`].
    ///
    /// # Panics
    /// If another process took the port while it was closed.
    pub async fn always(&self, fault: Fault) {
        self.settle(Some(fault)).await;
    }

    /// Forgets all faults, also those that did not fire. What a black hole held continues.
    ///
    /// # Panics
    /// As [`Tcp::always`].
    pub async fn heal(&self) {
        let heals = self.shared.state().armed.heal();
        self.shared.heals.send_replace(heals);
        self.settle(None).await;
    }

    async fn settle(&self, fault: Option<Fault>) {
        self.shared.always.send_replace(fault);
        let settled = self.settled.clone().wait_for(|settled| *settled == fault).await.map(drop);
        settled.expect("no other process took the port");
    }

    /// Breaks one exchange. Several armed faults wait at once, each for its own moment.
    pub fn once(&self, when: When, fault: Fault) {
        self.shared.state().armed.push(when, fault);
    }

    /// Arms the `n`th kind of failure of a connection, from 0. Returns `false` if there are no more.
    ///
    /// The kinds: cut before, inside and after the request; the answer lost, and cut inside; the request arrives late,
    /// after the connection was closed; a black hole until [`heal`](Tcp::heal); a reset. Use it for
    /// [`Harness::fail_next_write`](crate::Harness::fail_next_write).
    pub fn arm(&self, n: usize, when: When) -> bool {
        let fault = Fault::KINDS.get(n);
        if let Some(fault) = fault {
            self.once(when, *fault);
        }
        fault.is_some()
    }

    /// Returns the faults that were armed with [`once`](Tcp::once) or [`arm`](Tcp::arm) and did not fire yet, as text.
    pub fn unfired(&self) -> Vec<String> {
        self.shared.state().armed.unfired()
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
        let unfired = self.unfired();
        assert!(
            unfired.is_empty() || std::thread::panicking(),
            "armed, and not fired when the proxy was dropped: {}; `heal` forgets faults",
            unfired.join(", ")
        );
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that acts on all connections.
    pub(super) fn always(&self) -> Option<Acting> {
        self.always.borrow().map(|fault| Acting { fault, nth: None, heals: 0 })
    }

    pub(super) fn fired(&self, acting: Acting) {
        self.state().armed.fired(acting);
    }

    /// Counts a connection, and returns its fault.
    fn connected(&self) -> Option<Acting> {
        let mut state = self.state();
        state.connections += 1;
        state.armed.connected()
    }

    /// Counts a request, and returns the fault of these bytes.
    pub(super) fn sent(&self, begins: bool, bytes: &[u8]) -> Option<Acting> {
        let mut state = self.state();
        state.exchanges += u64::from(begins);
        state.armed.sent(begins, bytes)
    }

    /// Waits until a black hole is healed.
    pub(super) async fn healed(&self, hole: Acting) {
        if hole.nth.is_some() {
            drop(self.heals.subscribe().wait_for(|heals| *heals > hole.heals).await);
            return;
        }
        let mut always = self.always.subscribe();
        drop(always.wait_for(|fault| *fault != Some(Fault::BlackHole)).await);
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
    // Dropped with this task, it ends all connections.
    let mut connections = JoinSet::new();
    loop {
        let fault = *always.borrow_and_update();
        if fault == Some(Fault::Refuse) {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("no other process took the port"));
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
                match shared.connected() {
                    Some(refused @ Acting { fault: Fault::Refuse, .. }) => {
                        shared.fired(refused);
                        reset(&client);
                    }
                    fault => drop(connections.spawn(connection(client, server, fault, shared.clone()))),
                }
            }
        }
    }
}

/// A free port of 127.0.0.1 below those that the system gives to clients: no client takes it while a server restarts.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    crate::machine::free_port().expect("a free port from 20000 to 31999")
}
