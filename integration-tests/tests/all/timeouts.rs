//! The page of time-outs lists every duration of every option, with the default that the code has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hydrant::{FanOutOptions, JournalOptions, RelayOptions, SecondaryOptions};
use hydrant_aws::ClientOptions;
use hydrant_file::FileSourceOptions;
use hydrant_kinesis::{KinesisSinkOptions, KinesisSourceOptions};
use hydrant_postgres::{PostgresCheckpointsOptions, PostgresProjectionOptions, PostgresStoreOptions};
use hydrant_s3::{S3CheckpointsOptions, S3StoreOptions};
use hydrant_udp::UdpListenerOptions;

type Table = BTreeMap<(String, String), Duration>;

/// Returns the defaults in the code.
fn defaults() -> Table {
    let mut table = Table::new();
    macro_rules! of {
        ($($options:ident: $($field:ident),+;)+) => {
            $($(table.insert(
                (stringify!($options).to_owned(), stringify!($field).to_owned()),
                $options::default().$field,
            );)+)+
        };
    }
    of! {
        JournalOptions: append_timeout, resolve_timeout, backoff_min, backoff_max;
        FanOutOptions: call_timeout, resolve_timeout, sync_poll, idle_poll, read_timeout;
        RelayOptions: call_timeout, read_timeout;
        SecondaryOptions: linger_max, call_timeout, backoff_min, backoff_max;
        FileSourceOptions: poll_interval;
        PostgresStoreOptions: poll_interval, call_timeout, lock_timeout;
        PostgresProjectionOptions: call_timeout, lock_timeout;
        PostgresCheckpointsOptions: call_timeout, lock_timeout;
        S3StoreOptions: request_timeout, append_timeout, view_age_max, tombstones_kept, poll_interval;
        S3CheckpointsOptions: request_timeout;
        ClientOptions: connect_timeout, attempt_timeout, operation_timeout, backoff_initial, backoff_max;
        KinesisSinkOptions: append_timeout, put_timeout, backoff_initial, backoff_max, read_back_window,
            read_back_interval, settle, checkpoint_interval;
        KinesisSourceOptions: poll_interval, settle, call_timeout, throttled_max;
        UdpListenerOptions: refill_interval, refill_timeout, reorder_max, chunk_timeout;
    }
    table
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the rows of the page.
fn page() -> Table {
    let page = std::fs::read_to_string(root().join("docs/timeouts.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (options, field, default) = (cells.get(1)?, cells.get(2)?, cells.get(3)?);
        let options = options.strip_prefix('`')?.strip_suffix("Options`")?;
        let name = (format!("{options}Options"), field.trim_matches('`').to_owned());
        Some((name, duration(default)?))
    });
    rows.collect()
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number * millis))
}

/// Returns the fields of all options in the sources that are durations.
fn fields() -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for file in sources(&root().join("crates")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut options = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("pub struct ") {
                let name = name.split([' ', '<', '{']).next().unwrap();
                options = name.ends_with("Options").then(|| name.to_owned());
            }
            let field = line.trim().strip_prefix("pub ").and_then(|line| line.split_once(": "));
            if let (Some(options), Some((field, kind))) = (&options, field)
                && (kind == "Duration," || kind == "Option<Duration>,")
            {
                fields.push((options.clone(), field.to_owned()));
            }
        }
    }
    fields
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            false => vec![],
        })
        .collect()
}

#[test]
fn the_page_lists_each_default_as_the_code_has_it() {
    assert_eq!(page(), defaults());
}

#[test]
fn each_duration_of_the_sources_is_checked() {
    let defaults = defaults();
    let fields = fields();
    assert!(fields.len() > 40, "only {} were found", fields.len());
    let missing: Vec<_> = fields.iter().filter(|field| !defaults.contains_key(*field)).collect();
    assert!(missing.is_empty(), "add to the table and to this test: {missing:?}");
}

/// Each component ends before the one around it, so that the innermost one reports the cause.
#[test]
fn inner_defaults_end_before_outer_ones() {
    let attempts = [SecondaryOptions::default().call_timeout, JournalOptions::default().append_timeout];
    let appends = [
        PostgresStoreOptions::default().call_timeout,
        S3StoreOptions::default().append_timeout,
        KinesisSinkOptions::default().append_timeout,
    ];
    for (append, attempt) in
        appends.iter().flat_map(|append| attempts.iter().map(move |attempt| (append, attempt)))
    {
        assert!(append < attempt, "{append:?} of a store, {attempt:?} of its resolver");
    }
    let reads = [
        PostgresStoreOptions::default().call_timeout,
        S3StoreOptions::default().request_timeout,
        KinesisSourceOptions::default().call_timeout,
        KinesisSourceOptions::default().throttled_max,
    ];
    for silence in [FanOutOptions::default().read_timeout, RelayOptions::default().read_timeout] {
        assert!(reads.iter().all(|read| *read < silence), "{reads:?} of stores, {silence:?} of a read");
    }
    assert!(S3StoreOptions::default().request_timeout < S3StoreOptions::default().append_timeout);
    assert!(KinesisSinkOptions::default().put_timeout < KinesisSinkOptions::default().append_timeout);
    assert!(FanOutOptions::default().call_timeout < FanOutOptions::default().resolve_timeout);
    assert!(JournalOptions::default().append_timeout < JournalOptions::default().resolve_timeout);
}
