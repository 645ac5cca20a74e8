use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{ErrorKind, Event, EventId, EventSource, EventSourceExt, ReadFrom, Retry};
use hydrant_udp::{
    Interface, Oversize, Received, UdpListener, UdpListenerOptions, UdpSink, UdpSinkOptions, Unnamed,
};
use tokio::net::UdpSocket;

use crate::network::{Faults, Network};
use crate::{gap, large, listen, log, receive, seen, send, send_after, sink_to, take};

fn all(events: &[Event]) -> Vec<Received> {
    events.iter().cloned().map(Received::Event).collect()
}

/// A listener, and a plain socket that sends it what a test wants.
async fn listener_and_socket(options: UdpListenerOptions) -> (UdpListener, UdpSocket) {
    let listener = listen(options).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(listener.local_addr()).await.unwrap();
    (listener, socket)
}

fn patient() -> UdpListenerOptions {
    // What is out of order in these tests always comes; so long a wait is never used up.
    UdpListenerOptions::default().with_reorder_max(Duration::from_secs(3600), 128)
}

fn hasty() -> UdpListenerOptions {
    UdpListenerOptions::default().with_reorder_max(Duration::ZERO, 128)
}

#[tokio::test]
async fn what_is_sent_over_ipv6_is_received() {
    let listener = match UdpListener::open("[::1]:0", UdpListenerOptions::default()).await {
        Ok(listener) => listener,
        Err(error) => return println!("skipped: no IPv6 loopback here: {error}"),
    };
    let sink = sink_to(&listener, UdpSinkOptions::default().with_datagram_bytes_max(1452)).await;
    let events = log(0..5);
    send(&sink, &events).await;
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 5).await, all(&events));
}

#[tokio::test]
async fn every_listener_of_a_multicast_group_receives() {
    let loopback = Interface::Address(Ipv4Addr::LOCALHOST);
    let options = || UdpListenerOptions::default().with_multicast_interface(loopback);
    let first = match UdpListener::open("239.255.71.1:0", options()).await {
        Ok(listener) => listener,
        Err(error) => return println!("skipped: no multicast on the loopback interface: {error}"),
    };
    let group = first.local_addr().to_string();
    let second = UdpListener::open(&group, options()).await.unwrap();
    let sink = UdpSinkOptions::default().with_multicast_interface(loopback).with_multicast_ttl(2);
    let sink = UdpSink::open(&group, sink).await.unwrap();
    let events = log(0..5);
    send(&sink, &events).await;
    for listener in [first, second] {
        assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 5).await, all(&events));
    }
}

#[tokio::test]
async fn a_multicast_group_of_ipv6_receives() {
    let loopback = Interface::Index(1);
    let options = UdpListenerOptions::default().with_multicast_interface(loopback);
    let listener = match UdpListener::open("[ff01::7101]:0", options).await {
        Ok(listener) => listener,
        Err(error) => return println!("skipped: no IPv6 multicast on the loopback interface: {error}"),
    };
    let target = listener.local_addr().to_string();
    let sink = UdpSinkOptions::default().with_multicast_interface(loopback);
    let events = log(0..5);
    let sink = match UdpSink::open(&target, sink).await {
        Ok(sink) => sink,
        Err(error) => return println!("skipped: no IPv6 multicast on the loopback interface: {error}"),
    };
    send(&sink, &events).await;
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 5).await, all(&events));
}

#[tokio::test]
async fn an_interface_of_the_other_family_is_refused() {
    let options = UdpListenerOptions::default().with_multicast_interface(Interface::Index(1));
    let error = UdpListener::open("239.255.71.1:0", options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("multicast_interface"), "{error}");
}

#[tokio::test]
async fn chunks_are_put_together_whatever_their_order() {
    let listener = listen(patient()).await;
    let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk).with_datagram_bytes_max(200);
    let events = [log([0]), vec![large(1, 150), large(2, 10_000), large(3, 157)], log([4])].concat();
    for seed in [1, 2, 3] {
        let faults = Faults { delayed: 40, doubled: 10, ..Faults::default() };
        let network = Network::before(listener.local_addr(), faults, seed).await;
        let sink = UdpSink::open(&network.address.to_string(), options.clone()).await.unwrap();
        send(&sink, &events).await;
        // What the network still holds back is pushed out by more traffic; here, by sending all again.
        send(&sink, &events).await;
        assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 5).await, all(&events));
        network.stop().await;
    }
    assert!(listener.stats().duplicates > 0);
    assert_eq!(listener.stats().garbage, 0);
}

