//! A measurement as JSON and as text.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cluster::RootsCheck;
use crate::costs::Costs;
use crate::course::{Course, Part};
use crate::environment::{Environment, Noise};
use crate::load::{Counters, Interval, LoadOutcome, quantile_ms};
use crate::memory::Memory;
use crate::process::ProcessStats;
use crate::surge::SurgeReport;
use crate::sweep::is_steady;

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;
const KIB_PER_MIB: f64 = 1024.0;

/// Latency at the usual quantiles, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencyMs {
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// 99.99 %.
    pub p9999: f64,
    /// Longest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
}

impl LatencyMs {
    /// Reads the quantiles of a histogram of microseconds.
    #[must_use]
    pub fn of(histogram_us: &Histogram<u64>) -> Self {
        let at = |quantile| quantile_ms(histogram_us, quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: at(1.0),
            mean: histogram_us.mean() / 1e3,
        }
    }
}

/// What one validator used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory at the end, MiB.
    pub rss_mib: f64,
    /// Largest resident memory, MiB.
    pub rss_peak_mib: f64,
    /// Cores kept busy on average while the load ran.
    pub cpu_cores: f64,
}

impl Usage {
    /// From the figures before and after `seconds` of load.
    #[must_use]
    pub fn between(before: &ProcessStats, after: &ProcessStats, seconds: f64) -> Self {
        let cpu_s = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        Self {
            rss_mib: after.rss_kib as f64 / KIB_PER_MIB,
            rss_peak_mib: after.rss_peak_kib as f64 / KIB_PER_MIB,
            cpu_cores: if seconds > 0.0 { cpu_s / seconds } else { 0.0 },
        }
    }
}

/// Validators, the last ones, that broke the protocol on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Byzantine {
    /// How, as `falconet run --danger-byzantine` calls it.
    pub kind: String,
    /// How many.
    pub count: usize,
}

/// What was run, beside what came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Number of validators.
    pub validators: usize,
    /// What was sent: `falcon1024`, `falcon512` or `opaque`.
    pub scheme: String,
    /// Genesis parameters that are not the defaults, each as `name=value`.
    pub params: Vec<String>,
    /// Bytes of one transaction.
    pub transaction_bytes: usize,
    /// Whether every validator said that it syncs to disk before anything counts.
    pub fsync: bool,
    /// Whether all validators hold the same state.
    pub roots: RootsCheck,
    /// What each validator used; nothing for one that died.
    pub usage: Vec<Option<Usage>>,
    /// Cores that the load generator kept busy.
    pub generator_cpu_cores: f64,
    /// Validators that ended during the run.
    pub died: Vec<usize>,
    /// Validators that were killed on purpose.
    pub crashed: Vec<usize>,
    /// Validators that broke the protocol on purpose; they are in none of the other lists.
    pub byzantine: Option<Byzantine>,
    /// Memory in the course of the run.
    pub memory: Memory,
    /// What a transaction cost, where the validators told.
    pub costs: Option<Costs>,
    /// How quiet the machine was.
    pub noise: Noise,
}

/// Transactions with a latency up to a bound and above the one before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// The bound, milliseconds.
    pub up_to_ms: f64,
    /// Transactions.
    pub count: u64,
}

/// Bounds of [`Report::latency_histogram`] grow by this factor, from 0.1 ms on.
const BUCKET_FACTOR: f64 = 1.25;
/// Threads that the report for people names, those that used most first.
const THREADS_SHOWN: usize = 8;
const BUCKET_FIRST_US: u64 = 100;

