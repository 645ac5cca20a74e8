//! A server of the tests' own that is killed, restarted, made read-only and filled up.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use hydrant::{
    Batch, Capabilities, ErrorKind, Event, EventSink, EventSource, EventSourceExt, Prune, ReadFrom, Result,
    Retry,
};
use hydrant_conformance::{Harness, Limits, Opened, check};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use test_servers::native::Postgres;
use tokio_postgres::NoTls;

use crate::support::{append, client, event, events, id, snapshot, sql};

/// Runs a test with a server of its own, or says that it is skipped.
pub(crate) fn with_server<F: Future<Output = ()>>(settings: &[&str], test: impl FnOnce(Private) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let server = match Postgres::start_with(dir.path(), settings) {
        Ok(server) => server,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let url = server.url();
    runtime.block_on(test(Private { server: Arc::new(Mutex::new(server)), url }));
}

#[derive(Clone)]
pub(crate) struct Private {
    server: Arc<Mutex<Postgres>>,
    pub(crate) url: String,
}

impl Private {
    pub(crate) async fn open(&self, log: &str) -> PostgresStore {
        PostgresStore::open(&*self.url, log, PostgresStoreOptions::default()).await.unwrap()
    }

    /// All of a log, read anew until nothing comes in between.
    async fn read(&self, log: &str) -> Vec<Event> {
        loop {
            let opened = PostgresStore::open(&*self.url, log, PostgresStoreOptions::default()).await;
            let read = match opened {
                Ok(store) => store.collect(ReadFrom::Origin).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(events) => return events,
                Err(error) => assert_eq!(error.retry(), Retry::Safe, "{error}"),
            }
        }
    }

    /// Kills every process of the server with -9, and starts it again.
    async fn kill_and_restart(&self) {
        let server = Arc::clone(&self.server);
        let killed = tokio::task::spawn_blocking(move || {
            let mut server = server.lock().unwrap();
            server.kill();
            server.restart();
        });
        killed.await.unwrap();
    }
}

/// Each crash is one of the server.
#[async_trait::async_trait]
impl Harness for Private {
    fn capabilities(&self) -> Capabilities {
        PostgresStore::CAPABILITIES
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let store = Private::open(self, namespace).await;
        let crashing = self.clone();
        let crash = async move {
            crashing.kill_and_restart().await;
            Ok(())
        };
        let closing = store.clone();
        Ok(Opened::prunable(store).closed_by(async move { closing.close().await }).crashed_by(crash))
    }

    fn limits(&self) -> Limits {
        Limits::default().with_id_max(id(i64::MAX.unsigned_abs())).with_patience(Duration::from_secs(300))
    }
}

#[test]
fn the_laws_of_crashes_hold_when_the_server_is_killed() {
    with_server(&[], async |private| {
        // The kit makes runtimes of its own.
        let checked = tokio::task::spawn_blocking(move || {
            let of_crashes = |name: &str| {
                ["crash", "law_12_what", "never_ahead", "an_error_that_is_safe"]
                    .iter()
                    .any(|of| name.contains(of))
            };
            let cases: Vec<_> =
                hydrant_conformance::cases().iter().filter(|case| of_crashes(case.name)).collect();
            assert!(cases.len() >= 6, "{cases:?}");
            for case in cases {
                let harness = private.clone();
                let report = check(|| harness, case, hydrant_conformance::seed());
                report.unwrap_or_else(|violation| panic!("{violation}"));
            }
        });
        checked.await.unwrap();
    });
}

/// Appends one event after the other, as a pump does: retries all errors that are not `Never`. Returns how many
/// were acknowledged before the signal.
async fn write_until(store: &PostgresStore, stop: &tokio::sync::Notify) -> u64 {
    let mut next = loop {
        // The first to use a connection that was killed hears of it.
        match store.checkpoint().await {
            Ok(checkpoint) => break checkpoint.id().map_or(0, |id| id.get() + 1),
            Err(error) => assert_eq!(error.retry(), Retry::Safe, "{error}"),
        }
    };
    let stopped = stop.notified();
    tokio::pin!(stopped);
    loop {
        let one = [event(next)];
        let batch = Batch::new(next.checked_sub(1).map(id), &one).unwrap();
        tokio::select! {
            biased;
            () = &mut stopped => return next,
            appended = store.append(batch) => match appended {
                Ok(()) => next += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert_ne!(error.retry(), Retry::Never, "{error}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
        }
    }
}

/// Kills the server under a writer and compares what is there with what was acknowledged.
async fn acknowledged_is_held(private: &Private, connect: PostgresConnect, log: &str) {
    let store = PostgresStore::open(connect, log, PostgresStoreOptions::default()).await.unwrap();
    let stop = tokio::sync::Notify::new();
    for _ in 0..3 {
        let kill = async {
            tokio::time::sleep(Duration::from_millis(250)).await;
            private.kill_and_restart().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop.notify_one();
        };
        let (acknowledged, ()) = tokio::join!(write_until(&store, &stop), kill);
        // Another kill, without a writer: the log then holds all that it will hold.
        private.kill_and_restart().await;
        let held = private.read(log).await;
        let count = held.len() as u64;
        assert_eq!(held, events(0..count));
        assert!(count == acknowledged || count == acknowledged + 1, "{count} of {acknowledged} acknowledged");
    }
}

#[test]
fn kill_9_loses_nothing_even_without_synchronous_commit() {
    with_server(&[], async |private| {
        acknowledged_is_held(&private, private.url.as_str().into(), "as it is").await;
        sql(&private.url, "ALTER ROLE test SET synchronous_commit = off").await;
        sql(&private.url, "ALTER SYSTEM SET wal_writer_delay = '10s'").await;
        sql(&private.url, "SELECT pg_reload_conf()").await;
        acknowledged_is_held(&private, private.url.as_str().into(), "off").await;
        let manager = Manager::new(private.url.parse().unwrap(), NoTls);
        let pool = Pool::builder(manager).max_size(2).build().unwrap();
        acknowledged_is_held(&private, pool.clone().into(), "off, from a pool").await;
        // The pool's other users have what they had.
        let shown = pool.get().await.unwrap().query_one("SHOW synchronous_commit", &[]).await.unwrap();
        assert_eq!(shown.get::<_, &str>(0), "off");
    });
}

#[test]
fn a_server_that_becomes_read_only_is_waited_for_and_still_read() {
    with_server(&[], async |private| {
        let store = private.open("log").await;
        append(&store, None, &events(0..3)).await.unwrap();
        let set = async |value: &str| {
            sql(&private.url, &format!("ALTER SYSTEM SET default_transaction_read_only = {value}")).await;
            sql(&private.url, "SELECT pg_reload_conf()").await;
        };
        set("on").await;
        let refused = loop {
            // The server's processes take a moment to hear of it.
            let at = store.checkpoint().await.unwrap().id().unwrap().get();
            match append(&store, Some(at), &[event(at + 1)]).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        let head = store.checkpoint().await.unwrap().id().unwrap().get();
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..head + 1));
        // As on a standby: opening and reading write nothing.
        let reader = private.open("log").await;
        assert_eq!(reader.collect(ReadFrom::Origin).await.unwrap(), events(0..head + 1));
        assert_eq!(reader.checkpoint().await.unwrap().id(), Some(id(head)));
        sql(&private.url, "ALTER SYSTEM RESET default_transaction_read_only").await;
        sql(&private.url, "SELECT pg_reload_conf()").await;
        while let Err(refused) = append(&store, Some(head), &[event(head + 1)]).await {
            assert_eq!(refused.retry(), Retry::Safe, "{refused}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..head + 2));
    });
}

/// Returns when a statement waits for a lock.
async fn a_session_waits(url: &str) {
    let eyes = client(url).await;
    let waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while eyes.query(waits, &[]).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_read_only_server_does_not_settle_an_append() {
    with_server(&[], async |private| {
        let patient = PostgresStoreOptions::default().with_lock_timeout(Duration::from_secs(300));
        let patient = patient.with_call_timeout(Duration::from_secs(300));
        let store = PostgresStore::open(&*private.url, "log", patient).await.unwrap();
        append(&store, None, &events(0..3)).await.unwrap();
        // It waits for the row, so that it is under way for certain, and given up.
        let locked = client(&private.url).await;
        locked.batch_execute("BEGIN; SELECT 1 FROM hydrant.events_heads FOR UPDATE").await.unwrap();
        let batch = events(3..6);
        tokio::select! {
            appended = append(&store, Some(2), &batch) => panic!("the row is locked: {appended:?}"),
            () = a_session_waits(&private.url) => {}
        }
        sql(&private.url, "ALTER ROLE test SET default_transaction_read_only = on").await;
        for _ in 0..2 {
            let open = store.checkpoint().await.unwrap_err();
            assert_eq!((open.kind(), open.retry()), (ErrorKind::Unavailable, Retry::Safe), "{open}");
        }
        // A handle without a call under way may ask.
        let reader = private.open("log").await;
        assert_eq!(reader.checkpoint().await.unwrap().id(), Some(id(2)));
        locked.batch_execute("COMMIT").await.unwrap();
        sql(&private.url, "BEGIN READ WRITE; ALTER ROLE test RESET ALL; COMMIT").await;
        let checkpoint = store.checkpoint().await.unwrap();
        assert_eq!(checkpoint, reader.checkpoint().await.unwrap());
        assert_eq!(
            reader.collect(ReadFrom::Origin).await.unwrap().len() as u64,
            checkpoint.id().unwrap().get() + 1
        );
    });
}

#[test]
fn a_server_without_a_connection_to_spare_is_waited_for() {
    with_server(&["max_connections=8", "superuser_reserved_connections=0"], async |private| {
        let store = private.open("log").await;
        append(&store, None, &events(0..3)).await.unwrap();
        let mut others = Vec::new();
        let refused = loop {
            match PostgresConnect::from(&*private.url).connect().await {
                Ok(client) => others.push(client),
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        // What it has goes on.
        append(&store, Some(2), &events(3..4)).await.unwrap();
        let refused =
            PostgresStore::open(&*private.url, "log", PostgresStoreOptions::default()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        drop(others);
    });
}

/// A file system of a few megabytes, unmounted when dropped; `None` if the test may not mount one.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(dir: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(dir).ok()?;
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m,mode=0777", "tmpfs"]).arg(dir);
        mount.stderr(std::process::Stdio::null()).status().ok()?.success().then_some(Self(dir))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        drop(unmounted);
    }
}

#[test]
fn a_full_disk_is_reported_and_the_handle_continues() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(dir.path()) else {
        return println!("skipped: no permission to mount a small file system");
    };
    with_server(&[], async |private| {
        let place = small.0.join("space");
        std::fs::create_dir(&place).unwrap();
        give_to_server(&place);
        sql(&private.url, &format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).await;
        sql(&private.url, "ALTER ROLE test SET default_tablespace = small; CREATE SCHEMA filler").await;
        for (way, copy_bytes_min) in [usize::MAX, 0].into_iter().enumerate() {
            sql(&private.url, "CREATE TABLE filler.rows TABLESPACE small AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)").await;
            let options = PostgresStoreOptions::default()
                .with_schema(format!("way{way}"))
                .with_copy_bytes_min(copy_bytes_min);
            let store = PostgresStore::open(&*private.url, "log", options).await.unwrap();
            // Text that no compression makes small.
            let mut rng = fastrand::Rng::with_seed(7);
            let mut large = |at: u64| {
                let noise: String = (0..40_000).map(|_| rng.alphanumeric()).collect();
                Event::new(id(at), &noise).unwrap()
            };
            let mut held: Vec<Event> = Vec::new();
            let (batch, refused) = loop {
                let from = held.len() as u64;
                let batch: Vec<_> = (from..from + 5).map(&mut large).collect();
                match append(&store, from.checked_sub(1), &batch).await {
                    Ok(()) => held.extend(batch),
                    Err(refused) => break (batch, refused),
                }
            };
            assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Full, Retry::Safe), "{refused}");
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), held);
            sql(&private.url, "DROP TABLE filler.rows").await;
            append(&store, Some(held.len() as u64 - 1), &batch).await.unwrap();
            held.extend(batch);
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), held);
            store.close().await.unwrap();
            sql(&private.url, &format!("DROP SCHEMA way{way} CASCADE")).await;
        }
    });
}

