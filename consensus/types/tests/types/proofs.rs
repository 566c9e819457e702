//! A hand-made chain of six blocks, a proof about one of its transactions, and every way to spoil
//! it that we could think of.

use bytes::Bytes;
use falconet_types::batch::{Batch, BatchHeader};
use falconet_types::block::{Cut, Executed, Header, LaneTip};
use falconet_types::genesis::{ApplicationKind, Genesis};
use falconet_types::proof::{
    CommittedChain, Pieces, ProofError, ProvenReceipt, TransactionProof, id_of,
};
use falconet_types::receipt::{Outcome, Receipt, StateRoots, fold_results};
use falconet_types::signing::Invalid;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, Height, Round, Seq, ValidatorIndex};

use crate::chain::{Chain, genesis, key};
use crate::generate::Gen;

const LANE: ValidatorIndex = ValidatorIndex(2);

/// Height 2 executes the lane's batches 3, 4 and 5; height 5 names the commitment of height 3;
/// height 6 is certified, in the round after height 5, and so commits height 5.
struct Story {
    genesis: Genesis,
    chain: Chain,
    batches: Vec<Batch>,
    receipts: Vec<Receipt>,
    roots: Vec<StateRoots>,
    results_before: Digest,
    headers: Vec<Header>,
}

impl Story {
    fn new(application: ApplicationKind) -> Self {
        let genesis = genesis(application);
        let chain = Chain {
            id: genesis.chain_id(),
            set: genesis.validator_set().unwrap(),
        };
        let mut g = Gen::new(3);
        let mut tip = LaneTip {
            seq: Seq(2),
            hash: Digest([2; 32]),
        };
        let batches: Vec<Batch> = [1, 3, 1]
            .map(|count| {
                let txs: Vec<Bytes> = (0..count).map(|_| g.bytes(100).into()).collect();
                let batch = Batch::seal(Epoch::ZERO, LANE, tip, &txs, chain.id, &key(2));
                tip = batch.tip();
                batch
            })
            .into();
        let receipts: Vec<Receipt> = batches
            .iter()
            .flat_map(|batch| {
                (0u32..)
                    .zip(batch.transactions())
                    .map(|(index, tx)| Receipt {
                        tx_id: id_of(&tx, application),
                        height: Height(2),
                        lane: LANE,
                        seq: batch.header().seq,
                        index,
                        outcome: Outcome::ALL[index as usize],
                    })
            })
            .collect();
        let results_before = Digest([11; 32]);
        let receipts_root =
            |list: &[Receipt]| falconet_crypto::hash::merkle::root(&Receipt::leaves(list));
        let mut results = results_before;
        let mut roots_of = |height, list: &[Receipt], accounts| {
            let receipts = receipts_root(list);
            results = fold_results(results, Height(height), receipts);
            StateRoots {
                receipts,
                accounts,
                validators: Digest([31; 32]),
                results,
            }
        };
        let roots = vec![
            roots_of(2, &receipts, Digest([21; 32])),
            roots_of(3, &[], Digest([22; 32])),
        ];
        let named = |height: u64| Executed {
            height: Height(height),
            root: match height {
                3 => roots[1].commitment(Height(3)),
                _ => Digest([height as u8; 32]),
            },
        };
        let mut cut = Cut::empty(4);
        cut.0[LANE.at()] = tip;
        let mut headers = vec![chain.first()];
        // Rounds 3, 4, 6, 8, 9: commits need consecutive rounds at the end only.
        for (round, executed) in [(3, 0), (4, 0), (6, 1), (8, 3), (9, 3)] {
            let parent = headers.last().unwrap();
            headers.push(chain.header(parent, round, cut.clone(), named(executed)));
        }
        Self {
            genesis,
            chain,
            batches,
            receipts,
            roots,
            results_before,
            headers,
        }
    }

    fn qc(&self, voters: &[u8], header: &Header) -> falconet_types::certificate::Qc {
        self.chain
            .qc(voters, header.round.0, header.parent_round.0, header.id())
    }

