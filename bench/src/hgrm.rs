//! Percentile tables in the `.hgrm` text format, which HdrHistogram's plotters read.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Ticks for each halving of the distance to 100 %, as HdrHistogram's own writers use.
const TICKS_PER_HALF_DISTANCE: u32 = 5;
/// Recorded unit to printed unit: histograms hold microseconds, the table milliseconds.
const US_PER_MS: f64 = 1_000.0;

/// The table of a histogram of microseconds, values printed in milliseconds.
#[must_use]
pub fn to_hgrm(histogram_us: &Histogram<u64>) -> String {
    let mut out = String::new();
    let total = histogram_us.len();
    let _ = writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    if total > 0 {
        for step in histogram_us.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / US_PER_MS;
            let count = histogram_us.count_between(0, step.value_iterated_to());
            let _ = write!(out, "{value:>12.3} {quantile:>14.12} {count:>10}");
            let _ = if quantile < 1.0 {
                writeln!(out, " {:>14.2}", 1.0 / (1.0 - quantile))
            } else {
                writeln!(out, " {:>14}", "inf")
            };
        }
    }
    let _ = writeln!(
        out,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        histogram_us.mean() / US_PER_MS,
        histogram_us.stdev() / US_PER_MS
    );
    let _ = writeln!(
        out,
        "#[Max     = {:>12.3}, Total count    = {total:>12}]",
        if total == 0 {
            0.0
        } else {
            histogram_us.max() as f64 / US_PER_MS
        },
    );
    let _ = writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram_us.buckets(),
        histogram_us.distinct_values()
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_at_one_with_the_whole_count() {
        let mut h = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        for us in 1..=1_000u64 {
            h.record(us * 1_000).expect("in range");
        }
        let text = to_hgrm(&h);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(rows.len() > 10, "{text}");
        let last = rows.last().expect("rows");
        assert_eq!(last[1], "1.000000000000");
        assert_eq!(last[2], "1000");
        assert_eq!(last[3], "inf");
        let values: Vec<f64> = rows
            .iter()
            .map(|row| row[0].parse().expect("a number"))
            .collect();
        assert!(values.is_sorted());
        let half = rows
            .iter()
            .find(|row| row[1].starts_with("0.50"))
            .expect("the median");
        let median: f64 = half[0].parse().expect("a number");
        assert!((median - 500.0).abs() < 1.0, "{median}");
        assert!(text.contains("#[Max     =     1000"), "{text}");
    }

    #[test]
    fn an_empty_histogram_gives_a_table_without_rows() {
        let h = Histogram::<u64>::new_with_bounds(1, 1_000, 3).expect("bounds");
        let text = to_hgrm(&h);
        assert_eq!(
            text.lines().filter(|line| !line.starts_with('#')).count(),
            2,
            "{text}"
        );
        assert!(text.contains("Total count    =            0"));
    }
}
