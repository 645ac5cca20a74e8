//! A read model moves in one transaction with its checkpoint.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::join_all;
use hydrant::{
    Batch, Checkpoint, Checkpointed, DeadLetter, Error, ErrorKind, Event, EventSink, EventSourceExt, FanOut,
    FanOutOptions, MemoryCheckpoints, MemoryStore, ReadFrom, Result, Retry, SecondaryOptions, SecondaryState,
};
use hydrant_conformance::drop_after;
use hydrant_postgres::{
    PostgresConnect, PostgresProjection, PostgresProjectionOptions, Projection, ProjectionError, Transaction,
};

use crate::balances::{Balances, after, deposits, sums};
use crate::database::{Schema, client, events, server};

fn options(schema: &Schema) -> PostgresProjectionOptions {
    PostgresProjectionOptions::default().with_schema(format!("{}_progress", schema.name))
}

pub(crate) async fn open(
    url: &str,
    schema: &Schema,
    projection: Balances,
) -> Result<PostgresProjection<Balances>> {
    PostgresProjection::open(url, &schema.name, projection, options(schema)).await
}

pub(crate) async fn append<P: Projection>(
    sink: &PostgresProjection<P>,
    log: &[Event],
    from: usize,
) -> Result<()> {
    let before = from.checked_sub(1).map(|at| log[at].id());
    sink.append(Batch::new(before, &log[from..]).unwrap()).await
}

#[tokio::test]
async fn each_event_takes_effect_once_however_often_it_comes() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..30);
    for round in 1..=3_usize {
        let sink = open(&url, &schema, Balances::version(1)).await.unwrap();
        for _ in 0..2 {
            append(&sink, &log[..round * 10], (round - 1) * 10).await.unwrap();
            append(&sink, &log[..round * 10], 0).await.unwrap();
        }
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&log[round * 10 - 1]));
        assert_eq!(sums(&eyes, &schema.name).await, after(round * 10));
    }
}

#[tokio::test]
async fn a_batch_is_seen_whole_or_not_at_all() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let (looks, name) = (Arc::new(client(&url).await), schema.name.clone());
    let projection = Balances::version(1).meanwhile(move |event| {
        let (looks, name, id) = (looks.clone(), name.clone(), event.id().get());
        let whole = if id < 10 { 0 } else { 10 };
        async move { assert_eq!(sums(&looks, &name).await, after(whole), "while event {id} is applied") }
            .boxed()
    });
    let sink = open(&url, &schema, projection).await.unwrap();
    append(&sink, &log[..10], 0).await.unwrap();
    append(&sink, &log, 10).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(20));
}

#[tokio::test]
async fn of_two_runners_the_second_is_fenced_until_it_is_opened_again() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..40);
    let first = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&first, &log[..10], 0).await.unwrap();
    let second = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&second, &log[..20], 10).await.unwrap();
    // The same events as the second, or the next ones: it is a second runner either way.
    for (to, from) in [(20, 10), (30, 20)] {
        let fenced = append(&first, &log[..to], from).await.unwrap_err();
        assert_eq!((fenced.kind(), fenced.retry()), (ErrorKind::Fenced, Retry::Never), "{fenced}");
        // Asking does not let it in again.
        assert_eq!(first.checkpoint().await.unwrap(), Checkpoint::at(&log[19]));
    }
    append(&second, &log[..30], 20).await.unwrap();
    drop(first);
    let first = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&first, &log, 30).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(40));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_runners_at_once_one_wins_each_round() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..50);
    for round in 0..5 {
        let (from, to) = (round * 10, round * 10 + 10);
        // Ten processes that start at once, too.
        let opened = join_all((0..10).map(|_| open(&url, &schema, Balances::version(1)))).await;
        let runners: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        let results = join_all(runners.iter().map(|runner| append(runner, &log[..to], from))).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        let fenced = |error: &Error| error.kind() == ErrorKind::Fenced;
        assert_eq!(won, 1, "{results:?}");
        assert!(results.iter().filter_map(|result| result.as_ref().err()).all(fenced), "{results:?}");
        assert_eq!(sums(&eyes, &schema.name).await, after(to));
    }
}

