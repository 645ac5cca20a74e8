//! Checkpoints in a bucket: races, lost answers, calls that were given up.

use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use hydrant::{Checkpoint, CheckpointEntry, CheckpointStore, Digest, ErrorKind, EventId, Retry};
use hydrant_conformance::drop_after;
use hydrant_s3::{S3Checkpoints, S3CheckpointsOptions};

use crate::faulty::{Fault, PATIENCE, Place};

fn entry(name: &str, id: u64) -> CheckpointEntry {
    let checkpoint = Checkpoint::At { id: EventId::new(id), digest: Digest::from([7; 16]) };
    CheckpointEntry::new(name, "memory", checkpoint)
}

async fn open(place: &Place) -> S3Checkpoints {
    let options = S3CheckpointsOptions::default().with_request_timeout(PATIENCE);
    S3Checkpoints::open(place.client.clone(), &place.bucket, &place.prefix, options).await.unwrap()
}

fn is_put(request: &HttpRequest) -> bool {
    request.method() == "PUT"
}

#[tokio::test]
async fn a_removed_entry_can_be_made_again_and_a_long_name_is_invalid() {
    let Some(place) = Place::find().await else { return };
    let (one, other) = (open(&place).await, open(&place).await);
    one.swap("b", None, Some(&entry("b", 2))).await.unwrap();
    one.swap("b", Some(&entry("b", 2)), None).await.unwrap();
    assert_eq!(other.load("b").await.unwrap(), None);
    let error = other.swap("b", Some(&entry("b", 2)), Some(&entry("b", 9))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Fenced, Retry::Never));
    other.swap("b", None, Some(&entry("b", 4))).await.unwrap();
    assert_eq!(one.swap("b", None, Some(&entry("b", 5))).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(one.load(&"x".repeat(2000)).await.unwrap_err().kind(), ErrorKind::Invalid);
    place.remove().await;
}

#[tokio::test]
async fn a_lost_answer_is_found_out_by_looking() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    assert_eq!(checkpoints.load("a").await.unwrap(), None);
    let mut lost = false;
    place.faults.plan(move |_, request| {
        let loses = is_put(request) && !std::mem::replace(&mut lost, true);
        if loses { Fault::LoseAnswer } else { Fault::None }
    });
    checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap();
    assert_eq!(place.faults.sent(), 2, "the swap, and a look");
    place.remove().await;
}

#[tokio::test]
async fn a_swap_without_an_answer_stays_in_doubt_despite_later_errors() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    assert_eq!(checkpoints.load("a").await.unwrap(), None);
    let mut lost = false;
    place.faults.plan(move |_, request| {
        let loses = is_put(request) && !std::mem::replace(&mut lost, true);
        if loses { Fault::LoseAnswer } else { Fault::Refuse }
    });
    let error = checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap_err();
    assert_eq!(error.retry(), Retry::AfterCheckpoint, "{error}");
    place.faults.heal();
    checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap();
    place.remove().await;
}

#[tokio::test]
async fn a_swap_that_did_not_land_is_sent_again() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    let mut refused = 0;
    place.faults.plan(move |_, request| {
        refused += u32::from(is_put(request));
        if is_put(request) && refused < 3 { Fault::Refuse } else { Fault::None }
    });
    checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap();
    assert_eq!(checkpoints.load("a").await.unwrap(), Some(entry("a", 1)));
    place.remove().await;
}

