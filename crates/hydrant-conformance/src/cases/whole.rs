//! Laws 6 and 7: whole batches, honest errors.

use std::time::Duration;

use hydrant::{Batch, Capabilities, Checkpoint, ErrorKind, Event, EventId, ReadFrom, Retry};

use tokio::time::sleep;

use super::handle::{arm, disarm};
use crate::law::{Expected, Verdict, broken};
use crate::log::{Log, last, name, same_events};
use crate::{Trial, drop_after};

/// At how many of its awaits a call is dropped, one after the other. An append has fewer.
pub(super) const POLLS_MAX: usize = 64;

/// How long the kit looks for a dropped call that lands late.
pub(super) const LANDING: Duration = Duration::from_millis(100);

/// Checks that the checkpoint that a handle reported does not change: the work of earlier calls has ended.
pub(super) async fn stays(log: &Log<'_>, reported: Checkpoint) -> Verdict {
    sleep(LANDING).await;
    let seen = log.checkpoint().await?;
    if seen == reported {
        return Ok(());
    }
    broken(
        format!("the checkpoint {}, which the handle reported, to stay", name(&reported)),
        format!("the checkpoint {}, {LANDING:?} later and without a call", name(&seen)),
    )
}

/// How many of `events` are held, of which `before` were acknowledged. If the store is atomic, the rest is one batch.
async fn whole(log: &Log<'_>, events: &[Event], before: usize) -> Verdict<usize> {
    let held = log.prefix(events).await?;
    let is_whole = held == before || held == events.len();
    if held < before && log.trial.is_durable() {
        return broken(format!("the {before} events that were acknowledged"), format!("{held} events"));
    }
    if held > before && !is_whole && log.trial.has(Capabilities::ATOMIC) {
        return broken(
            format!("all {} events of a batch or none", events.len() - before),
            format!("{} of them", held - before),
        );
    }
    Ok(held)
}

pub(super) async fn cancel(trial: &Trial) -> Verdict {
    let mut events = trial.generator().log(3);
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    for polls in 0..POLLS_MAX {
        let before = events.len();
        let id = before as u64;
        // Every third batch opens a segment.
        let opens = (id / 5).is_multiple_of(3);
        let mut generator = trial.generator();
        events.push(if opens { generator.snapshot(id) } else { generator.event(id) });
        events.extend((id + 1..id + 5).map(|id| generator.event(id)));
        let batch = Batch::new(last(&events[..before]), &events[before..]).expect("ids grow");
        let sink = log.sink();
        let appended = drop_after(polls, sink.append(batch)).await;
        trial.step(format!("an append of events {id} to {} dropped at poll {polls}", id + 4));
        // The work of the dropped append ends before the next call begins: nothing lands after that.
        if trial.has(Capabilities::MEMORY) && trial.is_durable() {
            let reported = log.checkpoint().await?;
            stays(&log, reported).await?;
        }
        let held = whole(&log, &events, before).await?;
        sleep(LANDING).await;
        if trial.is_durable() && log.prefix(&events).await? != held {
            return broken("nothing more to land after a call that followed", "more events");
        }
        if let Some(appended) = appended {
            appended.expected(|| "Ok for an append that was not dropped".to_owned())?;
            log.holds(&events).await?;
            return log.close().await;
        }
        // The same bytes again under the same ids, or only what is missing.
        let from = if trial.has(Capabilities::IDEMPOTENT) { before } else { held };
        if from < events.len() {
            log.append(last(&events[..from]), &events[from..]).await?;
        }
        log.holds(&events).await?;
    }
    log.close().await
}

