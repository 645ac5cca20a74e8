//! Going on past poison.

use std::sync::atomic::Ordering;

use hydrant::{
    DeadLetter, Error, ErrorKind, Event, EventId, EventSink, EventSourceExt, MemoryStore, ReadFrom, Retry,
};

use super::ids;
use crate::support::{Fault, Faulty, Mode, Scripted, batch, events};

/// A log of ten events, of which these are poison.
fn log(poison: &[u64]) -> Vec<Event> {
    let text = |id| if poison.contains(&id) { format!("poison {id}") } else { format!("event {id}") };
    (0..10).map(|id| Event::new(EventId::new(id), &text(id)).unwrap()).collect()
}

/// A store that never takes poison.
fn picky(script: impl IntoIterator<Item = Option<Fault>>) -> Scripted {
    let store = Scripted::new(script);
    store.refuse("poison");
    store
}

fn others(poison: &[u64]) -> Vec<u64> {
    (0..10).filter(|id| !poison.contains(id)).collect()
}

#[tokio::test]
async fn poison_goes_to_the_second_sink_and_the_others_go_on() {
    for poison in [&[][..], &[0], &[9], &[3, 4], &[0, 5, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        for chunk in [1, 3, 10] {
            let (sink, dead) = (picky([]), MemoryStore::default());
            let wrapped = DeadLetter::new(sink.clone(), dead.clone());
            let log = log(poison);
            for chunk in log.chunks(chunk) {
                wrapped.append(batch(chunk)).await.unwrap();
            }
            assert_eq!(ids(&sink).await, others(poison));
            let letters = dead.collect(ReadFrom::Origin).await.unwrap();
            let expected: Vec<_> =
                poison.iter().map(|&id| log[usize::try_from(id).unwrap()].clone()).collect();
            assert_eq!(letters, expected, "byte for byte");
            assert_eq!(wrapped.counter().load(Ordering::Relaxed), poison.len() as u64);
        }
    }
}

#[tokio::test]
async fn only_invalid_that_names_an_event_of_the_batch_is_poison() {
    let named = |kind| Error::new(kind, Retry::Never, "no").at(EventId::ZERO);
    for error in [
        named(ErrorKind::Denied),
        named(ErrorKind::Full),
        Error::invalid("names none"),
        Error::invalid("names another").at(EventId::new(99)),
    ] {
        let dead = MemoryStore::default();
        let wrapped = DeadLetter::new(Faulty::new(Mode::Before(error.clone())), dead.clone());
        let met = wrapped.append(batch(&events(0..3))).await.unwrap_err();
        assert_eq!((met.kind(), met.event()), (error.kind(), error.event()));
        assert!(ids(&dead).await.is_empty());
    }
}

#[tokio::test]
async fn when_the_second_sink_fails_nothing_is_passed_over() {
    let (sink, dead) = (picky([]), Faulty::new(Mode::Before(crate::support::safe())));
    let wrapped = DeadLetter::new(sink.clone(), dead.clone());
    let log = log(&[3]);
    assert!(wrapped.append(batch(&log)).await.is_err());
    assert_eq!(ids(&sink).await, [0, 1, 2]);
    assert_eq!(wrapped.counter().load(Ordering::Relaxed), 0);
    dead.set(Mode::Fine);
    wrapped.append(batch(&log)).await.unwrap();
    assert_eq!(ids(&sink).await, others(&[3]));
    assert_eq!(ids(&dead.inner).await, [3]);
}

/// A crash before the checkpoint: everything since is sent again, to both sinks.
#[tokio::test]
async fn what_is_sent_again_after_a_restart_changes_nothing() {
    let poison = [0, 3, 4, 9];
    let log = log(&poison);
    for crash in 0..=10 {
        for from in 0..=crash {
            let (sink, dead) = (picky([]), MemoryStore::default());
            let before = DeadLetter::new(sink.clone(), dead.clone());
            if crash > 0 {
                before.append(batch(&log[..crash])).await.unwrap();
            }
            let wrapped = DeadLetter::new(sink.clone(), dead.clone());
            if from < 10 {
                wrapped.append(batch(&log[from..])).await.unwrap();
            }
            let reached = if from < 10 { 10 } else { crash as u64 };
            assert_eq!(ids(&sink).await, others(&poison), "crashed at {crash}, sent from {from}");
            assert_eq!(ids(&dead).await, poison.map(|id| id.min(reached)));
        }
    }
}

#[tokio::test]
async fn unknown_outcomes_leave_no_hole_and_no_double() {
    let script = [Fault::After, Fault::Lost, Fault::After, Fault::After, Fault::Lost].map(Some);
    let (sink, dead) = (picky(script), Scripted::new([Some(Fault::After), Some(Fault::Lost)]));
    let wrapped = DeadLetter::new(sink.clone(), dead.clone());
    let poison = [0, 5];
    for chunk in log(&poison).chunks(4) {
        while wrapped.append(batch(chunk)).await.is_err() {}
    }
    assert_eq!(ids(&sink).await, others(&poison));
    assert_eq!(ids(&dead).await, poison);
}

/// `Safe` is only for a batch of which nothing was applied.
#[tokio::test]
async fn a_refusal_behind_what_was_applied_is_not_safe() {
    let refuses = || Some(Fault::Before(ErrorKind::Unavailable));
    let wrapped = DeadLetter::new(picky([refuses()]), MemoryStore::default());
    assert_eq!(wrapped.append(batch(&log(&[]))).await.unwrap_err().retry(), Retry::Safe);

    let log = log(&[3]);
    let sink = picky([None, None, None, refuses()]);
    let error = DeadLetter::new(sink.clone(), MemoryStore::default()).append(batch(&log)).await.unwrap_err();
    assert_eq!((ids(&sink).await, error.retry()), (vec![0, 1, 2], Retry::AfterCheckpoint));

    let (sink, dead) = (picky([]), Faulty::new(Mode::Before(crate::support::safe())));
    let error = DeadLetter::new(sink.clone(), dead).append(batch(&log)).await.unwrap_err();
    assert_eq!((ids(&sink).await, error.retry()), (vec![0, 1, 2], Retry::AfterCheckpoint));
}
