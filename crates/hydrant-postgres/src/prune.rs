//! Pruning: the floor first, then the rows below it, chunk by chunk.

use async_trait::async_trait;
use hydrant::{EventId, Prune, Result};
use tokio_postgres::types::ToSql;

use crate::PostgresStore;
use crate::error::{Doing, server_error};
use crate::session::Session;
use crate::shared::{Log, Shared};
use crate::wire::clamped;

/// How many rows one transaction removes, so that none holds its locks for long.
const CHUNK_EVENTS: i64 = 1_000;

#[async_trait]
impl Prune for PostgresStore {
    /// Raises the floor to the newest snapshot whose predecessor is below `before`, then removes the rows below
    /// it in chunks. Readers get `Pruned` from the moment that the floor is raised.
    ///
    /// # Errors
    /// Whatever the server answers; pruning again is safe, and removes what was left.
    ///
    /// # Cancel safety
    /// A dropped future leaves the old floor or the new one. Rows below the floor may be left; no read returns them,
    /// and the next prune removes them.
    async fn prune(&self, before: EventId) -> Result<()> {
        let shared = self.shared();
        // Closing waits for it.
        let _turn = shared.turn().await?;
        // A connection of its own: neither writer nor readers wait behind the work.
        let open = Session::open(&shared.log.connect, &shared.log.settings);
        let session = shared.call(Doing::Reading, "connecting", open).await?;
        session.mark_busy();
        raise_and_remove(shared, &session, before).await?;
        session.mark_idle();
        session.close().await;
        Ok(())
    }
}

async fn raise_and_remove(shared: &Shared, session: &Session, before: EventId) -> Result<()> {
    let log = &shared.log;
    let raise = raise(log, session, clamped(before));
    let Some(floor_after) = shared.call(Doing::Writing, "raising the floor", raise).await? else {
        return Ok(());
    };
    loop {
        let remove = async {
            let params: [&(dyn ToSql + Sync); 3] = [&log.name, &floor_after, &CHUNK_EVENTS];
            let rows = session.change(&log.settings, &log.sql.delete, &params).await.map_err(failed)?;
            Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0)))
        };
        if shared.call(Doing::Writing, "pruning", remove).await? == 0 {
            return Ok(());
        }
    }
}

/// The floor, raised where there is a snapshot to raise it to: the last id that is not kept.
async fn raise(log: &Log, session: &Session, before: i64) -> Result<Option<i64>> {
    let found =
        session.once(&log.settings, &log.sql.prunable, &[&log.name, &before]).await.map_err(failed)?;
    let Some(snapshot) = found.first() else {
        let looked = session.once(&log.settings, &log.sql.look, &[&log.name]).await.map_err(failed)?;
        return Ok(looked.first().and_then(|row| row.get(3)));
    };
    let (id, after): (i64, i64) = (snapshot.get(0), snapshot.get(1));
    let params: [&(dyn ToSql + Sync); 3] = [&log.name, &after, &id];
    let raised = session.change(&log.settings, &log.sql.raise_floor, &params).await.map_err(failed)?;
    Ok(raised.first().and_then(|row| row.get(0)))
}

fn failed(cause: tokio_postgres::Error) -> hydrant::Error {
    server_error(Doing::Writing, "pruning", cause)
}
