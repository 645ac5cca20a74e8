//! The tables: how they come to be, who may do what, what people see in them.

use futures_util::future::{join_all, try_join_all};
use hydrant::{
    Checkpoint, CheckpointEntry, ErrorKind, Event, EventSink, EventSource, EventSourceExt, Primary, Prune,
    ReadFrom, Retry,
};
use hydrant_postgres::{
    PostgresCheckpoints, PostgresCheckpointsOptions, PostgresConnect, PostgresStore, PostgresStoreOptions,
};

use crate::support::{append, client, event, events, id, in_a_schema, snapshot};

#[test]
fn ten_that_open_at_once_make_the_tables_once() {
    in_a_schema(async |place| {
        let opened = join_all((0..10).map(|n| place.try_open(if n % 2 == 0 { "a" } else { "b" }))).await;
        let stores: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        append(&stores[0], None, &events(0..3)).await.unwrap();
        assert_eq!(stores[8].collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        assert_eq!(stores[9].checkpoint().await.unwrap(), Checkpoint::Empty);
    });
}

#[test]
fn any_name_of_schema_table_and_log_will_do() {
    in_a_schema(async |place| {
        let schema = format!("{}\" Ünïcode; --", &place.schema[..10]);
        let table = "a 'table' \"quoted\" $1";
        let options =
            PostgresStoreOptions::default().with_schema(&schema).with_table(table).with_notify(true);
        for log in ["'; DROP TABLE x; --", "日志", "a\nb\t%_\\"] {
            let store = PostgresStore::open(&*place.url, log, options.clone()).await.unwrap();
            append(&store, None, &events(0..2)).await.unwrap();
            assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..2));
        }
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", schema.replace('"', "\"\""));
        place.sql(&drop).await;
        for log in ["", "a\0b", &"x".repeat(513)] {
            let refused = PostgresStore::open(&*place.url, log, place.options()).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
        }
    });
}

#[test]
fn newer_tables_are_refused_and_older_ones_are_migrated() {
    in_a_schema(async |place| {
        drop(place.open("log").await);
        place.sql("UPDATE hydrant_versions SET version = 99").await;
        let refused = place.try_open("log").await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unsupported, Retry::Never), "{refused}");
        place.sql("DELETE FROM hydrant_versions; DROP TABLE events CASCADE; DROP TABLE events_heads; DROP FUNCTION events_to_jsonb").await;
        append(&place.open("log").await, None, &events(0..1)).await.unwrap();
    });
}

#[test]
fn missing_tables_are_an_error_if_they_must_not_be_made() {
    in_a_schema(async |place| {
        let options = place.options().with_create(false);
        let refused = PostgresStore::open(&*place.url, "log", options.clone()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        assert_eq!(refused.target(), Some("log"));
        drop(place.open("log").await);
        PostgresStore::open(&*place.url, "log", options).await.unwrap();
    });
}

/// By the statements of the page.
#[test]
fn a_log_that_was_deleted_is_gone_and_its_writer_hears_of_it() {
    in_a_schema(async |place| {
        let (store, other) =
            (place.holding("log", &events(0..3)).await, place.holding("other", &events(0..3)).await);
        place
            .sql(
                "BEGIN; DELETE FROM events_heads WHERE log = 'log'; DELETE FROM events WHERE log = 'log'; COMMIT",
            )
            .await;
        for _ in 0..2 {
            let gone = append(&store, Some(2), &events(3..4)).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::Gap, "{gone}");
        }
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), []);
        append(&other, Some(2), &events(3..4)).await.unwrap();
        assert_eq!(other.collect(ReadFrom::Origin).await.unwrap(), events(0..4));
    });
}

/// The version of a group of tables is filed under the first one's name.
#[test]
fn a_name_that_another_part_has_is_refused_at_open() {
    in_a_schema(async |place| {
        let kept = PostgresCheckpointsOptions::default().with_schema(&place.schema);
        PostgresCheckpoints::open(&*place.url, kept).await.unwrap();
        let options = place.options().with_table("checkpoints");
        let refused = PostgresStore::open(&*place.url, "log", options).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        assert!(refused.message().contains("checkpoints_heads"), "{refused}");
    });
}

