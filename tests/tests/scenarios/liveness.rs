//! Groups 10 to 16: whatever is silent, slow, selective, split, dead or loud, blocks go on, or go
//! on again within a bound of rounds.

use falconet_adversary::Kind;
use falconet_tests::actors::Named;
use falconet_tests::sim::network::{Loss, Profile};
use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Fault, Pass, Scenario, World};
use falconet_types::message::{PeerMessage, kind};

use super::{leader, order, round_of, run, scripted};

#[test]
fn s10_a_silent_leader_costs_its_rounds_only() {
    for silent in 0..4 {
        let outcome = run(&mut World::new(
            scripted(1, 4).with_silent(&[silent]),
            false,
        ));
        assert!(outcome.height > 10, "height {}", outcome.height);
    }
}

/// Rounds that failed in a run with one silent validator, per hundred, after the windows in which
/// nothing is known of it.
fn failed_percent(by_reputation: bool, seed: u64) -> u64 {
    let silent = 2;
    let scenario = scripted(seed, 4)
        .calm_at(6_000_000)
        .with_silent(&[silent])
        .with_params(|params| {
            params.leader_reputation = by_reputation;
            params.block_interval_ms_idle = 10;
        });
    let mut world = World::new(scenario, false);
    let progress = |world: &World| {
        let node = world.status(0).expect("it runs");
        (node.round.0, node.counters.rounds_by_tc)
    };
    world.run_until(3_000_000, |_| false).unwrap();
    let (from, failed_before) = progress(&world);
    assert!(from > 64, "round {from}: two windows are over");
    world.run_until(5_900_000, |_| false).unwrap();
    let (to, failed) = progress(&world);
    run(&mut world);
    (failed - failed_before) * 100 / (to - from)
}

#[test]
fn s10_a_silent_leader_is_passed_over_by_reputation() {
    for seed in 1..=3 {
        let (plain, by_reputation) = (failed_percent(false, seed), failed_percent(true, seed));
        println!("seed {seed}: {plain} % of rounds failed, {by_reputation} % by reputation");
        assert!(plain >= 15, "{plain} %");
        assert!(by_reputation <= 6, "{by_reputation} %");
    }
}

/// Who may be faulty is counted by weight: less than a third of it can be most of the validators.
/// Without two rounds in a row that a correct one leads nothing would ever be committed.
#[test]
fn s10_many_small_validators_are_silent() {
    for (weights, silent) in [
        (&[3, 1][..], &[1][..]),
        (&[7, 1, 1, 1], &[1, 2, 3]),
        (&[1, 4, 1, 4, 1, 4, 1], &[0, 2, 4, 6]),
    ] {
        for seed in 1..=4 {
            let scenario = scripted(seed, weights.len())
                .with_weights(weights)
                .with_silent(silent)
                .calm_at(20_000_000)
                .with_params(|params| {
                    params.commit_votes = false;
                    params.leader_reputation = seed % 2 == 0;
                });
            let mut world = World::new(scenario, false);
            let loud = world.correct().next().expect("some are");
            let grew = world.run_until(19_000_000, |world| world.committed(loud) > 20);
            assert_eq!(grew, Ok(true), "{weights:?}: {}", world.committed(loud));
            run(&mut world);
        }
    }
}

#[test]
fn s10_f_adjacent_silent_leaders() {
    let scenario = scripted(2, 7);
    let order = order(&scenario);
    let outcome = run(&mut World::new(scenario.with_silent(&order[2..4]), false));
    assert!(outcome.height > 5, "height {}", outcome.height);
}

#[test]
fn s10_a_leader_that_proposes_to_exactly_f_plus_1_q_minus_1_and_q_nodes() {
    // Of seven: f = 2, Q = 5. The leader itself is one of them.
    for nodes in [3, 4, 5] {
        let scenario = scripted(3, 7);
        let author = order(&scenario)[2];
        let mut world = World::builder(scenario)
            .filter(move |passing| {
                let far = (passing.to + 7 - author) % 7 >= nodes;
                match passing.message {
                    PeerMessage::Header(_) if passing.from == author && far => Pass::Drop,
                    _ => Pass::On,
                }
            })
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "{nodes}: height {}", outcome.height);
    }
}

