//! Forgeries of headers, votes, timeouts and certificates: each is refused for its own reason.

use falconet_crypto::falcon::Verifier;
use falconet_types::block::{Cut, HeaderKind, SignedHeader, genesis_id};
use falconet_types::certificate::{Qc, Tc};
use falconet_types::signing::{Invalid, Signed, verify};
use falconet_types::validators::ValidatorSet;
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};

use crate::chain::{Chain, key};

const BLOCK: Digest = Digest([5; 32]);

fn judge<T: Signed>(chain: &Chain, message: T) -> Result<(), Invalid> {
    verify(message, chain.id, &chain.set, &mut Verifier::new()).map(drop)
}

fn signature(voter: u16) -> Result<(), Invalid> {
    Err(Invalid::Signature(ValidatorIndex(voter)))
}

fn malformed(text: &'static str) -> Result<(), Invalid> {
    Err(Invalid::Malformed(text))
}

#[test]
fn quorums_are_more_than_two_thirds_of_the_weight() {
    let chain = Chain::new();
    assert_eq!(chain.set.total_weight(), 10);
    assert_eq!(chain.set.quorum_weight(), 7);
    assert_eq!(chain.set.weak_weight(), 4);
}

#[test]
fn every_validator_leads_once_in_each_run_of_rounds() {
    let chain = Chain::new();
    for start in [1, 2, 77, u64::MAX - 3] {
        let mut leaders: Vec<_> = (0..4).map(|i| chain.set.leader(Round(start + i))).collect();
        leaders.sort();
        leaders.dedup();
        assert_eq!(leaders.len(), 4);
    }
}

/// What the liveness of commits rests on, for all that may be faulty by their weight.
#[test]
fn each_cycle_has_correct_leaders_in_a_row_whoever_may_be_faulty() {
    for (weights, turn_rounds) in [
        (&[1][..], 1),
        (&[1; 4], 1),
        (&[1; 7], 1),
        (&[4, 2, 2, 2], 1),
        (&[3, 1], 2),
        (&[7, 1, 1, 1], 2),
        (&[4, 4, 4, 1, 1, 1, 1], 2),
        (&[90, 90, 90, 1, 9, 30, 1, 1], 2),
    ] {
        let n = weights.len();
        let members: Vec<_> = (0u8..)
            .zip(weights)
            .map(|(i, weight)| (key(i).public().clone(), *weight))
            .collect();
        let set = ValidatorSet::new(Digest([9; 32]), Epoch::ZERO, &members).unwrap();
        assert_eq!(set.turn_rounds(), turn_rounds, "{weights:?}");
        let cycle = set.cycle_rounds();
        for start in [1, 1 + 5 * cycle] {
            let leaders: Vec<_> = (start..=start + cycle)
                .map(|round| set.leader(Round(round)).at())
                .collect();
            for i in 0..n {
                let turns = leaders[..cycle as usize].iter().filter(|at| **at == i);
                assert_eq!(turns.count() as u64, turn_rounds, "one turn a cycle");
            }
            for faulty in 0..1u32 << n {
                let is_faulty = |i: usize| faulty >> i & 1 == 1;
                let weight: u64 = (0..n).filter(|i| is_faulty(*i)).map(|i| weights[i]).sum();
                if weight < set.weak_weight() && weight * 3 < set.total_weight() {
                    let mut pairs = leaders.windows(2);
                    let correct = pairs.any(|pair| !pair.iter().any(|i| is_faulty(*i)));
                    assert!(correct, "{weights:?}: {faulty:b}");
                }
            }
        }
    }
}

