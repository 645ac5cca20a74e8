//! Objects that are uploaded in parts: whole or not at all, under the same conditions as a PUT.

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use hydrant::{Batch, Error, ErrorKind, Event, EventId, EventSink, EventSourceExt, ReadFrom, Retry};
use hydrant_s3::{CompactOptions, Encoding, S3Store, S3StoreOptions};

use crate::faults;
use crate::faulty::{Fault, Place};
use crate::logs::{open, options};
use crate::support::{Scratch, or_skip};

const MIB: usize = 1 << 20;

/// Two parts, the second of them small.
fn large(seed: u64) -> Vec<Event> {
    let text = format!("{seed}-").repeat(3 * MIB / 2);
    vec![
        Event::new(EventId::new(1), &text[..3 * MIB]).unwrap(),
        Event::new(EventId::new(2), &text[..2 * MIB]).unwrap(),
        Event::new(EventId::new(3), "the rest").unwrap(),
    ]
}

fn in_parts() -> S3StoreOptions {
    S3StoreOptions::default().with_encoding(Encoding::Plain).with_multipart_bytes(5 * MIB)
}

async fn append(log: &S3Store, events: &[Event]) -> Result<(), Error> {
    log.append(Batch::new(None, events).unwrap()).await
}

fn is_completion(request: &HttpRequest) -> bool {
    request.method() == "POST" && request.uri().contains("uploadId=")
}

async fn uploads(place: &Place) -> usize {
    let list = place.client.list_multipart_uploads().bucket(&place.bucket).prefix(&place.prefix);
    list.send().await.unwrap().uploads().len()
}

async fn origin(place: &Place) -> Option<String> {
    let key = format!("{}/log/-origin", place.prefix);
    let head = place.client.head_object().bucket(&place.bucket).key(key).send().await;
    head.ok().and_then(|head| head.e_tag)
}

