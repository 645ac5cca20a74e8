//! Checks a whole log: every object, the chain, and what lies beside it.

use std::fmt;

use aws_sdk_s3::Client;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use hydrant::{Error, ErrorKind, EventId, Result};
use tokio::sync::mpsc;

use super::check::holds;
use super::listing::{Entry, Listing};
use super::prune::is_past;
use super::walk::{Met, Step, Walk, Want};
use crate::blocking::blocking;
use crate::bucket::Bucket;
use crate::chain::root;
use crate::error::{Request, sdk_error};
use crate::keys::Place;
use crate::wire::{Lines, Object, Segment, Snapshot, decompress};
use crate::{S3Store, S3StoreOptions};

/// How many findings wait for the reader of the stream.
const WAITING_MAX: usize = 64;

/// What a log has that it should not have, or does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The object: `s3://bucket/key`.
    pub object: String,
    /// The line in it, before compression, from 1; 0 where the object as a whole is meant.
    pub line: u64,
    /// The event that it is about, where there is one.
    pub event: Option<EventId>,
    /// What is wrong, and what helps.
    pub what: String,
    /// The log is complete all the same: a crash left something that costs space and nothing else.
    pub is_leftover: bool,
}

impl fmt::Display for Finding {
    /// One line: `object:line: event N: what`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.object)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(event) = self.event {
            write!(f, ": event {event}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Findings as they are found; an error is the last item.
pub type FindingStream = BoxStream<'static, Result<Finding>>;

/// Reads a whole log and gives everything that is not as it should be; an empty stream says that all is well.
///
/// Checks the checksum of every object, each event in it and their order, that metadata says what the events
/// say, and that the chain goes from the floor to the end without a hole. What the chain does not reach is
/// compared with what it does. Reported as leftovers: parts of an interrupted compaction or prune, tombstones past
/// their time, and uploads that were never completed.
///
/// Changes nothing: it needs `s3:ListBucket` and `s3:GetObject`, and `s3:ListBucketMultipartUploads` to see
/// uploads. May run beside writers, compaction and prunes. Takes memory for `prefetch_bytes` and one object more.
/// The stream ends with an error where the bucket cannot be read, or options cannot work. Dropping it ends the work.
pub fn verify(client: Client, bucket: &str, prefix: &str, options: S3StoreOptions) -> FindingStream {
    match Bucket::new(client, bucket, prefix, options) {
        Ok(bucket) => findings(bucket),
        Err(error) => stream::iter([Err(error)]).boxed(),
    }
}

impl S3Store {
    /// The same as [`verify`], for an open store.
    pub fn verify(&self) -> FindingStream {
        findings(self.source.bucket().as_ref().clone())
    }
}

fn findings(bucket: Bucket) -> FindingStream {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let work = async move {
        let verifier = Verifier {
            bucket: &bucket,
            sender: &sender,
            outer: None,
            newest: Newest::Unknown,
            overlap: None,
            overlapped: None,
        };
        let verified = Box::pin(verifier.run()).await;
        if let Err(error) = verified {
            // If this fails, the caller has dropped the stream, and no reader is left to report to.
            let _ = sender.send(Err(error)).await;
        }
    };
    let found = stream::unfold(receiver, |mut receiver| async move {
        let finding = receiver.recv().await?;
        Some((finding, receiver))
    });
    stream::select(found, work.into_stream().filter_map(|()| std::future::ready(None))).boxed()
}

struct Verifier<'a> {
    bucket: &'a Bucket,
    sender: &'a mpsc::Sender<Result<Finding>>,
    /// The object of the chain that was met last, and its lines, if they check.
    outer: Option<(Place, Segment, Option<Bytes>)>,
    newest: Newest,
    /// It begins inside of the one that was met last, and ends behind it: where a tombstone says that the chain goes
    /// on there, the walk comes back to it.
    overlap: Option<(Place, Segment)>,
    /// Where the object of the chain begins and ends that the last one overlaps with.
    overlapped: Option<(Place, EventId)>,
}

/// The newest snapshot event so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    /// Behind what could not be read, or at the beginning.
    Unknown,
    Known(Option<Snapshot>),
}

/// What is wrong with an object: the line, the event, and what.
type Flaw = (u64, Option<EventId>, String);

