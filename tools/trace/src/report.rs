//! What is printed: a line a second, a table with bars at the end, or JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::follow::{Follower, STEPS};

/// Quantiles that are reported.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// Width of the longest bar, characters.
const BAR_CHARS: u64 = 24;

/// One line: the median of each step, microseconds.
pub fn line(follower: &Follower) -> String {
    let mut out = format!(
        "{} blocks, {} whole batches, {} transactions; p50 us:",
        follower.blocks_executed, follower.batches_whole, follower.txs_finished
    );
    for ((what, step), histogram) in STEPS.iter().zip(&follower.histograms) {
        if *what == "transaction" && !histogram.is_empty() {
            let us = histogram.value_at_quantile(0.5) / 1000;
            write!(out, "  {step} {us}").expect("memory");
        }
    }
    out
}

/// The table of all steps; the bar is the step's share of the median way.
pub fn table(follower: &Follower, lost: u64) -> String {
    let mut out = format!(
        "{:<13} {:<22} {:>8} {:>9} {:>9} {:>9} {:>9}  share of p50\n",
        "WHAT", "STEP (us)", "COUNT", "p50", "p90", "p99", "MAX"
    );
    for ((what, step), histogram) in STEPS.iter().zip(&follower.histograms) {
        let whole: u64 = STEPS
            .iter()
            .zip(&follower.histograms)
            .filter(|((other, _), _)| other == what)
            .map(|(_, histogram)| histogram.value_at_quantile(0.5))
            .sum();
        let p50 = histogram.value_at_quantile(0.5);
        let bar = (p50 * BAR_CHARS).checked_div(whole).unwrap_or(0) as usize;
        write!(out, "{what:<13} {step:<22} {:>8}", histogram.len()).expect("memory");
        for (_, quantile) in QUANTILES {
            let us = histogram.value_at_quantile(quantile) as f64 / 1e3;
            write!(out, " {us:>9.1}").expect("memory");
        }
        let max_us = histogram.max() as f64 / 1e3;
        writeln!(out, " {max_us:>9.1}  {}", "#".repeat(bar)).expect("memory");
    }
    if lost > 0 {
        writeln!(out, "{lost} events were lost: the machine is too busy").expect("memory");
    }
    out
}

/// Everything, for programs. Times in microseconds.
pub fn json(follower: &Follower, lost: u64) -> Value {
    let steps = STEPS.iter().zip(&follower.histograms);
    let steps: Vec<Value> = steps
        .map(|((what, step), histogram)| {
            let mut row = json!({
                "what": what,
                "step": step,
                "count": histogram.len(),
                "max_us": histogram.max() as f64 / 1e3,
            });
            for (name, quantile) in QUANTILES {
                let us = histogram.value_at_quantile(quantile) as f64 / 1e3;
                row[format!("{name}_us")] = json!(us);
            }
            let buckets = histogram.iter_log(1000, 2.0);
            row["histogram"] = buckets
                .filter(|bucket| bucket.count_since_last_iteration() > 0)
                .map(|bucket| {
                    let up_to_us = bucket.value_iterated_to() as f64 / 1e3;
                    json!({ "up_to_us": up_to_us, "count": bucket.count_since_last_iteration() })
                })
                .collect();
            row
        })
        .collect();
    json!({
        "blocks_executed": follower.blocks_executed,
        "batches_whole": follower.batches_whole,
        "txs_finished": follower.txs_finished,
        "events_lost": lost,
        "steps": steps,
    })
}