#[test]
fn s10_a_leader_that_proposes_just_before_the_timer() {
    for late_us in [150_000, 195_000, 199_500, 205_000] {
        let scenario = scripted(4, 4);
        let author = order(&scenario)[1];
        let mut world = World::builder(scenario)
            .filter(move |passing| match passing.message {
                PeerMessage::Header(header) if header.author.at() == author => Pass::Later(late_us),
                _ => Pass::On,
            })
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "{late_us}: {}", outcome.height);
    }
}

#[test]
fn s11_votes_that_reach_one_node_only_make_the_others_pull_the_certificate() {
    for seed in 1..=4 {
        let mut world = World::builder(scripted(seed, 4))
            .filter(|passing| match passing.message {
                // Two of four votes reach nobody but node 0: it alone sees quorums.
                PeerMessage::Vote(vote) if vote.voter.at() >= 2 && passing.to != 0 => Pass::Drop,
                _ => Pass::On,
            })
            .record()
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "height {}", outcome.height);
        let pulled = world
            .sent()
            .iter()
            .filter(|sent| sent.from != 0)
            .any(|sent| matches!(sent.message, PeerMessage::GetCert(_)));
        assert!(pulled, "nobody asked for a certificate");
    }
}

#[test]
fn s11_timeouts_that_reach_some_only_end_the_round_for_all() {
    for seed in 1..=4 {
        let scenario = scripted(seed, 4);
        let silent = order(&scenario)[0];
        let mut world = World::builder(scenario.with_silent(&[silent]))
            .filter(move |passing| match passing.message {
                // One of the three that are left hears the timeouts of one other only.
                PeerMessage::Timeout(timeout)
                    if passing.to == (silent + 1) % 4
                        && timeout.author.at() == (silent + 2) % 4 =>
                {
                    Pass::Drop
                }
                _ => Pass::On,
            })
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 5, "height {}", outcome.height);
    }
}

#[test]
fn s11_a_selective_sender_hides_no_certificate() {
    for n in [4, 7] {
        let mut world = World::builder(scripted(5, n))
            .actor(1, Named::new(Kind::SelectiveSender))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 15, "height {}", outcome.height);
    }
}

/// What they keep back is fetched from others at once: all their rounds bring blocks, and the timer,
/// which begins at a second, soon is what the network needs.
#[test]
fn s11_selective_senders_cost_no_round() {
    for n in [4, 7] {
        let scenario = Scenario::scripted(9, n)
            .calm_at(6_000_000)
            .with_params(|params| {
                params.round_timeout_ms = 1_000;
                params.block_interval_ms_idle = params.block_interval_ms_min;
            });
        let mut builder = World::builder(scenario);
        for validator in 0..(n - 1) / 3 {
            builder = builder.actor(validator, Named::new(Kind::SelectiveSender));
        }
        let mut world = builder.build();
        let mut at = |us| {
            let over = world.run_until(us, |_| false);
            assert!(!over.expect("nobody disagrees"));
            (world.highest_round().0, world.committed(n - 1))
        };
        let (begin, end) = (at(3_000_000), at(6_000_000));
        let (rounds, blocks) = (end.0 - begin.0, end.1 - begin.1);
        println!("n = {n}: {rounds} rounds, {blocks} blocks");
        assert!(blocks > 200, "{blocks} blocks in three seconds");
        assert!(
            rounds * 20 < blocks * 21,
            "{rounds} rounds, {blocks} blocks"
        );
    }
}

