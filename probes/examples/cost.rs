//! What a probe costs: run it alone for the cost when nobody watches, and while
//! `bpftrace -e 'usdt:FILE:falconet:fsync_start { @ = count(); }'` watches for the other.

use std::hint::black_box;
use std::time::Instant;

fn main() {
    const CALLS: u64 = 2_000_000;
    for _ in 0..3 {
        let start = Instant::now();
        for i in 0..CALLS {
            black_box(i);
        }
        let empty = start.elapsed();
        let start = Instant::now();
        for i in 0..CALLS {
            falconet_probes::fsync_start(black_box(i), i);
        }
        let probed = start.elapsed();
        let ns = probed.saturating_sub(empty).as_nanos() as f64 / CALLS as f64;
        println!("{ns:.2} ns a probe");
    }
}