    /// The proof about transaction `index` of the batch at `seq`.
    fn proof(&self, seq: u64, index: u32) -> Result<TransactionProof, ProofError> {
        let at = self
            .batches
            .iter()
            .position(|b| b.header().seq == Seq(seq))
            .unwrap();
        let later: Vec<BatchHeader> = self.batches[at + 1..]
            .iter()
            .map(|b| b.header().clone())
            .collect();
        let is_it = |r: &&Receipt| r.seq == Seq(seq) && r.index == index;
        TransactionProof::build(
            self.genesis.application,
            &Pieces {
                receipt: *self.receipts.iter().find(is_it).unwrap(),
                batch: &self.batches[at],
                later_batches: &later,
                receipts: &self.receipts,
                results_before: self.results_before,
                roots: &self.roots,
                chain: CommittedChain {
                    headers: self.headers[1..].to_vec(),
                    qc: self.qc(&[0, 1, 2], &self.headers[5]),
                },
            },
        )
    }
}

#[test]
fn every_receipt_of_the_block_is_provable() {
    for application in [ApplicationKind::Ledger, ApplicationKind::Opaque] {
        let story = Story::new(application);
        for receipt in &story.receipts {
            let proof = story.proof(receipt.seq.0, receipt.index).unwrap();
            let proof = TransactionProof::from_bytes(&proof.to_bytes()).unwrap();
            let Receipt {
                tx_id,
                height,
                lane,
                seq,
                index,
                outcome,
            } = *receipt;
            let expected = ProvenReceipt {
                tx_id,
                height,
                time_ms: story.headers[1].time_ms,
                lane,
                seq,
                index,
                outcome,
            };
            assert_eq!(proof.verify(&story.genesis), Ok(expected));
        }
    }
}

