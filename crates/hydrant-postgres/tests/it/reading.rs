//! Reading, and what it makes of rows that are not as they should be.

use futures_util::StreamExt;
use hydrant::{ErrorKind, EventSource, EventSourceExt, Prune, ReadFrom, Retry};
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
fn a_server_that_is_behind_in_the_middle_of_a_read_is_not_called_corrupt() {
    in_a_schema(async |place| {
        let log = events(0..10);
        drop(place.holding("log", &log).await);
        let options = place.options().with_page_events_max(2);
        let store = PostgresStore::open(&*place.url, "log", options).await.unwrap();
        let mut read = store.read(ReadFrom::Origin);
        assert_eq!(read.next().await.unwrap().unwrap(), log[0]);
        // As a standby shows it that lacks the newest events. One more page may be on its way already.
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
