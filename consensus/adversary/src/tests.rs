//! What each actor makes of what its node says. Whether honest nodes bear it is a matter of the
//! simulator and of test networks.

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Timeout, Vote};
use falconet_types::message::CertRef;
use falconet_types::signing;
use falconet_types::{BlockId, Digest, Epoch, Height, KeyPair, Round, Scheme};

use super::*;

const CHAIN: ChainId = Digest([7; 32]);

fn key(i: usize) -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[u8::try_from(i).expect("few"); 32])
}

fn set(n: usize) -> Arc<ValidatorSet> {
    let members: Vec<_> = (0..n).map(|i| (key(i).public().clone(), 1)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch::ZERO, &members).expect("a set"))
}

/// An actor of 4 who is validator 0.
struct Scene {
    set: Arc<ValidatorSet>,
    actor: Byzantine,
    key: KeyPair,
}

const ME: ValidatorIndex = ValidatorIndex(0);
const NOW: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

impl Scene {
    fn new(kind: Kind, n: usize) -> Self {
        let set = set(n);
        let config = Config {
            chain_id: CHAIN,
            me: ME,
            set: Arc::clone(&set),
            round_timeout_us: 200_000,
            flood_per_s: 2_000,
            seed: 1,
        };
        Self {
            set,
            actor: Byzantine::new(kind, config, Box::new(key(0))),
            key: key(0),
        }
    }

    fn says(&mut self, message: PeerMessage) -> Vec<Sending> {
        let mut out = Vec::new();
        self.actor.says(NOW, None, message, &mut out);
        out
    }

    fn ticks(&mut self) -> Vec<Sending> {
        let mut out = Vec::new();
        assert!(
            self.actor
                .next_tick_us()
                .is_some_and(|at| at <= NOW.mono_us)
        );
        self.actor.tick(NOW, &mut out);
        assert!(self.actor.next_tick_us().is_some_and(|at| at > NOW.mono_us));
        out
    }

    /// The first round that this actor leads, above `above`.
    fn led(&self, above: u64) -> Round {
        let mut rounds = (above + 1..).map(Round);
        rounds
            .find(|round| self.set.leader(*round) == ME)
            .expect("everybody leads")
    }

    fn header(&self, round: Round) -> SignedHeader {
        let header = Header {
            epoch: Epoch::ZERO,
            round,
            kind: HeaderKind::Recovery,
            parent_id: Digest([1; 32]),
            parent_round: Round::ZERO,
            height: Height(1),
            cut: Cut::empty(self.set.len()),
            time_ms: NOW.wall_ms,
            executed: Executed {
                height: Height::ZERO,
                root: Digest::ZERO,
            },
            ended_by: Digest::ZERO,
            author: ME,
        };
        SignedHeader::sign(header, CHAIN, &self.key)
    }

    fn vote(&self, round: Round, id: BlockId) -> Vote {
        let parent = round.prev();
        Vote::sign(Epoch::ZERO, round, id, parent, ME, CHAIN, &self.key)
    }

    fn batch(&self, seq: u64) -> Batch {
        let before = LaneTip {
            seq: falconet_types::Seq(seq - 1),
            hash: if seq == 1 {
                Digest::ZERO
            } else {
                Digest([seq as u8; 32])
            },
        };
        let txs = [Bytes::from(vec![1; 64]), Bytes::from(vec![2; 64])];
        Batch::seal(Epoch::ZERO, ME, before, &txs, CHAIN, &self.key)
    }

    /// Every signed message is one that receivers accept.
    fn verifies(&self, message: &PeerMessage) -> bool {
        let mut verifier = Verifier::new();
        if let PeerMessage::Batch(bytes) = message {
            return Batch::parse(bytes.clone())
                .is_ok_and(|b| signing::verify(b, CHAIN, &self.set, &mut verifier).is_ok());
        }
        signing::verify(message.clone(), CHAIN, &self.set, &mut verifier).is_ok()
    }
}

