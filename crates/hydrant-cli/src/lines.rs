//! Reads events from JSON lines of other programs, in bounded memory. An error names the place of the bad line.

use std::io::{ErrorKind as IoKind, Read};

use bytes::{Bytes, BytesMut};
use hydrant::store::envelope;
use hydrant::{Error, ErrorKind, Event, EventId, Result, Retry};

use crate::values::show_bytes;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// Splits input into lines and decodes each as an event of hydra-node's three generations.
///
/// After an error that belongs to one line, it goes on with the next; after one that belongs to the input as
/// a whole (a line that is too long, a failed read), it has ended.
pub(crate) struct Lines<R> {
    input: R,
    name: String,
    line_bytes_max: usize,
    buffer: BytesMut,
    /// How much of `buffer` is known to have no line break.
    searched: usize,
    number: u64,
    offset: u64,
    /// The number, from 1, and the offset of the line that was looked at last.
    place: (u64, u64),
    last: Option<EventId>,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of `input`, which errors call `name`.
    pub(crate) fn new(input: R, name: impl Into<String>, line_bytes_max: usize) -> Self {
        Self {
            input,
            name: name.into(),
            line_bytes_max,
            buffer: BytesMut::new(),
            searched: 0,
            number: 0,
            offset: 0,
            place: (1, 0),
            last: None,
            ended: false,
        }
    }

