//! Ctrl-C: the first asks for a clean end, the second ends the process at once.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Tells whether somebody has asked for the end.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Catches SIGINT and SIGTERM from now on.
    pub fn install() -> io::Result<Self> {
        let stop = Self(Arc::default());
        let asked = stop.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in &mut signals {
                    if asked.0.swap(true, Ordering::SeqCst) {
                        // The convention of shells for a process that a signal ended. Validators
                        // that this process started end with it, see `commands::run`.
                        process::exit(128 + signal);
                    }
                    eprintln!("stopping; press Ctrl-C again to stop at once");
                }
            })?;
        Ok(stop)
    }

    /// True once somebody has asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
