//! States, lag and errors mean what they say, and each change wakes the watch.

use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Clock, EventSink, FanOut, FanOutOptions, MemoryStore, SecondaryOptions, SecondaryState, SecondaryStatus,
};

use super::rig::{Accepting, Act, Server};
use super::{SOON, status, until};
use crate::support::{batch, event, events, id, safe};

const SECOND: Duration = Duration::from_secs(1);

/// Whether a status shows a change.
type Seen = fn(&SecondaryStatus) -> bool;

async fn attached(sink: &Server, options: SecondaryOptions) -> FanOut<MemoryStore> {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default().with_seed(1)).await.unwrap();
    log.attach("sink", sink.clone(), options).await.unwrap();
    log
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_is_not_live() {
    let sink = Server::default();
    let log = attached(&sink, SecondaryOptions::default().with_call_timeout(Duration::from_secs(600))).await;
    log.append(batch(&events(0..1))).await.unwrap();
    log.delivered(id(0), SOON).await.unwrap();
    assert_eq!(until(&log, "sink", SecondaryState::Live).await.lag_events, 0);
    sink.append.set(Act::Hang);
    log.append(batch(&events(1..2))).await.unwrap();
    // The watch wakes, although nothing but time changed.
    let late = until(&log, "sink", SecondaryState::CatchingUp).await;
    assert_eq!(late.lag_events, 1);
    assert!(late.lag >= SECOND && late.lag <= SECOND * 3, "{:?}", late.lag);
}

#[tokio::test(start_paused = true)]
async fn a_sink_far_behind_catches_up_before_it_is_live() {
    let sink = Server::default();
    sink.append.set(Act::Slow(Duration::from_millis(10)));
    let log = attached(&sink, SecondaryOptions::default().with_batch(10, 1 << 20)).await;
    log.append(batch(&events(0..1_000))).await.unwrap();
    let mut changes = Box::pin(log.watch());
    let mut seen = Vec::new();
    while log.delivered(id(999), Duration::ZERO).await.is_err() {
        let status = changes.next().await.unwrap().secondaries.remove(0);
        if status.state == SecondaryState::Live {
            assert!(status.lag_events <= 10, "{} events", status.lag_events);
        }
        seen.push(status.state);
    }
    assert!(seen.contains(&SecondaryState::CatchingUp), "{seen:?}");
    until(&log, "sink", SecondaryState::Live).await;
}

/// The time that a batch takes to fill is no lag.
#[tokio::test(start_paused = true)]
async fn a_sink_that_lingers_is_live() {
    let sink = Server::default();
    let lingers = SecondaryOptions::default().with_linger_max(Duration::from_secs(10));
    let log = attached(&sink, lingers).await;
    log.append(batch(&events(0..1))).await.unwrap();
    for _ in 0..9 {
        tokio::time::sleep(SECOND).await;
        assert_eq!(status(&log, "sink").state, SecondaryState::Live);
    }
}

#[tokio::test(start_paused = true)]
async fn recovery_clears_the_error_and_keeps_its_time() {
    let sink = Server::default();
    let log = attached(&sink, SecondaryOptions::default()).await;
    assert_eq!(status(&log, "sink").last_error_at, None);
    sink.append.set(Act::Fail(safe()));
    log.append(batch(&events(0..3))).await.unwrap();
    let failing = until(&log, "sink", SecondaryState::Retrying).await;
    assert!(failing.last_error.is_some() && failing.last_error_at.is_some() && failing.retries > 0);
    sink.append.set(Act::Fine);
    log.delivered(id(2), SOON * 10).await.unwrap();
    let well = status(&log, "sink");
    assert_eq!(well.last_error.map(|error| error.to_string()), None);
    assert_eq!(well.last_error_at, failing.last_error_at.max(well.last_error_at));
    assert!(well.last_error_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_recovers_far_behind_has_no_error() {
    let sink = Server::default();
    let log = attached(&sink, SecondaryOptions::default().with_batch(1, 1 << 20)).await;
    sink.append.set(Act::Fail(safe()));
    log.append(batch(&events(0..100))).await.unwrap();
    until(&log, "sink", SecondaryState::Retrying).await;
    sink.append.set(Act::Slow(SECOND));
    while status(&log, "sink").checkpoint.is_none() {
        tokio::time::sleep(SECOND).await;
    }
    let now = status(&log, "sink");
    assert_eq!((now.state, now.last_error.is_none()), (SecondaryState::CatchingUp, true), "{now:?}");
}

/// A sink has recovered once it is seen to have everything, without a further event.
#[tokio::test(start_paused = true)]
async fn a_sink_that_recovers_at_the_head_has_no_error() {
    let sink = Server::default();
    let log = attached(&sink, SecondaryOptions::default()).await;
    sink.append.set(Act::Lose(safe()));
    log.append(batch(&events(0..3))).await.unwrap();
    until(&log, "sink", SecondaryState::Retrying).await;
    sink.append.set(Act::Fine);
    let live = until(&log, "sink", SecondaryState::Live).await;
    assert_eq!(live.lag_events, 0);
    tokio::time::sleep(SECOND).await;
    assert_eq!(status(&log, "sink").last_error.map(|error| error.to_string()), None);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_an_error_is_read_from_the_clock() {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let options = FanOutOptions::default().with_clock(Clock::from_fn(move || at));
    let log = FanOut::open(MemoryStore::default(), options).await.unwrap();
    let sink = Server::default();
    sink.append.set(Act::Panic);
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..1))).await.unwrap();
    assert_eq!(until(&log, "sink", SecondaryState::Parked).await.last_error_at, Some(at));
    let json = serde_json::to_value(log.status()).unwrap();
    assert_eq!(json["secondaries"][0]["lastErrorAt"], "1970-01-12T13:46:40Z");
    assert_eq!(json["secondaries"][0]["state"], "parked");
}

