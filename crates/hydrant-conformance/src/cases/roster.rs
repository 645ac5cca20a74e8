//! Laws 5, 6 and 8 for checkpoints that are kept for sinks: by the roster of a primary, or a store of checkpoints.

use std::sync::Arc;

use futures_util::future::join_all;
use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Digest, Error, ErrorKind, EventId, Result};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::whole::{LANDING, POLLS_MAX};
use crate::law::{Expected, Verdict, broken};
use crate::log::Log;
use crate::{Hook, Trial, drop_after};

const NAME: &str = "archive";

/// How many runners swap at once.
const RIVALS: u64 = 4;

/// How often these runners swap.
const ROUNDS: u64 = 12;

/// An event id, with a digest that belongs to no event: a store does not look into it.
fn at(id: u64) -> Checkpoint {
    Checkpoint::At { id: EventId::new(id), digest: Digest::from([7; 16]) }
}

/// An entry for `NAME` at this event.
fn entry(id: u64) -> CheckpointEntry {
    CheckpointEntry::new(NAME, "test:archive", at(id))
}

/// Opens the log. Returns it if its store keeps checkpoints that the kit can try.
async fn opened(trial: &Trial) -> Verdict<Option<Log<'_>>> {
    let log = trial.open().await?;
    if log.roster().is_some() {
        return Ok(Some(log));
    }
    trial.skip_without(Hook::Roster);
    log.close().await?;
    Ok(None)
}

fn roster(log: &Log<'_>) -> Arc<dyn CheckpointStore> {
    log.roster().expect("`opened` asked for it")
}

async fn load(log: &Log<'_>, name: &str) -> Verdict<Option<CheckpointEntry>> {
    log.trial.calling(format!("loading the entry {name:?}"));
    log.trial.call(roster(log).load(name)).await?.expected(|| "the entry, or none".to_owned())
}

async fn list(log: &Log<'_>) -> Verdict<Vec<CheckpointEntry>> {
    log.trial.calling("listing the entries");
    log.trial.call(roster(log).list()).await?.expected(|| "the list of entries".to_owned())
}

/// Checks that the store holds this entry of `NAME`, and lists it.
async fn keeps(log: &Log<'_>, expected: Option<&CheckpointEntry>) -> Verdict {
    let seen = load(log, NAME).await?;
    if seen.as_ref() != expected {
        return broken(format!("the entry {expected:?}"), format!("{seen:?}"));
    }
    let listed = list(log).await?.into_iter().find(|entry| entry.name == NAME);
    if listed != seen {
        return broken(format!("the list to hold what was loaded, {seen:?}"), format!("{listed:?}"));
    }
    Ok(())
}

/// Swaps an entry of this name, which must be Ok or `refused` with an error of this kind.
async fn swaps(
    log: &Log<'_>,
    name: &str,
    expected: Option<&CheckpointEntry>,
    new: Option<&CheckpointEntry>,
    refused: Option<ErrorKind>,
) -> Verdict {
    log.trial.calling(format!("swapping {expected:?} for {new:?}"));
    let swapped = log.trial.call(roster(log).swap(name, expected, new)).await?;
    if swapped.as_ref().err().map(Error::kind) == refused {
        return Ok(());
    }
    let wanted = refused.map_or_else(|| "Ok".to_owned(), |kind| format!("{kind:?}"));
    broken(format!("{wanted} for swapping {expected:?} for {new:?}"), format!("{swapped:?}"))
}

/// Swaps the entry of `NAME`, which must be Ok.
async fn swap(log: &Log<'_>, expected: Option<&CheckpointEntry>, new: Option<&CheckpointEntry>) -> Verdict {
    swaps(log, NAME, expected, new, None).await
}

/// Swaps the entry of `NAME`, which must be Fenced.
async fn fenced(log: &Log<'_>, expected: Option<&CheckpointEntry>, new: Option<&CheckpointEntry>) -> Verdict {
    swaps(log, NAME, expected, new, Some(ErrorKind::Fenced)).await
}

pub(super) async fn compare_and_swap(trial: &Trial) -> Verdict {
    let [first, second, third] = [entry(1), entry(2), entry(3)];
    let Some(log) = opened(trial).await? else { return Ok(()) };
    keeps(&log, None).await?;
    swap(&log, None, None).await?;
    fenced(&log, Some(&first), Some(&second)).await?;
    swap(&log, None, Some(&first)).await?;
    keeps(&log, Some(&first)).await?;
    let other_target = CheckpointEntry::new(NAME, "test:other", first.checkpoint);
    let other_digest = Checkpoint::At { id: EventId::new(1), digest: Digest::from([8; 16]) };
    let other_digest = CheckpointEntry::new(NAME, "test:archive", other_digest);
    let empty = CheckpointEntry::new(NAME, "test:archive", Checkpoint::Empty);
    for expected in [None, Some(&second), Some(&other_target), Some(&other_digest), Some(&empty)] {
        fenced(&log, expected, Some(&third)).await?;
        fenced(&log, expected, None).await?;
    }
    let foreign = CheckpointEntry::new("other", "test:archive", at(2));
    swaps(&log, NAME, Some(&first), Some(&foreign), Some(ErrorKind::Invalid)).await?;
    keeps(&log, Some(&first)).await?;
    swap(&log, Some(&first), Some(&second)).await?;
    let log = log.reopen().await?;
    keeps(&log, Some(&second)).await?;
    // A checkpoint may also move back: the store does not compare positions.
    swap(&log, Some(&second), Some(&first)).await?;
    swap(&log, Some(&first), None).await?;
    keeps(&log, None).await?;
    log.close().await
}

