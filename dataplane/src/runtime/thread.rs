//! The network thread: one loop that moves datagrams, commands and events between the kernel, the
//! endpoint and the consumer.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    handler::{Delivered, Sink},
    link::{Inbox, Link},
};
use crate::{
    Event, Spin, Stats,
    endpoint::Endpoint,
    io::{Backend, Received, Taken},
    send::Command,
    stats::Count,
    steer,
};

/// Receptions in one turn before anything else gets its share.
const RECEPTIONS_PER_TURN: usize = 4;

/// Commands in one turn.
const COMMANDS_PER_TURN: usize = 1024;

/// Datagrams from other threads in one turn.
const FORWARDED_PER_TURN: usize = 256;

/// Rounds of transmission in one turn.
const TRANSMISSIONS_PER_TURN: usize = 4;

/// Wait while the event channel is full; its consumer gives no sign when it takes lifecycle
/// events.
const FULL_CHANNEL_WAIT: Duration = Duration::from_millis(1);

/// Wait after an I/O error, so that a broken socket does not burn a core.
const ERROR_WAIT: Duration = Duration::from_millis(10);

/// Shortest time that adaptive spinning is tried.
const SPIN_MIN: Duration = Duration::from_micros(1);

/// What the thread is given.
pub(super) struct Parts {
    /// Which of the threads it is.
    pub(super) index: usize,
    pub(super) endpoint: Endpoint,
    pub(super) inbox: Inbox,
    /// All threads, by index.
    pub(super) links: Vec<Link>,
    pub(super) sink: Sink,
    pub(super) stats: Arc<Stats>,
}

/// Everything that the thread owns.
pub(super) struct NetThread {
    parts: Parts,
    io: Box<dyn Backend>,
    spinner: Spinner,
    /// What other threads are to do and had no room for.
    elsewhere: VecDeque<(usize, Command)>,
    is_stopping: bool,
}

impl NetThread {
    pub(super) fn new(parts: Parts, io: Box<dyn Backend>, spin: Spin) -> Self {
        NetThread {
            parts,
            io,
            spinner: Spinner::new(spin),
            elsewhere: VecDeque::new(),
            is_stopping: false,
        }
    }

    /// Runs until shut down.
    pub(super) fn run(mut self) {
        loop {
            let now = Instant::now();
            let received = self.receive(now);
            let mut busy = received != Taken::Nothing;
            busy |= self.take_forwarded(now);
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
            if self.deliver(now) && self.command(now) {
                // A handler answered: its frames leave in this turn.
                self.parts.endpoint.advance(now);
            }
            self.hand_over();
            let sent = self.transmit(now);
            busy |= sent != Sent::Nothing;
            if self.is_stopping
                && !self.parts.endpoint.wants_transmit()
                && self.elsewhere.is_empty()
            {
                self.flush();
                return;
            }
            if busy {
                self.spinner.worked(now, &self.parts.stats);
            }
            // Sleeping hands over what was sent in the same system call; so when nothing more can
            // be expected at once, it is not handed over before.
            let may_wait = received != Taken::Some && sent != Sent::Some;
            if may_wait && (self.spinner.never() || !busy && !self.spinner.go_on(now)) {
                self.wait(now);
            } else if sent != Sent::Nothing {
                self.flush();
            }
        }
    }

    fn receive(&mut self, now: Instant) -> Taken {
        let Parts {
            index,
            endpoint,
            links,
            stats,
            ..
        } = &mut self.parts;
        let mut sink = |received: Received| {
            if links.len() > 1 {
                let owner = steer::owner(&received.data, links.len());
                if owner != *index {
                    stats.datagrams_forwarded.inc();
                    if !links[owner].forward(received) {
                        stats.datagrams_forward_dropped.inc();
                    }
                    return;
                }
            }
            hand_in(endpoint, now, received);
        };
        let mut outcome = Taken::Nothing;
        for _ in 0..RECEPTIONS_PER_TURN {
            match self.io.receive(&mut sink) {
                Ok(Taken::Nothing) if outcome == Taken::Nothing => break,
                Ok(Taken::Nothing | Taken::All) => {
                    outcome = Taken::All;
                    break;
                }
                Ok(Taken::Some) => outcome = Taken::Some,
                Err(error) => {
                    tracing::error!(%error, "receiving failed");
                    std::thread::sleep(ERROR_WAIT);
                    break;
                }
            }
        }
        outcome
    }

