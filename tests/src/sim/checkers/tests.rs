//! Each checker can fail: fed with what a broken node would do, it says so.

use std::sync::Arc;

use falconet_hotstuff::{CommitProof, Committed, Record, SafetyRecord};
use falconet_ledger::{Application, Ledger};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader, genesis_id};
use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::epoch::EpochProof;
use falconet_types::genesis::Genesis;
use falconet_types::message::PeerMessage;
use falconet_types::snapshot::{Manifest, SnapshotOffer};
use falconet_types::{BlockId, Digest, Epoch, Height, Round, Seq, ValidatorIndex};

use super::super::disk::{Anchor, Disk, LogRecord};
use super::super::keys::{self, SimSigner};
use super::super::node::{Chain, execute};
use super::super::scenario::Scenario;
use super::super::world::World;
use super::*;

mod histories;

struct Made {
    chain: Chain,
    eras: Eras,
    disk: Disk,
}

impl Made {
    fn new() -> Self {
        let world = World::new(Scenario::scripted(1, 4), false);
        let chain = world.chain().clone();
        let disk = Disk::default();
        let eras = Eras::new(&chain);
        Self { chain, eras, disk }
    }

    fn ledger(&self) -> Ledger {
        Ledger::from_genesis(&self.chain.genesis)
    }

    fn header(&mut self, parent: Option<&SignedHeader>, round: u64, time: u64) -> SignedHeader {
        let author = self.chain.set.leader(Round(round));
        let parent_round = parent.map_or(Round::ZERO, |parent| parent.round);
        let header = Header {
            epoch: Epoch(0),
            round: Round(round),
            kind: if parent_round.next() == Round(round) {
                HeaderKind::Normal
            } else {
                HeaderKind::Recovery
            },
            parent_id: parent.map_or(genesis_id(self.chain.id), SignedHeader::id),
            parent_round,
            height: parent.map_or(Height(1), |parent| parent.height.next()),
            cut: Cut::empty(4),
            time_ms: keys::GENESIS_MS + time,
            executed: Executed {
                height: Height::ZERO,
                root: Digest::ZERO,
            },
            ended_by: Digest::ZERO,
            author,
        };
        let header = SignedHeader::sign(header, self.chain.id, &SimSigner(author.at()));
        let record = Record::Header(Arc::new(header.clone()));
        self.disk.append([LogRecord::Consensus(record)]);
        self.disk.sync(1);
        header
    }

    fn qc(&self, header: &SignedHeader, voters: &[u16]) -> Qc {
        let mut qc = Qc {
            epoch: header.epoch,
            round: header.round,
            block_id: header.id(),
            parent_round: header.parent_round,
            votes: Vec::new(),
        };
        for voter in voters {
            let vote = keys::vote(self.chain.id, &qc, ValidatorIndex(*voter), (*voter).into());
            qc.votes.push((vote.voter, vote.signature));
        }
        qc
    }

    fn votes(&self, header: &SignedHeader, voters: &[u16]) -> Vec<Vote> {
        let votes = self.qc(header, voters).votes;
        let vote = |(voter, signature)| Vote {
            epoch: header.epoch,
            round: header.round,
            block_id: header.id(),
            parent_round: header.parent_round,
            voter,
            signature,
        };
        votes.into_iter().map(vote).collect()
    }

    fn committed(&self, header: &SignedHeader, child: &SignedHeader, voters: &[u16]) -> Committed {
        Committed {
            header: Arc::new(header.clone()),
            parent_cut: Cut::empty(4),
            proof: CommitProof {
                child: Arc::new(child.clone()),
                qc: Arc::new(self.qc(child, voters)),
            },
        }
    }

    fn commits(&self, agreement: &mut Agreement, node: usize, block: &Committed) -> Check {
        agreement.committed(node, block, self.chain.id, &self.eras, &self.disk, |_| {
            false
        })
    }

