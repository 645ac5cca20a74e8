//! Other processes on the machine of a file log: readers, a foreign writer, and what befalls the files.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, CommitPoint, ErrorKind, Event, EventSink, EventSource, ReadFrom, Result, Retry};
use tokio::time::{Instant, timeout, timeout_at};

use super::act::events_behind;
use super::{Actor, System};
use crate::check;
use crate::plan::{FileAct, ReadAt};
use crate::world::truth::fact;
use crate::world::{FileLog, FileReader, Process, State, World, files};

/// What a read from outside may take while faults strike.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an actor waits for a moment to meet.
const MOMENT_PATIENCE: Duration = Duration::from_secs(10);

impl Actor {
    /// One step of another process. It does not need the program under test.
    pub(super) async fn act_beside(&mut self, act: FileAct) {
        let world = self.system.world.clone();
        match act {
            FileAct::BackUp => return world.with(State::back_up_files),
            FileAct::Damage(how) => return world.with(|state| state.damage_files(how)),
            _ => {}
        }
        let process = self.other_process();
        let acting = async {
            match act {
                FileAct::Verify => {
                    files::verify(&world, process.disk()).await;
                    Ok(())
                }
                FileAct::Await(moment) => {
                    let bell = world.lock().files.as_ref().map(|files| files.begins(moment).clone());
                    let bell = bell.expect("the plan has a disk");
                    // Without such a moment, the next step comes late.
                    drop(timeout(MOMENT_PATIENCE, bell.after(bell.rung())).await);
                    Ok(())
                }
                FileAct::Checkpoint => FileReader::open(process.clone()).await?.checkpoint().await,
                FileAct::Read { from } => self.read_beside(&process, from).await,
                FileAct::Follow { events, ms } => self.follow_beside(&process, events, ms).await,
                FileAct::BackUp | FileAct::Damage(_) => Ok(()),
            }
        };
        let acted = tokio::select! {
            biased;
            () = process.death() => return,
            acted = timeout(PATIENCE, acting) => acted,
        };
        match acted {
            Ok(Err(error)) => world.note(|| format!("     beside: {error}")),
            Ok(Ok(())) => {}
            Err(_) => world.note(|| "     beside: no patience left".to_owned()),
        }
    }

    /// The process of this actor; a new one after the power failed.
    fn other_process(&mut self) -> Arc<Process> {
        let process = self.beside.take().filter(|process| !process.is_dead() && !process.disk().has_ended());
        let process = process.unwrap_or_else(|| Process::beside(self.system.world.clone()));
        self.beside.insert(process).clone()
    }

    async fn read_beside(&mut self, process: &Arc<Process>, from: ReadAt) -> Result<()> {
        let from = match from {
            ReadAt::Origin => ReadFrom::Origin,
            ReadAt::Snapshot => ReadFrom::Snapshot,
            ReadAt::Seen => ReadFrom::from(self.seen),
        };
        let mut events = FileReader::open(process.clone()).await?.read(from);
        let mut is_first = true;
        while let Some(event) = events.next().await {
            let event = event?;
            if is_first && from == ReadFrom::Origin {
                check_root(&self.system.world, &event);
            }
            is_first = false;
        }
        Ok(())
    }

    async fn follow_beside(&mut self, process: &Arc<Process>, events: u8, ms: u64) -> Result<()> {
        let mut follower = FileReader::open(process.clone()).await?.follow(self.seen.into());
        let mut is_known = self.seen_fact.is_none_or(|seen| self.system.world.lock().is_in_history(seen));
        let until = Instant::now() + Duration::from_millis(ms);
        let mut has_read = false;
        for _ in 0..events {
            match timeout_at(until, follower.next()).await {
                Ok(Some(Ok(event))) => {
                    check::seen(&self.system.world, is_known.then_some(self.seen_fact), &event);
                    (self.seen, self.seen_fact) = (Some(event.id()), Some(fact(&event)));
                    is_known = true;
                }
                Ok(Some(Err(error))) => {
                    if error.retry() == Retry::Never {
                        (self.seen, self.seen_fact) = (None, None);
                    }
                    return Err(error);
                }
                Ok(None) => {
                    self.system.world.fail("follow", "a follower beside the writer ended without an error");
                    return Ok(());
                }
                Err(_) => {
                    // Of what this follower has returned itself, it knows the digest.
                    check::not_silent(&self.system.world, self.seen_fact.filter(|_| has_read));
                    return Ok(());
                }
            }
            has_read = true;
        }
        Ok(())
    }
}

