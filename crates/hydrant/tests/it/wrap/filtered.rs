//! Only some of the events.

use hydrant::{
    Batch, Checkpoint, ErrorKind, Event, EventSink, EventSourceExt, Filtered, MemoryStore, ReadFrom,
};

use super::{Forgetful, holding, ids};
use crate::support::{Fault, Scripted, batch, event, events, id, snapshot};

fn even(event: &Event) -> bool {
    event.id().get().is_multiple_of(2)
}

#[tokio::test]
async fn the_sink_holds_a_log_of_the_kept_events() {
    let store = MemoryStore::default();
    let wrapped = Filtered::new(store.clone(), even);
    let log = events(0..9);
    for chunk in [&log[..1], &log[1..2], &log[2..3], &log[3..6], &log[6..]] {
        wrapped.append(batch(chunk)).await.unwrap();
    }
    assert_eq!(ids(&store).await, [0, 2, 4, 6, 8]);
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap()[1], log[2]);
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::at(&log[8]));
}

/// A crash between the sink's append and the checkpoint: the sink is ahead, behind, or exactly there.
#[tokio::test]
async fn after_a_restart_it_goes_on_from_wherever_the_sink_is() {
    let log = events(0..9);
    for held in [&[][..], &[0], &[0, 2], &[0, 2, 4], &[0, 2, 4, 6, 8]] {
        for from in 0..log.len() {
            let passed: Vec<u64> = (0..from as u64).filter(|id| id % 2 == 0).collect();
            if !held.starts_with(&passed) {
                continue; // a checkpoint is never ahead of the sink
            }
            let store = holding(held).await;
            let wrapped = Filtered::new(store.clone(), even);
            wrapped.append(batch(&log[from..])).await.unwrap();
            assert_eq!(ids(&store).await, [0, 2, 4, 6, 8], "held {held:?}, sent from {from}");
        }
    }
}

#[tokio::test]
async fn another_history_is_fenced_by_the_sink() {
    let store = holding(&[0, 2]).await;
    let wrapped = Filtered::new(store.clone(), even);
    let other = [event(1), Event::new(id(2), "other").unwrap(), event(3), event(4)];
    let error = wrapped.append(batch(&other)).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Fenced, Some(id(2))));
    assert_eq!(ids(&store).await, [0, 2]);
}

/// The sink took event 2 late, after the log that had it was lost; the new log has another event there, or none.
#[tokio::test]
async fn event_of_a_lost_log_is_fenced_even_if_not_kept() {
    let dropped = [event(0), event(1), Event::new(id(2), "other").unwrap(), event(4)];
    let absent = [event(0), event(1), event(3), event(4)];
    for (log, chunk) in [&dropped, &absent].into_iter().flat_map(|log| [1, 2, 4].map(|chunk| (log, chunk))) {
        let store = holding(&[0, 2]).await;
        let keep = |event: &Event| even(event) && !event.payload().starts_with(b"\"other");
        let wrapped = Filtered::new(store.clone(), keep);
        let mut fenced = None;
        for events in log.chunks(chunk) {
            let after = events[0].id().prev().filter(|_| events[0].id() > id(0));
            let after = log.iter().map(Event::id).rfind(|id| Some(*id) <= after);
            if let Err(error) = wrapped.append(Batch::new(after, events).unwrap()).await {
                fenced = Some(error);
                break;
            }
        }
        let error = fenced.expect("two histories were mixed");
        assert_eq!((error.kind(), error.event()), (ErrorKind::Fenced, Some(id(2))), "{error}");
        assert_eq!(ids(&store).await, [0, 2]);
        // A second attempt finds it again.
        assert_eq!(wrapped.append(batch(log)).await.unwrap_err().kind(), ErrorKind::Fenced);
    }
}

/// A filter that keeps less than before, after a crash between the append and the checkpoint.
#[tokio::test]
async fn a_changed_filter_continues_after_the_same_event() {
    let store = holding(&[0, 2]).await;
    let wrapped = Filtered::new(store.clone(), |event: &Event| even(event) && event.id() != id(2));
    let log = events(0..6);
    wrapped.append(batch(&log[1..3])).await.unwrap();
    wrapped.append(batch(&log[3..])).await.unwrap();
    assert_eq!(ids(&store).await, [0, 2, 4]);
}

