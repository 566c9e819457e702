//! Group 19: old history goes; whoever needs it gets a snapshot instead.

use falconet_adversary::Kind as ActorOf;
use falconet_tests::actors::Named;
use falconet_tests::sim::campaign::{self, Kind, Plan};
use falconet_tests::sim::keys::STAKE_UNIT;
use falconet_tests::sim::mutator::Mutator;
use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Actor, Fault, Outcome, Pass, Scenario, Stage, World};
use falconet_types::Epoch;
use falconet_types::message::PeerMessage;

#[track_caller]
fn run(world: &mut World) -> Outcome {
    match world.run_on() {
        Ok(outcome) => outcome,
        Err(violation) => panic!("at {} us: {violation}", world.now_us()),
    }
}

/// Heights that are kept: a snapshot is taken at every sixteenth.
const HISTORY: u64 = 64;

/// Little history, of which the last validator sleeps through much from 100 ms on.
fn sleeping(seed: u64, n: usize) -> Scenario {
    Scenario::scripted(seed, n)
        .with_history(HISTORY)
        .with_params(|params| {
            params.block_interval_ms_min = 15;
            params.block_interval_ms_idle = 30;
        })
        .at(100_000, Fault::Crash(n - 1, CrashPoint::AfterSync))
}

/// Four of them.
fn sleeper(seed: u64) -> Scenario {
    sleeping(seed, 4)
}

/// Runs until the sleeper fetches a snapshot after it started again at 4 s.
fn fetching(world: &mut World) {
    world.run_until(4_000_000, |_| false).unwrap();
    world.apply(Fault::Restart(Some(3))).unwrap();
    let begun = |world: &World| world.node(3).disk.files.is_gathering();
    let fetches = world.run_until(9_000_000, begun);
    assert_eq!(fetches, Ok(true), "it needs a snapshot");
}

