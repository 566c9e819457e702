//! Telling systemd: ready, stopping, still alive (`sd_notify(3)`, `Type=notify`).
//!
//! The protocol is one datagram of `KEY=value` lines to the socket that `$NOTIFY_SOCKET` names.
//! Without that variable nobody listens, and nothing happens.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::pipeline::CoreInput;

/// Times that the watchdog is fed within the time that it grants.
const BEATS_PER_LIMIT: u32 = 4;

/// The service manager, if there is one.
pub struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Looks into the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            connect(&name)
                .inspect_err(|error| tracing::warn!(%error, ?name, "cannot reach $NOTIFY_SOCKET"))
                .ok()
        });
        // systemd names the process that it means, for those that start others.
        let meant = match std::env::var("WATCHDOG_PID") {
            Ok(pid) => pid.parse() == Ok(std::process::id()),
            Err(_) => true,
        };
        let limit_us: Option<u64> = std::env::var("WATCHDOG_USEC")
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|limit_us| *limit_us > 0 && meant);
        Self {
            watchdog: socket.as_ref().and(limit_us).map(Duration::from_micros),
            socket,
        }
    }

    /// The service is started.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The service begins to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// Feeds the watchdog as long as the core makes progress; for ever when there is none.
    pub async fn feed_watchdog(&self, heart: &Heart) {
        let Some(limit) = self.watchdog else {
            return std::future::pending().await;
        };
        let mut seen = heart.turns();
        loop {
            heart.nudge();
            tokio::time::sleep(limit / BEATS_PER_LIMIT).await;
            let turns = heart.turns();
            if turns != seen {
                self.send("WATCHDOG=1");
                seen = turns;
            }
        }
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::warn!(%error, "the service manager cannot be told: {message:?}");
        }
    }
}

fn connect(name: &OsStr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let addr = match name.as_bytes() {
        // An abstract socket.
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    socket.connect_addr(&addr)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Shows whether the core thread makes progress.
pub struct Heart {
    core: Sender<CoreInput>,
    turns: Arc<AtomicU64>,
}

impl Heart {
    /// Of the core behind `core`, which counts its turns in `turns`.
    #[must_use]
    pub fn new(core: Sender<CoreInput>, turns: Arc<AtomicU64>) -> Self {
        Self { core, turns }
    }

    /// Gives an idle core something to do. A full queue is no error: a core that works through it
    /// makes progress.
    fn nudge(&self) {
        let _ = self.core.try_send(CoreInput::Beat);
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the watchdog for many intervals and returns whether anything was said.
    fn said(turning: bool) -> bool {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let notifier = Notifier {
            socket: Some(ours),
            watchdog: Some(Duration::from_millis(20)),
        };
        let (core, inputs) = crossbeam_channel::bounded(1);
        let turns = Arc::new(AtomicU64::new(0));
        let heart = Heart::new(core, Arc::clone(&turns));
        // A core that takes its inputs, or one that hangs.
        let thread = turning.then(|| {
            std::thread::spawn(move || {
                while inputs.recv().is_ok() {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut said = false;
        runtime.block_on(async {
            let mut rounds = 0;
            tokio::select! {
                () = notifier.feed_watchdog(&heart) => unreachable!("it feeds for ever"),
                () = async {
                    while !said && (turning || rounds < 20) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let mut message = [0; 64];
                        said = theirs.recv(&mut message).is_ok_and(|n| &message[..n] == b"WATCHDOG=1");
                        rounds += 1;
                    }
                } => {}
            }
        });
        drop(heart);
        if let Some(thread) = thread {
            thread.join().unwrap();
        }
        said
    }

    #[test]
    fn the_watchdog_is_fed_by_progress_and_by_nothing_else() {
        assert!(said(true));
        assert!(!said(false));
    }
}
