//! Going on past poison.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant::{
    Checkpointed, DeadLetter, Error, ErrorKind, Event, EventId, EventSink, EventSourceExt, MemoryCheckpoints,
    MemoryStore, ReadFrom, Retry,
};

use super::{LateJudge, ids};
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
async fn no_event_is_skipped_if_the_second_sink_fails() {
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

/// A crash before the checkpoint: everything since is sent again, to both sinks, in batches of any length.
#[tokio::test]
async fn what_is_sent_again_after_a_restart_changes_nothing() {
    for poison in [&[0, 3, 4, 9][..], &[3], &[8, 9], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
        let log = log(poison);
        for crash in 1..=log.len() {
            for from in 0..crash {
                for chunk in [1, 2, 3, 10] {
                    let (late, picky) = (LateJudge::<MemoryStore>::default(), picky([]));
                    sent_again(late.clone(), &log, crash, from, chunk, poison).await;
                    assert_eq!(ids(&late.0).await, others(poison), "crashed at {crash}, sent from {from}");
                    sent_again(picky.clone(), &log, crash, from, chunk, poison).await;
                    assert_eq!(ids(&picky).await, others(poison), "crashed at {crash}, sent from {from}");
                }
            }
        }
    }
}

async fn sent_again(
    sink: impl EventSink + Clone,
    log: &[Event],
    crash: usize,
    from: usize,
    chunk: usize,
    poison: &[u64],
) {
    let dead = MemoryStore::default();
    DeadLetter::new(sink.clone(), dead.clone()).append(batch(&log[..crash])).await.unwrap();
    let wrapped = DeadLetter::new(sink, dead.clone());
    for chunk in log[from..].chunks(chunk) {
        wrapped.append(batch(chunk)).await.unwrap();
    }
    assert_eq!(ids(&dead).await, poison);
}

#[tokio::test]
async fn a_crash_between_dead_letter_and_checkpoint_is_overcome() {
    let (sink, dead) = (LateJudge::<MemoryStore>::default(), MemoryStore::default());
    let checkpoints = Arc::new(MemoryCheckpoints::default());
    let log = log(&[3]);
    let open =
        || Checkpointed::open(DeadLetter::new(sink.clone(), dead.clone()), checkpoints.clone(), "s", "t");
    open().await.unwrap().append(batch(&log[..2])).await.unwrap();
    // The batch goes through, and the process is killed before the checkpoint is written.
    DeadLetter::new(sink.clone(), dead.clone()).append(batch(&log[2..6])).await.unwrap();
    let wrapped = open().await.unwrap();
    wrapped.append(batch(&log[2..6])).await.unwrap();
    assert_eq!(wrapped.inner().counter().load(Ordering::Relaxed), 0, "it was counted before");
    wrapped.append(batch(&log[6..])).await.unwrap();
    assert_eq!((ids(&sink.0).await, ids(&dead).await), (others(&[3]), vec![3]));
}

/// Another event under a held id is no dead letter, whatever the second sink holds.
#[tokio::test]
async fn another_history_stays_fenced_although_there_are_dead_letters() {
    for at in [0, 2, 4, 5] {
        let (sink, dead) = (LateJudge::<MemoryStore>::default(), MemoryStore::default());
        let wrapped = DeadLetter::new(sink.clone(), dead.clone());
        let mut log = log(&[3, 6]);
        wrapped.append(batch(&log[..8])).await.unwrap();
        log[at] = Event::new(EventId::new(at as u64), "other").unwrap();
        let error = DeadLetter::new(sink.clone(), dead.clone()).append(batch(&log)).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Fenced, Some(EventId::new(at as u64))));
        assert_eq!((ids(&sink.0).await, ids(&dead).await), (vec![0, 1, 2, 4, 5, 7], vec![3, 6]));
    }
}

/// Where the second sink lost its dead letters, nothing is skipped.
#[tokio::test]
async fn a_dead_letter_that_was_lost_is_not_passed() {
    let sink = LateJudge::<MemoryStore>::default();
    let log = log(&[3]);
    DeadLetter::new(sink.clone(), MemoryStore::default()).append(batch(&log[..6])).await.unwrap();
    let wrapped = DeadLetter::new(sink, MemoryStore::default());
    let error = wrapped.append(batch(&log[..6])).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Fenced, Some(EventId::new(3))));
}

#[tokio::test]
async fn unknown_outcomes_leave_no_hole_and_no_double() {
    let script = [Fault::After, Fault::Lost, Fault::After, Fault::After, Fault::Lost].map(Some);
    let faults = || Scripted::new([Some(Fault::After), Some(Fault::Lost)]);
    let poison = [0, 5];
    for chunk in [4, 10] {
        let (sink, dead) = (picky(script), faults());
        let (late, its_dead) = (LateJudge(Scripted::new(script)), faults());
        let wrapped = DeadLetter::new(sink.clone(), dead.clone());
        let judged = DeadLetter::new(late.clone(), its_dead.clone());
        for chunk in log(&poison).chunks(chunk) {
            for sink in [&wrapped as &dyn EventSink, &judged] {
                while let Err(error) = sink.append(batch(chunk)).await {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                }
            }
        }
        assert_eq!((ids(&sink).await, ids(&late.0).await), (others(&poison), others(&poison)));
        assert_eq!((ids(&dead).await, ids(&its_dead).await), (poison.to_vec(), poison.to_vec()));
    }
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
