//! What proves misbehaviour, and what looks like it and does not.

use falconet_crypto::falcon::Verifier;
use falconet_types::batch::{Batch, SignedBatchHeader};
use falconet_types::block::{LaneTip, SignedHeader};
use falconet_types::evidence::{EVIDENCE_BYTES_MAX, Evidence};
use falconet_types::signing::Invalid;
use falconet_types::validators::VALIDATORS_MAX;
use falconet_types::wire::Wire;
use falconet_types::{Digest, Epoch, KeyPair, Scheme, ValidatorIndex};

use crate::chain::{Chain, key};

const A: Digest = Digest([5; 32]);
const B: Digest = Digest([6; 32]);
const NO_CONFLICT: Result<ValidatorIndex, Invalid> = Err(Invalid::Malformed(
    "the two messages do not contradict each other",
));

fn judge(chain: &Chain, evidence: &Evidence) -> Result<ValidatorIndex, Invalid> {
    evidence.verify(chain.id, &chain.set, &mut Verifier::new())
}

#[test]
fn two_votes_of_a_round() {
    let chain = Chain::new();
    let votes = |a, b| Evidence::Votes(Box::new(a), Box::new(b));
    let other_block = votes(chain.vote(2, 5, 4, A), chain.vote(2, 5, 4, B));
    assert_eq!(judge(&chain, &other_block), Ok(ValidatorIndex(2)));
    let other_parent = votes(chain.vote(2, 5, 4, A), chain.vote(2, 5, 3, A));
    assert_eq!(judge(&chain, &other_parent), Ok(ValidatorIndex(2)));

    let same = votes(chain.vote(2, 5, 4, A), chain.vote(2, 5, 4, A));
    assert_eq!(judge(&chain, &same), NO_CONFLICT);
    let other_round = votes(chain.vote(2, 5, 4, A), chain.vote(2, 6, 5, B));
    assert_eq!(judge(&chain, &other_round), NO_CONFLICT);
    let two_voters = votes(chain.vote(2, 5, 4, A), chain.vote(1, 5, 4, B));
    assert_eq!(judge(&chain, &two_voters), NO_CONFLICT);
    let mut framed = chain.vote(1, 5, 4, B);
    framed.voter = ValidatorIndex(2);
    let framed = votes(chain.vote(2, 5, 4, A), framed);
    assert_eq!(
        judge(&chain, &framed),
        Err(Invalid::Signature(ValidatorIndex(2)))
    );
}

#[test]
fn a_vote_and_a_timeout_below_its_lock() {
    let chain = Chain::new();
    let low = chain.qc(&[0, 1, 3], 3, 2, A);
    let high = chain.qc(&[0, 1, 3], 4, 3, B);
    let pair = |vote, timeout| Evidence::LockViolation(Box::new(vote), Box::new(timeout));
    let vote = || chain.vote(1, 5, 4, B);
    for round in [5, 6, 9] {
        let broken = pair(vote(), chain.timeout(1, round, &low));
        assert_eq!(judge(&chain, &broken), Ok(ValidatorIndex(1)));
    }
    // The lock is respected; the timeout is older than the vote; somebody else gave up.
    let fine = [
        pair(vote(), chain.timeout(1, 5, &high)),
        pair(vote(), chain.timeout(1, 4, &low)),
        pair(vote(), chain.timeout(2, 5, &low)),
    ];
    for evidence in fine {
        assert_eq!(judge(&chain, &evidence), NO_CONFLICT);
    }
}

#[test]
fn two_commit_votes_of_a_round() {
    let chain = Chain::new();
    let votes = |a, b| Evidence::CommitVotes(Box::new(a), Box::new(b));
    let twice = votes(chain.commit_vote(2, 5, A), chain.commit_vote(2, 5, B));
    assert_eq!(judge(&chain, &twice), Ok(ValidatorIndex(2)));
    let fine = [
        votes(chain.commit_vote(2, 5, A), chain.commit_vote(2, 5, A)),
        votes(chain.commit_vote(2, 5, A), chain.commit_vote(2, 6, B)),
        votes(chain.commit_vote(2, 5, A), chain.commit_vote(1, 5, B)),
    ];
    for evidence in fine {
        assert_eq!(judge(&chain, &evidence), NO_CONFLICT);
    }
    let mut framed = chain.commit_vote(1, 5, B);
    framed.voter = ValidatorIndex(2);
    let framed = votes(chain.commit_vote(2, 5, A), framed);
    assert_eq!(
        judge(&chain, &framed),
        Err(Invalid::Signature(ValidatorIndex(2)))
    );
}