#[test]
fn forged_quorum_certificates() {
    let chain = Chain::new();
    let good = chain.qc(&[0, 1, 3], 5, 4, BLOCK);
    assert_eq!(judge(&chain, good.clone()), Ok(()));
    // Another subset of signers is as good.
    assert_eq!(judge(&chain, chain.qc(&[0, 1, 2, 3], 5, 4, BLOCK)), Ok(()));

    let forge = |change: &dyn Fn(&mut Qc)| {
        let mut qc = good.clone();
        change(&mut qc);
        judge(&chain, qc)
    };
    let mut duplicate = good.clone();
    duplicate.votes.insert(0, duplicate.votes[0].clone());
    assert_eq!(
        judge(&chain, duplicate),
        Err(Invalid::SignerOrder),
        "a signer twice"
    );
    assert_eq!(forge(&|qc| qc.votes.swap(0, 1)), Err(Invalid::SignerOrder));
    assert_eq!(
        forge(&|qc| qc.votes[2].0 = ValidatorIndex(4)),
        Err(Invalid::UnknownSigner(ValidatorIndex(4))),
    );
    assert_eq!(
        forge(&|qc| qc.epoch = Epoch(1)),
        Err(Invalid::Epoch {
            found: Epoch(1),
            expected: Epoch(0)
        }),
    );
    // Three of four validators, but the light ones.
    let light = chain.qc(&[1, 2, 3], 5, 4, BLOCK);
    assert_eq!(
        judge(&chain, light),
        Err(Invalid::Weight { have: 6, need: 7 })
    );
    assert_eq!(
        forge(&|qc| qc.votes.clear()),
        Err(Invalid::Weight { have: 0, need: 7 })
    );
    // Signatures over something else.
    assert_eq!(forge(&|qc| qc.block_id = Digest([6; 32])), signature(0));
    assert_eq!(forge(&|qc| qc.round = Round(6)), signature(0));
    assert_eq!(forge(&|qc| qc.parent_round = Round(3)), signature(0));
    let other_block = chain.qc(&[1], 5, 4, Digest([6; 32])).votes[0].1.clone();
    assert_eq!(
        forge(&|qc| qc.votes[1].1 = other_block.clone()),
        signature(1)
    );
    // One's signature under another's name.
    assert_eq!(forge(&|qc| qc.votes[2].0 = ValidatorIndex(2)), signature(2));
    // A timeout's signature is no vote, although the fields are the same.
    let as_timeout = {
        let hqc = Qc {
            round: Round(4),
            block_id: BLOCK,
            ..good.clone()
        };
        chain.timeout(1, 5, &hqc).signature
    };
    assert_eq!(
        forge(&|qc| qc.votes[1].1 = as_timeout.clone()),
        signature(1)
    );
    let not_above = malformed("the round is not above the parent's");
    assert_eq!(forge(&|qc| qc.parent_round = Round(5)), not_above);
    // A certificate of another chain with the same keys.
    let other = Chain {
        id: Digest([1; 32]),
        set: chain.set.clone(),
    };
    assert_eq!(judge(&other, good.clone()), signature(0));
}

#[test]
fn the_certificate_of_genesis_is_for_genesis_only() {
    let chain = Chain::new();
    let genesis = Qc::genesis(Epoch::ZERO, genesis_id(chain.id));
    assert_eq!(judge(&chain, genesis.clone()), Ok(()));
    let refused = malformed("a round-0 certificate that is not genesis");
    assert_eq!(
        judge(
            &chain,
            Qc {
                block_id: BLOCK,
                ..genesis.clone()
            }
        ),
        refused
    );
    let other_chain = Qc::genesis(Epoch::ZERO, genesis_id(Digest([1; 32])));
    assert_eq!(judge(&chain, other_chain), refused);
    let signed = Qc {
        votes: chain.qc(&[0, 1, 2], 5, 4, BLOCK).votes,
        ..genesis.clone()
    };
    assert_eq!(judge(&chain, signed), refused);
    let with_parent = Qc {
        parent_round: Round(1),
        ..genesis.clone()
    };
    assert_eq!(judge(&chain, with_parent), refused);
    let next_epoch = Qc {
        epoch: Epoch(1),
        ..genesis
    };
    assert!(matches!(
        judge(&chain, next_epoch),
        Err(Invalid::Epoch { .. })
    ));
}