    /// Takes the datagrams that came to other threads.
    fn take_forwarded(&mut self, now: Instant) -> bool {
        let mut busy = false;
        // Looking costs less than trying to take, which a polling thread does all the time.
        if self.parts.inbox.datagrams.is_empty() {
            return false;
        }
        let forwarded = self.parts.inbox.datagrams.try_iter();
        for received in forwarded.take(FORWARDED_PER_TURN) {
            hand_in(&mut self.parts.endpoint, now, received);
            busy = true;
        }
        busy
    }

    fn command(&mut self, now: Instant) -> bool {
        let mut busy = false;
        if self.parts.inbox.commands.is_empty() {
            return false;
        }
        let commands = self.parts.inbox.commands.try_iter();
        for command in commands.take(COMMANDS_PER_TURN) {
            self.is_stopping |= matches!(command, Command::Shutdown);
            self.parts.endpoint.handle_command(now, command);
            busy = true;
        }
        busy
    }

    /// Delivers events; whether a handler may have answered.
    fn deliver(&mut self, now: Instant) -> bool {
        let endpoint = &mut self.parts.endpoint;
        match self
            .parts
            .sink
            .deliver(|| endpoint.poll_event().inspect(note_frame))
        {
            Delivered::All { answers } => answers,
            Delivered::Full => false,
            Delivered::Nobody => {
                // The endpoint has no purpose any more.
                if !std::mem::replace(&mut self.is_stopping, true) {
                    let others = (0..self.parts.links.len()).filter(|i| *i != self.parts.index);
                    self.elsewhere
                        .extend(others.map(|thread| (thread, Command::Shutdown)));
                    self.parts.endpoint.handle_command(now, Command::Shutdown);
                    self.parts.endpoint.advance(now);
                }
                false
            }
        }
    }

    /// Passes on what other threads are to do. What a full queue refuses is tried again in the
    /// next turn.
    fn hand_over(&mut self) {
        while let Some(item) = self.parts.endpoint.poll_elsewhere() {
            self.elsewhere.push_back(item);
        }
        for _ in 0..self.elsewhere.len() {
            let (thread, command) = self.elsewhere.pop_front().expect("counted");
            if let Err(command) = self.parts.links[thread].try_command(command) {
                self.elsewhere.push_back((thread, command));
            }
        }
    }

    /// Queues what is to be sent. Flushes when there is more than the queue holds. A thread that polls
    /// hands its first transmission over at once, so that an answer is on its way while the endpoint
    /// is asked for more; one that sleeps saves that system call.
    fn transmit(&mut self, now: Instant) -> Sent {
        let mut outcome = Sent::Nothing;
        self.parts.endpoint.set_segments_max(self.io.segments_max());
        let mut is_urgent = !self.spinner.never();
        for _ in 0..TRANSMISSIONS_PER_TURN {
            let mut any = false;
            while let Some(buf) = self.io.transmit_buffer() {
                let Some(transmit) = self.parts.endpoint.poll_transmit(now, buf) else {
                    return if any { Sent::All } else { outcome };
                };
                self.io.transmit(&transmit);
                any = true;
                if std::mem::take(&mut is_urgent) && !self.flush() {
                    return Sent::All;
                }
            }
            if !any {
                // The kernel takes no more: sleeping ends when it does.
                return outcome;
            }
            outcome = Sent::All;
            if !self.flush() {
                return outcome;
            }
        }
        Sent::Some
    }

