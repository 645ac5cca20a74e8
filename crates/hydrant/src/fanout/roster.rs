//! Enters names into the roster, and removes them.

use std::sync::Arc;

use serde_json::Value;
use tracing::Instrument as _;

use super::guard::guarded;
use super::hub::{Absent, Hub, Members, abort};
use super::options::SecondaryOptions;
use super::pump::Pump;
use super::secondary::{Secondary, Wanted};
use crate::mutants::mutant;
use crate::store::CheckpointCell;
use crate::{Checkpoint, CheckpointEntry, Error, ErrorKind, EventSink, Result, Retry};

/// How many times `attach` reads and swaps an entry before it fails. Each change that lands meanwhile costs one attempt.
const ENTER_ATTEMPTS_MAX: u32 = 4;

impl Hub {
    /// Enters the name into the roster and starts the pump. Does not wait for the sink.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        name: &str,
        sink: Arc<dyn EventSink>,
        options: SecondaryOptions,
    ) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid("a secondary needs a name"));
        }
        let mut turn = self.roster_turn.lock().await;
        *turn += 1;
        let target = options.target.as_deref().unwrap_or(name);
        let is_new = self.members.update(|members| {
            members.admits(name)?;
            let is_new = !members.absent.contains_key(name);
            // If this future is dropped or fails, the name may be in the roster, where it holds back `prune`.
            let absent = || Absent { target: target.to_owned(), position: None };
            if !mutant("attach-no-absent") {
                members.absent.entry(name.to_owned()).or_insert_with(absent);
            }
            Ok::<_, Error>(is_new)
        })?;
        let mut cell = CheckpointCell::new(self.roster.clone(), name, target);
        let may_change = self.members.read(|members| members.late_changes.contains(name));
        let mark = (may_change && !mutant("unmarked-entry")).then(|| format!("{:016x}", self.rng().u64(..)));
        if let Err(error) = self.enter(&mut cell, mark.as_deref()).await {
            if is_new && error.retry() == Retry::Safe {
                self.members.update(|members| members.absent.remove(name));
            }
            return Err(error);
        }
        let options = options.within_bounds();
        let secondary =
            Arc::new(Secondary::new(name, cell.target(), Arc::downgrade(&sink), &options, &self.signal));
        let pump = Pump::new(self.clone(), secondary.clone(), sink, options, cell);
        self.members.update(|members| {
            // If the log was closed meanwhile, nothing may be delivered any more.
            if !mutant("attach-after-close") {
                members.admits(name)?;
            }
            members.absent.remove(name);
            members.late_changes.remove(name);
            let ended = Ended(secondary.clone());
            let running = async move {
                let _ended = ended; // dropped after the pump, which holds the sink
                pump.run().await;
            };
            let task = tokio::spawn(running.instrument(tracing::info_span!("secondary", name)));
            secondary.abort.get_or_init(|| task.abort_handle());
            members.attached.insert(name.to_owned(), secondary);
            Ok(())
        })
    }

    /// Creates the entry if there is none, or marks it.
    async fn enter(&self, cell: &mut CheckpointCell, mark: Option<&str>) -> Result<()> {
        let entering = guarded("the roster", self.settings.call_timeout, || async {
            for _ in 1..ENTER_ATTEMPTS_MAX {
                match enter_once(cell, mark).await {
                    // A call that failed or was dropped earlier has changed the entry meanwhile.
                    Err(error) if error.kind() == ErrorKind::Fenced => {}
                    entered => return entered,
                }
            }
            enter_once(cell, mark).await
        });
        entering.await.map_err(|error| match error.kind() {
            ErrorKind::Invalid => {
                let message = format!(
                    "the secondary belongs to another target; detach it first, or use another name: {}",
                    error.message()
                );
                Error::invalid(message).at_target(cell.name())
            }
            _ => error,
        })
    }

    /// Ends the pump and removes the name from the roster. A separate task does it, so a dropped caller leaves no
    /// secondary half removed.
    pub(crate) async fn detach(self: &Arc<Self>, name: &str) -> Result<()> {
        let (hub, name) = (self.clone(), name.to_owned());
        let removing = tokio::spawn(async move { hub.remove(&name).await });
        if mutant("detach-without-waiting") {
            return Ok(());
        }
        removing.await.unwrap_or_else(|cause| {
            let message = "the task that detaches ended before it was done; detach again";
            Err(Error::new(ErrorKind::Bug, Retry::AfterCheckpoint, message).because(cause))
        })
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let mut turn = self.roster_turn.lock().await;
        *turn += 1;
        let attached = self.members.update(|members| {
            let secondary = members.attached.remove(name)?;
            // As long as the name is in the roster, it holds back `prune`.
            let absent =
                Absent { target: secondary.target.clone(), position: secondary.position().flatten() };
            if !mutant("failed-detach-hidden") {
                members.absent.insert(name.to_owned(), absent);
            }
            members.detached.retain(|detached| !detached.has_ended());
            members.detached.push(secondary.clone());
            members.late_changes.insert(name.to_owned());
            Some(secondary)
        });
        if let Some(secondary) = &attached {
            self.end(secondary).await;
        }
        let left = guarded("the roster", self.settings.call_timeout, || self.leave(name)).await;
        self.members.update(|members| match left {
            Ok(was_there) => {
                // An `attach` whose outcome is unknown may have left no entry. If it creates one later, `prune` shows the
                // name.
                let was_shown = members.absent.remove(name).is_some();
                let message = || format!("no secondary `{name}` is in the roster");
                if was_there || was_shown { Ok(()) } else { Err(Error::invalid(message())) }
            }
            Err(error) => {
                members.late_changes.insert(name.to_owned());
                Err(error)
            }
        })
    }

    /// Lists the roster, and adds to the status the names that it does not show. A call that failed, or another process,
    /// entered them.
    ///
    /// # Cancel safety
    /// Reads only.
    pub(crate) async fn list_roster(&self) -> Result<Vec<CheckpointEntry>> {
        let turns = || self.roster_turn.try_lock().ok();
        let before = turns().map(|turn| *turn);
        let entries = guarded("the roster", self.settings.call_timeout, || self.roster.list()).await?;
        // If an `attach` or a `detach` ran meanwhile, the list may be old. The next call adds the missing names.
        if let Some(turn) = turns().filter(|turn| Some(**turn) == before && !mutant("late-attach-hidden")) {
            self.members.update(|members| {
                for entry in &entries {
                    if !members.attached.contains_key(&entry.name) {
                        members.absent.insert(entry.name.clone(), entry.clone().into());
                    }
                }
            });
            drop(turn);
        }
        Ok(entries)
    }

    /// Removes the entry. Returns whether there was one.
    async fn leave(&self, name: &str) -> Result<bool> {
        let was_there = self.roster.load(name).await?.is_some();
        let mut cell = CheckpointCell::new(self.roster.clone(), name, "");
        match cell.remove().await {
            // The last record of the pump that ended landed meanwhile.
            Err(error) if error.kind() == ErrorKind::Fenced => cell.remove().await?,
            removed => removed?,
        }
        Ok(was_there)
    }

    /// Ends a pump for good.
    async fn end(&self, secondary: &Secondary) {
        secondary.wanted.send_replace(Wanted::Remove);
        let ended = self.signal.until(|| secondary.has_ended());
        if tokio::time::timeout(self.settings.call_timeout, ended).await.is_err() {
            tracing::error!(secondary = secondary.name, "the sink blocks its thread: its task still runs");
            abort(&secondary.abort);
        }
    }
}

