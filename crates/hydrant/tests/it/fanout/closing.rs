//! The end of a fan-out: `close` keeps its time-out, and leaves no task.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use hydrant::{
    Batch, Checkpoint, ErrorKind, EventSink, EventSource, EventSourceExt, FanOut, FanOutOptions, MemoryStore,
    ReadFrom, Result, SecondaryOptions, SecondaryState,
};
use tokio::time::Instant;

use super::rig::{Accepting, Act, Server};
use super::{SOON, until};
use crate::support::{Faulty, Mode, batch, event, events, id, poll_once, safe};

const SECOND: Duration = Duration::from_secs(1);

/// The tasks that run, once those that were aborted are gone.
async fn tasks() -> usize {
    tokio::time::sleep(Duration::from_millis(1)).await;
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A fan-out with sinks that are at the head, hang, are down, parked, and lingering.
async fn busy(primary: &Server) -> FanOut<Server> {
    let log = FanOut::open(primary.clone(), FanOutOptions::default().with_seed(1)).await.unwrap();
    let acts = [
        ("good", Act::Fine),
        ("hangs", Act::Hang),
        ("down", Act::Fail(safe())),
        ("late", Act::Late(Duration::from_secs(3600))),
        ("parked", Act::Panic),
    ];
    for (name, act) in acts {
        let sink = Server::default();
        sink.append.set(act);
        log.attach(name, sink, SecondaryOptions::default()).await.unwrap();
    }
    let lingers = SecondaryOptions::default().with_linger_max(Duration::from_secs(3600));
    log.attach("lingers", MemoryStore::default(), lingers).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    until(&log, "parked", SecondaryState::Parked).await;
    until(&log, "down", SecondaryState::Retrying).await;
    log
}

#[tokio::test(start_paused = true)]
async fn close_drains_what_it_can_and_reports_the_rest() {
    let before = tasks().await;
    let log = busy(&Server::default()).await;
    let begun = Instant::now();
    let laggards = log.close(SOON).await;
    assert!(begun.elapsed() <= SOON + SECOND / 10, "{:?}", begun.elapsed());
    let names: Vec<_> = laggards.iter().map(|laggard| &*laggard.name).collect();
    assert_eq!(names, ["down", "hangs", "late", "parked"]);
    assert!(laggards.iter().all(|laggard| laggard.lag_events == 3), "{laggards}");
    assert_eq!(tasks().await, before, "tasks are left");
}

#[tokio::test(start_paused = true)]
async fn a_lingering_pump_does_not_delay_close() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let sink = MemoryStore::default();
    let lingers = SecondaryOptions::default().with_linger_max(Duration::MAX);
    log.attach("sink", sink.clone(), lingers).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    let begun = Instant::now();
    assert!(log.close(SOON).await.is_empty());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(sink.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
}

#[tokio::test(start_paused = true)]
async fn close_keeps_its_time_out_when_everything_hangs() {
    let before = tasks().await;
    let primary = Server::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    let sinks: Vec<_> = (0..20).map(|_| Server::default()).collect();
    for (index, sink) in sinks.iter().enumerate() {
        log.attach(&index.to_string(), sink.clone(), SecondaryOptions::default()).await.unwrap();
    }
    log.append(batch(&events(0..1))).await.unwrap();
    log.delivered(id(0), SOON).await.unwrap();
    for sink in &sinks {
        sink.append.set(Act::Hang);
        sink.checkpoint.set(Act::Hang);
    }
    primary.roster.load.set(Act::Hang);
    primary.roster.swap.set(Act::Hang);
    log.append(batch(&events(1..2))).await.unwrap();
    primary.append.set(Act::Hang);
    primary.checkpoint.set(Act::Hang);
    let appending = tokio::spawn({
        let log = log.clone();
        async move { log.append(batch(&events(2..3))).await }
    });
    tokio::time::sleep(SECOND / 2).await;
    let begun = Instant::now();
    assert_eq!(log.close(SECOND).await.len(), 20);
    assert!(begun.elapsed() <= SECOND + SECOND / 10, "{:?}", begun.elapsed());
    let error = tokio::time::timeout(SECOND, appending).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.retry(), hydrant::Retry::AfterCheckpoint, "{error}");
    assert_eq!(tasks().await, before, "tasks are left");
}

