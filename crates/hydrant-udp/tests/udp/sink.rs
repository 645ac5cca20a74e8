use std::collections::BTreeSet;
use std::sync::Arc;

use hydrant::store::envelope;
use hydrant::{Batch, Checkpoint, ErrorKind, EventId, EventSink, ReadFrom, Retry};
use hydrant_udp::{Oversize, Received, UdpListenerOptions, UdpSink, UdpSinkOptions};
use tokio::net::UdpSocket;

use crate::{gap, large, listen, log, receive, seen, send, send_after, sink_to};

/// A plain socket of another program, and a sink that sends to it.
async fn sink_to_socket(options: UdpSinkOptions) -> (UdpSink, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap().to_string();
    (UdpSink::open(&target, options).await.unwrap(), socket)
}

async fn datagram(socket: &UdpSocket) -> String {
    let mut buffer = vec![0; 65_535];
    let bytes = socket.recv(&mut buffer).await.unwrap();
    String::from_utf8(buffer[..bytes].to_vec()).unwrap()
}

#[tokio::test]
async fn a_datagram_holds_one_event_and_names_its_predecessor() {
    let (sink, socket) = sink_to_socket(UdpSinkOptions::default()).await;
    let events = log([0, 1, 5]);
    send(&sink, &events).await;
    for (event, after) in events.iter().zip(["null", "0", "1"]) {
        let text = datagram(&socket).await;
        let open = String::from_utf8_lossy(event.open_envelope());
        assert_eq!(text, format!("{open},\"_hydrant\":{{\"udp\":1,\"after\":{after}}}}}"));
        assert_eq!(envelope::decode(text.into()).unwrap(), *event);
    }
    assert_eq!(sink.stats().datagrams, 3);
}

#[tokio::test]
async fn without_a_predecessor_a_datagram_is_the_bare_event() {
    let (sink, socket) = sink_to_socket(UdpSinkOptions::default().with_name_predecessor(false)).await;
    let events = log([7]);
    send(&sink, &events).await;
    assert_eq!(datagram(&socket).await, events[0].to_string());
}

#[tokio::test]
async fn the_sink_has_no_memory() {
    let (sink, _socket) = sink_to_socket(UdpSinkOptions::default()).await;
    send(&sink, &log([0])).await;
    assert_eq!(sink.checkpoint().await.unwrap(), Checkpoint::Unknown);
}

#[tokio::test]
async fn more_events_than_one_system_call_takes_arrive_in_order() {
    let listener = listen(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let events = log(0..300);
    let mut received = listener.received(ReadFrom::Origin);
    for (at, part) in events.chunks(75).enumerate() {
        send_after(&sink, (75 * at as u64).checked_sub(1), part).await;
        for event in part {
            assert_eq!(receive(&mut received, 1).await, [Received::Event(event.clone())]);
        }
    }
}

#[tokio::test]
async fn park_names_a_large_event_and_sends_the_events_before_it() {
    let listener = listen(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default().with_datagram_bytes_max(500)).await;
    let events = [log([0, 1]), vec![large(2, 600)], log([3])].concat();
    let error = sink.append(Batch::new(None, &events).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Invalid, Retry::Never));
    assert_eq!(error.event(), Some(EventId::new(2)));
    assert!(error.to_string().contains("datagram_bytes_max"), "{error}");
    assert!(error.to_string().contains(&listener.local_addr().to_string()), "{error}");
    assert_eq!(sink.stats().datagrams, 2);
    seen(&listener, 2).await;
}

#[tokio::test]
async fn skip_counts_a_large_event_and_the_listener_sees_the_gap() {
    let listener = listen(UdpListenerOptions::default()).await;
    let options = UdpSinkOptions::default().with_datagram_bytes_max(500).with_oversize(Oversize::Skip);
    let sink = sink_to(&listener, options).await;
    let events = [log([0]), vec![large(2, 600)], log([5])].concat();
    send(&sink, &events).await;
    assert_eq!((sink.stats().datagrams, sink.stats().skipped), (2, 1));
    let mut received = listener.received(ReadFrom::Origin);
    let wanted = [Received::Event(events[0].clone()), gap(Some(0), 5), Received::Event(events[2].clone())];
    assert_eq!(receive(&mut received, 3).await, wanted);
}

