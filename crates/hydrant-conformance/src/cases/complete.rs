//! Law 10: complete. Reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, EventId, EventStream, ReadFrom};

use crate::Trial;
use crate::law::{Expected, Verdict, broken};
use crate::log::{Log, last, same_events};

fn after(id: u64) -> ReadFrom {
    ReadFrom::After(EventId::new(id))
}

pub(super) async fn empty(trial: &Trial) -> Verdict {
    let log = trial.open().await?;
    for from in [ReadFrom::Origin, ReadFrom::Snapshot, after(0), after(41), after(u64::MAX)] {
        log.reads(from, &[]).await?;
    }
    log.close().await
}

pub(super) async fn counts(trial: &Trial) -> Verdict {
    let events = trial.generator().log(trial.events(1_001));
    let log = trial.open().await?;
    let mut held = 0;
    for count in [1, 2, 999, 1_000, 1_001].map(|count| trial.events(count)) {
        log.append_all(last(&events[..held]), &events[held..count], 1_000).await?;
        held = count;
        log.reads(ReadFrom::Origin, &events[..held]).await?;
        log.reads(ReadFrom::Snapshot, &events[..held]).await?;
        let middle = events[held / 2].id().get();
        log.reads(after(middle), &events[held / 2 + 1..held]).await?;
    }
    let log = log.reopen().await?;
    log.reads(ReadFrom::Origin, &events).await?;
    log.close().await
}

pub(super) async fn fifty_thousand(trial: &Trial) -> Verdict {
    let events = trial.generator().log(trial.events(50_000));
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    let log = log.reopen().await?;
    log.holds(&events).await?;
    let late = events.len() - events.len() / 10;
    log.reads(ReadFrom::After(events[late].id()), &events[late + 1..]).await?;
    log.close().await
}

pub(super) async fn after_is_exclusive(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 60);
    let log = trial.holding(&events).await?;
    let end = events[events.len() - 1].id().get();
    // Each id, whether the log has it or skipped it, the end, and far beyond.
    for id in (0..=end + 2).chain([u64::MAX]) {
        let from = events.partition_point(|event| event.id().get() <= id);
        log.reads(after(id), &events[from..]).await?;
    }
    log.reads(ReadFrom::Origin, &events).await?;
    log.close().await
}

pub(super) async fn at_is_inclusive(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 40);
    let log = trial.holding(&events).await?;
    let end = events[events.len() - 1].id().get();
    for id in (0..=end + 2).chain([u64::MAX]) {
        let from = events.partition_point(|event| event.id().get() < id);
        log.reads(ReadFrom::At(EventId::new(id)), &events[from..]).await?;
    }
    let mut follow = log.source().follow(ReadFrom::At(events[7].id()));
    same_events("a follower at event 7", &events[7..], &trial.next(&mut follow, events.len() - 7).await?)?;
    drop(follow);
    log.close().await
}

pub(super) async fn at_the_floor(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(25, 10);
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    log.pruned(20).await?;
    for id in 20..25 {
        log.reads(ReadFrom::At(EventId::new(id)), &events[usize::try_from(id).unwrap_or(0)..]).await?;
    }
    for id in [0, 1, 19] {
        let read = log.try_read(ReadFrom::At(EventId::new(id))).await?;
        let oldest = events[20].id();
        if !matches!(&read, Err(error) if error.kind() == ErrorKind::Pruned { oldest }) {
            return broken(
                format!("Pruned, naming {oldest} as the oldest, for a read at {id}"),
                format!("{read:?}"),
            );
        }
    }
    log.close().await
}

/// Checks that reads that begin at any moment of a prune are whole, or end with `Pruned`.
pub(super) async fn prune_meets_reads(trial: &Trial) -> Verdict {
    let events = Arc::new(trial.generator().rotated(trial.events(300), 10));
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [0, 9, 10, 105]
        .into_iter()
        .map(|from| {
            let (source, events, done) = (log.source(), Arc::clone(&events), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    read_or_pruned(source.read(ReadFrom::At(EventId::new(from))), &events, from).await?;
                    tokio::task::yield_now().await;
                }
                Ok(())
            })
        })
        .collect();
    for before in (10..events.len() as u64).step_by(10) {
        log.pruned(before).await?;
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.or_else(|panic| broken("no panic", panic.to_string()))??;
    }
    log.close().await
}

