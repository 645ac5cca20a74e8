//! Writers: two of them, old ones, ones whose last word is open.

use hydrant::{ErrorKind, Event, EventSink, EventSourceExt, ReadFrom, Retry};

use crate::support::{append, event, events, id, in_a_schema};

#[test]
fn of_two_writers_one_is_fenced_in_each_of_a_hundred_rounds() {
    in_a_schema(async |place| {
        let mut held = events(0..1);
        let (one, other) = (place.holding("log", &held).await, place.open("log").await);
        let batch = |by: &str, from: u64| -> Vec<Event> {
            (from..from + 3).map(|at| Event::new(id(at), &format!("{by} {at}")).unwrap()).collect()
        };
        for _ in 0..100 {
            let from = held.len() as u64;
            let (ours, theirs) = (batch("one", from), batch("other", from));
            let after = Some(from - 1);
            let (first, second) = tokio::join!(append(&one, after, &ours), append(&other, after, &theirs));
            let lost = match (first, second) {
                (Ok(()), Err(lost)) => {
                    held.extend(ours);
                    lost
                }
                (Err(lost), Ok(())) => {
                    held.extend(theirs);
                    lost
                }
                both => panic!("{both:?}"),
            };
            assert_eq!((lost.kind(), lost.retry()), (ErrorKind::Fenced, Retry::Never), "{lost}");
        }
        assert_eq!(one.collect(ReadFrom::Origin).await.unwrap(), held);
    });
}

#[test]
fn writers_that_take_turns_are_no_rivals() {
    in_a_schema(async |place| {
        let (one, other) = (place.open("log").await, place.open("log").await);
        for at in 0..20 {
            let writer = if at % 3 == 0 { &one } else { &other };
            if at % 5 == 4 {
                // A handle that asks for the first time raises the epoch under both.
                place.open("log").await.checkpoint().await.unwrap();
            }
            append(writer, u64::checked_sub(at, 1), &[event(at)]).await.unwrap();
        }
        assert_eq!(one.collect(ReadFrom::Origin).await.unwrap(), events(0..20));
    });
}

#[test]
fn a_handle_refuses_a_log_that_was_restored_and_continued() {
    in_a_schema(async |place| {
        let store = place.holding("log", &events(0..3)).await;
        // A standby that missed event 2 was promoted, and another writer appended another event 2.
        place
            .sql(
                "DELETE FROM events WHERE event_id = 2; UPDATE events_heads SET head_id = 1, head_digest = \
                 (SELECT digest FROM events WHERE event_id = 1)",
            )
            .await;
        let other = [Event::new(id(2), "another").unwrap()];
        append(&place.open("log").await, Some(1), &other).await.unwrap();
        let error = append(&store, Some(2), &events(3..4)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        assert_eq!(store.collect(ReadFrom::After(id(1))).await.unwrap(), other);
    });
}

#[test]
fn an_id_beyond_a_bigint_is_refused_by_name() {
    in_a_schema(async |place| {
        let store = place.open("log").await;
        let last = i64::MAX.unsigned_abs();
        let log = [event(last), event(last + 1)];
        let error = append(&store, None, &log).await.unwrap_err();
        assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(id(last + 1))), "{error}");
        append(&store, None, &log[..1]).await.unwrap();
        assert!(store.collect(ReadFrom::After(id(u64::MAX))).await.unwrap().is_empty());
    });
}
