use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hydrant::{
    Batch, ErrorKind, Event, EventId, EventSink, EventSource, EventSourceExt, MemoryStore, ReadFrom, Retry,
};
use hydrant_udp::{Oversize, UdpListenerOptions, UdpSink, UdpSinkOptions, Unnamed};

use crate::network::{Faults, Network};
use crate::{large, listen, log, seen, send, send_after, sink_to, take};

async fn store_with(events: &[Event]) -> MemoryStore {
    let store = MemoryStore::default();
    let mut after = None;
    for segment in Batch::segments(events) {
        store.append(Batch::new(after, segment).unwrap()).await.unwrap();
        after = segment.last().map(Event::id);
    }
    store
}

fn refilled(store: &MemoryStore) -> UdpListenerOptions {
    UdpListenerOptions::default()
        .with_reorder_max(Duration::from_millis(5), 128)
        .with_refill_interval(Duration::from_millis(50))
        .with_refill(Arc::new(store.clone()))
}

#[tokio::test]
async fn with_a_refill_the_log_is_complete_whatever_the_network_does() {
    for seed in [31, 32, 33] {
        let store = MemoryStore::default();
        let listener = listen(refilled(&store).with_receive_buffer_bytes(8 << 20)).await;
        let faults = Faults { lost: 15, doubled: 5, delayed: 10, damaged: 0 };
        let network = Network::before(listener.local_addr(), faults, seed).await;
        let options = UdpSinkOptions::default().with_oversize(Oversize::Chunk).with_datagram_bytes_max(400);
        let sink = UdpSink::open(&network.address.to_string(), options).await.unwrap();
        let events: Vec<_> = (0..300)
            .map(|at| if at % 50 == 7 { large(2 * at, 3000) } else { log([2 * at]).remove(0) })
            .collect();
        let mut follower = listener.follow(ReadFrom::Origin);
        for (at, part) in events.chunks(20).enumerate() {
            let after = at.checked_sub(1).map(|_| events[20 * at - 1].id().get());
            store.append(Batch::new(after.map(EventId::new), part).unwrap()).await.unwrap();
            send_after(&sink, after, part).await;
        }
        // The last datagrams may be lost as well: the follower asks by itself.
        assert_eq!(take(&mut follower, events.len()).await, events, "seed {seed}");
        assert_eq!(listener.collect(ReadFrom::Origin).await.unwrap(), events, "seed {seed}");
        assert!(listener.stats().events < 300, "seed {seed} lost nothing");
        network.stop().await;
    }
}

#[tokio::test]
async fn what_was_sent_before_the_listener_was_there_is_fetched() {
    let events = log(0..10);
    let store = store_with(&events).await;
    let listener = listen(refilled(&store)).await;
    assert_eq!(listener.collect(ReadFrom::Origin).await.unwrap(), events);
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(7), &events[8..]).await;
    seen(&listener, 2).await;
    assert_eq!(listener.collect(ReadFrom::Origin).await.unwrap(), events);
    assert_eq!(listener.collect(ReadFrom::After(EventId::new(4))).await.unwrap(), events[5..]);
    let mut follower = listener.follow(ReadFrom::After(EventId::new(2)));
    assert_eq!(take(&mut follower, 7).await, events[3..]);
}

#[tokio::test]
async fn a_snapshot_that_was_lost_is_found_in_the_refill() {
    let snapshot = Event::builder(EventId::new(5)).payload_json("{}").snapshot().build().unwrap();
    let events = [log(0..5), vec![snapshot], log(6..9)].concat();
    let store = store_with(&events).await;
    let listener = listen(refilled(&store)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(6), &events[7..]).await;
    seen(&listener, 2).await;
    assert_eq!(listener.collect(ReadFrom::Snapshot).await.unwrap(), events[5..]);
}

