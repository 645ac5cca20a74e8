//! All objects of a log, in order, as the server lists them; and what time it is there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hydrant::Result;

use crate::bucket::Bucket;
use crate::error::{Request, sdk_error};
use crate::keys::Place;

/// One object of the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) etag: String,
    /// As it is stored: tombstones have none.
    pub(super) size: u64,
    /// When this version was put, by the server's clock.
    pub(super) modified: Option<SystemTime>,
}

/// Where the next page begins.
#[derive(Clone, Debug)]
enum NextPage {
    Start,
    Behind(String),
    None,
}

/// A walk through the keys of a log, a page at a time.
#[derive(Debug)]
pub(super) struct Listing<'b> {
    bucket: &'b Bucket,
    next: NextPage,
    page: VecDeque<Entry>,
    /// Keys under `log/` that are not of this format, where they are noted.
    strangers: Option<Vec<String>>,
    clock: ServerClock,
}

impl<'b> Listing<'b> {
    /// From a place on.
    pub(super) fn from(bucket: &'b Bucket, place: Place) -> Self {
        Self {
            bucket,
            next: bucket.keys.before(place).map_or(NextPage::Start, NextPage::Behind),
            page: VecDeque::new(),
            strangers: None,
            clock: ServerClock::default(),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Entry>> {
        self.fill().await?;
        Ok(self.page.pop_front())
    }

    /// Returns whether another object follows: an object that is not the last is not the end of the log.
    pub(super) async fn has_next(&mut self) -> Result<bool> {
        self.fill().await?;
        Ok(!self.page.is_empty())
    }

    /// Returns the time of the last page, by the server's clock if the answer has a date.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.get().unwrap_or_else(|| self.bucket.options.clock.now())
    }

    /// Remembers keys that are not of this format, from now on.
    pub(super) fn note_strangers(&mut self) {
        self.strangers.get_or_insert_default();
    }

    /// Those that were noted since it was last asked.
    pub(super) fn take_strangers(&mut self) -> Vec<String> {
        self.strangers.as_mut().map(std::mem::take).unwrap_or_default()
    }

    async fn fill(&mut self) -> Result<()> {
        while self.page.is_empty() {
            // Dropped or failed in it, the page is asked for again.
            self.next = match self.next.clone() {
                NextPage::Start => self.read_page(None).await?,
                NextPage::Behind(key) => self.read_page(Some(key)).await?,
                NextPage::None => return Ok(()),
            };
        }
        Ok(())
    }

    async fn read_page(&mut self, behind: Option<String>) -> Result<NextPage> {
        let bucket = self.bucket;
        let log = bucket.keys.log();
        let target = bucket.url(&log);
        let request = bucket
            .client
            .list_objects_v2()
            .bucket(&bucket.name)
            .prefix(log)
            .set_start_after(behind)
            .max_keys(i32::from(bucket.options.list_keys))
            .customize()
            .interceptor(self.clock.clone())
            .send();
        let answer = bucket.bounded(&target, request).await?;
        let answer = answer.map_err(|cause| sdk_error(&target, Request::Read, cause))?;
        let mut last = None;
        for object in answer.contents.unwrap_or_default() {
            let Some(key) = object.key else { continue };
            last = Some(key.clone());
            let Some(place) = bucket.keys.place(&key) else {
                if let Some(strangers) = &mut self.strangers {
                    strangers.push(key);
                }
                continue;
            };
            self.page.push_back(Entry {
                place,
                etag: object.e_tag.unwrap_or_default(),
                size: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                modified: object.last_modified.and_then(|at| SystemTime::try_from(at).ok()),
            });
        }
        let has_more = answer.is_truncated.unwrap_or(false);
        Ok(last.filter(|_| has_more).map_or(NextPage::None, NextPage::Behind))
    }
}

/// Reads the date of each answer. The age of an object is measured by the clock that dated the object.
#[derive(Clone, Debug, Default)]
struct ServerClock(Arc<Mutex<Option<SystemTime>>>);

impl ServerClock {
    fn get(&self) -> Option<SystemTime> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for ServerClock {
    fn name(&self) -> &'static str {
        "ServerClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, Format::HttpDate).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            date.and_then(|date| SystemTime::try_from(date).ok());
        Ok(())
    }
}
