//! Laws 8 and 9: concurrent, released.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, Capabilities, ErrorKind, Event, EventId, EventSourceExt, ReadFrom, Retry};
use tokio::time::{sleep, timeout};

use crate::law::{Expected, Verdict, broken};
use crate::resources::{name_descriptors, open_descriptors};
use crate::trial::{last, next_events, same_events};
use crate::{Trial, drop_after};

const TASKS: u64 = 8;

pub(super) async fn appends_from_many_tasks(trial: &Trial) -> Verdict {
    let log = trial.open().await?;
    let each = trial.events(20) as u64;
    let tasks = (0..TASKS).map(|task| {
        let sink = log.sink();
        tokio::spawn(async move {
            for nth in 0..each {
                // Compare-and-append until it is this task's turn.
                loop {
                    let after = sink.checkpoint().await?.id();
                    let id = after.map_or(EventId::ZERO, |after| EventId::new(after.get() + 1));
                    let event = [Event::new(id, &(task, nth))?];
                    match sink.append(Batch::new(after, &event)?).await {
                        Ok(()) => break,
                        Err(error) if error.kind() == ErrorKind::Fenced => {}
                        Err(error) if error.retry() != Retry::Never => {}
                        Err(error) => return Err(error),
                    }
                    tokio::task::yield_now().await;
                }
            }
            Ok(())
        })
    });
    for ended in futures_util::future::join_all(tasks).await {
        let ended = ended.or_else(|panic| broken("no panic", panic.to_string()))?;
        ended.expected(|| "each of many tasks to append by compare-and-append".to_owned())?;
    }
    let all_there = || async {
        let count = log.read(ReadFrom::Origin).await?.len() as u64;
        if count == TASKS * each {
            return Ok(());
        }
        broken(format!("{} events, each once", TASKS * each), format!("{count} events"))
    };
    trial.settled(trial.shows_late(), all_there).await?;
    let events = log.read(ReadFrom::Origin).await?;
    if let Some(pair) = events.windows(2).find(|pair| pair[0].id() >= pair[1].id()) {
        return broken("ids that strictly grow", format!("{} behind {}", pair[1].id(), pair[0].id()));
    }
    for task in 0..TASKS {
        let of_task = events.iter().filter_map(|event| event.decode::<(u64, u64)>().ok());
        let nths = of_task.filter(|(by, _)| *by == task).map(|(_, nth)| nth);
        if !nths.eq(0..each) {
            return broken(format!("the events of task {task}, each once, in its order"), "others");
        }
    }
    log.close().await
}

pub(super) async fn ten_readers(trial: &Trial) -> Verdict {
    let events = Arc::new(trial.generator().log(trial.events(600)));
    let log = trial.open().await?;
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let (source, events) = (log.source(), Arc::clone(&events));
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < events.len() {
                    let read = source.collect(ReadFrom::Origin).await;
                    let read = read.expected(|| "a read beside a writer without an error".to_owned())?;
                    let prefix = &events[..read.len().min(events.len())];
                    same_events("a read beside a writer", prefix, &read)?;
                    if read.len() < seen {
                        return broken(format!("no fewer than the {seen} events read before"), "fewer");
                    }
                    seen = read.len();
                    sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            })
        })
        .collect();
    log.append_all(None, &events, 13).await?;
    log.holds(&events).await?;
    for reader in readers {
        reader.await.or_else(|panic| broken("no panic", panic.to_string()))??;
    }
    log.close().await
}

pub(super) async fn stalled_reader(trial: &Trial) -> Verdict {
    let events = trial.generator().log(trial.events(3_000));
    let half = events.len() / 2;
    let log = trial.holding(&events[..half]).await?;
    log.holds(&events[..half]).await?;
    let mut read = log.source().read(ReadFrom::Origin);
    let mut follow = log.source().follow(ReadFrom::Origin);
    next_events(&mut read, 1).await?;
    next_events(&mut follow, 1).await?;
    // Both stand still while the writer goes on.
    let appends = log.append_all(last(&events[..half]), &events[half..], 100);
    match timeout(trial.limits.patience / 2, appends).await {
        Ok(appended) => appended?,
        Err(_) => return broken("appends to go on while a reader stands still", "they wait for it"),
    }
    log.holds(&events).await?;
    let rest = next_events(&mut read, half - 1).await?;
    same_events("the read that stood still", &events[1..half], &rest)?;
    let rest = next_events(&mut follow, events.len() - 1).await?;
    same_events("the follower that stood still", &events[1..], &rest)?;
    drop((read, follow));
    log.close().await
}

