//! Laws 8 and 9: concurrent, released.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{Batch, Capabilities, ErrorKind, Event, EventId, EventSourceExt, ReadFrom, Retry};
use tokio::time::{sleep, timeout};

use crate::law::{Expected, Finding, Verdict, broken, not_yet};
use crate::log::{last, same_events};
use crate::resources::open_descriptors;
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
        let found = broken(format!("{} events, each once", TASKS * each), format!("{count} events"));
        found.may_pass(count < TASKS * each)
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
    trial.next(&mut read, 1).await?;
    trial.next(&mut follow, 1).await?;
    // Neither is polled while the writer continues.
    let appends = log.append_all(last(&events[..half]), &events[half..], 100);
    match timeout(trial.limits.patience / 2, appends).await {
        Ok(appended) => appended?,
        Err(_) => return broken("appends to go on while a reader stands still", "they wait for it"),
    }
    log.holds(&events).await?;
    let rest = trial.next(&mut read, half - 1).await?;
    same_events("the read that stood still", &events[1..half], &rest)?;
    let rest = trial.next(&mut follow, events.len() - 1).await?;
    same_events("the follower that stood still", &events[1..], &rest)?;
    drop((read, follow));
    log.close().await
}

/// So many descriptors may come and go beside a case that runs alone: the test program may have other tests.
/// Whatever leaks one in each round of a case exceeds it.
const OF_OTHERS: usize = 8;
const ROUNDS: usize = 2 * OF_OTHERS;

/// What the process holds at a moment.
struct Held {
    tasks: usize,
    /// Descriptors whose path names the namespace of this trial.
    own: usize,
    all: Vec<String>,
}

impl Held {
    fn now(trial: &Trial) -> Self {
        let all = open_descriptors().unwrap_or_else(|| {
            trial.not_exercised("the count of open descriptors (/proc/self/fd)");
            Vec::new()
        });
        let namespace = trial.namespace("");
        let own = all.iter().filter(|name| name.contains(&namespace)).count();
        Self { tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(), own, all }
    }

    /// Once dropped handles are gone, the process must hold no more than at this moment.
    async fn is_restored(&self, trial: &Trial, after: &str) -> Verdict {
        let look = || async {
            let now = Self::now(trial);
            if now.tasks > self.tasks {
                return not_yet(format!("{} tasks after {after}", self.tasks), format!("{}", now.tasks));
            }
            if now.own > self.own || now.all.len() > self.all.len() + OF_OTHERS {
                return not_yet(
                    format!("{} descriptors after {after}", self.all.len()),
                    format!("{}: {}", now.all.len(), now.all.join(", ")),
                );
            }
            Ok(())
        };
        trial.settled(true, look).await
    }
}

pub(super) async fn closed(trial: &Trial) -> Verdict {
    let events = trial.generator().log(ROUNDS + 1);
    // What is opened once for a process, by the store or its libraries, is no leak.
    trial.holding(&events[..1]).await.of_law(1)?.close().await?;
    let before = Held::now(trial);
    for round in 1..=ROUNDS {
        let log = trial.open().await?;
        log.append(last(&events[..round]), &events[round..=round]).await.of_law(1)?;
        if trial.has(Capabilities::SOURCE) {
            let mut follow = log.source().follow(ReadFrom::Origin);
            trial.next(&mut follow, round + 1).await.of_law(10)?;
        }
        log.close().await?;
        before.is_restored(trial, "closing").await?;
    }
    reopened(trial, &events).await
}

pub(super) async fn dropped(trial: &Trial) -> Verdict {
    let events = trial.generator().log(9);
    trial.holding(&events[..1]).await.of_law(1)?.close().await?;
    let before = Held::now(trial);
    for round in 0..ROUNDS {
        let log = trial.open().await?;
        let batch = Batch::new(last(&events[..1]), &events[1..]).expect("ids grow");
        let sink = log.sink();
        // Dropped in the middle of a call, too.
        drop(drop_after(round % 4, sink.append(batch)).await);
        drop((sink, log));
        before.is_restored(trial, "dropping the handle").await?;
    }
    let log = trial.open_once_released(&trial.namespace("")).await?;
    if trial.has(Capabilities::MEMORY) {
        log.prefix(&events).await.of_law(5)?;
    }
    log.close().await
}

pub(super) async fn dropped_open(trial: &Trial) -> Verdict {
    let events = trial.generator().log(3);
    trial.holding(&events).await.of_law(1)?.close().await?;
    let before = Held::now(trial);
    let namespace = trial.namespace("");
    // At each of its awaits in turn, until it completes, and then again.
    let mut polls = 0;
    for _ in 0..4 * ROUNDS {
        let opened = drop_after(polls, trial.harness.open(&namespace)).await;
        match opened {
            Some(Ok(opened)) => {
                drop(opened);
                polls = 0;
            }
            // One that was dropped before may still be under way.
            Some(Err(_)) => trial.open_once_released(&trial.namespace("")).await?.close().await?,
            None => polls += 1,
        }
        before.is_restored(trial, &format!("dropping an open after {polls} polls")).await?;
    }
    reopened(trial, &events).await
}

/// Nothing keeps the log from being opened, and it holds what it held.
async fn reopened(trial: &Trial, held: &[Event]) -> Verdict {
    let log = trial.open_once_released(&trial.namespace("")).await?;
    log.holds(held).await.of_law(1)?;
    log.close().await
}

/// Law 10: a read whose next event is waited for and given up, again and again, loses none.
pub(super) async fn reads_dropped_at_each_await(trial: &Trial) -> Verdict {
    let events = trial.generator().rotated(trial.events(300), 40);
    let log = trial.holding(&events).await?;
    log.holds(&events).await?;
    for mut stream in [log.source().read(ReadFrom::Origin), log.source().follow(ReadFrom::Origin)] {
        let mut seen = Vec::new();
        while seen.len() < events.len() {
            match drop_after(1, stream.next()).await {
                None => tokio::task::yield_now().await,
                Some(Some(event)) => seen.push(event.expected(|| "events without an error".to_owned())?),
                Some(None) => return broken(format!("{} events", events.len()), format!("{}", seen.len())),
            }
        }
        same_events("a read that was given up and taken up again", &events, &seen)?;
    }
    log.close().await
}

pub(super) async fn dropped_reads(trial: &Trial) -> Verdict {
    let events = trial.generator().log(trial.events(300));
    let log = trial.holding(&events).await.of_law(1)?;
    log.holds(&events).await.of_law(10)?;
    drop(trial.next(&mut log.source().follow(ReadFrom::Origin), events.len()).await.of_law(10)?);
    let before = Held::now(trial);
    for count in [0, 1, events.len() / 2, events.len()] {
        for _ in 0..ROUNDS {
            let mut read = log.source().read(ReadFrom::Origin);
            let mut follow = log.source().follow(ReadFrom::Origin);
            trial.next(&mut read, count).await.of_law(10)?;
            trial.next(&mut follow, count).await.of_law(10)?;
            // At its end a follower waits; dropped there, it must let go as well.
            drop(drop_after(1, follow.next()).await);
        }
        before.is_restored(trial, &format!("dropping reads after {count} events")).await?;
    }
    log.close().await
}