    fn vote(&self, voter: u16, round: u64, parent_round: u64, block: u8) -> Vote {
        Vote::sign(
            Epoch(0),
            Round(round),
            Digest([block; 32]),
            Round(parent_round),
            ValidatorIndex(voter),
            self.chain.id,
            &SimSigner(voter.into()),
        )
    }

    fn timeout(&self, author: u16, round: u64, hqc_round: u64) -> Timeout {
        Timeout::sign(
            Epoch(0),
            Round(round),
            Round(hqc_round),
            Digest([hqc_round as u8; 32]),
            ValidatorIndex(author),
            self.chain.id,
            &SimSigner(author.into()),
        )
    }
}

#[track_caller]
fn fails(check: Check, why: &str) {
    let violation = check.expect_err(why);
    assert!(violation.contains(why), "{violation}");
}

#[test]
fn agreement_notices_two_blocks_at_one_height() {
    let mut made = Made::new();
    let (a, b) = (made.header(None, 1, 1), made.header(None, 1, 2));
    let (above_a, above_b) = (made.header(Some(&a), 2, 3), made.header(Some(&b), 2, 4));
    let mut agreement = Agreement::default();
    let first = made.committed(&a, &above_a, &[0, 1, 2]);
    made.commits(&mut agreement, 0, &first).unwrap();
    let second = made.committed(&b, &above_b, &[1, 2, 3]);
    fails(made.commits(&mut agreement, 1, &second), "agreement");
}

#[test]
fn agreement_notices_a_height_twice_and_one_left_out() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let three = made.header(Some(&two), 3, 3);
    let mut agreement = Agreement::default();
    let late = made.committed(&two, &three, &[0, 1, 2]);
    fails(
        made.commits(&mut agreement, 0, &late),
        "commits height 2 after",
    );
    let mut agreement = Agreement::default();
    let first = made.committed(&one, &two, &[0, 1, 2]);
    made.commits(&mut agreement, 0, &first).unwrap();
    fails(
        made.commits(&mut agreement, 0, &first),
        "commits height 1 after",
    );
}

#[test]
fn agreement_notices_another_parent_and_a_forgotten_commit() {
    let mut made = Made::new();
    let (a, b) = (made.header(None, 1, 1), made.header(None, 1, 2));
    let (above_a, above_b) = (made.header(Some(&a), 2, 3), made.header(Some(&b), 2, 4));
    let top = made.header(Some(&above_b), 3, 5);
    let mut agreement = Agreement::default();
    let first = made.committed(&a, &above_a, &[0, 1, 2]);
    made.commits(&mut agreement, 0, &first).unwrap();
    let second = made.committed(&above_b, &top, &[0, 1, 2]);
    fails(made.commits(&mut agreement, 0, &second), "another parent");
    fails(agreement.restarted(0, &made.disk), "forgot commits");
}

#[test]
fn commit_proofs_need_a_quorum_of_distinct_authentic_votes_and_consecutive_rounds() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let gap = made.header(Some(&one), 4, 3);
    let commit = |block: &Committed| made.commits(&mut Agreement::default(), 0, block);
    commit(&made.committed(&one, &two, &[0, 1, 3])).unwrap();
    fails(commit(&made.committed(&one, &two, &[0, 1])), "no proof");
    fails(commit(&made.committed(&one, &two, &[0, 1, 1])), "no proof");
    fails(
        commit(&made.committed(&one, &gap, &[0, 1, 2])),
        "consecutive rounds",
    );
    fails(
        commit(&made.committed(&one, &one, &[0, 1, 2])),
        "commit votes",
    );
    let mut forged = made.committed(&one, &two, &[0, 1, 2]);
    let mut qc = made.qc(&two, &[0, 1, 2]);
    qc.votes[1].1 = qc.votes[0].1.clone();
    forged.proof.qc = Arc::new(qc);
    fails(commit(&forged), "no proof");
    let mut other = made.committed(&one, &two, &[0, 1, 2]);
    other.proof.qc = Arc::new(made.qc(&one, &[0, 1, 2]));
    fails(commit(&other), "no proof");
}