pub(super) async fn cancel_checkpoint(trial: &Trial) -> Verdict {
    let mut events = trial.generator().log(3);
    let log = trial.holding(&events).await?;
    for polls in 0..POLLS_MAX {
        let sink = log.sink();
        trial.step(format!("a checkpoint dropped at poll {polls}"));
        let reported = drop_after(polls, sink.checkpoint()).await;
        events.push(trial.generator().event(events.len() as u64));
        let (held, next) = events.split_at(events.len() - 1);
        log.append(last(held), next).await?;
        if reported.is_some() {
            break;
        }
    }
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn cancel_prune(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(31, 10);
    for polls in 0..POLLS_MAX {
        let log = trial.open_another(&format!("_{polls}")).await?;
        log.append_all(None, &events[..30], 30).await?;
        let prune = log.prune();
        trial.step(format!("a prune before event 20 dropped at poll {polls}"));
        let pruned = drop_after(polls, prune.prune(EventId::new(20))).await;
        log.append(last(&events[..30]), &events[30..]).await?;
        log.reads(ReadFrom::Snapshot, &events[30..]).await?;
        log.reads(ReadFrom::After(EventId::new(19)), &events[20..]).await?;
        // A log that was pruned in part reports `Pruned`; nothing is skipped.
        match log.try_read(ReadFrom::Origin).await? {
            Ok(seen) => same_events("an origin that was not pruned", &events, &seen)?,
            Err(error) if matches!(error.kind(), ErrorKind::Pruned { .. }) => {}
            Err(error) => return broken("all events, or Pruned", format!("{error:?}")),
        }
        drop(prune);
        log.pruned(20).await?;
        let log = log.reopen().await?;
        log.reads(ReadFrom::After(EventId::new(19)), &events[20..]).await?;
        log.close().await?;
        if pruned.is_some() {
            break;
        }
    }
    Ok(())
}

pub(super) async fn crash(trial: &Trial) -> Verdict {
    crash_at_each_await(trial, false).await
}

pub(super) async fn crash_in_a_rotation(trial: &Trial) -> Verdict {
    crash_at_each_await(trial, true).await
}

async fn crash_at_each_await(trial: &Trial, rotates: bool) -> Verdict {
    let mut generator = trial.generator();
    for polls in 0..POLLS_MAX {
        let mut events = generator.log(9);
        if rotates {
            events[4] = generator.snapshot(4);
        }
        let log = trial.open_another(&format!("_{polls}")).await?;
        log.append(None, &events[..4]).await?;
        log.holds(&events[..4]).await?;
        let batch = Batch::new(last(&events[..4]), &events[4..]).expect("ids grow");
        let sink = log.sink();
        let appended = drop_after(polls, sink.append(batch)).await;
        drop(sink);
        trial.step(format!("a crash at poll {polls} of an append of events 4 to 8"));
        let log = log.crash().await?;
        let held = whole(&log, &events, 4).await?;
        if held < events.len() {
            log.append(last(&events[..held]), &events[held..]).await?;
        }
        log.holds(&events).await?;
        log.close().await?;
        if appended.is_some() {
            break;
        }
    }
    Ok(())
}

pub(super) async fn refused_whole(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let too_large = trial.limits.event_bytes_max + 1;
    let mut events = generator.log(4);
    let log = trial.holding(&events[..2]).await?;
    log.holds(&events[..2]).await?;
    let refused = [events[2].clone(), generator.sized(3, too_large), generator.event(4)];
    log.refused(last(&events[..2]), &refused, "Invalid", |kind| kind == ErrorKind::Invalid).await?;
    let mut possible = events[..2].to_vec();
    possible.extend_from_slice(&refused);
    let held = log.prefix(&possible).await?;
    if held != 2 && trial.has(Capabilities::ATOMIC) {
        return broken("nothing of a batch that was refused", format!("{} of its events", held - 2));
    }
    if held == 2 {
        log.append(last(&events[..2]), &events[2..]).await?;
    } else {
        log.append(last(&events[..3]), &events[3..]).await?;
    }
    events.truncate(4);
    log.holds(&events).await?;
    log.close().await
}

/// An error that is Safe applied nothing.
async fn honest(log: &Log<'_>, held: &[Event], error: &hydrant::Error) -> Verdict {
    if error.retry() == Retry::Safe {
        log.holds(held).await.or_else(|found| {
            broken(format!("nothing applied by an append that failed as Safe ({error})"), found.saw)
        })?;
    }
    Ok(())
}

pub(super) async fn refusals(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(9);
    let log = trial.holding(&events[..4]).await?;
    log.holds(&events[..4]).await?;
    let gap = log.gap(last(&events[..6]), &events[6..]).await?;
    if gap.retry() == Retry::Never {
        return broken("Gap to be Safe or AfterCheckpoint: the pump catches up", format!("{gap:?}"));
    }
    honest(&log, &events[..4], &gap).await?;
    let other = [generator.event(3)];
    let fenced = log.fenced(last(&events[..3]), &other).await?;
    if fenced.retry() != Retry::Never {
        return broken("Fenced to be Never: the same call fails again", format!("{fenced:?}"));
    }
    log.holds(&events[..4]).await?;
    log.close().await
}

pub(super) async fn failing_server(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    for n in 0.. {
        let events = generator.log(8);
        let log = trial.open_another(&format!("_{n}")).await?;
        log.append(None, &events[..3]).await?;
        log.holds(&events[..3]).await?;
        if !arm(&log, n).await? {
            return log.close().await;
        }
        let appended = log.try_append(last(&events[..3]), &events[3..]).await?;
        disarm(&log, n).await?;
        trial.step(format!("an append that met failure {n} and returned {appended:?}"));
        let log = log.crash().await?;
        match &appended {
            Ok(()) if trial.is_durable() => log.holds(&events).await?,
            Ok(()) => {}
            Err(error) => honest(&log, &events[..3], error).await?,
        }
        let held = whole(&log, &events, 3).await?;
        if held < events.len() {
            log.append(last(&events[..held]), &events[held..]).await?;
        }
        log.holds(&events).await?;
        log.close().await?;
    }
    Ok(())
}
