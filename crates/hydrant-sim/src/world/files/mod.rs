//! Logs in files on a simulated disk: what the disk really holds, compared with what was promised.
//!
//! Each time the disk has changed, an `Oracle` reads it, and the log of the store in the world becomes
//! what the files hold. So all checkers of the world judge files as they judge models.

mod damage;
mod oracle;
mod primary;
mod reader;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use hydrant::{Event, EventId};
use hydrant_file::sim::{Fault, SimDisk, When};
use hydrant_file::{FileSourceOptions, FileStoreOptions, Fsync};
use tokio::time::Instant;

use self::damage::Damaged;
use self::oracle::{Content, Oracle};
pub use self::primary::FileLog;
pub use self::reader::{FileReader, verify};
use super::State;
use super::bell::Bell;
use super::truth::{self, Fact};
use crate::plan::{DiskEffect, FilesConfig, Moment, Plan, Store};

/// Where the log of the primary is.
pub const DIR: &str = "/log";
/// A log of another writer.
pub const OTHER: &str = "/other";
const BACKUP: &str = "/backup";

/// What the world knows of its disk.
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub struct Files {
    /// The machine's disk; another one after each power cut.
    pub disk: SimDisk,
    pub config: FilesConfig,
    seed: u64,
    accepts_ms: Option<u64>,
    version: u64,
    steps: usize,
    shadows: BTreeMap<Store, Shadow>,
    /// How many times each fault of the disk struck, by file and effect.
    pub struck: BTreeMap<(&'static str, &'static str), u64>,
    pub damage: Option<Damaged>,
    /// Whether any damage was done in this run.
    pub was_damaged: bool,
    /// A sealed segment went missing in this run.
    pub misses_segment: bool,
    /// `state` is another file than the one that the record in `lock` names, until a writer opens the log.
    is_replaced: bool,
    /// A fault met the file by which readers in other processes know how far they may read.
    pub lock_failed: bool,
    /// A power cut may have reverted the record in `lock`, and no writer has written one since. Between a writer's lock and
    /// its next step, which marks the record, a reader takes the old record for one of this writer, and ends too early.
    record_is_old: bool,
    /// A writer took the lock since the last power cut.
    lock_was_taken: bool,
    /// A read ended too early because of such a record, so the log was shown as shorter than it is.
    pub ended_early: bool,
    has_backup: bool,
    /// How often the primary could not be opened since it was open last. A sink that opens says nothing of the primary.
    failed_opens: u32,
    /// Ring when a prune of the primary begins, and when the program begins to open it.
    prunes: Bell,
    openings: Bell,
}

/// What was promised of one log.
struct Shadow {
    dir: PathBuf,
    oracle: Oracle,
    /// The event that was committed last under each id.
    ids: BTreeMap<EventId, Fact>,
    /// Up to here, pruning was asked for.
    prune_asked: Option<EventId>,
    /// The newest event that an append has acknowledged as durable.
    acknowledged: Option<EventId>,
    /// The newest event that an append or a checkpoint of the writer has shown as durable since the last damage.
    shown: Option<EventId>,
}

impl Files {
    pub fn new(plan: &Plan) -> Option<Self> {
        let config = plan.config.files.clone()?;
        let disk = SimDisk::new(Path::new(DIR));
        for fault in &plan.disk_faults {
            let effect = match fault.effect {
                DiskEffect::PowerCut => Fault::PowerCut,
                DiskEffect::Kill => Fault::Kill,
                DiskEffect::Error => Fault::Error(std::io::ErrorKind::Other),
                DiskEffect::Full => Fault::Error(std::io::ErrorKind::StorageFull),
                DiskEffect::Short => Fault::Short,
            };
            disk.fail(When::Nth(fault.at.clone(), fault.nth), effect);
        }
        let mut shadows = BTreeMap::from([(Store::Primary, Shadow::new(PathBuf::from(DIR)))]);
        for (sink, index) in plan.config.sinks.iter().zip(0..) {
            if sink.on_disk {
                shadows.insert(Store::Sink(index), Shadow::new(PathBuf::from(format!("/sink{index}"))));
            }
        }
        Some(Self {
            disk,
            config,
            seed: plan.seed,
            accepts_ms: plan.config.accepts_ms,
            version: 0,
            steps: 0,
            shadows,
            struck: BTreeMap::new(),
            damage: None,
            was_damaged: false,
            misses_segment: false,
            is_replaced: false,
            lock_failed: false,
            record_is_old: false,
            lock_was_taken: false,
            ended_early: false,
            has_backup: false,
            failed_opens: 0,
            prunes: Bell::default(),
            openings: Bell::default(),
        })
    }

    /// Makes the disk as small and as slow as the plan says.
    pub fn begin(&mut self) {
        let used: usize = self.disk.files().values().map(Vec::len).sum();
        self.disk.set_capacity(self.config.capacity.map(|bytes| used + bytes));
        self.steps = self.disk.steps().len();
        self.disk.set_pause((self.config.pause_ms > 0).then(|| Duration::from_millis(self.config.pause_ms)));
    }

