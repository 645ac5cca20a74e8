//! The laws on a disk that fails, is slow and loses its power.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hydrant::{Capabilities, Durability, MemoryCheckpoints, Result};
use hydrant_conformance::{Harness, Hook, Limits, Opened};

use super::*;
use crate::sim::{self, Fault, When};
use crate::{FileStore, FileStoreOptions, Fsync};

/// How the disk fails: the step that fails, and what happens to it.
const FAILURES: [(&str, Fault); 4] = [
    ("write", Fault::Error(std::io::ErrorKind::Other)),
    ("write", Fault::Error(std::io::ErrorKind::StorageFull)),
    ("write", Fault::Short),
    SYNC,
];

/// Only a log that syncs each append meets it there.
const SYNC: (&str, Fault) = ("sync", Fault::Error(std::io::ErrorKind::Other));

/// A disk for each namespace, and the roster beside its log.
struct OnSimDisks {
    options: FileStoreOptions,
    disks: Arc<Mutex<HashMap<String, Kept>>>,
}

/// A disk, and the roster of its log.
type Kept = (SimDisk, Arc<MemoryCheckpoints>);

impl OnSimDisks {
    fn new(options: FileStoreOptions) -> Self {
        Self { options, disks: Arc::default() }
    }

    fn disk(&self, namespace: &str) -> Kept {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || (SimDisk::new(&path(namespace)), Arc::default());
        disks.entry(namespace.to_owned()).or_insert_with(new).clone()
    }
}

fn path(namespace: &str) -> PathBuf {
    Path::new("/").join(namespace)
}

#[async_trait::async_trait]
impl Harness for OnSimDisks {
    fn capabilities(&self) -> Capabilities {
        FileStore::CAPABILITIES
    }

    fn durability(&self) -> Durability {
        match self.options.fsync {
            Fsync::Always => Durability::Durable,
            _ => Durability::Accepted,
        }
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(EVENT_BYTES_MAX).with_events_max(2_000)
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        let (disk, roster) = self.disk(namespace);
        let (process, dir) = (disk.process(), path(namespace));
        let options = self.options.clone().with_event_bytes_max(EVENT_BYTES_MAX);
        let store = FileStore::open_on(Arc::new(process.clone()), &dir, roster, options).await?;
        let (closing, disks, name) = (store.clone(), Arc::clone(&self.disks), namespace.to_owned());
        let verify = move || {
            let found = sim::verify(&disk, &dir, &FileSourceOptions::default());
            std::future::ready(found.map(|found| found.iter().map(ToString::to_string).collect()))
        };
        Ok(Opened::primary(store)
            .verified_by(verify)
            .closed_by(async move { closing.close().await })
            .crashed_by(async move {
                let mut disks = disks.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((disk, _)) = disks.get_mut(&name) {
                    process.kill();
                    *disk = disk.reboot(&mut Rng::with_seed(hydrant_conformance::seed()));
                }
                Ok(())
            }))
    }

    fn impossible(&self, hook: Hook) -> Option<&'static str> {
        match hook {
            Hook::Damage(_) => Some("the real disk shows it, `conformance::always`"),
            Hook::Replace => Some("its lock keeps others out; a source beside it notices"),
            _ => None,
        }
    }

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let failure =
            FAILURES.get(n).filter(|failure| self.options.fsync == Fsync::Always || **failure != SYNC);
        let Some((step, fault)) = failure else { return Ok(false) };
        let (disk, state) = (self.disk(namespace).0, path(namespace).join("state"));
        disk.fail(When::Next(format!("{step} {}", state.display())), *fault);
        Ok(true)
    }

    fn stops(&self, n: usize) -> bool {
        FAILURES[n] == SYNC
    }

    fn unfired(&self, namespace: &str) -> Vec<String> {
        self.disk(namespace).0.planned().iter().map(|planned| format!("{planned:?}")).collect()
    }

    async fn delay(&self, namespace: &str, delay: Duration) -> Result<bool> {
        self.disk(namespace).0.set_pause(Some(delay));
        Ok(true)
    }

    async fn heal(&self, namespace: &str) -> Result<()> {
        let (disk, _) = self.disk(namespace);
        disk.heal();
        disk.set_pause(None);
        Ok(())
    }
}

mod always {
    use super::*;
    hydrant_conformance::store_suite!(OnSimDisks::new(FileStoreOptions::default()));
}

mod interval {
    use super::*;
    hydrant_conformance::store_suite!(OnSimDisks::new(
        FileStoreOptions::default().with_fsync(Fsync::Interval(Duration::from_millis(5)))
    ));
}
