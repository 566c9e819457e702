//! Allowances and bans of validators, bans of clients' prefixes.

use falconet_types::message::{CertRef, GetBlocks};
use falconet_types::{Epoch, Height, KeyPair, PublicKey, Round, Scheme};

use super::*;

const LIAR: ValidatorIndex = ValidatorIndex(1);

fn key(i: u8) -> PublicKey {
    KeyPair::from_seed(Scheme::Falcon512, &[i; 32])
        .public()
        .clone()
}

fn set(epoch: u64, keys: &[u8]) -> ValidatorSet {
    let members: Vec<(PublicKey, u64)> = keys.iter().map(|i| (key(*i), 1)).collect();
    ValidatorSet::new(Digest::ZERO, Epoch(epoch), &members).expect("a set")
}

fn standing() -> Standing {
    Standing::new(&set(0, &[0, 1, 2, 3]), [home()], Counts::default())
}

fn home() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 5)
}

fn stranger() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 5)
}

fn consensus() -> PeerMessage {
    PeerMessage::CertRefs(vec![CertRef::Tc {
        epoch: Epoch::ZERO,
        round: Round(1),
    }])
}

fn data() -> PeerMessage {
    PeerMessage::GetBlocks(GetBlocks {
        from: Digest::ZERO,
        stop_height: Height::ZERO,
        max: 1,
    })
}

fn local(code: CloseCode) -> CloseReason {
    CloseReason::Local {
        code,
        reason: String::new(),
    }
}

#[test]
fn a_banned_validator_is_throttled_and_never_silenced() {
    let standing = standing();
    standing.fault(LIAR, Fault::Proven, 1);
    let stand = standing.of(LIAR);
    assert_eq!(stand.score, 0);
    assert!(stand.banned_until_ms.is_some());
    let passed = |message: PeerMessage| {
        (0..10_000)
            .filter(|_| standing.admits(LIAR, &message))
            .count() as u64
    };
    let consensus = passed(consensus());
    assert!(consensus >= CONSENSUS_RATE_BANNED.burst, "{consensus}");
    assert!(consensus < 10_000, "but not for a flood");
    let few = passed(data());
    assert!(few >= DATA_RATE_BANNED.burst, "{few}");
    assert!(few < CONSENSUS_RATE_BANNED.burst, "{few}");
    // Nobody else pays for it.
    let other = ValidatorIndex(2);
    assert_eq!(standing.of(other).score, 100);
    assert!(standing.admits(other, &data()));
}

#[test]
fn a_flood_costs_points_until_it_is_throttled() {
    let standing = standing();
    let message = data();
    while standing.of(LIAR).banned_until_ms.is_none() {
        let _ = standing.admits(LIAR, &message);
    }
    assert!(standing.counts.throttled.get() >= 1_000);
}

#[test]
fn a_peer_outside_the_set_has_an_allowance_of_its_own() {
    let standing = standing();
    let follower = ValidatorIndex(500);
    let passed = (0..10_000).filter(|_| standing.admits(follower, &data()));
    let passed = passed.count() as u64;
    assert!(
        (FOLLOWER_RATE.burst..10_000).contains(&passed),
        "{passed} passed"
    );
    assert!(standing.admits(ValidatorIndex(2), &data()));
    for i in 0..3_000 {
        let _ = standing.admits(ValidatorIndex(1_000 + i), &data());
    }
    assert!(standing.inner.lock().followers.len() <= FOLLOWERS_MAX);
}

#[test]
fn scores_follow_the_key_into_another_set() {
    let standing = standing();
    standing.fault(LIAR, Fault::Invalid, 5);
    standing.set_validators(&set(1, &[2, 1]));
    assert_eq!(standing.of(ValidatorIndex(0)).score, 100);
    assert!(standing.of(LIAR).score < 60);
    standing.set_validators(&set(2, &[1, 2]));
    assert!(standing.of(ValidatorIndex(0)).score < 60);
    // Who has left is nobody.
    assert_eq!(standing.of(ValidatorIndex(3)).score, 100);
    standing.fault(ValidatorIndex(3), Fault::Proven, 1);
}

#[test]
fn the_third_broken_rule_from_a_prefix_bans_it_unless_a_validator_lives_there() {
    let standing = standing();
    let fault = local(CloseCode::BadFrame);
    assert_eq!(standing.judge(stranger(), &fault), None);
    assert_eq!(standing.judge(stranger(), &fault), None);
    let ban = standing.judge(stranger(), &fault).expect("the third");
    assert_eq!(ban.prefix, prefix_of(stranger()));
    assert_eq!(ban.time_us, CLIENT_TERMS.ban_us_min);
    assert_eq!(standing.banned(), (0, 1));
    for _ in 0..10 {
        assert_eq!(standing.judge(home(), &fault), None);
    }
    assert_eq!(standing.banned(), (0, 1));
}

#[test]
fn only_broken_rules_are_faults_of_clients() {
    assert!(is_fault(&local(CloseCode::BadFrame)));
    assert!(is_fault(&local(CLOSE_BAD_MESSAGE)));
    for innocent in [
        CloseCode::Done,
        CloseCode::TooManyClients,
        CloseCode::FrameTimeout,
    ] {
        assert!(!is_fault(&local(innocent)));
    }
    assert!(!is_fault(&CloseReason::TimedOut));
    assert!(!is_fault(&CloseReason::Peer {
        code: CloseCode::BadFrame,
        reason: String::new(),
    }));
}