    /// A handle of a new process.
    pub fn process(&self, is_writer: bool) -> SimDisk {
        let disk = self.disk.process();
        let is_stepped = if is_writer { self.config.writer_stepped } else { self.config.readers_stepped };
        if is_stepped {
            disk.set_stepped(self.seed);
        }
        disk
    }

    pub fn has(&self, store: Store) -> bool {
        self.shadows.contains_key(&store)
    }

    pub fn dir(&self, store: Store) -> PathBuf {
        self.shadows[&store].dir.clone()
    }

    pub fn options(&self, store: Store) -> FileStoreOptions {
        let fsync = match self.accepts_ms.filter(|_| store == Store::Primary) {
            Some(ms) => Fsync::Interval(Duration::from_millis(ms)),
            None => Fsync::Always,
        };
        FileStoreOptions::default()
            .with_fsync(fsync)
            .with_preallocate_bytes(self.config.preallocate_bytes)
            .with_compress(self.config.compress)
            .with_commit_bytes_max(self.config.commit_bytes)
    }

    pub fn source_options(&self) -> FileSourceOptions {
        FileSourceOptions::default().with_poll_interval(Duration::from_millis(self.config.poll_ms))
    }

    /// The power goes, and comes back.
    fn power_cut(&mut self, crashes: u32) {
        let mut random = Rng::with_seed(self.seed ^ (u64::from(crashes) << 32));
        self.disk = self.disk.reboot(&mut random);
        (self.steps, self.record_is_old, self.lock_was_taken) = (0, true, false);
        if self.accepts_ms.is_some() {
            self.shadows.values_mut().for_each(|shadow| shadow.acknowledged = None);
        }
    }

    /// The bell that rings when the program begins something.
    pub fn begins(&self, moment: Moment) -> &Bell {
        match moment {
            Moment::Prune => &self.prunes,
            Moment::Opening => &self.openings,
        }
    }

    /// How long a follower may wait for an event that is gone: until each of its looks has found no record of the writer,
    /// and then a log that is too short. Each look takes turns of the disk, and steps.
    pub fn silence_max(&self) -> Duration {
        const LOOKS_MAX: u32 = 530;
        const STEPS: Duration = Duration::from_millis(25);
        let look = Duration::from_millis(self.config.poll_ms + 2 * self.config.pause_ms) + STEPS;
        LOOKS_MAX * look
    }

    fn shadow(&mut self, store: Store) -> &mut Shadow {
        self.shadows.get_mut(&store).expect("asked only for stores on the disk")
    }
}

impl Shadow {
    fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            oracle: Oracle::default(),
            ids: BTreeMap::new(),
            prune_asked: None,
            acknowledged: None,
            shown: None,
        }
    }

    fn shows(&mut self, id: Option<EventId>) {
        self.shown = self.shown.max(id);
    }
}

impl State {
    /// What dies with a process. Returns whether the power fails with it.
    pub fn crash_files(&mut self, disk: &SimDisk, by_chance: bool) -> bool {
        let crashes = self.crashes;
        let Some(files) = &mut self.files else { return by_chance };
        let was_cut = disk.is_off();
        // The power came back already: another process of the machine has died with it before.
        let is_late = was_cut && !files.disk.is_off();
        let power = !is_late && (by_chance || was_cut);
        if power {
            files.power_cut(crashes);
        }
        power
    }

    /// The disk is well from now on.
    pub fn heal_files(&mut self) {
        if let Some(files) = &mut self.files {
            files.disk.heal();
            files.disk.set_capacity(None);
            files.disk.set_pause(None);
        }
        self.operate_on_files(None);
    }

    pub fn is_on_disk(&self, store: Store) -> bool {
        self.files.as_ref().is_some_and(|files| files.has(store))
    }

    /// Takes over what the files hold, if the disk has changed.
    pub fn look_at_files(&mut self) {
        let Some(mut files) = self.files.take() else { return };
        if files.version != files.disk.version() {
            files.version = files.disk.version();
            self.count_struck(&mut files);
            for (store, shadow) in &mut files.shadows {
                let content = shadow.oracle.look(&files.disk, &shadow.dir);
                let has_excuse = files.was_damaged && *store == Store::Primary;
                self.was_damaged = files.was_damaged;
                self.take_over(*store, shadow, content, has_excuse);
            }
        }
        self.files = Some(files);
    }

