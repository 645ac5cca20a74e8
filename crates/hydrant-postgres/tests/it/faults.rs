//! A network and a server that fail, provoked between the two.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, Deferred, Error, ErrorKind, EventSink, EventSource, EventSourceExt, FanOut,
    FanOutOptions, MemoryStore, Prune, ReadFrom, Retry, SecondaryOptions, SecondaryState,
};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use test_servers::proxy::{Fault, Tcp, When};
use tokio::time::{Instant, timeout};

use crate::support::{Place, append, client, event, events, id, in_a_schema, snapshot};

/// One statement, and COPY.
fn ways(place: &Place) -> [PostgresStoreOptions; 2] {
    [place.options(), place.options().with_copy_bytes_min(0)]
}

pub(crate) async fn through(
    place: &Place,
    proxy: &Tcp,
    log: &str,
    options: PostgresStoreOptions,
) -> PostgresStore {
    PostgresStore::open(place.through(proxy), log, options).await.unwrap()
}

/// One server behind several addresses, each with so many seconds to connect.
pub(crate) fn named(place: &Place, proxies: &[Tcp], seconds: u64) -> PostgresConnect {
    let hosts = vec!["127.0.0.1"; proxies.len()].join(",");
    let ports: Vec<_> = proxies.iter().map(|proxy| proxy.address().port().to_string()).collect();
    let config = place.config(proxies[0].address());
    PostgresConnect::parse(&format!(
        "host={hosts} port={} user={} password={} dbname={} sslmode=disable connect_timeout={seconds}",
        ports.join(","),
        config.get_user().unwrap(),
        String::from_utf8_lossy(config.get_password().unwrap()),
        config.get_dbname().unwrap(),
    ))
    .unwrap()
}

/// The proxy takes a moment to see that a socket was closed; one that leaked would hang the test.
pub(crate) async fn none_is_left(proxy: &Tcp) {
    while proxy.open() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the answer of a call. Repeats a call that was the first to use a connection that was cut, because only
/// a call notices the cut.
async fn again<T>(what: &str, call: impl AsyncFn() -> Result<T, Error>) -> T {
    // The writer's connection and the readers' one.
    for _ in 0..2 {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                let said = (error.kind(), error.retry());
                assert_eq!(said, (ErrorKind::Unavailable, Retry::Safe), "{what}: {error}");
            }
        }
    }
    call().await.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// What an error says is true, the batch is there whole or not at all, and sending it again ends well.
async fn settles(store: &PostgresStore, appended: Result<(), Error>, what: &str) -> bool {
    let (before, all) = (Checkpoint::at(&event(2)), Checkpoint::at(&event(5)));
    let checkpoint = again(what, async || store.checkpoint().await).await;
    assert!(checkpoint == before || checkpoint == all, "{what}: {checkpoint}");
    match appended {
        Ok(()) => assert_eq!(checkpoint, all, "{what}"),
        Err(error) => {
            assert_ne!(error.retry(), Retry::Never, "{what}: {error}");
            assert!(error.retry() != Retry::Safe || checkpoint == before, "{what}: {error}, but it is there");
            append(store, Some(2), &events(3..6)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    let read = again(what, async || store.collect(ReadFrom::Origin).await).await;
    assert_eq!(read, events(0..6), "{what}");
    checkpoint == all
}

#[test]
fn a_connection_cut_during_an_append_leaves_all_or_none() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let cuts = [
            Fault::CutBefore,
            Fault::CutWithin(1),
            Fault::CutWithin(40),
            Fault::CutWithin(200),
            Fault::CutAfter,
            Fault::LoseAnswer,
            Fault::CutAnswer(3),
            Fault::Reset,
        ];
        let mut applied = 0;
        for (way, options) in ways(&place).into_iter().enumerate() {
            for (n, cut) in cuts.into_iter().enumerate() {
                for request in 1..=3 {
                    let what = format!("way {way}, {cut:?} at request {request}");
                    let log = format!("{way} {n} {request}");
                    let store = through(&place, &proxy, &log, options.clone()).await;
                    append(&store, None, &events(0..3)).await.unwrap();
                    proxy.once(When::Exchange(request), cut);
                    let appended = append(&store, Some(2), &events(3..6)).await;
                    let failed = appended.is_err();
                    // What was not needed for the append must not break what comes next.
                    proxy.heal().await;
                    applied += usize::from(settles(&store, appended, &what).await && failed);
                }
            }
        }
        assert!(applied > 0, "no answer was lost behind a commit: nothing was tried");
    });
}

