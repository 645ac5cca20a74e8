//! Pruning, as the writer does it: sealed segments go from the oldest on, and the newest snapshot stays.

use hydrant::{EventId, Result, Retry};

use super::Writer;
use crate::compress::temp_name;
use crate::directory::Sealed;
use crate::error::io_error;
use crate::opening::Opening;
use crate::rotation;

impl Writer {
    pub(super) fn prune(&mut self, before: EventId) -> Result<()> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        for _ in 0..self.prunable(before)? {
            self.remove(self.sealed[0])?;
            self.sealed.remove(0);
            self.published.send_modify(|published| published.view = self.view(self.synced));
        }
        Ok(())
    }

    /// How many segments may go: they end before `before`, and a snapshot opens the one behind them.
    fn prunable(&self, before: EventId) -> Result<usize> {
        let mut prunable = 0;
        for count in 1..=self.sealed.len() {
            if self.sealed[count - 1].last >= before {
                break;
            }
            let opening = match self.sealed.get(count) {
                Some(next) => match self.dir.open_sealed(*next)? {
                    Some((path, file, stat)) => Opening::of(&self.dir, &path, &file, stat.len)?,
                    None => None,
                },
                None => Opening::of(&self.dir, &self.dir.state(), &self.file, self.synced)?,
            };
            if opening.is_some_and(|opening| opening.snapshot.is_some()) {
                prunable = count;
            }
        }
        Ok(prunable)
    }

    /// Removes a segment in every form. The next one goes only when this is durable: else a power cut
    /// could leave a log with a hole.
    fn remove(&mut self, sealed: Sealed) -> Result<()> {
        let form = |compressed| Sealed { compressed, ..sealed }.name();
        for name in [temp_name(sealed), form(true), form(false)] {
            let path = self.dir.file(&name);
            match self.dir.disk.remove(&path) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(io_error(&path, "pruning", Retry::Safe, cause));
                }
                _ => {}
            }
        }
        rotation::sync_dir(&self.dir).map_err(|error| self.stop(&error))
    }
}
