//! A read as a stream: blocks are read and checked ahead, on a thread beside the runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use hydrant::{Error, ErrorKind, Event, EventStream, ReadFrom, Result, Retry};
use tokio::task::JoinHandle;

use crate::directory::Directory;
use crate::walk::{Chunk, Item, View, Walk};

/// Something that happened, at last.
pub(crate) type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells how much of a log may be read.
pub(crate) trait Views: Send + 'static {
    /// What may be read now; `None` while a writer is just beginning and has not said it yet. May block.
    ///
    /// # Errors
    /// Why nothing more can be told.
    fn view(&mut self) -> Result<Option<View>>;

    /// Resolves when something may have changed since the last `view`.
    fn changed(&mut self) -> Signal;
}

/// How often a bounded read looks again while a writer is just beginning.
const LOOKS_MAX: u32 = 500;

/// Events from `from` on, to the end of the first view, or for ever.
pub(crate) fn events(
    dir: Arc<Directory>,
    from: ReadFrom,
    views: Box<dyn Views>,
    follows: bool,
) -> EventStream {
    let walk = Walk::new(dir.clone(), from);
    let reader = Reader { walk, views, follows, view: None, looks: 0 };
    Box::pin(Events {
        dir,
        state: State::Idle(Box::new(reader)),
        chunk: Vec::new().into_iter(),
        data: Bytes::new(),
        error: None,
    })
}

/// What a look at the files gave.
enum Step {
    Chunk(Chunk),
    /// Nothing now; wait for the signal.
    Wait(Signal),
    End,
}

struct Reader {
    walk: Walk,
    views: Box<dyn Views>,
    follows: bool,
    view: Option<View>,
    looks: u32,
}

impl Reader {
    fn step(&mut self) -> Result<Step> {
        if let Some(view) = &self.view {
            if let Some(chunk) = self.walk.next(view)? {
                return Ok(Step::Chunk(chunk));
            }
            if !self.follows {
                return Ok(Step::End);
            }
        }
        let fresh = match self.views.view()? {
            Some(fresh) => fresh,
            None if self.follows || self.looks < LOOKS_MAX => {
                self.looks += 1;
                return Ok(Step::Wait(self.views.changed()));
            }
            None => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    Retry::Safe,
                    "another process is opening this log, and has not said yet what may be read; try again",
                ));
            }
        };
        // What is new is seen by looking, not by comparing views.
        let chunk = self.walk.next(&fresh)?;
        self.view = Some(fresh);
        Ok(match chunk {
            Some(chunk) => Step::Chunk(chunk),
            None if self.follows => Step::Wait(self.views.changed()),
            None => Step::End,
        })
    }
}

enum State {
    Idle(Box<Reader>),
    Busy(JoinHandle<(Box<Reader>, Result<Step>)>),
    Waiting(Box<Reader>, Signal),
    Done,
}

struct Events {
    dir: Arc<Directory>,
    state: State,
    chunk: std::vec::IntoIter<Item>,
    data: Bytes,
    error: Option<Error>,
}

impl Events {
    fn read_ahead(&mut self, mut reader: Box<Reader>, spent: Bytes) {
        self.state = State::Busy(self.dir.spawn(move || {
            reader.walk.recycle(spent);
            let step = reader.step();
            (reader, step)
        }));
    }

    fn item(&self, item: Item) -> Result<Event> {
        match item {
            Item::Event(event) => Ok(event),
            Item::Slice(at, layout) => {
                let start = at as usize;
                Event::from_layout(self.data.slice(start..start + layout.end as usize), layout)
            }
        }
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.chunk.next() {
                return Poll::Ready(Some(this.item(item)));
            }
            if let Some(error) = this.error.take() {
                this.state = State::Done;
                return Poll::Ready(Some(Err(error)));
            }
            match std::mem::replace(&mut this.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Idle(reader) => this.read_ahead(reader, Bytes::new()),
                State::Waiting(reader, mut signal) => match signal.as_mut().poll(context) {
                    Poll::Ready(()) => this.read_ahead(reader, Bytes::new()),
                    Poll::Pending => {
                        this.state = State::Waiting(reader, signal);
                        return Poll::Pending;
                    }
                },
                State::Busy(mut task) => {
                    let Poll::Ready(done) = Pin::new(&mut task).poll(context) else {
                        this.state = State::Busy(task);
                        return Poll::Pending;
                    };
                    match done {
                        Ok((reader, Ok(Step::Chunk(chunk)))) => {
                            let spent = std::mem::replace(&mut this.data, chunk.data);
                            this.chunk = chunk.items.into_iter();
                            this.error = chunk.error;
                            this.read_ahead(reader, spent);
                        }
                        Ok((reader, Ok(Step::Wait(signal)))) => this.state = State::Waiting(reader, signal),
                        Ok((_, Ok(Step::End))) => return Poll::Ready(None),
                        Ok((_, Err(error))) => return Poll::Ready(Some(Err(error))),
                        Err(panic) => {
                            let bug = Error::new(ErrorKind::Bug, Retry::Never, "reading a log failed inside");
                            return Poll::Ready(Some(Err(bug.because(panic))));
                        }
                    }
                }
            }
        }
    }
}