impl Verifier<'_> {
    async fn run(mut self) -> Result<()> {
        let root = match root(self.bucket).await {
            Ok(Some(root)) => Some(root.place),
            Ok(None) => {
                if Listing::from(self.bucket, None).has_next().await? {
                    let what = "the log has no beginning: its first segment, or its floor, is missing";
                    self.report(self.bucket.url_at(None), what, false).await;
                }
                None
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                self.report_error(self.bucket.url_at(None), &error).await;
                None
            }
            Err(error) => return Err(error),
        };
        self.chain(root.flatten()).await?;
        if let Some(Some(floor)) = root {
            self.below(floor).await?;
        }
        self.uploads().await
    }

    async fn report(&self, object: String, what: impl Into<String>, is_leftover: bool) {
        self.send(Finding { object, line: 0, event: None, what: what.into(), is_leftover }).await;
    }

    async fn report_error(&self, object: String, error: &Error) {
        let (line, event, what) = flaw(0, error);
        self.send(Finding { object, line, event, what, is_leftover: false }).await;
    }

    async fn send(&self, finding: Finding) {
        // If the caller drops the stream, this future is not polled again: no finding is lost that a reader waits for.
        let _ = self.sender.send(Ok(finding)).await;
    }

    async fn chain(&mut self, from: Place) -> Result<()> {
        let want = |entry: &Entry| if entry.size == 0 { Want::Metadata } else { Want::Whole };
        let bytes_max = self.bucket.options.prefetch_bytes;
        let mut walk = Walk::new(self.bucket, from, true, bytes_max, want);
        walk.listing.note_strangers();
        while let Some(met) = walk.next().await? {
            self.report_strangers(&mut walk.listing).await;
            match met {
                Met::Next(step) => self.next(step).await?,
                Met::Inside(step) => self.inside(step).await?,
                Met::Empty(entry, object) => self.empty(&entry, &object).await,
                Met::Damaged(entry, error) => {
                    if self.outer.as_ref().is_none_or(|(_, outer, _)| entry.place >= Some(outer.last)) {
                        (self.outer, self.newest) = (None, Newest::Unknown);
                    }
                    self.report_error(self.bucket.url_at(entry.place), &error).await;
                }
                Met::Hole { at, next } => {
                    self.newest = Newest::Unknown;
                    self.report_error(self.bucket.url_at(at), &crate::head::hole(self.bucket, at, next))
                        .await;
                }
            }
        }
        self.forget_overlap(None).await;
        self.report_strangers(&mut walk.listing).await;
        Ok(())
    }

    async fn report_strangers(&self, listing: &mut Listing<'_>) {
        for key in listing.take_strangers() {
            self.report(self.bucket.url(&key), "not an object of this format; it is left alone", true).await;
        }
    }

    /// The next of the chain.
    async fn next(&mut self, step: Step) -> Result<()> {
        let Step { entry, segment, body, .. } = step;
        let (lines, flaws, newest) = examine(&segment, body.unwrap_or_default(), self.newest).await?;
        self.overlapped = self.compare_overlap(entry.place, &segment, lines.as_ref()).await;
        self.forget_overlap(Some(entry.place)).await;
        for (line, event, what) in flaws {
            let object = self.bucket.url_at(entry.place);
            self.send(Finding { object, line, event, what, is_leftover: false }).await;
        }
        self.newest = newest;
        self.outer = Some((entry.place, segment, lines));
        Ok(())
    }

    /// Inside of the one before: harmless where it says the same.
    async fn inside(&mut self, step: Step) -> Result<()> {
        let Step { entry, segment, body, .. } = step;
        let object = self.bucket.url_at(entry.place);
        let Some((_, outer, Some(lines))) = &self.outer else {
            return Ok(()); // The object to compare it with is damaged, and was reported.
        };
        if segment.last > outer.last {
            self.forget_overlap(None).await;
            self.overlap = Some((entry.place, segment));
            return Ok(());
        }
        let (inner, flaws, _) = examine(&segment, body.unwrap_or_default(), Newest::Unknown).await?;
        match inner {
            Some(inner) if flaws.is_empty() && holds(lines, &inner) => {
                let what = "merged into the object before it, and still there; compact the log again";
                self.report(object, what, true).await;
            }
            _ => self.report_unreached(object, segment.first).await,
        }
        Ok(())
    }

    async fn report_unreached(&self, object: String, first: EventId) {
        let what = "the chain does not reach it, and it is not what stands there: keep it, and find out who wrote it";
        self.send(Finding { object, line: 0, event: Some(first), what: what.to_owned(), is_leftover: false })
            .await;
    }

    /// What overlaps with the end of the one before is part of the chain only if the chain comes to it.
    async fn forget_overlap(&mut self, reached: Option<Place>) {
        if let Some((place, segment)) = self.overlap.take().filter(|(place, _)| Some(*place) != reached) {
            self.report_unreached(self.bucket.url_at(place), segment.first).await;
        }
    }

    /// Two objects of the chain that overlap must say the same of the events that both hold. Where the one before begins
    /// and ends, if the next overlaps with it.
    async fn compare_overlap(
        &self,
        place: Place,
        segment: &Segment,
        lines: Option<&Bytes>,
    ) -> Option<(Place, EventId)> {
        let (outer_place, outer, outer_lines) =
            self.outer.as_ref().filter(|(_, outer, _)| place < Some(outer.last))?;
        if let (Some(outer_lines), Some(lines)) = (outer_lines, lines) {
            let events = Lines::new(segment.clone(), lines.clone()).map_while(Result::ok);
            let shared: usize =
                events.take_while(|event| event.id() <= outer.last).map(|event| event.size() + 1).sum();
            if !outer_lines.ends_with(&lines[..shared]) {
                let what = "it does not say the same as the object before it of the events that both hold";
                self.report(self.bucket.url_at(place), what, false).await;
            }
        }
        Some((*outer_place, outer.last))
    }

    /// A tombstone must lie inside of a segment, and point there.
    async fn empty(&self, entry: &Entry, object: &Object) {
        let what = match (object, &self.outer) {
            (_, None) => return,
            (Object::Moved { into }, Some((outer, segment, _))) => {
                let goes_on = self
                    .overlap
                    .as_ref()
                    .is_some_and(|(place, overlap)| into == place && entry.place < Some(overlap.last));
                let is_of_overlapped =
                    self.overlapped.is_some_and(|(place, last)| *into == place && entry.place < Some(last));
                if goes_on || is_of_overlapped {
                    return;
                }
                if entry.place >= Some(segment.last) {
                    "a tombstone stands where the chain goes on"
                } else if into < outer || *into >= entry.place {
                    "a tombstone points to an object that cannot hold what stood here"
                } else {
                    return;
                }
            }
            _ => "below the floor, it says, but it is not",
        };
        self.report(self.bucket.url_at(entry.place), what, false).await;
    }

    /// What should be gone.
    async fn below(&self, floor: EventId) -> Result<()> {
        let mut listing = Listing::from(self.bucket, Some(EventId::ZERO));
        while let Some(entry) = listing.next().await? {
            if entry.place >= Some(floor) {
                break;
            }
            let is_past = is_past(entry.modified, listing.now(), self.bucket.options.tombstones_kept);
            let what = match entry.size {
                0 if is_past => "a tombstone past its time; the next prune removes it",
                0 => continue,
                _ => "below the floor, and still there: a prune was cut short; prune again",
            };
            self.report(self.bucket.url_at(entry.place), what, true).await;
        }
        Ok(())
    }

    /// Reports uploads that were not completed. They are no objects, but their bytes are paid for.
    async fn uploads(&self) -> Result<()> {
        let log = self.bucket.keys.log();
        let list =
            || self.bucket.client.list_multipart_uploads().bucket(&self.bucket.name).prefix(log.clone());
        let (mut key, mut id) = (None, None);
        loop {
            let request = list().set_key_marker(key.take()).set_upload_id_marker(id.take()).send();
            let target = self.bucket.url(&log);
            let answer = self.bucket.bounded(&target, request).await?;
            let page = match answer.map_err(|cause| sdk_error(&target, Request::Read, cause)) {
                Ok(page) => page,
                Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unsupported) => {
                    let what = format!("unfinished uploads could not be listed: {}", error.message());
                    self.report(target, what, true).await;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            for upload in page.uploads() {
                let since = upload.initiated().map_or_else(String::new, |at| format!(" of {at}"));
                let what =
                    format!("an upload{since} was never completed; abort it, or let a lifecycle rule do it");
                self.report(self.bucket.url(upload.key().unwrap_or_default()), what, true).await;
            }
            (key, id) = (page.next_key_marker, page.next_upload_id_marker);
            // A server that says that there is more, and not where, would say the same for ever.
            if !page.is_truncated.unwrap_or(false) || (key.is_none() && id.is_none()) {
                return Ok(());
            }
        }
    }
}