#[tokio::test(start_paused = true)]
async fn an_event_with_a_lost_chunk_is_a_gap_and_is_given_up() {
    let (listener, socket) = listener_and_socket(UdpListenerOptions::default()).await;
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk).with_datagram_bytes_max(200);
    let sink = UdpSink::open(&relay.local_addr().unwrap().to_string(), options).await.unwrap();
    let events = [log([0]), vec![large(1, 1000)], log([2])].concat();
    send(&sink, &events).await;
    let mut buffer = [0; 2000];
    for at in 0..sink.stats().datagrams {
        let bytes = relay.recv(&mut buffer).await.unwrap();
        if at != 3 {
            socket.send(&buffer[..bytes]).await.unwrap();
        }
    }
    let wanted = [Received::Event(events[0].clone()), gap(Some(0), 2), Received::Event(events[2].clone())];
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 3).await, wanted);
    while listener.stats().incomplete == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn duplicates_are_dropped_and_conflicting_events_are_counted() {
    let (listener, _socket) = listener_and_socket(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let events = log(0..3);
    send(&sink, &events).await;
    send(&sink, &events).await;
    send_after(&sink, Some(0), &[large(1, 5)]).await;
    send_after(&sink, Some(2), &log([3])).await;
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 4).await, all(&log(0..4)));
    assert_eq!((listener.stats().duplicates, listener.stats().conflicts), (3, 1));
}

#[tokio::test]
async fn events_out_of_order_within_the_window_are_put_in_order() {
    let listener = listen(patient()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let events = log([0, 3, 4, 9]);
    for (after, event) in [(Some(4), 3), (Some(0), 1), (Some(3), 2), (None, 0)] {
        send_after(&sink, after, &events[event..=event]).await;
    }
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 4).await, all(&events));
}

#[tokio::test]
async fn behind_a_gap_only_so_many_events_wait() {
    let listener = listen(UdpListenerOptions::default().with_reorder_max(Duration::from_secs(3600), 3)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(1), &log(2..5)).await;
    let mut received = listener.received(ReadFrom::Origin);
    seen(&listener, 3).await;
    tokio::select! {
        biased;
        item = received.next() => panic!("{item:?} came although the window has room"),
        () = tokio::time::sleep(Duration::from_millis(20)) => {}
    }
    send_after(&sink, Some(4), &log([5])).await;
    assert_eq!(receive(&mut received, 1).await, [gap(None, 2)]);
    assert_eq!(receive(&mut received, 4).await, all(&log(2..6)));
}

#[tokio::test]
async fn gaps_in_the_ids_of_the_log_are_no_gaps() {
    let listener = listen(hasty()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let events = log([3, 7, 100, 10_000]);
    send(&sink, &events).await;
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 4).await, all(&events));
}

#[tokio::test]
async fn every_event_that_is_lost_is_in_a_reported_gap_and_no_other() {
    for seed in [11, 12, 13] {
        let listener = listen(hasty().with_receive_buffer_bytes(8 << 20)).await;
        let faults = Faults { lost: 10, doubled: 5, ..Faults::default() };
        let mut network = Network::before(listener.local_addr(), faults, seed).await;
        let sink = UdpSink::open(&network.address.to_string(), UdpSinkOptions::default()).await.unwrap();
        let events = log((0..500).map(|id| 3 * id)); // ids with gaps of their own
        for (at, part) in events[..499].chunks(50).enumerate() {
            send_after(&sink, (at > 0).then(|| events[50 * at - 1].id().get()), part).await;
            network.got(sink.stats().datagrams).await;
        }
        seen(&listener, network.stop().await).await;
        // The last one always arrives: no listener can know of what was never followed by anything.
        let direct = sink_to(&listener, UdpSinkOptions::default()).await;
        send_after(&direct, Some(events[498].id().get()), &events[499..]).await;
        let mut position = None;
        let mut expected = events.iter();
        let mut received = listener.received(ReadFrom::Origin);
        let mut gaps = 0;
        while position != Some(events[499].id()) {
            match received.next().await.unwrap().unwrap() {
                Received::Event(event) => {
                    assert_eq!(expected.next(), Some(&event), "seed {seed}");
                    position = Some(event.id());
                }
                Received::Gap { after, before } => {
                    assert_eq!(after, position, "seed {seed}");
                    let lost = expected.clone().take_while(|event| event.id() < before).count();
                    assert!(lost > 0, "seed {seed}: nothing is missing before {before}");
                    expected = events[events.partition_point(|event| event.id() < before)..].iter();
                    gaps += 1;
                }
            }
        }
        assert!(gaps > 0, "seed {seed} lost nothing");
    }
}

