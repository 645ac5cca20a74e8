//! What the benchmarks share: figures, the event of all measurements, and the raw loops.
//!
//! A measurement is a ratio. Hydrant and a raw loop (or a peer) take turns within one run. So a machine that is slow
//! today, or busy for a second, is slow or busy for both.

pub mod figure;
pub mod machine;
pub mod ours;
pub mod raw;
pub mod stamps;
pub mod workload;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Any error ends the run.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The directory of the logs and figures of a run: `bench/` in the target directory.
pub fn scratch() -> PathBuf {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is inside of the workspace");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("bench")
}

/// Creates an empty directory of this name in [`scratch`].
///
/// # Errors
/// If an old directory cannot be removed, or the new one cannot be created.
pub fn fresh(name: &str) -> Result<PathBuf> {
    let dir = scratch().join(name);
    remove(&dir)?;
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Removes a directory, if it is there.
///
/// # Errors
/// If the directory cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cause.into()),
        _ => Ok(()),
    }
}

/// Returns the rate: how many a second.
#[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
pub fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Returns a duration in microseconds.
pub fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

/// Returns the value below which this part (from 0 to 1) of the values is.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank"
)]
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = ((sorted.len().max(1) - 1) as f64 * part).round() as usize;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}
