//! Work of a simulated process that others interrupt at each step: the work has a thread of its own, and only one of the
//! two, the work or the runtime, runs at a time. So the seed still decides the order of everything.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::disk::Disk;

/// The messages between the thread of the work and the runtime.
struct Baton {
    arrived: Sender<()>,
    resumed: Receiver<()>,
}

thread_local! {
    static BATON: RefCell<Option<Baton>> = const { RefCell::new(None) };
}

/// The runtime is gone, or does not want the result any more.
struct Gone;

/// Lets the runtime run, if this is the thread of a piece of work. Called before each step, without a lock.
pub(super) fn pause() {
    BATON.with_borrow(|baton| {
        let Some(baton) = baton else { return };
        if std::thread::panicking() {
            return;
        }
        if baton.arrived.send(()).is_err() || baton.resumed.recv().is_err() {
            std::panic::resume_unwind(Box::new(Gone));
        }
    });
}

/// Runs work that pauses before each of its steps. If the future is dropped, the work ends at its next step.
///
/// # Panics
/// If the work does.
pub(crate) async fn run<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if !disk.is_stepped() {
        return work();
    }
    let ((arrived, steps), (resume, resumed)) = (channel(), channel());
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::spawn(move || {
        let _clock = runtime.enter();
        BATON.set(Some(Baton { arrived, resumed }));
        let done = work();
        BATON.set(None);
        done
    });
    // Blocks the runtime on purpose until the work has come to its next step, or to its end.
    while steps.recv().is_ok() {
        disk.pace().await;
        if resume.send(()).is_err() {
            break;
        }
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