#[test]
fn a_lost_answer_of_a_commit_is_found_out_and_not_guessed() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        for (way, options) in ways(&place).into_iter().enumerate() {
            let log = format!("way {way}");
            let store = through(&place, &proxy, &log, options).await;
            append(&store, None, &events(0..3)).await.unwrap();
            // The last bytes of either way: the values of the statement, or COMMIT behind the rows.
            let last = if way == 0 { "event 5" } else { "COMMIT" };
            proxy.once(When::Sends(last.into()), Fault::LoseAnswer);
            let error = append(&store, Some(2), &events(3..6)).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.retry()),
                (ErrorKind::Unavailable, Retry::AfterCheckpoint),
                "{error}"
            );
            let checkpoint = store.checkpoint().await.unwrap();
            assert_eq!(checkpoint, place.open(&log).await.checkpoint().await.unwrap());
            // Rows and COMMIT are answered one after the other: with the first answer lost, either may be true.
            assert!(way == 1 || checkpoint == Checkpoint::at(&event(5)));
            append(&store, Some(2), &events(3..6)).await.unwrap();
            append(&store, Some(5), &events(6..7)).await.unwrap();
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..7));
        }
    });
}

/// An append that is given up while it waits on the server for a lock: the client is gone, the statement is not.
#[test]
fn a_dropped_append_never_lands_after_the_next_call() {
    in_a_schema(async |place| {
        let mut landed = [0, 0];
        for round in 0..24 {
            let options = ways(&place)[round % 2].clone();
            let log = format!("round {round}");
            let store = PostgresStore::open(&*place.url, &log, options).await.unwrap();
            append(&store, None, &events(0..3)).await.unwrap();
            let locked = client(&place.url).await;
            let lock =
                format!("BEGIN; SELECT 1 FROM {}.events_heads WHERE log = '{log}' FOR UPDATE", place.schema);
            locked.batch_execute(&lock).await.unwrap();
            let batch = events(3..6);
            let waiting = append(&store, Some(2), &batch);
            assert!(tokio::time::timeout(Duration::from_millis(40), waiting).await.is_err());
            // The next call waits as well; which of the two the server lets in first is up to it.
            let (checkpoint, ()) = tokio::join!(store.checkpoint(), async {
                if round % 3 != 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                locked.batch_execute("COMMIT").await.unwrap();
            });
            let checkpoint = checkpoint.unwrap();
            landed[usize::from(checkpoint.id() == Some(id(5)))] += 1;
            tokio::time::sleep(Duration::from_millis(30)).await;
            let beside = place.open(&log).await;
            assert_eq!(beside.checkpoint().await.unwrap(), checkpoint, "something landed after the call");
            if checkpoint.id() == Some(id(2)) {
                // Its place is free for something else.
                let other = [hydrant::Event::new(id(3), "other").unwrap()];
                append(&store, Some(2), &other).await.unwrap();
            }
        }
        println!("not landed, landed: {landed:?}");
    });
}

/// The same with the old connection half open: what it holds arrives after the next call was answered.
#[test]
fn what_a_network_held_back_never_lands_behind_the_next_call() {
    in_a_schema(async |place| {
        for (way, options) in ways(&place).into_iter().enumerate() {
            let log = format!("way {way}");
            // Two addresses of one server: the first one's network is gone for a while.
            let options = options.with_call_timeout(Duration::from_millis(4500));
            let addresses = [place.proxy().await, place.proxy().await];
            let store = PostgresStore::open(named(&place, &addresses, 2), &log, options).await.unwrap();
            let [first, _] = &addresses;
            append(&store, None, &events(0..3)).await.unwrap();
            first.always(Fault::BlackHole).await;
            let error = append(&store, Some(2), &events(3..6)).await.unwrap_err();
            assert_eq!(error.retry(), Retry::AfterCheckpoint, "{error}");
            // A new connection gives the first address up after two seconds, and finds the other.
            let checkpoint = store.checkpoint().await.unwrap();
            assert_eq!(checkpoint, Checkpoint::at(&event(2)));
            first.heal().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let other = [hydrant::Event::new(id(3), "other").unwrap()];
            append(&store, Some(2), &other).await.unwrap();
            assert_eq!(store.collect(ReadFrom::After(id(2))).await.unwrap(), other);
        }
    });
}

/// An address with waiting callers does not count as silent.
#[test]
fn many_that_connect_at_once_take_the_first_address() {
    in_a_schema(async |place| {
        let proxies = [place.proxy().await, place.proxy().await];
        let connect = named(&place, &proxies, 60);
        for client in join_all((0..8).map(|_| connect.connect())).await {
            client.unwrap().close().await;
        }
        assert_eq!(proxies.each_ref().map(Tcp::connections), [8, 0]);
    });
}

