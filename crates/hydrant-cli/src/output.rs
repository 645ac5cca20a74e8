//! Standard output and standard error, without surprises: whole lines, big writes, a reader that leaves.

use std::fmt::Display;
use std::io::{self, StdoutLock, Write};

use hydrant::Event;
use serde::Serialize;

use crate::exit::Outcome;
use crate::progress::AboveBars;

/// How much is gathered before it is written.
const BUFFER_BYTES: usize = 256 << 10;

/// Standard output, locked once and written in big pieces of whole lines.
pub(crate) struct Output {
    stdout: StdoutLock<'static>,
    buffer: Vec<u8>,
}

impl Output {
    /// Locks standard output for as long as this lives.
    pub(crate) fn lock() -> Self {
        Self { stdout: io::stdout().lock(), buffer: Vec::with_capacity(BUFFER_BYTES) }
    }

    /// Adds an event as a line of its own.
    pub(crate) fn event(&mut self, event: &Event) -> Outcome<()> {
        event.write_to(&mut self.buffer);
        self.end_line()
    }

    /// Adds a line of text.
    pub(crate) fn text(&mut self, text: impl Display) -> Outcome<()> {
        writeln!(self.buffer, "{text}")?;
        Ok(())
    }

    /// Adds a value as one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Outcome<()> {
        serde_json::to_writer(&mut self.buffer, value).map_err(io::Error::from)?;
        self.end_line()
    }

    /// Writes out everything added so far.
    ///
    /// # Errors
    /// `ReaderGone` if the reader of standard output has left, `Output` for all other errors.
    pub(crate) fn flush(&mut self) -> Outcome<()> {
        let written = self.stdout.write_all(&self.buffer).and_then(|()| self.stdout.flush());
        self.buffer.clear();
        Ok(written?)
    }

    fn end_line(&mut self) -> Outcome<()> {
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }
}

/// Prints a line for people on standard error. It matters less than the work, so a failure is ignored.
pub(crate) fn say(text: impl Display) {
    drop(writeln!(AboveBars::default(), "{text}"));
}
