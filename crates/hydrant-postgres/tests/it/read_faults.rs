//! Reads and followers on a network that fails.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use hydrant::{ErrorKind, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_conformance::drop_after;
use hydrant_postgres::PostgresStore;
use test_servers::proxy::{Fault, When};

use crate::faults::{named, none_is_left, through};
use crate::support::{append, event, events, id, in_a_schema};

/// A read that was not answered in time does not lead the next ones into the same hole.
#[test]
fn reads_use_the_second_address_if_the_first_is_silent() {
    in_a_schema(async |place| {
        place.holding("log", &events(0..3)).await;
        let proxies = [place.proxy().await, place.proxy().await];
        let options = place.options().with_call_timeout(Duration::from_secs(6));
        let store = PostgresStore::open(named(&place, &proxies, 3), "log", options).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        proxies[0].always(Fault::BlackHole).await;
        let mut calls = 0;
        let read = loop {
            match store.collect(ReadFrom::Origin).await {
                Ok(read) => break read,
                Err(error) => {
                    let said = (error.kind(), error.retry());
                    assert_eq!(said, (ErrorKind::Unavailable, Retry::Safe), "{error}");
                    calls += 1;
                    assert!(calls < 8, "{error}");
                }
            }
        };
        assert_eq!(read, events(0..3));
        assert!(calls > 0 && proxies[1].connections() > 0);
    });
}

#[test]
fn a_read_can_continue_after_its_connection_broke() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let options = place.options().with_page_events_max(2);
        let store = through(&place, &proxy, "log", options).await;
        append(&store, None, &events(0..100)).await.unwrap();
        let mut seen = Vec::new();
        let mut breaks = 0;
        while seen.len() < 100 {
            let mut read = store.read(seen.last().map(hydrant::Event::id).into());
            proxy.once(When::Exchange(9), [Fault::LoseAnswer, Fault::CutAnswer(100)][breaks % 2]);
            while let Some(event) = read.next().await {
                match event {
                    Ok(event) => seen.push(event),
                    Err(error) => {
                        assert_eq!(
                            (error.kind(), error.retry()),
                            (ErrorKind::Unavailable, Retry::Safe),
                            "{error}"
                        );
                        breaks += 1;
                    }
                }
            }
        }
        proxy.heal().await;
        assert!(breaks > 2, "{breaks}");
        assert_eq!(seen, events(0..100));
    });
}

#[test]
fn a_listener_that_lost_its_connection_polls_and_listens_again() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let options = place.options().with_notify(true).with_poll_interval(Duration::from_millis(200));
        let store = through(&place, &proxy, "log", options.clone()).await;
        let mut follow = store.follow(ReadFrom::Origin);
        let writer = PostgresStore::open(&*place.url, "log", options).await.unwrap();
        for at in 0..30 {
            append(&writer, u64::checked_sub(at, 1), &[event(at)]).await.unwrap();
            loop {
                match follow.next().await.unwrap() {
                    Ok(next) => break assert_eq!(next, event(at)),
                    // A read was under way.
                    Err(error) => {
                        assert_eq!(error.retry(), Retry::Safe, "{error}");
                        follow = store.follow(at.checked_sub(1).map(id).into());
                    }
                }
            }
            if at % 10 == 5 {
                proxy.cut();
            }
        }
        drop(follow);
        store.close().await.unwrap();
        none_is_left(&proxy).await;
    });
}

#[test]
fn an_unpolled_read_does_not_block_its_connection() {
    in_a_schema(async |place| {
        let options = place.options().with_page_bytes_max(64 << 10);
        let store = PostgresStore::open(&*place.url, "log", options).await.unwrap();
        let large = |at: u64| hydrant::Event::new(id(at), &"x".repeat(256 << 10)).unwrap();
        let log: Vec<_> = (0..40).map(large).collect();
        append(&store, None, &log).await.unwrap();
        let mut still: Vec<_> = (0..8).map(|_| store.read(ReadFrom::Origin)).collect();
        // Dropped in the middle of an answer, or never polled again.
        for (polls, read) in still.iter_mut().enumerate() {
            drop(drop_after(polls, read.next()).await);
        }
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log);
        let rest = join_all(still.into_iter().map(TryStreamExt::try_collect::<Vec<_>>)).await;
        assert!(rest.into_iter().all(|read| read.unwrap().last() == log.last()));
    });
}

/// As behind a failover: the connections go on, and the server is not the primary any more.
#[test]
fn where_the_writer_may_only_read_the_readers_connect_anew_too() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let store = through(&place, &proxy, "log", place.options()).await;
        place
            .sql(
                "CREATE FUNCTION demote() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 PERFORM set_config('default_transaction_read_only', 'on', false); RETURN NULL; END $$; \
                 CREATE TRIGGER demote AFTER INSERT ON events FOR EACH STATEMENT \
                 WHEN (current_setting('default_transaction_read_only') = 'off') EXECUTE FUNCTION demote()",
            )
            .await;
        append(&store, None, &events(0..3)).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        let before = proxy.connections();
        let refused = append(&store, Some(2), &events(3..6)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        assert_eq!(proxy.connections(), before + 1, "the reader's");
        append(&store, Some(2), &events(3..6)).await.unwrap();
        assert_eq!(proxy.connections(), before + 2, "the writer's");
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..6));
    });
}
