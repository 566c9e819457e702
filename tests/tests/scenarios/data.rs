//! Groups 17 to 20: data that is withheld, forked, lied about, lost or sent twice.

use std::collections::BTreeMap;

use falconet_adversary::Kind;
use falconet_tests::actors::Named;
use falconet_tests::sim::actor::{Actor, Stage};
use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Fault, World, keys};
use falconet_types::batch::{Batch, Watermark};
use falconet_types::block::{LaneTip, SignedHeader};
use falconet_types::message::{GetBatches, PeerMessage};
use falconet_types::{Digest, Seq, ValidatorIndex};

use super::{index, order, run, scripted};

#[test]
fn s17_a_lane_owner_that_withholds_from_f_plus_1_to_2f_nodes() {
    for (n, seed) in [(4, 1), (4, 2), (7, 3), (7, 4)] {
        let mut world = World::builder(scripted(seed, n).calm_at(3_000_000))
            .actor(1, Named::new(Kind::Withholder))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
    }
}

#[test]
fn s17_a_lane_owner_that_forks_its_lane_is_proved_and_stalls_no_other() {
    let mut proved = 0;
    for seed in 1..=6 {
        let mut world = World::builder(scripted(seed, 4).calm_at(3_000_000))
            .actor(1, Named::new(Kind::LaneForker))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
        assert!(world.accusations().iter().all(|(_, whom)| *whom == 1));
        proved += usize::from(!world.accusations().is_empty());
    }
    assert!(proved >= 4, "proved in {proved} of 6 runs");
}

/// Acknowledges what it was sent and keeps nothing of it.
struct FalseHolder {
    seen: BTreeMap<ValidatorIndex, LaneTip>,
}

impl Actor for FalseHolder {
    fn name(&self) -> &'static str {
        "false-holder"
    }

    fn on_message(
        &mut self,
        stage: &mut Stage<'_>,
        _: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        if let PeerMessage::Batch(bytes) = &message {
            let batch = Batch::parse(bytes.clone()).ok()?;
            let tip = self.seen.entry(batch.header().lane).or_default();
            if batch.header().seq > tip.seq {
                *tip = batch.tip();
            }
            let epoch = batch.header().epoch;
            let tips = self.seen.iter().map(|(lane, tip)| (*lane, *tip)).collect();
            stage.broadcast(PeerMessage::Watermark(Watermark { epoch, tips }));
            return None;
        }
        // It has nothing to give.
        (!matches!(message, PeerMessage::GetBatches(_))).then_some(message)
    }
}

#[test]
fn s17_acknowledged_before_durable_and_then_gone() {
    for seed in 1..=4 {
        let actor = FalseHolder {
            seen: BTreeMap::new(),
        };
        let mut world = World::builder(scripted(seed, 4).calm_at(3_000_000))
            .actor(2, actor)
            .build();
        // Availability of what is committed is checked at each commit.
        let outcome = run(&mut world);
        assert!(outcome.acknowledged > 0);
    }
}

#[test]
fn s17_a_lane_owner_that_dies_with_a_backlog() {
    for seed in 1..=4 {
        let scenario = scripted(seed, 4)
            .calm_at(4_000_000)
            .at(
                300_000 + seed * 50_000,
                Fault::Crash(1, CrashPoint::WhileSending),
            )
            .at(2_500_000, Fault::Restart(Some(1)));
        let outcome = run(&mut World::new(scenario, false));
        assert!(outcome.height > 20, "height {}", outcome.height);
    }
}

/// What a leader does to its cut.
#[derive(Clone, Copy, Debug)]
enum CutLie {
    /// Names a batch further than anybody holds.
    Above,
    /// Names another hash for the newest batch.
    Unknown,
    /// Goes back to nothing.
    Backwards,
}

/// Lies about what is available whenever it leads.
struct CutLiar(CutLie);

impl Actor for CutLiar {
    fn name(&self) -> &'static str {
        "cut-liar"
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        let PeerMessage::Header(header) = &message else {
            return stage.send_after(0, to, message);
        };
        if header.author != stage.me {
            return stage.send_after(0, to, message);
        }
        let mut lie = header.header().clone();
        for tip in &mut lie.cut.0 {
            match self.0 {
                CutLie::Above => {
                    *tip = LaneTip {
                        seq: Seq(tip.seq.0 + 3),
                        hash: Digest([9; 32]),
                    }
                }
                CutLie::Unknown if tip.seq > Seq::ZERO => tip.hash = Digest([9; 32]),
                CutLie::Unknown => {}
                CutLie::Backwards => *tip = LaneTip::default(),
            }
        }
        let signed = SignedHeader::sign(lie, stage.chain.id, &stage.signer());
        stage.send_after(0, to, PeerMessage::Header(signed));
    }
}

#[test]
fn s18_cuts_above_the_thresholds_backwards_and_of_unknown_hashes_cost_the_leader_its_round() {
    for (seed, lie) in [CutLie::Above, CutLie::Unknown, CutLie::Backwards]
        .into_iter()
        .enumerate()
    {
        let scenario = scripted(seed as u64, 4).calm_at(3_000_000);
        let liar = order(&scenario)[1];
        let mut world = World::builder(scenario).actor(liar, CutLiar(lie)).build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "{lie:?}: height {}", outcome.height);
    }
}

