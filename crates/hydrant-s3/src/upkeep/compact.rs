//! Compaction: many small segments become few large ones.
//!
//! A run of neighbours is read, its lines are put behind the key of the first, on the condition that the first
//! is still what was read, and each of the others becomes a tombstone that names the first, on the same
//! condition. FORMAT says why this is safe beside readers, writers and other compactors, and at every crash.

use bytes::Bytes;
use hydrant::{Error, Result};

use super::check::{holds, lines_of};
use super::listing::Entry;
use super::replace::Replacer;
use super::walk::{Met, Step, Walk, Want};
use crate::blocking::blocking;
use crate::bucket::Bucket;
use crate::chain::root;
use crate::head::hole;
use crate::keys::Place;
use crate::wire::{Object, Segment, compress};

/// Settings of [`S3Store::compact`](crate::S3Store::compact).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompactOptions {
    /// The largest object that segments are merged into, in bytes of its lines before compression. Compaction
    /// takes about three times as much memory. Default: 32 MiB.
    pub segment_bytes_max: u64,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self { segment_bytes_max: 32 << 20 }
    }
}

impl CompactOptions {
    /// Sets the largest object that segments are merged into, in bytes of its lines before compression.
    #[must_use]
    pub fn with_segment_bytes_max(mut self, bytes: u64) -> Self {
        self.segment_bytes_max = bytes;
        self
    }
}

/// What [`S3Store::compact`](crate::S3Store::compact) did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// How many segments were merged.
    pub segments: u64,
    /// Into how many.
    pub into: u64,
    /// How many events are in those.
    pub events: u64,
    /// How many objects became tombstones, those that an earlier compaction left included.
    pub tombstones: u64,
}

/// Segments that follow one another, and their lines.
#[derive(Debug, Default)]
struct Run {
    members: Vec<Member>,
    lines: Vec<u8>,
}

#[derive(Debug)]
struct Member {
    place: Place,
    etag: String,
    segment: Segment,
}

impl Run {
    fn bytes(&self) -> u64 {
        self.lines.len() as u64
    }

    /// The place where the next member must be.
    fn end(&self) -> Option<Place> {
        self.members.last().map(|member| Some(member.segment.last))
    }

    /// Leaves out members in front that are larger than all behind them, so that what was merged once is
    /// merged again only where it at least doubles: a logarithmic number of times.
    fn trim(&mut self) {
        let mut cut = 0;
        let mut bytes = self.bytes();
        let is_large = |member: &&Member| {
            let large = member.segment.bytes > bytes - member.segment.bytes;
            if large {
                bytes -= member.segment.bytes;
                cut += 1;
            }
            large
        };
        let _ = self.members.iter().take_while(is_large).count();
        self.members.drain(..cut);
        let kept = usize::try_from(bytes).expect("no more than there was");
        self.lines.drain(..self.lines.len() - kept);
    }
}

pub(super) struct Compactor<'b> {
    bucket: &'b Bucket,
    options: CompactOptions,
    replacer: Replacer<'b>,
    run: Run,
    /// The step before, and its lines if they were needed.
    outer: Option<(Step, Option<Bytes>)>,
    report: CompactionReport,
}

impl<'b> Compactor<'b> {
    pub(super) async fn open(bucket: &'b Bucket, options: CompactOptions) -> Result<Self> {
        if options.segment_bytes_max == 0 {
            return Err(Error::invalid("a `segment_bytes_max` of zero leaves nothing to merge"));
        }
        let replacer = Replacer::open(bucket).await?;
        Ok(Self {
            bucket,
            options,
            replacer,
            run: Run::default(),
            outer: None,
            report: CompactionReport::default(),
        })
    }

    pub(super) async fn run(mut self) -> Result<CompactionReport> {
        let Some(root) = root(self.bucket).await? else { return Ok(self.report) };
        let max = self.options.segment_bytes_max;
        let want = move |entry: &Entry| match entry.size {
            0 => Want::Nothing,
            size if size > max => Want::Metadata,
            _ => Want::Whole,
        };
        let mut walk = Walk::new(self.bucket, root.place, false, max, want);
        while let Some(met) = walk.next().await? {
            match met {
                Met::Next(step) => self.next(step).await?,
                Met::Inside(step) => self.inside(step).await?,
                Met::Empty(..) => {}
                Met::Damaged(entry, error) => return Err(error.at_target(self.bucket.url_at(entry.place))),
                Met::Hole { at, next } => return Err(hole(self.bucket, at, next)),
            }
        }
        self.merge().await?;
        Ok(self.report)
    }