#[test]
fn a_commit_vote_and_a_timeout_below_it() {
    let chain = Chain::new();
    let low = chain.qc(&[0, 1, 3], 4, 3, A);
    let same = chain.qc(&[0, 1, 3], 5, 4, B);
    let pair = |vote, timeout| Evidence::CommitViolation(Box::new(vote), Box::new(timeout));
    let vote = || chain.commit_vote(1, 5, B);
    for round in [5, 6, 9] {
        let broken = pair(vote(), chain.timeout(1, round, &low));
        assert_eq!(judge(&chain, &broken), Ok(ValidatorIndex(1)));
    }
    // The lock is respected; the timeout is of a round before; somebody else gave up.
    let fine = [
        pair(vote(), chain.timeout(1, 6, &same)),
        pair(chain.commit_vote(1, 6, B), chain.timeout(1, 5, &low)),
        pair(vote(), chain.timeout(2, 5, &low)),
    ];
    for evidence in fine {
        assert_eq!(judge(&chain, &evidence), NO_CONFLICT);
    }
}

#[test]
fn two_headers_of_a_round() {
    let chain = Chain::new();
    let signed = |change: &dyn Fn(&mut falconet_types::block::Header)| {
        let mut header = chain.first();
        change(&mut header);
        let signer = key(u8::try_from(header.author.0).unwrap());
        SignedHeader::sign(header, chain.id, &signer)
    };
    let pair = |a, b| Evidence::Headers(Box::new(a), Box::new(b));
    let author = chain.first().author;
    let twice = pair(signed(&|_| ()), signed(&|h| h.time_ms += 1));
    assert_eq!(judge(&chain, &twice), Ok(author));
    assert_eq!(
        judge(&chain, &pair(signed(&|_| ()), signed(&|_| ()))),
        NO_CONFLICT
    );
    // One normal and one recovery header are allowed.
    let recovery = signed(&|h| h.kind = falconet_types::block::HeaderKind::Recovery);
    assert_eq!(judge(&chain, &pair(signed(&|_| ()), recovery)), NO_CONFLICT);
    let other_epoch = signed(&|h| h.epoch = Epoch(1));
    assert_eq!(
        judge(&chain, &pair(other_epoch.clone(), other_epoch.clone())),
        NO_CONFLICT
    );
    let later = signed(&|h| (h.epoch, h.time_ms) = (Epoch(1), 7));
    assert_eq!(
        judge(&chain, &pair(other_epoch, later)),
        Err(Invalid::Epoch {
            found: Epoch(1),
            expected: Epoch(0)
        })
    );
}

#[test]
fn two_batches_of_a_lane() {
    let chain = Chain::new();
    let seal = |tip: LaneTip, byte: u8| {
        let txs = [vec![byte; 100].into()];
        let (lane, signer) = (ValidatorIndex(3), key(3));
        Batch::seal(Epoch::ZERO, lane, tip, &txs, chain.id, &signer)
    };
    let pair = |a: &Batch, b: &Batch| {
        Evidence::Batches(
            Box::new(SignedBatchHeader::from(a)),
            Box::new(SignedBatchHeader::from(b)),
        )
    };
    let (one, other) = (seal(LaneTip::default(), 1), seal(LaneTip::default(), 2));
    assert_eq!(judge(&chain, &pair(&one, &other)), Ok(ValidatorIndex(3)));
    let (next, stray) = (seal(one.tip(), 3), seal(other.tip(), 3));
    assert_eq!(judge(&chain, &pair(&one, &stray)), Ok(ValidatorIndex(3)));
    assert_eq!(judge(&chain, &pair(&stray, &one)), Ok(ValidatorIndex(3)));
    assert_eq!(judge(&chain, &pair(&one, &next)), NO_CONFLICT);
    assert_eq!(judge(&chain, &pair(&one, &one)), NO_CONFLICT);
}

#[test]
fn the_largest_evidence_fits() {
    let tip = LaneTip {
        seq: falconet_types::Seq(1),
        hash: A,
    };
    let mut header = Chain::new().first();
    header.cut = falconet_types::block::Cut(vec![tip; VALIDATORS_MAX]);
    let key = KeyPair::from_seed(Scheme::Falcon1024, &[1; 32]);
    let header = SignedHeader::sign(header, Digest::ZERO, &key);
    let evidence = Evidence::Headers(Box::new(header.clone()), Box::new(header));
    let len = evidence.to_bytes().len();
    assert!(len <= EVIDENCE_BYTES_MAX, "{len} bytes");
}
