//! `file:DIR`: a log as plain JSON lines in a directory, also that of a hydra-node.

use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hydrant::{Checkpoint, Error, ErrorKind, Event, EventId, EventSource, ReadFrom, Result, Retry};
use hydrant_file::{FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync, TornTail};

use crate::stores::{Finding, Findings, OpenSink, OptionRow, Place, Reads, Scheme, StoreStatus, rows};
use crate::url::{OptionSpec, apply, did_you_mean};
use crate::values::{parse_bool, parse_bytes, parse_duration, show_bytes, show_duration};

/// The scheme `file`.
pub(crate) struct File;

/// Settings of the writer and of readers.
#[derive(Clone, Debug, Default)]
struct Settings {
    store: FileStoreOptions,
    source: FileSourceOptions,
}

const OPTIONS: &[OptionSpec<Settings>] = &[
    OptionSpec {
        name: "fsync",
        takes: "always|never|DURATION",
        about: "writing: when the disk is asked to keep it: before each acknowledgement, only on rotation and at the end, or so often",
        show: |settings| match settings.store.fsync {
            Fsync::Interval(interval) => show_duration(interval),
            Fsync::Never => "never".to_owned(),
            _ => "always".to_owned(),
        },
        set: |mut settings, value| {
            settings.store.fsync = match value {
                "always" => Fsync::Always,
                "never" => Fsync::Never,
                other => Fsync::Interval(parse_duration(other).map_err(|_| {
                    let near = did_you_mean(other, ["always", "never"]);
                    format!("`{other}` is none of always, never or a duration like 100ms{near}")
                })?),
            };
            Ok(settings)
        },
    },
    OptionSpec {
        name: "event_bytes_max",
        takes: "SIZE",
        about: "the largest event written or read, the longest line",
        show: |settings| show_bytes(settings.store.event_bytes_max),
        set: |mut settings, value| {
            settings.store.event_bytes_max = parse_bytes(value)?;
            settings.source.event_bytes_max = settings.store.event_bytes_max;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "create",
        takes: "true|false",
        about: "writing: whether a directory that does not exist is created",
        show: |settings| settings.store.create.to_string(),
        set: |mut settings, value| {
            settings.store.create = parse_bool(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "torn_tail",
        takes: "set_aside|refuse",
        about: "writing: what becomes of a commit that a crash cut off: it is kept beside the log, or opening is refused",
        show: |settings| match settings.store.torn_tail {
            TornTail::Refuse => "refuse".to_owned(),
            _ => "set_aside".to_owned(),
        },
        set: |mut settings, value| {
            settings.store.torn_tail = match value {
                "set_aside" => TornTail::SetAside,
                "refuse" => TornTail::Refuse,
                _ => return Err(format!("`{value}` is neither set_aside nor refuse")),
            };
            Ok(settings)
        },
    },
    OptionSpec {
        name: "preallocate_bytes",
        takes: "SIZE|none",
        about: "writing: space written ahead, which makes syncing faster; hydra-node cannot read the file until it is closed",
        show: |settings| match settings.store.preallocate_bytes {
            0 => "none".to_owned(),
            bytes => show_bytes(usize::try_from(bytes).unwrap_or(usize::MAX)),
        },
        set: |mut settings, value| {
            settings.store.preallocate_bytes = if value == "none" { 0 } else { parse_bytes(value)? as u64 };
            Ok(settings)
        },
    },
    OptionSpec {
        name: "compress",
        takes: "true|false",
        about: "writing: whether sealed segments are compressed (zstd); they are read either way",
        show: |settings| settings.store.compress.to_string(),
        set: |mut settings, value| {
            settings.store.compress = parse_bool(value)?;
            Ok(settings)
        },
    },
    OptionSpec {
        name: "poll_interval",
        takes: "DURATION",
        about: "following: how often to look for what another process wrote",
        show: |settings| show_duration(settings.source.poll_interval),
        set: |mut settings, value| {
            settings.source.poll_interval = parse_duration(value)?;
            if settings.source.poll_interval.is_zero() {
                return Err("it must be longer than nothing".to_owned());
            }
            Ok(settings)
        },
    },
];

impl Scheme for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn syntax(&self) -> &'static str {
        "file:DIR[?OPTION=VALUE&...]"
    }

    fn about(&self) -> &'static str {
        "plain JSON lines in a directory, durable and rotated; also the persistence directory of a hydra-node"
    }

    fn options(&self) -> Vec<OptionRow> {
        rows(OPTIONS)
    }

    fn parse(&self, target: &str, query: &[(String, String)]) -> std::result::Result<Arc<dyn Place>, String> {
        let dir = match target.strip_prefix("//") {
            Some(rest) if rest.starts_with('/') => rest,
            Some(rest) => {
                return Err(format!("file://{rest} names a host; write file:{rest} or file:///{rest}"));
            }
            None => target,
        };
        if dir.is_empty() {
            return Err("it names no directory; write file:DIR".to_owned());
        }
        Ok(Arc::new(FilePlace { dir: dir.into(), settings: apply(OPTIONS, query)? }))
    }
}