/// Checks a segment: its bytes, its events, and whether its metadata says what they say.
async fn examine(
    segment: &Segment,
    body: Bytes,
    before: Newest,
) -> Result<(Option<Bytes>, Vec<Flaw>, Newest)> {
    let segment = segment.clone();
    blocking(move || {
        let lines = match decompress(&segment, body) {
            Ok(lines) => lines,
            Err(error) => return Ok((None, vec![flaw(0, &error)], Newest::Unknown)),
        };
        let (mut newest, mut last, mut after) = (before, None, segment.after);
        let mut flaws = Vec::new();
        for (at, event) in (1..).zip(Lines::new(segment.clone(), lines.clone())) {
            match event {
                Ok(event) => {
                    if event.is_snapshot() {
                        newest = Newest::Known(Some(Snapshot { id: event.id(), after }));
                    }
                    after = Some(event.id());
                    last = Some(event);
                }
                Err(error) => {
                    flaws.push(flaw(at, &error));
                    return Ok((None, flaws, Newest::Unknown));
                }
            }
        }
        if last.is_some_and(|last| last.digest() != segment.digest || last.id() != segment.last) {
            flaws.push((0, Some(segment.last), "its metadata names another last event".to_owned()));
        }
        let said = Newest::Known(segment.snapshot);
        if newest != Newest::Unknown && newest != said {
            flaws.push((0, None, "its metadata names another newest snapshot event".to_owned()));
        }
        Ok((Some(lines), flaws, if newest == Newest::Unknown { said } else { newest }))
    })
    .await
}

fn flaw(line: u64, error: &Error) -> Flaw {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    (line, error.event(), format!("{}{cause}", error.message()))
}
