//! Progress bars: on standard error, only where it is a terminal, never in the way of the log.

use std::io::{self, IsTerminal as _, Write};
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// All bars of the program, drawn by one hand.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));

/// Shows bars from now on, if standard error is a terminal and people are meant to see it.
pub(crate) fn show(json: bool) {
    if !json && io::stderr().is_terminal() {
        BARS.set_draw_target(ProgressDrawTarget::stderr());
    }
}

/// A bar for one sink, from event 0 to `head`, where that is known.
pub(crate) fn bar(name: &str, head: Option<u64>) -> ProgressBar {
    let (bar, shape) = match head {
        Some(head) => (ProgressBar::new(head), "{prefix:12} {bar:30} event {pos} of {len} {rate} {msg}"),
        None => (ProgressBar::no_length(), "{prefix:12} {spinner} event {pos} {rate} {msg}"),
    };
    let style = ProgressStyle::with_template(shape).expect("the template is right");
    let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{:.0}/s", state.per_sec());
    });
    BARS.add(bar.with_style(style).with_prefix(name.to_owned()))
}

/// Standard error above the bars: what is written appears in one piece when this is dropped.
#[derive(Default)]
pub(crate) struct AboveBars(Vec<u8>);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        BARS.suspend(|| io::stderr().lock().write_all(&self.0))?;
        self.0.clear();
        Ok(())
    }
}

impl Drop for AboveBars {
    fn drop(&mut self) {
        drop(self.flush());
    }
}
