//! Proofs of epochs after the first: the chain of epoch proofs that leads to a transaction's
//! validators, and each way in which such a chain can be wrong (rule N5).

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_types::batch::{Batch, BatchHeader};
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::epoch::{
    EpochInfo, EpochProof, EpochProofError, EpochTrail, NextMembers, TRAIL_EPOCHS_KEPT,
};
use falconet_types::genesis::{ApplicationKind, Genesis};
use falconet_types::proof::{
    CommittedChain, Pieces, PortableProof, ProofError, TransactionProof, id_of,
};
use falconet_types::receipt::{Outcome, Receipt, StateRoots, fold_results};
use falconet_types::signing::Invalid;
use falconet_types::validators::{Member, members_digest, validators_root};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Round, Seq, ValidatorIndex};

use crate::chain::{genesis, key};

const HEIGHTS: u64 = 8;
const REGISTRY: Digest = Digest([3; 32]);
/// Who rules in each epoch: numbers of keys. Epochs 2 and 4 have the same validators.
const SETS: [&[u8]; 5] = [
    &[0, 1, 2, 3],
    &[1, 4, 5],
    &[4, 5, 6, 7],
    &[0, 4],
    &[4, 5, 6, 7],
];

/// A chain of four epochs and the beginning of a fifth, with a transaction in each.
struct World {
    genesis: Genesis,
    infos: Vec<EpochInfo>,
    ends: Vec<EpochProof>,
    proofs: Vec<TransactionProof>,
}

fn members(epoch: usize) -> Vec<Member> {
    let member = |n: &u8| Member {
        name: format!("w{n}"),
        key: key(*n).public().clone(),
        weight: 5,
        address: None,
    };
    SETS[epoch].iter().map(member).collect()
}

fn qc(genesis: &Genesis, info: &EpochInfo, header: &Header) -> Qc {
    let signers = SETS[usize::try_from(info.start.epoch.0).unwrap()];
    let votes = (0u16..).zip(signers).map(|(index, number)| {
        let vote = Vote::sign(
            header.epoch,
            header.round,
            header.id(),
            header.parent_round,
            ValidatorIndex(index),
            genesis.chain_id(),
            &key(*number),
        );
        (vote.voter, vote.signature)
    });
    Qc {
        epoch: header.epoch,
        round: header.round,
        block_id: header.id(),
        parent_round: header.parent_round,
        votes: votes.collect(),
    }
}

/// Headers of an epoch with consecutive rounds. The first carries the lane's tip; those from the
/// fourth on name the state of the first, those above the end that of the end.
fn headers(info: &EpochInfo, tip: LaneTip, first: Executed, last: Executed) -> Vec<Header> {
    let mut cut = Cut::empty(info.set.len());
    cut.0[0] = tip;
    let mut headers: Vec<Header> = Vec::new();
    for round in 1..=HEIGHTS + 5 {
        let (parent_id, parent_round, height, time_ms) = match headers.last() {
            Some(parent) => (parent.id(), parent.round, parent.height, parent.time_ms),
            None => (
                info.start.id,
                Round::ZERO,
                info.start.height,
                info.start.time_ms,
            ),
        };
        headers.push(Header {
            epoch: info.start.epoch,
            round: Round(round),
            kind: HeaderKind::Normal,
            parent_id,
            parent_round,
            height: height.next(),
            cut: cut.clone(),
            time_ms: time_ms + 10,
            executed: match round {
                0..4 => Executed {
                    height: info.start.height,
                    root: Digest([9; 32]),
                },
                4..12 => first,
                _ => last,
            },
            ended_by: Digest::ZERO,
            author: info.set.leader(Round(round)),
        });
    }
    headers
}

