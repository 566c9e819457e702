//! `falconet bench compare`: two reports, figure by figure, and whether a difference is one.
//!
//! Where both reports carry the rounds of a figure, the difference counts when the ranges between
//! the quartiles do not touch. Where they carry one value, nothing is known about the noise, and
//! a difference counts from [`NOISE_WITHOUT_ROUNDS`] on.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::series::Series;

/// Change that a figure without rounds must exceed: what a shared machine moves by.
pub const NOISE_WITHOUT_ROUNDS: f64 = 0.10;
/// Deepest nesting that is looked into.
const DEPTH_MAX: usize = 8;
/// Fields that describe the run, not what came out of it.
const NOT_FIGURES: [&str; 14] = [
    "report_version",
    "validators",
    "transaction_bytes",
    "cores",
    "memory_mib",
    "rounds",
    "window_s",
    "duration_s",
    "noise",
    "environment",
    "cores_used",
    "intervals",
    "roots",
    "died",
];

/// One figure in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Where it is: `latency_ms.p99`.
    pub name: String,
    /// In the first report.
    pub before: f64,
    /// In the second.
    pub after: f64,
    /// `after / before`.
    pub ratio: f64,
    /// The ratio could be as low, by the quartiles of both; nothing without rounds.
    pub ratio_low: Option<f64>,
    /// The ratio could be as high.
    pub ratio_high: Option<f64>,
    /// Whether the difference is within the noise.
    pub noise: bool,
}

/// Two reports beside each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Every figure that both have.
    pub changes: Vec<Change>,
    /// Conditions that differ, in words: figures are then not about the program alone.
    pub differences: Vec<String>,
}

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompareError {
    /// Not reports of one kind.
    #[error("the reports have no figure in common; give two JSON reports of one benchmark")]
    NothingInCommon,
}

/// Compares two JSON reports of `falconet bench`.
pub fn compare(before: &Value, after: &Value) -> Result<Comparison, CompareError> {
    let mut changes = Vec::new();
    walk("", before, after, DEPTH_MAX, &mut changes);
    if changes.is_empty() {
        return Err(CompareError::NothingInCommon);
    }
    Ok(Comparison {
        changes,
        differences: differences(before, after),
    })
}

fn walk(name: &str, before: &Value, after: &Value, depth: usize, changes: &mut Vec<Change>) {
    if let (Some(b), Some(a)) = (before.as_f64(), after.as_f64()) {
        changes.extend(change(name, &one(b), &one(a), false));
        return;
    }
    let (Some(b), Some(a)) = (before.as_object(), after.as_object()) else {
        return;
    };
    if let (Some(b), Some(a)) = (series(before), series(after)) {
        changes.extend(change(name, &b, &a, true));
        return;
    }
    if depth == 0 {
        return;
    }
    for (key, b) in b {
        if let Some(a) = a.get(key)
            && !NOT_FIGURES.contains(&key.as_str())
        {
            let name = if name.is_empty() {
                key.clone()
            } else {
                format!("{name}.{key}")
            };
            walk(&name, b, a, depth - 1, changes);
        }
    }
}

fn series(value: &Value) -> Option<Series> {
    Series::deserialize_from(value)
}

fn one(value: f64) -> Series {
    Series::of(&[value]).unwrap_or_default()
}

fn change(name: &str, before: &Series, after: &Series, rounds: bool) -> Option<Change> {
    if before.median == 0.0 {
        return None;
    }
    let ratio = after.median / before.median;
    let known = rounds && before.values.len() > 1 && after.values.len() > 1 && before.q1 > 0.0;
    let bounds = known.then(|| (after.q1 / before.q3, after.q3 / before.q1));
    Some(Change {
        name: name.into(),
        before: before.median,
        after: after.median,
        ratio,
        ratio_low: bounds.map(|b| b.0),
        ratio_high: bounds.map(|b| b.1),
        noise: match bounds {
            Some((low, high)) => low <= 1.0 && high >= 1.0,
            None => (ratio - 1.0).abs() <= NOISE_WITHOUT_ROUNDS,
        },
    })
}

fn differences(before: &Value, after: &Value) -> Vec<String> {
    let condition = |report: &Value, name: &str| -> Option<Value> {
        let at = |value: &Value| value.get(name).cloned();
        at(report).or_else(|| at(report.get("environment")?))
    };
    let mut found = Vec::new();
    for name in [
        "cpu_model",
        "cores",
        "kernel",
        "profile",
        "validators",
        "scheme",
        "transaction_bytes",
        "offered_tps",
        "fsync",
        "params",
        "signature_scheme",
    ] {
        let (b, a) = (condition(before, name), condition(after, name));
        if let (Some(b), Some(a)) = (b, a)
            && b != a
        {
            found.push(format!("{name}: {b} before, {a} after"));
        }
    }
    found
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "note: the conditions differ: {difference}")?;
        }
        writeln!(
            f,
            "{:<46} {:>14} {:>14} {:>8}",
            "figure", "before", "after", "ratio"
        )?;
        for c in &self.changes {
            let verdict = match (c.noise, c.ratio_low.zip(c.ratio_high)) {
                (true, _) => "noise".to_owned(),
                (false, Some((low, high))) => format!("{low:.3} to {high:.3}"),
                (false, None) => "one run each".to_owned(),
            };
            writeln!(
                f,
                "{:<46} {:>14.3} {:>14.3} {:>8.3}  {verdict}",
                c.name, c.before, c.after, c.ratio
            )?;
        }
        if self
            .changes
            .iter()
            .any(|c| !c.noise && c.ratio_low.is_none())
        {
            writeln!(
                f,
                "note: \"one run each\" has no spread: more than 10 % apart, and still perhaps noise; \
                 run both versions by turns, several times, before you believe it"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rounds(values: &[f64]) -> Value {
        serde_json::to_value(Series::of(values).unwrap()).unwrap()
    }

    #[test]
    fn rounds_decide_what_is_noise() {
        let before =
            json!({"cases": {"a": rounds(&[10.0, 11.0, 12.0]), "b": rounds(&[1.0, 1.01, 1.02])}});
        let after =
            json!({"cases": {"a": rounds(&[11.0, 12.0, 13.0]), "b": rounds(&[1.1, 1.11, 1.12])}});
        let found = compare(&before, &after).unwrap();
        let noise: Vec<(&str, bool)> = found
            .changes
            .iter()
            .map(|c| (c.name.as_str(), c.noise))
            .collect();
        assert_eq!(noise, [("cases.a", true), ("cases.b", false)]);
        assert!(found.to_string().contains("noise"));
    }

    #[test]
    fn single_values_need_a_clear_difference() {
        let report =
            |p99: f64| json!({"latency_ms": {"p99": p99}, "cores": 2, "report_version": 1});
        let near = compare(&report(10.0), &report(10.9)).unwrap();
        assert_eq!(near.changes.len(), 1, "conditions are no figures");
        assert!(near.changes[0].noise);
        assert!(!near.to_string().contains("by turns"));
        let far = compare(&report(10.0), &report(12.0)).unwrap();
        assert!(!far.changes[0].noise && far.to_string().contains("by turns"));
    }

    #[test]
    fn other_conditions_are_named() {
        let report = |cpu: &str| json!({"x": 1.0, "environment": {"cpu_model": cpu, "cores": 2}});
        let found = compare(&report("a"), &report("b")).unwrap();
        assert_eq!(found.differences, ["cpu_model: \"a\" before, \"b\" after"]);
        let error = compare(&json!({"a": 1}), &json!({"b": 1})).unwrap_err();
        assert_eq!(error, CompareError::NothingInCommon);
    }
}
