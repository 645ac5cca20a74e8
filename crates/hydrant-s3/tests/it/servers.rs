//! What servers do: they are killed, have no such bucket, ignore conditions.

use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use futures_util::StreamExt;
use hydrant::{Batch, Capabilities, ErrorKind, EventId, EventSink, EventSourceExt, Prune, ReadFrom, Retry};
use hydrant_s3::{
    ClientOptions, CompactOptions, Encryption, S3Checkpoints, S3CheckpointsOptions, S3Source, S3Store,
    S3StoreOptions, connect, verify,
};
use test_servers::native::MiniStack;

use crate::faults::{Fault, Faults, Kind};
use crate::support::{Place, Scratch, append_all, log, or_skip};

#[tokio::test]
async fn acknowledged_events_and_the_handle_survive_a_killed_server() {
    let dir = test_servers::directory().join("tests").join(test_servers::namespace());
    let mut server = or_skip!(MiniStack::start(&dir));
    let scratch = Scratch::at(Place::parse(&server.url())).await;
    let options = S3StoreOptions::default()
        .with_request_timeout(Duration::from_secs(1))
        .with_append_timeout(Duration::from_secs(2));
    let store = scratch.open(options).await;
    let events = log(0..40);
    let mut held = 0;
    for round in 0..3 {
        append_all(&store, &events[held..held + 5], 2).await;
        held += 5;
        server.kill();
        let batch = Batch::new(Some(events[held - 1].id()), &events[held..held + 5]).unwrap();
        let error = store.append(batch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_ne!(error.retry(), Retry::Never, "{error}");
        let error = store.collect(ReadFrom::Origin).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
        server.restart();
        // Its outcome was open: the next call sends it again before it returns anything else.
        assert_eq!(store.checkpoint().await.unwrap().id(), Some(events[held + 4].id()), "round {round}");
        store.append(batch).await.unwrap();
        held += 5;
        assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), events[..held]);
    }
    drop(server);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_said_at_open() {
    let mut place = or_skip!(crate::support::shared());
    place.bucket = format!("{}-is-not-there", place.bucket);
    let scratch = Scratch::at(place).await;
    let error = scratch.try_open(&Faults::new(), S3StoreOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
    assert!(
        error.message().contains("no such bucket") && error.target().unwrap().contains("is-not-there"),
        "{error}"
    );
}

/// Each of them would ask the server, which is not there.
#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_asked() {
    let keys = crate::support::test_keys();
    let nowhere = ClientOptions::default().with_endpoint("http://127.0.0.1:1").with_credentials(keys);
    let client = connect(&nowhere.with_region("us-east-1")).await.unwrap();
    let store = S3StoreOptions::default;
    let hurried = store().with_request_timeout(Duration::ZERO);
    for (bucket, options) in [("", store()), ("bucket", hurried)] {
        let checkpoints = S3CheckpointsOptions::default().with_request_timeout(options.request_timeout);
        for refused in [
            S3Store::open(client.clone(), bucket, "log", options.clone()).await.unwrap_err(),
            S3Source::open(client.clone(), bucket, "log", options.clone()).await.unwrap_err(),
            S3Checkpoints::open(client.clone(), bucket, "log", checkpoints).await.unwrap_err(),
            verify(client.clone(), bucket, "log", options).next().await.unwrap().unwrap_err(),
        ] {
            assert_eq!((refused.kind(), refused.retry()), (ErrorKind::Invalid, Retry::Never), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_at_open() {
    let mut place = or_skip!(crate::support::shared());
    place.endpoint = Some("http://127.0.0.1:1".to_owned());
    let scratch = Scratch::at(place).await;
    let error = scratch.try_open(&Faults::new(), S3StoreOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{error}");
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused_unless_asked_for() {
    let scratch = or_skip!(Scratch::shared().await);
    // It ignores them, or says that it does not know them.
    for fault in [Fault::StripConditions, Fault::Answer(501, "NotImplemented")] {
        let faults = Faults::new();
        faults.always(Kind::Put, fault.clone());
        let error = scratch.try_open(&faults, S3StoreOptions::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Never), "{error}");
        assert!(error.message().contains("unsafe_single_writer"), "{error}");
        let store =
            scratch.open_through(&faults, S3StoreOptions::default().with_unsafe_single_writer(true)).await;
        assert!(!store.capabilities().has(Capabilities::FENCING));
        assert!(store.capabilities().has(Capabilities::ATOMIC | Capabilities::MEMORY));
    }
    let faults = Faults::new();
    faults.always(Kind::Put, Fault::StripConditions);
    let store =
        scratch.open_through(&faults, S3StoreOptions::default().with_unsafe_single_writer(true)).await;
    append_all(&store, &log(0..9), 2).await;
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..9));
    // Its own eyes are all that keeps it from writing over what is there.
    let second =
        scratch.open_through(&faults, S3StoreOptions::default().with_unsafe_single_writer(true)).await;
    append_all(&second, &log(9..12), 3).await;
    let other = [crate::support::event_by("other", 9)];
    let error = store.append(Batch::new(Some(log(8..9)[0].id()), &other).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(store.collect(ReadFrom::Origin).await.unwrap(), log(0..12));
    // Nothing is replaced where a late PUT of an append could land on what it was replaced by.
    let error = store.compact(&CompactOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Never), "{error}");
    let error = store.prune(EventId::new(9)).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unsupported, Retry::Never), "{error}");
    // One that holds to them needs no option, and with it stays what it is.
    let store = scratch.open(S3StoreOptions::default().with_unsafe_single_writer(true)).await;
    assert!(store.capabilities().has(Capabilities::FENCING));
    scratch.remove().await;
}

/// For example, a bucket refuses the ACL. That says nothing about conditional writes.
#[tokio::test]
async fn what_the_probe_is_refused_for_is_said_as_it_is() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    faults.always(Kind::Put, Fault::Answer(400, "AccessControlListNotSupported"));
    for is_single in [false, true] {
        let options = S3StoreOptions::default().with_unsafe_single_writer(is_single);
        let error = scratch.try_open(&faults, options).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Never, "{error}");
        assert!(error.to_string().contains("AccessControlListNotSupported"), "{error}");
        assert!(!error.to_string().contains("If-None-Match"), "{error}");
    }
    scratch.remove().await;
}

