//! Reads of a file log, in its own process and in others, and what they must satisfy.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hydrant::{Event, EventId, EventSource, EventStream, ReadFrom, Result};
use hydrant_file::FileSource;
use hydrant_file::sim::SimDisk;

use super::primary::survive;
use super::{DIR, Files};
use crate::plan::{Call, Effect, Site, Store, Topology};
use crate::world::process::{denied, refused, unknown};
use crate::world::{Process, State, World, truth};

/// Which handle reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of the process that writes.
    OfWriter,
    /// One of another process.
    Beside,
}

/// A reader in a process that does not write: the source of a relay, or another program.
#[derive(Clone)]
pub struct FileReader {
    process: Arc<Process>,
    inner: FileSource,
}

impl FileReader {
    /// Opens the log of the primary for reading.
    ///
    /// # Errors
    /// What opening meets.
    pub async fn open(process: Arc<Process>) -> Result<Self> {
        process.alive().await;
        let disk = process.disk().clone();
        let options = process.world.lock().files.as_ref().expect("the plan has a disk").source_options();
        let opened = FileSource::open_on(Arc::new(disk), DIR.as_ref(), options).await;
        survive(&process).await;
        Ok(Self { process, inner: opened? })
    }

    /// The last event that a read would yield now.
    ///
    /// # Errors
    /// What the files give.
    pub async fn checkpoint(&self) -> Result<()> {
        let checkpoint = self.inner.checkpoint().await;
        survive(&self.process).await;
        self.process.world.with(|state| match &checkpoint {
            Ok(checkpoint) => state.check_checkpoint(Store::Primary, checkpoint),
            Err(error) => state.judge_error(Store::Primary, "a checkpoint", None, error),
        });
        checkpoint.map(drop)
    }
}

impl EventSource for FileReader {
    fn read(&self, from: ReadFrom) -> EventStream {
        let (inner, site) = (self.inner.clone(), Site { store: Store::Primary, call: Call::Read });
        watched(self.process.clone(), site, from, Kind::Beside, move || inner.read(from))
    }

    fn follow(&self, from: ReadFrom) -> EventStream {
        let (inner, site) = (self.inner.clone(), Site { store: Store::Primary, call: Call::Read });
        watched(self.process.clone(), site, from, Kind::Beside, move || inner.follow(from))
    }
}

/// One read under way.
struct Reading {
    process: Arc<Process>,
    site: Site,
    kind: Kind,
    events: EventStream,
    position: Option<EventId>,
    before: Option<truth::Fact>,
    /// The event that was acknowledged last when the read began.
    expected: Option<EventId>,
    /// Until a writer publishes, this read may take an old record in `lock` for one of the writer that holds the lock.
    may_meet_old_record: bool,
    /// A fault that strikes after so many events.
    fault: Option<(u32, Effect)>,
}

/// Reads with the faults of the plan, and checks each event, each error, and the end.
pub(super) fn watched(
    process: Arc<Process>,
    site: Site,
    from: ReadFrom,
    kind: Kind,
    open: impl FnOnce() -> EventStream + Send + 'static,
) -> EventStream {
    let begin = async move {
        process.alive().await;
        let fault = process.world.with(|state| {
            if process.is_beside() {
                return None; // the faults of the plan are for the program
            }
            let (nth, effect) = state.enter(site, None);
            state.note(|| match effect {
                Some(effect) => format!("**   {site} #{nth} {from:?}: {effect:?}"),
                None => format!("     {site} #{nth} {from:?}"),
            });
            effect.map(|effect| (nth % 4, effect))
        });
        if let Some((_, Effect::Crash | Effect::CrashAfter)) = fault {
            process.kill();
            pending::<()>().await;
        }
        let (expected, may_meet_old_record) = process.world.with(|state| match &mut state.files {
            Some(files) => (files.expected(site.store, kind), kind == Kind::Beside && files.record_is_old),
            None => (None, false),
        });
        let position = match from.exclusive() {
            ReadFrom::After(id) => Some(id),
            _ => None,
        };
        Reading {
            process,
            site,
            kind,
            events: open(),
            position,
            before: None,
            expected,
            may_meet_old_record,
            fault,
        }
    };
    let events = stream::once(begin).flat_map(|reading| {
        stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Some(Ok(event)) => Some((Ok(event), Some(reading))),
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
    });
    Box::pin(events)
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Event>> {
        if let Some((after, effect)) = &mut self.fault {
            if *after > 0 {
                *after -= 1;
            } else {
                let effect = *effect;
                self.fault = None;
                match effect {
                    Effect::End => return None,
                    Effect::Hang | Effect::HangAfter => {
                        self.process.world.hang().await;
                        return Some(Err(unknown()));
                    }
                    Effect::Slow { ms } | Effect::SlowAfter { ms } | Effect::Late { ms } => {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                    }
                    Effect::Panic | Effect::PanicAfter => panic!("sim: a read panics"),
                    Effect::Deny => return Some(Err(denied())),
                    Effect::Refuse => return Some(Err(refused())),
                    _ => return Some(Err(unknown())),
                }
            }
        }
        let next = self.events.next().await;
        survive(&self.process).await;
        let (store, position, before) = (self.site.store, self.position, self.before);
        let expected = self.expected.take_if(|_| next.is_none());
        let may_meet_old_record = self.may_meet_old_record;
        self.process.world.with(|state| match &next {
            Some(Ok(event)) => state.judge_event(store, before, event),
            Some(Err(error)) => state.judge_error(store, "a read", position, error),
            // Damage may have come while it read.
            None if position < expected
                && !(state.was_damaged && store == Store::Primary)
                && !(may_meet_old_record && state.files.as_ref().is_some_and(|files| files.lock_was_taken)) =>
            {
                let message = format!("{store:?}: a read ends at {position:?}, and {expected:?} was acknowledged before it began");
                state.fail("read", message);
            }
            None => {
                if let Some(files) = &mut state.files {
                    files.ended_early |= may_meet_old_record && position < expected;
                }
            }
        });
        if let Some(Ok(event)) = &next {
            (self.position, self.before) = (Some(event.id()), Some(truth::fact(event)));
        } else if self.kind == Kind::Beside {
            self.process.world.note(|| format!("     a read beside ended at {:?}: {next:?}", self.position));
        }
        next
    }
}

