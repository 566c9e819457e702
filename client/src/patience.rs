//! How long a validator may be silent before another is asked.
//!
//! A validator that dies says nothing, and the transport gives a connection up only after seconds.
//! But every submission is answered at the door at once, so silence shows much earlier: a validator
//! that has left a submission unanswered *and* has said nothing else at all for longer than its
//! silences take is passed over, until it is heard of again. How long that is follows the longest
//! silence of late that ended well: a busy machine that lets a validator stand still for half a
//! second does so again. (A smoothed mean, as for TCP's timer, forgets that within milliseconds,
//! since there are hundreds of answers a second.)
//!
//! Times are durations since a start of the caller's choice; nothing here reads a clock.

use std::collections::BTreeMap;
use std::time::Duration;

/// A validator is never passed over sooner.
pub const SILENCE_MIN: Duration = Duration::from_millis(500);
/// A validator that leaves submissions unanswered and says nothing else is passed over after this
/// long at the latest.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
/// After this long a time that is remembered counts half.
const HALF_LIFE: Duration = Duration::from_secs(15);
/// Patience with a validator that has never answered anything.
const SILENCE_FIRST: Duration = Duration::from_secs(1);
/// Submissions without an answer that are remembered; the oldest tells all that is needed.
const OPEN_MAX: usize = 4_096;
/// Between two looks the caller itself must not have slept longer than this, or what it has not
/// heard says nothing.
const OWN_STALL_MAX: Duration = Duration::from_millis(200);
/// How often to look while something is unanswered.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A connection that stands after so long a silence is alive at the other end: it is tried again.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// The longest time of late that something took; a memory that halves at intervals.
#[derive(Debug, Clone, Copy, Default)]
pub struct Longest(Option<(Duration, Duration)>);

impl Longest {
    /// Something took this long.
    pub fn add(&mut self, now: Duration, took: Duration) {
        if self.get(now).is_none_or(|longest| took >= longest) {
            self.0 = Some((now, took));
        }
    }

    /// The longest time of late; nothing before the first.
    #[must_use]
    pub fn get(&self, now: Duration) -> Option<Duration> {
        let (at, took) = self.0?;
        let halvings = now.saturating_sub(at).as_secs() / HALF_LIFE.as_secs();
        Some(took / (1 << halvings.min(16)))
    }
}

/// What is known of one validator's silence.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    silences: Longest,
    /// Submissions without an answer: tag and when.
    open: BTreeMap<u64, Duration>,
    heard: Duration,
    looked: Duration,
}

impl Patience {
    /// A submission was sent. Tags must ascend.
    pub fn submitted(&mut self, now: Duration, tag: u64) {
        if self.open.is_empty() {
            self.looked = now;
        }
        if self.open.len() < OPEN_MAX {
            self.open.insert(tag, now);
        }
    }

    /// A submission could not be sent after all.
    pub fn withdrawn(&mut self, tag: u64) {
        self.open.remove(&tag);
    }

    /// A submission was answered at the door. Earlier ones are not waited for any more. The tag is
    /// the validator's word: one that nothing is waiting for says only that it is alive.
    pub fn answered(&mut self, now: Duration, tag: u64) {
        self.heard(now);
        if self.open.contains_key(&tag) {
            self.open = self.open.split_off(&tag);
            self.open.remove(&tag);
        }
    }

    /// The validator said something.
    pub fn heard(&mut self, now: Duration) {
        if let Some(since) = self.silent_since() {
            self.silences.add(now, now.saturating_sub(since));
        }
        self.heard = now;
    }

    /// The connection ended: nothing more will be answered.
    pub fn lost(&mut self) {
        self.open.clear();
    }

    /// Whether anything is unanswered, so that looking makes sense.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    /// Since when something is unanswered and nothing was said.
    fn silent_since(&self) -> Option<Duration> {
        let oldest = self.open.values().next()?;
        Some(self.heard.max(*oldest))
    }

    /// How long the validator may be silent at present: twice as long as it was of late.
    #[must_use]
    pub fn bound(&self, now: Duration) -> Duration {
        let longest = self.silences.get(now);
        let bound = longest.map_or(SILENCE_FIRST, |longest| longest * 2);
        bound.clamp(SILENCE_MIN, SILENCE_MAX)
    }

    /// Whether the validator owes no answer, or was heard lately: the proof that it is another that
    /// is silent, and not the network or this side.
    #[must_use]
    pub fn is_well(&self, now: Duration) -> bool {
        self.open.is_empty() || now.saturating_sub(self.heard) < self.bound(now) / 2
    }