#[tokio::test]
async fn the_newer_snapshot_of_refill_and_listener_counts() {
    let snapshot = |id| Event::builder(EventId::new(id)).payload_json("{}").snapshot().build().unwrap();
    let events = [log(0..2), vec![snapshot(2)], log(3..5), vec![snapshot(5)], log(6..8)].concat();
    for known in [3, 5, 7, 8] {
        let store = store_with(&events[..known]).await;
        let listener = listen(refilled(&store)).await;
        let sink = sink_to(&listener, UdpSinkOptions::default()).await;
        send_after(&sink, Some(3), &events[4..]).await;
        seen(&listener, 4).await;
        assert_eq!(listener.collect(ReadFrom::Snapshot).await.unwrap(), events[5..], "{known} in the refill");
    }
}

#[tokio::test]
async fn a_follower_waits_for_a_refill_that_lags_and_a_read_says_so() {
    let events = log(0..6);
    let store = store_with(&events[..1]).await;
    let listener = listen(refilled(&store)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(4), &events[5..]).await;
    seen(&listener, 1).await;
    let error = listener.collect(ReadFrom::Origin).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    assert!(error.to_string().contains("between 0 and 5"), "{error}");
    let mut follower = listener.follow(ReadFrom::Origin);
    assert_eq!(take(&mut follower, 1).await, events[..1]);
    let waiting = tokio::spawn(async move { take(&mut follower, 5).await });
    store.append(Batch::new(Some(EventId::ZERO), &events[1..3]).unwrap()).await.unwrap();
    store.append(Batch::new(Some(EventId::new(2)), &events[3..]).unwrap()).await.unwrap();
    assert_eq!(waiting.await.unwrap(), events[1..]);
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_refill_never_catches_up_ends_with_an_error() {
    let events = log(0..6);
    let store = store_with(&events[..1]).await;
    let listener = listen(refilled(&store)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(4), &events[5..]).await;
    let mut follower = listener.follow(ReadFrom::Origin);
    assert_eq!(take(&mut follower, 1).await, events[..1]);
    let error = follower.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
}

#[tokio::test]
async fn a_refill_of_another_history_is_found_out() {
    // It holds another event under an id that was received.
    let store = store_with(&[log(0..2), vec![large(2, 9)], log(3..5)].concat()).await;
    let listener = listen(refilled(&store)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send_after(&sink, Some(1), &log([2])).await;
    seen(&listener, 1).await;
    let error = listener.follow(ReadFrom::Origin).skip(2).next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.event()), (ErrorKind::Diverged, Some(EventId::new(2))));

    // It passes over an event that the datagrams name.
    let store = store_with(&log([0, 1, 3, 9])).await;
    let listener = listen(refilled(&store)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default()).await;
    send(&sink, &log([0, 1])).await;
    send_after(&sink, Some(2), &log([9])).await;
    seen(&listener, 3).await;
    let mut follower = listener.follow(ReadFrom::Origin);
    let end = loop {
        match follower.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), ErrorKind::Diverged);
}

#[tokio::test]
async fn without_predecessors_the_refill_shows_what_is_missing() {
    let events = log([0, 4, 9]);
    let store = store_with(&events).await;
    let listener = listen(refilled(&store).with_unnamed(Unnamed::Contiguous)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default().with_name_predecessor(false)).await;
    let mut follower = listener.follow(ReadFrom::After(EventId::ZERO));
    send_after(&sink, Some(4), &events[2..]).await;
    assert_eq!(take(&mut follower, 2).await, events[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_ids_of_the_log_is_passed_with_the_refill() {
    let events = log([0, 4, 9, 20, 30]);
    let store = store_with(&events[..3]).await;
    let options = refilled(&store).with_refill_interval(Duration::from_secs(60));
    let listener = listen(options.with_unnamed(Unnamed::Contiguous)).await;
    let sink = sink_to(&listener, UdpSinkOptions::default().with_name_predecessor(false)).await;
    let mut follower = listener.follow(ReadFrom::After(EventId::ZERO));
    assert_eq!(take(&mut follower, 2).await, events[1..3]);
    for at in 3..5 {
        store.append(Batch::new(Some(events[at - 1].id()), &events[at..=at]).unwrap()).await.unwrap();
        send_after(&sink, Some(events[at - 1].id().get()), &events[at..=at]).await;
    }
    assert_eq!(take(&mut follower, 2).await, events[3..]);
}
