//! How long small frames and messages wait for company, where the application permits it
//! (`IoOptions::flush_after`). Virtual time only: the endpoint's timers say when it is over.

use std::time::{Duration, Instant};

/// The wait of one queue.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// When the oldest entry came, at the latest.
    since: Option<Instant>,
    /// Until when the queue waits. `None` while it does not, also when QUIC is what it waits for.
    until: Option<Instant>,
}

impl Hold {
    /// An entry came.
    pub(super) fn pushed(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether the queue waits on: not without leave, not beyond `flush_after`, and not once a
    /// packet is full.
    pub(super) fn is_on(
        &mut self,
        now: Instant,
        flush_after: Option<Duration>,
        is_full: impl FnOnce() -> bool,
    ) -> bool {
        self.until = match (self.since, flush_after) {
            (Some(since), Some(wait)) => Some(since + wait).filter(|at| now < *at && !is_full()),
            _ => None,
        };
        self.until.is_some()
    }

    /// The queue does not wait for company now; what stays in it waits for QUIC.
    pub(super) fn release(&mut self) {
        self.until = None;
    }

    /// The queue is empty.
    pub(super) fn end(&mut self) {
        *self = Hold::default();
    }

    /// When to look again.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_oldest_entry_until_its_time_or_a_full_packet() {
        let (start, wait) = (Instant::now(), Duration::from_micros(100));
        let mut hold = Hold::default();
        assert!(!hold.is_on(start, Some(wait), || false), "nothing is there");
        hold.pushed(start);
        hold.pushed(start + wait / 2);
        assert!(!hold.is_on(start, None, || false), "at once by default");
        assert!(hold.is_on(start + wait / 2, Some(wait), || false));
        assert_eq!(hold.until(), Some(start + wait));
        assert!(!hold.is_on(start + wait / 2, Some(wait), || true), "full");
        assert_eq!(hold.until(), None);
        assert!(!hold.is_on(start + wait, Some(wait), || false), "over");
        hold.end();
        hold.pushed(start + wait);
        assert!(hold.is_on(start + wait, Some(wait), || false), "anew");
    }
}
