//! A server for a test ends with it, in whatever way the test ends.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hydrant_conformance::proxy::free_port;
use hydrant_conformance::server::Server;
use tokio::net::TcpListener;
use tokio::time::sleep;

/// A server that starts another process, writes a line, and waits.
fn program() -> Command {
    let mut program = Command::new("/bin/sh");
    program.args(["-c", "sleep 1000 & echo \"$GREETING, child $!\"; echo careful >&2; wait"]);
    program.env("GREETING", "ready");
    program
}

/// Starts it, and waits until it wrote both lines: its id and that of its child.
async fn started() -> (Server, u32) {
    let server = Server::start(&program()).unwrap();
    while server.log().lines().count() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let log = server.log();
    assert!(log.contains("careful"), "{log}");
    let line = log.lines().find(|line| line.starts_with("ready")).unwrap();
    let child = line.rsplit(' ').next().unwrap().parse().unwrap();
    (server, child)
}

/// Waits until a process is gone, or only waits to be reaped.
async fn is_gone(id: u32) {
    let stat = format!("/proc/{id}/stat");
    while Path::new(&stat).exists() {
        match std::fs::read_to_string(&stat) {
            Ok(text) if !text.contains(") Z") => sleep(Duration::from_millis(1)).await,
            _ => return,
        }
    }
}

#[tokio::test]
async fn a_dropped_server_takes_its_children_with_it() {
    let (server, child) = started().await;
    let id = server.id();
    drop(server);
    is_gone(id).await;
    is_gone(child).await;
}

#[tokio::test]
async fn a_panic_ends_the_server() {
    let (server, child) = started().await;
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _server = server;
        panic!("a test that fails");
    }));
    assert!(panicked.is_err());
    is_gone(child).await;
}

#[tokio::test]
async fn a_server_that_was_killed_keeps_its_log() {
    let (mut server, child) = started().await;
    server.kill();
    is_gone(child).await;
    assert!(server.log().contains("ready"));
}

#[tokio::test]
async fn a_server_is_awaited_until_it_listens() {
    let (server, _) = started().await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let listening = async {
        sleep(Duration::from_millis(50)).await;
        TcpListener::bind(address).await.unwrap()
    };
    let ((), _listener) = tokio::join!(server.listens(address, Duration::from_secs(60)), listening);
}
