//! The network thread: one loop that moves datagrams, commands and events between the kernel, the
//! endpoint and the consumer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use falconet_probes::Queue;

use super::wake::Waker;
use crate::{
    Event, Spin, Stats,
    endpoint::Endpoint,
    io::{Backend, Received},
    send::Command,
    stats::Count,
};

/// Receptions in one turn before anything else gets its share.
const RECEPTIONS_PER_TURN: usize = 4;

/// Commands in one turn.
const COMMANDS_PER_TURN: usize = 1024;

/// Rounds of transmission in one turn.
const TRANSMISSIONS_PER_TURN: usize = 4;

/// Wait while the event channel is full; its consumer gives no sign when it takes lifecycle
/// events.
const FULL_CHANNEL_WAIT: Duration = Duration::from_millis(1);

/// Wait after an I/O error, so that a broken socket does not burn a core.
const ERROR_WAIT: Duration = Duration::from_millis(10);

/// Shortest time that adaptive spinning is tried.
const SPIN_MIN: Duration = Duration::from_micros(2);

/// What the thread is given.
pub(super) struct Parts {
    pub(super) endpoint: Endpoint,
    pub(super) io: Box<dyn Backend>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: Sender<Event>,
    pub(super) waker: Waker,
    pub(super) stats: Arc<Stats>,
    pub(super) notify: Option<Box<dyn Fn() + Send>>,
}

/// Everything that the thread owns.
pub(super) struct NetThread {
    parts: Parts,
    /// The event that found the channel full.
    held: Option<Event>,
    spinner: Spinner,
    is_stopping: bool,
}

impl NetThread {
    pub(super) fn new(parts: Parts, spin: Spin) -> Self {
        NetThread {
            parts,
            held: None,
            spinner: Spinner::new(spin),
            is_stopping: false,
        }
    }

    /// Runs until shut down.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            let mut busy = self.receive(now);
            busy |= self.command(now);
            if self
                .parts
                .endpoint
                .poll_timeout()
                .is_some_and(|at| at <= now)
            {
                self.parts.endpoint.handle_timeout(now);
            }
            self.parts.endpoint.advance(now);
            self.deliver(now);
            busy |= self.transmit(now);
            if self.is_stopping && !self.parts.endpoint.wants_transmit() {
                return;
            }
            if busy {
                self.spinner.worked(now, &self.parts.stats);
            } else if !self.spinner.go_on(now) {
                self.wait(now);
            }
        }
    }

    fn receive(&mut self, now: Instant) -> bool {
        let endpoint = &mut self.parts.endpoint;
        let mut sink = |received: Received| {
            endpoint.handle_datagram(
                now,
                received.from,
                received.local_ip,
                received.ecn,
                received.data,
            );
        };
        let mut busy = false;
        for _ in 0..RECEPTIONS_PER_TURN {
            match self.parts.io.receive(&mut sink) {
                Ok(true) => busy = true,
                Ok(false) => break,
                Err(error) => {
                    tracing::error!(%error, "receiving failed");
                    std::thread::sleep(ERROR_WAIT);
                    break;
                }
            }
        }
        busy
    }

    fn command(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for command in self.parts.commands.try_iter().take(COMMANDS_PER_TURN) {
            self.is_stopping |= matches!(command, Command::Shutdown);
            self.parts.endpoint.handle_command(now, command);
            busy = true;
        }
        busy
    }

    fn deliver(&mut self, now: Instant) {
        let mut any = false;
        while let Some(event) = self
            .held
            .take()
            .or_else(|| self.parts.endpoint.poll_event().inspect(note_frame))
        {
            match self.parts.events.try_send(event) {
                Ok(()) => any = true,
                Err(TrySendError::Full(event)) => {
                    let limit = self.parts.events.capacity().unwrap_or(0) as u64;
                    falconet_probes::queue_full(Queue::Events as u64, limit);
                    self.held = Some(event);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => {
                    // Nobody listens any more: the endpoint has no purpose.
                    if !std::mem::replace(&mut self.is_stopping, true) {
                        self.parts.endpoint.handle_command(now, Command::Shutdown);
                        self.parts.endpoint.advance(now);
                    }
                }
            }
        }
        if any && let Some(notify) = &self.parts.notify {
            notify();
        }
    }

    fn transmit(&mut self, now: Instant) -> bool {
        let mut busy = false;
        self.parts
            .endpoint
            .set_segments_max(self.parts.io.segments_max());
        for _ in 0..TRANSMISSIONS_PER_TURN {
            let mut any = false;
            while let Some(buf) = self.parts.io.transmit_buffer() {
                let Some(transmit) = self.parts.endpoint.poll_transmit(now, buf) else {
                    break;
                };
                self.parts.io.transmit(&transmit);
                any = true;
            }
            if !any {
                break;
            }
            busy = true;
            if let Err(error) = self.parts.io.flush() {
                tracing::error!(%error, "sending failed");
                std::thread::sleep(ERROR_WAIT);
                break;
            }
        }
        busy
    }

    fn wait(&mut self, now: Instant) {
        let mut timeout = self
            .parts
            .endpoint
            .poll_timeout()
            .map(|at| at.saturating_duration_since(now));
        if timeout == Some(Duration::ZERO) {
            return;
        }
        if self.held.is_some() {
            let limit = timeout.map_or(FULL_CHANNEL_WAIT, |t| t.min(FULL_CHANNEL_WAIT));
            timeout = Some(limit);
        }
        self.parts.waker.going_to_sleep();
        // What was queued before the flag was set gave no wake-up: look once more.
        let is_idle = self.parts.commands.is_empty() && !self.parts.endpoint.may_resume();
        if is_idle && let Err(error) = self.parts.io.wait(self.parts.waker.fd(), timeout) {
            tracing::error!(%error, "waiting failed");
            std::thread::sleep(ERROR_WAIT);
        }
        self.parts.waker.woke();
    }
}

