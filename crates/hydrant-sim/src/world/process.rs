//! A process of the run. When it is dead, each of its calls hangs forever, as a zombie's would.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use hydrant::{Error, ErrorKind, Result, Retry};
use hydrant_file::sim::SimDisk;

use super::World;
use super::bell::Bell;
use super::held::Held;
use super::state::State;
use crate::plan::{Call, Effect, Site};

/// The token that every handle of a process holds.
pub struct Process {
    pub world: Arc<World>,
    pub number: u32,
    dead: Bell,
    disk: Option<SimDisk>,
    /// It is no process of the program under test: its death takes nothing with it.
    is_beside: bool,
    /// What its readers hold in memory.
    pub held: Arc<Held>,
}

/// The number of processes beside the program under test.
const BESIDE: u32 = 1_000;

impl Process {
    pub fn new(world: Arc<World>, number: u32) -> Arc<Self> {
        Self::with(world, number, true, false)
    }

    /// A reader in a process of its own.
    pub fn beside(world: Arc<World>) -> Arc<Self> {
        Self::with(world, BESIDE, false, true)
    }

    /// A writer in a process of its own.
    pub fn beside_as_writer(world: Arc<World>) -> Arc<Self> {
        Self::with(world, BESIDE, true, true)
    }

    fn with(world: Arc<World>, number: u32, is_writer: bool, is_beside: bool) -> Arc<Self> {
        let disk = world.lock().files.as_ref().map(|files| files.process(is_writer));
        let process =
            Arc::new(Self { world, number, dead: Bell::default(), held: Arc::default(), disk, is_beside });
        if let Some(disk) = process.disk.clone() {
            let process = Arc::downgrade(&process);
            tokio::spawn(async move {
                disk.ended().await;
                if let Some(process) = process.upgrade() {
                    process.kill();
                }
            });
        }
        process
    }

    /// Whether it is another program's.
    pub fn is_beside(&self) -> bool {
        self.is_beside
    }

    /// The disk of a process that has files.
    pub fn disk(&self) -> &SimDisk {
        self.disk.as_ref().expect("the plan has a disk")
    }

    pub fn is_dead(&self) -> bool {
        self.dead.rung() > 0
    }

    /// Waits until the process has died.
    pub async fn death(&self) {
        self.dead.after(0).await;
    }

    /// Kills the process. Effects that were under way take place now; with the power, what is not durable goes.
    pub fn kill(&self) {
        if !self.is_dead() {
            self.dead.ring();
            if let Some(disk) = &self.disk {
                disk.kill();
            }
            if self.is_beside {
                return;
            }
            let seed = self.world.seed;
            self.world.with(|state| {
                let power = (seed ^ u64::from(state.crashes)) & 1 == 0;
                let power = self.disk.as_ref().map_or(power, |disk| state.crash_files(disk, power));
                state.note(|| {
                    format!("## process {} dies{}", self.number, if power { ", the power fails" } else { "" })
                });
                state.crash(power);
            });
        }
    }

    /// Hangs forever if the process is dead.
    pub async fn alive(&self) {
        if self.is_dead() {
            pending::<()>().await;
        }
    }

    /// Makes one call into the world: counts it, injects its fault, and applies its effect.
    pub async fn call<T: Send + 'static>(
        &self,
        site: Site,
        apply: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.alive().await;
        let (nth, effect) = self.world.with(|state| {
            state.land(|_, store| store == site.store);
            let entered = state.enter(site, Some(&self.held));
            if let (nth, Some(effect)) = entered {
                state.note(|| format!("**   {site} #{nth}: {effect:?}"));
            }
            entered
        });
        self.latency(site, nth).await;
        self.alive().await;
        let Some(effect) = effect else { return self.apply(site, nth, apply).await };
        match effect {
            Effect::Refuse => Err(refused()),
            Effect::RefuseLate { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Err(refused())
            }
            Effect::Partial => {
                self.world.lock().partial = true;
                self.apply(site, nth, apply).await
            }
            Effect::Deny => Err(denied()),
            Effect::Fail | Effect::End => Err(unknown()),
            Effect::FailAfter => {
                drop(self.apply(site, nth, apply).await);
                Err(unknown())
            }
            Effect::Hang => {
                self.world.hang().await;
                Err(unknown())
            }
            Effect::HangAfter => {
                drop(self.apply(site, nth, apply).await);
                self.world.hang().await;
                Err(unknown())
            }
            Effect::Slow { ms } => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.apply(site, nth, apply).await
            }
            Effect::SlowAfter { ms } => {
                let applied = self.apply(site, nth, apply).await;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.alive().await;
                applied
            }
            Effect::Late { ms } => {
                self.late(site, ms, apply);
                Err(unknown())
            }
            Effect::Panic => panic!("sim: {site} panics"),
            Effect::PanicAfter => {
                drop(self.apply(site, nth, apply).await);
                panic!("sim: {site} panics after its effect")
            }
            Effect::Crash => {
                self.kill();
                pending().await
            }
            Effect::CrashAfter => {
                drop(self.apply(site, nth, apply).await);
                self.kill();
                pending().await
            }
            // The connection breaks, and the copy takes writes of the old writer.
            Effect::Fork { events } if events % 2 == 0 && site.call == Call::Append => {
                self.world.with(|state| {
                    let fence = state.log(site.store).fence;
                    state.shift(site, effect);
                    state.log(site.store).fence = fence;
                });
                Err(unknown())
            }
            Effect::Lose { .. } | Effect::Fork { .. } | Effect::Restore | Effect::Forget => {
                self.world.with(|state| state.shift(site, effect));
                self.apply(site, nth, apply).await
            }
        }
    }

    async fn apply<T>(&self, site: Site, nth: u32, apply: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.alive().await;
        self.world.with(|state| {
            let applied = apply(state);
            state.note(|| match &applied {
                Ok(_) => format!("     {site} #{nth}: ok"),
                Err(error) => format!("     {site} #{nth}: {error}"),
            });
            applied
        })
    }

    fn late<T>(&self, site: Site, ms: u64, apply: impl FnOnce(&mut State) -> Result<T> + Send + 'static) {
        let world = self.world.clone();
        let id = world.with(|state| state.postpone(site.store, Box::new(move |state| drop(apply(state)))));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            world.with(|state| state.land(|late, _| late == id));
        });
    }

    /// Some calls take time until the faults stop: the seed and the number of the call decide.
    async fn latency(&self, site: Site, nth: u32) {
        let percent = {
            let state = self.world.lock();
            if state.healed { 0 } else { state.config.latency }
        };
        let mut rng = fastrand::Rng::with_seed(self.world.seed ^ (u64::from(nth) << 32) ^ hash(site));
        match rng.u8(..100) {
            chance if chance < percent / 2 => tokio::task::yield_now().await,
            chance if chance < percent => tokio::time::sleep(Duration::from_millis(rng.u64(1..8))).await,
            _ => {}
        }
    }
}

fn hash(site: Site) -> u64 {
    site.to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub fn refused() -> Error {
    Error::new(ErrorKind::Unavailable, Retry::Safe, "refused before anything was applied")
}

pub fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, Retry::AfterCheckpoint, "the answer was lost")
}

pub fn denied() -> Error {
    Error::new(ErrorKind::Denied, Retry::Never, "the password expired")
}