    /// The next event, without waiting for more input than is needed for it; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`, naming the line by its number from 1 and its byte offset from 0.
    pub(crate) fn next_event(&mut self) -> Option<Result<Event>> {
        loop {
            self.place = (self.number + 1, self.offset);
            let line = match self.next_line()? {
                Ok(line) => line,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            };
            let whole = line.len() as u64;
            let complete = line.ends_with(b"\n");
            let event = self.decode(line, complete).map_err(|error| error.at_target(self.named_place()));
            self.number += 1;
            self.offset += whole;
            match event {
                Ok(Some(event)) => {
                    self.last = Some(event.id());
                    return Some(Ok(event));
                }
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The line that was looked at last: its number, from 1, and its offset in bytes.
    pub(crate) fn place(&self) -> (u64, u64) {
        self.place
    }

    /// Returns whether the next event is likely in memory already, so that asking for it does not wait.
    pub(crate) fn has_line(&mut self) -> bool {
        self.find_break().is_some()
    }

    fn decode(&self, mut line: Bytes, complete: bool) -> Result<Option<Event>> {
        if complete {
            line.truncate(line.len() - 1);
        }
        if line.ends_with(b"\r") {
            line.truncate(line.len() - 1);
        }
        let decoded = envelope::decode_hydra(line, self.number);
        let event = match decoded {
            Ok(event) => event,
            Err(error) if complete => return Err(error),
            Err(error) => {
                return Err(Error::corrupt("the input ends inside this line: it was cut off").because(error));
            }
        };
        match self.last {
            Some(last) if event.id() == last && event.is_snapshot() => Ok(None), // hydra-node reuses the id
            Some(last) if event.id() <= last => {
                let how = if event.id() == last { "repeats" } else { "falls" };
                Err(Error::corrupt(format!(
                    "the id {how}: event {last} stands before it; ids must strictly grow"
                ))
                .at(event.id()))
            }
            _ => Ok(Some(event)),
        }
    }

    fn next_line(&mut self) -> Option<Result<Bytes>> {
        loop {
            if let Some(end) = self.find_break() {
                if end > self.line_bytes_max {
                    return Some(Err(self.too_long()));
                }
                self.searched = 0;
                return Some(Ok(self.buffer.split_to(end + 1).freeze()));
            }
            if self.buffer.len() > self.line_bytes_max {
                return Some(Err(self.too_long()));
            }
            if self.ended {
                self.searched = 0;
                let rest = self.buffer.split().freeze();
                return (!rest.is_empty()).then_some(Ok(rest));
            }
            match self.fill() {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(cause) if cause.kind() == IoKind::Interrupted => {}
                Err(cause) => {
                    self.discard();
                    let error = Error::new(ErrorKind::Unavailable, Retry::Never, "reading failed");
                    return Some(Err(error.at_target(self.named_place()).because(cause)));
                }
            }
        }
    }

    fn find_break(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..]).map(|at| at + self.searched);
        self.searched = found.unwrap_or(self.buffer.len());
        found
    }

    fn fill(&mut self) -> std::io::Result<usize> {
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let read = self.input.read(&mut self.buffer[held..]);
        self.buffer.truncate(held + read.as_ref().copied().unwrap_or(0));
        read
    }

    fn too_long(&mut self) -> Error {
        self.discard();
        let most = show_bytes(self.line_bytes_max);
        Error::corrupt(format!(
            "the line is longer than `line_bytes_max` = {most}; if it really is one event, allow more: \
             stdio:?line_bytes_max=SIZE"
        ))
        .at_target(self.named_place())
    }

    fn discard(&mut self) {
        self.buffer = BytesMut::new();
        self.searched = 0;
    }

    fn named_place(&self) -> String {
        let (line, offset) = self.place;
        format!("{}: line {line}, byte {offset}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], line_bytes_max: usize) -> Vec<Result<Event>> {
        let mut lines = Lines::new(input, "input", line_bytes_max);
        std::iter::from_fn(|| lines.next_event()).collect()
    }

    fn error(input: &[u8]) -> String {
        let all = lines(input, 1000);
        all.into_iter().find_map(Result::err).expect("an error").to_string()
    }

    #[test]
    fn the_three_generations_are_read() {
        let input = b"{\"tag\":\"A\"}\n{\"tag\":\"B\"}\r\n{\"eventId\":7,\"stateChanged\":{\"tag\":\"C\"}}\n\
            {\"eventId\":7,\"stateChanged\":{\"tag\":\"Checkpoint\"}}\n\
            {\"eventId\":9,\"stateChanged\":1,\"time\":\"t\"}";
        let ids: Vec<u64> = lines(input, 1000).into_iter().map(|event| event.unwrap().id().get()).collect();
        assert_eq!(ids, [0, 1, 7, 9]);
    }

    #[test]
    fn errors_name_the_line_and_the_offset() {
        let good = "{\"eventId\":5,\"stateChanged\":1}\n";
        for (bad, says) in [
            ("garbage\n", "not an event"),
            ("\n", "an empty line"),
            ("\0\0\0\n", "NUL"),
            ("{\"eventId\":6,\"stateCh", "cut off"),
            ("{\"eventId\":5,\"stateChanged\":1}\n", "repeats"),
            ("{\"eventId\":4,\"stateChanged\":1}\n", "falls"),
            ("{\"stateChanged\":1}\n", "no `eventId`"),
            ("{\"eventId\":\"6\",\"stateChanged\":1}\n", "not a number"),
            ("{\"eventId\":-6,\"stateChanged\":1}\n", "not a number"),
            ("{\"eventId\":18446744073709551616,\"stateChanged\":1}\n", "not a number"),
            ("\u{feff}{}\n", "not an event"),
        ] {
            let error = error(format!("{good}{bad}").as_bytes());
            assert!(error.contains("input: line 2, byte 31"), "{error}");
            assert!(error.contains(says), "{error}");
        }
        let utf16: Vec<u8> = "{\"eventId\":6}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(error(&utf16).contains("UTF-16"), "{}", error(&utf16));
    }

    #[test]
    fn after_a_bad_line_the_next_is_read() {
        let input = b"x\n{\"eventId\":5,\"stateChanged\":1}\n";
        let all = lines(input, 1000);
        assert!(all[0].is_err() && all[1].is_ok() && all.len() == 2);
    }

    #[test]
    fn an_endless_line_ends_in_bounded_memory() {
        let mut lines = Lines::new(std::io::repeat(b'x'), "input", 1 << 20);
        let error = lines.next_event().unwrap().unwrap_err().to_string();
        assert!(error.contains("line_bytes_max` = 1MiB"), "{error}");
        assert!(lines.buffer.capacity() < 4 << 20);
        assert!(lines.next_event().is_none());
    }
}