/// A read from the origin begins with the first event ever.
fn check_root(world: &World, event: &Event) {
    world.with(|state| {
        let parent = state.truth.parent(fact(event), |_| true);
        let was_damaged = state.files.as_ref().is_some_and(|files| files.was_damaged);
        if let Some(parent) = parent.filter(|_| !was_damaged) {
            state.fail(
                "read",
                format!("a read from the origin begins behind n={parent}, with event {}", event.id()),
            );
        }
    });
}

impl System {
    /// Another process writes to the files that the relay follows.
    pub(super) async fn append_beside(&self, facts: &[u64], bytes: u16, snapshot: bool) -> Result<()> {
        let mut writer = self.writer.lock().await;
        let process = match writer.as_ref().map(|(process, _)| process.clone()) {
            Some(process) if !process.is_dead() => process,
            _ => {
                *writer = None;
                Process::beside_as_writer(self.world.clone())
            }
        };
        let appending = async {
            if writer.is_none() {
                let log = FileLog::open(process.clone(), crate::plan::Store::Primary, None).await?;
                *writer = Some((process.clone(), log));
            }
            let Some((_, log)) = &*writer else { return Ok::<(), hydrant::Error>(()) };
            let head = log.head().await?.id();
            let events = events_behind(head, facts, bytes, false, snapshot)?;
            let deadline = Some(Instant::now() + Duration::from_secs(20));
            log.append(Batch::new(head, &events)?.with_deadline(deadline)).await?;
            check::acknowledged(&self.world, events.iter().map(fact));
            Ok(())
        };
        let appended = tokio::select! {
            biased;
            () = process.death() => None,
            appended = appending => Some(appended),
        };
        if !matches!(appended, Some(Ok(()))) {
            // Dropped or stopped: it opens its log again the next time.
            let gone = writer.take();
            let is_stopped = matches!(&appended, Some(Err(error)) if error.kind() != ErrorKind::Full);
            match gone {
                Some((process, log)) if is_stopped && !process.is_dead() => {
                    drop(timeout(Duration::from_secs(5), log.close()).await);
                }
                gone if !is_stopped => *writer = gone.filter(|(process, _)| !process.is_dead()),
                _ => {}
            }
        }
        appended.unwrap_or(Ok(()))
    }
}

/// Writes the log of another writer, which may come in the place of the one that is watched.
pub(crate) async fn write_other_log(world: &World) -> Result<()> {
    let Some((disk, options)) = world
        .lock()
        .files
        .as_ref()
        .map(|files| (files.disk.process(), files.options(crate::plan::Store::Sink(u8::MAX))))
    else {
        return Ok(());
    };
    let log = hydrant_file::FileStore::open_on(
        Arc::new(disk),
        files::OTHER.as_ref(),
        Arc::new(hydrant::MemoryCheckpoints::default()),
        options,
    )
    .await?;
    let mut head = None;
    let mut n = crate::world::truth::OTHER;
    for commit in 0..12 + world.seed % 5 * 7 {
        let facts: Vec<u64> = (0..3).map(|at| n + at).collect();
        n += 3;
        let events = events_behind(head, &facts, 20, false, commit % 9 == 5)?;
        for events in events.chunk_by(|_, next| !next.is_snapshot()) {
            log.append(Batch::new(head, events)?).await?;
            head = events.last().map(Event::id);
        }
    }
    log.close().await
}