    /// Whether the validator is silent. To be asked at least every [`LOOK_INTERVAL`] while
    /// something is unanswered, after all that was received has been told: a caller that slept
    /// itself blames nobody.
    pub fn is_silent(&mut self, now: Duration) -> bool {
        let slept = now.saturating_sub(self.looked) > OWN_STALL_MAX;
        self.looked = now;
        if slept {
            self.heard = now;
        }
        let Some(since) = self.silent_since() else {
            return false;
        };
        let silent = now.saturating_sub(since);
        if silent > FORGET_AFTER {
            self.open.clear();
        }
        silent > self.bound(now) && !self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Looks every few milliseconds until the validator counts as silent.
    fn silent_after(patience: &mut Patience, from: Duration) -> Option<Duration> {
        let times = (0..2_000).map(|step| from + step * 5 * MS);
        let mut times = times.take_while(|at| *at < from + FORGET_AFTER);
        times.find(|at| patience.is_silent(*at)).map(|at| at - from)
    }

    /// So many submissions, each answered after `took`.
    fn answering(took: impl Fn(u32) -> Duration, count: u32) -> (Patience, Duration) {
        let (mut patience, mut now) = (Patience::default(), MS);
        for tag in 0..count {
            patience.submitted(now, tag.into());
            now += took(tag);
            patience.answered(now, tag.into());
        }
        (patience, now)
    }

    #[test]
    fn a_prompt_validator_that_dies_is_passed_over_in_half_a_second() {
        let (mut patience, now) = answering(|_| 2 * MS, 100);
        patience.submitted(now, 100);
        let after = silent_after(&mut patience, now).unwrap();
        assert!(
            after > SILENCE_MIN && after <= SILENCE_MIN + 5 * MS,
            "{after:?}"
        );
        patience.heard(now + after);
        assert!(!patience.is_silent(now + after), "it is back");
    }

    #[test]
    fn long_silences_earn_patience_but_not_for_ever_and_not_without_end() {
        // One answer in a hundred took 700 ms; the 99 after it make nobody forget it.
        let stall = |tag| if tag % 100 == 0 { 700 * MS } else { 2 * MS };
        let (mut patience, now) = answering(stall, 200);
        patience.submitted(now, 200);
        let after = silent_after(&mut patience.clone(), now).unwrap();
        assert!(after > 1_390 * MS && after < 1_410 * MS, "{after:?}");
        patience.answered(now, 200);
        let later = now + HALF_LIFE * 2;
        patience.submitted(later, 201);
        let after = silent_after(&mut patience, later).unwrap();
        assert!(after <= SILENCE_MIN + 5 * MS, "{after:?}: forgotten");
        let (mut patience, now) = answering(|_| Duration::from_secs(9), 10);
        patience.submitted(now, 10);
        let after = silent_after(&mut patience, now).unwrap();
        assert!(after <= SILENCE_MAX + 5 * MS, "{after:?}");
    }

    #[test]
    fn who_says_anything_or_was_asked_nothing_is_not_silent() {
        let (mut patience, now) = answering(|_| 2 * MS, 100);
        assert_eq!(silent_after(&mut patience, now), None);
        patience.submitted(now, 100);
        for step in 0..1_000 {
            let at = now + step * 10 * MS;
            patience.heard(at); // receipts of others
            assert!(!patience.is_silent(at));
        }
    }

    #[test]
    fn who_slept_itself_blames_nobody() {
        let (mut patience, now) = answering(|_| 2 * MS, 100);
        patience.submitted(now, 100);
        let woke = now + Duration::from_secs(3);
        assert!(!patience.is_silent(woke));
        assert!(silent_after(&mut patience, woke).unwrap() > SILENCE_MIN);
    }

    #[test]
    fn an_answer_covers_those_before_and_a_lost_connection_all() {
        let (mut patience, now) = answering(|_| 2 * MS, 10);
        patience.submitted(now, 10);
        patience.submitted(now, 11);
        patience.answered(now + MS, 11);
        assert_eq!(silent_after(&mut patience, now + MS), None);
        patience.submitted(now + MS, 12);
        patience.lost();
        assert!(!patience.is_waiting());
    }

    #[test]
    fn an_answer_to_what_nobody_asked_answers_nothing() {
        let (mut patience, now) = answering(|_| 2 * MS, 10);
        patience.submitted(now, 10);
        for tag in [9, 11, u64::MAX] {
            patience.answered(now, tag);
            assert!(patience.is_waiting(), "{tag}");
        }
    }

    #[test]
    fn after_a_long_silence_on_a_connection_that_stands_it_is_tried_again() {
        let (mut patience, now) = answering(|_| 2 * MS, 10);
        patience.submitted(now, 10);
        let mut at = now;
        while at <= now + FORGET_AFTER {
            at += LOOK_INTERVAL;
            patience.is_silent(at);
        }
        assert!(!patience.is_waiting());
    }
}
