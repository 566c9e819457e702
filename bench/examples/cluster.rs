//! A benchmark in a few lines: four validators, an open-loop load, a report.
//!
//! ```sh
//! cargo build --release
//! cargo run --release -p falconet-bench --example cluster -- target/release/falconet falcon1024 2000 10
//! ```
//!
//! `falconet bench cluster` is the same with options.

use std::path::PathBuf;
use std::time::Duration;

use falconet_bench::progress;
use falconet_bench::run::{ClusterBench, Watch, Wish, bench_cluster};

const USAGE: &str = "usage: cluster FALCONET falcon1024|falcon512|opaque RATE SECONDS [VALIDATORS]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [exe, load, rate, seconds, rest @ ..] = args.as_slice() else {
        return Err(USAGE.into());
    };
    let bench = ClusterBench {
        load: load.parse()?,
        rate: rate.parse()?,
        duration: Duration::from_secs(seconds.parse()?),
        validators: rest.first().map_or(Ok(4), |count| count.parse())?,
        ..ClusterBench::new(PathBuf::from(exe))
    };
    let mut shown = 0;
    let (report, _) = bench_cluster(&bench, &progress::bars(), &mut |event| {
        match event {
            Watch::Live(live) if live.elapsed_s as u64 > shown => {
                shown = live.elapsed_s as u64;
                eprintln!(
                    "{shown:>3} s  {:>8.0} tx/s  p50 {:>6.1} ms  p99 {:>6.1} ms  {} in flight",
                    live.committed_tps,
                    live.p50_ms.unwrap_or_default(),
                    live.p99_ms.unwrap_or_default(),
                    live.in_flight
                );
            }
            Watch::Live(_) => {}
            Watch::Exit(exit) => eprintln!("{exit}"),
        }
        Wish::Continue
    })?;
    print!("{report}");
    Ok(())
}