#[test]
fn s12_a_group_with_the_qc_and_a_group_with_the_tc_find_together() {
    let mut split = 0;
    for round in 3..=8 {
        let mut world = World::builder(scripted(round, 4))
            .filter(move |passing| match passing.message {
                // Node 0 alone gets the votes of this round, the others get its timeouts; its
                // certificates are not to be had for a while.
                PeerMessage::Vote(vote) if vote.round.0 == round && passing.to != 0 => Pass::Drop,
                PeerMessage::Timeout(timeout) if timeout.round.0 == round && passing.to == 0 => {
                    Pass::Drop
                }
                PeerMessage::Qc(qc) if qc.round.0 == round && passing.now_us < 1_200_000 => {
                    Pass::Drop
                }
                PeerMessage::Tc(tc) if tc.round.0 == round && passing.now_us < 1_200_000 => {
                    Pass::Drop
                }
                _ => Pass::On,
            })
            .build();
        let happened = world.run_until(1_200_000, |world| {
            let status = |i| world.status(i).expect("nobody is down");
            let holds_qc = status(0).high_qc_round.0 == round;
            let holds_tc = (1..4)
                .any(|i| status(i).high_tc_round.0 == round && status(i).high_qc_round.0 < round);
            holds_qc && holds_tc
        });
        split += usize::from(happened.expect("nobody disagrees"));
        run(&mut world);
    }
    assert!(split >= 3, "knowledge was split in {split} of 6 runs");
}

#[test]
fn s13_all_crash_at_once_and_restart() {
    for seed in 1..=6 {
        let scenario = scripted(seed, 4)
            .at(300_000 + 61_000 * seed, Fault::CrashAll)
            .at(800_000 + 61_000 * seed, Fault::Restart(None));
        let outcome = run(&mut World::new(scenario, false));
        assert_eq!(outcome.crashes, 4);
    }
}

#[test]
fn s13_the_last_holder_of_the_locked_qc_is_the_node_that_crashed() {
    for round in 4..=9 {
        let holder = (round % 4) as usize;
        let scenario = scripted(round, 4);
        let mut world = World::builder(scenario)
            .filter(move |passing| match passing.message {
                // The quorum of this round is visible to one node, which tells nobody.
                PeerMessage::Vote(vote) if vote.round.0 == round && passing.to != holder => {
                    Pass::Drop
                }
                message
                    if passing.from == holder
                        && passing.now_us < 1_500_000
                        && round_of(message).is_none_or(|r| r > round) =>
                {
                    Pass::Drop
                }
                _ => Pass::On,
            })
            .build();
        let certified = world
            .run_until(1_500_000, |world| {
                world
                    .status(holder)
                    .is_some_and(|status| status.high_qc_round.0 >= round)
            })
            .expect("nothing is wrong");
        assert!(certified, "round {round} was certified for its holder");
        world
            .apply(Fault::Crash(holder, CrashPoint::AfterSync))
            .expect("a crash");
        run(&mut world);
    }
}

#[test]
fn s14_messages_lost_for_long_and_timers_at_their_cap() {
    let all = Loss {
        from: None,
        to: None,
        kinds: Vec::new(),
        per_mille: 1_000,
    };
    for n in [4, 7] {
        let scenario = scripted(1, n)
            .calm_at(20_000_000)
            .at(500_000, Fault::Lose(vec![all.clone()]));
        run(&mut World::new(scenario, false));
    }
}

#[test]
fn s14_asymmetric_and_partial_partitions() {
    // Node 0 hears nobody, then nobody hears node 1, then 2 and 3 do not reach each other.
    let scenario = scripted(2, 4)
        .calm_at(4_000_000)
        .at(300_000, Fault::Deaf(vec![(1, 0), (2, 0), (3, 0)]))
        .at(1_300_000, Fault::Deaf(vec![(1, 0), (1, 2), (1, 3)]))
        .at(2_300_000, Fault::Deaf(vec![(2, 3), (3, 2)]));
    let outcome = run(&mut World::new(scenario, false));
    assert!(outcome.height > 20, "height {}", outcome.height);
}

#[test]
fn s14_one_message_in_a_hundred_is_lost() {
    let lossy = Profile {
        loss: 10,
        ..Profile::CALM
    };
    let scenario = scripted(3, 4)
        .calm_at(5_000_000)
        .at(0, Fault::Network(lossy));
    let outcome = run(&mut World::new(scenario, false));
    assert!(outcome.height > 40, "height {}", outcome.height);
}