/// Fires the probe for a frame that arrived.
fn note_frame(event: &Event) {
    if let Event::Frame {
        conn,
        kind,
        payload,
        ..
    } = event
    {
        let (bytes, frame) = (payload.len() as u64, payload.as_ptr() as u64);
        falconet_probes::frame_received(conn.0, u64::from(*kind), bytes, frame);
    }
}

/// Decides between polling and sleeping. Polling is worth it while work keeps coming within the
/// time that a wake-up costs.
struct Spinner {
    spin: Spin,
    limit: Duration,
    idle_since: Option<Instant>,
}

impl Spinner {
    fn new(spin: Spin) -> Self {
        Spinner {
            spin,
            limit: match spin {
                Spin::Adaptive { max } => max,
                Spin::Never | Spin::Always => Duration::ZERO,
            },
            idle_since: None,
        }
    }

    /// Work was found.
    fn worked(&mut self, _now: Instant, stats: &Stats) {
        if self.idle_since.take().is_some()
            && let Spin::Adaptive { max } = self.spin
        {
            stats.spins_useful.inc();
            self.limit = (self.limit * 2).clamp(SPIN_MIN, max.max(SPIN_MIN));
        }
    }

    /// No work was found; whether to look again at once.
    fn go_on(&mut self, now: Instant) -> bool {
        match self.spin {
            Spin::Never => false,
            Spin::Always => {
                std::hint::spin_loop();
                true
            }
            Spin::Adaptive { .. } => {
                let since = *self.idle_since.get_or_insert(now);
                if now.saturating_duration_since(since) < self.limit {
                    std::hint::spin_loop();
                    return true;
                }
                // In vain: less next time. Work after the sleep is no success of spinning.
                self.limit = (self.limit / 2).max(SPIN_MIN);
                self.idle_since = None;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_shortens_when_in_vain_and_lengthens_when_it_pays() {
        let max = Duration::from_micros(64);
        let mut spinner = Spinner::new(Spin::Adaptive { max });
        let (stats, start) = (Stats::default(), Instant::now());
        let mut now = start;
        for _ in 0..10 {
            while spinner.go_on(now) {
                now += Duration::from_micros(1);
            }
        }
        assert_eq!(spinner.limit, SPIN_MIN);
        for _ in 0..10 {
            assert!(spinner.go_on(now));
            spinner.worked(now, &stats);
        }
        assert_eq!(spinner.limit, max);
        assert_eq!(stats.snapshot().spins_useful, 10);
        assert!(!Spinner::new(Spin::Never).go_on(now));
        assert!(Spinner::new(Spin::Always).go_on(now));
    }
}
