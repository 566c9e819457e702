//! `cargo run --release -p falconet-model [STATES]`: all cases, each until it is exhausted, has
//! failed, or STATES states (20 million by default) were generated. Exit status 1 when a sound
//! case fails or a flaw is not found.

use std::process::ExitCode;
use std::time::Instant;

use falconet_model::cases::{Case, FLAWED, SOUND};
use falconet_model::search::{Outcome, Search};
use falconet_model::step;

const STATES_DEFAULT: usize = 20_000_000;
/// Walks go a round further than the exhaustive search.
const WALK_ROUNDS: u8 = 4;
const WALK_SIBLINGS: u8 = 1;
/// A step of real cores costs about so many times one of the rules.
const STEP_COST: usize = 100;

fn main() -> ExitCode {
    let states = match std::env::args().nth(1).map(|arg| arg.parse()) {
        None => STATES_DEFAULT,
        Some(Ok(states)) => states,
        Some(Err(_)) => {
            eprintln!("usage: falconet-model [STATES]: states to generate in each case");
            return ExitCode::from(2);
        }
    };
    let mut well = true;
    println!(
        "{:<58} {:>12} {:>12} {:>6}  {:>7}  result",
        "case", "generated", "unique", "depth", "seconds"
    );
    for case in SOUND {
        well &= run(case, Search::Exhaustive(states), "");
    }
    for case in FLAWED {
        well &= run(case, Search::Walks { seed: 1, states }, ", random walks");
    }
    for case in SOUND {
        let deeper = if case.options.shape.rounds_after == 0 {
            case.reshaped(WALK_ROUNDS, WALK_SIBLINGS)
        } else {
            *case
        };
        let walks = Search::Walks { seed: 1, states };
        well &= run(&deeper, walks, ", random walks");
    }
    let states = states / STEP_COST;
    for setting in step::SETTINGS {
        let walks = Search::Walks { seed: 1, states };
        for (search, suffix) in [(Search::Exhaustive(states), ""), (walks, ", random walks")] {
            let started = Instant::now();
            let outcome = step::check(setting, search);
            well &= outcome.failures.is_empty();
            let name = format!("step function: {}{suffix}", setting.name);
            report(&name, &outcome, started, &verdict(&outcome));
        }
    }
    ExitCode::from(u8::from(!well))
}

fn run(case: &Case, search: Search, suffix: &str) -> bool {
    let started = Instant::now();
    let outcome = case.search(search);
    let (well, text) = match case.breaks {
        None => (
            outcome.failures.is_empty() && outcome.commits,
            verdict(&outcome),
        ),
        Some(property) => match outcome.failures.get(property) {
            Some(steps) => (true, format!("found in {} steps: {property}", steps.len())),
            None => (false, format!("NOT FOUND: {property}")),
        },
    };
    let name = match case.breaks {
        None => format!("{}{suffix}", case.name),
        Some(_) => format!("flaw: {}{suffix}", case.name),
    };
    report(&name, &outcome, started, &text);
    well
}

fn verdict(outcome: &Outcome) -> String {
    match outcome.failures.first_key_value() {
        Some((property, steps)) => format!("FAILED: {property}\n    {}", steps.join("\n    ")),
        None if outcome.complete => "holds, exhausted".into(),
        None => "holds as far as searched".into(),
    }
}

fn report(name: &str, outcome: &Outcome, started: Instant, text: &str) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{name:<58} {:>12} {:>12} {:>6}  {seconds:>7.1}  {text}",
        outcome.generated, outcome.unique, outcome.depth
    );
}
