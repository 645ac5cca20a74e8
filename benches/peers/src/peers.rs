//! Each peer, used as its documentation shows for a durable write.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use ::okaywal::{LogVoid, WriteAheadLog};
use ::redb::{Durability, TableDefinition};
use hydrant_benches::Result;
use rusqlite::Connection;

/// Appends one event, which is durable when the call returns. Many threads call it.
pub trait Append: Send + Sync {
    fn append(&self, event: &[u8]) -> Result<()>;
}

/// A log whose writers share a sync.
pub fn okaywal(dir: &Path) -> Result<Arc<dyn Append>> {
    struct Okaywal(WriteAheadLog);
    impl Append for Okaywal {
        fn append(&self, event: &[u8]) -> Result<()> {
            let mut entry = self.0.begin_entry()?;
            entry.write_chunk(event)?;
            entry.commit()?;
            Ok(())
        }
    }
    Ok(Arc::new(Okaywal(WriteAheadLog::recover(dir, LogVoid)?)))
}

/// One connection with a lock. SQLite has one writer, and waiting for this lock is cheaper than for its own.
pub fn sqlite(dir: &Path) -> Result<Arc<dyn Append>> {
    struct Sqlite(Mutex<Connection>);
    impl Append for Sqlite {
        fn append(&self, event: &[u8]) -> Result<()> {
            let connection = self.0.lock().map_err(|_| "another thread panicked")?;
            connection.prepare_cached("INSERT INTO events (event) VALUES (?1)")?.execute([event])?;
            Ok(())
        }
    }
    let connection = Connection::open(dir.join("events.sqlite"))?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, event BLOB NOT NULL)", [])?;
    Ok(Arc::new(Sqlite(Mutex::new(connection))))
}

/// One transaction for each event. redb admits one writer at a time.
pub fn redb(dir: &Path) -> Result<Arc<dyn Append>> {
    const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
    struct Redb(::redb::Database, AtomicU64);
    impl Append for Redb {
        fn append(&self, event: &[u8]) -> Result<()> {
            let mut write = self.0.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            write.open_table(EVENTS)?.insert(self.1.fetch_add(1, Ordering::Relaxed), event)?;
            write.commit()?;
            Ok(())
        }
    }
    Ok(Arc::new(Redb(::redb::Database::create(dir.join("events.redb"))?, AtomicU64::new(0))))
}

/// An insert, after which the journal is synced.
pub fn fjall(dir: &Path) -> Result<Arc<dyn Append>> {
    struct Fjall(Database, Keyspace, AtomicU64);
    impl Append for Fjall {
        fn append(&self, event: &[u8]) -> Result<()> {
            self.1.insert(self.2.fetch_add(1, Ordering::Relaxed).to_be_bytes(), event)?;
            self.0.persist(PersistMode::SyncData)?;
            Ok(())
        }
    }
    let database = Database::builder(dir).open()?;
    let keyspace = database.keyspace("events", KeyspaceCreateOptions::default)?;
    Ok(Arc::new(Fjall(database, keyspace, AtomicU64::new(0))))
}