#[test]
fn a_dropped_table_is_an_error_until_the_next_open() {
    in_a_schema(async |place| {
        let store = place.holding("log", &events(0..3)).await;
        place.sql(&format!("DROP SCHEMA {} CASCADE", place.schema)).await;
        let refused = append(&store, Some(2), &events(3..4)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Unavailable, Retry::Safe), "{refused}");
        let refused = store.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
        let again = place.open("log").await;
        assert_eq!(again.checkpoint().await.unwrap(), Checkpoint::Empty);
        // The handle finds the new tables too.
        assert_eq!(append(&store, Some(2), &events(3..4)).await.unwrap_err().kind(), ErrorKind::Gap);
        append(&store, None, &events(0..4)).await.unwrap();
    });
}

#[test]
fn a_read_only_role_reads_follows_and_gets_the_checkpoint() {
    in_a_schema(async |place| {
        let role = format!("{}_reader", place.schema);
        let store = place.holding("log", &events(0..3)).await;
        place
            .sql(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT USAGE ON SCHEMA {0} TO {role}; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {role}",
                place.schema
            ))
            .await;
        let config: tokio_postgres::Config = place.url.parse().unwrap();
        let mut as_reader = config.clone();
        as_reader.user(&role).password("pw");
        let connect = PostgresConnect::from(as_reader);
        let reader = PostgresStore::open(connect, "log", place.options()).await.unwrap();
        assert_eq!(reader.collect(ReadFrom::Origin).await.unwrap(), events(0..3));
        assert_eq!(reader.checkpoint().await.unwrap(), store.checkpoint().await.unwrap());
        assert_eq!(reader.checkpoint().await.unwrap().id(), Some(id(2)));
        let refused = append(&reader, Some(2), &events(3..4)).await.unwrap_err();
        assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Denied, Retry::Never), "{refused}");
        let refused = reader.prune(id(9)).await;
        assert!(refused.is_ok(), "nothing to prune");
        reader.close().await.unwrap();
        place.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    });
}

#[test]
fn the_documented_permissions_suffice_for_writers() {
    in_a_schema(async |place| {
        let role = format!("{}_writer", place.schema);
        let maker = place.open("made").await;
        assert!(maker.roster().list().await.unwrap().is_empty());
        place
            .sql(&format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT USAGE ON SCHEMA {0} TO {role}; \
                 GRANT SELECT, INSERT, DELETE ON events TO {role}; \
                 GRANT SELECT, INSERT, UPDATE ON events_heads TO {role}; GRANT SELECT ON hydrant_versions TO {role}; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON events_roster TO {role}",
                place.schema
            ))
            .await;
        let mut config: tokio_postgres::Config = place.url.parse().unwrap();
        config.user(&role).password("pw");
        for (log, copy_bytes_min) in [("statement", usize::MAX), ("copy", 0)] {
            let options = place.options().with_create(false).with_copy_bytes_min(copy_bytes_min);
            let store = PostgresStore::open(config.clone(), log, options).await.unwrap();
            append(&store, None, &[event(0), snapshot(1), event(2)]).await.unwrap();
            store.prune(id(2)).await.unwrap();
            assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), [snapshot(1), event(2)]);
            let entry = CheckpointEntry::new("archive", "s3", store.checkpoint().await.unwrap());
            store.roster().swap("archive", None, Some(&entry)).await.unwrap();
            // Beside the log, and of this log alone.
            let again = place.open(log).await;
            assert_eq!(again.roster().list().await.unwrap(), [entry]);
            assert!(maker.roster().list().await.unwrap().is_empty());
            store.close().await.unwrap();
        }
        place.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    });
}