/// Events that the primary only accepted are no lag yet.
#[tokio::test(start_paused = true)]
async fn what_is_only_accepted_is_not_yet_lag() {
    let primary = Accepting::default();
    // Evicted from the ring before it is durable.
    let log = FanOut::open(primary.clone(), FanOutOptions::default().with_ring(2, 1 << 20)).await.unwrap();
    log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..10))).await.unwrap();
    tokio::time::sleep(SOON).await;
    let idle = status(&log, "sink");
    assert_eq!((idle.state, idle.lag_events, log.status().head), (SecondaryState::Live, 0, None));
    assert_eq!(log.delivered(id(9), SOON).await.unwrap_err()[0].lag_events, 10, "of what was acknowledged");
    primary.sync().await;
    log.delivered(id(9), SOON).await.unwrap();
    assert_eq!(status(&log, "sink").lag_events, 0);
}

#[tokio::test(start_paused = true)]
async fn delivered_waits_for_events_beyond_the_head() {
    let log = attached(&Server::default(), SecondaryOptions::default()).await;
    log.append(batch(&events(0..1))).await.unwrap();
    let laggards = log.delivered(id(5), SOON).await.unwrap_err();
    assert_eq!((laggards.len(), laggards[0].lag_events), (1, 0));
    let (delivered, ()) = tokio::join!(log.delivered(id(5), SOON), async {
        tokio::time::sleep(SECOND).await;
        log.append(batch(&events(1..6))).await.unwrap();
    });
    delivered.unwrap();
    log.detach("sink").await.unwrap();
    log.delivered(id(99), SOON).await.unwrap();
}

/// The watch yields after each of these, without a clock.
#[tokio::test(start_paused = true)]
async fn each_change_wakes_the_watch() {
    let primary = Server::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let sink = Server::default();
    log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
    until(&log, "sink", SecondaryState::Live).await;
    let mut changes = Box::pin(log.watch());
    let cases: [(&str, Seen); 6] = [
        ("append", |now| now.checkpoint == Some(id(0))),
        ("fail", |now| now.state == SecondaryState::Retrying && now.last_error.is_some()),
        ("park", |now| now.state == SecondaryState::Parked),
        ("resume", |now| now.state != SecondaryState::Parked),
        ("recover", |now| now.state == SecondaryState::Live && now.checkpoint == Some(id(1))),
        ("detach", |_| false),
    ];
    for (step, is_seen) in cases {
        match step {
            "append" => log.append(batch(&[event(0)])).await.unwrap(),
            "fail" => {
                sink.append.set(Act::Fail(safe()));
                log.append(batch(&[event(1)])).await.unwrap();
            }
            "park" => log.park("sink").unwrap(),
            "resume" => log.resume("sink").unwrap(),
            "recover" => sink.append.set(Act::Fine),
            _ => log.detach("sink").await.unwrap(),
        }
        let seen = async {
            loop {
                let now = changes.next().await.unwrap();
                if now.secondaries.first().map_or(step == "detach", is_seen) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen)
            .await
            .unwrap_or_else(|_| panic!("{step} is not seen"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_watch_shows_that_the_log_stopped() {
    let primary = Server::holding(&events(0..3)).await;
    let log = FanOut::open(primary.clone(), FanOutOptions::default().with_target("memory:a")).await.unwrap();
    let mut changes = Box::pin(log.watch());
    let now = changes.next().await.unwrap();
    assert_eq!(
        (now.target.as_deref(), now.head, now.stopped.is_none()),
        (Some("memory:a"), Some(id(2)), true)
    );
    primary.fail_over(&[]).await;
    log.checkpoint().await.unwrap();
    let stopped = async { while changes.next().await.unwrap().stopped.is_none() {} };
    tokio::time::timeout(Duration::from_millis(1), stopped).await.expect("it is not seen");
}