/// A call has time for two attempts only; the third address is the one that lives. Times are long, so that a busy
/// machine does not make a living address seem dead.
#[test]
fn addresses_that_do_not_answer_hide_no_other() {
    in_a_schema(async |place| {
        drop(place.open("log").await); // makes the tables in its own time
        let proxies = [place.proxy().await, place.proxy().await, place.proxy().await];
        let connect = named(&place, &proxies, 5);
        let options = place.options().with_call_timeout(Duration::from_secs(9));
        let store = PostgresStore::open(connect.clone(), "log", options).await.unwrap();
        append(&store, None, &events(0..3)).await.unwrap();
        assert_eq!(proxies.each_ref().map(Tcp::connections), [2, 0, 0], "in the order they are named");
        for dead in &proxies[..2] {
            dead.always(Fault::BlackHole).await;
            dead.cut();
        }
        let mut calls = 0;
        while let Err(error) = append(&store, Some(2), &events(3..6)).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            calls += 1;
            assert!(calls < 4, "{error}");
        }
        // Who connects next does not begin at the dead ones again.
        let before = proxies.each_ref().map(Tcp::connections);
        connect.connect().await.unwrap().close().await;
        assert_eq!(proxies.each_ref().map(Tcp::connections), [before[0], before[1], before[2] + 1]);
    });
}

#[test]
fn a_silent_server_is_waited_for_within_the_time_out() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        drop(place.open("log").await); // makes the tables in its own time
        let options = place.options().with_call_timeout(Duration::from_secs(2));
        let store = through(&place, &proxy, "log", options).await;
        let log: Vec<_> = events(0..3).into_iter().chain([snapshot(3), event(4)]).collect();
        append(&store, None, &log).await.unwrap();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log);
        proxy.always(Fault::BlackHole).await;
        let error = append(&store, Some(4), &events(5..6)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Unavailable, Retry::AfterCheckpoint),
            "{error}"
        );
        for error in [
            store.checkpoint().await.unwrap_err(),
            store.collect(ReadFrom::Origin).await.unwrap_err(),
            store.collect(ReadFrom::Snapshot).await.unwrap_err(),
            store.prune(id(9)).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
            assert_eq!(error.target(), Some("log"));
        }
        proxy.heal().await;
        append(&store, Some(4), &events(5..6)).await.unwrap();
        assert_eq!(store.collect(ReadFrom::After(id(4))).await.unwrap(), events(5..6));
    });
}

#[test]
fn append_returns_before_its_deadline() {
    in_a_schema(async |place| {
        for (way, options) in ways(&place).into_iter().enumerate() {
            let proxy = place.proxy().await;
            let store = through(&place, &proxy, &format!("way {way}"), options).await;
            append(&store, None, &events(0..3)).await.unwrap();
            proxy.always(Fault::BlackHole).await;
            let late = events(3..6);
            let batch = Batch::new(Some(id(2)), &late).unwrap();
            // What was sent, and then the connection that the next call would need.
            for retry in [Retry::AfterCheckpoint, Retry::Safe] {
                let batch = batch.with_deadline(Some(Instant::now() + Duration::from_millis(300)));
                // Far less than the time-outs of the store.
                let answer = timeout(Duration::from_secs(3), store.append(batch)).await;
                let error = answer.expect("an append outlived its deadline").unwrap_err();
                assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, retry), "{error}");
            }
            proxy.heal().await;
            store.append(batch).await.unwrap();
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..6));
        }
    });
}

#[test]
fn a_slow_network_is_no_failure() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        proxy.always(Fault::Delay(Duration::from_millis(20))).await;
        for (way, options) in ways(&place).into_iter().enumerate() {
            let store = through(&place, &proxy, &format!("way {way}"), options).await;
            append(&store, None, &events(0..3)).await.unwrap();
            let before = proxy.exchanges();
            append(&store, Some(2), &events(3..6)).await.unwrap();
            // The promise of the page: one round trip by one statement, at most three by COPY, which prepares its
            // statements once for each connection.
            let again = proxy.exchanges();
            append(&store, Some(5), &events(6..9)).await.unwrap();
            let trips = proxy.exchanges() - again;
            assert!(trips <= if way == 0 { 1 } else { 3 }, "{trips} round trips, {} before", again - before);
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..9));
        }
    });
}

#[test]
fn sessions_that_an_operator_ends_come_back_with_the_next_call() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let store = through(&place, &proxy, "log", place.options()).await;
        append(&store, None, &events(0..1)).await.unwrap();
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            place.schema
        );
        for at in 1..20 {
            place.sql(&end).await;
            // A retry is what a pump does.
            while let Err(error) = append(&store, Some(at - 1), &[event(at)]).await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                assert_ne!(error.retry(), Retry::Never, "{error}");
            }
        }
        let mut read = store.collect(ReadFrom::Origin).await;
        if read.is_err() {
            read = store.collect(ReadFrom::Origin).await;
        }
        assert_eq!(read.unwrap(), events(0..20));
    });
}

