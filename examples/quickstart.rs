//! A small event-sourced bank: every change is saved before it counts, and two sinks follow the log.
//!
//! ```console
//! $ cargo run --example quickstart
//! ```
//!
//! Run it twice: it continues where it was. Kill it anywhere: no event that it reported as saved is lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Checkpointed, FanOut, FanOutOptions, Hydrated, Journal, JournalOptions, SecondaryOptions};
use hydrant_file::{FileCheckpoints, FileStore, FileStoreOptions};
use hydrant_udp::{Received, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// The events of the log, for example `{"tag":"Deposited","to":"alice","amount":100}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tag")]
enum Change {
    Deposited {
        to: String,
        amount: u64,
    },
    Sent {
        from: String,
        to: String,
        amount: u64,
    },
    /// The whole state. It opens a new file, and the next start reads from here on.
    Snapshot(Bank),
}

/// Reads the state and decides: returns a change, or the reason for a refusal.
type Command = fn(&Bank) -> Result<Change, String>;

/// The state: the sum of all events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Bank {
    balances: BTreeMap<String, u64>,
}

impl Bank {
    /// Decisions come first: a command is refused here, or becomes an event.
    fn deposit(&self, to: &str, amount: u64) -> Result<Change, String> {
        match self.balances.values().sum::<u64>().checked_add(amount) {
            None => Err("there is not that much money".into()),
            Some(_) => Ok(Change::Deposited { to: to.into(), amount }),
        }
    }

    fn send(&self, from: &str, to: &str, amount: u64) -> Result<Change, String> {
        match self.balances.get(from).copied().unwrap_or_default() {
            balance if balance < amount => Err(format!("{from} has {balance}, and cannot send {amount}")),
            _ => Ok(Change::Sent { from: from.into(), to: to.into(), amount }),
        }
    }

    /// Events are facts: applying one cannot fail.
    fn apply(&mut self, change: Change) {
        match change {
            Change::Deposited { to, amount } => *self.balances.entry(to).or_default() += amount,
            Change::Sent { from, to, amount } => {
                *self.balances.entry(from).or_default() -= amount;
                *self.balances.entry(to).or_default() += amount;
            }
            Change::Snapshot(bank) => *self = bank,
        }
    }
}

/// Decides, saves, acts: only a saved change has happened.
async fn save(
    journal: &Journal<Change>,
    bank: &mut Bank,
    decision: Result<Change, String>,
) -> hydrant::Result<()> {
    match decision {
        Ok(change) => {
            let id = journal.append(&change).await?;
            println!("  event {id}: {change:?}");
            bank.apply(change);
        }
        Err(refusal) => println!("  refused: {refusal}"),
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = Path::new("target/quickstart");

    // The primary: plain files. Its `Ok` means that the event is on the disk.
    let ledger = FileStore::open(dir.join("ledger"), FileStoreOptions::default()).await?;
    let log = FanOut::open(ledger, FanOutOptions::default()).await?;

    // One sink: another file store. At its first attach it receives all events from the first one on.
    let archive = FileStore::open(dir.join("archive"), FileStoreOptions::default()).await?;
    log.attach("archive", archive, SecondaryOptions::default()).await?;

    // Another sink: datagrams to a screen on the wall; here a listener plays the screen. UDP has no memory, so
    // `Checkpointed` keeps its checkpoint.
    let wall = UdpListener::open("127.0.0.1:0", UdpListenerOptions::default()).await?;
    let udp = UdpSink::open(&wall.local_addr().to_string(), UdpSinkOptions::default()).await?;
    let checkpoints = Arc::new(FileCheckpoints::open(dir.join("checkpoints")).await?);
    let udp = Checkpointed::open(udp, checkpoints, "screen", "the screen on the wall").await?;
    log.attach("screen", udp, SecondaryOptions::default()).await?;

    // The journal takes typed events, and handles ids, times and commits. Hydrating is a fold over the log.
    let journal = Journal::open(log.clone(), JournalOptions::default().with_rotate_every(20)).await?;
    let Hydrated { state: mut bank, head, events, .. } =
        journal.hydrate(Bank::default(), Bank::apply).await?;
    match head {
        Some(head) => println!("Read {events} events up to event {head}: {:?}", bank.balances),
        None => println!("A new ledger."),
    }
    let mut screen = wall.received(head.into());

    println!("\nFour commands:");
    let commands: [Command; 4] = [
        |bank| bank.deposit("alice", 100),
        |bank| bank.send("alice", "bob", 30),
        |bank| bank.send("bob", "alice", 1_000_000),
        |bank| bank.send("bob", "carol", 10),
    ];
    for decide in commands {
        let decision = decide(&bank);
        save(&journal, &mut bank, decision).await?;
    }
    if journal.rotation_due() {
        let id = journal.snapshot(journal.head(), &Change::Snapshot(bank.clone())).await?;
        println!("  event {id}: the whole state; it opens a new file, and the next start reads from here");
    }

    // No append waited for the sinks. Here the program waits until both have all events, for at most five seconds.
    let head = journal.head().ok_or("something was saved")?;
    match log.delivered(head, Duration::from_secs(5)).await {
        Ok(()) => println!("\nBoth sinks have every event up to {head}. The screen shows:"),
        Err(laggards) => laggards.iter().for_each(|laggard| println!("\n{laggard}")),
    }
    // A datagram may be lost, so the wait for each is limited.
    while let Ok(Some(Ok(Received::Event(event)))) = timeout(Duration::from_secs(1), screen.next()).await {
        println!("  {event}");
        if event.id() == head {
            break;
        }
    }

    journal.close().await?;
    drop(log.close(Duration::from_secs(5)).await);
    let dir = dir.canonicalize()?;
    println!("\nThe ledger is in   {}", dir.join("ledger/state").display());
    println!("the archive is in  {}", dir.join("archive/state").display());
    println!("Run it again: it continues after event {head}.");
    Ok(())
}
