//! Durable appends of one event a call: Hydrant compared with other logs and databases, in turns in one run.
//!
//! Each call returns when the event survives a power cut, by `fdatasync` or what the peer offers for it. All else
//! has the peer's own defaults.

mod peers;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use hydrant_benches::figure::{Bound, Figure, Section, Series, print};
use hydrant_benches::{Result, fresh, machine, ours, rate, remove, scratch, workload};
use tokio::time::Instant;

use hydrant_file::FileStoreOptions;
use peers::Append;

const ROUNDS: usize = 5;
const RUN: Duration = Duration::from_secs(1);

/// Opens a peer in its own directory.
type Open = fn(&Path) -> Result<Arc<dyn Append>>;

const PEERS: [(&str, Open); 4] = [
    ("okaywal 0.3", peers::okaywal),
    ("SQLite, WAL, synchronous=FULL", peers::sqlite),
    ("redb 4", peers::redb),
    ("fjall 3", peers::fjall),
];

#[tokio::main]
async fn main() -> Result<()> {
    println!("== peers");
    let figures = vec![durable(16).await?, durable(256).await?];
    Section { machine: machine::describe(&scratch()), figures }.save("peers")
}

/// Measures `callers` tasks, or threads if the peer blocks, each with one event a call.
async fn durable(callers: usize) -> Result<Figure> {
    let mut ours = Series::new("hydrant");
    let mut ahead = Series::new("hydrant, preallocated (as okaywal is)");
    let mut theirs = PEERS.map(|(name, _)| Series::new(name));
    for _ in 0..ROUNDS {
        let dir = fresh("peers")?;
        ours.push(ours::crowd(&dir.join("hydrant"), callers, 1, RUN).await?.rate());
        let options = FileStoreOptions::default().with_preallocate_bytes(64 << 20);
        ahead.push(ours::crowd_with(&dir.join("ahead"), options, callers, 1, RUN).await?.rate());
        for ((name, open), series) in PEERS.iter().zip(&mut theirs) {
            let path = dir.join(name.split([' ', ',']).next().unwrap_or(name));
            std::fs::create_dir_all(&path)?;
            let peer = open(&path)?;
            series.push(tokio::task::spawn_blocking(move || crowd(&peer, callers)).await??);
        }
        remove(&dir)?;
    }
    let series = [ours, ahead].into_iter().chain(theirs).collect();
    let mut figure = Figure::new(format!("{callers} callers, one durable event a call"), "events/s", series)
        .chart(&format!("Durable appends, {callers} callers of one event a call"));
    for (at, (name, _)) in PEERS.iter().enumerate() {
        figure = figure.wants_ratio(at + 2, &format!("times {name}"), Bound::AtLeast(1.0));
    }
    print(&figure);
    Ok(figure)
}

/// Returns the events a second of `threads` threads.
fn crowd(peer: &Arc<dyn Append>, threads: usize) -> Result<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(Barrier::new(threads + 1));
    let mut line = workload::line()?;
    line.pop(); // a database needs no line break
    let line: Arc<[u8]> = line.into();
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let (peer, stop, ready, line) = (peer.clone(), stop.clone(), ready.clone(), line.clone());
            thread::spawn(move || -> Result<u64> {
                ready.wait();
                let mut events = 0;
                while !stop.load(Ordering::Relaxed) {
                    peer.append(&line)?;
                    events += 1;
                }
                Ok(events)
            })
        })
        .collect();
    ready.wait();
    let start = Instant::now();
    thread::sleep(RUN);
    stop.store(true, Ordering::Relaxed);
    let mut events = 0;
    for thread in threads {
        events += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(rate(events, start.elapsed()))
}