impl World {
    fn new() -> Self {
        let mut genesis = genesis(ApplicationKind::Opaque);
        genesis.params.epoch_heights = HEIGHTS;
        for validator in &mut genesis.validators {
            validator.weight = 5;
        }
        let mut infos = vec![EpochInfo::genesis(&genesis).unwrap()];
        let (mut ends, mut proofs) = (Vec::new(), Vec::new());
        for epoch in 0..SETS.len() {
            let info = infos[epoch].clone();
            let txs = [Bytes::from(format!("payment of epoch {epoch:\u{3c}200}"))];
            let batch = Batch::seal(
                Epoch(epoch as u64),
                ValidatorIndex(0),
                LaneTip::default(),
                &txs,
                genesis.chain_id(),
                &key(SETS[epoch][0]),
            );
            let height = info.start.height.next();
            let receipt = Receipt {
                tx_id: id_of(&txs[0], ApplicationKind::Opaque),
                height,
                lane: ValidatorIndex(0),
                seq: Seq(1),
                index: 0,
                outcome: Outcome::Executed,
            };
            let receipts = falconet_crypto::hash::merkle::root(&Receipt::leaves(&[receipt]));
            let before = Digest([11; 32]);
            let roots = StateRoots {
                receipts,
                accounts: Digest([21; 32]),
                validators: Digest([31; 32]),
                results: fold_results(before, height, receipts),
            };
            let end = info.start.end(&genesis.params).unwrap();
            let next = members((epoch + 1) % SETS.len());
            let digest = members_digest(Epoch(epoch as u64 + 1), &next);
            let end_roots = StateRoots {
                receipts: Digest::ZERO,
                accounts: Digest([1; 32]),
                validators: validators_root(digest, REGISTRY),
                results: Digest([2; 32]),
            };
            let named = |height, roots: &StateRoots| Executed {
                height,
                root: roots.commitment(height),
            };
            let chain = headers(
                &info,
                batch.tip(),
                named(height, &roots),
                named(end, &end_roots),
            );
            let none: &[BatchHeader] = &[];
            let pieces = Pieces {
                receipt,
                batch: &batch,
                later_batches: none,
                receipts: &[receipt],
                results_before: before,
                roots: &[roots],
                chain: CommittedChain {
                    headers: chain[..5].to_vec(),
                    qc: qc(&genesis, &info, &chain[4]),
                },
            };
            proofs.push(TransactionProof::build(ApplicationKind::Opaque, &pieces).unwrap());
            if epoch + 1 < SETS.len() {
                let proof = EpochProof {
                    headers: chain[10..13].to_vec(),
                    qc: qc(&genesis, &info, &chain[12]),
                    accounts: end_roots.accounts,
                    results: end_roots.results,
                    next: Some(NextMembers {
                        members: next,
                        registry: REGISTRY,
                    }),
                };
                let chain = genesis.chain_id();
                infos.push(proof.check_links(chain, &genesis.params, &info).unwrap());
                ends.push(proof);
            }
        }
        Self {
            genesis,
            infos,
            ends,
            proofs,
        }
    }

    fn portable(&self, epoch: usize) -> PortableProof {
        PortableProof {
            epochs: self.ends[..epoch].to_vec(),
            proof: self.proofs[epoch].clone(),
        }
    }

    fn judge(&self, epochs: Vec<EpochProof>, epoch: usize) -> ProofError {
        let proof = self.proofs[epoch].clone();
        let portable = PortableProof { epochs, proof };
        portable.verify(&self.genesis).expect_err("it is wrong")
    }
}

#[test]
fn a_transaction_of_any_epoch_is_proven_to_who_knows_genesis() {
    let world = World::new();
    for epoch in 0..SETS.len() {
        let portable = world.portable(epoch);
        let bytes = portable.to_bytes();
        let portable = PortableProof::from_bytes(&bytes).unwrap();
        let proven = portable.verify(&world.genesis).unwrap();
        assert_eq!(proven.height, world.infos[epoch].start.height.next());
        assert_eq!(proven.outcome, Outcome::Executed);
    }
    // Without epochs it is the bare proof.
    let bare = world.portable(0).to_bytes();
    assert_eq!(bare, world.proofs[0].to_bytes());
    // A trail goes on where it was.
    let mut trail = EpochTrail::new(&world.genesis).unwrap();
    for (epoch, proof) in world.proofs.iter().enumerate() {
        let unknown = ProofError::UnknownEpoch(Epoch(epoch as u64));
        if epoch > 0 {
            assert_eq!(proof.verify_on(&trail), Err(unknown));
            let next = trail.follow(&world.ends[epoch - 1], &mut Verifier::new());
            assert_eq!(next.unwrap().start, world.infos[epoch].start);
        }
        assert!(proof.verify_on(&trail).is_ok());
        // What was known stays known.
        assert!(world.proofs[0].verify_on(&trail).is_ok());
        const { assert!(TRAIL_EPOCHS_KEPT >= SETS.len()) };
    }
}

