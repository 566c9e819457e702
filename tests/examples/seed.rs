//! Runs one seed of the simulator and tells every step:
//! `cargo run -p falconet-tests --example seed -- 4711`.

use std::process::ExitCode;

use falconet_tests::sim::{Scenario, World};

fn main() -> ExitCode {
    let seed = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(seed) = seed else {
        eprintln!("usage: seed NUMBER");
        return ExitCode::from(2);
    };
    match World::new(Scenario::from_seed(seed), true).run() {
        Ok(outcome) => {
            println!("{outcome:#?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}