#[tokio::test(start_paused = true)]
async fn close_waits_until_what_was_accepted_is_durable() {
    for in_time in [true, false] {
        let primary = Accepting::default();
        let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
        let sink = MemoryStore::default();
        log.attach("sink", sink.clone(), SecondaryOptions::default()).await.unwrap();
        let seeing = tokio::spawn(log.follow(ReadFrom::Origin).collect::<Vec<_>>());
        log.append(batch(&events(0..3))).await.unwrap();
        let syncing = tokio::spawn({
            let primary = primary.clone();
            async move {
                tokio::time::sleep(if in_time { SECOND } else { SOON * 2 }).await;
                primary.sync().await;
            }
        });
        let begun = Instant::now();
        let laggards = log.close(SOON).await;
        let has = sink.collect(ReadFrom::Origin).await.unwrap().len();
        if in_time {
            assert!(laggards.is_empty(), "{laggards}");
            assert_eq!(has, 3);
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        } else {
            assert_eq!((laggards.len(), laggards[0].lag_events, has), (1, 3, 0), "{laggards}");
            assert!(begun.elapsed() <= SOON + SECOND / 10, "{:?}", begun.elapsed());
        }
        let mut seen = seeing.await.unwrap();
        assert_eq!(seen.pop().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(seen.len(), has, "a follower sees the same");
        syncing.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_close_waits_for_the_pumps_too() {
    for polls in 1..6 {
        let before = tasks().await;
        let log = busy(&Server::default()).await;
        {
            let mut closing = Box::pin(log.close(SOON));
            for _ in 0..polls {
                drop(poll_once(&mut closing).await);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(tasks().await > before, "after {polls} polls");
        drop(log.close(SECOND).await);
        assert_eq!(tasks().await, before, "tasks are left after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_closes_the_shorter_time_out_counts() {
    let log = busy(&Server::default()).await;
    let begun = Instant::now();
    let (long, short) = tokio::join!(log.close(SOON * 10), log.close(SECOND));
    assert!(begun.elapsed() <= SECOND + SECOND / 5, "{:?}", begun.elapsed());
    assert_eq!(long.to_string(), short.to_string());
}

#[tokio::test(start_paused = true)]
async fn close_without_end_waits_for_the_slowest() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let slow = Faulty::new(Mode::Slow(Duration::from_secs(20)));
    log.attach("slow", slow.clone(), SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    assert!(log.close(Duration::MAX).await.is_empty());
    assert_eq!(slow.inner.collect(ReadFrom::Origin).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn attach_that_races_close_delivers_nothing_after_it() {
    // `close` begins before, during and after the roster's turn.
    for pause in [0, 50, 150, 250] {
        let primary = Server::default();
        let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
        log.append(batch(&events(0..100))).await.unwrap();
        primary.roster.load.set(Act::Slow(Duration::from_millis(100)));
        primary.roster.swap.set(Act::Slow(Duration::from_millis(100)));
        let sink = Server::default();
        sink.append.set(Act::Slow(SECOND));
        let attaching = tokio::spawn({
            let (log, sink) = (log.clone(), sink.clone());
            async move { log.attach("late", sink, SecondaryOptions::default()).await }
        });
        tokio::time::sleep(Duration::from_millis(pause)).await;
        drop(log.close(Duration::ZERO).await);
        let after_close = sink.appends();
        let attached = attaching.await.unwrap();
        tokio::time::sleep(SOON).await;
        assert_eq!(sink.appends(), after_close, "close after {pause} ms");
        match attached {
            Ok(()) => assert!(pause > 200, "attached to a log that was closed after {pause} ms"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
        }
    }
}

/// Blocks its thread in `append` until it is released.
struct Blocking {
    entered: mpsc::Sender<()>,
    released: Mutex<mpsc::Receiver<()>>,
    _held: Arc<()>,
}

#[async_trait]
impl EventSink for Blocking {
    async fn append(&self, _: Batch<'_>) -> Result<()> {
        self.entered.send(()).unwrap();
        self.released.lock().unwrap().recv().unwrap();
        Ok(())
    }

    async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::Empty)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn close_waits_for_a_pump_that_is_being_detached() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let held = Arc::new(());
    let sink = Blocking { entered, released: Mutex::new(released), _held: held.clone() };
    log.attach("sink", sink, SecondaryOptions::default()).await.unwrap();
    log.append(batch(&events(0..1))).await.unwrap();
    tokio::task::block_in_place(|| has_entered.recv().unwrap());
    let detaching = tokio::spawn({
        let log = log.clone();
        async move { log.detach("sink").await }
    });
    while log.status().secondaries[0].state != SecondaryState::Detached {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn({
        let log = log.clone();
        async move { log.close(SOON * 10).await }
    });
    while log.status().stopped.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(Arc::strong_count(&held), 2);
    release.send(()).unwrap();
    assert!(closing.await.unwrap().is_empty());
    assert_eq!(Arc::strong_count(&held), 1, "closed, and the sink is still held");
    detaching.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn detach_ends_the_pump_of_a_sink_that_hangs() {
    let log = busy(&Server::default()).await;
    let names: Vec<_> = log.status().secondaries.into_iter().map(|secondary| secondary.name).collect();
    let running = tasks().await;
    let begun = Instant::now();
    for name in &names {
        log.detach(name).await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(tasks().await, running - names.len());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_all_tasks() {
    let before = tasks().await;
    let primary = Server::default();
    let log = busy(&primary).await;
    drop(log);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(tasks().await, before, "with sinks in every state");

    // While an append hangs, and while `close`, which was dropped, waits for the primary.
    let log = busy(&primary).await;
    primary.append.set(Act::Hang);
    assert!(log.append(batch(&events(3..4))).now_or_never().is_none());
    tokio::time::sleep(SECOND).await;
    drop(log);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(tasks().await, before, "with an append in flight");

    let primary = Accepting::default();
    let log = FanOut::open(primary.clone(), FanOutOptions::default()).await.unwrap();
    log.append(batch(&events(0..3))).await.unwrap();
    assert!(log.close(SOON).now_or_never().is_none());
    tokio::time::sleep(SECOND).await;
    drop(log);
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(tasks().await, before, "with a close that was dropped");
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_log_however_it_ends() {
    for how in ["close", "stop", "drop"] {
        let primary = Server::default();
        let log =
            FanOut::open(primary.clone(), FanOutOptions::default().with_ring(2, 1 << 20)).await.unwrap();
        log.attach("sink", MemoryStore::default(), SecondaryOptions::default()).await.unwrap();
        log.append(batch(&events(0..6))).await.unwrap();
        let mut behind = log.follow(ReadFrom::Origin);
        let mut at_head = log.follow(ReadFrom::After(id(5)));
        let waiting = tokio::spawn(async move { at_head.next().await });
        let watching = tokio::spawn(log.watch().collect::<Vec<_>>());
        tokio::time::sleep(SECOND).await;
        let expected = match how {
            "close" => {
                drop(log.close(SOON).await);
                ErrorKind::Closed
            }
            "stop" => {
                primary.fail_over(&[]).await;
                log.checkpoint().await.unwrap();
                primary.fail_over(&events(0..6)).await;
                ErrorKind::Diverged
            }
            _ => ErrorKind::Closed,
        };
        drop(log);
        let ended = tokio::time::timeout(SECOND, waiting).await.expect("it never ends").unwrap();
        assert_eq!(ended.unwrap().unwrap_err().kind(), expected, "{how}");
        for at in 0..6 {
            assert_eq!(behind.next().await.unwrap().unwrap(), event(at), "{how}");
        }
        behind.next().await.unwrap().unwrap_err();
        assert!(behind.next().await.is_none());
        // Although `behind` is held.
        tokio::time::timeout(SOON, watching).await.expect("the watch never ends").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_with_the_log_although_a_stream_is_held() {
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let _held = log.follow(ReadFrom::Origin);
    let mut changes = Box::pin(log.watch());
    changes.next().await.unwrap();
    drop(log);
    // Its tasks are not gone yet, so there is a last status.
    assert!(changes.next().await.is_some());
    let ended = tokio::time::timeout(SOON, changes.next()).await.expect("it never ends");
    assert!(ended.is_none());
}