/// Of several rows that a constraint refuses, the server does not say which: no event is named, and none put aside.
#[test]
fn an_added_constraint_names_no_event_and_shows_no_value() {
    in_a_schema(async |place| {
        for (log, copy_bytes_min) in [("statement", usize::MAX), ("copy", 0)] {
            let options = place.options().with_copy_bytes_min(copy_bytes_min);
            let store = PostgresStore::open(&*place.url, log, options).await.unwrap();
            let add = "ALTER TABLE events DROP CONSTRAINT IF EXISTS added, ADD CONSTRAINT added CHECK (event_id <> 1)";
            place.sql(add).await;
            let refused = append(&store, None, &events(0..3)).await.unwrap_err();
            assert_eq!(
                (refused.kind(), refused.retry(), refused.event()),
                (ErrorKind::Invalid, Retry::Never, None),
                "{refused}"
            );
            // DETAIL quotes the row.
            let first: &(dyn std::error::Error + 'static) = &refused;
            let chain = std::iter::successors(Some(first), |cause| (*cause).source());
            let shown: Vec<_> = chain.map(|cause| format!("{cause} {cause:?}")).collect();
            let shown = shown.join(" ");
            assert!(shown.contains("23514") && !shown.contains("event 1"), "{shown}");
            append(&store, None, &events(0..1)).await.unwrap();
        }
    });
}

#[test]
fn looking_at_a_log_that_is_not_there_does_not_make_it() {
    in_a_schema(async |place| {
        let store = place.open("misspelt").await;
        assert_eq!(store.checkpoint().await.unwrap(), Checkpoint::Empty);
        assert!(store.collect(ReadFrom::Snapshot).await.unwrap().is_empty());
        let client = client(&place.url).await;
        let heads = format!("SELECT log FROM {}.events_heads", place.schema);
        assert!(client.query(&heads, &[]).await.unwrap().is_empty());
    });
}

#[test]
fn people_query_what_jsonb_can_hold_and_see_null_for_the_rest() {
    in_a_schema(async |place| {
        let payloads = [
            r#"{"tag":"Deposited","amount":1.50}"#,
            r#""\u0000""#,
            "1e400",
            r#""\ud83d""#,
            &format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)),
            &format!("1{}", "0".repeat(200_000)),
        ];
        let build = |(at, json): (usize, &&str)| {
            Event::builder(id(at as u64)).payload_json(*json).time("2026-01-05T09:00:00.123456789012Z")
        };
        let mut log: Vec<_> = payloads.iter().enumerate().map(|it| build(it).build().unwrap()).collect();
        log.push(
            Event::builder(id(90))
                .payload_json("{}")
                .time("the day before")
                .member("a", "1")
                .build()
                .unwrap(),
        );
        log.push(Event::builder(id(91)).payload_json("{}").time("-009999-01-01T00:00:00Z").build().unwrap());
        let store = place.holding("log", &log).await;
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log);

        let client = client(&place.url).await;
        let rows = format!(
            "SELECT payload ->> 'amount', payload IS NULL, time::text, members ->> 'a' FROM {}.events_json ORDER BY event_id",
            place.schema
        );
        client.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
        let rows = client.query(&rows, &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, Option<&str>>(0), Some("1.50"));
        let are_null: Vec<bool> = rows.iter().map(|row| row.get(1)).collect();
        assert_eq!(are_null[1..6], [true, false, true, true, true]);
        assert_eq!(rows[0].get::<_, Option<&str>>(2), Some("2026-01-05 09:00:00.123456+00"));
        assert_eq!(rows[6].get::<_, Option<&str>>(2), None);
        assert_eq!(rows[6].get::<_, Option<&str>>(3), Some("1"));
        assert_eq!(rows[7].get::<_, Option<&str>>(2), None);
    });
}

#[test]
fn changed_rows_are_reported_with_their_place() {
    in_a_schema(async |place| {
        let log: Vec<_> = (0..9).map(|at| if at == 4 { snapshot(at) } else { event(at) }).collect();
        let damages = [
            ("UPDATE events SET payload = '2' WHERE event_id = 5 AND log = $1", 5),
            ("UPDATE events SET time_text = 'x' WHERE event_id = 5 AND log = $1", 5),
            ("UPDATE events SET is_snapshot = false WHERE event_id = 4 AND log = $1", 4),
            ("UPDATE events SET digest = '' WHERE event_id = 6 AND log = $1", 6),
            ("UPDATE events SET event_id = -1 WHERE event_id = 0 AND log = $1", 0),
            ("DELETE FROM events WHERE event_id = 3 AND log = $1", 3),
            ("DELETE FROM events WHERE event_id = 0 AND log = $1", 0),
            ("DELETE FROM events WHERE event_id = 8 AND log = $1", 8),
            ("DELETE FROM events WHERE log = $1", 8),
            ("DELETE FROM events_heads WHERE log = $1", 0),
            ("UPDATE events_heads SET head_digest = NULL WHERE log = $1", 0),
        ];
        for (n, (damage, at)) in damages.into_iter().enumerate() {
            let name = format!("log {n}");
            let store = place.holding(&name, &log).await;
            place.sql(&damage.replace("$1", &format!("'{name}'"))).await;
            if damage.contains("head_digest") {
                let error = store.checkpoint().await.unwrap_err();
                assert_eq!((error.kind(), error.target()), (ErrorKind::Corrupt, Some(&*name)), "{error}");
                continue;
            }
            let error = store.collect(ReadFrom::Origin).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
            assert_eq!((error.target(), error.event()), (Some(&*name), Some(id(at))), "{damage}: {error}");
        }
    });
}