fn buckets(latency_us: &Histogram<u64>) -> Vec<Bucket> {
    latency_us
        .iter_log(BUCKET_FIRST_US, BUCKET_FACTOR)
        .map(|step| Bucket {
            up_to_ms: step.value_iterated_to() as f64 / 1e3,
            count: step.count_since_last_iteration(),
        })
        .collect()
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`]
    pub report_version: u32,
    /// Number of validators.
    pub validators: usize,
    /// `falcon1024`, `falcon512` or `opaque`.
    pub scheme: String,
    /// Bytes of one transaction.
    pub transaction_bytes: usize,
    /// Genesis parameters that are not the defaults, each as `name=value`.
    #[serde(default)]
    pub params: Vec<String>,
    /// Whether everything was on disk before it counted.
    pub fsync: bool,
    /// Transactions a second that the schedule asked for.
    pub offered_tps: u64,
    /// Transactions executed in the measured time.
    pub committed: u64,
    /// The same a second.
    pub committed_tps: f64,
    /// From the intended time of sending to the receipt.
    pub latency_ms: LatencyMs,
    /// From the offer that was accepted to the receipt: without the time for which validators were
    /// busy.
    #[serde(default)]
    pub accepted_latency_ms: LatencyMs,
    /// How late the generator sent: a part of the latency that is its own.
    pub send_delay_ms: LatencyMs,
    /// Whether all validators gave the same state commitment at one height.
    pub roots_agree: bool,
    /// Their answers.
    pub roots: RootsCheck,
    /// Length of the measured time, seconds.
    pub duration_s: f64,
    /// Transactions refused at the door.
    pub refused: u64,
    /// Answers "busy".
    pub busy: u64,
    /// Whether the generator, not the network, limited the load.
    pub generator_behind: bool,
    /// Where every transaction went, warm-up included.
    pub counters: Counters,
    /// Resident memory of each validator at the end, MiB; nothing for one that died.
    pub rss_mib: Vec<Option<f64>>,
    /// What each validator used.
    pub usage: Vec<Option<Usage>>,
    /// Cores that the load generator kept busy.
    pub generator_cpu_cores: f64,
    /// Validators that ended during the run.
    pub died: Vec<usize>,
    /// Validators that were killed on purpose, at the start of the measured time.
    #[serde(default)]
    pub crashed: Vec<usize>,
    /// The last validators broke the protocol on purpose; load and checks kept to the others.
    #[serde(default)]
    pub byzantine: Option<Byzantine>,
    /// Memory in the course of the run.
    #[serde(default)]
    pub memory: Memory,
    /// The run in tenths, if it was long enough.
    #[serde(default)]
    pub course: Option<Course>,
    /// How the network came through a surge, if there was one.
    #[serde(default)]
    pub surge: Option<SurgeReport>,
    /// Machine and build.
    #[serde(flatten)]
    pub environment: Environment,
    /// What one transaction cost.
    #[serde(default)]
    pub costs: Option<Costs>,
    /// Whether the second half of the time was as fast as the first.
    #[serde(default)]
    pub steady: bool,
    /// How quiet the machine was.
    #[serde(default)]
    pub noise: Noise,
    /// The latencies in bounds that grow by a quarter.
    #[serde(default)]
    pub latency_histogram: Vec<Bucket>,
    /// Second by second.
    pub intervals: Vec<Interval>,
}

impl Report {
    /// Puts together what was run and what came out.
    #[must_use]
    pub fn new(subject: Subject, outcome: &LoadOutcome, environment: Environment) -> Self {
        let counters = outcome.counters;
        Self {
            report_version: REPORT_VERSION,
            validators: subject.validators,
            scheme: subject.scheme,
            transaction_bytes: subject.transaction_bytes,
            params: subject.params,
            fsync: subject.fsync,
            offered_tps: outcome.offered_tps,
            committed: outcome.committed,
            committed_tps: outcome.committed_tps,
            latency_ms: LatencyMs::of(&outcome.latency_us),
            accepted_latency_ms: LatencyMs::of(&outcome.accepted_us),
            send_delay_ms: LatencyMs::of(&outcome.send_delay_us),
            roots_agree: subject.roots.agree,
            roots: subject.roots,
            duration_s: outcome.duration_s,
            refused: counters.refused,
            busy: counters.busy,
            generator_behind: counters.generator_behind(),
            counters,
            rss_mib: subject
                .usage
                .iter()
                .map(|u| u.map(|usage| usage.rss_mib))
                .collect(),
            usage: subject.usage,
            generator_cpu_cores: subject.generator_cpu_cores,
            died: subject.died,
            crashed: subject.crashed,
            byzantine: subject.byzantine,
            memory: subject.memory,
            course: Course::of(&outcome.intervals),
            surge: None,
            environment,
            costs: subject.costs,
            steady: is_steady(&outcome.intervals),
            noise: subject.noise,
            latency_histogram: buckets(&outcome.latency_us),
            intervals: outcome.intervals.clone(),
        }
    }

    /// What makes the figures questionable, in words; empty for a clean run.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.environment.machine.is_debug_build() {
            warnings.push("this is a debug build: its figures say nothing about a release".into());
        }
        if self.generator_behind {
            let Counters {
                late,
                starved,
                scheduled,
                ..
            } = self.counters;
            warnings.push(format!(
                "the generator was behind: of {scheduled} transactions {late} were sent more than \
                 10 ms late and {starved} were not ready in time; a part of the latency is its \
                 own (see send_delay_ms)"
            ));
        }
        if !self.roots_agree {
            warnings.push("the validators' states were not found equal".into());
        }
        if !self.fsync {
            warnings.push("not every validator says that it syncs to disk".into());
        }
        if !self.steady {
            warnings.push("latency grew during the run: the rate is above what is held".into());
        }
        warnings.extend(self.noise.warnings(self.environment.machine.cores));
        for index in &self.died {
            warnings.push(format!("validator {index} ended during the run"));
        }
        for (count, what) in [
            (self.counters.failed, "failed in execution"),
            (self.counters.refused, "were refused"),
            (
                self.counters.dropped,
                "were dropped because validators were busy",
            ),
            (
                self.counters.shed,
                "were not sent: too many were on their way",
            ),
            (self.counters.unresolved, "had no answer at the end"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} transactions {what}"));
            }
        }
        warnings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| {
            writeln!(f, "  {name:<22} {value}")
        };
        let l = &self.latency_ms;
        row(f, "validators", self.validators.to_string())?;
        row(
            f,
            "transactions",
            format!("{}, {} bytes", self.scheme, self.transaction_bytes),
        )?;
        row(
            f,
            "offered",
            format!("{} tx/s for {:.1} s", self.offered_tps, self.duration_s),
        )?;
        row(
            f,
            "committed",
            format!("{:.0} tx/s, {} in all", self.committed_tps, self.committed),
        )?;
        row(
            f,
            "latency ms",
            format!(
                "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1}",
                l.p50, l.p90, l.p99, l.p999, l.p9999, l.max
            ),
        )?;
        if self.busy > 0 {
            let l = &self.accepted_latency_ms;
            let text = format!("p50 {:.1}  p99 {:.1}  max {:.1}", l.p50, l.p99, l.max);
            row(f, "  once accepted", text)?;
        }
        if let Some(c) = &self.costs {
            if let (Some(p50), Some(p99)) = (c.consensus_p50_ms, c.consensus_p99_ms) {
                row(
                    f,
                    "  of it consensus",
                    format!("p50 {p50:.1}  p99 {p99:.1}"),
                )?;
            }
            row(
                f,
                "a transaction cost",
                format!(
                    "{:.1} us CPU, {:.0} bytes sent, {:.0} bytes logged, {:.4} fsyncs, {:.2} \
                     verifications",
                    c.cpu_us, c.wire_bytes, c.log_bytes, c.fsyncs, c.verifications
                ),
            )?;
        }
        if let Some(costs) = self.costs.as_ref().filter(|c| !c.threads_us.is_empty()) {
            let mut threads: Vec<_> = costs.threads_us.iter().collect();
            threads.sort_by(|a, b| b.1.total_cmp(a.1));
            let shown = threads.iter().take(THREADS_SHOWN);
            let each = shown.map(|(name, us)| format!("{name} {us:.1}"));
            row(f, "  us by thread", each.collect::<Vec<_>>().join("  "))?;
        }
        row(f, "busy, refused, failed", {
            let c = &self.counters;
            format!("{}, {}, {}", c.busy, c.refused, c.failed)
        })?;
        if let Some(s) = &self.surge {
            for (name, text) in s.lines() {
                row(f, name, text)?;
            }
        }
        if let Some(c) = &self.course {
            let each = |value: fn(&Part) -> f64| {
                let text = c.parts.iter().map(|part| format!("{:.0}", value(part)));
                text.collect::<Vec<_>>().join("  ")
            };
            row(f, "tenths, tx/s", each(|part| part.committed_tps))?;
            row(f, "  p50 ms", each(|part| part.p50_ms))?;
            row(f, "  p99 ms", each(|part| part.p99_ms))?;
            let verdict = if c.flat { "flat" } else { "longer" };
            let text = format!(
                "latency {verdict} at the end ({:.2} x), {} s without commits",
                c.latency_ratio, c.silent_s
            );
            row(f, "  verdict", text)?;
        }
        if !self.crashed.is_empty() {
            row(f, "killed on purpose", format!("{:?}", self.crashed))?;
        }
        if let Some(Byzantine { kind, count }) = &self.byzantine {
            row(f, "Byzantine", format!("{count} x {kind}"))?;
        }
        row(f, "states agree", yes(self.roots_agree))?;
        row(f, "fsync", yes(self.fsync))?;
        if !self.params.is_empty() {
            row(f, "parameters", self.params.join(" "))?;
        }
        let list = |value: fn(&Usage) -> f64| {
            let each = |usage: &Option<Usage>| {
                usage.map_or_else(|| "-".into(), |usage| format!("{:.1}", value(&usage)))
            };
            self.usage.iter().map(each).collect::<Vec<_>>().join("  ")
        };
        row(f, "memory MiB", list(|usage| usage.rss_mib))?;
        let slopes: Vec<_> = (self.memory.slope_mib_per_hour.iter().flatten())
            .map(|slope| format!("{slope:.0}"))
            .collect();
        if !slopes.is_empty() {
            let verdict = if self.memory.flat { "flat" } else { "grows" };
            let text = format!("{verdict}, MiB/h {}", slopes.join("  "));
            row(f, "  second half", text)?;
        }
        let generator = self.generator_cpu_cores;
        row(
            f,
            "busy cores",
            format!("{}  generator {generator:.1}", list(|u| u.cpu_cores)),
        )?;
        let m = &self.environment.machine;
        row(
            f,
            "machine",
            format!("{}, {} cores, Linux {}", m.cpu_model, m.cores, m.kernel),
        )?;
        row(f, "build", format!("{}, {}", m.commit, m.profile))?;
        for warning in self.warnings() {
            writeln!(f, "  note: {warning}")?;
        }
        Ok(())
    }
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::machine::Machine;

    fn report() -> Report {
        let mut latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        for ms in 1..=1_000u64 {
            latency_us.record(ms * 1_000).unwrap();
        }
        let outcome = LoadOutcome {
            offered_tps: 100,
            duration_s: 10.0,
            committed: 1_000,
            committed_tps: 100.0,
            send_delay_us: latency_us.clone(),
            accepted_us: latency_us.clone(),
            latency_us,
            counters: Counters {
                scheduled: 1_200,
                committed: 1_200,
                ..Counters::default()
            },
            intervals: vec![],
            hlog: vec![],
            surge: None,
        };
        let before = ProcessStats::default();
        let after = ProcessStats {
            rss_kib: 2_048,
            rss_peak_kib: 4_096,
            cpu: Duration::from_secs(5),
            threads: 3,
        };
        let answer = || Some(("id".to_owned(), "state".to_owned()));
        let subject = Subject {
            validators: 2,
            scheme: "falcon1024".into(),
            transaction_bytes: 1_412,
            params: Vec::new(),
            fsync: true,
            roots: RootsCheck {
                agree: true,
                height: Some(9),
                answers: vec![answer(), None],
            },
            usage: vec![Some(Usage::between(&before, &after, 10.0)), None],
            generator_cpu_cores: 0.2,
            died: vec![1],
            crashed: vec![],
            byzantine: None,
            memory: crate::memory::Memory::default(),
            costs: Costs::of(&Default::default(), 1_000, 5.0, &Default::default()),
            noise: Noise::default(),
        };
        let machine = Machine {
            cpu_model: "cpu".into(),
            cores: 2,
            kernel: "6.18".into(),
            commit: "abc".into(),
            profile: "release".into(),
        };
        let environment = Environment {
            machine,
            ..Environment::detect()
        };
        Report::new(subject, &outcome, environment)
    }

    #[test]
    fn the_json_has_the_documented_fields() {
        let json: Value = serde_json::to_value(report()).unwrap();
        let expect = [
            ("validators", Value::from(2)),
            ("scheme", "falcon1024".into()),
            ("fsync", true.into()),
            ("offered_tps", 100.into()),
            ("committed", 1_000.into()),
            ("committed_tps", 100.0.into()),
            ("roots_agree", true.into()),
            ("duration_s", 10.0.into()),
            ("refused", 0.into()),
            ("busy", 0.into()),
            ("generator_behind", false.into()),
            ("cpu_model", "cpu".into()),
            ("cores", 2.into()),
            ("kernel", "6.18".into()),
            ("commit", "abc".into()),
            ("profile", "release".into()),
        ];
        for (field, value) in expect {
            assert_eq!(json[field], value, "{field}");
        }
        for (field, ms) in [
            ("p50", 500.0),
            ("p90", 900.0),
            ("p99", 990.0),
            ("p999", 999.0),
            ("max", 1_000.0),
        ] {
            let found = json["latency_ms"][field].as_f64().unwrap();
            assert!((found - ms).abs() / ms < 0.002, "{field}: {found}");
        }
        assert_eq!(json["rss_mib"], serde_json::json!([2.0, null]));
        assert_eq!(json["usage"][0]["cpu_cores"], 0.5);
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, report());
    }

    #[test]
    fn the_text_says_what_is_wrong() {
        let mut report = report();
        assert!(report.to_string().contains("validator 1 ended"));
        assert_eq!(report.warnings().len(), 1);
        report.died.clear();
        assert!(report.warnings().is_empty());
        report.environment.machine.profile = "debug".into();
        report.roots_agree = false;
        report.counters.unresolved = 7;
        let text = report.to_string();
        for part in [
            "debug build",
            "not found equal",
            "7 transactions had no answer",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