#[tokio::test]
async fn garbage_is_counted_and_costs_no_event() {
    let (listener, socket) = listener_and_socket(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let events = log(0..3);
    let garbage: [&[u8]; 12] = [
        b"",
        b"{",
        b"\0\0\0\0",
        b"\xFF\xFE{\0",
        b"hello\n",
        b"[1,2]",
        br#"{"eventId":-1,"stateChanged":{}}"#,
        br#"{"eventId":1,"stateChanged":{},"_hydrant":{"udp":7,"after":0}}"#,
        br#"{"eventId":1,"stateChanged":{},"_hydrant":{"udp":1,"after":1}}"#,
        b"\xB5hu",
        b"\xB5hu\x01 a chunk whose sizes are text",
        &[0xB5; 1400],
    ];
    send(&sink, &events[..1]).await;
    for datagram in garbage {
        socket.send(datagram).await.unwrap();
    }
    let mut chance = fastrand::Rng::with_seed(5);
    for _ in 0..200 {
        let noise: Vec<u8> = (0..chance.usize(..300)).map(|_| chance.u8(..)).collect();
        socket.send(&noise).await.unwrap();
        let header: Vec<u8> = [b"\xB5hu\x01".to_vec(), noise].concat();
        socket.send(&header).await.unwrap();
    }
    seen(&listener, 413).await;
    send_after(&sink, Some(0), &events[1..]).await;
    assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 3).await, all(&events));
    assert_eq!(listener.stats().garbage, 412, "{:?}", listener.stats());
}

#[tokio::test]
async fn damage_on_the_way_never_makes_another_event() {
    let listener = listen(hasty()).await;
    let faults = Faults { damaged: 100, ..Faults::default() };
    let network = Network::before(listener.local_addr(), faults, 21).await;
    let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk).with_datagram_bytes_max(200);
    let sink = UdpSink::open(&network.address.to_string(), options).await.unwrap();
    // In chunks, so that the checksum of the event counts and not the kernel's of the datagram.
    let events: Vec<_> = (0..30).map(|id| large(id, 400)).collect();
    send(&sink, &events).await;
    seen(&listener, sink.stats().datagrams).await;
    network.stop().await;
    assert_eq!(listener.stats().events, 0);
    assert!(listener.stats().garbage > 0);
}

#[tokio::test]
async fn an_option_decides_about_datagrams_of_other_programs() {
    let line = |id: u64| format!("{{\"eventId\":{id},\"stateChanged\":{{}}}}\n");
    let (listener, socket) = listener_and_socket(hasty()).await;
    for id in [0, 1, 5] {
        socket.send(line(id).as_bytes()).await.unwrap();
    }
    let received = receive(&mut listener.received(ReadFrom::Origin), 4).await;
    assert_eq!(received[2], gap(Some(1), 5));

    let (listener, socket) = listener_and_socket(hasty().with_unnamed(Unnamed::Refuse)).await;
    socket.send(line(0).as_bytes()).await.unwrap();
    seen(&listener, 1).await;
    assert_eq!((listener.stats().garbage, listener.stats().events), (1, 0));
}

#[tokio::test]
async fn datagrams_of_strangers_are_counted_and_dropped() {
    let (listener, socket) =
        listener_and_socket(UdpListenerOptions::default().with_senders([IpAddr::from([192, 0, 2, 1])])).await;
    socket.send(log([0])[0].to_string().as_bytes()).await.unwrap();
    seen(&listener, 1).await;
    assert_eq!((listener.stats().foreign, listener.stats().events), (1, 0));
}

#[tokio::test]
async fn a_read_ends_at_what_was_received_and_a_follower_goes_on() {
    let listener = listen(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    assert_eq!(listener.collect(ReadFrom::Origin).await.unwrap(), []);
    let events = log(0..6);
    send(&sink, &events[..4]).await;
    let mut follower = listener.follow(ReadFrom::After(EventId::ZERO));
    assert_eq!(take(&mut follower, 3).await, events[1..4]);
    let read = listener.read(ReadFrom::Origin);
    send_after(&sink, Some(3), &events[4..]).await;
    assert_eq!(take(&mut follower, 2).await, events[4..]);
    assert_eq!(read.map(Result::unwrap).collect::<Vec<_>>().await, events[..4]);
    assert_eq!(listener.collect(ReadFrom::After(EventId::new(2))).await.unwrap(), events[3..]);
    assert_eq!(listener.collect(ReadFrom::After(EventId::new(99))).await.unwrap(), []);
    assert_eq!(listener.collect(ReadFrom::At(EventId::new(2))).await.unwrap(), events[2..]);
}

#[tokio::test]
async fn a_read_from_the_snapshot_starts_with_the_newest() {
    let listener = listen(UdpListenerOptions::default()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let snapshot = |id| Event::builder(EventId::new(id)).payload_json("{}").snapshot().build().unwrap();
    let events = [vec![snapshot(5)], log([6]), vec![snapshot(7)], log([8])].concat();
    send_after(&sink, Some(4), &events).await;
    seen(&listener, 4).await;
    assert_eq!(listener.collect(ReadFrom::Snapshot).await.unwrap(), events[2..]);
    for from in [ReadFrom::Origin, ReadFrom::At(EventId::new(4))] {
        let error = listener.collect(from).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(5) });
    }
    assert_eq!(listener.collect(ReadFrom::At(EventId::new(5))).await.unwrap(), events);
}

