//! Appends to Postgres, compared with `\copy` of the same rows, in the same batches, into a table of the same shape.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hydrant_benches::figure::{Bound, Figure, Series, print};
use hydrant_benches::{Result, fresh, rate, workload};
use hydrant_postgres::{PostgresStore, PostgresStoreOptions};
use tokio::time::Instant;

use crate::servers;

const ROUNDS: usize = 7;
const EVENTS: u64 = 65_536;

pub(crate) async fn run() -> Result<Vec<Figure>> {
    let dir = fresh("postgres")?;
    let server = servers::postgres(&dir)?;
    let url = server.url();
    let mut figures = Vec::new();
    for batch in [64, 1024, 8192] {
        figures.push(batches(&url, &dir, batch).await?);
    }
    Ok(figures)
}

async fn batches(url: &str, dir: &Path, batch: u64) -> Result<Figure> {
    let events = workload::events(0, EVENTS)?;
    let (mut ours, mut copy) =
        (Series::new("hydrant, `PostgresStore::append`"), Series::new("psql, `\\copy` of the same rows"));
    for round in 0..ROUNDS {
        let log = format!("batches-{batch}-{round}");
        let store = PostgresStore::open(url, &log, PostgresStoreOptions::default()).await?;
        let start = Instant::now();
        workload::append(&store, None, &events, usize::try_from(batch)?).await?;
        ours.push(rate(EVENTS, start.elapsed()));
        store.close().await?;
        copy.push(rate(EVENTS, copied(url, dir, &log, batch)?));
    }
    let figure = Figure::new(format!("Postgres, {batch} events a commit"), "events/s", vec![ours, copy])
        .wants_ratio(1, "of `\\copy`", Bound::AtLeast(0.8))
        .note("`fsync = on`. The table that is copied into has the same columns and the same primary key.");
    print(&figure);
    Ok(figure)
}

/// Exports the rows that Hydrant wrote into files, one for each batch. Then copies the files into a table of the same
/// shape, all in one session. Returns how long the copying took, by psql's own clock.
fn copied(url: &str, dir: &Path, log: &str, batch: u64) -> Result<Duration> {
    let dir = dir.join("rows");
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir)?;
    let mut out = String::new();
    let mut back = String::from(
        "CREATE TABLE IF NOT EXISTS hydrant.bench_copy (LIKE hydrant.events INCLUDING ALL);\n\\timing on\n",
    );
    for first in (0..EVENTS).step_by(usize::try_from(batch)?) {
        let path = dir.join(format!("{first:08}"));
        let (path, end) = (path.display(), first + batch);
        writeln!(
            out,
            "\\copy (SELECT * FROM hydrant.events WHERE log = '{log}' AND event_id >= {first} AND event_id < {end} \
             ORDER BY event_id) TO '{path}'"
        )?;
        writeln!(back, "\\copy hydrant.bench_copy FROM '{path}'")?;
    }
    psql(url, &dir.join("out.sql"), &out)?;
    let timings = psql(url, &dir.join("back.sql"), &back)?;
    let millis: f64 = timings
        .lines()
        .filter_map(|line| line.strip_prefix("Time: ")?.split_whitespace().next()?.parse::<f64>().ok())
        .sum();
    Ok(Duration::from_secs_f64(millis / 1000.0))
}

fn psql(url: &str, path: &Path, script: &str) -> Result<String> {
    fs::write(path, script)?;
    let mut command = Command::new("psql");
    let output = command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f"]).arg(path).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