#[tokio::test]
async fn a_swap_without_an_answer_is_open_and_then_settled() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    let (first, second) = (entry("a", 1), entry("a", 2));
    for (fault, made) in [(Fault::LoseAnswer, true), (Fault::Refuse, false)] {
        place.faults.heal();
        let held = checkpoints.load("a").await.unwrap();
        checkpoints.swap("a", held.as_ref(), Some(&first)).await.unwrap();
        place.faults.plan(move |_, request| if is_put(request) { fault } else { Fault::Refuse });
        let error = checkpoints.swap("a", Some(&first), Some(&second)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::AfterCheckpoint);
        place.faults.heal();
        let loaded = checkpoints.load("a").await.unwrap();
        assert_eq!(loaded.as_ref() == Some(&second), made);
    }
    // The same swap again finds out by itself, too.
    let held = checkpoints.load("a").await.unwrap();
    place.faults.plan(|_, request| if is_put(request) { Fault::LoseAnswer } else { Fault::Refuse });
    checkpoints.swap("a", held.as_ref(), Some(&second)).await.unwrap_err();
    place.faults.heal();
    checkpoints.swap("a", held.as_ref(), Some(&second)).await.unwrap();
    // A runner that did not make the swap gets `Fenced`.
    let other = open(&place).await;
    assert_eq!(other.swap("a", held.as_ref(), Some(&second)).await.unwrap_err().kind(), ErrorKind::Fenced);
    place.remove().await;
}

#[tokio::test]
async fn a_request_that_was_given_up_cannot_take_effect_later() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    for held in [None, Some(entry("a", 1))] {
        let late = entry("a", 9);
        // The request is held back, and the call is given up.
        place.faults.plan(|_, request| if is_put(request) { Fault::Refuse } else { Fault::None });
        checkpoints.swap("a", held.as_ref(), Some(&late)).await.unwrap_err();
        place.faults.heal();
        // What it was: conditional on what was there before.
        let key = format!("{}/a", place.prefix);
        let before = place.client.head_object().bucket(&place.bucket).key(&key).send().await.ok();
        assert_eq!(checkpoints.load("a").await.unwrap(), held);
        let put = place.client.put_object().bucket(&place.bucket).key(&key).body(Vec::new().into());
        let put = match before.as_ref().and_then(|before| before.e_tag()) {
            Some(etag) => put.if_match(etag),
            None => put.if_none_match("*"),
        };
        let arrived = put.send().await.unwrap_err();
        assert_eq!(arrived.raw_response().unwrap().status().as_u16(), 412);
        assert_eq!(checkpoints.load("a").await.unwrap(), held);
        if held.is_none() {
            checkpoints.swap("a", None, Some(&entry("a", 1))).await.unwrap();
        }
    }
    place.remove().await;
}

#[tokio::test]
async fn a_dropped_swap_is_made_or_not_and_stays_so() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    let mut held = None;
    for polls in 0.. {
        let new = entry("a", polls);
        let polls = usize::try_from(polls).unwrap();
        let swapped = drop_after(polls, checkpoints.swap("a", held.as_ref(), Some(&new))).await;
        let loaded = checkpoints.load("a").await.unwrap();
        assert!(loaded == held || loaded.as_ref() == Some(&new));
        tokio::time::sleep(Duration::from_millis(5)).await; // what was dropped may still be under way
        assert_eq!(checkpoints.load("a").await.unwrap(), loaded);
        held = loaded;
        if let Some(result) = swapped {
            result.unwrap();
            assert_eq!(held, Some(new));
            break;
        }
    }
    place.remove().await;
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused() {
    let Some(place) = Place::find().await else { return };
    for header in ["if-none-match", "if-match"] {
        place.faults.plan(move |_, request| {
            let ignored = request.headers().get(header).is_some();
            if ignored { Fault::StripConditions } else { Fault::None }
        });
        let opened = S3Checkpoints::open(
            place.client.clone(),
            &place.bucket,
            &place.prefix,
            S3CheckpointsOptions::default(),
        )
        .await;
        let error = opened.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Never), "{header}");
    }
    place.faults.heal();
    open(&place).await;
    place.remove().await;
}

#[tokio::test]
async fn a_swap_costs_one_request_and_a_list_one_page_for_a_thousand() {
    let Some(place) = Place::find().await else { return };
    let checkpoints = open(&place).await;
    checkpoints.swap("a", None, Some(&entry("a", 0))).await.unwrap();
    place.faults.heal();
    for id in 1..=10 {
        checkpoints.swap("a", Some(&entry("a", id - 1)), Some(&entry("a", id))).await.unwrap();
    }
    assert_eq!(place.faults.sent(), 10);
    place.faults.heal();
    assert_eq!(checkpoints.list().await.unwrap().len(), 1);
    assert_eq!(place.faults.sent(), 2);
    place.remove().await;
}