#[derive(Debug)]
struct FilePlace {
    dir: PathBuf,
    settings: Settings,
}

impl FilePlace {
    /// Says what stands there instead of a directory, and what to do about it.
    fn check(&self, must_exist: bool) -> Result<()> {
        let refuse =
            |kind, message: String| Err(Error::new(kind, Retry::Never, message).in_log(self.target()));
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

/// Whether a log has begun there. `state` is looked at twice, because a rotation renames it in between.
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
        Err(Error::new(ErrorKind::Unavailable, Retry::Never, message).in_log(self.target()))
    }

    async fn source(&self) -> Result<Arc<dyn EventSource>> {
        Ok(Arc::new(self.open_source().await?))
    }

    async fn sink(&self) -> Result<OpenSink> {
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
            .in_log(self.dir.join("state").display().to_string())
        }))
    }

    fn verify(&self) -> Findings {
        if let Err(error) = self.check(true) {
            return stream::iter([Err(error)]).boxed();
        }
        hydrant_file::verify(&self.dir, &self.settings.source).map_ok(Finding::from).boxed()
    }

    async fn repair(&self) -> Result<Vec<Finding>> {
        self.check(true)?;
        let report = hydrant_file::repair(&self.dir, self.settings.store.clone()).await?;
        let repaired = report.repaired.into_iter().map(|repaired| {
            let kept = repaired.kept.display();
            let message = format!("{}; {}; kept aside: {kept}", repaired.finding.what, repaired.done);
            Finding { message, ..repaired.finding.into() }
        });
        let remaining = report.remaining.into_iter().map(|finding| {
            let message = format!("{}; this needs a person", finding.what);
            Finding { message, ..finding.into() }
        });
        Ok(repaired.chain(remaining).collect())
    }

    async fn status(&self) -> Result<StoreStatus> {
        let source = self.open_source().await?;
        let segments = source.segments().await?;
        let mut status = StoreStatus {
            target: self.target(),
            first_id: None,
            last_id: None,
            events: 0,
            bytes: segments.iter().map(|(_, bytes)| bytes).sum(),
            segments: segments.len() as u64,
            checkpoint: Checkpoint::Empty,
        };
        let mut events = source.read(ReadFrom::Origin);
        let mut last = None;
        loop {
            match events.next().await.transpose() {
                Ok(Some(event)) => {
                    status.first_id = status.first_id.or(Some(event.id()));
                    status.events += 1;
                    last = Some(event);
                }
                Ok(None) => break,
                // Of a pruned log: what is kept.
                Err(error) => match error.kind() {
                    ErrorKind::Compacted { oldest } if last.is_none() => {
                        let before = oldest.get().checked_sub(1).map(EventId::new);
                        events = source.read(ReadFrom::from(before));
                    }
                    _ => return Err(error),
                },
            }
        }
        status.last_id = last.as_ref().map(Event::id);
        status.checkpoint = last.as_ref().map_or(Checkpoint::Empty, Checkpoint::behind);
        Ok(status)
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
        Self {
            file: finding.file.display().to_string(),
            line: finding.line,
            offset: finding.offset,
            torn_tail: finding.is_torn_tail,
            message: finding.what,
        }
    }
}
