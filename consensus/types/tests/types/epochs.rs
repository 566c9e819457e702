//! Epoch proofs: what a valid one proves, and that each forgery is refused for its own reason
//! (rule N5).

use falconet_crypto::falcon::Verifier;
use falconet_types::block::{Cut, Executed, Header};
use falconet_types::epoch::{EpochInfo, EpochProof, EpochProofError, EpochTrail, NextMembers};
use falconet_types::genesis::{ApplicationKind, Genesis};
use falconet_types::receipt::StateRoots;
use falconet_types::signing::Invalid;
use falconet_types::validators::{Member, members_digest, validators_root};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, Round};

use crate::chain::{Chain, genesis, key};

const HEIGHTS: u64 = 16;
const REGISTRY: Digest = Digest([3; 32]);

struct World {
    genesis: Genesis,
    chain: Chain,
    /// Heights 1 to 22; 19 and those above it name the state of height 16.
    headers: Vec<Header>,
    proof: EpochProof,
}

fn members() -> Vec<Member> {
    let member = |n: u8| Member {
        name: format!("w{n}"),
        key: key(n).public().clone(),
        weight: 5,
        address: None,
    };
    vec![member(1), member(4), member(5)]
}

fn world() -> World {
    let mut genesis = genesis(ApplicationKind::Ledger);
    genesis.params.epoch_heights = HEIGHTS;
    let chain = Chain {
        id: genesis.chain_id(),
        set: genesis.validator_set().unwrap(),
    };
    let roots = StateRoots {
        receipts: Digest::ZERO,
        accounts: Digest([1; 32]),
        validators: validators_root(members_digest(Epoch(1), &members()), REGISTRY),
        results: Digest([2; 32]),
    };
    let named = Executed {
        height: Height(HEIGHTS),
        root: roots.commitment(Height(HEIGHTS)),
    };
    let mut headers = vec![chain.first()];
    for round in 2..=22 {
        let parent = headers.last().unwrap();
        let executed = if round < 19 { parent.executed } else { named };
        headers.push(chain.header(parent, round, Cut::empty(4), executed));
    }
    let certified = &headers[19];
    let proof = EpochProof {
        headers: headers[17..20].to_vec(),
        qc: chain.qc(&[0, 1, 2], 20, 19, certified.id()),
        accounts: roots.accounts,
        results: roots.results,
        next: Some(NextMembers {
            members: members(),
            registry: REGISTRY,
        }),
    };
    World {
        genesis,
        chain,
        headers,
        proof,
    }
}

impl World {
    fn judge(&self, proof: &EpochProof) -> Result<EpochInfo, EpochProofError> {
        let first = EpochInfo::genesis(&self.genesis).unwrap();
        let params = &self.genesis.params;
        proof.verify(self.chain.id, params, &first, &mut Verifier::new())
    }

    /// The proof with headers of these heights.
    fn with_headers(&self, heights: std::ops::RangeInclusive<u64>) -> EpochProof {
        let headers: Vec<Header> = heights
            .map(|height| self.headers[height as usize - 1].clone())
            .collect();
        let last = headers.last().unwrap();
        EpochProof {
            qc: self
                .chain
                .qc(&[0, 1, 2], last.round.0, last.parent_round.0, last.id()),
            headers,
            ..self.proof.clone()
        }
    }
}

#[test]
fn n5_a_proof_leads_to_the_next_epoch() {
    let world = world();
    let next = world.judge(&world.proof).unwrap();
    assert_eq!(next.start.epoch, Epoch(1));
    assert_eq!(next.start.height, Height(19));
    assert_eq!(next.set.len(), 3);
    assert_eq!(next.set.genesis(), next.start.id);
    assert_eq!(next.members, members());
    let mut trail = EpochTrail::new(&world.genesis).unwrap();
    let followed = trail.follow(&world.proof, &mut Verifier::new()).unwrap();
    assert_eq!(followed.start, next.start);
    let bytes = world.proof.to_bytes();
    assert_eq!(EpochProof::from_bytes(&bytes).unwrap(), world.proof);
    // More certified headers above the commit do no harm.
    assert!(world.judge(&world.with_headers(18..=22)).is_ok());
}

#[test]
fn n5_only_the_first_block_that_names_the_state_is_the_last() {
    let world = world();
    let later = world.judge(&world.with_headers(19..=22)).err();
    assert_eq!(later, Some(EpochProofError::NotLast(Height(20))));
    let earlier = world.judge(&world.with_headers(17..=19)).err();
    assert_eq!(earlier, Some(EpochProofError::NotLast(Height(18))));
}