#[tokio::test]
async fn many_may_open_an_empty_prefix_at_once() {
    let scratch = or_skip!(Scratch::shared().await);
    let faults = Faults::new();
    let opens = (0..20).map(|_| scratch.try_open(&faults, S3StoreOptions::default()));
    for opened in futures_util::future::join_all(opens).await {
        opened.unwrap();
    }
    scratch.remove().await;
}

#[tokio::test]
async fn puts_carry_the_attributes_of_the_options_only() {
    let scratch = or_skip!(Scratch::shared().await);
    let names = [
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-acl",
    ];
    let options = S3StoreOptions::default;
    let cases = [
        (options(), [None; 5]),
        (options().with_encryption(Encryption::S3), [Some("AES256"), None, None, None, None]),
        (options().with_encryption(Encryption::Kms(None)), [Some("aws:kms"), None, None, None, None]),
        (
            options()
                .with_encryption(Encryption::Kms(Some("alias/log".to_owned())))
                .with_storage_class("STANDARD_IA")
                .with_tag("team", "payments & more")
                .with_tag("kind", "log")
                .with_acl("bucket-owner-full-control"),
            [
                Some("aws:kms"),
                Some("alias/log"),
                Some("STANDARD_IA"),
                Some("team=payments%20%26%20more&kind=log"),
                Some("bucket-owner-full-control"),
            ],
        ),
    ];
    for (options, expected) in cases {
        let faults = Faults::new();
        // The server need not know all of this: what is asked for is what counts.
        faults.always(Kind::Put, Fault::Answer(412, "PreconditionFailed"));
        let store = scratch.open_through(&faults, options).await;
        let events = log(0..1);
        store.append(Batch::new(None, &events).unwrap()).await.unwrap_err();
        let asked = names.map(|name| faults.put_header(name));
        assert_eq!(asked.each_ref().map(Option::as_deref), expected);
        assert_eq!(faults.put_header("if-none-match").as_deref(), Some("*"));
        assert!(faults.put_header("x-amz-checksum-crc32").is_some(), "S3 compares it, and keeps it");
    }
    assert_eq!(scratch.names().await, [""; 0]);
    scratch.remove().await;
}

/// Keys that no server would give, and none at all.
#[tokio::test]
async fn credentials_that_are_missing_are_said() {
    let place = or_skip!(crate::support::shared());
    let client = place.client().await;
    let keyless = client.config().to_builder().credentials_provider(NoCredentials).build();
    let client = aws_sdk_s3::Client::from_conf(keyless);
    let opened = S3Store::open(client, &place.bucket, "keyless", S3StoreOptions::default()).await;
    let error = opened.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Denied, Retry::Never), "{error}");
    assert!(error.message().contains("credentials"), "{error}");
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded_no_source()))
    }
}