/// The server may run as another user than the test.
fn give_to_server(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    for user in ["postgres", "nobody"] {
        let mut chown = std::process::Command::new("chown");
        if chown
            .arg(user)
            .arg(dir)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            return;
        }
    }
}

#[test]
fn prune_killed_in_the_middle_leaves_a_floor_and_no_hole() {
    with_server(&[], async |private| {
        let log: Vec<_> =
            (0..20_000).map(|at| if at % 1000 == 0 { snapshot(at) } else { event(at) }).collect();
        for (round, wait) in [0, 3, 8, 15, 30, 60].into_iter().enumerate() {
            let name = format!("round {round}");
            let store = private.open(&name).await;
            append(&store, None, &log).await.unwrap();
            let kill = async {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                private.kill_and_restart().await;
            };
            let (pruned, ()) = tokio::join!(store.prune(id(19_500)), kill);
            let again = private.open(&name).await;
            match again.collect(ReadFrom::Origin).await {
                Ok(all) => assert_eq!(all, log),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: id(19_000) }, "{error}; {pruned:?}");
                }
            }
            again.prune(id(19_500)).await.unwrap();
            assert_eq!(again.collect(ReadFrom::After(id(18_999))).await.unwrap(), log[19_000..]);
            let client = crate::support::client(&private.url).await;
            let left = "SELECT count(*) FROM hydrant.events WHERE log = $1";
            assert_eq!(client.query_one(left, &[&name]).await.unwrap().get::<_, i64>(0), 1000);
        }
    });
}

#[test]
fn a_read_can_continue_after_a_restart_of_the_server() {
    with_server(&[], async |private| {
        use futures_util::StreamExt;
        let options = PostgresStoreOptions::default().with_page_events_max(100);
        let store = PostgresStore::open(&*private.url, "log", options).await.unwrap();
        append(&store, None, &events(0..2_000)).await.unwrap();
        let mut read = store.read(ReadFrom::Origin);
        let mut seen = Vec::new();
        for _ in 0..150 {
            seen.push(read.next().await.unwrap().unwrap());
        }
        private.kill_and_restart().await;
        // A page that was under way is an error; one that was not is fetched on a new connection.
        while let Some(event) = read.next().await {
            match event {
                Ok(event) => seen.push(event),
                Err(error) => {
                    assert_eq!(
                        (error.kind(), error.retry()),
                        (ErrorKind::Unavailable, Retry::Safe),
                        "{error}"
                    );
                }
            }
        }
        seen.extend(store.collect(ReadFrom::After(seen[seen.len() - 1].id())).await.unwrap());
        assert_eq!(seen, events(0..2_000));
    });
}