#[test]
fn a_quorum_of_commit_votes_is_as_good_as_consecutive_rounds() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let early = made.committed(&one, &one, &[0, 1, 2]);
    let vote = |voter: u16| {
        PeerMessage::CommitVote(CommitVote::sign(
            Epoch(0),
            Round(1),
            one.id(),
            ValidatorIndex(voter),
            made.chain.id,
            &SimSigner(voter.into()),
        ))
    };
    let mut agreement = Agreement::default();
    agreement.sent(1, &vote(1), &made.eras);
    // Nobody speaks for another.
    agreement.sent(3, &vote(2), &made.eras);
    let mut short = Agreement::default();
    short.sent(1, &vote(1), &made.eras);
    fails(made.commits(&mut short, 0, &early), "commit votes");
    agreement.sent(2, &vote(2), &made.eras);
    made.commits(&mut agreement, 0, &early).unwrap();
}

#[test]
fn self_consistency_notices_commit_votes_that_contradict_timeouts() {
    let made = Made::new();
    let all = |_| true;
    let vote = |round: u64, block: u8| {
        PeerMessage::CommitVote(CommitVote::sign(
            Epoch(0),
            Round(round),
            Digest([block; 32]),
            ValidatorIndex(1),
            made.chain.id,
            &SimSigner(1),
        ))
    };
    let timeout = |round, hqc| PeerMessage::Timeout(made.timeout(1, round, hqc));
    let mut wire = SelfConsistency::default();
    wire.sent(1, &vote(5, 1), &made.eras, all).unwrap();
    wire.sent(1, &vote(5, 1), &made.eras, all).unwrap();
    fails(
        wire.sent(1, &vote(5, 2), &made.eras, all),
        "contradicts itself",
    );
    fails(
        wire.sent(1, &timeout(6, 4), &made.eras, all),
        "voted to commit",
    );
    wire.sent(1, &timeout(6, 5), &made.eras, all).unwrap();
    wire.sent(1, &vote(5, 1), &made.eras, all).unwrap();
    fails(
        wire.sent(1, &vote(6, 1), &made.eras, all),
        "after it gave up",
    );
}

#[test]
fn agreement_notices_states_that_differ_and_heights_executed_out_of_order() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let mut ledger = made.ledger();
    let first = execute(&mut ledger, &one, false, Vec::new());
    let second = execute(&mut ledger, &two, false, Vec::new());
    let mut agreement = Agreement::default();
    fails(agreement.executed(0, &second), "executes height 2");
    agreement.executed(0, &first).unwrap();
    let mut other = first.clone();
    other.roots.accounts = Digest([1; 32]);
    fails(agreement.executed(1, &other), "states differ");
}

#[test]
fn self_consistency_notices_second_votes_timeouts_and_headers() {
    let mut made = Made::new();
    let all = |_| true;
    let mut wire = SelfConsistency::default();
    let vote = PeerMessage::Vote(made.vote(1, 5, 4, 1));
    wire.sent(1, &vote, &made.eras, all).unwrap();
    wire.sent(1, &vote, &made.eras, all).unwrap();
    let other = PeerMessage::Vote(made.vote(1, 5, 4, 2));
    fails(wire.sent(1, &other, &made.eras, all), "contradicts itself");
    wire.sent(
        1,
        &PeerMessage::Timeout(made.timeout(1, 7, 4)),
        &made.eras,
        all,
    )
    .unwrap();
    let other = PeerMessage::Timeout(made.timeout(1, 7, 5));
    fails(wire.sent(1, &other, &made.eras, all), "contradicts itself");
    let late = PeerMessage::Vote(made.vote(1, 6, 5, 3));
    fails(wire.sent(1, &late, &made.eras, all), "after it gave up");
    let leader = made.chain.set.leader(Round(1)).at();
    let (a, b) = (made.header(None, 1, 1), made.header(None, 1, 2));
    wire.sent(leader, &PeerMessage::Header(a), &made.eras, all)
        .unwrap();
    fails(
        wire.sent(leader, &PeerMessage::Header(b), &made.eras, all),
        "two headers",
    );
}

