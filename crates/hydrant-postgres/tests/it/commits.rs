//! What a commit waits for before it is acknowledged, whatever the server is set to.

use deadpool_postgres::{Manager, Pool};
use hydrant::{ErrorKind, EventSourceExt, ReadFrom, Retry};
use hydrant_postgres::{PostgresConnect, PostgresStore, PostgresStoreOptions};
use tokio_postgres::NoTls;

use crate::server::{Private, with_server};
use crate::support::{append, client, event, events, in_a_schema, sql};

/// Notes at each append what its transaction has for `synchronous_commit`, seen from within, and what this
/// expression gives there.
async fn watch(private: &Private, beside: &str) {
    drop(private.open("log").await);
    let trigger = format!(
        "CREATE TABLE seen (setting text, beside text); \
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.seen VALUES (current_setting('synchronous_commit'), {beside}); RETURN NULL; END $$; \
         CREATE TRIGGER look AFTER INSERT ON hydrant.events FOR EACH STATEMENT EXECUTE FUNCTION look()"
    );
    sql(&private.url, &trigger).await;
}

/// What the last append had.
async fn seen(private: &Private) -> (String, String) {
    let eyes = client(&private.url).await;
    let seen = eyes.query_one("DELETE FROM seen RETURNING setting, beside", &[]).await.unwrap();
    (seen.get(0), seen.get(1))
}

#[test]
fn appends_wait_for_the_disk_despite_settings_of_the_role() {
    with_server(&[], async |private| {
        watch(&private, "'-'").await;
        let settings = [
            ("off", "on"),
            ("local", "on"),
            ("remote_write", "on"),
            ("on", "on"),
            ("remote_apply", "remote_apply"),
        ];
        for (role, expected) in settings {
            sql(&private.url, &format!("ALTER ROLE test SET synchronous_commit = {role}")).await;
            let pool =
                Pool::builder(Manager::new(private.url.parse().unwrap(), NoTls)).max_size(1).build().unwrap();
            for connect in [PostgresConnect::from(&*private.url), pool.into()] {
                let log = format!("{role} {}", connect.describe());
                let store =
                    PostgresStore::open(connect, &log, PostgresStoreOptions::default()).await.unwrap();
                append(&store, None, &events(0..1)).await.unwrap();
                assert_eq!(seen(&private).await.0, expected, "{log}");
            }
        }
    });
}

#[test]
fn appends_wait_for_the_disk_after_a_reload_turns_it_off() {
    with_server(&[], async |private| {
        // It changes with the same reload, so it shows when the session has the new settings.
        watch(&private, "current_setting('cpu_tuple_cost')").await;
        let pool =
            Pool::builder(Manager::new(private.url.parse().unwrap(), NoTls)).max_size(1).build().unwrap();
        for (way, connect) in [PostgresConnect::from(&*private.url), pool.into()].into_iter().enumerate() {
            let log = connect.describe();
            let store = PostgresStore::open(connect, &log, PostgresStoreOptions::default()).await.unwrap();
            append(&store, None, &events(0..1)).await.unwrap();
            assert_eq!(seen(&private).await.0, "on", "{log}");
            let cost = format!("0.{}", way + 2);
            sql(&private.url, &format!("ALTER SYSTEM SET cpu_tuple_cost = {cost}")).await;
            sql(&private.url, "ALTER SYSTEM SET synchronous_commit = off").await;
            sql(&private.url, "SELECT pg_reload_conf()").await;
            for at in 1.. {
                append(&store, Some(at - 1), &[event(at)]).await.unwrap();
                let (setting, now) = seen(&private).await;
                assert_eq!(setting, "on", "{log}");
                if now == cost {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            sql(&private.url, "ALTER SYSTEM RESET synchronous_commit").await;
            sql(&private.url, "SELECT pg_reload_conf()").await;
        }
    });
}

/// The code is one for what is too large as well: only an append that notifies takes it for a queue that is full.
#[test]
fn a_full_queue_of_notifications_is_waited_for() {
    in_a_schema(async |place| {
        drop(place.open("log").await);
        for (way, copy_bytes_min) in [usize::MAX, 0].into_iter().enumerate() {
            for notify in [true, false] {
                let log = format!("way {way}, {notify}");
                let options = place.options().with_notify(notify).with_copy_bytes_min(copy_bytes_min);
                let store = PostgresStore::open(&*place.url, &log, options).await.unwrap();
                append(&store, None, &events(0..3)).await.unwrap();
                // Said by the COMMIT, as the server does.
                place
                    .sql(
                        "CREATE FUNCTION full_queue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                         RAISE program_limit_exceeded USING MESSAGE = 'too many notifications'; END $$; \
                         CREATE CONSTRAINT TRIGGER full_queue AFTER INSERT ON events \
                         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION full_queue()",
                    )
                    .await;
                let refused = append(&store, Some(2), &events(3..6)).await.unwrap_err();
                let expected = if notify {
                    (ErrorKind::Unavailable, Retry::Safe)
                } else {
                    (ErrorKind::Invalid, Retry::Never)
                };
                assert_eq!((refused.kind(), refused.retry()), expected, "{log}: {refused}");
                place.sql("DROP FUNCTION full_queue CASCADE").await;
                assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..3), "{log}");
                append(&store, Some(2), &events(3..6)).await.unwrap();
                assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events(0..6), "{log}");
            }
        }
    });
}
