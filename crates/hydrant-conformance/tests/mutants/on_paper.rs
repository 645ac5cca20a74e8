//! How the kit reaches stores on paper, all with the same bug.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hydrant::{Capabilities, Checkpoint, Durability, Error, Event, EventId, Result};
use hydrant_conformance::{Damage, Harness, Limits, Opened};

use crate::bugs::Bug;
use crate::paper::{Page, Paper, Roster, Shared};

pub(crate) type Pages = Arc<Mutex<HashMap<String, Arc<Shared>>>>;

/// Opens stores on paper, all with the same bug.
pub(crate) struct OnPaper {
    pub(crate) bug: Bug,
    pub(crate) weak: bool,
    /// A sink alone, which is looked up from outside.
    pub(crate) alone: bool,
    pub(crate) patience: Duration,
    pub(crate) pages: Pages,
}

impl OnPaper {
    pub(crate) fn new(bug: Bug) -> Self {
        // Some bugs are only to be seen where `Ok` does not mean durable yet.
        let weak =
            matches!(bug, Bug::CheckpointBeforeDurable | Bug::ShowsWhatIsUnsynced | Bug::HeadIsTheCheckpoint);
        let patience = Duration::from_secs(if bug == Bug::None { 60 } else { 12 });
        Self { bug, weak, alone: false, patience, pages: Pages::default() }
    }

    fn put(&self, namespace: &str, page: Page) -> Arc<Shared> {
        let shared = Shared::new(page, self.bug, self.weak, self.limits().event_bytes_max);
        lock(&self.pages).insert(namespace.to_owned(), Arc::clone(&shared));
        shared
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Harness for OnPaper {
    fn capabilities(&self) -> Capabilities {
        match self.bug {
            Bug::PretendsToRemember => Capabilities::ALL.without(Capabilities::MEMORY),
            _ if self.alone => {
                Capabilities::ALL.without(Capabilities::SOURCE).without(Capabilities::SEGMENTS)
            }
            _ => Capabilities::ALL,
        }
    }

    fn durability(&self) -> Durability {
        if self.weak { Durability::Accepted } else { Durability::Durable }
    }

    fn limits(&self) -> Limits {
        Limits::default().with_event_bytes_max(2 << 20).with_events_max(5_000).with_patience(self.patience)
    }

    async fn open(&self, namespace: &str) -> Result<Opened> {
        tokio::task::yield_now().await;
        let known = lock(&self.pages).get(namespace).cloned();
        let reopened = known.is_some();
        let shared = known.unwrap_or_else(|| self.put(namespace, Page::default()));
        let mut page = shared.page();
        match self.bug {
            Bug::KeepsItsLock if page.locked => return Err(Error::fenced("another handle holds the lock")),
            Bug::LosesOnReopen => *page = Page::default(),
            Bug::CheckpointForgottenOnReopen if reopened => page.claims = Some(Checkpoint::Empty),
            Bug::LeaksATask => drop(tokio::spawn(std::future::pending::<()>())),
            Bug::LeaksADescriptor => std::mem::forget(std::fs::File::open("/dev/null")),
            _ => {}
        }
        page.locked = true;
        let own_head = page.events.last().map_or(Checkpoint::Empty, Checkpoint::at);
        drop(page);
        let own_head = Arc::new(Mutex::new(own_head));
        let paper = Paper { shared: Arc::clone(&shared), own_head, broken: Arc::default() };
        let (pages, bug, weak, name) = (Arc::clone(&self.pages), self.bug, self.weak, namespace.to_owned());
        let event_bytes_max = self.limits().event_bytes_max;
        let (closing, verifying) = (Arc::clone(&shared), Arc::clone(&shared));
        let verify = move || {
            let turned = verifying.page().events.len() % 10 == 5;
            let found = turned && verifying.bug == Bug::VerifyMissesASegment;
            std::future::ready(Ok(Vec::from_iter(found.then(|| "a segment is missing".to_owned()))))
        };
        let seen = Arc::clone(&shared);
        let opened = if self.alone {
            Opened::sink(paper.clone()).seen_as(move || Ok(seen.page().events.clone()))
        } else {
            Opened::prunable(paper.clone())
        };
        Ok(opened
            .with_commit_point(paper)
            .with_roster(Roster(Arc::clone(&shared)))
            .verified_by(verify)
            .closed_by(async move {
                closing.sync();
                Ok(())
            })
            .crashed_by(async move {
                // The old handles keep a page that is not opened again.
                let mut page = shared.page().clone();
                page.events.truncate(page.durable);
                page.claims = None;
                lock(&pages).insert(name, Shared::new(page, bug, weak, event_bytes_max));
                Ok(())
            }))
    }

    async fn damage(&self, namespace: &str, damage: Damage) -> Result<bool> {
        let shared = lock(&self.pages).get(namespace).cloned();
        let shared = shared.ok_or_else(|| Error::invalid("no such log"))?;
        let mut page = shared.page();
        match damage {
            Damage::Inside => page.damaged = Some(EventId::new(30)),
            Damage::TornTail if self.bug == Bug::CutsACommitWithTheTornTail => {
                page.events.truncate(55);
                page.durable = 55;
            }
            _ => {}
        }
        Ok(true)
    }

    async fn fail_next_write(&self, namespace: &str, n: usize) -> Result<bool> {
        let shared = lock(&self.pages).get(namespace).cloned();
        let shared = shared.ok_or_else(|| Error::invalid("no such log"))?;
        shared.page().fail_next = Some(n).filter(|n| *n < 2);
        Ok(n < 2)
    }

    fn stops(&self, n: usize) -> bool {
        n == 1 && self.bug == Bug::WorksThoughItStopped
    }

    fn unfired(&self, namespace: &str) -> Vec<String> {
        let armed = lock(&self.pages).get(namespace).and_then(|shared| shared.page().fail_next);
        armed.map(|n| format!("jam {n}")).into_iter().collect()
    }

    async fn replace(&self, namespace: &str, events: &[Event]) -> Result<bool> {
        let shared = lock(&self.pages).get(namespace).cloned();
        let shared = shared.ok_or_else(|| Error::invalid("no such log"))?;
        let mut page = shared.page();
        (page.events, page.durable) = (events.to_vec(), events.len());
        Ok(true)
    }

    async fn delay(&self, namespace: &str, delay: Duration) -> Result<bool> {
        let shared = lock(&self.pages).get(namespace).cloned();
        shared.ok_or_else(|| Error::invalid("no such log"))?.page().delay = delay;
        Ok(true)
    }

    async fn heal(&self, namespace: &str) -> Result<()> {
        let shared = lock(&self.pages).get(namespace).cloned();
        let shared = shared.ok_or_else(|| Error::invalid("no such log"))?;
        let mut page = shared.page();
        (page.delay, page.fail_next) = (Duration::ZERO, None);
        Ok(())
    }
}