#[test]
fn self_consistency_notices_words_put_into_anothers_mouth() {
    let mut made = Made::new();
    let header = made.header(None, 1, 1);
    let qc = PeerMessage::Qc(made.qc(&header, &[0, 1, 2]));
    let mut wire = SelfConsistency::default();
    // The sender's own vote need not have been sent.
    for vote in made.votes(&header, &[1]) {
        wire.sent(
            vote.voter.at(),
            &PeerMessage::Vote(vote),
            &made.eras,
            |_| true,
        )
        .unwrap();
    }
    wire.sent(0, &qc, &made.eras, |node| node != 2).unwrap();
    fails(wire.sent(0, &qc, &made.eras, |_| true), "never sent");
    let timeouts = [0, 1, 2].map(|author| made.timeout(author, 3, 1));
    let tc = Tc {
        epoch: Epoch(0),
        round: Round(3),
        entries: timeouts
            .iter()
            .map(|t| TcEntry {
                author: t.author,
                hqc_round: t.hqc_round,
                hqc_id: t.hqc_id,
                signature: t.signature.clone(),
            })
            .collect(),
        max_qc: made.qc(&header, &[0, 1, 2]),
    };
    fails(
        wire.sent(0, &PeerMessage::Tc(tc), &made.eras, |_| true),
        "never sent",
    );
}

/// A node crashed with its vote durable and unsent. After its restart the votes of others came
/// first, and what it makes a QC of contains its own; nobody else may use that vote before. It may
/// leave in whatever carries a QC, and whoever got it so shows it to others.
#[test]
fn a_vote_that_a_crash_held_back_may_travel_in_any_certificate() {
    let mut made = Made::new();
    let parent = made.header(None, 1, 1);
    let header = made.header(Some(&parent), 2, 2);
    let qc = made.qc(&header, &[0, 1, 2]);
    let proof = EpochProof {
        headers: vec![parent.header().clone(), header.header().clone()],
        qc: qc.clone(),
        accounts: Digest::ZERO,
        results: Digest::ZERO,
        next: None,
    };
    let manifest = Manifest {
        tree_root: Digest::ZERO,
        burned: 0,
        registry: bytes::Bytes::new(),
        validators: Digest::ZERO,
        results: Digest::ZERO,
        rows_bytes: 0,
        headers: vec![parent.clone(), header.clone()],
        qc: qc.clone(),
    };
    let carriers = [
        PeerMessage::Tc(Tc {
            epoch: Epoch(0),
            round: Round(3),
            entries: Vec::new(),
            max_qc: qc.clone(),
        }),
        PeerMessage::EpochProof(Box::new(proof)),
        PeerMessage::Snapshot(Box::new(SnapshotOffer {
            horizon: Height(1),
            heights: vec![Height(1)],
            manifest: Some(manifest),
        })),
    ];
    let all = |_| true;
    for carrier in carriers {
        let mut wire = SelfConsistency::default();
        for vote in made.votes(&header, &[1, 2]) {
            wire.sent(vote.voter.at(), &PeerMessage::Vote(vote), &made.eras, all)
                .unwrap();
        }
        let qc = PeerMessage::Qc(qc.clone());
        fails(wire.sent(3, &qc, &made.eras, all), "never sent");
        fails(wire.sent(3, &carrier, &made.eras, all), "never sent");
        wire.sent(0, &carrier, &made.eras, all).unwrap();
        wire.sent(3, &qc, &made.eras, all).unwrap();
        wire.sent(3, &carrier, &made.eras, all).unwrap();
    }
}