#[test]
fn n5_forgeries_are_refused() {
    let world = world();
    let forged = |change: &dyn Fn(&mut EpochProof)| {
        let mut proof = world.proof.clone();
        change(&mut proof);
        world.judge(&proof).expect_err("a forgery")
    };
    // Other validators, weights, registries than the state's.
    let other = EpochProofError::OtherState(Height(19));
    let member = |change: fn(&mut Member)| {
        forged(&|proof| change(&mut proof.next.as_mut().unwrap().members[0]))
    };
    assert_eq!(member(|m| m.weight = 6), other);
    assert_eq!(member(|m| m.key = key(6).public().clone()), other);
    assert_eq!(member(|m| m.name = "x".into()), other);
    assert_eq!(
        forged(&|p| p.next.as_mut().unwrap().registry = Digest::ZERO),
        other
    );
    assert_eq!(forged(&|p| p.next = None), other);
    assert_eq!(forged(&|p| p.accounts = Digest::ZERO), other);
    // A certificate of too few, of another block, of another epoch.
    let id = world.headers[19].id();
    let few = forged(&|p| p.qc = world.chain.qc(&[1, 2, 3], 20, 19, id));
    let weight = Invalid::Weight { have: 6, need: 7 };
    assert_eq!(few, EpochProofError::Certificate(weight));
    let elsewhere = forged(&|p| p.qc = world.chain.qc(&[0, 1, 2], 20, 19, Digest([7; 32])));
    assert!(matches!(elsewhere, EpochProofError::NotCommitted(_)));
    let wrong = forged(&|p| p.qc.epoch = Epoch(1));
    assert!(matches!(wrong, EpochProofError::Epoch { .. }));
    let signature = forged(&|p| p.qc.votes[0].1 = p.qc.votes[1].1.clone());
    assert!(matches!(
        signature,
        EpochProofError::Certificate(Invalid::Signature(_))
    ));
    // Headers that do not follow one another, or are too few.
    let broken = forged(&|p| p.headers[0].time_ms += 1);
    assert_eq!(broken, EpochProofError::Broken(Height(19)));
    assert_eq!(
        forged(&|p| drop(p.headers.pop())),
        EpochProofError::Headers(2)
    );
    // A chain of one epoch has no proofs.
    let mut one = world.genesis.clone();
    one.params.epoch_heights = 0;
    let first = EpochInfo::genesis(&world.genesis).unwrap();
    let refused = world.proof.check_links(world.chain.id, &one.params, &first);
    assert_eq!(refused.err(), Some(EpochProofError::NoEpochs));
}

/// Two blocks of consecutive rounds are needed above the last block, as for any commit (C2).
#[test]
fn n5_a_certified_child_that_skips_a_round_proves_nothing() {
    let world = world();
    let last = &world.headers[18];
    let child = world.chain.header(last, 21, Cut::empty(4), last.executed);
    let proof = EpochProof {
        headers: vec![world.headers[17].clone(), last.clone(), child.clone()],
        qc: world.chain.qc(&[0, 1, 2], 21, 19, child.id()),
        ..world.proof.clone()
    };
    let refused = world.judge(&proof).expect_err("no commit");
    assert!(matches!(refused, EpochProofError::NotCommitted(_)));
}

/// A certified block that names the last one is above it: whoever voted for it knows (rule N9).
#[test]
fn n9_a_block_that_names_the_last_one_proves_it_from_any_distance() {
    let world = world();
    let last = &world.headers[18];
    let far = |change: &dyn Fn(&mut Header)| {
        let mut far = world.headers[21].clone();
        (far.round, far.parent_round) = (Round(900), Round(899));
        (far.height, far.ended_by) = (Height(700), last.id());
        far.author = world.chain.set.leader(far.round);
        change(&mut far);
        let above = world.chain.header(&far, 905, Cut::empty(4), far.executed);
        let proof = EpochProof {
            qc: world.chain.qc(&[0, 1, 2], 905, far.round.0, above.id()),
            headers: vec![world.headers[17].clone(), last.clone(), far, above],
            ..world.proof.clone()
        };
        world.judge(&proof)
    };
    assert_eq!(far(&|_| {}).unwrap().start.height, last.height);
    let refused = |change: &dyn Fn(&mut Header)| far(change).err();
    let broken = Some(EpochProofError::Broken(Height(700)));
    assert_eq!(refused(&|h| h.ended_by = Digest::ZERO), broken);
    assert_eq!(refused(&|h| h.ended_by = world.headers[17].id()), broken);
    assert_eq!(refused(&|h| h.epoch = Epoch(1)), broken);
    let low = refused(&|h| h.height = last.height);
    assert_eq!(low, Some(EpochProofError::Broken(last.height)));
    let early = |h: &mut Header| (h.round, h.parent_round) = (last.round, world.headers[17].round);
    assert_eq!(refused(&early), broken);
    // It must commit something, as any (C2).
    let skips = refused(&|h| h.parent_round = Round(898));
    assert!(matches!(skips, Some(EpochProofError::NotCommitted(_))));
}
