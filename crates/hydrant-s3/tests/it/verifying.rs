//! `verify` finds what is wrong, and says what is only left over.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use hydrant::{ErrorKind, EventSourceExt, ReadFrom};
use hydrant_s3::{CompactOptions, Finding, S3StoreOptions};

use crate::faulty::Place;
use crate::logs::{findings, must_verify, open, options, small_segments};

fn key(place: &Place, id: u64) -> String {
    format!("{}/log/{id:020}", place.prefix)
}

async fn one(place: &Place) -> Finding {
    let mut found = findings(place).await;
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// Puts other bytes under the metadata of an object.
async fn overwrite(place: &Place, from: &str, to: &str, change: impl Fn(&mut Vec<u8>)) {
    let got = place.client.get_object().bucket(&place.bucket).key(from).send().await.unwrap();
    let metadata = got.metadata.clone();
    let mut body = got.body.collect().await.unwrap().to_vec();
    change(&mut body);
    let put = place.client.put_object().bucket(&place.bucket).key(to).set_metadata(metadata);
    put.body(ByteStream::from(body)).send().await.unwrap();
}

#[tokio::test]
async fn a_log_without_flaws_has_no_findings_and_is_not_written_to() {
    let Some(place) = Place::find().await else { return };
    assert_eq!(must_verify(&place).await, 0);
    small_segments(&place, 20).await;
    place.faults.plan(|_, request| {
        assert!(["GET", "HEAD"].contains(&request.method()), "{request:?}");
        crate::faulty::Fault::None
    });
    assert_eq!(must_verify(&place).await, 0);
    place.remove().await;
}

#[tokio::test]
async fn damage_and_holes_are_found_where_they_are() {
    let Some(place) = Place::find().await else { return };
    small_segments(&place, 20).await;
    let damaged = key(&place, 7);
    overwrite(&place, &damaged, &damaged, |body| *body.last_mut().unwrap() ^= 1).await;
    let finding = one(&place).await;
    assert!(finding.object.ends_with(&damaged) && !finding.is_leftover, "{finding}");

    let missing = key(&place, 7);
    place.client.delete_object().bucket(&place.bucket).key(&missing).send().await.unwrap();
    let finding = one(&place).await;
    assert!(finding.object.ends_with(&missing) && !finding.is_leftover, "{finding}");
    assert!(finding.what.contains("missing"), "{finding}");
    // Compaction stops there, and what is before and behind stays as it is.
    let log = open(&place, options()).await;
    let error = log.compact(&CompactOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(log.collect(ReadFrom::After(10.into())).await.unwrap().len(), 6);

    let origin = format!("{}/log/-origin", place.prefix);
    place.client.delete_object().bucket(&place.bucket).key(&origin).send().await.unwrap();
    assert!(findings(&place).await.iter().any(|finding| finding.what.contains("no beginning")));
    place.remove().await;
}

#[tokio::test]
async fn verify_distinguishes_objects_outside_of_the_chain() {
    let Some(place) = Place::find().await else { return };
    let (log, _) = small_segments(&place, 20).await;
    let kept = (key(&place, 4), key(&place, 6));
    let aside = format!("{}/aside", place.prefix);
    overwrite(&place, &kept.0, &aside, |_| ()).await;
    log.compact(&CompactOptions::default()).await.unwrap();
    assert_eq!(must_verify(&place).await, 0);
    // What a compaction leaves that is cut short.
    overwrite(&place, &aside, &kept.0, |_| ()).await;
    let finding = one(&place).await;
    assert!(finding.is_leftover && finding.object.ends_with(&kept.0), "{finding}");
    log.compact(&CompactOptions::default()).await.unwrap();
    assert_eq!(must_verify(&place).await, 0);
    // An object of another writer.
    overwrite(&place, &aside, &kept.1, |_| ()).await;
    let found = findings(&place).await;
    assert!(!found.is_empty() && found.iter().all(|finding| !finding.is_leftover), "{found:?}");
    place.client.delete_object().bucket(&place.bucket).key(&kept.1).send().await.unwrap();
    // One that claims to belong there, and says something else.
    let other = place.beside();
    let foreign = open(&other, S3StoreOptions::default()).await;
    let events = crate::logs::events([4, 6, 8]);
    crate::logs::append(&foreign, None, &events, 1).await;
    overwrite(&place, &key(&other, 6), &kept.1, |_| ()).await;
    let finding = one(&place).await;
    assert!(!finding.is_leftover && finding.object.ends_with(&kept.1), "{finding}");
    // A compaction does not remove what may be the only copy.
    log.compact(&CompactOptions::default()).await.unwrap();
    assert_eq!(one(&place).await, finding);
    place.client.delete_object().bucket(&place.bucket).key(&kept.1).send().await.unwrap();
    other.remove().await;
    // A name that is none of ours.
    let stranger = format!("{}/log/README", place.prefix);
    overwrite(&place, &aside, &stranger, |_| ()).await;
    assert!(one(&place).await.object.ends_with("README"));
    place.remove().await;
}

#[tokio::test]
async fn verify_reports_an_unfinished_upload() {
    let Some(place) = Place::find().await else { return };
    small_segments(&place, 5).await;
    let upload = place.client.create_multipart_upload().bucket(&place.bucket).key(key(&place, 99));
    let upload = upload.send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let finding = one(&place).await;
    assert!(finding.is_leftover && finding.what.contains("upload"), "{finding}");
    let abort = place.client.abort_multipart_upload().bucket(&place.bucket).key(key(&place, 99));
    abort.set_upload_id(upload.upload_id).send().await.unwrap();
    assert_eq!(must_verify(&place).await, 0);
    place.remove().await;
}
