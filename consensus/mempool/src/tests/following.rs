//! A node whose key is not in the set.

use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::Admission;
use falconet_types::{Seq, ValidatorIndex};

use super::fixtures::*;
use crate::{Effect, Input, Mempool, OwnLaneState, Recovered};

/// A node without a lane: no words of its own, yet it fetches what is committed and delivers it.
#[test]
fn a_follower_fetches_what_is_committed_and_says_nothing() {
    let mut config = config(0, &set(4), params());
    config.me = ValidatorIndex::NOBODY;
    let recovered = Recovered {
        cut: Cut::empty(4),
        ..Recovered::default()
    };
    let signer = Box::new(FakeSigner(v(0)));
    let core = Mempool::new(config, signer, recovered).expect("it starts");
    let mut node = Single {
        core,
        now_us: 1_000_000,
        cut: Cut::empty(4),
        height: 0,
    };
    for peer in 0..4 {
        let out = node.handle(Input::PeerUp(v(peer)));
        let says = |e: &Effect| matches!(e, Effect::Send { .. } | Effect::Broadcast(_));
        assert!(!out.iter().any(says), "no watermark");
    }
    assert!(matches!(node.admit(1, 100), Admission::Busy { .. }));
    let batches = chain(2, LaneTip::default(), 1, 3);
    let out = node.commit(&[(2, batches[2].tip())]);
    assert_eq!(requests(&out), vec![(2, 2, 1, 3)], "the owner is asked");
    for batch in batches.iter().rev() {
        let out = node.batch(2, batch);
        assert!(watermarks(&out).is_empty());
        if batch.header().seq == Seq(1) {
            assert_eq!(delivered(&out), vec![(1, hashes(&batches))]);
        }
    }
    let out = node.wait(10_000_000);
    assert!(watermarks(&out).is_empty() && sent_batches(&out, None).is_empty());
    assert_eq!(node.core.status().own_lane, OwnLaneState::Absent);
}

/// Behind by epochs: nobody of the set is there any more, but somebody who was not in it has the
/// chain. What is committed is asked of it, what is not committed is not.
#[test]
fn what_is_committed_is_fetched_from_outside_the_set() {
    let mut config = config(0, &set(4), params());
    config.me = ValidatorIndex::NOBODY;
    let recovered = Recovered {
        cut: Cut::empty(4),
        ..Recovered::default()
    };
    let core = Mempool::new(config, Box::new(FakeSigner(v(0))), recovered).expect("it starts");
    let mut node = Single {
        core,
        now_us: 1_000_000,
        cut: Cut::empty(4),
        height: 0,
    };
    let outsider = ValidatorIndex::of_follower(3);
    node.handle(Input::PeerUp(outsider));
    let batches = chain(2, LaneTip::default(), 1, 3);
    // Not asked for: not taken.
    let out = node.batch(outsider.at(), &batches[0]);
    assert!(out.is_empty(), "{out:?}");
    let out = node.commit(&[(2, batches[2].tip())]);
    assert_eq!(requests(&out), vec![(outsider.at(), 2, 1, 3)]);
    for batch in batches.iter().rev() {
        let out = node.batch(outsider.at(), batch);
        if batch.header().seq == Seq(1) {
            assert_eq!(delivered(&out), vec![(1, hashes(&batches))]);
        }
    }
    // A member that comes goes first.
    node.handle(Input::PeerUp(v(1)));
    let more = chain(3, LaneTip::default(), 1, 2);
    let out = node.commit(&[(3, more[1].tip())]);
    assert_eq!(requests(&out), vec![(1, 3, 1, 2)]);
    node.handle(Input::PeerDown(outsider));
}