#[test]
fn forged_timeout_certificates() {
    let chain = Chain::new();
    let low = chain.qc(&[0, 1, 2], 3, 2, Digest([3; 32]));
    let high = chain.qc(&[0, 1, 2], 5, 4, BLOCK);
    let genesis = Qc::genesis(Epoch::ZERO, genesis_id(chain.id));
    let good = chain.tc(8, &[(0, &high), (1, &low), (2, &high)], &high);
    assert_eq!(judge(&chain, good.clone()), Ok(()));
    assert_eq!(good.max_hqc_round(), Round(5));
    let from_genesis = [(0, &genesis), (1, &genesis), (2, &genesis)];
    assert_eq!(judge(&chain, chain.tc(1, &from_genesis, &genesis)), Ok(()));

    let forge = |change: &dyn Fn(&mut Tc)| {
        let mut tc = good.clone();
        change(&mut tc);
        judge(&chain, tc)
    };
    let mut duplicate = good.clone();
    duplicate.entries.insert(0, duplicate.entries[0].clone());
    assert_eq!(
        judge(&chain, duplicate),
        Err(Invalid::SignerOrder),
        "an author twice"
    );
    assert_eq!(
        forge(&|tc| tc.entries[2].author = ValidatorIndex(9)),
        Err(Invalid::UnknownSigner(ValidatorIndex(9))),
    );
    assert_eq!(
        forge(&|tc| tc.epoch = Epoch(2)),
        Err(Invalid::Epoch {
            found: Epoch(2),
            expected: Epoch(0)
        }),
    );
    let light = chain.tc(8, &[(1, &high), (2, &low), (3, &high)], &high);
    assert_eq!(
        judge(&chain, light),
        Err(Invalid::Weight { have: 6, need: 7 })
    );
    assert_eq!(
        forge(&|tc| tc.entries.clear()),
        Err(Invalid::Weight { have: 0, need: 7 })
    );
    // The highest QC must be the one that the timeouts name as highest: neither below ...
    let not_highest = malformed("the QC is not the highest that the timeouts name");
    assert_eq!(forge(&|tc| tc.max_qc = low.clone()), not_highest);
    // ... nor above ...
    let above = chain.qc(&[0, 1, 2], 7, 6, BLOCK);
    assert_eq!(forge(&|tc| tc.max_qc = above.clone()), not_highest);
    // ... nor for another block, nor itself forged.
    let other_block = chain.qc(&[0, 1, 2], 5, 4, Digest([6; 32]));
    assert_eq!(
        forge(&|tc| tc.max_qc = other_block.clone()),
        malformed("a timeout names another block for the highest QC"),
    );
    assert_eq!(
        forge(&|tc| drop(tc.max_qc.votes.remove(0))),
        Err(Invalid::Weight { have: 4, need: 7 }),
    );
    assert!(matches!(
        forge(&|tc| tc.max_qc.epoch = Epoch(1)),
        Err(Invalid::Epoch { .. })
    ));
    // A timeout whose QC is at or above the round.
    let too_high = malformed("a timeout names a QC that is not below the round");
    assert_eq!(
        judge(
            &chain,
            chain.tc(5, &[(0, &high), (1, &low), (2, &low)], &high)
        ),
        too_high
    );
    // A timeout of another round among those of round 8.
    let stray = chain.tc(9, &[(1, &low)], &low).entries[0].clone();
    assert_eq!(forge(&|tc| tc.entries[1] = stray.clone()), signature(1));
    assert_eq!(forge(&|tc| tc.round = Round(9)), signature(0));
    // Inflating or lowering what one author named.
    assert_eq!(
        forge(&|tc| tc.entries[1].hqc_round = Round(4)),
        signature(1)
    );
    assert_eq!(
        forge(&|tc| {
            tc.entries[1].hqc_round = high.round;
            tc.entries[1].hqc_id = high.block_id;
        }),
        signature(1),
    );
    let other = Chain {
        id: Digest([1; 32]),
        set: chain.set.clone(),
    };
    assert_eq!(judge(&other, good.clone()), signature(0));
}