impl Members {
    fn admits(&self, name: &str) -> Result<()> {
        if self.is_closing {
            return Err(Error::closed("the log was closed; open it again to attach"));
        }
        if self.attached.contains_key(name) {
            return Err(Error::invalid(format!("a secondary `{name}` is attached already; detach it first")));
        }
        Ok(())
    }
}

/// Creates the entry, with an empty checkpoint, if there is none: a sink that was never reached needs everything.
///
/// A `mark` is kept beside the checkpoint. A swap that expects an entry without this mark then fails, however late it
/// lands.
async fn enter_once(cell: &mut CheckpointCell, mark: Option<&str>) -> Result<()> {
    let (checkpoint, beside) = match (cell.load().await?, mark) {
        (Some(_), None) => return Ok(()),
        (Some(entry), Some(_)) => (entry.checkpoint, entry.beside.clone()),
        (None, _) => (Checkpoint::Empty, None),
    };
    let marked = mark.map(|mark| {
        let mut beside = beside.and_then(|beside| beside.as_object().cloned()).unwrap_or_default();
        beside.insert("attached".to_owned(), mark.into());
        Value::Object(beside)
    });
    cell.swap(checkpoint, marked).await
}

/// Marks a secondary as ended when its task ends, also by a panic or an abort.
struct Ended(Arc<Secondary>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended();
    }
}
