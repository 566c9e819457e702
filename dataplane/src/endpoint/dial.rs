//! Dialling targets: what to reach, and when to try again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::crypto::rustls::QuicClientConfig;

use crate::{ConnId, Limits, PeerTarget, TargetId};

/// Someone to stay connected to, or to connect to once.
pub(super) struct Target {
    pub(super) id: TargetId,
    pub(super) peer: PeerTarget,
    /// TLS with the peer's pin.
    pub(super) crypto: Arc<QuicClientConfig>,
    /// The attempt or connection under way.
    pub(super) conn: Option<ConnId>,
    /// When to dial, while no attempt is under way.
    pub(super) dial_at: Option<Instant>,
    /// When the present connection was established.
    pub(super) open_since: Option<Instant>,
    /// Not dialled for the time being, and the consumer knows: a connection that the peer dialled is
    /// kept instead.
    pub(super) is_put_off: bool,
    failures: u32,
}

impl Target {
    pub(super) fn new(
        id: TargetId,
        peer: PeerTarget,
        crypto: Arc<QuicClientConfig>,
        now: Instant,
    ) -> Self {
        Target {
            id,
            peer,
            crypto,
            conn: None,
            dial_at: Some(now),
            open_since: None,
            is_put_off: false,
            failures: 0,
        }
    }

    /// The connection or attempt ended; returns the delay before the next one, `None` when there
    /// will be none. `jitter` is uniform in 0..=255.
    pub(super) fn ended(&mut self, now: Instant, jitter: u8, limits: &Limits) -> Option<Duration> {
        self.conn = None;
        let lasted = self
            .open_since
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) >= limits.redial_delay_max);
        if !self.peer.persistent {
            return None;
        }
        // A connection that is closed as soon as it opens counts as a failure.
        self.failures = if lasted { 0 } else { self.failures + 1 };
        let delay = backoff(self.failures, jitter, limits);
        self.dial_at = Some(now + delay);
        Some(delay)
    }
}

/// Doubles from the smallest to the largest delay, then less up to a quarter by chance, so that
/// many nodes that lost one peer do not return in the same moment.
fn backoff(failures: u32, jitter: u8, limits: &Limits) -> Duration {
    let doubled = limits
        .redial_delay_min
        .saturating_mul(1 << failures.saturating_sub(1).min(20));
    let delay = doubled.min(limits.redial_delay_max);
    delay - delay / 4 * u32::from(jitter) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_with_jitter() {
        let limits = Limits::default();
        let full: Vec<u128> = (1..8)
            .map(|failures| backoff(failures, 0, &limits).as_millis())
            .collect();
        assert_eq!(full, [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff(7, 255, &limits).as_millis(), 750);
        assert_eq!(backoff(0, 0, &limits).as_millis(), 50);
        assert_eq!(backoff(u32::MAX, 0, &limits).as_millis(), 1000);
    }
}