fn to(sent: &[Sending], peer: u16) -> Vec<&PeerMessage> {
    let mine = sent
        .iter()
        .filter(|s| s.to.is_none_or(|to| to == ValidatorIndex(peer)));
    mine.map(|s| &s.message).collect()
}

#[test]
fn kinds_have_names_that_read_back() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    let error = "honest".parse::<Kind>().expect_err("no actor");
    assert!(error.to_string().contains("slow-loris"), "{error}");
}

#[test]
fn the_equivocator_signs_two_or_three_valid_proposals_and_a_vote_for_each() {
    let mut scene = Scene::new(Kind::Equivocator, 4);
    let mut round = Round::ZERO;
    for careless in [true, false] {
        round = scene.led(round.0);
        let header = scene.header(round);
        let sent = scene.says(PeerMessage::Header(header.clone()));
        let ways = if careless { 3 } else { 2 };
        let mut ids: Vec<_> = sent
            .iter()
            .map(|s| match &s.message {
                PeerMessage::Header(h) => h.id(),
                other => panic!("{other:?}"),
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ways);
        assert!(sent.iter().all(|s| scene.verifies(&s.message)));
        assert_eq!(to(&sent, 1).len(), if careless { 3 } else { 1 });
        let votes = scene.says(PeerMessage::Vote(scene.vote(round, header.id())));
        assert!(votes.iter().all(|s| scene.verifies(&s.message)));
        // The vote that a peer hears first is for the proposal that it saw first.
        for peer in 1..4 {
            let (PeerMessage::Header(h), PeerMessage::Vote(v)) =
                (to(&sent, peer)[0], to(&votes, peer)[0])
            else {
                panic!("a header and a vote")
            };
            assert_eq!(h.id(), v.block_id, "peer {peer}");
        }
    }
}

#[test]
fn the_withholder_sends_each_batch_to_few_and_answers_nobody() {
    for (n, reached) in [(4, 1..=1), (7, 2..=3), (13, 4..=7)] {
        let mut scene = Scene::new(Kind::Withholder, n);
        for seq in 1..=6 {
            let sent = scene.says(PeerMessage::Batch(scene.batch(seq).bytes().clone()));
            assert!(reached.contains(&sent.len()), "n {n}: {}", sent.len());
        }
        let asked = PeerMessage::GetCert(CertRef::Tc {
            epoch: Epoch::ZERO,
            round: Round(1),
        });
        assert!(
            !scene
                .actor
                .hears(NOW, ValidatorIndex(1), &asked, &mut vec![])
        );
    }
}

#[test]
fn the_lane_forker_signs_two_batches_for_one_place() {
    let mut scene = Scene::new(Kind::LaneForker, 4);
    for seq in [1, 2] {
        let sent = scene.says(PeerMessage::Batch(scene.batch(seq).bytes().clone()));
        let mut headers: Vec<_> = sent
            .iter()
            .map(|s| match &s.message {
                PeerMessage::Batch(bytes) => {
                    Batch::parse(bytes.clone()).expect("whole").header().clone()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(sent.iter().all(|s| scene.verifies(&s.message)));
        assert!(headers.iter().all(|h| h.seq.0 == seq && h.lane == ME));
        headers.sort_by_key(|h| h.hash());
        headers.dedup();
        assert_eq!(headers.len(), 2);
        assert_eq!(to(&sent, 1).len() as u64, seq, "every other time both");
    }
}

#[test]
fn the_timeout_liar_breaks_its_lock_after_a_vote() {
    let mut scene = Scene::new(Kind::TimeoutLiar, 4);
    let first = scene.says(PeerMessage::Vote(scene.vote(Round(1), Digest([2; 32]))));
    assert_eq!(first.len(), 1, "there is no lock yet");
    let mut inflated = 0;
    for round in 2..=5 {
        let vote = scene.vote(Round(round), Digest([round as u8; 32]));
        let sent = scene.says(PeerMessage::Vote(vote.clone()));
        assert_eq!(sent[0].message, PeerMessage::Vote(vote.clone()));
        assert!(sent.len() > 1);
        for lie in &sent[1..] {
            let PeerMessage::Timeout(timeout) = &lie.message else {
                panic!("{lie:?}")
            };
            assert!(scene.verifies(&lie.message));
            let below = timeout.round >= vote.round && timeout.hqc_round < vote.parent_round;
            inflated += u32::from(!below);
        }
    }
    assert!(inflated >= 2);
    let timeout = Timeout::sign(
        Epoch::ZERO,
        Round(9),
        Round(8),
        Digest([8; 32]),
        ME,
        CHAIN,
        &scene.key,
    );
    let sent = scene.says(PeerMessage::Timeout(timeout));
    assert_ne!(to(&sent, 1), to(&sent, 2), "one story for each half");
}

#[test]
fn the_selective_sender_reaches_another_half_each_time() {
    let mut scene = Scene::new(Kind::SelectiveSender, 7);
    let mut reached = std::collections::BTreeSet::new();
    for round in 1..=4 {
        let vote = scene.vote(Round(round), Digest([round as u8; 32]));
        let sent = scene.says(PeerMessage::Vote(vote));
        assert_eq!(sent.len(), 3);
        reached.extend(sent.iter().map(|s| s.to));
    }
    assert_eq!(reached.len(), 6, "in the end everybody, and nobody all");
}

#[test]
fn the_replayer_says_again_what_was_said_and_forgets_the_middle() {
    let mut scene = Scene::new(Kind::Replayer, 4);
    let said: Vec<PeerMessage> = (1..=20)
        .map(|round| PeerMessage::Vote(scene.vote(Round(round), Digest([round as u8; 32]))))
        .collect();
    for message in &said {
        let mut out = Vec::new();
        assert!(scene.actor.hears(NOW, ValidatorIndex(1), message, &mut out));
        assert!(out.is_empty());
    }
    let sent = scene.ticks();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|s| said.contains(&s.message)));
}

#[test]
fn the_flooder_sends_its_rate_to_everybody_from_nothing() {
    let mut scene = Scene::new(Kind::Flooder, 4);
    let sent = scene.ticks();
    assert_eq!(sent.len(), 3 * 10);
    let vote = PeerMessage::Vote(scene.vote(Round(3), Digest([3; 32])));
    assert_eq!(scene.says(vote).len(), 1, "and takes part");
}

/// It answers everything, with nothing.
#[test]
fn the_hoarder_keeps_what_it_is_asked_for() {
    use falconet_types::snapshot::{Chunk, SnapshotOffer};
    let scene = Scene::new(Kind::Hoarder, 4);
    let to = Some(ValidatorIndex(2));
    let mut actor = scene.actor;
    let mut answer = |to, message| {
        let mut out = Vec::new();
        actor.says(NOW, to, message, &mut out);
        out.into_iter()
            .map(|sending| sending.message)
            .collect::<Vec<_>>()
    };
    let batch = PeerMessage::Batch(Bytes::from_static(b"a batch"));
    assert_eq!(answer(to, batch.clone()), vec![]);
    assert_eq!(
        answer(None, batch.clone()),
        vec![batch],
        "its own go to all"
    );
    let offer = PeerMessage::Snapshot(Box::new(SnapshotOffer {
        horizon: Height(5),
        heights: vec![Height(8)],
        manifest: None,
    }));
    assert_eq!(answer(to, offer.clone()), vec![offer]);
    let chunk = PeerMessage::Chunk(Chunk {
        height: Height(8),
        first: 0,
        last: 9,
        left: vec![],
        right: vec![],
        rows: Bytes::new(),
    });
    assert_eq!(answer(to, chunk), vec![]);
}

#[test]
fn the_slow_loris_is_late_and_not_silent() {
    let mut scene = Scene::new(Kind::SlowLoris, 4);
    for round in 1..=20 {
        let vote = PeerMessage::Vote(scene.vote(Round(round), Digest([3; 32])));
        let sent = scene.says(vote.clone());
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].message, vote);
        assert!((100_000..200_000).contains(&sent[0].after_us));
    }
}