    async fn next(&mut self, step: Step) -> Result<()> {
        let place = step.entry.place;
        if self.run.end().is_some_and(|end| end != place) || step.segment.opens_with_snapshot() {
            self.merge().await?;
        }
        let max = self.options.segment_bytes_max;
        if let Some(body) = step.body.clone().filter(|_| step.segment.bytes <= max) {
            if self.run.bytes() + step.segment.bytes > max {
                self.merge().await?;
            }
            let lines = lines_of(self.bucket, place, &step.segment, body).await?;
            self.run.lines.extend_from_slice(&lines);
            let member = Member { place, etag: step.etag.clone(), segment: step.segment.clone() };
            self.run.members.push(member);
        } else {
            self.merge().await?;
        }
        self.outer = Some((Step { body: None, ..step }, None));
        Ok(())
    }

    /// Merges the run, if that is worth it, and begins another.
    async fn merge(&mut self) -> Result<()> {
        let mut run = std::mem::take(&mut self.run);
        run.trim();
        let [first, others @ ..] = run.members.as_slice() else { return Ok(()) };
        let Some(last) = others.last() else { return Ok(()) };
        let encoding = self.bucket.options.encoding;
        let segment = Segment {
            after: first.segment.after,
            first: first.segment.first,
            last: last.segment.last,
            count: run.members.iter().map(|member| member.segment.count).sum(),
            bytes: run.lines.len() as u64,
            crc32c: crc32c::crc32c(&run.lines),
            is_zstd: encoding.is_zstd(),
            digest: last.segment.digest,
            snapshot: last.segment.snapshot,
            is_compacted: true,
        };
        let lines = run.lines;
        let body = blocking(move || compress(lines, encoding)).await?;
        let (into, events) = (first.place, segment.count);
        if !self.replacer.replace(into, &Object::Segment(segment), body, &first.etag).await? {
            tracing::debug!(object = self.bucket.url_at(into), "another compaction was first");
            return Ok(());
        }
        self.report.segments += run.members.len() as u64;
        self.report.into += 1;
        self.report.events += events;
        let others = others.iter().map(|member| (member.place, member.etag.clone())).collect();
        self.report.tombstones += self.replacer.bury(others, &Object::Moved { into }).await?;
        Ok(())
    }

    /// What an interrupted compaction left inside of a merged segment becomes a tombstone, once it is sure
    /// that it holds nothing else.
    async fn inside(&mut self, step: Step) -> Result<()> {
        let Some((outer, lines)) = &mut self.outer else { return Ok(()) };
        // Both are held in memory; in whole, as compressed bytes say little of it.
        if outer.segment.bytes.max(step.segment.bytes) > self.options.segment_bytes_max {
            return Ok(());
        }
        if lines.is_none() {
            let Some(whole) = self.bucket.get(outer.entry.place).await? else { return Ok(()) };
            // Replaced since: a later compaction looks again.
            if whole.object != Object::Segment(outer.segment.clone()) {
                return Ok(());
            }
            *lines = Some(lines_of(self.bucket, outer.entry.place, &outer.segment, whole.body).await?);
        }
        let (into, lines) = (outer.entry.place, lines.as_deref().unwrap_or_default());
        let place = step.entry.place;
        let Some(body) = step.body else { return Ok(()) };
        let inner = lines_of(self.bucket, place, &step.segment, body).await?;
        if !holds(lines, &inner) {
            tracing::warn!(
                object = self.bucket.url_at(place),
                "holds what is not part of the log; left alone"
            );
            return Ok(());
        }
        self.report.tombstones +=
            self.replacer.bury(vec![(place, step.etag)], &Object::Moved { into }).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use hydrant::{Event, EventId};

    use super::*;
    use crate::options::Encoding;
    use crate::wire::encode;

    fn run(sizes: &[usize]) -> Run {
        let mut run = Run::default();
        for (id, size) in sizes.iter().enumerate() {
            let event = Event::new(EventId::new(id as u64), &"x".repeat(*size)).unwrap();
            let place = id.checked_sub(1).map(|id| EventId::new(id as u64));
            let encoded = encode(place, &[event], None, Encoding::Plain).unwrap();
            run.lines.extend_from_slice(&encoded.body);
            run.members.push(Member { place, etag: String::new(), segment: encoded.segment });
        }
        run
    }

    #[test]
    fn what_is_larger_than_all_behind_it_is_left_out() {
        for (sizes, kept) in [
            (&[10, 10, 10][..], 3),
            (&[5_000, 10, 10], 2),
            (&[9_000, 5_000, 10, 10], 2),
            (&[100, 80, 80], 3),
            (&[10, 5_000], 2),
            (&[7], 0),
            (&[], 0),
        ] {
            let mut run = run(sizes);
            run.trim();
            assert_eq!(run.members.len(), kept, "{sizes:?}");
            assert_eq!(run.members.iter().map(|member| member.segment.bytes).sum::<u64>(), run.bytes());
        }
    }
}