#[tokio::test]
async fn without_a_refill_a_gap_ends_the_read_and_says_the_ids() {
    let listener = listen(hasty()).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send(&sink, &log([0, 1])).await;
    send_after(&sink, Some(4), &log([7])).await;
    let mut follower = listener.follow(ReadFrom::Origin);
    assert_eq!(take(&mut follower, 2).await, log([0, 1]));
    let error = follower.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Gap, Retry::Never));
    assert!(error.to_string().contains("between 1 and 7"), "{error}");
    assert!(follower.next().await.is_none(), "an error is the last item");
}

#[tokio::test]
async fn held_events_are_bounded_and_a_slow_reader_gets_pruned() {
    let listener = listen(hasty().with_held_max(3, usize::MAX)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    let mut slow = listener.follow(ReadFrom::Origin);
    let mut slow_received = listener.received(ReadFrom::Origin);
    send(&sink, &log(0..1)).await;
    assert_eq!(take(&mut slow, 1).await, log(0..1));
    assert_eq!(receive(&mut slow_received, 1).await, all(&log(0..1)));
    send_after(&sink, Some(0), &log(1..9)).await;
    seen(&listener, 9).await;
    assert_eq!(listener.stats().evicted, 6);
    let error = slow.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Pruned { oldest: EventId::new(6) });
    assert_eq!(receive(&mut slow_received, 1).await, [gap(Some(0), 6)]);
    assert_eq!(receive(&mut slow_received, 3).await, all(&log(6..9)));
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let listener = listen(UdpListenerOptions::default()).await;
    let address = listener.local_addr().to_string();
    let error = UdpListener::open(&address, UdpListenerOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("in use") && text.contains("another port"), "{text}");
}

#[tokio::test]
async fn an_address_of_another_machine_or_none_is_refused() {
    for (address, says) in [("192.0.2.77:9000", "no interface"), ("nonsense", "host:port")] {
        let error = UdpListener::open(address, UdpListenerOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn closing_releases_the_port_and_ends_followers() {
    let listener = listen(UdpListenerOptions::default()).await;
    let address: SocketAddr = listener.local_addr();
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send(&sink, &log([0])).await;
    seen(&listener, 1).await;
    let (mut follower, mut received) =
        (listener.follow(ReadFrom::Origin), listener.received(ReadFrom::Origin));
    listener.close().await;
    listener.close().await;
    let again = UdpListener::open(&address.to_string(), UdpListenerOptions::default()).await.unwrap();
    // What was held is read to its end first.
    assert_eq!(take(&mut follower, 1).await, log([0]));
    assert_eq!(follower.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(receive(&mut received, 1).await, all(&log([0])));
    assert_eq!(received.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(received.next().await.is_none());
    assert_eq!(listener.collect(ReadFrom::Origin).await.unwrap(), log([0]));
    again.close().await;
}

#[tokio::test]
async fn dropping_the_listener_frees_the_port_and_wakes_followers() {
    let listener = listen(UdpListenerOptions::default()).await;
    let address = listener.local_addr().to_string();
    let mut follower = listener.follow(ReadFrom::Origin);
    let waiting = tokio::spawn(async move { follower.next().await });
    tokio::task::yield_now().await;
    drop(listener);
    assert_eq!(waiting.await.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    while UdpListener::open(&address, UdpListenerOptions::default()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn several_listeners_and_sinks_do_not_mix() {
    let mut pairs = Vec::new();
    for number in 0..5_u64 {
        let listener = listen(UdpListenerOptions::default()).await;
        let sink = sink_to(&listener, UdpSinkOptions::default()).await;
        pairs.push((listener, sink, log(10 * number..10 * number + 5)));
    }
    for (_, sink, events) in &pairs {
        send(sink, events).await;
    }
    for (listener, _, events) in &pairs {
        assert_eq!(receive(&mut listener.received(ReadFrom::Origin), 5).await, all(events));
    }
}
