//! Many seeds of the simulator. `FALCONET_SEEDS=N` runs N of them, `FALCONET_SEED_FIRST=S` starts
//! at S.

use falconet_tests::sim::{Outcome, Scenario, World};

/// Seeds that run without being asked for.
const SEEDS: u64 = 300;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => otherwise,
    }
}

fn run(scenario: Scenario) -> Outcome {
    match World::new(scenario, false).run() {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn many_seeds_agree_and_recover() {
    let first = number("FALCONET_SEED_FIRST", 1);
    let seeds = number("FALCONET_SEEDS", SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|k| {
                scope.spawn(move || {
                    let mine = (first..first + seeds).filter(move |seed| seed % threads == k);
                    mine.map(|seed| run(Scenario::from_seed(seed)))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "{} seeds: {} events, {} blocks, {} crashes, {} transactions; slowest recovery {} ms",
        outcomes.len(),
        sum(|o| o.events),
        sum(|o| o.height),
        sum(|o| o.crashes),
        sum(|o| o.acknowledged as u64),
        outcomes.iter().map(|o| o.recovery_us).max().unwrap_or(0) / 1_000,
    );
    // The seeds must do something, or they prove nothing.
    assert!(sum(|o| o.height) > 20 * outcomes.len() as u64);
    assert!(outcomes.len() < 50 || sum(|o| o.crashes) > outcomes.len() as u64 / 2);
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

/// Found by a seed: a torn turn left headers on the disk but no safety record, so the restarted
/// node refused to sign.
#[test]
fn regression_a_crash_in_the_first_turn_leaves_a_usable_log() {
    run(Scenario::from_seed(837));
}

/// Found by a seed: a torn turn left a certificate with the node's own vote on the disk, but not
/// the safety record that knew of the vote.
#[test]
fn regression_own_certificates_are_never_ahead_of_the_safety_record() {
    run(Scenario::from_seed(2094));
}