/// Checks that a read yields all events from the `from`th on, or `Pruned` after some of them.
async fn read_or_pruned(mut read: EventStream, events: &[Event], from: u64) -> Verdict {
    let first = usize::try_from(from).unwrap_or(0).min(events.len());
    let mut next = first;
    loop {
        match read.next().await {
            Some(Ok(event)) if Some(&event) == events.get(next) => next += 1,
            Some(Err(error)) if matches!(error.kind(), ErrorKind::Pruned { .. }) => return Ok(()),
            None if next == events.len() => return Ok(()),
            other => {
                let expected = format!("event {next}, or Pruned, for a read from {from} that meets a prune");
                return broken(expected, format!("{other:?}"));
            }
        }
    }
}

pub(super) async fn snapshots(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.rotated(35, 10);
    let log = trial.open().await?;
    for held in 1..=events.len() {
        log.append(last(&events[..held - 1]), &events[held - 1..held]).await?;
        let newest = events[..held].iter().rposition(Event::is_snapshot).unwrap_or(0);
        log.reads(ReadFrom::Snapshot, &events[newest..held]).await?;
        log.reads(ReadFrom::Origin, &events[..held]).await?;
    }
    let log = log.reopen().await?;
    log.reads(ReadFrom::Snapshot, &events[30..]).await?;
    // Several snapshots in a row: each opens a batch.
    let mut more = generator.gapped(last(&events), 3);
    for _ in 0..2 {
        more.push(generator.snapshot(more[more.len() - 1].id().get() + 1));
    }
    more.push(generator.event(more[4].id().get() + 1));
    log.append_all(last(&events), &more, 10).await?;
    log.reads(ReadFrom::Snapshot, &more[4..]).await?;
    let all: Vec<_> = events.iter().chain(&more).cloned().collect();
    log.reads(ReadFrom::Origin, &all).await?;
    log.close().await
}

pub(super) async fn rotated_is_unrotated(trial: &Trial) -> Verdict {
    let rotated = trial.generator().rotated(80, 9);
    let plain: Vec<_> = rotated.iter().filter(|event| !event.is_snapshot()).cloned().collect();
    let log = trial.open().await?;
    log.append_all(None, &rotated, 11).await?;
    let unrotated = trial.open_another("_b").await?;
    unrotated.append_all(None, &plain, 11).await?;
    let log = log.reopen().await?;
    let unrotated = unrotated.reopen().await?;
    // From each position beside a seal, both logs yield the same events. `after_is_exclusive` reads from all of them.
    let is_beside_a_seal = |at: &usize| {
        let beside = &rotated[at.saturating_sub(1)..rotated.len().min(at + 2)];
        *at == 0 || beside.iter().any(Event::is_snapshot)
    };
    for at in (0..rotated.len()).filter(is_beside_a_seal) {
        let from = ReadFrom::After(rotated[at].id());
        log.reads(from, &rotated[at + 1..]).await?;
        let mut read = log.read(from).await?;
        read.retain(|event| !event.is_snapshot());
        same_events("an unrotated log, from the same position", &read, &unrotated.read(from).await?)?;
    }
    log.close().await?;
    unrotated.close().await
}

pub(super) async fn floor(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(35, 10);
    let log = trial.holding(&events).await?;
    // A segment that does not end before the id is kept.
    for (before, floor) in [(0, 0), (5, 0), (19, 10), (20, 20), (20, 20), (15, 20)] {
        log.pruned(before).await?;
        check_floor(&log, &events, floor).await?;
    }
    log.pruned(u64::MAX).await?;
    check_floor(&log, &events, 30).await?;
    let log = log.reopen().await?;
    check_floor(&log, &events, 30).await?;
    let next = [trial.generator().event(35)];
    log.append(last(&events), &next).await?;
    let all: Vec<_> = events.iter().chain(&next).cloned().collect();
    check_floor(&log, &all, 30).await?;
    log.close().await
}

