//! Appends to S3, compared with a bare loop of the SDK that puts the same bytes.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use hydrant::Event;
use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::{Result, fresh, rate, workload};
use hydrant_s3::{Encoding, S3Store, S3StoreOptions};
use tokio::time::Instant;

use crate::servers;

const ROUNDS: usize = 7;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let (_server, client) = servers::s3(&fresh("s3")?).await?;
    let mut figures = Vec::new();
    for (batch, events) in [(100, 20_000), (1000, 100_000)] {
        figures.push(batches(&client, Encoding::Plain, batch, events).await?);
    }
    figures.push(batches(&client, S3StoreOptions::default().encoding, 1000, 100_000).await?);
    Ok(figures)
}

async fn batches(client: &Client, encoding: Encoding, batch: usize, events: u64) -> Result<Figure> {
    let appended = workload::events(0, events)?;
    // Not measured: this warms both up, and the bare loops send the objects that it leaves.
    let prefix = format!("{encoding:?}-{batch}");
    append(client, encoding, &prefix, &appended, batch).await?;
    let objects = objects(client, &prefix).await?;
    let mut series =
        vec![Series::new("hydrant, `S3Store::append`"), Series::new("bare loop, the same objects, ready")];
    let level = match encoding {
        Encoding::Zstd { level } => Some(level),
        _ => None,
    };
    if level.is_some() {
        series.push(Series::new("bare loop that compresses them"));
    }
    for round in 0..ROUNDS {
        // The second one finds the server as the first one left it.
        for turn in 0..series.len() {
            let turn = (round + turn) % series.len();
            let prefix = format!("{prefix}-{round}-{turn}");
            let took = match turn {
                0 => append(client, encoding, &prefix, &appended, batch).await?,
                1 => put(client, &prefix, &objects, None).await?,
                _ => put(client, &prefix, &objects, level).await?,
            };
            series[turn].push(rate(events, took));
        }
    }
    let (lines, note) = match level {
        None => ("plain lines", "The bare loop has the lines ready."),
        Some(_) => (
            "compressed",
            "One bare loop has the objects ready; the other has the lines and compresses them.",
        ),
    };
    let mut figure = Figure::new(format!("S3, {batch} events an object, {lines}"), "events/s", series)
        .wants_ratio(1, "of the bare loop", Bound::AtLeast(0.8));
    if level.is_some() {
        figure = figure.wants_ratio(2, "of the bare loop that compresses", Bound::AtLeast(0.8));
    }
    let figure = figure.note(format!(
        "One PUT at a time, with the same bytes, metadata and `If-None-Match: *` on all sides. {note}"
    ));
    print(&figure);
    Ok(figure)
}

/// Appends as a program does.
async fn append(
    client: &Client,
    encoding: Encoding,
    prefix: &str,
    events: &[Event],
    batch: usize,
) -> Result<Duration> {
    let options = S3StoreOptions::default().with_encoding(encoding);
    let store = S3Store::open(client.clone(), servers::BUCKET, prefix, options).await?;
    let start = Instant::now();
    workload::append(&store, None, events, batch).await?;
    let took = start.elapsed();
    store.close().await?;
    Ok(took)
}

/// An object: its body, the lines in it, and its metadata.
struct Content {
    body: Bytes,
    lines: Bytes,
    metadata: HashMap<String, String>,
}

/// Returns the contents of Hydrant's objects.
async fn objects(client: &Client, prefix: &str) -> Result<Vec<Content>> {
    let mut objects = Vec::new();
    let mut pages = client
        .list_objects_v2()
        .bucket(servers::BUCKET)
        .prefix(format!("{prefix}/log/"))
        .into_paginator()
        .send();
    while let Some(page) = pages.next().await.transpose()? {
        for key in page.contents().iter().filter_map(aws_sdk_s3::types::Object::key) {
            let object = client.get_object().bucket(servers::BUCKET).key(key).send().await?;
            let metadata = object.metadata.unwrap_or_default();
            let body = object.body.collect().await?.into_bytes();
            let lines = zstd::stream::decode_all(&*body).map_or_else(|_| body.clone(), Bytes::from);
            objects.push(Content { body, lines, metadata });
        }
    }
    Ok(objects)
}

/// Puts the objects like a program that has them ready, or that compresses their lines at this level.
async fn put(client: &Client, prefix: &str, objects: &[Content], level: Option<i32>) -> Result<Duration> {
    let start = Instant::now();
    for (at, Content { body, lines, metadata }) in objects.iter().enumerate() {
        let body = match level {
            None => body.clone(),
            Some(level) => zstd::bulk::compress(lines, level)?.into(),
        };
        let put = client.put_object().bucket(servers::BUCKET).key(format!("{prefix}/{at:020}"));
        put.if_none_match("*").set_metadata(Some(metadata.clone())).body(body.into()).send().await?;
    }
    Ok(start.elapsed())
}
