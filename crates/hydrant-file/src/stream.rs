//! A read as a stream: blocks are read and checked ahead, on a thread beside the runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use hydrant::{Error, Event, EventStream, ReadFrom, Result};
use tokio::task::JoinHandle;

use crate::directory::Directory;
use crate::walk::{Chunk, Item, Next, View, Walk};

/// Resolves when there may be something new.
pub(crate) type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Shows how much of a log may be read.
pub(crate) trait Views: Send + 'static {
    /// Returns what may be read now; `None` while a writer opens the log and has not published it yet. May block.
    ///
    /// # Errors
    /// The reason why nothing more can be read.
    fn view(&mut self) -> Result<Option<View>>;

    /// Resolves when something may have changed since the last `view`.
    fn changed(&mut self) -> Signal;

    /// Forgets what was found, because `state` is not as it was. Returns whether the next view will be a new one.
    fn forget(&mut self) -> bool;
}

/// How many times a read polls while the writer does not say how far it is.
const LOOKS_MAX: u32 = 500;

/// Returns events from `from` on, to the end of the first view, or forever.
pub(crate) fn events(
    dir: Arc<Directory>,
    from: ReadFrom,
    views: Box<dyn Views>,
    follows: bool,
) -> EventStream {
    let walk = Walk::new(dir.clone(), from);
    let reader = Reader { dir: dir.clone(), walk, views, follows, view: None, looks: 0 };
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
    dir: Arc<Directory>,
    walk: Walk,
    views: Box<dyn Views>,
    follows: bool,
    view: Option<View>,
    looks: u32,
}

impl Reader {
    fn step(&mut self) -> Result<Step> {
        if let Some(view) = &self.view {
            match self.walk.next(view)? {
                Next::Chunk(chunk) => return Ok(Step::Chunk(chunk)),
                Next::End if !self.follows => return Ok(Step::End),
                Next::End => {}
                Next::Changed => self.forget()?,
            }
        }
        let fresh = match self.views.view()? {
            Some(fresh) => fresh,
            None if self.looks < LOOKS_MAX => {
                self.looks += 1;
                return Ok(Step::Wait(self.views.changed()));
            }
            None => {
                return Err(Error::unavailable("another process has this log open, and does not say how far `state` may be read; try again",
                )
                .at_target(self.dir.state().display().to_string()));
            }
        };
        self.looks = 0;
        // What is new is found by reading, not by comparing views.
        let next = self.walk.next(&fresh)?;
        self.view = Some(fresh);
        match next {
            Next::Chunk(chunk) => Ok(Step::Chunk(chunk)),
            Next::End if !self.follows => Ok(Step::End),
            Next::Changed => self.forget().map(|()| Step::Wait(self.views.changed())),
            Next::End => Ok(Step::Wait(self.views.changed())),
        }
    }

    /// Prepares for another view of a log whose `state` is not as it was, or whose directory was replaced.
    fn forget(&mut self) -> Result<()> {
        let has_moved = match self.view.take() {
            Some(view) => !self.walk.is_at_home(&view)?,
            None => false,
        };
        // In the other directory, the walk compares the event that it read last, and continues in the same log only.
        if (self.follows || has_moved) && self.views.forget() {
            return Ok(());
        }
        if has_moved {
            let message = "the directory of the log was replaced; end what does that, and open the log again";
            return Err(Error::unavailable(message).at_target(self.dir.path.display().to_string()));
        }
        let message = "the file was cut or rewritten while it was read; end what does that, and read again";
        Err(Error::diverged(message).at_target(self.dir.state().display().to_string()))
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
                            let bug = Error::bug("reading a log failed inside");
                            return Poll::Ready(Some(Err(bug.because(panic))));
                        }
                    }
                }
            }
        }
    }
}
