//! Each fault of the TCP proxy, seen from both sides, and faults that do not fire.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hydrant_conformance::proxy::{Fault, Tcp, When};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// A server that answers `<line>` with `ok <line>`, and the bytes that it got.
async fn server() -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let shared = got.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let got = shared.clone();
            tokio::spawn(async move {
                let (mut line, mut buffer) = (Vec::new(), [0; 1024]);
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    got.lock().unwrap().extend_from_slice(&buffer[..n]);
                    line.extend_from_slice(&buffer[..n]);
                    if line.ends_with(b"\n") {
                        drop(stream.write_all(&[&b"ok "[..], &line].concat()).await);
                        line.clear();
                    }
                }
            });
        }
    });
    (address, got)
}

async fn proxy() -> (Tcp, Arc<Mutex<Vec<u8>>>) {
    let (address, got) = server().await;
    (Tcp::start(address).await, got)
}

fn text(got: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(got.lock().unwrap().clone()).unwrap()
}

async fn connected(proxy: &Tcp) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// What comes back for a line, up to the end of the connection or of a line.
async fn ask(stream: &mut TcpStream, line: &str) -> Result<String, ErrorKind> {
    stream.write_all(line.as_bytes()).await.map_err(|error| error.kind())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") {
        match stream.read_buf(&mut answer).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if answer.is_empty() => return Err(error.kind()),
            Err(_) => break,
        }
    }
    Ok(String::from_utf8(answer).unwrap())
}

/// Nothing came back: the connection ended, in one way or another.
fn is_cut(answer: &Result<String, ErrorKind>) -> bool {
    matches!(answer.as_deref(), Ok("") | Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

#[tokio::test]
async fn without_a_fault_all_passes_and_is_counted() {
    let (proxy, got) = proxy().await;
    let (mut one, mut other) = (connected(&proxy).await, connected(&proxy).await);
    assert_eq!(ask(&mut one, "a\n").await.unwrap(), "ok a\n");
    assert_eq!(ask(&mut one, "b\n").await.unwrap(), "ok b\n");
    assert_eq!(ask(&mut other, "c\n").await.unwrap(), "ok c\n");
    assert_eq!((proxy.connections(), proxy.open(), proxy.exchanges()), (2, 2, 3));
    assert_eq!(text(&got), "a\nb\nc\n");
}

#[tokio::test]
async fn large_answers_and_requests_at_once_do_not_block_each_other() {
    let (proxy, got) = proxy().await;
    let mut stream = connected(&proxy).await;
    let (mut read, mut write) = stream.split();
    let line = format!("{}\n", "x".repeat(4 << 20));
    let mut answer = vec![0; line.len() + 3];
    let (written, read) = tokio::join!(write.write_all(line.as_bytes()), read.read_exact(&mut answer));
    written.unwrap();
    read.unwrap();
    assert_eq!(got.lock().unwrap().len(), line.len());
}

#[tokio::test]
async fn a_half_closed_connection_still_gets_its_answer() {
    let (proxy, _) = proxy().await;
    let mut stream = connected(&proxy).await;
    stream.write_all(b"a\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "ok a\n");
}

#[tokio::test]
async fn refused_until_healed() {
    let (proxy, _) = proxy().await;
    let mut before = connected(&proxy).await;
    assert_eq!(ask(&mut before, "a\n").await.unwrap(), "ok a\n");
    proxy.always(Fault::Refuse).await;
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&mut before, "b\n").await.unwrap(), "ok b\n");
    proxy.cut();
    assert!(is_cut(&ask(&mut before, "c\n").await));
    proxy.heal().await;
    let mut stream = connected(&proxy).await;
    assert_eq!(ask(&mut stream, "d\n").await.unwrap(), "ok d\n");
}

#[tokio::test]
async fn one_connection_is_refused_and_the_next_is_not() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Connection, Fault::Refuse);
    let mut stream = connected(&proxy).await;
    assert!(is_cut(&ask(&mut stream, "a\n").await));
    assert_eq!(ask(&mut connected(&proxy).await, "b\n").await.unwrap(), "ok b\n");
    assert_eq!(text(&got), "b\n");
}

#[tokio::test]
async fn cut_before_the_server_sees_nothing() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Exchange(2), Fault::CutBefore);
    let mut stream = connected(&proxy).await;
    assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n");
    assert!(is_cut(&ask(&mut stream, "b\n").await));
    assert_eq!(ask(&mut connected(&proxy).await, "c\n").await.unwrap(), "ok c\n");
    assert_eq!(text(&got), "a\nc\n");
}

#[tokio::test]
async fn cut_within_the_server_sees_so_many_bytes() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Connection, Fault::CutWithin(5));
    let mut stream = connected(&proxy).await;
    stream.write_all(b"one").await.unwrap();
    while text(&got) != "one" {
        tokio::task::yield_now().await;
    }
    assert!(is_cut(&ask(&mut stream, " two\n").await));
    while text(&got) != "one t" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn cut_after_the_server_sees_all_and_the_client_nothing() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Sends(b"COMMIT".to_vec()), Fault::CutAfter);
    let mut stream = connected(&proxy).await;
    assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n");
    assert!(is_cut(&ask(&mut stream, "now COMMIT\n").await));
    while text(&got) != "a\nnow COMMIT\n" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_lost_answer_was_given() {
    let (proxy, got) = proxy().await;
    let mut stream = connected(&proxy).await;
    proxy.once(When::Exchange(1), Fault::LoseAnswer);
    assert!(is_cut(&ask(&mut stream, "a\n").await));
    assert_eq!(text(&got), "a\n");
    assert_eq!(ask(&mut connected(&proxy).await, "b\n").await.unwrap(), "ok b\n");
}