pub(super) async fn entries(trial: &Trial) -> Verdict {
    let Some(log) = opened(trial).await? else { return Ok(()) };
    let long = "x".repeat(200);
    let names = ["b", "", "../up", "A", "a", "a/b %", ".x", "é'\"\\", "日本/é", long.as_str()];
    let kinds = [Checkpoint::Empty, at(0), at(u64::MAX), Checkpoint::Unknown, at(1 << 63)];
    let entry =
        |nth: usize| CheckpointEntry::new(names[nth], format!("test:{nth}"), kinds[nth % kinds.len()]);
    let mut expected: Vec<_> = (0..names.len()).map(entry).collect();
    for entry in &expected {
        swaps(&log, &entry.name, None, Some(entry), None).await?;
    }
    let log = log.reopen().await?;
    for entry in &expected {
        let seen = load(&log, &entry.name).await?;
        if seen.as_ref() != Some(entry) {
            return broken(format!("the entry {entry:?}"), format!("{seen:?}"));
        }
    }
    expected.sort_by(|one, other| one.name.cmp(&other.name));
    let gone = expected.remove(4);
    swaps(&log, &gone.name, Some(&gone), None, None).await?;
    let listed = list(&log).await?;
    if listed != expected {
        return broken(format!("the list of entries, by name: {expected:?}"), format!("{listed:?}"));
    }
    log.close().await
}

/// What is kept beside a checkpoint comes back whole, with members that this version does not know.
pub(super) async fn beside(trial: &Trial) -> Verdict {
    let Some(log) = opened(trial).await? else { return Ok(()) };
    let ours = json!({"z": [1, null, "é\u{0}"], "a": {"y": u64::MAX, "x": i64::MIN}});
    let mut newer = ours.clone();
    newer["added"] = json!({"by": ["a newer version", {}], "": ""});
    let held = entry(5).with_beside(newer.clone());
    swap(&log, None, Some(&held)).await?;
    keeps(&log, Some(&held)).await?;
    let log = log.reopen().await?;
    keeps(&log, Some(&held)).await?;
    // A save moves the checkpoint and keeps the rest.
    let moved = entry(6).with_beside(newer);
    swap(&log, Some(&held), Some(&moved)).await?;
    keeps(&log, Some(&moved)).await?;
    for other in [None, Some(Value::Null), Some(ours)] {
        let other = moved.clone().with_beside(other);
        fenced(&log, Some(&other), None).await?;
        swap(&log, Some(&moved), Some(&other)).await?;
        keeps(&log, Some(&other)).await?;
        swap(&log, Some(&other), Some(&moved)).await?;
    }
    swap(&log, Some(&moved), None).await?;
    keeps(&log, None).await?;
    log.close().await
}

/// Checks runners that swap at once, each with a handle of its own where the store allows several.
pub(super) async fn race(trial: &Trial) -> Verdict {
    let Some(log) = opened(trial).await? else { return Ok(()) };
    let mut handles = Vec::new();
    for _ in 0..RIVALS {
        trial.calling("opening the log once more");
        handles.extend(
            trial.call(trial.harness.open(&log.namespace)).await?.ok().map(|other| log.beside(other)),
        );
    }
    let mut held = None;
    for round in 0..ROUNDS {
        trial.step(format!("{RIVALS} runners that swap at once, round {round}"));
        // In the last round, all of them remove the entry.
        let new = |rival| (round + 1 < ROUNDS).then(|| entry(1 + round * RIVALS + rival));
        let swaps = (0..RIVALS).map(|rival| {
            let nth = usize::try_from(rival).unwrap_or(0);
            let (roster, held, new) = (roster(handles.get(nth).unwrap_or(&log)), held.clone(), new(rival));
            tokio::spawn(async move { roster.swap(NAME, held.as_ref(), new.as_ref()).await.map(|()| new) })
        });
        let swapped: std::result::Result<Vec<_>, _> =
            trial.timely(join_all(swaps)).await?.into_iter().collect();
        let swapped = swapped.or_else(|panic| broken("no panic", panic.to_string()))?;
        let won = swapped.iter().filter(|swapped| swapped.is_ok()).count();
        let lost = |swapped: &&Result<_>| {
            swapped.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::Fenced)
        };
        if won != 1 || swapped.iter().filter(lost).count() != swapped.len() - 1 {
            return broken("Ok for one of them and Fenced for all others", format!("{swapped:?}"));
        }
        held = swapped.into_iter().find_map(Result::ok).flatten();
        for handle in handles.iter().chain([&log]) {
            keeps(handle, held.as_ref()).await?;
        }
    }
    for handle in handles {
        handle.close().await?;
    }
    log.close().await
}

pub(super) async fn dropped_swap(trial: &Trial) -> Verdict {
    let Some(log) = opened(trial).await? else { return Ok(()) };
    let (old, new) = (entry(1), entry(2));
    swap(&log, None, Some(&old)).await?;
    for polls in 0..POLLS_MAX {
        trial.step(format!("a swap dropped at poll {polls}"));
        let roster = roster(&log);
        let swapped = drop_after(polls, roster.swap(NAME, Some(&old), Some(&new))).await;
        let seen = load(&log, NAME).await?;
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
            swap(&log, Some(&new), Some(&old)).await?;
        }
    }
    log.close().await
}
