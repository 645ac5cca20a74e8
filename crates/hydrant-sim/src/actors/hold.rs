//! Readers that are kept across the steps of an actor, and watchers of the status.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Error, EventId, EventSource, EventStream, ReadFrom, Result};
use tokio::time::Instant;

use super::Actor;
use super::system::{Engine, Up, Watcher};
use crate::check;
use crate::plan::{Begin, Broken, Store};
use crate::world::held::Alive;
use crate::world::truth::{Fact, fact};
use crate::world::{FileReader, ModelPrimary, Process};

/// A watcher looks no more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(700);

/// A follower that is kept.
pub(super) struct Kept {
    events: EventStream,
    from: ReadFrom,
    /// The event that it yielded last.
    last: Option<Fact>,
    /// The process that it belongs to.
    process: Arc<Process>,
    /// Whether it reads the primary, from a process of its own.
    is_outside: bool,
    _reader: Alive,
}

impl Actor {
    /// Opens a follower, and drops the one before.
    pub(super) async fn open_follower(&mut self, up: &Up, from: Begin, outside: bool) -> Result<()> {
        let Engine::FanOut(log) = &up.engine else { return Ok(()) };
        let head = up.engine.status().head.map_or(0, EventId::get);
        let from = match from {
            Begin::Origin => ReadFrom::Origin,
            Begin::Snapshot => ReadFrom::Snapshot,
            Begin::At(behind) => ReadFrom::At(EventId::new(head.saturating_sub(behind))),
            Begin::After(behind) => ReadFrom::After(EventId::new(head.saturating_sub(behind))),
        };
        let world = &self.system.world;
        let (process, events) = if !outside {
            (up.process.clone(), log.follow(from))
        } else if world.lock().is_on_disk(Store::Primary) {
            let process = Process::beside(world.clone());
            // A fault of the disk may kill this process. Its calls then never return.
            let opened = tokio::select! {
                biased;
                () = process.death() => return Ok(()),
                opened = FileReader::open(process.clone()) => opened,
            };
            match opened {
                Ok(reader) => (process, reader.follow(from)),
                Err(error) => return ended(error, outside),
            }
        } else {
            let process = Process::new(world.clone(), 1_000);
            (process.clone(), ModelPrimary::new(process, Store::Primary).follow(from))
        };
        let reader = process.held.reader();
        self.held = Some(Kept { events, from, last: None, process, is_outside: outside, _reader: reader });
        Ok(())
    }

    /// Takes events from the follower that is kept.
    pub(super) async fn take(&mut self, events: u8, timeout: Duration) -> Result<()> {
        let Some(mut kept) = self.held.take() else { return Ok(()) };
        if kept.process.is_dead() {
            return Ok(()); // its reader died with the process
        }
        let until = Instant::now() + timeout;
        for _ in 0..events {
            match tokio::time::timeout_at(until, kept.events.next()).await {
                Ok(Some(Ok(event))) => {
                    match kept.last {
                        Some(last) => check::seen(&self.system.world, Some(Some(last)), &event),
                        None => check::seen_first(&self.system.world, kept.from, &event),
                    }
                    kept.last = Some(fact(&event));
                }
                Ok(Some(Err(error))) => return ended(error, kept.is_outside),
                Ok(None) => {
                    self.system.world.fail("follow", "a follower ended without an error");
                    return Ok(());
                }
                Err(_) => break,
            }
        }
        self.held = Some(kept);
        Ok(())
    }
}

/// Drops the error of a reader from outside: it is no fault of the log of this process.
fn ended(error: Error, is_outside: bool) -> Result<()> {
    if is_outside { Ok(()) } else { Err(error) }
}

/// Watches the status until the log is gone, in a task of its own.
pub(super) fn watch(up: &Up) {
    let is_broken = up.process.world.is_broken(Broken::WatchStops);
    let watcher = Arc::new(Watcher::default());
    let nth = {
        let mut watchers = up.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.push(watcher.clone());
        watchers.len()
    };
    // Every second watcher sees every change.
    let pause = if nth % 2 == 0 { LOOK_EVERY } else { Duration::ZERO };
    let mut statuses = up.engine.watch();
    tokio::spawn(async move {
        while let Some(status) = statuses.next().await {
            watcher.head.store(status.head.map_or(0, |head| head.get() + 1), Ordering::Relaxed);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if is_broken {
                return;
            }
        }
    });
}
