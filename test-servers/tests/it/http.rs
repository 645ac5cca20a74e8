//! Each action of the HTTP proxy, seen from both sides.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use test_servers::proxy::{Action, Answer, Gate, Http, operation};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// What the server got: whole requests, as text.
type Got = Arc<Mutex<Vec<String>>>;

/// A server that answers each request with its body in upper case.
async fn server() -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Got::default());
    let shared = got.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(converse(stream, shared.clone()));
        }
    });
    (address, got)
}

async fn converse(mut stream: TcpStream, got: Got) {
    while let Ok(request) = message(&mut stream).await {
        let body = request.split_once("\r\n\r\n").unwrap().1.to_uppercase();
        got.lock().unwrap().push(request);
        let answer =
            format!("HTTP/1.1 200 OK\r\nx-from: server\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        drop(stream.write_all(answer.as_bytes()).await);
    }
}

/// One request or answer with a `content-length`.
async fn message(stream: &mut TcpStream) -> io::Result<String> {
    let mut message = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&message).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if length.is_none_or(|length| body.len() >= length.parse().unwrap()) {
                return Ok(String::from_utf8(message).unwrap());
            }
        }
        if stream.read_buf(&mut message).await? == 0 {
            return Err(io::Error::other(String::from_utf8(message).unwrap()));
        }
    }
}

async fn proxy() -> (Http, Got) {
    let (address, got) = server().await;
    (Http::start(address).await, got)
}

/// Sends a request with a signed host, and returns the status and the body of its answer; the error holds what came
/// of one that broke off.
async fn ask(proxy: &Http, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(proxy.address()).await?;
    stream.write_all(request(method, path, body).as_bytes()).await?;
    let answer = message(&mut stream).await?;
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    Ok((answer[9..12].parse().unwrap(), body))
}

fn request(method: &str, path: &str, body: &str) -> String {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: signed.example:1234\r\nX-Amz-Target: Kinesis_20131202.Put"
    );
    format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn calls(got: &Got) -> usize {
    got.lock().unwrap().len()
}

#[tokio::test]
async fn without_a_rule_all_passes_with_its_host() {
    let (proxy, got) = proxy().await;
    assert_eq!(ask(&proxy, "PUT", "/b/k?x=y", "body").await.unwrap(), (200, "BODY".to_owned()));
    let request = got.lock().unwrap()[0].to_lowercase();
    assert!(request.starts_with("put /b/k?x=y http/1.1\r\n"), "{request}");
    assert!(request.contains("host: signed.example:1234\r\n"), "{request}");
    assert_eq!(proxy.count(|request| request.uri.path() == "/b/k" && operation(request) == "Put"), 1);
    assert_eq!(proxy.count(|request| request.method == "GET"), 0);
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let (proxy, got) = proxy().await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    for body in ["a", "b", "c"] {
        stream.write_all(request("PUT", "/", body).as_bytes()).await.unwrap();
        assert!(message(&mut stream).await.unwrap().ends_with(&body.to_uppercase()));
    }
    assert_eq!(calls(&got), 3);
}

#[tokio::test]
async fn the_next_two_that_match_are_turned_away() {
    let (proxy, got) = proxy().await;
    proxy.next(2, |request| request.method == "PUT", Action::Answer(Answer::s3(503, "SlowDown")));
    assert_eq!(ask(&proxy, "GET", "/", "").await.unwrap().0, 200);
    for _ in 0..2 {
        let (status, body) = ask(&proxy, "PUT", "/", "a").await.unwrap();
        assert!(status == 503 && body.contains("<Code>SlowDown</Code>"), "{status} {body}");
    }
    assert_eq!(ask(&proxy, "PUT", "/", "a").await.unwrap().0, 200);
    assert_eq!(calls(&got), 2);
}

