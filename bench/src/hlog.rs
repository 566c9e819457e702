//! Interval logs in the `.hlog` format of HdrHistogram, version 1.3: a line a second with the
//! whole histogram of that second, which its log analyser and plotters read.
//!
//! A line: start and length in seconds, the longest value in milliseconds, the histogram in V2
//! compressed form as base64. Recorded values are microseconds.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};

const US_PER_MS: f64 = 1_000.0;

/// The histogram of one interval, compressed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    start_s: f64,
    length_s: f64,
    max_ms: f64,
    compressed: Vec<u8>,
}

impl Entry {
    /// Compresses a histogram of microseconds.
    #[must_use]
    pub fn new(start_s: f64, length_s: f64, histogram_us: &Histogram<u64>) -> Self {
        let mut compressed = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram_us, &mut compressed)
            .expect("writing to memory does not fail, and the counts fit");
        let max_us = if histogram_us.is_empty() {
            0
        } else {
            histogram_us.max()
        };
        Self {
            start_s,
            length_s,
            max_ms: max_us as f64 / US_PER_MS,
            compressed,
        }
    }
}

/// The log of a run.
#[must_use]
pub fn to_hlog(entries: &[Entry]) -> String {
    let mut out = String::from(
        "#[Histogram log format version 1.3]\n#[StartTime: 0.000 (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
    for entry in entries {
        let Entry {
            start_s,
            length_s,
            max_ms,
            compressed,
        } = entry;
        let text = STANDARD.encode(compressed);
        let _ = writeln!(out, "{start_s:.3},{length_s:.3},{max_ms:.3},{text}");
    }
    out
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn the_log_is_read_back_by_the_reader_of_the_format() {
        let mut entries = Vec::new();
        for second in 0..3u64 {
            let mut h = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).unwrap();
            for us in 1..=100 {
                h.record(us * 1_000 * (second + 1)).unwrap();
            }
            entries.push(Entry::new(second as f64, 1.0, &h));
        }
        let text = to_hlog(&entries);
        let mut read = 0u64;
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            let LogEntry::Interval(interval) = entry.unwrap() else {
                continue;
            };
            let bytes = STANDARD.decode(interval.encoded_histogram()).unwrap();
            let h: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            read += 1;
            assert_eq!(h.len(), 100);
            let max = 100_000 * read;
            assert!(h.max().abs_diff(max) <= max / 500, "{} {max}", h.max());
        }
        assert_eq!(read, 3);
    }
}
