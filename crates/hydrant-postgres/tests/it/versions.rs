//! Versions of a projection take each other's place whole.

use std::time::Duration;

use hydrant::{Checkpoint, ErrorKind, EventSink, Retry};
use hydrant_conformance::drop_after;

use crate::balances::{Balances, after, deposits, sums};
use crate::database::{Schema, client, server};
use crate::projection::{append, open};

#[tokio::test]
async fn a_new_version_replaces_the_old_one_once_it_caught_up() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..40);
    let old = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&old, &log[..30], 0).await.unwrap();
    assert!(old.is_live().await);

    let new = open(&url, &schema, Balances::version(3)).await.unwrap();
    assert_eq!(new.checkpoint().await.unwrap(), Checkpoint::Empty);
    append(&new, &log[..10], 0).await.unwrap();
    append(&old, &log[..35], 30).await.unwrap(); // the old one goes on meanwhile
    append(&new, &log[..30], 10).await.unwrap();
    assert!(!new.is_live().await);
    assert_eq!(sums(&eyes, &schema.name).await, after(35), "queries see the old one");
    assert_eq!(sums(&eyes, &format!("{}__v3", schema.name)).await.1, 30);
    // A runner that was killed goes on where it was.
    drop(new);
    let new = open(&url, &schema, Balances::version(3)).await.unwrap();
    append(&new, &log[..36], 30).await.unwrap();
    assert!(new.is_live().await);
    let (sum, count) = after(36);
    assert_eq!(sums(&eyes, &schema.name).await, (sum * 3, count));
    assert_eq!(sums(&eyes, &format!("{}__v1", schema.name)).await, after(35), "it is still there");

    let fenced = append(&old, &log[..36], 35).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    let fenced = open(&url, &schema, Balances::version(1)).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    let fenced = open(&url, &schema, Balances::version(2)).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    append(&new, &log, 36).await.unwrap();
    new.drop_replaced().await.unwrap();
    let left = client(&url).await;
    let sql = "SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, $1 || '__v')";
    assert_eq!(left.query_one(sql, &[&schema.name]).await.unwrap().get::<_, i64>(0), 0);
    let (sum, count) = after(40);
    assert_eq!(sums(&eyes, &schema.name).await, (sum * 3, count));
}

/// Dropped at each of its awaits, whatever it did there.
#[tokio::test]
async fn a_swap_cut_anywhere_leaves_one_version_live_and_is_repeated() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let log = deposits(0..20);
    for polls in 0.. {
        let schema = Schema::new(&url);
        let old = open(&url, &schema, Balances::version(1)).await.unwrap();
        append(&old, &log, 0).await.unwrap();
        let new = open(&url, &schema, Balances::version(2)).await.unwrap();
        append(&new, &log[..10], 0).await.unwrap();
        let appended = drop_after(polls, append(&new, &log, 10)).await;
        drop((old, new));
        let new = open(&url, &schema, Balances::version(2)).await.unwrap();
        let (sum, count) = after(20);
        let swapped = new.is_live().await;
        let expected = if swapped { (sum * 2, count) } else { (sum, count) };
        assert_eq!(sums(&eyes, &schema.name).await, expected, "dropped after {polls} polls");
        assert_eq!(new.checkpoint().await.unwrap().id(), Some(log[if swapped { 19 } else { 9 }].id()));
        append(&new, &log, 10).await.unwrap();
        assert_eq!(sums(&eyes, &schema.name).await, (sum * 2, count));
        if let Some(appended) = appended {
            appended.unwrap();
            assert!(swapped);
            break;
        }
    }
}

#[tokio::test]
async fn a_version_goes_live_early_only_on_request() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let old = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&old, &log, 0).await.unwrap();
    let new = open(&url, &schema, Balances::version(2)).await.unwrap();
    append(&new, &log[..5], 0).await.unwrap();
    new.go_live().await.unwrap();
    assert!(new.is_live().await);
    new.go_live().await.unwrap();
    assert!(new.is_live().await);
    assert_eq!(sums(&eyes, &schema.name).await, (30, 5));
    append(&new, &log, 5).await.unwrap();
    // A live version waits for nothing, not even for a log: no query sees less than before.
    let empty = Schema::new(&url);
    open(&url, &empty, Balances::version(1)).await.unwrap();
    assert!(open(&url, &empty, Balances::version(2)).await.unwrap().is_live().await);
}