#[tokio::test]
async fn a_large_batch_is_one_object_of_many_parts() {
    let Some(place) = Place::find().await else { return };
    let log = open(&place, in_parts()).await;
    append(&log, &large(7)).await.unwrap();
    assert!(origin(&place).await.unwrap().contains("-2"), "an object of two parts");
    let other = open(&place, options()).await;
    assert!(other.collect(ReadFrom::Origin).await.unwrap() == large(7));
    assert_eq!(other.checkpoint().await.unwrap(), hydrant::Checkpoint::at(&large(7)[2]));
    assert_eq!(uploads(&place).await, 0);
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upload_of_the_losing_writer_is_aborted() {
    let Some(place) = Place::find().await else { return };
    let (one, other) = (open(&place, in_parts()).await, open(&place, in_parts()).await);
    let (first, second) = (large(1), large(2));
    let results = tokio::join!(append(&one, &first), append(&other, &second));
    let held = match results {
        (Ok(()), Err(error)) | (Err(error), Ok(())) if error.kind() != ErrorKind::Fenced => panic!("{error}"),
        (Ok(()), Err(_)) => first,
        (Err(_), Ok(())) => second,
        both => panic!("{both:?}"),
    };
    assert!(one.collect(ReadFrom::Origin).await.unwrap() == held);
    assert_eq!(uploads(&place).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn dead_at_any_request_it_leaves_a_whole_object_or_none() {
    let Some(place) = Place::find().await else { return };
    let events = large(3);
    for loses_answer in [false, true] {
        for nth in 1.. {
            let place = place.beside();
            let log = open(&place, in_parts().with_append_timeout(Duration::from_millis(400))).await;
            place.faults.die_at(nth, loses_answer);
            let appended = append(&log, &events).await;
            let is_through = place.faults.sent() < nth;
            place.faults.heal();
            if let Err(error) = &appended {
                assert_ne!(error.retry(), Retry::Never, "{error}");
            }
            let read = open(&place, in_parts()).await.collect(ReadFrom::Origin).await.unwrap();
            assert!(read == events || (read.is_empty() && appended.is_err()), "request {nth}");
            append(&open(&place, in_parts()).await, &events).await.unwrap();
            assert!(log.collect(ReadFrom::Origin).await.unwrap() == events);
            place.remove().await;
            if is_through {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_to_the_completion_is_found_out() {
    let Some(place) = Place::find().await else { return };
    let log = open(&place, in_parts()).await;
    let mut lost = 0;
    place.faults.plan(move |_, request| {
        // The first is the one that asks whether conditions are held to.
        lost += u64::from(is_completion(request));
        if lost == 2 && is_completion(request) { Fault::LoseAnswer } else { Fault::None }
    });
    append(&log, &large(4)).await.unwrap();
    place.faults.heal();
    assert!(log.collect(ReadFrom::Origin).await.unwrap() == large(4));
    assert_eq!(uploads(&place).await, 0);
    place.remove().await;
}

/// The head of the answer is sent before the server has looked: the failure stands in its body.
#[tokio::test]
async fn a_failure_inside_of_an_answer_that_began_well_is_found_out() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = faults::Faults::new();
    let log = scratch.open_through(&faults, in_parts()).await;
    // Of the probe: begun, completed in vain, aborted. Of the segment: begun.
    for _ in 0..4 {
        faults.next(faults::Kind::Other, faults::Fault::Pass);
    }
    faults.next(faults::Kind::Other, faults::Fault::AnswerAfter(200, "InternalError"));
    append(&log, &large(6)).await.unwrap();
    assert!(log.collect(ReadFrom::Origin).await.unwrap() == large(6));
    scratch.remove().await;
}

#[tokio::test]
async fn a_server_that_ignores_if_match_of_a_completion_gets_a_put() {
    let Some(place) = Place::find().await else { return };
    let log = open(&place, in_parts()).await;
    // The second is the larger one: what stands in front of less than itself is not merged.
    let mut events = large(8);
    events[1] = Event::new(EventId::new(2), &"-".repeat(3 * MIB + 1)).unwrap();
    for (at, event) in events.iter().enumerate() {
        let after = at.checked_sub(1).map(|at| events[at].id());
        log.append(Batch::new(after, std::slice::from_ref(event)).unwrap()).await.unwrap();
    }
    place.faults.plan(|_, request| {
        let strips = is_completion(request) && request.headers().contains_key("if-match");
        if strips { Fault::StripConditions } else { Fault::None }
    });
    let compacted = log.compact(&CompactOptions::default().with_segment_bytes_max(16 << 20)).await.unwrap();
    place.faults.heal();
    assert_eq!((compacted.segments, compacted.into), (2, 1));
    assert!(!origin(&place).await.unwrap().contains('-'), "an object of one piece");
    assert!(log.collect(ReadFrom::Origin).await.unwrap() == events);
    place.remove().await;
}

#[tokio::test]
async fn whatever_is_called_large_can_be_opened() {
    let Some(place) = Place::find().await else { return };
    let log = open(&place, in_parts().with_multipart_bytes(1)).await;
    append(&log, &large(9)[2..]).await.unwrap();
    assert!(log.collect(ReadFrom::Origin).await.unwrap() == large(9)[2..]);
    place.remove().await;
}

#[tokio::test]
async fn a_server_that_ignores_conditions_of_completions_gets_puts() {
    let Some(place) = Place::find().await else { return };
    let log = open(&place, in_parts()).await;
    place.faults.plan(|_, request| if is_completion(request) { Fault::StripConditions } else { Fault::None });
    append(&log, &large(5)).await.unwrap();
    place.faults.heal();
    assert!(!origin(&place).await.unwrap().contains('-'), "an object of one piece");
    assert!(log.collect(ReadFrom::Origin).await.unwrap() == large(5));
    assert_eq!(uploads(&place).await, 0);
    place.remove().await;
}
