//! A disk in memory that fails at any step, and loses its power.
//!
//! The disk is as unkind as POSIX allows. Each 512-byte block that was written since the last sync survives a power cut
//! or not, in any of its versions. So does each change of a directory, whatever came before or after it, and each new
//! directory with all that is in it. A length may
//! survive without the bytes. The seed decides. A sync that fails leaves the cache as it is and forgets that it was
//! dirty: the next sync succeeds and saves nothing.
//!
//! This file holds a process, the faults, and what is counted. [`images`]: the disk after a crash, and what is on it.
//! [`outside`]: changes that no process makes. [`calls`] and [`file`]: the system calls.

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;

use super::world::{Fault, Interrupt, Process, When, World};

mod calls;
mod file;
mod images;
mod outside;

pub use images::Shown;

/// A process's handle of a disk. Clones belong to the same process.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    process: Arc<Process>,
}

impl SimDisk {
    /// Returns an empty disk that has this directory.
    pub fn new(dir: &Path) -> Self {
        let mut world = World::default();
        world.create_dirs(dir);
        Self::of(world)
    }

    fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), process: Arc::default() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins another process on the same disk.
    #[must_use]
    pub fn process(&self) -> Self {
        Self { world: self.world.clone(), process: Arc::default() }
    }

    /// Kills the process of this handle: its locks are released, its handles fail, and it never gets another turn.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Lets other tasks run before each step and look of this process, as processes of a machine run beside each other.
    /// The seed decides how long each of them waits. In a process that is not stepped, a piece of work or a command of the
    /// writer runs as a whole.
    pub fn set_stepped(&self, seed: u64) {
        self.process.is_stepped.store(true, Ordering::SeqCst);
        self.world().pace.get_or_insert_with(|| Rng::with_seed(seed));
    }

    /// Returns whether the power is off, or the process of this handle was killed.
    pub fn has_ended(&self) -> bool {
        self.process.is_killed() || self.is_off()
    }

    /// Returns whether the power is off.
    pub fn is_off(&self) -> bool {
        self.world().is_off
    }

    /// Waits until the process of this handle is killed, or the power is cut.
    pub async fn ended(&self) {
        let power = self.world().power.clone();
        let (mut off, mut killed) = (pin!(power.notified()), pin!(self.process.ended.notified()));
        off.as_mut().enable();
        killed.as_mut().enable();
        if !self.has_ended() {
            poll_fn(|context| {
                let is_over =
                    off.as_mut().poll(context).is_ready() || killed.as_mut().poll(context).is_ready();
                if is_over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// Returns a number that changes with each step, and with each change from outside.
    pub fn version(&self) -> u64 {
        self.world().version
    }

    /// Returns the faults that struck since the last call, each with the step or look that it met.
    pub fn take_struck(&self) -> Vec<(String, Fault)> {
        std::mem::take(&mut self.world().struck)
    }

    /// Plans a fault.
    pub fn fail(&self, when: When, fault: Fault) {
        self.world().planned.push((when, fault));
    }

    /// Plans an act of another process at the moment of this number, counted from 0.
    ///
    /// The act runs inside of the call that comes to the moment, and must not wait for anything.
    pub fn interrupt_at(&self, moment: usize, act: impl FnOnce() + Send + 'static) {
        self.world().interrupt = Some(Interrupt(moment, Box::new(act)));
    }

    /// Returns how many moments there were so far: one before each look, and one before each name of a listing.
    pub fn moments(&self) -> usize {
        self.world().moments
    }

    /// Returns the planned faults that have not happened.
    pub fn planned(&self) -> Vec<(When, Fault)> {
        self.world().planned.clone()
    }

    /// Removes all planned faults. No process is stepped any more.
    pub fn heal(&self) {
        let mut world = self.world();
        (world.planned, world.interrupt, world.pace) = (Vec::new(), None, None);
    }

    /// Sets how many bytes all files together may have. Writes that need more are short and fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.world().capacity = bytes;
    }

    /// Sets how long each piece of work and each command waits for its turn. A very long pause is a disk that hangs.
    pub fn set_pause(&self, pause: Option<Duration>) {
        self.world().pause = pause;
    }

    /// Returns how many looks were made so far.
    pub fn looks(&self) -> usize {
        self.world().looks
    }

    /// Returns the steps so far, a line each.
    pub fn steps(&self) -> Vec<String> {
        self.steps_from(0)
    }

    /// Returns the steps so far without the first `from`.
    pub fn steps_from(&self, from: usize) -> Vec<String> {
        self.world().steps.get(from..).unwrap_or_default().to_vec()
    }
}
