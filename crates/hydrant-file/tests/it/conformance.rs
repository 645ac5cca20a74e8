//! The laws, with each kind of durability except `Never`, which never asks for the sync that the kit would wait for.
//!
//! `src/tests/laws.rs` tests the laws on a simulated disk that fails, is slow, and loses its power.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use hydrant::{Batch, Capabilities, Durability, Event, EventSink, Result};
use hydrant_conformance::{Damage, Harness, Hook, Opened};
use hydrant_file::{
    FileCheckpoints, FileSource, FileSourceOptions, FileStore, FileStoreOptions, Fsync, verify,
};

/// Logs in subdirectories of a temporary directory.
struct InFiles {
    root: tempfile::TempDir,
    options: FileStoreOptions,
}

impl InFiles {
    fn new(options: FileStoreOptions) -> Self {
        Self { root: tempfile::tempdir().unwrap(), options }
    }

    fn dir(&self, namespace: &str) -> PathBuf {
        self.root.path().join(namespace)
    }

    async fn store(&self, namespace: &str) -> Result<FileStore> {
        let options = self.options.clone().with_event_bytes_max(self.limits().event_bytes_max);
        FileStore::open(self.dir(namespace), options).await
    }
}

/// What a verification finds, as text.
async fn findings(dir: PathBuf) -> Result<Vec<String>> {
    let found: Vec<_> = verify(dir, &FileSourceOptions::default()).try_collect().await?;
    Ok(found.iter().map(ToString::to_string).collect())
}

#[async_trait::async_trait]
impl Harness for InFiles {
    fn capabilities(&self) -> Capabilities {
        FileStore::CAPABILITIES
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let store = self.store(namespace).await?;
        let (dir, closing) = (self.dir(namespace), store.clone());
        Ok(Opened::primary(store)
            .verified_by(move || findings(dir.clone()))
            .closed_by(async move { closing.close().await }))
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        let elsewhere = "a real disk does not do that on command; `tests::laws` simulates one that does";
        match hook {
            Hook::Crash | Hook::Delay | Hook::FailNextWrite => Some(elsewhere),
            Hook::Replace => {
                Some("its lock keeps others out; a source beside it notices, `conformance::beside_a_writer`")
            }
            _ => None,
        }
    }

    fn durability(&self) -> Durability {
        match self.options.fsync {
            Fsync::Always => Durability::Durable,
            _ => Durability::Accepted,
        }
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        let state = self.dir(namespace).join("state");
        let mut bytes = std::fs::read(&state).unwrap();
        match damage {
            Damage::Inside => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Damage::TornTail => {
                bytes.extend_from_slice(b"{\"eventId\":4000000,\"stateCh");
                // Only a log that was not closed can be torn.
                std::fs::write(self.dir(namespace).join("lock"), "").unwrap();
            }
            _ => return Ok(false),
        }
        std::fs::write(&state, bytes).unwrap();
        Ok(true)
    }
}

mod always {
    use super::*;
    hydrant_conformance::store_suite!(InFiles::new(FileStoreOptions::default()));
}

mod always_preallocated {
    use super::*;
    hydrant_conformance::store_suite!(InFiles::new(
        FileStoreOptions::default().with_preallocate_bytes(64 << 10)
    ));
}

/// A source beside the process that writes. Its directory may be replaced by another one.
struct BesideAWriter(InFiles);

#[async_trait::async_trait]
impl Harness for BesideAWriter {
    fn capabilities(&self) -> Capabilities {
        Capabilities::SOURCE
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let (store, dir) = (self.0.store(namespace).await?, self.0.dir(namespace));
        let options = FileSourceOptions::default()
            .with_event_bytes_max(self.limits().event_bytes_max)
            .with_poll_interval(Duration::from_millis(1));
        let source = FileSource::open(&dir, options).await?;
        Ok(Opened::source(source, store.clone())
            .verified_by(move || findings(dir.clone()))
            .closed_by(async move { store.close().await }))
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        self.0.damage(namespace, damage).await
    }

    async fn replace(&self, namespace: &str, events: &[Event]) -> Result<bool> {
        let (new, old) = (format!("{namespace}_new"), format!("{namespace}_old"));
        let store = self.0.store(&new).await?;
        store.append(Batch::new(None, events)?).await?;
        store.close().await?;
        std::fs::rename(self.0.dir(namespace), self.0.dir(&old)).unwrap();
        std::fs::rename(self.0.dir(&new), self.0.dir(namespace)).unwrap();
        Ok(true)
    }
}

mod beside_a_writer {
    use super::*;
    hydrant_conformance::source_suite!(BesideAWriter(InFiles::new(FileStoreOptions::default())));
}

/// Checkpoints in directories.
struct Checkpoints(tempfile::TempDir);

#[async_trait::async_trait]
impl Harness for Checkpoints {
    fn capabilities(&self) -> Capabilities {
        Capabilities::NONE
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let checkpoints = FileCheckpoints::open(self.0.path().join("a/b").join(namespace)).await?;
        Ok(Opened::checkpoints(checkpoints))
    }
}

mod checkpoints {
    use super::*;
    hydrant_conformance::checkpoints_suite!(Checkpoints(tempfile::tempdir().unwrap()));
}

mod interval {
    use super::*;
    hydrant_conformance::store_suite!(InFiles::new(
        FileStoreOptions::default().with_fsync(Fsync::Interval(Duration::from_millis(5)))
    ));
}
