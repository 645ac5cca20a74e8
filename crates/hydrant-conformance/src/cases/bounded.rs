//! Laws 11, 12 and 13: bounded, stable, loud.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, ErrorKind, Event, EventStream, ReadFrom};
use tokio::time::{sleep, timeout};

use crate::law::{Expected, Verdict, broken};
use crate::log::{Log, last, name, same_events};
use crate::resources::{Peak, TRACKS_MEMORY};
use crate::{Damage, Hook, Trial, drop_after};

pub(super) async fn memory(trial: &Trial) -> Verdict {
    if !TRACKS_MEMORY {
        trial.skip("the memory of a read (feature `track-memory` of hydrant-conformance)");
        return Ok(());
    }
    let event_bytes = (16 << 10).min(trial.limits.event_bytes_max);
    let events_count = trial.events(4_000) as u64;
    let log_bytes = event_bytes * trial.events(4_000);
    let allowed = log_bytes / 4;
    let log = trial.open().await?;
    let mut generator = trial.generator();
    let mut after = None;
    for ids in 0..events_count / 50 {
        let batch: Vec<_> = (ids * 50..ids * 50 + 50).map(|id| generator.sized(id, event_bytes)).collect();
        log.append(after, &batch).await?;
        after = last(&batch);
    }
    let log = log.reopen().await?;
    for stalled in [true, false] {
        for name in ["read", "follow"] {
            let peak = Peak::start();
            let source = log.source();
            let from = ReadFrom::Origin;
            let mut stream = if name == "read" { source.read(from) } else { source.follow(from) };
            let expected = || format!("at most {allowed} bytes for a {name} of a log of {log_bytes} bytes");
            if stalled {
                // While the reader takes nothing, a source without a bound reads ahead.
                trial.next(&mut stream, 1).await?;
                sleep(Duration::from_millis(100)).await;
            } else {
                read_through(trial, &mut stream, events_count / 50 * 50).await?;
            }
            if peak.bytes() > allowed {
                return broken(expected(), format!("{} bytes", peak.bytes()));
            }
        }
    }
    log.close().await
}

async fn read_through(trial: &Trial, stream: &mut EventStream, count: u64) -> Verdict {
    for _ in 0..count {
        trial.next(stream, 1).await?;
    }
    Ok(())
}

pub(super) async fn event_bytes_max(trial: &Trial) -> Verdict {
    let bytes_max = trial.limits.event_bytes_max;
    let mut generator = trial.generator();
    let held = [generator.event(0), generator.sized(1, bytes_max)];
    let log = trial.open().await?;
    log.append(None, &held[..1]).await?;
    log.append(last(&held[..1]), &held[1..]).await?;
    let too_large = [generator.sized(2, bytes_max + 1)];
    let error = log.refused(last(&held), &too_large, "Invalid", |kind| kind == ErrorKind::Invalid).await?;
    if error.event() != Some(too_large[0].id()) {
        return broken("Invalid to name the event, 2, so that it can be dead-lettered", format!("{error:?}"));
    }
    log.holds(&held).await?;
    if let Some(point) = log.commit_point()
        && point.event_bytes_max() != bytes_max
    {
        let stated = point.event_bytes_max();
        return broken(
            format!("`event_bytes_max` to be {bytes_max}, the size that is taken"),
            stated.to_string(),
        );
    }
    // Accepted events can be read, also after reopening.
    let log = log.reopen().await?;
    log.holds(&held).await?;
    log.close().await
}

pub(super) async fn shown_is_durable(trial: &Trial) -> Verdict {
    let events = trial.generator().log(24);
    let mut log = trial.open().await?;
    let mut held = 0;
    while held < events.len() {
        let mut follow = log.source().follow(ReadFrom::Origin);
        log.append(last(&events[..held]), &events[held..held + 4]).await?;
        // What a read or a follower sees at this moment.
        let mut shown = log.read(ReadFrom::Origin).await?;
        let mut followed = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_millis(5), follow.next()).await {
            followed.push(event.expected(|| "a follower without an error".to_owned())?);
        }
        drop(follow);
        if followed.len() > shown.len() {
            shown = followed;
        }
        log = log.crash().await?;
        let found = log.read(ReadFrom::Origin).await?;
        if found.len() < shown.len() {
            return broken(
                format!("after a crash the {} events that readers had seen before", shown.len()),
                format!("{}", found.len()),
            );
        }
        same_events("a log after a crash", &events[..found.len().min(events.len())], &found)?;
        let appended = held + 4;
        if found.len() < appended {
            log.append(last(&found), &events[found.len()..appended]).await?;
        }
        held = appended;
    }
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn shown_before_the_checkpoint(trial: &Trial) -> Verdict {
    let events = trial.generator().log(40);
    let log = trial.open().await?;
    for at in 0..events.len() {
        log.append(last(&events[..at]), &events[at..=at]).await?;
        let shown = log.read(ReadFrom::Origin).await?;
        let checkpoint = log.checkpoint().await?;
        if last(&shown) > checkpoint.id() {
            return broken(
                format!("nothing shown beyond the checkpoint that follows, {}", name(&checkpoint)),
                format!("events up to {:?}", last(&shown)),
            );
        }
    }
    log.close().await
}