/// Found by a run with a Byzantine validator: a node crashed with a vote and a timeout of one
/// round durable and unsent. After its restart a TC left first, then the vote.
#[test]
fn a_vote_that_a_crash_held_back_may_be_sent_after_a_tc_of_its_round() {
    let mut made = Made::new();
    let header = made.header(None, 1, 1);
    let timeout = made.timeout(0, 2, 1);
    let tc = Tc {
        epoch: Epoch(0),
        round: Round(2),
        entries: vec![TcEntry {
            author: timeout.author,
            hqc_round: timeout.hqc_round,
            hqc_id: timeout.hqc_id,
            signature: timeout.signature.clone(),
        }],
        max_qc: made.qc(&header, &[0, 1, 2]),
    };
    let mut wire = SelfConsistency::default();
    let all = |_| true;
    for vote in made.votes(&header, &[1, 2]) {
        wire.sent(vote.voter.at(), &PeerMessage::Vote(vote), &made.eras, all)
            .unwrap();
    }
    wire.sent(0, &PeerMessage::Tc(tc), &made.eras, all).unwrap();
    let vote = PeerMessage::Vote(made.vote(0, 2, 1, 1));
    wire.sent(0, &vote, &made.eras, all).unwrap();
    wire.sent(0, &PeerMessage::Timeout(timeout), &made.eras, all)
        .unwrap();
    let other = PeerMessage::Vote(made.vote(0, 2, 1, 2));
    fails(wire.sent(0, &other, &made.eras, all), "contradicts itself");
}

#[test]
fn justification_notices_a_vote_below_what_a_quorum_can_have_named() {
    let made = Made::new();
    let mut rule = Justification::default();
    let set = &made.eras;
    let none = |_: usize| false;
    let say = |rule: &mut Justification, node: usize, message: PeerMessage| {
        rule.sent(node, &message, set, none)
    };
    let vote = PeerMessage::Vote(made.vote(3, 8, 5, 1));
    fails(rule.sent(3, &vote, set, none), "no TC justifies");
    let own = PeerMessage::Timeout(made.timeout(3, 7, 6));
    say(&mut rule, 3, own).unwrap();
    for (author, named) in [(0, 5), (1, 5), (2, 6)] {
        let timeout = PeerMessage::Timeout(made.timeout(author, 7, named));
        say(&mut rule, author.into(), timeout).unwrap();
    }
    fails(rule.sent(3, &vote, set, none), "no TC justifies");
    // A faulty validator may have signed a lower one.
    rule.sent(3, &vote, set, |node| node == 2).unwrap();
    let higher = PeerMessage::Vote(made.vote(3, 8, 6, 1));
    say(&mut rule, 3, higher).unwrap();
}

#[test]
fn locks_notice_a_record_that_goes_back_or_is_locked_too_low() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let genesis = Qc::genesis(Epoch(0), genesis_id(made.chain.id));
    let mut record = SafetyRecord::fresh(made.chain.id, Digest::ZERO, genesis);
    let mut locks = Locks::default();
    record.last_voted_round = Round(9);
    record.highest_timeout_round = Round(8);
    record.locked = made.qc(&one, &[0, 1, 2]);
    locks.durable(0, &record).unwrap();
    let back = |change: fn(&mut SafetyRecord)| {
        let mut older = record.clone();
        change(&mut older);
        let mut locks = Locks::default();
        locks.durable(0, &record).unwrap();
        locks.durable(0, &older)
    };
    fails(back(|r| r.last_voted_round = Round(8)), "went back");
    fails(back(|r| r.highest_timeout_round = Round(7)), "went back");
    fails(back(|r| r.locked.round = Round(0)), "went back");
    fails(back(|r| r.locked.block_id = BlockId::ZERO), "another block");
    record.last_vote = Some(made.vote(0, 9, 7, 1));
    fails(locks.durable(0, &record), "is locked on");
}