#[tokio::test]
async fn rules_take_turns_and_heal_forgets_them() {
    let (proxy, _) = proxy().await;
    let throttled = Answer::kinesis(400, "ProvisionedThroughputExceededException");
    proxy.next(1, |_| true, Action::Answer(throttled));
    proxy.next(usize::MAX, |_| true, Action::Answer(Answer::s3(500, "InternalError")));
    let (status, body) = ask(&proxy, "POST", "/", "").await.unwrap();
    assert!(status == 400 && body.contains(r#""__type":"ProvisionedThroughputExceededException""#), "{body}");
    assert_eq!(ask(&proxy, "POST", "/", "").await.unwrap().0, 500);
    proxy.heal();
    assert_eq!(ask(&proxy, "POST", "/", "").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_cut_request_reaches_no_server() {
    let (proxy, got) = proxy().await;
    proxy.next(1, |_| true, Action::Cut);
    assert_eq!(ask(&proxy, "PUT", "/", "a").await.unwrap_err().to_string(), "");
    assert_eq!(calls(&got), 0);
}

#[tokio::test]
async fn a_lost_answer_was_given() {
    let (proxy, got) = proxy().await;
    proxy.next(1, |_| true, Action::LoseAnswer);
    assert_eq!(ask(&proxy, "PUT", "/", "a").await.unwrap_err().to_string(), "");
    assert_eq!(calls(&got), 1);
}

#[tokio::test]
async fn an_answer_breaks_off_in_its_body() {
    let (proxy, _) = proxy().await;
    for bytes in [0, 3] {
        proxy.next(1, |_| true, Action::CutAnswer(bytes));
        let answer = ask(&proxy, "PUT", "/", "abcdef").await.unwrap_err().to_string();
        assert!(answer.contains("content-length: 6\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{}", &"ABCDEF"[..bytes])), "{answer}");
    }
}

#[tokio::test]
async fn a_delay_is_at_least_that_long() {
    let (proxy, _) = proxy().await;
    let delay = Duration::from_millis(50);
    proxy.next(1, |_| true, Action::Delay(delay));
    let start = Instant::now();
    assert_eq!(ask(&proxy, "PUT", "/", "a").await.unwrap(), (200, "A".to_owned()));
    assert!(start.elapsed() >= delay);
}

#[tokio::test]
async fn a_held_request_arrives_though_its_client_is_gone() {
    let (proxy, got) = proxy().await;
    let gate = Gate::new();
    proxy.next(1, |_| true, Action::Hold(gate.clone()));
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.write_all(request("PUT", "/late", "a").as_bytes()).await.unwrap();
    gate.arrived(1).await;
    drop(stream);
    assert_eq!(ask(&proxy, "PUT", "/next", "b").await.unwrap().0, 200);
    assert_eq!(calls(&got), 1);
    gate.open();
    while calls(&got) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(got.lock().unwrap()[1].starts_with("PUT /late"));
}

#[tokio::test]
async fn a_held_answer_was_given_and_comes_when_the_gate_opens() {
    let (proxy, got) = proxy().await;
    let gate = Gate::new();
    proxy.next(1, |_| true, Action::HoldAnswer(gate.clone()));
    let (answer, ()) = tokio::join!(ask(&proxy, "PUT", "/", "a"), async {
        gate.arrived(1).await;
        assert_eq!(calls(&got), 1);
        gate.open();
    });
    assert_eq!(answer.unwrap(), (200, "A".to_owned()));
}

#[tokio::test]
async fn bodies_are_rewritten_both_ways() {
    let (proxy, got) = proxy().await;
    let shorter = |body: Vec<u8>| body[1..].to_vec();
    proxy.next(
        1,
        |_| true,
        Action::rewrite(shorter, |status, body| (status + 1, [&b"<"[..], &body, b">"].concat())),
    );
    assert_eq!(ask(&proxy, "PUT", "/", "abc").await.unwrap(), (201, "<BC>".to_owned()));
    assert!(got.lock().unwrap()[0].ends_with("\r\n\r\nbc"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_cut_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Http::start(address).await;
    assert_eq!(ask(&proxy, "GET", "/", "").await.unwrap_err().to_string(), "");
}

/// Enhanced fan-out is one answer that never ends.
#[tokio::test]
async fn an_answer_that_never_ends_streams_through() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Http::start(listener.local_addr().unwrap()).await;
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    client.write_all(request("GET", "/", "").as_bytes()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    message(&mut server).await.unwrap();
    server.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for chunk in ["one", "two", "six"] {
        server.write_all(format!("3\r\n{chunk}\r\n").as_bytes()).await.unwrap();
        let mut got = Vec::new();
        while !got.ends_with(format!("{chunk}\r\n").as_bytes()) {
            assert_ne!(client.read_buf(&mut got).await.unwrap(), 0);
        }
    }
    drop(client);
    let mut rest = Vec::new();
    assert_eq!(server.read_to_end(&mut rest).await.unwrap(), 0, "the proxy lets go of the server, too");
}