#[tokio::test]
async fn an_answer_breaks_off() {
    let (proxy, _) = proxy().await;
    proxy.once(When::Exchange(1), Fault::CutAnswer(4));
    assert_eq!(ask(&mut connected(&proxy).await, "abc\n").await.unwrap(), "ok a");
}

#[tokio::test]
async fn an_exchange_that_is_too_short_to_break_leaves_the_next_alone() {
    let (proxy, got) = proxy().await;
    let mut stream = connected(&proxy).await;
    for fault in [Fault::CutWithin(5), Fault::CutAnswer(8)] {
        proxy.once(When::Exchange(1), fault);
        assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n", "{fault:?}");
        assert_eq!(ask(&mut stream, "longer\n").await.unwrap(), "ok longer\n", "{fault:?}");
        let unfired = proxy.unfired();
        assert!(unfired.len() == 1 && unfired[0].ends_with("(the exchange was too short)"), "{unfired:?}");
        proxy.heal().await;
    }
    assert_eq!(text(&got), "a\nlonger\na\nlonger\n");
}

#[tokio::test]
async fn a_delay_is_at_least_that_long() {
    let (proxy, _) = proxy().await;
    let mut stream = connected(&proxy).await;
    let delay = Duration::from_millis(50);
    proxy.always(Fault::Delay(delay)).await;
    let start = Instant::now();
    assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n");
    assert!(start.elapsed() >= delay);
}

#[tokio::test]
async fn a_black_hole_closes_nothing_and_loses_nothing() {
    let (proxy, got) = proxy().await;
    let mut stream = connected(&proxy).await;
    proxy.always(Fault::BlackHole).await;
    stream.write_all(b"a\n").await.unwrap();
    while proxy.exchanges() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(text(&got), "");
    proxy.heal().await;
    assert_eq!(ask(&mut stream, "").await.unwrap(), "ok a\n");
}

#[tokio::test]
async fn a_reset_is_one() {
    let (proxy, got) = proxy().await;
    let mut stream = connected(&proxy).await;
    proxy.once(When::Exchange(1), Fault::Reset);
    assert_eq!(ask(&mut stream, "a\n").await, Err(ErrorKind::ConnectionReset));
    assert_eq!(text(&got), "");
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections() {
    let (proxy, _) = proxy().await;
    let mut stream = connected(&proxy).await;
    assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n");
    drop(proxy);
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest).await);
    assert!(rest.is_empty());
}

#[tokio::test]
async fn closed_connections_are_no_longer_open() {
    let (proxy, _) = proxy().await;
    let mut stream = connected(&proxy).await;
    assert_eq!(ask(&mut stream, "a\n").await.unwrap(), "ok a\n");
    drop(stream);
    while proxy.open() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_late_request_arrives_after_the_client_was_cut_off() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Exchange(1), Fault::ArriveLate(Duration::from_millis(30)));
    assert!(is_cut(&ask(&mut connected(&proxy).await, "late\n").await));
    assert_eq!(text(&got), "");
    assert_eq!(ask(&mut connected(&proxy).await, "next\n").await.unwrap(), "ok next\n");
    while text(&got) != "next\nlate\n" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_request_in_a_black_hole_waits_until_healed() {
    let (proxy, got) = proxy().await;
    proxy.once(When::Exchange(1), Fault::BlackHole);
    let mut held = connected(&proxy).await;
    held.write_all(b"held\n").await.unwrap();
    while !proxy.unfired().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&mut connected(&proxy).await, "other\n").await.unwrap(), "ok other\n");
    assert_eq!(text(&got), "other\n");
    proxy.heal().await;
    assert_eq!(ask(&mut held, "").await.unwrap(), "ok held\n");
}

#[tokio::test]
async fn each_kind_of_failure_fires_and_is_named_until_then() {
    let (proxy, _) = proxy().await;
    let mut kinds = 0;
    while proxy.arm(kinds, When::Sends(b"write".to_vec())) {
        let mut stream = connected(&proxy).await;
        assert_eq!(ask(&mut stream, "read\n").await.unwrap(), "ok read\n");
        let unfired = proxy.unfired();
        assert!(unfired.len() == 1 && unfired[0].contains("bytes with \"write\""), "{unfired:?}");
        drop(tokio::time::timeout(Duration::from_millis(100), ask(&mut stream, "write\n")).await);
        assert_eq!(proxy.unfired(), [""; 0], "kind {kinds}");
        proxy.heal().await;
        kinds += 1;
    }
    assert_eq!(kinds, 8);
}

#[tokio::test]
#[should_panic(
    expected = "armed, and not fired when the proxy was dropped: CutBefore at an exchange, 2 away"
)]
async fn a_fault_that_does_not_fire_fails_the_test() {
    let (proxy, _) = proxy().await;
    proxy.once(When::Exchange(3), Fault::CutBefore);
    assert_eq!(ask(&mut connected(&proxy).await, "a\n").await.unwrap(), "ok a\n");
}
