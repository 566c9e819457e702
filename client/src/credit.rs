//! How much a client keeps under way at one validator: what the validator takes and no more.
//!
//! A validator that has no room says *busy*. To offer again and again what it does not take costs
//! both sides the way there and back, and under overload that is taken from the transactions that
//! could be executed. So a client holds a *window* for each validator, in transactions that were
//! offered and have no final answer, and keeps the others to itself (congestion control as in RFC
//! 5681, with *busy* in the place of a lost segment):
//!
//! - Until the first refusal nothing is held back, and a window that is not used does not grow: a
//!   validator with room never notices that there is one.
//! - A refusal shrinks the window to [`SHRINK`] of what is under way without the refused: that is
//!   what the validator takes. Once a round: offers that were made before count no second time.
//! - What is executed makes room for as much, and a little more: a sixteenth and
//!   [`GROWTH_PER_ROUND`] in a round, double below half of the window that was lost. The constant
//!   part is what evens out the shares of several clients.
//! - Receipts are the clock. When everything was refused there is none; then nothing is offered
//!   before the time that the validator told.
//!
//! No clock and no socket: the caller says when. See [`Credit`].

use std::time::Duration;

/// The part of what is under way that is left after a refusal: seven eighths.
pub const SHRINK: (u64, u64) = (7, 8);
/// The window grows by so many transactions a round, beside a sixteenth of it.
pub const GROWTH_PER_ROUND: u64 = 8;
/// The part of the window that it grows by in a round: one in so many.
const GROWTH_PART: u64 = 16;
/// A window is never smaller, transactions.
pub const WINDOW_MIN: u64 = 32;

/// What may be offered to one validator. Times are since any moment that the caller chose.
#[derive(Debug, Clone, Default)]
pub struct Credit {
    /// Nothing until the first refusal.
    window: Option<u64>,
    /// Up to here the window doubles in a round.
    threshold: u64,
    /// Offered and without final answer.
    under_way: u64,
    /// All that was ever offered.
    offered: u64,
    /// An answer to a later offer begins a new round.
    round: u64,
    /// Executed since the window last grew by one.
    grown: u64,
    paused_until: Duration,
}

/// Names a point in the course of offers: kept with a submission until its answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer(u64);

impl Credit {
    /// Of a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Transactions that may be offered now.
    #[must_use]
    pub fn room(&self, now: Duration) -> usize {
        let Some(window) = self.window else {
            return usize::MAX;
        };
        if now < self.paused_until {
            return 0;
        }
        usize::try_from(window.saturating_sub(self.under_way)).unwrap_or(usize::MAX)
    }

    /// When there is room again without anything being heard; nothing while receipts are the clock,
    /// or there is room.
    #[must_use]
    pub fn resumes_at(&self, now: Duration) -> Option<Duration> {
        (now < self.paused_until).then_some(self.paused_until)
    }