/// Reads at and below a floor (`events[floor]`; 0 where nothing was pruned).
async fn check_floor(log: &Log<'_>, events: &[Event], floor: usize) -> Verdict {
    let oldest = events[floor].id();
    if floor == 0 {
        return log.reads(ReadFrom::Origin, events).await;
    }
    for begins in [0, 1, floor - 1] {
        let from = begins.checked_sub(1).map(|before| events[before].id()).into();
        let read = log.source().read(from).next().await;
        let followed = log.source().follow(from).next().await;
        let is_pruned = |first: &Option<hydrant::Result<Event>>| matches!(first, Some(Err(error)) if error.kind() == ErrorKind::Pruned { oldest });
        if !is_pruned(&read) {
            let expected = format!("Pruned, naming {oldest} as the oldest, for a read from {from:?}");
            return broken(expected, format!("{read:?}"));
        }
        // A follower may still be fed from memory; then it misses nothing.
        let fed = matches!(&followed, Some(Ok(event)) if *event == events[begins]);
        if !is_pruned(&followed) && !fed {
            let expected = format!("Pruned, or event {begins}, for a follower from {from:?}");
            return broken(expected, format!("{followed:?}"));
        }
    }
    log.reads(ReadFrom::After(events[floor - 1].id()), &events[floor..]).await?;
    log.reads(ReadFrom::After(oldest), &events[floor + 1..]).await?;
    let newest = events.iter().rposition(Event::is_snapshot).unwrap_or(0);
    log.reads(ReadFrom::Snapshot, &events[newest..]).await
}

pub(super) async fn prune_under_a_read(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(trial.events(2_000), 100);
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    for before in [500, 1_000, 1_900].map(|before| before.min(events.len() as u64)) {
        let from = match log.read(ReadFrom::Origin).await {
            Ok(_) => ReadFrom::Origin,
            Err(_) => ReadFrom::Snapshot,
        };
        let mut read = log.source().read(from);
        let first = trial.next(&mut read, 1).await?;
        log.pruned(before).await?;
        // The read continues to the end, or reports what is gone; it skips nothing.
        let mut next = usize::try_from(first[0].id().get()).unwrap_or(usize::MAX) + 1;
        while let Some(event) = read.next().await {
            match event {
                Ok(event) if Some(&event) == events.get(next) => next += 1,
                Err(error) if matches!(error.kind(), ErrorKind::Pruned { .. }) => next = events.len(),
                other => return broken(format!("event {next}, or Pruned"), format!("{other:?}")),
            }
        }
        if next != events.len() {
            return broken(format!("{} events, or Pruned", events.len()), format!("the end after {next}"));
        }
    }
    log.close().await
}

pub(super) async fn a_read_ends(trial: &Trial) -> Verdict {
    let mut events = trial.generator().log(trial.events(400));
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    // The log grows faster than it is read.
    let mut read = log.source().read(ReadFrom::Origin);
    let mut seen = Vec::new();
    let began_at = events.len();
    while let Some(event) = read.next().await {
        seen.push(event.expected(|| "a read beside a writer without an error".to_owned())?);
        if seen.len() > 2 * began_at {
            return broken("a read to end where the log ended when it began", "a read that goes on");
        }
        if seen.len() % 4 == 0 {
            let id = events.len() as u64;
            let more: Vec<_> = (id..id + 6).map(|id| trial.generator().event(id)).collect();
            log.append(last(&events), &more).await?;
            events.extend(more);
        }
    }
    if seen.len() < began_at {
        return broken(
            format!("the {began_at} events acknowledged before it began"),
            format!("{}", seen.len()),
        );
    }
    same_events("a read beside a writer", &events[..seen.len()], &seen)?;
    log.read(ReadFrom::Origin).await?;
    log.holds(&events).await?;
    log.close().await
}
