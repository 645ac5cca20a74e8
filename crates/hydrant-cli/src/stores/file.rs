//! `file:DIR`: a log as plain JSON lines in a directory, also that of a hydra-node.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hydrant::{Error, ErrorKind, EventId, EventSource, Result, Retry};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync, TornTail};

use crate::options::{Kind, Options, bytes, choice, flag, interval};
use crate::stores::{self, Finding, Findings, Keeper, OpenSink, Place, Reads, Scheme, StoreStatus};
use crate::url::{Query, did_you_mean, percent_decode};
use crate::values::{Parsed, parse_bytes, parse_duration, show_bytes, show_duration};

/// The scheme `file`.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "file",
    syntax: "file:DIR[?OPTION=VALUE&...]",
    about: "plain JSON lines in a directory, durable and rotated; also the persistence directory of a hydra-node",
    options: || options().rows(),
    parse,
};

/// Settings of the writer and of readers.
#[derive(Clone, Debug, Default)]
struct Settings {
    store: FileStoreOptions,
    source: FileSourceOptions,
}

fn options() -> Options<Settings> {
    let torn_tail = choice(&[("set_aside", TornTail::SetAside), ("refuse", TornTail::Refuse)]);
    Options::<Settings>::new()
        .with(
            "fsync",
            fsync(),
            "writing: when the disk is asked to keep it: before each acknowledgement, only on rotation and at the end, or so often",
            |settings| &mut settings.store.fsync,
        )
        .with("event_bytes_max", bytes(), "the largest event written or read, the longest line", |settings| {
            &mut settings.store.event_bytes_max
        })
        .with("create", flag(), "writing: whether a directory that does not exist is created", |settings| {
            &mut settings.store.create
        })
        .with(
            "torn_tail",
            torn_tail,
            "writing: what becomes of a commit that a crash cut off: it is kept beside the log, or opening is refused",
            |settings| &mut settings.store.torn_tail,
        )
        .with(
            "preallocate_bytes",
            preallocated(),
            "writing: space written ahead, which makes syncing faster; hydra-node cannot read the file until it is closed",
            |settings| &mut settings.store.preallocate_bytes,
        )
        .with(
            "compress",
            flag(),
            "writing: whether sealed segments are compressed (zstd); they are read either way",
            |settings| &mut settings.store.compress,
        )
        .with(
            "poll_interval",
            interval(),
            "following: how often to look for what another process wrote",
            |settings| &mut settings.source.poll_interval,
        )
}

fn fsync() -> Kind<Fsync> {
    let read = |text: &str| match text {
        "always" => Ok(Fsync::Always),
        "never" => Ok(Fsync::Never),
        other => parse_duration(other).map(Fsync::Interval).map_err(|_| {
            let near = did_you_mean(other, ["always", "never"]);
            format!("`{other}` is none of always, never or a duration like 100ms{near}")
        }),
    };
    Kind::new("always|never|DURATION", read, |fsync| match *fsync {
        Fsync::Interval(interval) => show_duration(interval),
        Fsync::Never => "never".to_owned(),
        _ => "always".to_owned(),
    })
}

fn preallocated() -> Kind<u64> {
    let read = |text: &str| if text == "none" { Ok(0) } else { parse_bytes(text).map(|bytes| bytes as u64) };
    Kind::new("SIZE|none", read, |bytes| match *bytes {
        0 => "none".to_owned(),
        bytes => show_bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
    })
}

fn parse(target: &str, query: &Query) -> Parsed<Arc<dyn Place>> {
    let target = percent_decode(target)?;
    let dir = match target.strip_prefix("//") {
        Some(rest) if rest.starts_with('/') => rest,
        Some(rest) => {
            return Err(format!("file://{rest} names a host; write file:{rest} or file:///{rest}"));
        }
        None => &target,
    };
    if dir.is_empty() {
        return Err("it names no directory; write file:DIR".to_owned());
    }
    let mut settings = options().apply(query)?;
    settings.source.event_bytes_max = settings.store.event_bytes_max;
    Ok(Arc::new(FilePlace { dir: dir.into(), settings }))
}

#[derive(Debug)]
struct FilePlace {
    dir: PathBuf,
    settings: Settings,
}

impl FilePlace {
    /// Returns the error for a path that is no directory, with advice.
    fn check(&self, must_exist: bool) -> Result<()> {
        let refuse =
            |kind, message: String| Err(Error::new(kind, Retry::Never, message).at_target(self.target()));
        let found = match fs::metadata(&self.dir) {
            Ok(found) => found,
            Err(cause) if cause.kind() == IoKind::NotFound && !must_exist => return Ok(()),
            Err(cause) if cause.kind() == IoKind::NotFound => {
                return refuse(
                    ErrorKind::Unavailable,
                    "there is no such directory; check the path".to_owned(),
                );
            }
            Err(cause) => {
                let kind = match cause.kind() {
                    IoKind::PermissionDenied => ErrorKind::Denied,
                    _ => ErrorKind::Unavailable,
                };
                let message = format!("the directory cannot be looked at: {cause}");
                return refuse(kind, message);
            }
        };
        if found.is_dir() {
            return Ok(());
        }
        let path = self.dir.display();
        let is = if found.is_file() { "a file" } else { "no directory (a pipe, a socket or a device)" };
        let within = self.dir.parent().filter(|parent| found.is_file() && !parent.as_os_str().is_empty());
        let name = within
            .map_or_else(String::new, |parent| format!("name its directory, file:{}, or ", parent.display()));
        refuse(
            ErrorKind::Invalid,
            format!("this is {is}; {name}read its lines with `hydrant copy - file:DIR < {path}`"),
        )
    }
}