#[test]
fn a_notification_is_heard_long_before_the_next_poll() {
    in_a_schema(async |place| {
        for options in ways(&place) {
            let options = options.with_notify(true).with_poll_interval(Duration::from_secs(3600));
            let log = format!("{:?}", options.copy_bytes_min);
            let [store, writer] = [(); 2].map(|()| PostgresStore::open(&*place.url, &log, options.clone()));
            let (store, writer) = (store.await.unwrap(), writer.await.unwrap());
            let mut follow = store.follow(ReadFrom::Origin);
            for at in 0..20 {
                append(&writer, u64::checked_sub(at, 1), &[event(at)]).await.unwrap();
                assert_eq!(follow.next().await.unwrap().unwrap(), event(at));
            }
        }
    });
}

#[test]
fn a_failing_secondary_delays_no_other_and_names_the_cause() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        proxy.always(Fault::Refuse).await;
        let fanout = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        let quick =
            || SecondaryOptions::default().with_backoff(Duration::from_millis(5), Duration::from_millis(20));
        let (connect, options) = (place.through(&proxy), place.options());
        let postgres = Deferred::new(move || {
            let (connect, options) = (connect.clone(), options.clone());
            async move { PostgresStore::open(connect, "copy", options).await }
        });
        fanout.attach("memory", MemoryStore::default(), quick()).await.unwrap();
        fanout.attach("postgres", postgres, quick()).await.unwrap();
        fanout.append(Batch::new(None, &events(0..50)).unwrap()).await.unwrap();
        let laggards = fanout.delivered(id(49), Duration::from_millis(300)).await.unwrap_err();
        let named: Vec<_> = laggards.iter().map(|laggard| laggard.name.as_str()).collect();
        assert_eq!(named, ["postgres"]);
        let status = fanout.status();
        let down = status.secondaries.iter().find(|secondary| secondary.name == "postgres").unwrap();
        let cause = down.last_error.clone().unwrap();
        assert_eq!((cause.kind(), cause.retry()), (ErrorKind::Unavailable, Retry::Safe), "{cause}");
        assert!(!format!("{cause} {cause:?} {status:?}").contains("password"));

        proxy.heal().await;
        fanout.delivered(id(49), Duration::from_secs(20)).await.unwrap();
        // In the middle of things, again and again.
        for at in 50..80 {
            if at % 4 == 0 {
                proxy.cut();
            }
            fanout.append(Batch::new(Some(id(at - 1)), &[event(at)]).unwrap()).await.unwrap();
        }
        fanout.delivered(id(79), Duration::from_secs(20)).await.unwrap();
        let state = |name: &str| {
            fanout.status().secondaries.into_iter().find(|secondary| secondary.name == name).unwrap()
        };
        assert_eq!(state("memory").retries, 0);
        assert_ne!(state("postgres").state, SecondaryState::Parked);
        assert_eq!(place.open("copy").await.collect(ReadFrom::Origin).await.unwrap(), events(0..80));
        drop(fanout.close(Duration::from_secs(5)).await);
    });
}

#[test]
fn a_thousand_attachments_leave_no_connection_behind() {
    in_a_schema(async |place| {
        let proxy = place.proxy().await;
        let fanout = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
        fanout.append(Batch::new(None, &events(0..3)).unwrap()).await.unwrap();
        let store = through(&place, &proxy, "shared", place.options()).await;
        for cycle in 0..1000 {
            if cycle % 20 == 0 {
                // A handle of its own, closed, or dropped in the middle of things.
                let own = through(&place, &proxy, &format!("own {cycle}"), place.options()).await;
                fanout.attach("own", own.clone(), SecondaryOptions::default()).await.unwrap();
                if cycle % 40 == 0 {
                    fanout.delivered(id(2), Duration::from_secs(20)).await.unwrap();
                }
                fanout.detach("own").await.unwrap();
                if cycle % 60 == 0 {
                    own.close().await.unwrap();
                }
            }
            fanout.attach("shared", store.clone(), SecondaryOptions::default()).await.unwrap();
            if cycle % 10 == 0 {
                fanout.delivered(id(2), Duration::from_secs(20)).await.unwrap();
            }
            fanout.detach("shared").await.unwrap();
        }
        drop(fanout.close(Duration::from_secs(5)).await);
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        store.close().await.unwrap();
        // The server takes a moment to see that a socket was closed.
        while place.sessions().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        none_is_left(&proxy).await;
    });
}