impl Files {
    /// What a read that begins now must come to, unless it fails.
    fn expected(&mut self, store: Store, kind: Kind) -> Option<EventId> {
        if kind == Kind::Beside && (self.lock_failed || self.config.capacity.is_some()) {
            return None;
        }
        self.shadow(store).acknowledged
    }
}

impl State {
    /// Returns the event that a read of the primary must reach if it begins now.
    pub fn head_of_a_reader(&mut self) -> Option<EventId> {
        let is_relay = self.config.topology == Topology::Relay;
        // No read of files counts the segment of a rotation that no writer has finished.
        match &mut self.files {
            Some(files) if is_relay => files.expected(Store::Primary, Kind::Beside),
            Some(files) => files.shadow(Store::Primary).shown,
            None => self.log(Store::Primary).durable_id(),
        }
    }

    /// Each event that is read is durable, is the one that was written, and comes behind the one read before.
    fn judge_event(&mut self, store: Store, before: Option<truth::Fact>, event: &Event) {
        if store != Store::Primary {
            return;
        }
        let fact = truth::fact(event);
        if !self.truth.is_durable(fact) {
            self.fail("early", format!("event {} (n={fact}) is read before it is durable", event.id()));
        }
        let held = self.log(store).event(event.id());
        if held.is_some_and(|held| truth::fact(held) == fact && held != event) {
            self.fail(
                "read",
                format!("event {} (n={fact}) is read as another one than was written", event.id()),
            );
        }
        let parent = self.truth.parent(fact, |_| true);
        if let Some(before) = before
            && parent != Some(before)
            && !(self.is_overwritten && self.truth.have_one_id(Some(before), parent))
        {
            self.fail(
                "read",
                format!("n={fact} is read behind n={before}, and was written behind n={parent:?}"),
            );
        }
    }
}

/// Verifies the log of the primary from another process, and judges what it finds.
pub async fn verify(world: &World, disk: &SimDisk) {
    let (options, is_sound, damage) = {
        let state = world.lock();
        let files = state.files.as_ref().expect("the plan has a disk");
        (files.source_options(), !files.was_damaged, files.damage.as_ref().map(|damage| damage.how))
    };
    let found = hydrant_file::sim::verify_beside(disk, DIR.as_ref(), &options).await;
    if disk.has_ended() {
        return;
    }
    world.with(|state| {
        let still = state.files.as_ref().is_some_and(|files| !files.was_damaged);
        state.note(|| format!("     verify: {found:?}"));
        let flaws = match &found {
            Ok(findings) => {
                findings.iter().filter(|finding| !finding.is_torn_tail).map(ToString::to_string).collect()
            }
            Err(error) => {
                state.judge_error(Store::Primary, "verify", None, error);
                Vec::new()
            }
        };
        if let (true, true, Some(flaw)) = (is_sound, still, flaws.first()) {
            state.fail("verify", format!("verify finds a flaw, and nothing was damaged: {flaw}"));
        }
        let is_same =
            state.files.as_ref().and_then(|files| files.damage.as_ref()).map(|damage| damage.how) == damage;
        let is_silent = matches!(&found, Ok(findings) if findings.is_empty());
        if let (true, true, Some(damage)) = (is_same, is_silent, damage)
            && state.files.as_ref().is_some_and(Files::is_visible)
        {
            state.fail("verify", format!("verify finds nothing after {damage:?}"));
        }
    });
}
