//! Scores, bans, allowances.

use super::*;

const S: u64 = 1_000_000;
const TERMS: Terms = Terms {
    ban_us_min: 10 * S,
    ban_us_max: 60 * S,
    entries_max: 4,
};

fn scores() -> Scores<u16> {
    Scores::new(TERMS)
}

#[test]
fn whoever_did_nothing_is_spotless() {
    assert_eq!(scores().score(5 * S, 1), SCORE_MAX);
    assert_eq!(scores().banned_until_us(5 * S, 1), None);
}

#[test]
fn faults_cost_points_that_come_back() {
    let mut scores = scores();
    assert_eq!(scores.fault(0, 1, Fault::Invalid, 1), None);
    assert_eq!(scores.score(0, 1), 90);
    assert_eq!(scores.score(10 * S, 1), 95);
    assert_eq!(scores.score(20 * S, 1), 100);
    assert_eq!(
        scores.score(0, 2),
        100,
        "the faults of one are not another's"
    );
}

#[test]
fn the_tenth_invalid_message_at_once_is_a_ban_and_it_expires() {
    let mut scores = scores();
    for _ in 0..9 {
        assert_eq!(scores.fault(S, 1, Fault::Invalid, 1), None);
    }
    assert_eq!(scores.fault(S, 1, Fault::Invalid, 1), Some(11 * S));
    assert_eq!((scores.score(2 * S, 1), scores.banned(2 * S)), (0, 1));
    assert_eq!(scores.banned_until_us(10 * S, 1), Some(11 * S));
    assert_eq!(scores.banned_until_us(11 * S, 1), None, "expired");
    assert_eq!((scores.score(11 * S, 1), scores.banned(11 * S)), (50, 0));
}

#[test]
fn a_ban_is_not_prolonged_by_what_happens_during_it() {
    let mut scores = scores();
    assert_eq!(scores.fault(0, 1, Fault::Proven, 1), Some(10 * S));
    assert_eq!(scores.fault(5 * S, 1, Fault::Proven, 1), None);
    assert_eq!(scores.banned_until_us(9 * S, 1), Some(10 * S));
}

#[test]
fn repeated_bans_double_up_to_the_longest_until_spotless_again() {
    let mut scores = scores();
    let mut now = 0;
    for ban_s in [10, 20, 40, 60, 60] {
        let until = scores.fault(now, 1, Fault::Proven, 1);
        assert_eq!(until, Some(now + ban_s * S));
        now += ban_s * S;
    }
    now += 100 * S;
    assert_eq!(scores.score(now, 1), 100);
    assert_eq!(scores.fault(now, 1, Fault::Proven, 1), Some(now + 10 * S));
}

#[test]
fn late_and_useless_messages_alone_never_ban() {
    let mut scores = scores();
    assert_eq!(scores.fault(0, 1, Fault::Late, 1_000_000), None);
    assert_eq!(scores.score(0, 1), 50);
    assert_eq!(scores.fault(0, 1, Fault::Useless, 1_000_000), None);
    assert_eq!(scores.score(0, 1), 25);
    assert_eq!(scores.fault(0, 1, Fault::Late, 1), None);
    assert_eq!(scores.score(0, 1), 25, "a lesser fault forgives nothing");
    // A broken rule on top of it does.
    assert!(scores.fault(0, 1, Fault::Invalid, 3).is_some());
}

#[test]
fn the_table_is_bounded_and_forgets_the_spotless_first() {
    let mut scores = scores();
    for who in 0..4 {
        scores.fault(0, who, Fault::Proven, 1);
    }
    assert_eq!(
        scores.fault(0, 9, Fault::Proven, 1),
        None,
        "no room: forgiven"
    );
    assert_eq!(scores.entries.len(), 4);
    // By then all are spotless again.
    assert!(scores.fault(1_000 * S, 9, Fault::Proven, 1).is_some());
    assert_eq!(scores.entries.len(), 1);
}

#[test]
fn a_clock_that_stands_still_or_is_far_ahead_breaks_nothing() {
    let mut scores = scores();
    scores.fault(10 * S, 1, Fault::Invalid, 1);
    assert_eq!(scores.score(0, 1), 90, "an earlier time gives nothing back");
    assert_eq!(scores.fault(u64::MAX, 1, Fault::Proven, 1), Some(u64::MAX));
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let rate = Rate {
        per_s: 100,
        burst: 10,
    };
    let mut bucket = Bucket::full(0);
    assert_eq!((0..20).filter(|_| bucket.take(0, 1, rate)).count(), 10);
    let per_second = (0..1_000).filter(|ms| bucket.take(ms * 1_000, 1, rate));
    assert_eq!(per_second.count(), 99);
}

#[test]
fn what_costs_more_than_a_bucket_passes_when_it_is_full() {
    let rate = Rate {
        per_s: 10,
        burst: 10,
    };
    let mut bucket = Bucket::full(0);
    assert!(bucket.take(0, 1_000, rate));
    assert!(!bucket.take(S / 2, 1_000, rate));
    assert!(bucket.take(S, 1_000, rate));
}

#[test]
fn a_smaller_bucket_owes_no_more_than_itself() {
    let wide = Rate {
        per_s: 1_000,
        burst: 1_000,
    };
    let narrow = Rate {
        per_s: 10,
        burst: 10,
    };
    let mut bucket = Bucket::full(0);
    assert!(bucket.take(0, 1_000, wide));
    assert!(!bucket.take(0, 1, narrow));
    assert!(bucket.take(S, 10, narrow));
}