#[tokio::test]
async fn an_unknown_outcome_is_sent_again_without_a_hole_or_a_double() {
    let store = Scripted::new([Some(Fault::After), Some(Fault::Lost), None, Some(Fault::After)]);
    let wrapped = Filtered::new(store.clone(), even);
    let log = events(0..9);
    for chunk in [&log[..3], &log[3..6], &log[6..]] {
        while wrapped.append(batch(chunk)).await.is_err() {}
    }
    assert_eq!(ids(&store).await, [0, 2, 4, 6, 8]);
}

/// What the sink acknowledged is what the next batch stands behind, not what it says later.
#[tokio::test]
async fn a_sink_that_loses_events_meanwhile_answers_gap() {
    let store = Scripted::default();
    let wrapped = Filtered::new(store.clone(), even);
    let log = events(0..9);
    wrapped.append(batch(&log[..3])).await.unwrap();
    store.empty();
    let error = wrapped.append(batch(&log[3..6])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap);
}

#[tokio::test]
async fn a_sink_without_memory_just_gets_what_is_kept() {
    let sink = Forgetful::default();
    let wrapped = Filtered::new(sink.clone(), even);
    let log = events(0..9);
    wrapped.append(batch(&log[..5])).await.unwrap();
    wrapped.append(batch(&log[5..])).await.unwrap();
    assert_eq!(sink.taken(), [0, 2, 4, 6, 8]);
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Unknown);
}

#[tokio::test]
async fn a_log_that_starts_at_a_snapshot_says_where_its_floor_is() {
    let store = MemoryStore::default();
    let wrapped = Filtered::new(store.clone(), even);
    let log = [snapshot(6), event(7), event(8)];
    wrapped.append(Batch::new(Some(id(5)), &log).unwrap()).await.unwrap();
    let error = store.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: id(6) });
}

/// Alone under a pump: after an unknown outcome it asks for the checkpoint, and sends from there.
#[tokio::test]
async fn after_asking_it_continues_from_the_checkpoint() {
    for fault in [Fault::After, Fault::Lost] {
        let store = Scripted::new([None, Some(fault)]);
        let wrapped = Filtered::new(store.clone(), even);
        let log = events(0..12);
        wrapped.append(batch(&log[..3])).await.unwrap();
        wrapped.append(batch(&log[3..7])).await.unwrap_err();
        let from = wrapped.checkpoint().await.unwrap().id().unwrap().get();
        let from = usize::try_from(from).unwrap() + 1;
        for chunk in log[from..].chunks(2) {
            wrapped.append(batch(chunk)).await.unwrap();
        }
        assert_eq!(ids(&store).await, [0, 2, 4, 6, 8, 10], "{fault:?}");
    }
}

/// A checkpoint that is asked for while all is well hides no loss.
#[tokio::test]
async fn a_loss_is_a_gap_until_the_caller_asks_after_it() {
    let store = Scripted::default();
    let wrapped = Filtered::new(store.clone(), even);
    let log = events(0..9);
    wrapped.append(batch(&log[..3])).await.unwrap();
    store.empty();
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Empty);
    assert_eq!(wrapped.append(batch(&log[3..6])).await.unwrap_err().kind(), ErrorKind::Gap);
    assert_eq!(wrapped.append(batch(&log[3..6])).await.unwrap_err().kind(), ErrorKind::Gap);
    assert_eq!(wrapped.checkpoint().await.unwrap(), Checkpoint::Empty);
    for chunk in log.chunks(2) {
        wrapped.append(batch(chunk)).await.unwrap();
    }
    assert_eq!(ids(&store).await, [0, 2, 4, 6, 8]);
}

/// Another runner wrote meanwhile. Resumed, this one continues after it.
#[tokio::test]
async fn after_fenced_it_asks_the_sink_again() {
    let store = MemoryStore::default();
    let (one, other) = (Filtered::new(store.clone(), even), Filtered::new(store.clone(), even));
    let log = events(0..12);
    one.append(batch(&log[..3])).await.unwrap();
    other.append(batch(&log[..7])).await.unwrap();
    assert_eq!(one.append(batch(&log[7..])).await.unwrap_err().kind(), ErrorKind::Fenced);
    one.append(batch(&log[7..])).await.unwrap();
    assert_eq!(ids(&store).await, [0, 2, 4, 6, 8, 10]);
}