#[test]
fn s14_one_slow_link_one_slow_disk_one_slow_cpu() {
    let faults = [
        Fault::SlowLink(0, 1, 120_000),
        Fault::SlowDisk(2, (100_000, 180_000)),
        Fault::SlowCpu(3, 5_000),
    ];
    for (k, fault) in faults.into_iter().enumerate() {
        let scenario = scripted(k as u64, 4)
            .calm_at(4_000_000)
            .at(100_000, fault.clone());
        let outcome = run(&mut World::new(scenario, false));
        assert!(outcome.height > 15, "{fault:?}: {}", outcome.height);
    }
}

#[test]
fn s15_clock_jumps() {
    let mut scenario = scripted(1, 4).calm_at(5_000_000);
    for (k, jump_ms) in [400, -400, 3_000, -3_000, 86_400_000, -86_400_000]
        .into_iter()
        .enumerate()
    {
        let at = 300_000 + 700_000 * k as u64;
        scenario = scenario
            .at(at, Fault::ClockJump(k % 4, jump_ms))
            .at(at + 350_000, Fault::ClockJump(k % 4, -jump_ms));
    }
    run(&mut World::new(scenario, false));
}

#[test]
fn s15_a_machine_that_stands_still_for_thirty_seconds() {
    let scenario = scripted(2, 4)
        .calm_at(33_000_000)
        .at(500_000, Fault::Stall(1, 30_000_000));
    let outcome = run(&mut World::new(scenario, false));
    assert!(outcome.height > 100, "height {}", outcome.height);
}

#[test]
fn s15_a_leader_whose_clock_is_at_the_limits() {
    // 500 ms is the allowed drift.
    for skew_ms in [499, 501, -60_000] {
        let scenario = scripted(3, 4).at(0, Fault::ClockJump(2, skew_ms));
        let outcome = run(&mut World::new(scenario, false));
        assert!(outcome.height > 10, "{skew_ms} ms: {}", outcome.height);
    }
}

#[test]
fn s16_a_flood_of_everything_stops_nobody() {
    for seed in 1..=2 {
        let mut world = World::builder(scripted(seed, 4).calm_at(1_000_000))
            .actor(3, Named::flooder(1_000))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 15, "height {}", outcome.height);
        assert!(outcome.refused > 100, "{} refused", outcome.refused);
        for honest in 0..3 {
            let live = world.node(honest).live.as_ref().expect("it runs");
            let waiting = live.mempool.status();
            assert!(waiting.requests <= falconet_mempool::limits::REQUESTS_MAX);
        }
    }
}

#[test]
fn s16_a_slow_loris_costs_its_own_rounds_at_most() {
    for n in [4, 7] {
        let mut world = World::builder(scripted(4, n).calm_at(4_000_000))
            .actor(n - 1, Named::new(Kind::SlowLoris))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 10, "height {}", outcome.height);
    }
}

#[test]
fn s16_old_messages_again_and_again_move_nobody() {
    for n in [4, 7] {
        let mut world = World::builder(scripted(5, n).calm_at(3_000_000))
            .actor(0, Named::new(Kind::Replayer))
            .build();
        let outcome = run(&mut world);
        assert!(outcome.height > 20, "height {}", outcome.height);
    }
}

#[test]
fn s11_the_next_leader_alone_cannot_hide_a_quorum() {
    // Votes go to all: a leader that keeps the certificate to itself changes nothing.
    let scenario = scripted(6, 4);
    let hider = leader(&World::new(scenario.clone(), false), 2);
    let mut world = World::builder(scenario)
        .filter(move |passing| {
            let certificate = [kind::QC, kind::TC, kind::CERT_REFS];
            match passing.from == hider && certificate.contains(&passing.message.kind()) {
                true => Pass::Drop,
                false => Pass::On,
            }
        })
        .build();
    let outcome = run(&mut world);
    assert!(outcome.height > 20, "height {}", outcome.height);
}