/// What the process holds once everything that was let go has gone.
async fn settles_to(trial: &Trial, tasks: usize, descriptors: Option<usize>, after: &str) -> Verdict {
    let metrics = tokio::runtime::Handle::current().metrics();
    let look = || async {
        let (tasks_now, now) = (metrics.num_alive_tasks(), open_descriptors());
        if tasks_now > tasks {
            return broken(format!("{tasks} tasks after {after}"), format!("{tasks_now} tasks"));
        }
        if let (Some(was), Some(now)) = (descriptors, now)
            && now > was
        {
            return broken(
                format!("{was} descriptors after {after}"),
                format!("{now}: {}", name_descriptors()),
            );
        }
        Ok(())
    };
    trial.settled(true, look).await
}

fn standing() -> (usize, Option<usize>) {
    (tokio::runtime::Handle::current().metrics().num_alive_tasks(), open_descriptors())
}

pub(super) async fn closed(trial: &Trial) -> Verdict {
    let events = trial.generator().log(40);
    // What is opened once for a process, by the store or its libraries, is no leak.
    trial.holding(&events[..1]).await?.close().await?;
    let (tasks, descriptors) = standing();
    for round in 1..8 {
        let log = trial.open().await?;
        log.append(last(&events[..round]), &events[round..=round]).await?;
        if trial.has(Capabilities::SOURCE) {
            let mut follow = log.source().follow(ReadFrom::Origin);
            next_events(&mut follow, round + 1).await?;
        }
        log.close().await?;
        settles_to(trial, tasks, descriptors, "closing").await?;
    }
    reopened(trial, &events[..8]).await
}

pub(super) async fn dropped(trial: &Trial) -> Verdict {
    let events = trial.generator().log(9);
    trial.holding(&events[..1]).await?.close().await?;
    let (tasks, descriptors) = standing();
    for round in 0..3 {
        let log = trial.open().await?;
        let batch = Batch::new(last(&events[..1]), &events[1..]).expect("ids grow");
        let sink = log.sink();
        // Dropped in the middle of a call, too.
        drop(drop_after(round, sink.append(batch)).await);
        drop((sink, log));
        settles_to(trial, tasks, descriptors, "dropping the handle").await?;
    }
    let log = trial.open().await?;
    if trial.has(Capabilities::MEMORY) {
        log.prefix(&events).await?;
    }
    log.close().await
}

pub(super) async fn dropped_open(trial: &Trial) -> Verdict {
    let events = trial.generator().log(3);
    trial.holding(&events).await?.close().await?;
    let (tasks, descriptors) = standing();
    let namespace = trial.namespace("");
    for polls in 0..64 {
        let opened = drop_after(polls, trial.harness.open(&namespace)).await;
        let done = opened.is_some();
        if let Some(opened) = opened {
            drop(opened.expected(|| "the log opens after opens that were dropped".to_owned())?);
        }
        settles_to(trial, tasks, descriptors, &format!("dropping an open after {polls} polls")).await?;
        if done {
            break;
        }
    }
    reopened(trial, &events).await
}

/// Nothing keeps the log from being opened, and it holds what it held.
async fn reopened(trial: &Trial, held: &[Event]) -> Verdict {
    let log = trial.open().await?;
    log.holds(held).await?;
    log.close().await
}

pub(super) async fn dropped_reads(trial: &Trial) -> Verdict {
    let events = trial.generator().log(trial.events(300));
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    drop(next_events(&mut log.source().follow(ReadFrom::Origin), events.len()).await?);
    let (tasks, descriptors) = standing();
    for count in [0, 1, events.len() / 2, events.len()] {
        for _ in 0..4 {
            let mut read = log.source().read(ReadFrom::Origin);
            let mut follow = log.source().follow(ReadFrom::Origin);
            next_events(&mut read, count).await?;
            next_events(&mut follow, count).await?;
            // At its end a follower waits; dropped there, it must let go as well.
            drop(drop_after(1, follow.next()).await);
        }
        settles_to(trial, tasks, descriptors, &format!("dropping reads after {count} events")).await?;
    }
    log.close().await
}