    /// Whether the validator ever refused anything, so that there is a window.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.window.is_some()
    }

    /// Transactions without a final answer.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.under_way
    }

    /// So many are offered.
    pub fn offered(&mut self, count: usize) -> Offer {
        self.under_way += count as u64;
        self.offered += count as u64;
        Offer(self.offered)
    }

    /// So many were not offered after all: the connection did not take them.
    pub fn unsent(&mut self, count: usize) {
        self.leave(count);
    }

    /// So many of a submission were refused for lack of room, to come back after `retry_after`.
    pub fn refused(&mut self, now: Duration, offer: Offer, count: usize, retry_after: Duration) {
        self.leave(count);
        if self.under_way == 0 {
            self.paused_until = self.paused_until.max(now + retry_after);
        }
        if offer.0 <= self.round {
            return;
        }
        self.round = self.offered;
        let left = (self.under_way / SHRINK.1 * SHRINK.0).max(WINDOW_MIN);
        // With hardly anything left the way back is quick to the half.
        self.threshold = self.window.map_or(left, |lost| left.max(lost / 2));
        self.window = Some(left);
    }

    /// So many ended without being executed: refused for good, or given up.
    pub fn ended(&mut self, count: usize) {
        self.leave(count);
    }

    /// So many were executed.
    pub fn executed(&mut self, count: usize) {
        let was = self.under_way;
        self.leave(count);
        self.paused_until = Duration::ZERO;
        let Some(window) = &mut self.window else {
            return;
        };
        if was < *window / 2 {
            return; // it is not the window that limits
        }
        let count = count as u64;
        if *window < self.threshold {
            *window += count;
            return;
        }
        self.grown += count * (*window / GROWTH_PART + GROWTH_PER_ROUND);
        let more = self.grown / *window;
        self.grown -= more * *window;
        *window += more;
    }

    /// The connection is gone, and with it everything that was under way.
    pub fn lost(&mut self) {
        *self = Self::new();
    }

    /// # Panics
    ///
    /// If more leave than were offered: the caller counts wrong.
    fn leave(&mut self, count: usize) {
        let left = self.under_way.checked_sub(count as u64);
        self.under_way = left.expect("what leaves was offered");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn without_a_refusal_nothing_is_held_back() {
        let mut credit = Credit::new();
        for _ in 0..100 {
            let _ = credit.offered(100_000);
            assert_eq!(credit.room(MS), usize::MAX);
        }
        credit.executed(100_000);
        credit.ended(1);
        assert_eq!(credit.under_way(), 9_899_999);
    }

    #[test]
    fn a_refusal_leaves_what_the_validator_took_and_counts_once_a_round() {
        let mut credit = Credit::new();
        let first = credit.offered(8_000);
        let second = credit.offered(2_000);
        credit.refused(MS, second, 2_000, 40 * MS);
        assert_eq!((credit.window, credit.room(MS)), (Some(7_000), 0));
        credit.refused(MS, first, 4_000, 40 * MS);
        assert_eq!(credit.window, Some(7_000), "of the same round");
        assert_eq!(credit.room(MS), 3_000, "others are the clock, not the hint");
        let third = credit.offered(3_000);
        credit.refused(MS, third, 3_000, 40 * MS);
        assert_eq!(credit.window, Some(3_500), "the next round");
    }

    #[test]
    fn when_all_is_refused_the_hint_is_the_clock() {
        let mut credit = Credit::new();
        let offer = credit.offered(500);
        credit.refused(10 * MS, offer, 500, 40 * MS);
        assert_eq!(credit.room(49 * MS), 0);
        assert_eq!(credit.resumes_at(49 * MS), Some(50 * MS));
        assert_eq!(credit.room(50 * MS), WINDOW_MIN as usize);
        assert_eq!(credit.resumes_at(50 * MS), None);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut credit = Credit::new();
        let offer = credit.offered(10_000);
        credit.refused(MS, offer, 2_000, MS);
        credit.executed(8_000);
        let before = credit.window;
        for _ in 0..1_000 {
            let _ = credit.offered(10);
            credit.executed(10);
        }
        assert_eq!(credit.window, before);
    }

    #[test]
    fn a_lost_connection_begins_anew() {
        let mut credit = Credit::new();
        let offer = credit.offered(10);
        credit.refused(MS, offer, 10, 1_000 * MS);
        credit.lost();
        assert_eq!(
            (credit.room(MS), credit.under_way()),
            (usize::MAX, 0),
            "another validator may answer there now"
        );
    }

    /// A validator that holds `limit` and executes so many a millisecond, and clients that offer
    /// whatever they may, each answered a millisecond later. Executed of each, and all offers.
    fn overload(clients: usize, limit: &dyn Fn(u64) -> (u64, u64), ms: u64) -> (Vec<u64>, u64) {
        let mut credits = vec![Credit::new(); clients];
        let mut executed = vec![0; clients];
        let mut held: VecDeque<usize> = VecDeque::new();
        let mut offers = 0;
        for at in 0..ms {
            let now = MS * u32::try_from(at).expect("small");
            let (limit, rate) = limit(at);
            for _ in 0..rate {
                let Some(whose) = held.pop_front() else { break };
                credits[whose].executed(1);
                executed[whose] += 1;
            }
            let rooms: Vec<usize> = credits.iter().map(|c| c.room(now).min(500)).collect();
            offers += rooms.iter().sum::<usize>() as u64;
            let marks: Vec<_> = (credits.iter_mut().zip(&rooms))
                .map(|(credit, room)| credit.offered(*room))
                .collect();
            // In turn, as frames of several clients come.
            let mut refused = vec![0; clients];
            for turn in 0..500 {
                for whose in (0..clients).filter(|whose| rooms[*whose] > turn) {
                    if (held.len() as u64) < limit {
                        held.push_back(whose);
                    } else {
                        refused[whose] += 1;
                    }
                }
            }
            for whose in (0..clients).filter(|whose| refused[*whose] > 0) {
                credits[whose].refused(now, marks[whose], refused[whose], 200 * MS);
            }
        }
        (executed, offers)
    }

    #[test]
    fn an_overloaded_validator_is_kept_busy_with_few_offers_in_vain() {
        // Half a second of work is taken.
        let (executed, offers) = overload(1, &|_| (25_000, 50), 20_000);
        let could = 20_000 * 50;
        assert!(executed[0] > could * 98 / 100, "{executed:?}");
        assert!(offers < could * 115 / 100, "{offers}");
    }

    #[test]
    fn several_clients_get_their_shares() {
        let (executed, offers) = overload(4, &|_| (10_000, 50), 60_000);
        let all: u64 = executed.iter().sum();
        assert!(all > 60_000 * 50 * 98 / 100, "{executed:?}");
        assert!(offers < all * 125 / 100, "{offers} of {all}");
        for share in &executed {
            assert!(*share > all / 4 / 2, "{executed:?}");
        }
    }

    #[test]
    fn a_validator_that_stood_still_is_at_work_again_within_seconds() {
        let stalls = |at| match at {
            5_000..8_000 => (0, 0),
            _ => (25_000, 50),
        };
        let (executed, _) = overload(1, &stalls, 20_000);
        let could = 17_000 * 50;
        assert!(executed[0] > could * 85 / 100, "{executed:?}");
    }
}
