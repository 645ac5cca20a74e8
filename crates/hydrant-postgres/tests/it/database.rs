//! The shared server, schemas that remove themselves, and ways to break a connection.

use std::net::SocketAddr;

use hydrant::{Event, EventId};
use hydrant_postgres::{PostgresClient, PostgresConnect};

/// The shared server's URL; where there is none, the test says so and is skipped.
pub(crate) fn server() -> Option<String> {
    test_servers::postgres().inspect_err(|reason| println!("skipped: {reason}")).ok()
}

/// Where a URL leads to.
pub(crate) fn address(url: &str) -> SocketAddr {
    let authority = url.split_once("://").unwrap().1.split('/').next().unwrap();
    let host = authority.rsplit('@').next().unwrap();
    std::net::ToSocketAddrs::to_socket_addrs(host).unwrap().next().unwrap()
}

/// The same URL by way of a proxy.
pub(crate) fn through(url: &str, proxy: SocketAddr) -> String {
    let (before, rest) = url.split_once('@').unwrap();
    let path = &rest[rest.find('/').unwrap()..];
    format!("{before}@{proxy}{path}")
}

pub(crate) async fn client(url: &str) -> PostgresClient {
    PostgresConnect::from(url).connect().await.unwrap()
}

/// A schema of the test's own. All schemas whose names begin like it are removed with it.
pub(crate) struct Schema {
    url: String,
    pub(crate) name: String,
}

impl Schema {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), name: test_servers::namespace() }
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        let removed = std::thread::spawn(move || remove(&url, &name)).join();
        if removed.is_err() {
            println!("the schemas of {} were not removed", self.name);
        }
    }
}

/// Removes all schemas whose names begin with this one.
#[tokio::main(flavor = "current_thread")]
async fn remove(url: &str, prefix: &str) {
    remove_schemas(url, prefix).await;
}

pub(crate) async fn remove_schemas(url: &str, prefix: &str) {
    let client = client(url).await;
    let sql = "SELECT quote_ident(nspname) FROM pg_namespace WHERE starts_with(nspname, $1)";
    for row in client.query(sql, &[&prefix]).await.unwrap() {
        let name: String = row.get(0);
        client.batch_execute(&format!("DROP SCHEMA {name} CASCADE")).await.unwrap();
    }
}

/// Ends all sessions of this `application_name` from the server's side, and says how many there were.
pub(crate) async fn terminate(url: &str, application: &str) -> usize {
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = $1 AND pid <> pg_backend_pid()";
    client(url).await.query(sql, &[&application]).await.unwrap().len()
}

/// A URL whose sessions bear a name of their own.
pub(crate) fn named(url: &str, application: &str) -> String {
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}application_name={application}")
}

/// Events with these payloads, from the id `first` on.
pub(crate) fn events<'a>(first: u64, payloads: impl IntoIterator<Item = &'a str>) -> Vec<Event> {
    let event =
        |(id, payload): (u64, &str)| Event::builder(EventId::new(id)).payload_json(payload).build().unwrap();
    (first..).zip(payloads).map(event).collect()
}
