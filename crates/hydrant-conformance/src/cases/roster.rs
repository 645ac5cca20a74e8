//! Laws 5 and 6 for the roster of a primary: checkpoints that it keeps for sinks.

use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, ErrorKind, Event};
use tokio::time::sleep;

use super::whole::{LANDING, POLLS_MAX};
use crate::law::{Expected, Verdict, broken};
use crate::log::Log;
use crate::{Trial, drop_after};

const NAME: &str = "archive";

/// An entry for `NAME` at this event.
fn entry(at: &Event) -> CheckpointEntry {
    CheckpointEntry::new(NAME, "test:archive", Checkpoint::at(at))
}

/// Whether the store keeps a roster that the kit can try.
fn is_kept(log: &Log<'_>) -> bool {
    let kept = log.roster().is_some();
    if !kept {
        log.trial.skip("the checkpoints that it keeps for sinks (`Opened::primary`, `Opened::with_roster`)");
    }
    kept
}

async fn load(log: &Log<'_>) -> Verdict<Option<CheckpointEntry>> {
    let roster = log.roster().expect("the case asked for it");
    log.trial.calling("loading the entry");
    log.trial.call(roster.load(NAME)).await?.expected(|| "the entry, or none".to_owned())
}

/// The roster must hold this entry of the name, and list it.
async fn keeps(log: &Log<'_>, expected: Option<&CheckpointEntry>) -> Verdict {
    let seen = load(log).await?;
    if seen.as_ref() != expected {
        return broken(format!("the entry {expected:?}"), format!("{seen:?}"));
    }
    let roster = log.roster().expect("the case asked for it");
    log.trial.calling("listing the entries");
    let listed = log.trial.call(roster.list()).await?.expected(|| "the list of entries".to_owned())?;
    let listed = listed.into_iter().find(|entry| entry.name == NAME);
    if listed != seen {
        return broken(format!("the list to hold what was loaded, {seen:?}"), format!("{listed:?}"));
    }
    Ok(())
}

/// Swaps, which must be Ok (`true`) or Fenced.
async fn swap(
    log: &Log<'_>,
    expected: Option<&CheckpointEntry>,
    new: Option<&CheckpointEntry>,
    is_ok: bool,
) -> Verdict {
    let roster = log.roster().expect("the case asked for it");
    log.trial.calling(format!("swapping {expected:?} for {new:?}"));
    match log.trial.call(roster.swap(NAME, expected, new)).await? {
        Ok(()) if is_ok => Ok(()),
        Err(error) if !is_ok && error.kind() == ErrorKind::Fenced => Ok(()),
        other => broken(
            format!("{} for swapping {expected:?} for {new:?}", if is_ok { "Ok" } else { "Fenced" }),
            format!("{other:?}"),
        ),
    }
}

pub(super) async fn compare_and_swap(trial: &Trial) -> Verdict {
    let events = trial.generator().log(3);
    let [first, second, third] = [entry(&events[0]), entry(&events[1]), entry(&events[2])];
    let log = trial.holding(&events).await?;
    if !is_kept(&log) {
        return log.close().await;
    }
    keeps(&log, None).await?;
    swap(&log, Some(&first), Some(&second), false).await?;
    swap(&log, None, Some(&first), true).await?;
    keeps(&log, Some(&first)).await?;
    swap(&log, None, Some(&second), false).await?;
    swap(&log, Some(&second), Some(&third), false).await?;
    swap(&log, Some(&second), None, false).await?;
    keeps(&log, Some(&first)).await?;
    swap(&log, Some(&first), Some(&second), true).await?;
    let log = log.reopen().await?;
    keeps(&log, Some(&second)).await?;
    swap(&log, Some(&second), None, true).await?;
    keeps(&log, None).await?;
    log.close().await
}

pub(super) async fn dropped_swap(trial: &Trial) -> Verdict {
    let events = trial.generator().log(2);
    let log = trial.holding(&events).await?;
    if !is_kept(&log) {
        return log.close().await;
    }
    let (old, new) = (entry(&events[0]), entry(&events[1]));
    swap(&log, None, Some(&old), true).await?;
    for polls in 0..POLLS_MAX {
        trial.step(format!("a swap dropped at poll {polls}"));
        let roster = log.roster().expect("the case asked for it");
        let swapped = drop_after(polls, roster.swap(NAME, Some(&old), Some(&new))).await;
        let seen = load(&log).await?;
        if seen.as_ref() != Some(&old) && seen.as_ref() != Some(&new) {
            return broken("the old entry or the new one, whole", format!("{seen:?}"));
        }
        // `load` reports how the swap ended, so nothing of it may land later.
        sleep(LANDING).await;
        keeps(&log, seen.as_ref()).await?;
        if let Some(swapped) = swapped {
            swapped.expected(|| "Ok for a swap that was not dropped".to_owned())?;
            return log.close().await;
        }
        if seen.as_ref() == Some(&new) {
            swap(&log, Some(&new), Some(&old), true).await?;
        }
    }
    log.close().await
}