/// Every byte of a proof counts, except where the receipt stands in its tree: those two numbers
/// say which way to hash, no claim depends on them, and some pairs say the same.
#[test]
fn no_altered_byte_changes_what_is_proven() {
    let story = Story::new(ApplicationKind::Ledger);
    let proof = story.proof(4, 1).unwrap();
    let proven = proof.verify(&story.genesis).unwrap();
    let bytes = proof.to_bytes();
    let free = {
        let mut moved = proof.clone();
        moved.receipt_path.index ^= u32::MAX;
        moved.receipt_path.count ^= u32::MAX;
        let moved = moved.to_bytes();
        (0..bytes.len())
            .filter(|&at| bytes[at] != moved[at])
            .collect::<Vec<_>>()
    };
    assert_eq!(free.len(), 8);
    let mut altered = bytes.clone();
    for at in 0..bytes.len() {
        altered[at] ^= 1 << (at % 8);
        if let Ok(other) = TransactionProof::from_bytes(&altered) {
            match other.verify(&story.genesis) {
                Ok(found) => {
                    assert!(free.contains(&at), "byte {at} does not matter");
                    assert_eq!(found, proven);
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        altered[at] = bytes[at];
    }
}

#[test]
fn another_chain_does_not_accept_the_proof() {
    let story = Story::new(ApplicationKind::Ledger);
    let proof = story.proof(4, 1).unwrap();
    let mut other = story.genesis.clone();
    other.time_ms += 1;
    // The leaders' order and every signed digest differ; the first signature speaks.
    let refused = Err(ProofError::Certificate(Invalid::Signature(ValidatorIndex(
        0,
    ))));
    assert_eq!(proof.verify(&other), refused);
    let mut fewer = story.genesis.clone();
    fewer.validators.pop();
    assert!(matches!(
        proof.verify(&fewer),
        Err(ProofError::Certificate(_))
    ));
}

#[test]
fn spoiled_proofs_are_refused_for_their_own_reason() {
    let story = Story::new(ApplicationKind::Ledger);
    let good = story.proof(4, 1).unwrap();
    let spoil = |change: &dyn Fn(&mut TransactionProof)| {
        let mut proof = good.clone();
        change(&mut proof);
        proof.verify(&story.genesis).expect_err("spoiled")
    };
    let other_tx = story.proof(4, 2).unwrap();

    // Position.
    assert!(matches!(
        spoil(&|p| p.tx = other_tx.tx.clone()),
        ProofError::OtherTransaction { .. }
    ));
    assert_eq!(
        spoil(&|p| (p.tx, p.receipt.tx_id) = (other_tx.tx.clone(), other_tx.receipt.tx_id)),
        ProofError::NotInBatch,
    );
    assert_eq!(spoil(&|p| p.receipt.index = 0), ProofError::NotInBatch);
    assert_eq!(spoil(&|p| p.receipt.index = 3), ProofError::NotInBatch);
    assert_eq!(
        spoil(&|p| p.receipt.lane.0 = 1),
        ProofError::OtherPosition("lane")
    );
    let seq = ProofError::OtherPosition("sequence number");
    assert_eq!(spoil(&|p| p.receipt.seq = Seq(3)), seq);
    assert_eq!(
        spoil(&|p| p.receipt.height = Height(3)),
        ProofError::OtherPosition("height")
    );
    assert_eq!(spoil(&|p| p.batches.truncate(1)), ProofError::NotInCut);
    assert_eq!(spoil(&|p| p.batches[1].tx_count += 1), ProofError::NotInCut);
    assert_eq!(
        spoil(&|p| p.batches[1].seq = Seq(6)),
        ProofError::LaneBroken(Seq(6))
    );
    assert_eq!(
        spoil(&|p| p.batches[1].lane.0 = 1),
        ProofError::LaneBroken(Seq(5))
    );
    assert_eq!(
        spoil(&|p| p.batches[0].payload_len -= 1),
        ProofError::LaneBroken(Seq(5))
    );
    let none = ProofError::Count {
        what: "batches",
        len: 0,
        min: 1,
        max: 4096,
    };
    assert_eq!(spoil(&|p| p.batches.clear()), none);

    // Outcome: a better one is not under the receipts root.
    assert_eq!(good.receipt.outcome, Outcome::Malformed);
    assert_eq!(
        spoil(&|p| p.receipt.outcome = Outcome::Executed),
        ProofError::NotInReceipts
    );
    assert_eq!(
        spoil(&|p| p.receipts_roots[0] = Digest::ZERO),
        ProofError::NotInReceipts
    );
    let state = |height| ProofError::NotInState(Height(height));
    assert_eq!(spoil(&|p| p.receipts_roots[1] = Digest::ZERO), state(3));
    assert_eq!(spoil(&|p| p.results_before = Digest::ZERO), state(3));
    assert_eq!(spoil(&|p| p.accounts_root = Digest::ZERO), state(3));
    assert_eq!(spoil(&|p| p.receipts_roots.truncate(1)), state(2));
    assert_eq!(spoil(&|p| p.receipts_roots.push(Digest::ZERO)), state(4));
    let none = ProofError::Count {
        what: "receipts roots",
        len: 0,
        min: 1,
        max: 512,
    };
    assert_eq!(spoil(&|p| p.receipts_roots.clear()), none);

    // The committed chain.
    assert_eq!(
        spoil(&|p| drop(p.chain.headers.remove(0))),
        ProofError::OtherPosition("height"),
    );
    let broken = |height| ProofError::ChainBroken(Height(height));
    assert_eq!(spoil(&|p| drop(p.chain.headers.remove(2))), broken(5));
    assert_eq!(spoil(&|p| p.chain.headers[0].time_ms += 1), broken(3));
    assert_eq!(
        spoil(&|p| p.chain.headers[3].executed.root = Digest::ZERO),
        broken(6)
    );
    let other = ProofError::NotCommitted("the certificate is for another block");
    assert_eq!(spoil(&|p| p.chain.headers[4].time_ms += 1), other);
    assert_eq!(spoil(&|p| p.chain.qc.parent_round = Round(7)), other);
    let few = ProofError::Count {
        what: "headers",
        len: 1,
        min: 2,
        max: 512,
    };
    assert_eq!(spoil(&|p| p.chain.headers.truncate(1)), few);
}

#[test]
fn a_certificate_proves_only_what_it_commits() {
    let story = Story::new(ApplicationKind::Ledger);
    let good = story.proof(4, 1).unwrap();
    let certify = |headers: &[Header], voters: &[u8]| {
        let qc = story.qc(voters, headers.last().unwrap());
        let chain = CommittedChain {
            headers: headers.to_vec(),
            qc,
        };
        TransactionProof {
            chain,
            ..good.clone()
        }
        .verify(&story.genesis)
    };
    let headers = &story.headers[1..];
    assert!(
        certify(headers, &[0, 1, 3]).is_ok(),
        "another quorum is as good"
    );
    // Height 5 has a certificate, but its round does not follow its parent's: it commits what
    // height 3 commits, and no more.
    let unnamed = ProofError::NotInState(Height(3));
    assert_eq!(certify(&headers[..4], &[0, 1, 2]), Err(unnamed));
    let gaps = CommittedChain {
        headers: headers[1..4].to_vec(),
        qc: story.qc(&[0, 1, 2], &headers[3]),
    };
    let none = "no header above the first has the round after its parent's";
    assert_eq!(gaps.check_links(), Err(ProofError::NotCommitted(none)));
    // A header of a later round above changes nothing about what is committed.
    let above = story.chain.header(
        headers.last().unwrap(),
        12,
        headers[4].cut.clone(),
        headers[4].executed,
    );
    let longer = [headers, &[above]].concat();
    assert_eq!(certify(&longer, &[0, 1, 2]), certify(headers, &[0, 1, 2]));
    // Height 3 commits height 2; nothing up to there names the commitment.
    let unnamed = ProofError::NotInState(Height(3));
    assert_eq!(certify(&headers[..2], &[0, 1, 2]), Err(unnamed));
    // The certified header itself is not committed: what only it names is not proven.
    let mut last_names = headers.to_vec();
    last_names[3].executed = last_names[2].executed;
    last_names[4].parent_id = last_names[3].id();
    assert_eq!(last_names[4].executed.height, Height(3));
    let unnamed = ProofError::NotInState(Height(3));
    assert_eq!(certify(&last_names, &[0, 1, 2]), Err(unnamed));
    // Three of four, but not a quorum by weight; and a signer twice.
    let light = ProofError::Certificate(Invalid::Weight { have: 6, need: 7 });
    assert_eq!(certify(headers, &[1, 2, 3]), Err(light));
    let twice = ProofError::Certificate(Invalid::SignerOrder);
    assert_eq!(certify(headers, &[0, 0, 1]), Err(twice));
}

#[test]
fn pieces_that_do_not_fit_make_no_proof() {
    let mut story = Story::new(ApplicationKind::Ledger);
    story.roots.pop();
    assert_eq!(story.proof(4, 1), Err(ProofError::NotInState(Height(2))));
    let mut story = Story::new(ApplicationKind::Ledger);
    story.batches.pop();
    assert_eq!(story.proof(4, 1), Err(ProofError::NotInCut));
    let story = Story::new(ApplicationKind::Ledger);
    let stray = Receipt {
        height: Height(9),
        ..story.receipts[0]
    };
    let error = TransactionProof::build(
        ApplicationKind::Ledger,
        &Pieces {
            receipt: stray,
            batch: &story.batches[0],
            later_batches: &[],
            receipts: &story.receipts,
            results_before: story.results_before,
            roots: &story.roots,
            chain: story.proof(4, 1).unwrap().chain,
        },
    );
    assert_eq!(error, Err(ProofError::NoReceipt));
}