#[test]
fn s19_a_node_that_slept_through_pruning_goes_on_from_a_snapshot() {
    for seed in 1..=4 {
        let outcome = run(&mut World::new(sleeper(seed).calm_at(6_000_000), false));
        assert!(outcome.snapshots >= 1, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn s19_a_node_dies_after_each_effect_of_fetching_and_installing_a_snapshot() {
    for k in 0..24 {
        let mut world = World::new(sleeper(1).calm_at(9_500_000), false);
        fetching(&mut world);
        let crashes = world.crashes();
        let crash = Fault::Crash(3, CrashPoint::Soon(k));
        world.apply(crash).unwrap();
        let died = world.run_until(9_400_000, |world| world.crashes() > crashes);
        assert_eq!(died, Ok(true), "effect {k}");
        world.apply(Fault::Restart(Some(3))).unwrap();
        let outcome = run(&mut world);
        assert!(outcome.snapshots >= 1, "effect {k}: {outcome:?}");
    }
}

#[test]
fn s19_what_was_gathered_before_a_crash_is_not_asked_for_again() {
    let mut world = World::new(sleeper(2).calm_at(9_500_000), false);
    fetching(&mut world);
    let some = world.run_until(9_000_000, |world| world.node(3).disk.files.gathered() >= 6);
    assert_eq!(some, Ok(true));
    let height = world.node(3).disk.files.gathering();
    world.apply(Fault::Crash(3, CrashPoint::Soon(0))).unwrap();
    let died = world.run_until(9_400_000, |world| world.node(3).live.is_none());
    assert_eq!(died, Ok(true));
    let left = world.node(3).disk.files.gathered();
    world.apply(Fault::Restart(Some(3))).unwrap();
    let started = world.node(3).disk.files.gathered();
    assert!(started <= left, "what was torn is cut off");
    assert_eq!(world.node(3).disk.files.gathering(), height);
    assert!(run(&mut world).snapshots >= 1);
}

#[test]
fn s19_servers_that_lie_and_stall_do_not_keep_a_node_from_its_snapshot() {
    for seed in 1..=4 {
        // One lies in all that it serves, one answers no chunk.
        // A snapshot must outlast a server's silence.
        let scenario = sleeping(seed, 7).with_history(2 * HISTORY);
        let scenario = scenario.calm_at(14_000_000);
        let mut world = World::builder(scenario)
            .actor(1, Mutator::new(1_000))
            .filter(|passing| match (passing.from, passing.message) {
                (2, PeerMessage::Chunk(_)) => Pass::Drop,
                _ => Pass::On,
            })
            .build();
        let outcome = run(&mut world);
        assert!(outcome.snapshots >= 1, "seed {seed}: {outcome:?}");
    }
}

/// What the first of the servers does.
#[derive(Debug, Clone, Copy)]
enum Server {
    Honest,
    /// Says what it has and gives nothing of it away, or a header at a time.
    Hoards,
    /// Says what it has, and then nothing.
    Stalls,
}

/// Virtual milliseconds from a sleeper's start to the blocks after its snapshot.
fn ms_to_catch_up(seed: u64, server: Server) -> u64 {
    let builder = World::builder(sleeper(seed).calm_at(30_000_000));
    let builder = match server {
        Server::Honest => builder,
        Server::Hoards => builder.actor(0, Named::new(ActorOf::Hoarder)),
        Server::Stalls => builder.filter(|passing| match (passing.from, passing.message) {
            (0, PeerMessage::Snapshot(offer)) if offer.manifest.is_some() => Pass::Drop,
            (0, PeerMessage::Chunk(_) | PeerMessage::Blocks(_)) => Pass::Drop,
            _ => Pass::On,
        }),
    };
    let mut world = builder.build();
    world.run_until(4_000_000, |_| false).unwrap();
    world.apply(Fault::Restart(Some(3))).unwrap();
    let start_us = world.now_us();
    let target = world.node(1).disk.last_committed();
    let caught_up = world.run_until(29_000_000, |world| {
        let status = world.status(3);
        status.is_some_and(|status| status.committed_height >= target)
    });
    assert_eq!(caught_up, Ok(true), "seed {seed}");
    let ms = (world.now_us() - start_us) / 1_000;
    assert!(run(&mut world).snapshots >= 1, "seed {seed}: by a snapshot");
    ms
}

#[test]
fn s19_who_serves_next_to_nothing_costs_a_sleeper_less_than_a_second() {
    for seed in 1..=6 {
        let alone = ms_to_catch_up(seed, Server::Honest);
        for server in [Server::Hoards, Server::Stalls] {
            let beside = ms_to_catch_up(seed, server);
            assert!(
                beside < alone + 1_000,
                "seed {seed}: {beside} ms where one {server:?}, {alone} ms without"
            );
        }
    }
}

#[test]
fn s19_a_joiner_that_missed_epochs_begins_with_a_snapshot_and_signs_later() {
    for seed in 1..=3 {
        let scenario = Scenario::scripted(seed, 4)
            .with_epochs(48, 1)
            .with_history(HISTORY)
            .with_params(|params| {
                params.block_interval_ms_min = 15;
                params.block_interval_ms_idle = 30;
            })
            .calm_at(14_000_000)
            .at(5_000_000, Fault::Restart(Some(4)))
            .at(5_100_000, Fault::Bond(4, 2 * STAKE_UNIT));
        let mut world = World::new(scenario, false);
        let joined = world.run_until(13_900_000, |world| {
            let newest = Epoch(world.eras().changes());
            let status = world.status(4);
            let signs = status.is_some_and(|status| status.not_signing.is_none());
            signs && world.eras().members(newest).contains(&4)
        });
        assert_eq!(joined, Ok(true), "seed {seed}: it has a place and signs");
        let outcome = run(&mut world);
        assert!(outcome.snapshots >= 1, "seed {seed}: {outcome:?}");
    }
}

/// Votes like everybody, and its proposals reach nobody.
pub(super) struct NoLeader;

impl Actor for NoLeader {
    fn name(&self) -> &'static str {
        "no-leader"
    }

    fn on_send(&mut self, stage: &mut Stage<'_>, to: Option<usize>, message: PeerMessage) {
        let own = matches!(&message, PeerMessage::Header(header) if header.author == stage.me);
        if !own {
            stage.send_after(0, to, message);
        }
    }
}

/// One leads badly, another sleeps, and the two others never lead one after the other: commit votes
/// commit, nothing else does.
pub(super) fn no_two_rounds_in_a_row(seed: u64) -> Scenario {
    Scenario::scripted(seed, 4)
        .with_history(HISTORY)
        .with_params(|params| {
            params.commit_votes = true;
            params.block_interval_ms_min = 5;
            params.block_interval_ms_idle = 10;
            params.round_timeout_ms = 20;
            params.round_timeout_ms_max = 40;
        })
}

/// Nobody can prove a newer snapshot then, and the sleeper is the one who is needed for that: what it
/// can begin with stays, with the blocks above it.
#[test]
fn s19_who_slept_while_commit_votes_alone_committed_finds_what_it_needs() {
    for seed in 1..=3 {
        let scenario = no_two_rounds_in_a_row(seed).calm_at(8_000_000);
        let mut world = World::builder(scenario).actor(1, NoLeader).build();
        let grown = |heights| move |world: &World| world.committed(0) > heights;
        assert_eq!(world.run_until(2_000_000, grown(2 * HISTORY)), Ok(true));
        world.apply(Fault::Crash(3, CrashPoint::AfterSync)).unwrap();
        let asleep = world.run_until(7_900_000, grown(5 * HISTORY));
        assert_eq!(asleep, Ok(true), "seed {seed}: commits go on");
        let (committed, proven) = (world.committed(0), world.node(0).newest_proven());
        let kept = world.node(0).disk.first_of_last_run();
        assert!(proven.is_some_and(|proven| proven.0 + 2 * HISTORY < committed && kept <= proven));
        let outcome = run(&mut world);
        assert!(outcome.height > committed, "seed {seed}: {outcome:?}");
    }
}

/// Seed 70 of the snapshots' scenario found it: a node that had committed the last block of an epoch
/// and not executed it, and that was shown what comes after, went over at its next start and took
/// blocks of one epoch for those of the next.
#[test]
fn s19_a_node_that_knows_later_epochs_executes_its_own_to_the_end_first() {
    let plan = Plan {
        kind: Kind::Snapshots,
        ..Plan::default()
    };
    for seed in [33, 48, 70, 92, 101] {
        if let Err(violation) = campaign::run(&plan, seed) {
            panic!("seed {seed}: {violation}");
        }
    }
}
