//! The laws, with each kind of durability but `Never`: the kit waits for what no call asked the disk for.

use std::path::PathBuf;
use std::time::Duration;

use hydrant::{Capabilities, Durability, Result};
use hydrant_conformance::{Damage, Harness, Opened};
use hydrant_file::{FileStore, FileStoreOptions, Fsync};

/// Logs in directories of one that removes itself.
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
}

#[async_trait::async_trait]
impl Harness for InFiles {
    fn capabilities(&self) -> Capabilities {
        FileStore::CAPABILITIES
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let options = self.options.clone().with_event_bytes_max(self.limits().event_bytes_max);
        let store = FileStore::open(self.dir(namespace), options).await?;
        Ok(Opened::prunable(store.clone()).closed_by(async move { store.close().await }))
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

mod interval {
    use super::*;
    hydrant_conformance::store_suite!(InFiles::new(
        FileStoreOptions::default().with_fsync(Fsync::Interval(Duration::from_millis(5)))
    ));
}