#[test]
fn availability_notices_a_batch_on_no_disk_and_a_gap_in_a_lane() {
    let mut made = Made::new();
    let tx = keys::transfer(made.chain.id, 0, 1, 1, 5);
    let lane = ValidatorIndex(0);
    let seal = |tip: LaneTip| {
        let txs = [tx.bytes().clone()];
        Batch::seal(Epoch(0), lane, tip, &txs, made.chain.id, &SimSigner(0))
    };
    let first = seal(LaneTip::default());
    let second = seal(LaneTip {
        seq: Seq(1),
        hash: first.hash(),
    });
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let block = |seq: u64, batch: &Batch, old: LaneTip| {
        let mut header = one.header().clone();
        header.cut.0[0] = LaneTip {
            seq: Seq(seq),
            hash: batch.hash(),
        };
        let header = SignedHeader::sign(header, made.chain.id, &SimSigner(0));
        let mut block = made.committed(&header, &two, &[0, 1, 2]);
        block.parent_cut.0[0] = old;
        block
    };
    let mut holder = Disk::default();
    holder.append([LogRecord::Batch(second.clone())]);
    holder.sync(1);
    let both = block(2, &second, LaneTip::default());
    fails(
        Availability::default().committed(&both, &[&holder]),
        "is on no disk",
    );
    holder.append([LogRecord::Batch(first.clone())]);
    holder.sync(1);
    Availability::default()
        .committed(&both, &[&holder])
        .unwrap();
    let elsewhere = LaneTip {
        seq: Seq(1),
        hash: Digest([3; 32]),
    };
    let gap = block(2, &second, elsewhere);
    fails(
        Availability::default().committed(&gap, &[&holder]),
        "with a gap",
    );
}

#[test]
fn promises_notice_a_lost_transaction_one_that_executes_twice_and_two_that_cannot_both() {
    let mut made = Made::new();
    let header = made.header(None, 1, 1);
    let mut promises = Promises::default();
    let mut ledger = Ledger::from_genesis(&made.chain.genesis);
    let (a, b) = (
        keys::transfer(made.chain.id, 0, 1, 1, 5),
        keys::transfer(made.chain.id, 0, 1, 2, 5),
    );
    promises.acknowledged(&a);
    assert_eq!(
        promises.open(0),
        1,
        "an acknowledged transaction is open until it executes"
    );
    let view = ledger.view().unwrap();
    assert_eq!(promises.lost(0, &view, keys::GENESIS_MS), 1);
    let dear = keys::transfer(made.chain.id, 0, 1, 3, u64::MAX / 2);
    promises.acknowledged(&dear);
    assert_eq!(
        promises.lost(0, &view, keys::GENESIS_MS),
        1,
        "nobody can pay for it"
    );
    assert_eq!(promises.open(0), 2);
    let txs = [a.bytes().clone(), b.bytes().clone()];
    let batch = Batch::seal(
        Epoch(0),
        ValidatorIndex(0),
        LaneTip::default(),
        &txs,
        made.chain.id,
        &SimSigner(0),
    );
    let result = execute(&mut ledger, &header, false, vec![batch]);
    promises.executed(0, &result).unwrap();
    fails(
        promises.conflicts(0, &[(a.id(), b.id())]),
        "both took effect",
    );
    fails(promises.executed(0, &result), "took effect 2 times");
}

#[test]
fn conservation_notices_money_that_was_made() {
    let mut made = Made::new();
    let genesis = Arc::clone(&made.chain.genesis);
    conservation(0, &made.ledger().view().unwrap(), &genesis).unwrap();
    let mut richer = Genesis::clone(&genesis);
    richer.accounts[0].balance += 1;
    made.chain.genesis = Arc::new(richer);
    let view = made.ledger().view().unwrap();
    fails(conservation(0, &view, &genesis), "on their way back and");
}

#[test]
fn the_first_block_extends_genesis() {
    let mut made = Made::new();
    let one = made.header(None, 1, 1);
    let two = made.header(Some(&one), 2, 2);
    let mut block = made.committed(&one, &two, &[0, 1, 2]);
    extends_genesis(&block, made.chain.id).unwrap();
    let mut header = one.header().clone();
    header.parent_id = Digest([5; 32]);
    block.header = Arc::new(SignedHeader::sign(header, made.chain.id, &SimSigner(0)));
    fails(extends_genesis(&block, made.chain.id), "genesis");
}