pub(super) async fn shown_of_a_dropped_append(trial: &Trial) -> Verdict {
    for polls in 0..64 {
        let events = trial.generator().log(8);
        let log = trial.open_another(&format!("_{polls}")).await?;
        log.append(None, &events[..3]).await?;
        let batch = Batch::new(last(&events[..3]), &events[3..]).expect("ids grow");
        let sink = log.sink();
        let done = drop_after(polls, sink.append(batch)).await.is_some();
        drop(sink);
        let shown = log.read(ReadFrom::Origin).await?;
        let log = log.crash().await?;
        let found = log.read(ReadFrom::Origin).await?;
        if found.len() < shown.len() || found != events[..found.len().min(8)] {
            return broken(
                format!("the {} events that a reader saw while an append was dropped", shown.len()),
                format!("{} after a crash", found.len()),
            );
        }
        log.close().await?;
        if done {
            break;
        }
    }
    Ok(())
}

async fn damaged(trial: &Trial, damage: Damage) -> Verdict<Option<Vec<Event>>> {
    let events = trial.generator().log(60);
    let log = trial.open().await?;
    log.append_all(None, &events, 5).await?;
    log.holds(&events).await?;
    log.close().await?;
    let done = trial.harness.damage(&trial.namespace(""), damage).await;
    if done.expected(|| "the harness damages what is stored".to_owned())? {
        return Ok(Some(events));
    }
    trial.skip_without(Hook::Damage(damage));
    Ok(None)
}

pub(super) async fn damage_is_an_error(trial: &Trial) -> Verdict {
    let Some(events) = damaged(trial, Damage::Inside).await? else { return Ok(()) };
    let opened = match trial.harness.open(&trial.namespace("")).await {
        Ok(opened) => opened,
        Err(error) => return says_where(&error),
    };
    for mut stream in [
        opened.source.as_ref().map(|source| source.read(ReadFrom::Origin)),
        opened.source.as_ref().map(|source| source.follow(ReadFrom::Origin)),
    ]
    .into_iter()
    .flatten()
    {
        let mut seen = 0;
        loop {
            match stream.next().await {
                Some(Ok(event)) if Some(&event) == events.get(seen) => seen += 1,
                Some(Err(error)) => break says_where(&error)?,
                other => {
                    return broken(
                        format!("event {seen}, or Corrupt: an event in the middle is damaged"),
                        format!("{other:?}"),
                    );
                }
            }
        }
        is_last(&mut stream).await?;
    }
    Ok(())
}

fn says_where(error: &hydrant::Error) -> Verdict {
    match error.kind() {
        ErrorKind::Corrupt if error.event().is_some() || error.target().is_some() => Ok(()),
        _ => broken("Corrupt, naming the event or the log for damaged bytes", format!("{error:?}")),
    }
}

async fn is_last(stream: &mut EventStream) -> Verdict {
    match stream.next().await {
        None => Ok(()),
        more => broken("an error to be the last item of a read", format!("{more:?} behind it")),
    }
}

pub(super) async fn torn_tail(trial: &Trial) -> Verdict {
    let Some(events) = damaged(trial, Damage::TornTail).await? else { return Ok(()) };
    let log: Log<'_> = match trial.open().await {
        Ok(log) => log,
        // Some stores refuse to open such a log: then an operator decides, and nothing is lost.
        Err(_)
            if trial
                .harness
                .open(&trial.namespace(""))
                .await
                .is_err_and(|error| says_where(&error).is_ok()) =>
        {
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    log.holds(&events).await?;
    let next = [trial.generator().event(60)];
    log.append(last(&events), &next).await?;
    let all: Vec<_> = events.into_iter().chain(next).collect();
    log.holds(&all).await?;
    log.close().await
}

pub(super) async fn error_is_last(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = [generator.snapshot(7), generator.event(8)];
    let log = trial.open().await?;
    log.append(Some(hydrant::EventId::new(6)), &events).await?;
    log.reads(ReadFrom::Snapshot, &events).await?;
    for mut stream in [log.source().read(ReadFrom::Origin), log.source().follow(ReadFrom::Origin)] {
        match stream.next().await {
            Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => {}
            other => {
                return broken(
                    "Pruned for a read from the origin, which the log does not have",
                    format!("{other:?}"),
                );
            }
        }
        is_last(&mut stream).await?;
    }
    log.close().await
}
