//! Reading, and what it makes of rows that are not as they should be.

use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, EventSource, EventSourceExt, Prune, ReadFrom, Retry};
use hydrant_postgres::PostgresStore;

use crate::support::{append, event, events, id, in_a_schema, snapshot};

#[test]
fn rows_behind_the_head_do_not_count() {
    in_a_schema(async |place| {
        let mut log = events(0..50);
        log[40] = snapshot(40);
        let store = place.holding("log", &log).await;
        place
            .sql(
                "INSERT INTO events (log, event_id, after_id, is_snapshot, payload, digest) \
                 VALUES ('log', 100, 49, true, '{}', '\\x00000000000000000000000000000000')",
            )
            .await;
        assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), log[40..]);
        store.prune(id(60)).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), log[40..]);
        append(&store, Some(49), &[event(50)]).await.unwrap();
        let read = store.collect(ReadFrom::After(id(48))).await.unwrap();
        assert_eq!(read, [log[49].clone(), event(50)]);
    });
}

#[test]
fn a_server_that_falls_behind_during_a_read_is_not_corrupt() {
    in_a_schema(async |place| {
        let log = events(0..10);
        drop(place.holding("log", &log).await);
        let options = place.options().with_page_events_max(2);
        let store = PostgresStore::open(&*place.url, "log", options).await.unwrap();
        let mut read = store.read(ReadFrom::Origin);
        assert_eq!(read.next().await.unwrap().unwrap(), log[0]);
        // As on a standby that misses the newest events. One more page may be on its way already.
        place
            .sql(
                "DELETE FROM events WHERE event_id > 1; UPDATE events_heads SET head_id = 1, head_digest = \
                 (SELECT digest FROM events WHERE event_id = 1)",
            )
            .await;
        let behind = loop {
            match read.next().await.unwrap() {
                Ok(event) => assert!(event.id() < id(4)),
                Err(error) => break error,
            }
        };
        assert_eq!((behind.kind(), behind.retry()), (ErrorKind::Unavailable, Retry::Safe), "{behind}");
        assert!(read.next().await.is_none());
    });
}

/// A failover to a standby that misses the newest events, under a follower that has them.
#[test]
fn a_follower_does_not_cross_over_to_another_history() {
    in_a_schema(async |place| {
        let other = |at: u64| Event::new(id(at), &format!("another event {at}")).unwrap();
        let all = |ids: &[u64]| ids.iter().copied().map(other).collect::<Vec<_>>();
        let rest = [
            // Other events under the same ids; and an id that is skipped.
            (all(&[8, 9, 10]), None),
            (all(&[8, 10, 11]), None),
            // The same again, as a writer sends them that still has them.
            (events(8..11), Some(event(10))),
        ];
        for (way, (rest, next)) in rest.into_iter().enumerate() {
            let log = format!("way {way}");
            let store = place.holding(&log, &events(0..10)).await;
            let mut follow = store.follow(ReadFrom::After(id(4)));
            for at in 5..10 {
                assert_eq!(follow.next().await.unwrap().unwrap(), event(at));
            }
            let lose = format!(
                "DELETE FROM events WHERE log = '{log}' AND event_id > 7; \
                 UPDATE events_heads SET (head_id, head_digest) = (SELECT event_id, digest FROM events \
                 WHERE log = '{log}' AND event_id = 7) WHERE log = '{log}'"
            );
            place.sql(&lose).await;
            append(&place.open(&log).await, Some(7), &rest).await.unwrap();
            let item = follow.next().await.unwrap();
            let Some(next) = next else {
                let error = item.unwrap_err();
                let said = (error.kind(), error.retry(), error.event());
                assert_eq!(said, (ErrorKind::Diverged, Retry::Never, Some(id(9))), "{error}");
                assert_eq!(error.target(), Some(&*log));
                assert!(follow.next().await.is_none());
                continue;
            };
            assert_eq!(item.unwrap(), next);
        }
    });
}

#[test]
fn a_follower_goes_on_where_its_last_event_was_pruned() {
    in_a_schema(async |place| {
        let store = place.holding("log", &events(0..10)).await;
        let mut follow = store.follow(ReadFrom::Origin);
        for at in 0..10 {
            assert_eq!(follow.next().await.unwrap().unwrap(), event(at));
        }
        append(&store, Some(9), &[snapshot(10)]).await.unwrap();
        store.prune(id(11)).await.unwrap();
        assert_eq!(follow.next().await.unwrap().unwrap(), snapshot(10));
        append(&store, Some(10), &[event(11), event(14)]).await.unwrap();
        assert_eq!(follow.next().await.unwrap().unwrap(), event(11));
        // What the log has, what it does not have, the floor, and what is below it.
        for (at, first) in [(14, 14), (12, 14), (10, 10)] {
            let read = store.collect(ReadFrom::At(id(at))).await.unwrap();
            assert_eq!(read.first().map(hydrant::Event::id), Some(id(first)));
        }
        let pruned = store.collect(ReadFrom::At(id(9))).await.unwrap_err();
        assert_eq!(pruned.kind(), hydrant::ErrorKind::Pruned { oldest: id(10) });
    });
}