/// Returns whether a log has begun there. `state` is looked at twice, because a rotation renames it in between.
fn holds_a_log(dir: &Path) -> std::io::Result<bool> {
    let state = dir.join("state");
    if fs::symlink_metadata(&state).is_ok() {
        return Ok(true);
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix("state-").or_else(|| name.strip_prefix("state.next-"));
        if number.is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit())) {
            return Ok(true);
        }
    }
    Ok(fs::symlink_metadata(&state).is_ok())
}

/// `; did you mean file:...?` where exactly one directory below holds a log.
fn log_below(dir: &Path) -> String {
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut logs = below.filter(|path| path.join("state").is_file());
    match (logs.next(), logs.next()) {
        (Some(only), None) => format!("; did you mean file:{}?", only.display()),
        _ => String::new(),
    }
}

#[async_trait]
impl Place for FilePlace {
    fn target(&self) -> String {
        format!("file:{}", self.dir.display())
    }

    fn identity(&self) -> String {
        let path = path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        // Of a directory that is yet to be made, as much is resolved as there is.
        let resolved = path.ancestors().find_map(|known| {
            let rest = path.strip_prefix(known).ok()?;
            Some(fs::canonicalize(known).ok()?.join(rest))
        });
        let resolved: PathBuf = resolved.unwrap_or(path).components().collect();
        format!("file:{}", resolved.display())
    }

    fn reads(&self) -> Reads {
        Reads::Again
    }

    fn has_memory(&self) -> bool {
        true
    }

    async fn must_hold_a_log(&self) -> Result<()> {
        self.check(true)?;
        if holds_a_log(&self.dir).unwrap_or(true) {
            return Ok(()); // what cannot be listed, the store itself names
        }
        // Of a log that was moved away the store knows more.
        self.open_source().await?.checkpoint().await?;
        let near = log_below(&self.dir);
        let message = format!("this directory holds no log (there is no file `state`); check the path{near}");
        Err(Error::new(ErrorKind::Unavailable, Retry::Never, message).at_target(self.target()))
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(self.open_source().await?))
    }

    async fn sink(&self, _: Option<Keeper>) -> Result<OpenSink> {
        self.check(!self.settings.store.create)?;
        let store = FileStore::open(&self.dir, self.settings.store.clone()).await?;
        let closing = store.clone();
        Ok(OpenSink { sink: Arc::new(store), closing: Box::pin(async move { closing.close().await }) })
    }

    async fn head(&self) -> Result<Option<EventId>> {
        Ok(self.open_source().await?.checkpoint().await?.id())
    }

    async fn left_over(&self) -> Result<Option<Error>> {
        let torn = self.open_source().await?.torn_tail().await?;
        Ok(torn.map(|torn| {
            let (start, bytes) = (torn.start, torn.end - torn.start);
            Error::corrupt(format!(
                "{bytes} bytes from byte {start} on are no whole event: a crash left them, or a program is still \
                 writing; `hydrant verify {}` shows them, and the next writer sets them aside",
                self.target()
            ))
            .at_target(self.dir.join("state").display().to_string())
        }))
    }

    async fn verify(&self) -> Result<Findings> {
        self.check(true)?;
        Ok(hydrant_file::verify(&self.dir, &self.settings.source).map_ok(Finding::from).boxed())
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        self.must_hold_a_log().await?;
        let report = hydrant_file::repair(&self.dir, self.settings.store.clone()).await?;
        let repaired = report.repaired.into_iter().map(|repaired| {
            let kept = repaired.kept.display();
            let message = format!("{}; {}; kept aside: {kept}", repaired.finding.what, repaired.done);
            Finding { message, ..repaired.finding.into() }
        });
        let remaining = report.remaining.into_iter().map(|finding| {
            let message = format!("{}; this needs an operator", finding.what);
            Finding { message, ..finding.into() }
        });
        Ok(repaired.chain(remaining).collect())
    }

    async fn prune(&self, before: EventId) -> Result<()> {
        let store = FileStore::open(&self.dir, self.settings.store.clone()).await?;
        let pruned = stores::prune(store.clone(), before).await;
        store.close().await.and(pruned)
    }

    async fn status(&self) -> Result<StoreStatus> {
        let source = self.open_source().await?;
        let segments = source.segments().await?;
        let bytes = segments.iter().map(|(_, bytes)| bytes).sum();
        let read = StoreStatus::by_reading(self.target(), &source).await?;
        Ok(StoreStatus { bytes, segments: Some(segments.len() as u64), ..read })
    }
}

impl FilePlace {
    async fn open_source(&self) -> Result<FileSource> {
        self.check(true)?;
        FileSource::open(&self.dir, self.settings.source.clone()).await
    }
}

impl From<hydrant_file::Finding> for Finding {
    fn from(finding: hydrant_file::Finding) -> Self {
        let (line, offset) = (finding.line, Some(finding.offset));
        let found = Self::new(finding.file.display().to_string(), finding.what);
        Self { line, offset, torn_tail: finding.is_torn_tail, ..found }
    }
}