    fn count_struck(&mut self, files: &mut Files) {
        if self.traced || files.record_is_old {
            for step in files.disk.steps_from(files.steps) {
                self.note(|| format!("     disk: {step}"));
                files.steps += 1;
                files.record_is_old &= !files.lock_was_taken;
                files.lock_was_taken |= step.starts_with("lock /log/lock");
            }
        }
        for (what, fault) in files.disk.take_struck() {
            self.note(|| format!("**   disk: {what}: {fault:?}"));
            files.lock_failed |= what.contains("/lock");
            let effect = match fault {
                Fault::PowerCut => "power-cut",
                Fault::Kill => "kill",
                Fault::Error(std::io::ErrorKind::StorageFull) => "ENOSPC",
                Fault::Error(_) => "EIO",
                Fault::Short => "short",
            };
            let row = match what.split(' ').next().unwrap_or_default() {
                "write" => "disk write",
                "sync" => "disk sync",
                "sync_dir" => "disk sync dir",
                "link" | "rename" | "remove" | "create" => "disk name",
                "truncate" => "disk truncate",
                "lock" => "disk lock",
                _ => "disk look",
            };
            *files.struck.entry((row, effect)).or_default() += 1;
            for name in self.names_under_way() {
                *self.covered.entry((name, effect)).or_default() += 1;
            }
        }
    }

    /// Makes the log of the world what the files hold, and checks what has gone.
    fn take_over(&mut self, store: Store, shadow: &mut Shadow, content: Content, has_excuse: bool) {
        let old = std::mem::take(&mut self.log(store).events);
        let held_before = self.log(store).durable;
        let facts = |events: &[Event]| events.iter().map(truth::fact).collect::<Vec<_>>();
        let (was, is) =
            (facts(&old), content.events.iter().map(|held| truth::fact(&held.event)).collect::<Vec<_>>());
        let floor = content.events.first().map(|held| held.event.id());
        let is_pruned = |event: &Event| Some(event.id()) < floor && Some(event.id()) <= shadow.prune_asked;
        if !is.starts_with(&was) {
            let kept: std::collections::BTreeSet<Fact> = is.iter().copied().collect();
            let gone = old.iter().enumerate().filter(|(_, event)| !kept.contains(&truth::fact(event)));
            let gone: Vec<(usize, Event)> = gone.map(|(at, event)| (at, event.clone())).collect();
            for (at, event) in gone.iter().filter(|(_, event)| !is_pruned(event)) {
                self.vanish(store, event, *at < held_before, has_excuse);
            }
        }
        let durable = content.events.iter().take_while(|held| held.is_durable).count();
        let log = self.log(store);
        (log.after, log.durable) = (content.after, 0);
        log.events = content.events.into_iter().map(|held| held.event).collect();
        let common = was.iter().zip(&is).take_while(|(was, is)| was == is).count();
        for at in common..is.len() {
            self.appear(store, shadow, at);
        }
        if let Store::Sink(sink) = store {
            super::sink::check_lineage(self, store, sink, is.len() - common);
        }
        if !has_excuse
            && floor > old.first().map(Event::id)
            && !old.is_empty()
            && self.log(store).after.is_some()
        {
            super::primary::check_floor(self, store);
        }
        let log = self.log(store);
        log.durable = durable;
        let now_durable: Vec<Event> = log.events[held_before.min(common).min(durable)..durable].to_vec();
        if durable != held_before || is != was {
            log.changed.ring();
        }
        for event in &now_durable {
            match store {
                Store::Sink(sink) => drop(self.sinks[usize::from(sink)].held.insert(truth::fact(event))),
                _ => self.truth.sync(event),
            }
        }
        if store == Store::Primary {
            self.durable_max = self.durable_max.max(now_durable.last().map(Event::id));
        }
    }

    fn vanish(&mut self, store: Store, event: &Event, was_durable: bool, has_excuse: bool) {
        let fact = truth::fact(event);
        self.note(|| format!("     {store:?}: event {} (n={fact}) is gone", event.id()));
        if was_durable && !has_excuse {
            let message =
                format!("{store:?}: event {} (n={fact}) was durable, and is gone from the files", event.id());
            self.fail("durable", message);
        }
        if store != Store::Primary {
            return;
        }
        self.gone.insert(fact, Instant::now());
        if was_durable || self.truth.acknowledged.contains(&fact) {
            self.lost_head = Some((event.id(), fact));
            self.truth.lose(event);
        } else {
            self.truth.void(event);
        }
    }

    fn appear(&mut self, store: Store, shadow: &mut Shadow, at: usize) {
        let log = self.log(store);
        let event = log.events[at].clone();
        let (fact, after) = (truth::fact(&event), log.after);
        let before = at.checked_sub(1).map(|before| truth::fact(&log.events[before]));
        if !matches!(store, Store::Sink(_)) {
            self.gone.remove(&fact);
            let lost = self.lost_head.filter(|(id, _)| Some(*id) == after).map(|(_, fact)| fact);
            let parent = before.or_else(|| after.and_then(|after| shadow.ids.get(&after).copied())).or(lost);
            let parent = truth::parent_in_other_log(fact).unwrap_or(parent);
            self.truth.join(fact, before, parent);
            // A segment that was pruned may come back with the power; one that is missing is not the truth.
            let is_same = self.truth.parent(fact, |_| true) == parent;
            if self.truth.is_committed(fact) && (is_same || self.was_damaged) {
                return;
            }
            if let Err(twice) = self.truth.commit(&event, parent) {
                self.fail("once", twice);
            }
            shadow.ids.insert(event.id(), fact);
        }
    }
}
