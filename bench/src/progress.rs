//! How long work tells what it is doing: a callback, so that a library prints nothing by itself,
//! and a ready-made one that draws bars on a terminal.

use std::io::{IsTerminal as _, stderr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar appears when the work has lasted this long.
const BAR_DELAY: Duration = Duration::from_millis(500);

/// One report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A piece of countable work.
    Step {
        /// What is done, for people: "signing transfers".
        what: &'a str,
        /// Items finished.
        done: u64,
        /// Items in all.
        total: u64,
    },
    /// Something that a person should know and that stops nothing.
    Note(&'a str),
}

/// Receives the reports, from any thread.
pub type OnProgress<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// Ignores every report.
pub fn silent(_: Progress<'_>) {}

/// Draws a bar for each kind of work on the standard error, notes as lines. Without a terminal
/// only notes are printed.
pub fn bars() -> impl Fn(Progress<'_>) + Sync {
    let current: Mutex<Option<Bar>> = Mutex::new(None);
    move |progress| {
        let mut current = current.lock().expect("no panic while the lock is held");
        match progress {
            Progress::Note(text) => match current.as_ref().and_then(|bar| bar.drawn.as_ref()) {
                Some(drawn) => drawn.suspend(|| eprintln!("{text}")),
                None => eprintln!("{text}"),
            },
            Progress::Step { what, done, total } => {
                if current.as_ref().is_none_or(|bar| bar.what != what) {
                    *current = Some(Bar::new(what));
                }
                let bar = current.as_mut().expect("set above");
                bar.show(done, total);
                if done >= total {
                    *current = None;
                }
            }
        }
    }
}

struct Bar {
    what: String,
    since: Instant,
    drawn: Option<ProgressBar>,
}

impl Bar {
    fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            since: Instant::now(),
            drawn: None,
        }
    }

    fn show(&mut self, done: u64, total: u64) {
        if self.drawn.is_none() && self.since.elapsed() >= BAR_DELAY && stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(
                "{msg:>24} [{bar:40}] {human_pos}/{human_len} {per_sec}, {eta} left",
            )
            .expect("the template is valid");
            bar.set_style(style.progress_chars("=> "));
            bar.set_message(self.what.clone());
            self.drawn = Some(bar);
        }
        if let Some(bar) = &self.drawn {
            bar.set_length(total);
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.drawn.take() {
            bar.finish_and_clear();
        }
    }
}
