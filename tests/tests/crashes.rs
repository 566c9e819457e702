//! A crash at every effect boundary: one small run, again and again, in which a node dies right
//! after its first, second, third, … record, sync or message. It restarts a little later from what
//! its disk has, and everything must hold as ever.

use falconet_tests::sim::scenario::CrashPoint;
use falconet_tests::sim::{Fault, Scenario, World};

/// When calm begins, microseconds: the run in which crashes happen.
const RUN_US: u64 = 400_000;
/// A node that died is down for so long, microseconds.
const DOWN_US: u64 = 40_000;
/// A run with fewer boundaries proves little.
const EFFECTS_MIN: u64 = 80;

fn scenario(node: usize) -> Scenario {
    // Another node, another seed: other transactions and other leaders.
    Scenario::scripted(7 + node as u64, 4).calm_at(RUN_US)
}

fn effects_of(node: usize) -> u64 {
    let mut world = World::new(scenario(node), false);
    world
        .run_until(RUN_US - 1, |_| false)
        .expect("nothing goes wrong");
    world.effects(node)
}

/// Crashes `node` after each effect whose number leaves this rest, and says how often it died.
fn crash_after_each(node: usize, rest: u64) -> u64 {
    let effects = effects_of(node);
    assert!(effects >= EFFECTS_MIN, "only {effects} effects");
    let mut crashes = 0;
    for k in (1..=effects).filter(|k| k % 4 == rest) {
        let crash = Fault::Crash(node, CrashPoint::Effect(k));
        let mut world = World::new(scenario(node).at(0, crash), false);
        let run = |world: &mut World| {
            if world.run_until(RUN_US - 1, |world| world.crashes() > 0)? {
                let back = world.now_us() + DOWN_US;
                world.run_until(back, |_| false)?;
                world.apply(Fault::Restart(Some(node)))?;
            }
            world.run_on()
        };
        match run(&mut world) {
            Ok(outcome) => crashes += outcome.crashes,
            Err(violation) => panic!("crash of node {node} after effect {k}: {violation}"),
        }
    }
    assert!(
        crashes * 10 >= effects / 4 * 9,
        "{crashes} crashes at {effects} effects"
    );
    crashes
}

/// A node for each quarter of the boundaries; with `FALCONET_CRASHES=all` all of them for each.
fn crash(node: usize) {
    let all = std::env::var("FALCONET_CRASHES").is_ok_and(|text| text == "all");
    let crashes: u64 = if all {
        (0..4).map(|rest| crash_after_each(node, rest)).sum()
    } else {
        crash_after_each(node, node as u64)
    };
    println!("node {node}: {crashes} crashes");
}

#[test]
fn node_0_dies_after_each_effect() {
    crash(0);
}

#[test]
fn node_1_dies_after_each_effect() {
    crash(1);
}

#[test]
fn node_2_dies_after_each_effect() {
    crash(2);
}

#[test]
fn node_3_dies_after_each_effect() {
    crash(3);
}