#[tokio::test]
async fn poison_is_named_and_put_aside_and_a_broken_constraint_is_not() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let good = r#"{"account":"ada","amount":1}"#;
    let negative = r#"{"account":"ada","amount":-1}"#;
    let log = events(0, [good, negative, good, "7", good]);
    let dead_letters = MemoryStore::default();
    let sink = open(&url, &schema, Balances::version(1)).await.unwrap();
    let refused = append(&sink, &log, 0).await.unwrap_err();
    assert_eq!((refused.kind(), refused.event()), (ErrorKind::Invalid, Some(log[1].id())), "{refused}");
    assert_eq!(sums(&eyes, &schema.name).await, (0, 0), "nothing of its batch stands");
    let sink = Checkpointed::open(
        DeadLetter::new(sink, dead_letters.clone()),
        Arc::new(MemoryCheckpoints::default()),
        "balances",
        "postgres",
    );
    let sink = sink.await.unwrap();
    sink.append(Batch::new(None, &log).unwrap()).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, (3, 3));
    assert_eq!(dead_letters.collect(ReadFrom::Origin).await.unwrap(), [log[1].clone(), log[3].clone()]);
    // An error of the server may be the model's fault: it needs an operator.
    let too_much = events(5, [r#"{"account":"ada","amount":1000000000}"#]);
    let refused = sink.append(Batch::new(Some(log[4].id()), &too_much).unwrap()).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.retry(), refused.event()),
        (ErrorKind::Invalid, Retry::Never, None),
        "{refused}"
    );
    assert!(refused.message().contains("event 5"), "{refused}");
    assert_eq!(dead_letters.collect(ReadFrom::Origin).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_foreign_schema_is_left_alone() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    client(&url).await.batch_execute(&format!("CREATE SCHEMA {}", schema.name)).await.unwrap();
    let refused = open(&url, &schema, Balances::version(1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    for name in ["", "x\0y", &"n".repeat(51)] {
        let opened =
            PostgresProjection::open(url.as_str(), name, Balances::version(1), options(&schema)).await;
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn any_name_will_do() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let name = format!("{}'\"; /* é */ DROP", schema.name);
    for version in 1..=2 {
        let connect = PostgresConnect::from(url.as_str());
        let sink = PostgresProjection::open(&connect, &name, Balances::version(version), options(&schema))
            .await
            .unwrap();
        append(&sink, &deposits(0..3), 0).await.unwrap();
        assert!(sink.is_live().await);
    }
    assert_eq!(sums(&eyes, &name.replace('"', "\"\"")).await, (12, 3));
}

/// A model that does one thing wrong.
struct Wrong {
    prepare: &'static str,
    apply: &'static str,
}

#[async_trait]
impl Projection for Wrong {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        Ok(tx.batch_execute(self.prepare).await?)
    }

    async fn apply(&self, tx: &mut Transaction<'_>, _: &Event) -> Result<(), ProjectionError> {
        Ok(tx.batch_execute(self.apply).await?)
    }
}

const TABLE: &str = "CREATE TABLE t (id bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)";

#[tokio::test]
async fn a_model_that_is_wrong_says_so_and_leaves_nothing() {
    let Some(url) = server() else { return };
    let log = deposits(0..2);
    for (apply, kind, retry) in [
        // Found out at the commit, which then is none.
        ("INSERT INTO t VALUES (1), (1)", ErrorKind::Invalid, Retry::Never),
        ("INSERT INTO no_such_table VALUES (1)", ErrorKind::Invalid, Retry::Never),
        ("SELECT 1 / 0", ErrorKind::Invalid, Retry::Never),
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", ErrorKind::Invalid, Retry::Never),
        ("DO $$ BEGIN RAISE deadlock_detected; END $$", ErrorKind::Unavailable, Retry::Safe),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(10)", ErrorKind::Unavailable, Retry::Safe),
        ("DO $$ BEGIN RAISE SQLSTATE '42P05'; END $$", ErrorKind::Unavailable, Retry::Safe),
        ("COMMIT", ErrorKind::Bug, Retry::Never),
        ("ROLLBACK", ErrorKind::Bug, Retry::Never),
        ("COMMIT; BEGIN", ErrorKind::Bug, Retry::Never),
    ] {
        let schema = Schema::new(&url);
        let model = Wrong { prepare: TABLE, apply };
        let sink =
            PostgresProjection::open(url.as_str(), &schema.name, model, options(&schema)).await.unwrap();
        for _ in 0..2 {
            let error = append(&sink, &log, 0).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{apply}: {error}");
            if kind == ErrorKind::Invalid {
                assert_eq!(error.event(), None, "{apply}: only the model itself calls an event poison");
            }
            assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
        }
    }
}

/// A model that keeps an error to itself.
struct Swallows {
    in_prepare: bool,
}

#[async_trait]
impl Projection for Swallows {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        tx.batch_execute(TABLE).await?;
        if self.in_prepare {
            drop(tx.batch_execute("SELECT 1 / 0").await);
        }
        Ok(())
    }

    async fn apply(&self, tx: &mut Transaction<'_>, _: &Event) -> Result<(), ProjectionError> {
        drop(tx.batch_execute("SELECT 1 / 0").await);
        Ok(())
    }
}

#[tokio::test]
async fn an_error_that_the_model_keeps_to_itself_is_its_bug() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let log = deposits(0..2);
    let opened = async |in_prepare| {
        PostgresProjection::open(url.as_str(), &schema.name, Swallows { in_prepare }, options(&schema)).await
    };
    let error = opened(true).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Bug, Retry::Never), "{error}");
    let sink = opened(false).await.unwrap();
    for to in [1, 1, 2] {
        let error = append(&sink, &log[..to], 0).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Bug, Retry::Never), "{error}");
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Empty);
    }
}