#[test]
fn forged_votes_and_timeouts() {
    let chain = Chain::new();
    let vote = chain.vote(1, 5, 4, BLOCK);
    assert_eq!(judge(&chain, vote.clone()), Ok(()));
    let mut other_voter = vote.clone();
    other_voter.voter = ValidatorIndex(2);
    assert_eq!(judge(&chain, other_voter), signature(2));
    let mut stranger = vote.clone();
    stranger.voter = ValidatorIndex(4);
    assert_eq!(
        judge(&chain, stranger),
        Err(Invalid::UnknownSigner(ValidatorIndex(4)))
    );
    let mut backwards = vote.clone();
    backwards.parent_round = Round(5);
    assert_eq!(
        judge(&chain, backwards),
        malformed("the round is not above the parent's")
    );
    let mut epoch = vote;
    epoch.epoch = Epoch(1);
    assert!(matches!(judge(&chain, epoch), Err(Invalid::Epoch { .. })));

    let qc = chain.qc(&[0, 1, 2], 3, 2, BLOCK);
    let timeout = chain.timeout(1, 5, &qc);
    assert_eq!(judge(&chain, timeout.clone()), Ok(()));
    let mut inflated = timeout.clone();
    inflated.hqc_round = Round(4);
    assert_eq!(judge(&chain, inflated), signature(1));
    let mut not_below = timeout;
    not_below.hqc_round = Round(5);
    assert_eq!(
        judge(&chain, not_below),
        malformed("the highest QC is not below the round")
    );
}

#[test]
fn forged_headers() {
    let chain = Chain::new();
    let author = |round: u64| {
        let index = chain.set.leader(Round(round));
        key(u8::try_from(index.0).unwrap())
    };
    let first = chain.first();
    let good = SignedHeader::sign(first.clone(), chain.id, &author(1));
    assert_eq!(judge(&chain, good.clone()), Ok(()));
    assert_eq!(good.id(), first.id());

    let forge = |change: &dyn Fn(&mut falconet_types::block::Header)| {
        let mut header = first.clone();
        change(&mut header);
        let signer = author(header.round.0);
        judge(&chain, SignedHeader::sign(header, chain.id, &signer))
    };
    assert_eq!(
        forge(&|h| h.time_ms += 1),
        Ok(()),
        "a change that is signed again is fine"
    );
    let stranger = chain.set.leader(Round(2));
    assert_eq!(forge(&|h| h.author = stranger), signature(stranger.0),);
    assert_eq!(
        forge(&|h| h.author = ValidatorIndex(4)),
        Err(Invalid::UnknownSigner(ValidatorIndex(4))),
    );
    assert!(matches!(
        forge(&|h| h.epoch = Epoch(1)),
        Err(Invalid::Epoch { .. })
    ));
    let not_above = malformed("the round is not above the parent's");
    assert_eq!(forge(&|h| h.parent_round = Round(1)), not_above);
    assert_eq!(
        forge(&|h| {
            h.round = Round(3);
            h.author = chain.set.leader(Round(3));
        }),
        malformed("a normal header skips a round"),
    );
    assert_eq!(
        forge(&|h| {
            h.round = Round(3);
            h.author = chain.set.leader(Round(3));
            h.kind = HeaderKind::Recovery;
        }),
        Ok(()),
    );
    let executed = malformed("the executed height is not below the height");
    assert_eq!(forge(&|h| h.executed.height = Height(1)), executed);
    assert_eq!(forge(&|h| h.height = Height(0)), executed);
    assert_eq!(
        forge(&|h| h.cut = Cut::empty(5)),
        malformed("the cut does not have one entry a lane"),
    );
    let wrong_key = SignedHeader::sign(first.clone(), chain.id, &author(2));
    assert_eq!(judge(&chain, wrong_key), signature(first.author.0));
    let other_chain = SignedHeader::sign(first, Digest([1; 32]), &author(1));
    assert_eq!(judge(&chain, other_chain), signature(good.author.0));
}
