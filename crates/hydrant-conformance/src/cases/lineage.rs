//! Law 14: lineage. What a pump compares, and that it parks what belongs to another log.

use std::sync::Arc;
use std::time::Duration;

use hydrant::{
    Batch, Checkpoint, ErrorKind, Event, EventSink, EventSource, EventSourceExt, MemoryCheckpoints,
    MemoryStore, ReadFrom, Relay, RelayOptions, SecondaryOptions, SecondaryState, SecondaryStatus,
};

use crate::Trial;
use crate::law::{Expected, Finding, Verdict, broken, not_yet};
use crate::log::{last, name, same_events};

const NAME: &str = "secondary";

/// A log in memory, for the other side of a relay.
async fn in_memory(events: &[Event]) -> Verdict<MemoryStore> {
    let store = MemoryStore::default();
    let mut after = None;
    for segment in Batch::segments(events) {
        let batch = Batch::new(after, segment).expect("ids grow");
        store.append(batch).await.expected(|| "a log in memory to take its events".to_owned())?;
        after = last(segment);
    }
    Ok(store)
}

/// Runs a relay from `primary` to `sink` until `done` accepts its status.
async fn relay(
    trial: &Trial,
    primary: impl EventSource + 'static,
    sink: impl EventSink + 'static,
    expected: &str,
    done: impl Fn(&SecondaryStatus) -> bool,
) -> Verdict {
    let roster = Arc::new(MemoryCheckpoints::default());
    let relay = Relay::open(primary, roster, RelayOptions::default()).await;
    let relay = relay.expected(|| "a relay to open".to_owned())?;
    let options =
        SecondaryOptions::default().with_backoff(Duration::from_millis(1), Duration::from_millis(20));
    relay.attach(NAME, sink, options).await.expected(|| "the sink to be attached".to_owned())?;
    let look = || async {
        match relay.status().secondaries.first() {
            Some(status) if done(status) => Ok(()),
            Some(status) if status.state == SecondaryState::Parked => broken(expected, format!("{status:?}")),
            status => not_yet(expected, format!("{status:?}")),
        }
    };
    let verdict = trial.settled(true, look).await;
    drop(relay.close(Duration::ZERO).await);
    verdict
}

/// Returns whether the secondary is parked as `Diverged`, with an error that names the event that is compared.
fn diverged(at: &Event) -> impl Fn(&SecondaryStatus) -> bool {
    let id = at.id();
    move |status| {
        let error = status.last_error.as_ref();
        let names_it = error.is_some_and(|error| error.event() == Some(id));
        status.state == SecondaryState::Parked
            && names_it
            && error.map(hydrant::Error::kind) == Some(ErrorKind::Diverged)
    }
}

pub(super) async fn digests(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 20);
    let mut log = trial.open().await?;
    for (at, event) in events.iter().enumerate() {
        log.append(last(&events[..at]), std::slice::from_ref(event)).await?;
        let look = || async {
            match log.checkpoint().await? {
                Checkpoint::At { id, digest } if id == event.id() && digest == event.digest() => Ok(()),
                other => broken(
                    format!("the checkpoint {}", name(&Checkpoint::at(event))),
                    format!("the checkpoint {}", name(&other)),
                )
                .may_pass(other.id() < Some(event.id())),
            }
        };
        trial.settled(!trial.is_durable(), look).await?;
        if at % 7 == 6 {
            log = log.reopen().await?;
        }
    }
    log.close().await
}

pub(super) async fn own_history(trial: &Trial) -> Verdict {
    let events = trial.generator().gapped(None, 40);
    let log = trial.holding(&events[..15]).await?.reopen().await?;
    let primary = in_memory(&events).await?;
    let caught_up = |status: &SecondaryStatus| status.checkpoint == last(&events);
    relay(trial, primary, log.sink(), "a sink of the primary's history to catch up", caught_up).await?;
    log.holds(&events).await?;
    log.close().await
}

pub(super) async fn other_history(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let (held, mut other) = (generator.log(6), generator.log(9));
    // The same ids; only the last that the sink holds is another event.
    other[..5].clone_from_slice(&held[..5]);
    let log = trial.holding(&held).await?.reopen().await?;
    log.holds(&held).await?;
    let primary = in_memory(&other).await?;
    let expected = "a sink that ends with another event than the primary's to be parked, Diverged";
    relay(trial, primary, log.sink(), expected, diverged(&held[5])).await?;
    log.holds(&held).await?;
    log.close().await
}

pub(super) async fn beyond_the_head(trial: &Trial) -> Verdict {
    let held = trial.generator().log(9);
    let log = trial.holding(&held).await?.reopen().await?;
    log.holds(&held).await?;
    let primary = in_memory(&held[..6]).await?;
    let expected = "a sink that is beyond the primary's head to be parked, Diverged";
    relay(trial, primary, log.sink(), expected, diverged(&held[8])).await?;
    log.holds(&held).await?;
    log.close().await
}

pub(super) async fn as_the_primary(trial: &Trial) -> Verdict {
    let mut generator = trial.generator();
    let events = generator.log(30);
    let log = trial.holding(&events).await?;
    log.reads(ReadFrom::Origin, &events).await?;
    for held in [1, 12, 30] {
        let sink = in_memory(&events[..held]).await?;
        let caught_up = |status: &SecondaryStatus| status.checkpoint == last(&events);
        relay(trial, log.source(), sink.clone(), "a sink of this history to catch up", caught_up).await?;
        let seen = sink.collect(ReadFrom::Origin).await.expected(|| "a log in memory reads".to_owned())?;
        same_events("a relay from this source", &events, &seen)?;
    }
    let beyond = generator.gapped(last(&events), 1);
    let mut longer = events.clone();
    longer.extend(beyond);
    let mut other = events[..12].to_vec();
    other[11] = generator.snapshot(events[11].id().get());
    for held in [longer, other] {
        let sink = in_memory(&held).await?;
        let expected = "a sink of another history to be parked, Diverged";
        relay(trial, log.source(), sink, expected, diverged(&held[held.len() - 1])).await?;
    }
    log.close().await
}