/// Answers requests for batches with others, of its own making or of another place.
struct WrongAnswers;

impl Actor for WrongAnswers {
    fn name(&self) -> &'static str {
        "wrong-answers"
    }

    fn on_message(
        &mut self,
        stage: &mut Stage<'_>,
        from: usize,
        message: PeerMessage,
    ) -> Option<PeerMessage> {
        let PeerMessage::GetBatches(GetBatches {
            epoch, lane, first, ..
        }) = message
        else {
            return Some(message);
        };
        // Signed by the wrong key for any lane but its own; a second one, its own lane's.
        for lane in [lane, stage.me] {
            let txs = [keys::transfer(stage.chain.id, 2, 3, 999, 1).bytes().clone()];
            let before = LaneTip {
                seq: first.prev(),
                hash: match first {
                    Seq(1) => Digest::ZERO,
                    _ => Digest([5; 32]),
                },
            };
            let chain = stage.chain.id;
            let batch = Batch::seal(epoch, lane, before, &txs, chain, &stage.signer());
            stage.send(from, PeerMessage::Batch(batch.bytes().clone()));
        }
        None
    }
}

#[test]
fn s18_requests_answered_with_wrong_bytes_are_asked_elsewhere() {
    for seed in 1..=4 {
        let scenario = scripted(seed, 4)
            .calm_at(4_000_000)
            .at(300_000, Fault::Crash(0, CrashPoint::BeforeSync))
            .at(2_000_000, Fault::Restart(Some(0)));
        let mut world = World::builder(scenario).actor(2, WrongAnswers).build();
        let outcome = run(&mut world);
        assert!(outcome.height > 15, "height {}", outcome.height);
    }
}

#[test]
fn s18_all_honest_holders_but_one_crash_after_the_qc() {
    // f + 1 hold a lane's batches when its block is certified: the owner and one more. The owner
    // stays away for long; the other has to serve everybody.
    for seed in 1..=4 {
        let owner = 1;
        let holder = 2;
        let scenario = scripted(seed, 4)
            .calm_at(5_000_000)
            .at(700_000, Fault::Crash(owner, CrashPoint::AfterSync))
            .at(4_500_000, Fault::Restart(Some(owner)));
        let mut world = World::builder(scenario)
            .filter(move |passing| match passing.message {
                PeerMessage::Batch(bytes) if passing.from == owner && passing.to != holder => {
                    let own = Batch::parse(bytes.clone())
                        .is_ok_and(|batch| batch.header().lane == index(owner));
                    match own && passing.now_us < 700_000 {
                        true => falconet_tests::sim::Pass::Drop,
                        false => falconet_tests::sim::Pass::On,
                    }
                }
                _ => falconet_tests::sim::Pass::On,
            })
            .build();
        run(&mut world);
    }
}

#[test]
fn s20_a_transaction_submitted_to_all_validators_executes_once() {
    // The workload does it by itself; here every validator gets the same transfer at once.
    let mut world = World::new(scripted(1, 4), false);
    world
        .run_until(300_000, |_| false)
        .expect("nothing is wrong");
    let tx = keys::transfer(world.chain().id, 4, 5, 900, 7);
    for validator in 0..4 {
        world.submit_now(validator, tx.clone());
    }
    // That nothing executes twice is checked at each execution.
    let outcome = run(&mut world);
    assert!(outcome.acknowledged > 0);
}

#[test]
fn s20_a_transaction_that_one_validator_censors_commits_through_another() {
    let mut world = World::builder(scripted(2, 4))
        // Nothing of its lane reaches anybody.
        .actor(3, Censor)
        .build();
    world
        .run_until(300_000, |_| false)
        .expect("nothing is wrong");
    let tx = keys::transfer(world.chain().id, 4, 5, 901, 7);
    world.submit_now(3, tx.clone());
    world
        .run_until(700_000, |_| false)
        .expect("nothing is wrong");
    world.submit_now(0, tx);
    let outcome = run(&mut world);
    assert!(outcome.acknowledged > 0);
}

/// Takes transactions and never passes them on.
struct Censor;

impl Actor for Censor {
    fn name(&self) -> &'static str {
        "censor"
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        if !matches!(message, PeerMessage::Batch(_)) {
            stage.send_after(0, to, message);
        }
    }
}

#[test]
fn s20_nonces_with_gaps_and_out_of_order_execute() {
    let mut world = World::new(scripted(3, 4), false);
    world
        .run_until(200_000, |_| false)
        .expect("nothing is wrong");
    for (k, nonce) in [960, 940, 950, 930].into_iter().enumerate() {
        let tx = keys::transfer(world.chain().id, 6, 7, nonce, 1);
        world.submit_now(k, tx);
    }
    let outcome = run(&mut world);
    assert!(outcome.acknowledged >= 4);
}

#[test]
fn s19_a_node_that_was_away_for_long_fetches_what_the_others_kept() {
    let scenario = scripted(4, 4)
        .with_params(|params| params.history_heights_min = 64)
        .calm_at(8_000_000)
        .at(300_000, Fault::Crash(1, CrashPoint::AfterSync))
        .at(7_000_000, Fault::Restart(Some(1)));
    let outcome = run(&mut World::new(scenario, false));
    assert!(outcome.height > 90, "height {}", outcome.height);
}
