//! Repeated measurements of one figure: the median counts, the spread says how far to trust it.
//!
//! Ratios are taken round by round and the median of the ratios counts, not the ratio of the
//! medians: both sides of a round saw the same machine.

use serde::{Deserialize, Serialize};

/// Most values that one figure keeps.
pub const VALUES_MAX: usize = 1_000;

/// What the values of several rounds say together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Series {
    /// The figure.
    pub median: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// A quarter of the values lie below.
    pub q1: f64,
    /// A quarter of the values lie above.
    pub q3: f64,
    /// The values in the order in which they were taken.
    pub values: Vec<f64>,
}

impl Series {
    /// Summarises values; nothing when there is none, or one that is not a number.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.len() > VALUES_MAX || values.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            q1: quantile(&sorted, 0.25),
            q3: quantile(&sorted, 0.75),
            values: values.to_vec(),
        })
    }

    /// Reads a series out of a report; nothing when there is none.
    #[must_use]
    pub fn deserialize_from(report: &serde_json::Value) -> Option<Self> {
        Self::deserialize(report).ok()
    }

    /// The ratios of two series, round by round; as many as the shorter has.
    #[must_use]
    pub fn ratio(over: &Self, under: &Self) -> Option<Self> {
        let ratios: Vec<f64> = over
            .values
            .iter()
            .zip(&under.values)
            .map(|(over, under)| over / under)
            .collect();
        Self::of(&ratios)
    }

    /// Half of the distance between the quartiles as a share of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 {
            return 0.0;
        }
        (self.q3 - self.q1) / 2.0 / self.median.abs()
    }
}

/// A quantile of sorted values, between two of them by linear interpolation.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let position = at * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_quartiles_are_those_of_the_sorted_values() {
        let s = Series::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(
            (s.min, s.q1, s.median, s.q3, s.max),
            (1.0, 2.0, 3.0, 4.0, 5.0)
        );
        assert_eq!(s.values, [5.0, 1.0, 3.0, 2.0, 4.0]);
        assert!((s.spread() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(Series::of(&[1.0, 2.0]).unwrap().median, 1.5);
    }

    #[test]
    fn ratios_are_paired_so_that_a_slow_machine_cancels_out() {
        let ours = Series::of(&[20.0, 10.0, 40.0]).unwrap();
        let theirs = Series::of(&[10.0, 5.0, 20.0]).unwrap();
        let ratio = Series::ratio(&ours, &theirs).unwrap();
        assert_eq!((ratio.min, ratio.median, ratio.max), (2.0, 2.0, 2.0));
    }

    #[test]
    fn nothing_comes_of_no_values_or_of_nonsense() {
        assert_eq!(Series::of(&[]), None);
        assert_eq!(Series::of(&[1.0, f64::NAN]), None);
        let zero = Series::of(&[0.0]).unwrap();
        assert_eq!(Series::ratio(&zero, &zero), None);
        assert_eq!(zero.spread(), 0.0);
    }
}
