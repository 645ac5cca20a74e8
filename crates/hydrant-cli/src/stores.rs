//! The registry of schemes: everything that a URL can name, in one table.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hydrant::{Checkpoint, Error, EventId, EventSink, EventSource, Result};
use serde::Serialize;

use crate::url::OptionSpec;

mod file;
pub(crate) mod stdio;
mod udp;

/// Every scheme there is. A new store adds its file and its line here.
pub(crate) const SCHEMES: &[&dyn Scheme] = &[&file::File, &udp::Udp, &stdio::Stdio];

/// The scheme of this name.
pub(crate) fn scheme(name: &str) -> Option<&'static dyn Scheme> {
    SCHEMES.iter().copied().find(|scheme| scheme.name() == name)
}

/// A kind of store: how its URLs are written and read.
pub(crate) trait Scheme: Sync {
    /// What stands before the colon.
    fn name(&self) -> &'static str;
    /// How a URL is written, for people.
    fn syntax(&self) -> &'static str;
    /// What it is, in one sentence.
    fn about(&self) -> &'static str;
    /// Its options with their defaults.
    fn options(&self) -> Vec<OptionRow>;
    /// A place from a target and a query, or what is wrong with them.
    fn parse(&self, target: &str, query: &[(String, String)]) -> Result<Arc<dyn Place>, String>;
}

/// An option as `hydrant stores` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OptionRow {
    pub(crate) name: &'static str,
    pub(crate) takes: &'static str,
    pub(crate) default: String,
    pub(crate) about: &'static str,
}

/// The rows of a scheme's options, with the defaults that the store itself has.
pub(crate) fn rows<O: Default>(specs: &[OptionSpec<O>]) -> Vec<OptionRow> {
    let defaults = O::default();
    let row = |spec: &OptionSpec<O>| OptionRow {
        name: spec.name,
        takes: spec.takes,
        default: (spec.show)(&defaults),
        about: spec.about,
    };
    specs.iter().map(row).collect()
}

/// Where a valid URL points. Nothing is opened before it is asked for.
///
/// A place that cannot do what is asked says so with `Unsupported`.
#[async_trait]
pub(crate) trait Place: fmt::Debug + Send + Sync {
    /// What outputs, errors and checkpoints call it: no options, no secrets.
    fn target(&self) -> String;
    /// What two URLs of one place have in common, however they are written.
    fn identity(&self) -> String {
        self.target()
    }
    /// How it can be read.
    fn reads(&self) -> Reads;
    /// Whether, as a sink, it has a checkpoint of its own.
    fn has_memory(&self) -> bool;
    /// Refuses where there is no log, not even an empty one. Who follows does not ask: it may come yet.
    async fn must_hold_a_log(&self) -> Result<()> {
        Ok(())
    }
    /// Opens it for reading.
    async fn source(&self) -> Result<Arc<dyn EventSource>>;
    /// Opens it for writing.
    async fn sink(&self) -> Result<OpenSink>;
    /// Its last event; `None` where it is empty or cannot tell before it is read.
    async fn head(&self) -> Result<Option<EventId>>;
    /// What stands behind the last whole event, where a read ends without an error: the rest of a crash.
    async fn left_over(&self) -> Result<Option<Error>>;
    /// Checks everything that can be checked, and gives each place that is wrong, as it is found.
    fn verify(&self) -> Findings;
    /// Mends what can be mended, keeping aside what it takes out, and tells each thing it did.
    async fn repair(&self) -> Result<Vec<Finding>>;
    /// What it holds.
    async fn status(&self) -> Result<StoreStatus>;
}

/// How a place can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Again and again, from anywhere: a log.
    Again,
    /// Once, from its beginning to its end.
    Once,
    /// Only what arrives from now on.
    Live,
}

/// A place opened for writing.
pub(crate) struct OpenSink {
    /// The sink itself.
    pub(crate) sink: Arc<dyn EventSink>,
    /// Releases everything and waits; to be awaited when nothing more is appended.
    pub(crate) closing: BoxFuture<'static, Result<()>>,
}

/// What `verify` found; an error is the last item.
pub(crate) type Findings = BoxStream<'static, Result<Finding>>;

/// One thing that `verify` found or `repair` did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) file: String,
    /// From 1, as editors count; 0 for the file as a whole.
    pub(crate) line: u64,
    /// Where the line begins, in bytes from 0.
    pub(crate) offset: u64,
    /// Whether it is the end of a commit that a crash cut off, which the next writer sets aside.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) torn_tail: bool,
    /// What is wrong there, or what was done about it.
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, offset, message, .. } = self;
        if *line == 0 {
            return write!(f, "{file}: {message}");
        }
        write!(f, "{file}:{line}: byte {offset}: {message}")
    }
}

/// What a store holds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoreStatus {
    pub(crate) target: String,
    pub(crate) first_id: Option<EventId>,
    pub(crate) last_id: Option<EventId>,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) segments: u64,
    pub(crate) checkpoint: Checkpoint,
}