/// A model that reads whole rows of a table, whose columns change under it.
struct Selects;

#[async_trait]
impl Projection for Selects {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        Ok(tx.batch_execute("CREATE TABLE t (n bigint NOT NULL); INSERT INTO t VALUES (0)").await?)
    }

    async fn apply(&self, tx: &mut Transaction<'_>, _: &Event) -> Result<(), ProjectionError> {
        let n: i64 = tx.query_one("SELECT * FROM t", &[]).await?.get("n");
        tx.execute("UPDATE t SET n = $1", &[&(n + 1)]).await?;
        Ok(())
    }
}

#[tokio::test]
async fn altering_a_table_in_use_costs_one_safe_error() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let log = deposits(0..4);
    let sink = PostgresProjection::open(url.as_str(), &schema.name, Selects, options(&schema)).await.unwrap();
    append(&sink, &log[..2], 0).await.unwrap();
    let alter = format!("ALTER TABLE \"{}\".t ADD COLUMN m bigint", schema.name);
    client(&url).await.batch_execute(&alter).await.unwrap();
    let stale = append(&sink, &log[..3], 2).await.unwrap_err();
    assert_eq!((stale.kind(), stale.retry()), (ErrorKind::Unavailable, Retry::Safe), "{stale}");
    append(&sink, &log, 2).await.unwrap();
    let n = client(&url).await.query_one(&format!("SELECT n FROM \"{}\".t", schema.name), &[]).await.unwrap();
    assert_eq!(n.get::<_, i64>(0), 4);
}

/// A model whose first event makes its connection one that only reads, as all of a server's are that is not the
/// primary any more.
struct ReadsOnly;

#[async_trait]
impl Projection for ReadsOnly {
    fn version(&self) -> u32 {
        1
    }

    async fn prepare(&self, tx: &mut Transaction<'_>) -> Result<(), ProjectionError> {
        Ok(tx.batch_execute("CREATE TABLE t (n bigint NOT NULL)").await?)
    }

    async fn apply(&self, tx: &mut Transaction<'_>, event: &Event) -> Result<(), ProjectionError> {
        if event.id().get() == 0 {
            tx.batch_execute("SET SESSION default_transaction_read_only = on").await?;
        }
        Ok(tx.batch_execute("INSERT INTO t VALUES (1)").await?)
    }
}

#[tokio::test]
async fn a_connection_that_only_reads_is_given_up() {
    let Some(url) = server() else { return };
    let log = deposits(0..3);
    let pool = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(pool).max_size(1).build().unwrap();
    for connect in [PostgresConnect::from(url.as_str()), pool.into()] {
        let schema = Schema::new(&url);
        let opened = PostgresProjection::open(&connect, &schema.name, ReadsOnly, options(&schema));
        let sink = opened.await.unwrap();
        append(&sink, &log[..1], 0).await.unwrap();
        let refused = append(&sink, &log, 1).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        append(&sink, &log, 1).await.unwrap();
        assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::at(&log[2]));
    }
}

#[tokio::test]
async fn tables_that_cannot_be_made_leave_nothing() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let opened = async |prepare| {
        let model = Wrong { prepare, apply: "SELECT 1" };
        PostgresProjection::open(url.as_str(), &schema.name, model, options(&schema)).await
    };
    let refused = opened("CREATE TABLE a (); CREATE TABLE a ()").await.unwrap_err();
    assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Invalid, Retry::Never), "{refused}");
    opened(TABLE).await.unwrap();
}

