//! How and when a connection breaks, and which armed faults did not fire yet.

use std::time::Duration;

/// How a connection breaks.
///
/// A request is what a client sends until the server sends bytes; an exchange is a request and its answer. If requests
/// are pipelined, the first bytes of an answer may belong to an earlier request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Refuses new connections. Open ones continue; see [`Tcp::cut`](super::Tcp::cut).
    Refuse,
    /// Closes the connection when a request arrives, before the server sees any of it.
    CutBefore,
    /// Passes this many bytes of the request to the server, then closes the connection. A shorter request passes.
    CutWithin(usize),
    /// Passes what arrived of the request at once, and closes the connection without waiting for an answer.
    CutAfter,
    /// Passes the request. When its answer comes, closes the connection; the client receives nothing of the answer.
    LoseAnswer,
    /// Passes this many bytes of the answer to the client, then closes the connection. A shorter answer passes.
    CutAnswer(usize),
    /// Closes the client's connection when a request arrives. Passes the bytes that arrived at once to the server this
    /// much later, perhaps after the client has reconnected.
    ArriveLate(Duration),
    /// Delays each request by this much.
    Delay(Duration),
    /// Passes nothing in either direction and closes nothing, until [`Tcp::heal`](super::Tcp::heal). Then continues,
    /// like a network that is up again. If it is armed once, it holds only the client's bytes.
    BlackHole,
    /// Resets the client's connection (RST) when a request arrives, before the server sees any of it.
    Reset,
    /// Replaces the first text by the second one in what arrived of a request at once. Both have the same length.
    Replace(&'static str, &'static str),
}

impl Fault {
    /// The kinds of failure of a connection, for [`Tcp::arm`](super::Tcp::arm).
    pub(super) const KINDS: [Self; 8] = [
        Self::CutBefore,
        Self::CutWithin(1),
        Self::CutAfter,
        Self::LoseAnswer,
        Self::CutAnswer(1),
        Self::ArriveLate(Duration::from_millis(50)),
        Self::BlackHole,
        Self::Reset,
    ];
}

/// When a fault that is armed once fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// With the next new connection: [`Fault::Refuse`] resets it, any other fault breaks its first request.
    Connection,
    /// With the n-th request from now on, of any connection; 1 is the next.
    Exchange(u64),
    /// With the next bytes of a client that contain these bytes in one read.
    Sends(Vec<u8>),
}

/// A fault that acts on a connection, with its number among the armed ones.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acting {
    pub(super) fault: Fault,
    /// `None`: it acts on all connections.
    pub(super) nth: Option<u64>,
    /// How many times the proxy had been healed when the fault began to act.
    pub(super) heals: u64,
}

impl Acting {
    pub(super) fn with(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }
}

/// The faults that are armed, and did not fire yet.
#[derive(Debug, Default)]
pub(super) struct Armed {
    all: Vec<One>,
    count: u64,
    /// How many times the proxy was healed.
    pub(super) heals: u64,
}

#[derive(Debug)]
struct One {
    nth: u64,
    when: When,
    fault: Fault,
    /// Whether its request came, so that it waits for the byte at which to break.
    acts: bool,
}

impl Armed {
    pub(super) fn push(&mut self, when: When, fault: Fault) {
        self.count += 1;
        self.all.push(One { nth: self.count, when, fault, acts: false });
    }

    /// Forgets all faults, and returns how often that happened.
    pub(super) fn heal(&mut self) -> u64 {
        self.all.clear();
        self.heals += 1;
        self.heals
    }

    /// Records that a fault fired.
    pub(super) fn fired(&mut self, acting: Acting) {
        self.all.retain(|one| Some(one.nth) != acting.nth);
    }

    /// The faults that did not fire, as text.
    pub(super) fn unfired(&self) -> Vec<String> {
        let text = |one: &One| {
            let why = if one.acts { "the exchange was too short" } else { "its moment did not come" };
            format!("{:?} at {} ({why})", one.fault, name(&one.when))
        };
        self.all.iter().map(text).collect()
    }

    /// The fault of a new connection, if one waits for it.
    pub(super) fn connected(&mut self) -> Option<Acting> {
        self.act(|one| one.when == When::Connection)
    }

    /// The fault of these bytes, which begin a request or continue one.
    pub(super) fn sent(&mut self, begins: bool, bytes: &[u8]) -> Option<Acting> {
        for one in self.all.iter_mut().filter(|one| !one.acts) {
            if let When::Exchange(n) = &mut one.when {
                *n = n.saturating_sub(u64::from(begins));
            }
        }
        self.act(|one| match &one.when {
            When::Connection => false,
            When::Exchange(n) => begins && *n == 0,
            When::Sends(part) => bytes.windows(part.len().max(1)).any(|window| window == part),
        })
    }

    fn act(&mut self, is_due: impl Fn(&One) -> bool) -> Option<Acting> {
        let one = self.all.iter_mut().find(|one| !one.acts && is_due(one))?;
        one.acts = true;
        Some(Acting { fault: one.fault, nth: Some(one.nth), heals: self.heals })
    }
}

fn name(when: &When) -> String {
    match when {
        When::Connection => "a connection".to_owned(),
        When::Exchange(n) => format!("an exchange, {n} away"),
        When::Sends(part) => format!("bytes with {:?}", String::from_utf8_lossy(part)),
    }
}