#[tokio::test]
async fn an_event_of_the_largest_size_fits_and_a_larger_one_does_not() {
    let (sink, socket) = sink_to_socket(UdpSinkOptions::default().with_datagram_bytes_max(500)).await;
    let frame = r#"{"eventId":0,"stateChanged":"","_hydrant":{"udp":1,"after":null}}"#.len();
    send(&sink, &[large(0, 500 - frame)]).await;
    assert_eq!(datagram(&socket).await.len(), 500);
    let error = sink.append(Batch::new(None, &[large(0, 501 - frame)]).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("501 bytes"), "{error}");
}

#[tokio::test]
async fn what_the_system_finds_too_large_names_the_event() {
    // Above what a datagram can be, which `open` refuses, only IPv4's own limit is left to hit.
    let (sink, _socket) = sink_to_socket(UdpSinkOptions::default().with_datagram_bytes_max(65_507)).await;
    send(&sink, &[large(0, 65_000)]).await;
    let error = UdpSink::open("127.0.0.1:9", UdpSinkOptions::default().with_datagram_bytes_max(65_508))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = UdpSink::open("127.0.0.1:9", UdpSinkOptions::default().with_datagram_bytes_max(60))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("datagram_bytes_max"), "{error}");
}

#[tokio::test]
async fn an_event_above_the_limit_of_chunks_is_refused_by_name() {
    let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk).with_event_bytes_max(4000);
    let (sink, _socket) = sink_to_socket(options).await;
    let error = sink.append(Batch::new(None, &[large(3, 5000)]).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Invalid, Some(EventId::new(3))));
    assert!(error.to_string().contains("event_bytes_max"), "{error}");
}

#[tokio::test]
async fn a_target_without_a_listener_is_counted_and_no_error() {
    let (sink, socket) = sink_to_socket(UdpSinkOptions::default()).await;
    let target = socket.local_addr().unwrap();
    drop(socket);
    for event in log(0..20) {
        send(&sink, &[event]).await;
    }
    let stats = sink.stats();
    assert_eq!(stats.datagrams, 20);
    assert!(stats.refused > 0, "{stats:?}");
    // A listener that comes later gets what is sent from then on, the very next datagram included.
    let socket = UdpSocket::bind(target).await.unwrap();
    let events = log([20]);
    send(&sink, &events).await;
    assert_eq!(envelope::decode(datagram(&socket).await.into()).unwrap(), events[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn appends_of_many_tasks_and_several_sinks_all_arrive() {
    let listener = listen(UdpListenerOptions::default().with_receive_buffer_bytes(8 << 20)).await;
    let mut tasks = Vec::new();
    for sink_number in 0..4 {
        let sink = Arc::new(sink_to(&listener, UdpSinkOptions::default()).await);
        for task_number in 0..4 {
            let (sink, first) = (sink.clone(), 1 + 25 * (4 * sink_number + task_number));
            tasks.push(tokio::spawn(async move {
                for id in first..first + 25 {
                    send_after(&sink, Some(id - 1), &log([id])).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    seen(&listener, 400).await;
    let mut received = listener.received(ReadFrom::After(EventId::ZERO));
    let ids: BTreeSet<_> = receive(&mut received, 400)
        .await
        .into_iter()
        .map(|received| match received {
            Received::Event(event) => event.id().get(),
            Received::Gap { after, before } => panic!("a gap between {after:?} and {before}"),
        })
        .collect();
    assert_eq!(ids, (1..=400).collect());
}

#[tokio::test]
async fn a_closed_sink_says_so_and_its_socket_is_released() {
    let (sink, _socket) = sink_to_socket(UdpSinkOptions::default()).await;
    sink.close().await;
    sink.close().await;
    let error = sink.append(Batch::new(None, &log([0])).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Closed, Retry::Never));
}

#[tokio::test]
async fn a_target_that_is_none_is_refused_with_what_to_write() {
    for target in ["", "localhost", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", "udp://127.0.0.1:9"] {
        let error = UdpSink::open(target, UdpSinkOptions::default()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unavailable), "{target}: {error}");
    }
    let error = UdpSink::open("127.0.0.1", UdpSinkOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("host:port"), "{error}");
}