#[test]
fn rows_behind_a_head_that_was_removed_are_not_written_over() {
    in_a_schema(async |place| {
        let store = place.holding("log", &events(0..3)).await;
        place.sql("DELETE FROM events_heads").await;
        for again in [store, place.open("log").await] {
            let error = append(&again, None, &events(0..3)).await.unwrap_err();
            assert_eq!((error.kind(), error.retry()), (ErrorKind::Corrupt, Retry::Never), "{error}");
        }
    });
}

#[test]
fn logs_beside_each_other_do_not_mix() {
    in_a_schema(async |place| {
        let names: Vec<String> = (0..20).map(|n| format!("log {n}")).collect();
        let fill = |name: &str| {
            let (place, name) = (&place, name.to_owned());
            async move {
                let store = place.open(&name).await;
                for at in 0..30 {
                    let own = Event::new(id(at), &format!("{name} {at}"))?;
                    append(&store, at.checked_sub(1), &[own]).await?;
                }
                Ok::<_, hydrant::Error>(store)
            }
        };
        let stores = try_join_all(names.iter().map(|name| fill(name))).await.unwrap();
        stores[3].prune(id(99)).await.unwrap();
        for (name, store) in names.iter().zip(&stores) {
            let read = store.collect(ReadFrom::Origin).await.unwrap();
            assert!(
                read.iter()
                    .enumerate()
                    .all(|(at, event)| { event.decode::<String>().unwrap() == format!("{name} {at}") })
            );
            assert_eq!(read.len(), 30);
        }
        drop(stores[0].follow(ReadFrom::Origin));
    });
}

/// SQL that makes so many other logs of so many events each, as appends would leave them but for the digest.
pub(crate) fn others(schema: &str, logs: usize, events: usize) -> String {
    format!(
        "INSERT INTO {schema}.events (log, event_id, after_id, is_snapshot, payload, digest) \
         SELECT 'other ' || l, e, nullif(e - 1, -1), e = 0, '{{}}', '\\x00' \
         FROM generate_series(1, {logs}) AS l, generate_series(0, {events} - 1) AS e; \
         INSERT INTO {schema}.events_heads (log, head_id, head_digest, oldest_id) \
         SELECT 'other ' || l, {events} - 1, '\\x00', 0 FROM generate_series(1, {logs}) AS l; \
         ANALYZE {schema}.events, {schema}.events_heads"
    )
}

/// The server counts how it finds rows: never by going through a table.
#[test]
fn one_log_among_a_hundred_thousand_is_found_by_its_key() {
    in_a_schema(async |place| {
        drop(place.open("one").await);
        place.sql(&others(&place.schema, 100_000, 2)).await;
        let scans = async || {
            let client = client(&place.url).await;
            let sql = "SELECT sum(seq_scan)::bigint, sum(idx_scan)::bigint FROM pg_stat_user_tables \
                       WHERE schemaname = $1 AND relname IN ('events', 'events_heads')";
            let row = client.query_one(sql, &[&place.schema]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
        };
        // A session reports its counts when it ends.
        let before = scans().await;
        for round in 0..8 {
            let store = place.open("one").await;
            let from = round * 10;
            let mut batch = events(from..from + 10);
            batch[5] = snapshot(from + 5);
            append(&store, u64::checked_sub(from, 1), &batch).await.unwrap();
            append(&store, u64::checked_sub(from, 1), &batch).await.unwrap();
            assert_eq!(store.checkpoint().await.unwrap().id(), Some(id(from + 9)));
            assert_eq!(store.collect(ReadFrom::Snapshot).await.unwrap(), batch[5..]);
            assert_eq!(store.collect(ReadFrom::After(id(from))).await.unwrap().len(), 9);
            store.prune(id(from + 9)).await.unwrap();
            store.close().await.unwrap();
        }
        let mut after = scans().await;
        while after.1 < before.1 + 8 * 6 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            after = scans().await;
        }
        assert_eq!(after.0, before.0, "a table was gone through from one end to the other");
    });
}