#[test]
fn a_chain_of_epoch_proofs_has_no_gap_no_other_order_and_no_repetition() {
    let world = World::new();
    let order = |found: u64, expected: u64| {
        ProofError::Epochs(EpochProofError::Epoch {
            found: Epoch(found),
            expected: Epoch(expected),
        })
    };
    let ends = &world.ends;
    // A gap, at each place.
    assert_eq!(world.judge(ends[1..].to_vec(), 4), order(1, 0));
    let gap = vec![ends[0].clone(), ends[2].clone(), ends[3].clone()];
    assert_eq!(world.judge(gap, 4), order(2, 1));
    let short = world.judge(ends[..3].to_vec(), 4);
    assert_eq!(short, ProofError::UnknownEpoch(Epoch(4)));
    // Another order.
    let swapped = vec![ends[1].clone(), ends[0].clone()];
    assert_eq!(world.judge(swapped, 2), order(1, 0));
    // One that was shown before is no new one.
    let twice = vec![ends[0].clone(), ends[0].clone(), ends[1].clone()];
    assert_eq!(world.judge(twice, 2), order(0, 1));
    // More than needed does no harm.
    let more = PortableProof {
        epochs: ends.clone(),
        proof: world.proofs[1].clone(),
    };
    assert!(more.verify(&world.genesis).is_ok());
}

/// Epochs 2 and 4 have the same validators with the same keys; what they sign in one is nothing in
/// the other.
#[test]
fn an_old_epochs_proof_is_no_newer_epochs() {
    let world = World::new();
    let renamed = |epoch: u64| {
        let mut old = world.ends[2].clone();
        old.qc.epoch = Epoch(epoch);
        for header in &mut old.headers {
            header.epoch = Epoch(epoch);
        }
        old
    };
    let mut trail = EpochTrail::new(&world.genesis).unwrap();
    let mut verifier = Verifier::new();
    for proof in &world.ends {
        trail.follow(proof, &mut verifier).unwrap();
    }
    assert_eq!(trail.newest().start.epoch, Epoch(4));
    // As it is, and with other numbers in it.
    let refused = trail.follow(&world.ends[2], &mut verifier);
    assert!(matches!(refused, Err(EpochProofError::Epoch { .. })));
    let refused = trail.follow(&renamed(4), &mut verifier);
    assert!(matches!(refused, Err(EpochProofError::Broken(_))));
    assert_eq!(trail.newest().start.epoch, Epoch(4), "nothing changed");
    // A transaction of epoch 2 under epoch 4's number: the block's id no longer fits.
    let mut moved = world.proofs[2].clone();
    moved.chain.qc.epoch = Epoch(4);
    assert!(moved.verify_on(&trail).is_err());
}

#[test]
fn only_an_epochs_own_validators_speak_for_it() {
    let world = World::new();
    // The end of epoch 1, certified by the validators of epoch 0 and of epoch 2.
    for strangers in [0, 2] {
        let mut forged = world.ends[1].clone();
        let mut info = world.infos[strangers].clone();
        info.start.epoch = Epoch(strangers as u64);
        let last = forged.headers.last().unwrap().clone();
        forged.qc = qc(&world.genesis, &info, &last);
        let epochs = vec![world.ends[0].clone(), forged];
        let error = world.judge(epochs, 2);
        let ProofError::Epochs(EpochProofError::Certificate(why)) = error else {
            panic!("{error}");
        };
        assert!(
            matches!(why, Invalid::Signature(_) | Invalid::UnknownSigner(_)),
            "{why}"
        );
    }
    // The same with the transaction's certificate.
    let mut forged = world.portable(3);
    let last = forged.proof.chain.headers.last().unwrap().clone();
    forged.proof.chain.qc = qc(&world.genesis, &world.infos[1], &last);
    assert!(matches!(
        forged.verify(&world.genesis),
        Err(ProofError::Certificate(_))
    ));
    // Other successors than those of the state.
    let mut heirs = world.ends[0].clone();
    heirs.next.as_mut().unwrap().members = members(2);
    let error = world.judge(vec![heirs], 1);
    assert!(matches!(
        error,
        ProofError::Epochs(EpochProofError::OtherState(_))
    ));
}

#[test]
fn headers_of_two_epochs_are_no_committed_chain() {
    let world = World::new();
    let mut forged = world.proofs[1].clone();
    let stranger = world.proofs[2].chain.headers[0].clone();
    forged.chain.headers.insert(0, stranger);
    let mut trail = EpochTrail::new(&world.genesis).unwrap();
    trail.follow(&world.ends[0], &mut Verifier::new()).unwrap();
    assert!(matches!(
        forged.verify_on(&trail),
        Err(ProofError::ChainBroken(_))
    ));
}

#[test]
fn cut_off_bytes_are_no_proof() {
    let world = World::new();
    let bytes = world.portable(2).to_bytes();
    for len in (0..bytes.len()).step_by(97) {
        assert!(PortableProof::from_bytes(&bytes[..len]).is_err(), "{len}");
    }
    // It claims epoch proofs and has none.
    let mut none = vec![2, 0, 0, 0, 0];
    none.extend(world.proofs[0].to_bytes());
    assert!(PortableProof::from_bytes(&none).is_err());
}
