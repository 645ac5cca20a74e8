//! Law 10, for `follow`: history, then live, no gap, no duplicate, without an end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{EventId, EventSource, ReadFrom};
use tokio::time::timeout;

use crate::Trial;
use crate::law::{Verdict, broken};
use crate::log::{last, next_events, same_events};

/// How long the kit looks for events that must not come.
const QUIET: Duration = Duration::from_millis(30);

pub(super) async fn history_then_live(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(90, 10);
    let log = trial.holding(&events[..40]).await?;
    let mut follow = log.source().follow(ReadFrom::Origin);
    let mut seen = trial.next(&mut follow, 40).await?;
    for at in 40..60 {
        // Live, one by one, and across each seal.
        log.append(last(&events[..at]), &events[at..=at]).await?;
        seen.extend(trial.next(&mut follow, 1).await?);
        same_events("a follower, live,", &events[..=at], &seen)?;
    }
    // The follower falls behind, then continues.
    log.append_all(last(&events[..60]), &events[60..], 4).await?;
    seen.extend(trial.next(&mut follow, 30).await?);
    same_events("a follower that fell behind", &events, &seen)?;
    if let Ok(more) = timeout(QUIET, follow.next()).await {
        return broken("a follower to wait at the end of the log", format!("{more:?}"));
    }
    drop(follow);
    log.close().await
}

pub(super) async fn from_everywhere(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(30, 10);
    let log = trial.holding(&events[..25]).await?;
    let after = |id: u64| ReadFrom::After(EventId::new(id));
    let starts = [(ReadFrom::Origin, 0), (ReadFrom::Snapshot, 20), (after(0), 1), (after(9), 10)];
    let live = [(after(24), 25), (after(26), 27)];
    let mut follows: Vec<_> =
        starts.iter().chain(&live).map(|&(from, first)| (from, first, log.source().follow(from))).collect();
    let mut histories = Vec::new();
    for (_, first, follow) in &mut follows {
        histories.push(trial.next(follow, 25_usize.saturating_sub(*first)).await?);
    }
    log.append_all(last(&events[..25]), &events[25..], 2).await?;
    for ((from, first, mut follow), mut seen) in follows.into_iter().zip(histories) {
        let missing = events.len() - first - seen.len();
        seen.extend(trial.next(&mut follow, missing).await?);
        same_events(&format!("a follower from {from:?}"), &events[first..], &seen)?;
    }
    log.close().await
}

pub(super) async fn an_empty_log(trial: &Trial) -> Verdict {
    let events = trial.generator().log(3);
    let log = trial.open().await?;
    let mut follow = log.source().follow(ReadFrom::Origin);
    let mut snapshots = log.source().follow(ReadFrom::Snapshot);
    for follow in [&mut follow, &mut snapshots] {
        if let Ok(early) = timeout(QUIET, follow.next()).await {
            return broken("a follower of an empty log to wait", format!("{early:?}"));
        }
    }
    log.append(None, &events).await?;
    for follow in [&mut follow, &mut snapshots] {
        same_events("a follower of a log that was empty", &events, &trial.next(follow, 3).await?)?;
    }
    drop((follow, snapshots));
    log.close().await
}

pub(super) async fn beside_a_writer(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = Arc::new(generator.rotated(trial.events(1_500), 100));
    let log = trial.open().await?;
    let followers: Vec<_> = (0..10)
        .map(|nth| {
            let (source, events) = (log.source(), Arc::clone(&events));
            let wait_max = trial.call_max();
            tokio::spawn(async move { follow_all(source, &events, nth, wait_max).await })
        })
        .collect();
    let mut at = 0;
    while at < events.len() {
        let end = events.len().min(at + 1 + generator.below(30));
        log.append_all(last(&events[..at]), &events[at..end], 30).await?;
        at = end;
        if generator.below(4) == 0 {
            tokio::task::yield_now().await;
        }
    }
    for follower in followers {
        follower.await.or_else(|panic| broken("no panic", panic.to_string()))??;
    }
    log.close().await
}

/// Follows to the last of `events`; the `nth` follower waits now and then, so that the writer gets ahead.
async fn follow_all(
    source: Arc<dyn EventSource>,
    events: &[hydrant::Event],
    nth: usize,
    wait_max: Duration,
) -> Verdict {
    let mut follow = source.follow(ReadFrom::Origin);
    for (at, event) in events.iter().enumerate() {
        let seen = next_events(wait_max, &mut follow, 1).await?;
        same_events(
            &format!("a follower beside a writer, behind {at} events,"),
            std::slice::from_ref(event),
            &seen,
        )?;
        if nth > 0 && at.is_multiple_of(nth * 7) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

/// Law 8: an append while the log rotates, with readers.
pub(super) async fn rotation_under_readers(trial: &Trial) -> Verdict {
    let events = Arc::new(trial.generator().rotated(trial.events(300), 3));
    let log = trial.open().await?;
    let source = log.source();
    let expected = Arc::clone(&events);
    let reader = tokio::spawn(async move {
        loop {
            let mut read = source.read(ReadFrom::Snapshot);
            let mut seen = Vec::new();
            while let Some(event) = read.next().await {
                match event {
                    Ok(event) => seen.push(event),
                    Err(error) => return broken("a read beside a rotation", format!("{error:?}")),
                }
            }
            let Some(first) = seen.first() else {
                tokio::task::yield_now().await;
                continue;
            };
            let from = usize::try_from(first.id().get()).unwrap_or(usize::MAX);
            let to = expected.len().min(from + seen.len());
            same_events("a snapshot read beside a rotation", &expected[from..to], &seen)?;
            if !first.is_snapshot() {
                return broken("a snapshot read to begin with a snapshot", format!("{first}"));
            }
            if to == expected.len() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    });
    log.append_all(None, &events, 2).await?;
    reader.await.or_else(|panic| broken("no panic", panic.to_string()))??;
    log.holds(&events).await?;
    log.close().await
}
