//! Laws 6 and 7: whole batches, honest errors.

use std::time::Duration;

use hydrant::{Batch, Capabilities, ErrorKind, Event, EventId, EventSourceExt, ReadFrom, Retry};

use tokio::time::sleep;

use crate::law::{Expected, Verdict, broken};
use crate::trial::{Log, last, same_events};
use crate::{Trial, drop_after};

/// So many polls are more awaits than any append has; what needs more is never dropped beyond them.
const POLLS_MAX: usize = 64;

/// Long enough to see a dropped append land that should not; what is right never waits for it to pass.
const LANDING: Duration = Duration::from_millis(100);

/// How many of the events behind `before` are held, which must be whole batches where the store is atomic.
async fn whole(log: &Log<'_>, events: &[Event], before: usize, why: &str) -> Verdict<usize> {
    let held = log.prefix(events).await?;
    let is_whole = held == before || held == events.len();
    if held < before && log.trial.is_durable() {
        return broken(format!("the {before} events acknowledged before {why}"), format!("{held} events"));
    }
    if held > before && !is_whole && log.trial.has(Capabilities::ATOMIC) {
        return broken(
            format!("all {} events of a batch or none, after {why}", events.len() - before),
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
        let opens = id / 5 % 3 == 0;
        let mut generator = trial.generator();
        events.push(if opens { generator.snapshot(id) } else { generator.event(id) });
        events.extend((id + 1..id + 5).map(|id| generator.event(id)));
        let batch = Batch::new(last(&events[..before]), &events[before..]).expect("ids grow");
        let sink = log.sink();
        let appended = drop_after(polls, sink.append(batch)).await;
        let why = format!("dropping an append after {polls} polls");
        let held = whole(&log, &events, before, &why).await?;
        // What the dropped append still did has ended: nothing lands later.
        sleep(LANDING).await;
        if trial.is_durable() && log.prefix(&events).await? != held {
            return broken(format!("nothing more to land once {why} was followed by another call"), "it did");
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
        let told = drop_after(polls, sink.checkpoint()).await;
        events.push(trial.generator().event(events.len() as u64));
        let (held, next) = events.split_at(events.len() - 1);
        log.append(last(held), next).await?;
        if told.is_some() {
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
        let pruned = drop_after(polls, prune.prune(EventId::new(20))).await;
        log.append(last(&events[..30]), &events[30..]).await?;
        log.reads(ReadFrom::Snapshot, &events[30..]).await?;
        log.reads(ReadFrom::After(EventId::new(19)), &events[20..]).await?;
        // Half pruned is Pruned; nothing is passed over.
        match log.source().collect(ReadFrom::Origin).await {
            Ok(seen) => same_events("an origin that was not pruned", &events, &seen)?,
            Err(error) if matches!(error.kind(), ErrorKind::Pruned { .. }) => {}
            Err(error) => return broken("all events, or Pruned", format!("{error:?}")),
        }
        prune.prune(EventId::new(20)).await.expected(|| "Ok for pruning again".to_owned())?;
        drop(prune);
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
        let log = log.crash().await?;
        let held = whole(&log, &events, 4, &format!("a crash after {polls} polls of an append")).await?;
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

/// What an error says about the next call must be true of what the log then holds.
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
        let armed = trial.harness.fail_next_write(&log.namespace, n).await;
        if !armed.expected(|| "the harness makes the next write fail".to_owned())? {
            if n == 0 {
                trial.skip("errors of the server or disk (`Harness::fail_next_write`)");
            }
            return log.close().await;
        }
        let appended = log.try_append(last(&events[..3]), &events[3..]).await;
        // A failure may have stopped the handle for good; what was told about it must hold all the same.
        let log = log.crash().await?;
        match &appended {
            Ok(()) if trial.is_durable() => log.holds(&events).await?,
            Ok(()) => {}
            Err(error) => honest(&log, &events[..3], error).await?,
        }
        let held = whole(&log, &events, 3, &format!("failure {n}")).await?;
        if held < events.len() {
            log.append(last(&events[..held]), &events[held..]).await?;
        }
        log.holds(&events).await?;
        log.close().await?;
    }
    Ok(())
}
