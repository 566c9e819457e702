//! Many seeds of the simulator. `FALCONET_SEEDS=N` runs N of them, `FALCONET_SEED_FIRST=S` starts
//! at S.

use falconet_hotstuff::{HotStuff, Misbehaviour};
use falconet_tests::sim::campaign::{Kind, Plan};
use falconet_tests::sim::{Outcome, Scenario, World, share};

/// Seeds that run without being asked for.
const SEEDS: u64 = 300;

fn run(scenario: Scenario) -> Outcome {
    match World::new(scenario, false).run() {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn many_seeds_agree_and_recover() {
    let report = share::run(Plan::default(), SEEDS);
    let runs = report.outcomes.len() as u64;
    // The seeds must do something, or they prove nothing.
    assert!(report.sum(|o| o.height) > 20 * runs);
    assert!(runs < 50 || report.sum(|o| o.crashes) > runs / 2);
}

/// A sync that a slow disk had begun before calm lasted on, and with it the node was away for more
/// rounds than calm allows.
#[test]
fn a_sync_that_was_slow_ends_with_the_fault() {
    let plan = Plan {
        kind: Kind::Twins,
        ..Plan::default()
    };
    share::holds(&plan, 39_500_055);
}

#[test]
fn equal_seeds_give_equal_logs() {
    for seed in [3, 4, 5, 6] {
        let first = run(Scenario::from_seed(seed));
        let second = run(Scenario::from_seed(seed));
        assert_eq!(first, second, "seed {seed}");
    }
    let (a, b) = (run(Scenario::from_seed(7)), run(Scenario::from_seed(8)));
    assert_ne!(a.log, b.log);
}

#[test]
fn a_quiet_network_commits_every_transaction_without_a_timeout() {
    for n in [1, 4, 7] {
        let outcome = run(Scenario::calm(1, n));
        assert!(outcome.acknowledged > 0, "{n} validators");
        assert_eq!(outcome.crashes, 0);
    }
}

/// Twins that do not stop when they meet their own signature elsewhere: two nodes vote, propose
/// and seal batches with one key, each in its own part of the network. (In `many_seeds` twins stop
/// as soon as they notice.)
#[test]
fn sustained_twins_fork_nobody_and_are_accused() {
    fn twin(_: usize, core: &mut HotStuff) {
        core.misbehave(Misbehaviour::Twin);
    }
    let (first, seeds) = share::seeds(SEEDS);
    let mut accused = 0;
    let mut runs = 0;
    for seed in first..first + seeds {
        let scenario = Scenario::from_seed(seed);
        if scenario.twins.is_empty() {
            continue;
        }
        match World::builder(scenario).setup(twin).build().run() {
            Ok(outcome) => accused += usize::from(outcome.accusations > 0),
            Err(violation) => panic!("with sustained twins: {violation}"),
        }
        runs += 1;
    }
    println!("{runs} runs with twins, accused in {accused}");
    assert!(
        runs < 20 || accused > runs / 4,
        "twins were accused in {accused} of {runs} runs"
    );
}

/// The checkers notice when a rule is off: each of these flaws is found within a few seeds.
#[test]
fn seeded_bugs_are_found() {
    fn find(name: &str, setup: fn(usize, &mut HotStuff)) {
        const TRIES: u64 = 200;
        for seed in 1..=TRIES {
            let run = World::builder(Scenario::from_seed(seed))
                .setup(setup)
                .build();
            // A flaw may also show as a broken assertion of another core.
            if let Err(violation) = run.run() {
                let what = violation.lines().next().unwrap_or_default().to_owned();
                println!("{name}: {what}");
                return;
            }
        }
        panic!("{name} was not found in {TRIES} seeds");
    }
    find("commit across gaps", |_, core| {
        core.misbehave(Misbehaviour::CommitAcrossGaps)
    });
    find("vote after timeout", |_, core| {
        core.misbehave(Misbehaviour::VoteAfterTimeout)
    });
    find("forgotten lock", |_, core| {
        core.misbehave(Misbehaviour::ForgetLock)
    });
}