/// Two versions that catch up together: the second finds the first one in the place that it waited for.
#[tokio::test]
async fn the_newer_of_two_versions_that_go_live_at_once_wins() {
    let Some(url) = server() else { return };
    let eyes = client(&url).await;
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let v1 = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&v1, &log[..10], 0).await.unwrap();
    drop(open(&url, &schema, Balances::version(2)).await.unwrap());
    let v3 = open(&url, &schema, Balances::version(3)).await.unwrap();
    // What the runner of version 2 does in the batch that brings it there.
    let holder = client(&url).await;
    let (name, table) = (&schema.name, format!("\"{}_progress\".projections", schema.name));
    let begin = format!(
        "BEGIN; SELECT 1 FROM {table} WHERE version = 1 FOR UPDATE; \
         UPDATE {table} SET state = 'replaced' WHERE version = 1; ALTER SCHEMA \"{name}\" RENAME TO \"{name}__v1\"; \
         UPDATE {table} SET state = 'live', event_id = 9, digest = '\\x00000000000000000000000000000000' \
         WHERE version = 2; ALTER SCHEMA \"{name}__v2\" RENAME TO \"{name}\""
    );
    holder.batch_execute(&begin).await.unwrap();
    let second = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity \
                     WHERE query LIKE '%' || $1 || '_progress%FOR UPDATE%')";
        while eyes.query_one(waits, &[name]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await; // ends by the test's own limit
        }
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (appended, ()) = tokio::join!(append(&v3, &log[..12], 0), second);
    appended.unwrap();
    assert!(v3.is_live().await);
    let (sum, count) = after(12);
    assert_eq!(sums(&eyes, name).await, (sum * 3, count));
}

#[tokio::test]
async fn a_version_below_the_live_one_is_not_built_on() {
    let Some(url) = server() else { return };
    let schema = Schema::new(&url);
    let log = deposits(0..20);
    let v1 = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&v1, &log[..10], 0).await.unwrap();
    let v2 = open(&url, &schema, Balances::version(2)).await.unwrap();
    append(&v2, &log[..5], 0).await.unwrap();
    let v3 = open(&url, &schema, Balances::version(3)).await.unwrap();
    append(&v3, &log, 0).await.unwrap();
    assert!(v3.is_live().await);
    let fenced = append(&v2, &log[..6], 5).await.unwrap_err();
    assert_eq!((fenced.kind(), fenced.retry()), (ErrorKind::Fenced, Retry::Never), "{fenced}");
    let fenced = open(&url, &schema, Balances::version(2)).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
}

/// Each statement sees one moment; a transaction that sees one moment throughout finds names where they lead now.
#[tokio::test]
async fn a_repeatable_read_can_detect_a_swap_by_oid() {
    let Some(url) = server() else { return };
    let (eyes, schema) = (client(&url).await, Schema::new(&url));
    let log = deposits(0..20);
    let v1 = open(&url, &schema, Balances::version(1)).await.unwrap();
    append(&v1, &log[..10], 0).await.unwrap();
    let v2 = open(&url, &schema, Balances::version(2)).await.unwrap();
    append(&v2, &log[..5], 0).await.unwrap();
    let table = format!("SELECT '\"{}\".balances'::regclass::oid", schema.name);
    let oid = async || eyes.query_typed(&table, &[]).await.unwrap()[0].get::<_, u32>(0);
    let before = oid().await;
    eyes.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    assert_eq!(sums(&eyes, &schema.name).await, after(10));
    assert_eq!(oid().await, before);
    append(&v2, &log, 5).await.unwrap();
    assert!(v2.is_live().await);
    // The new version's tables, as they stood then.
    assert_eq!(sums(&eyes, &schema.name).await, (30, 5));
    assert_ne!(oid().await, before);
    eyes.batch_execute("COMMIT").await.unwrap();
    let (sum, count) = after(20);
    assert_eq!(sums(&eyes, &schema.name).await, (sum * 2, count));
}