#[tokio::test]
async fn a_prepare_that_ends_its_transaction_is_a_bug() {
    let Some(url) = server() else { return };
    for prepare in [
        "CREATE TABLE t (); COMMIT",
        "CREATE TABLE t (); ROLLBACK",
        "CREATE TABLE t (); COMMIT; BEGIN",
        "CREATE TABLE t (); ROLLBACK; BEGIN",
    ] {
        let schema = Schema::new(&url);
        let opened = async |prepare| {
            let model = Wrong { prepare, apply: "SELECT 1" };
            PostgresProjection::open(url.as_str(), &schema.name, model, options(&schema)).await
        };
        let refused = opened(prepare).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Bug, Retry::Never), "{prepare}: {refused}");
        // Committed tables stay until they are removed.
        if prepare.contains("COMMIT") {
            let refused = opened(TABLE).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{prepare}: {refused}");
            client(&url).await.batch_execute(&format!("DROP SCHEMA {} CASCADE", schema.name)).await.unwrap();
        }
        let sink = opened(TABLE).await.unwrap();
        append(&sink, &deposits(0..2), 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_pool_gets_its_connections_back_as_they_were() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let (one, other) = (Schema::new(&url), Schema::new(&url));
    let config: tokio_postgres::Config = url.parse().unwrap();
    let manager = deadpool_postgres::Manager::new(config, tokio_postgres::NoTls);
    let pool = deadpool_postgres::Pool::builder(manager).max_size(2).build().unwrap();
    let log = deposits(0..10);
    let mut shown = Vec::new();
    for schema in [&one, &other] {
        let opened =
            PostgresProjection::open(pool.clone(), &schema.name, Balances::version(1), options(schema));
        let sink = opened.await.unwrap();
        append(&sink, &log[..5], 0).await.unwrap();
        drop(drop_after(3, append(&sink, &log, 5)).await);
        append(&sink, &log, 5).await.unwrap();
        assert_eq!(sums(&eyes, &schema.name).await, after(10));
        sink.close().await.unwrap();
        let borrowed = pool.get().await.unwrap();
        let sql = "SELECT concat_ws('|', current_setting('search_path'), current_setting('statement_timeout'), \
                   current_setting('lock_timeout'), now() = statement_timestamp())";
        shown.push(borrowed.query_one(sql, &[]).await.unwrap().get::<_, String>(0));
    }
    let fresh = client(&url).await;
    let sql = "SELECT concat_ws('|', current_setting('search_path'), current_setting('statement_timeout'), \
               current_setting('lock_timeout'), now() = statement_timestamp())";
    let as_new: String = fresh.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(shown, [as_new.clone(), as_new]);
}

#[tokio::test]
async fn a_fan_out_delivers_a_log_to_it_and_rebuilds_it() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = FanOut::open(MemoryStore::default(), FanOutOptions::default()).await.unwrap();
    let all = deposits(0..200);
    log.append(Batch::new(None, &all[..150]).unwrap()).await.unwrap();
    let (v1, v2) = (Balances::version(1), Balances::version(2));
    let options_of = SecondaryOptions::default;
    log.attach("balances v1", open(&url, &schema, v1).await.unwrap(), options_of()).await.unwrap();
    log.delivered(all[149].id(), Duration::from_secs(20)).await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(150));
    log.attach("balances v2", open(&url, &schema, v2).await.unwrap(), options_of()).await.unwrap();
    log.delivered(all[149].id(), Duration::from_secs(20)).await.unwrap();
    log.append(Batch::new(Some(all[149].id()), &all[150..]).unwrap()).await.unwrap();
    // The old one was replaced and reports it; the fan-out no longer waits for it.
    let state = |name: &str| {
        let status = log.status();
        let of = status.secondaries.iter().find(|of| of.name == name).unwrap();
        (of.state, of.checkpoint)
    };
    while state("balances v1").0 != SecondaryState::Parked || state("balances v2").1 != Some(all[199].id()) {
        tokio::time::sleep(Duration::from_millis(5)).await; // ends by the test's own limit
    }
    let (sum, count) = after(200);
    assert_eq!(sums(&eyes, &schema.name).await, (sum * 2, count));
    drop(log.close(Duration::from_secs(5)).await);
}