    fn flush(&mut self) -> bool {
        match self.io.flush() {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "sending failed");
                std::thread::sleep(ERROR_WAIT);
                false
            }
        }
    }

    fn wait(&mut self, now: Instant) {
        let mut timeout = self
            .parts
            .endpoint
            .poll_timeout()
            .map(|at| at.saturating_duration_since(now));
        if timeout == Some(Duration::ZERO) {
            self.flush();
            return;
        }
        if self.parts.sink.is_full() || !self.elsewhere.is_empty() {
            let limit = timeout.map_or(FULL_CHANNEL_WAIT, |t| t.min(FULL_CHANNEL_WAIT));
            timeout = Some(limit);
        }
        let inbox = &self.parts.inbox;
        inbox.waker.going_to_sleep();
        // What was queued before the flag was set gave no wake-up: look once more.
        let is_idle = inbox.commands.is_empty()
            && inbox.datagrams.is_empty()
            && !self.parts.endpoint.may_resume();
        if is_idle {
            if let Err(error) = self.io.wait(inbox.waker.fd(), timeout) {
                tracing::error!(%error, "waiting failed");
                std::thread::sleep(ERROR_WAIT);
            }
            inbox.waker.woke();
        } else {
            inbox.waker.woke();
            self.flush();
        }
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
        falconet_probes::frame_received(conn.number(), u64::from(*kind), bytes, frame);
    }
}

fn hand_in(endpoint: &mut Endpoint, now: Instant, received: Received) {
    endpoint.handle_datagram(
        now,
        received.from,
        received.local_ip,
        received.ecn,
        received.data,
    );
}

/// What a turn's transmission did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// There was nothing to send.
    Nothing,
    /// Everything is queued or handed over.
    All,
    /// It is another's turn; more is to be sent.
    Some,
}

/// Decides between polling and sleeping. Polling pays when work comes within the longest time that it
/// may take; how long the thread was idle says so, whether it slept meanwhile or not.
struct Spinner {
    spin: Spin,
    limit: Duration,
    /// Since when there is no work; sleeping does not end it.
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

    /// Whether the thread sleeps at once.
    fn never(&self) -> bool {
        self.spin == Spin::Never
    }

    /// Work was found.
    fn worked(&mut self, now: Instant, stats: &Stats) {
        let (Some(since), Spin::Adaptive { max }) = (self.idle_since.take(), self.spin) else {
            return;
        };
        let idle = now.saturating_duration_since(since);
        if idle <= self.limit {
            stats.spins_useful.inc();
        } else if idle <= max {
            // Polling that long would have found it.
            self.limit = (2 * idle).min(max).max(SPIN_MIN);
        } else {
            self.limit = (self.limit / 2).max(SPIN_MIN);
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
        let (stats, mut now) = (Stats::default(), Instant::now());
        // Work that comes after `idle`; returns how long was polled for it.
        let mut wait = |spinner: &mut Spinner, idle_us: u64| {
            let since = now;
            let end = now + Duration::from_micros(idle_us);
            while now < end && spinner.go_on(now) {
                now += Duration::from_nanos(500);
            }
            let polled = now - since;
            now = now.max(end);
            spinner.worked(now, &stats);
            polled
        };
        for _ in 0..10 {
            wait(&mut spinner, 1000);
        }
        assert_eq!(spinner.limit, SPIN_MIN, "polling for 1 ms does not pay");
        let polled = wait(&mut spinner, 10);
        assert_eq!(polled, SPIN_MIN, "the first is slept for");
        for _ in 0..10 {
            let polled = wait(&mut spinner, 10);
            assert_eq!(
                polled,
                Duration::from_micros(10),
                "the others are polled for"
            );
        }
        assert_eq!(stats.snapshot().spins_useful, 10);
        wait(&mut spinner, 60);
        assert_eq!(spinner.limit, max);
        assert!(!Spinner::new(Spin::Never).go_on(now));
        assert!(Spinner::new(Spin::Always).go_on(now));
    }
}
