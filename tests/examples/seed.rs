//! Runs one seed of the simulator and tells every step:
//! `cargo run -p falconet-tests --example seed -- 4711`, or with the name of a kind of run:
//! `cargo run -p falconet-tests --example seed -- 4711 epochs`.

use std::process::ExitCode;

use falconet_tests::sim::campaign::{Kind, Plan};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let seed = args.next().and_then(|text| text.parse().ok());
    let name = args.next().unwrap_or_else(|| "random".into());
    let kind = Kind::ALL.iter().find(|(known, _)| *known == name);
    let (Some(seed), Some((_, kind))) = (seed, kind) else {
        eprintln!("usage: seed NUMBER [KIND]");
        return ExitCode::from(2);
    };
    let plan = Plan {
        kind: *kind,
        ..Plan::default()
    };
    match plan.builder(seed).tell().build().run() {
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
