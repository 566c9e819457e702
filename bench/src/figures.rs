//! The report of a benchmark that yields series by name: store and ledger.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::environment::{Environment, Noise, NoiseMeter, spread_warning};
use crate::series::Series;

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its unit.
    pub unit: String,
    /// Its rounds.
    #[serde(flatten)]
    pub series: Series,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FiguresReport {
    /// `store` or `ledger`.
    pub benchmark: String,
    /// [`REPORT_VERSION`]
    pub report_version: u32,
    /// Absolute figures, by name.
    pub cases: BTreeMap<String, Figure>,
    /// Ratios round by round, by name.
    pub ratios: BTreeMap<String, Series>,
    /// What makes the figures questionable.
    pub warnings: Vec<String>,
    /// How quiet the machine was.
    pub noise: Noise,
    /// Machine and build.
    pub environment: Environment,
}

/// Collects rounds.
pub(crate) struct Collector {
    benchmark: &'static str,
    noise: NoiseMeter,
    values: BTreeMap<String, (&'static str, Vec<f64>)>,
}

impl Collector {
    pub(crate) fn start(benchmark: &'static str) -> Self {
        Self {
            benchmark,
            noise: NoiseMeter::start(),
            values: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        let entry = self.values.entry(name.to_owned());
        entry.or_insert((unit, Vec::new())).1.push(value);
    }

    /// Ends; a ratio `(name, over, under)` is left out where a contender did not run.
    pub(crate) fn finish(self, ratios: &[(&str, &str, &str)]) -> FiguresReport {
        let cases: BTreeMap<String, Figure> = self
            .values
            .into_iter()
            .filter_map(|(name, (unit, values))| {
                let series = Series::of(&values)?;
                let unit = unit.to_owned();
                Some((name, Figure { unit, series }))
            })
            .collect();
        let ratios: BTreeMap<String, Series> = ratios
            .iter()
            .filter_map(|(name, over, under)| {
                let ratio = Series::ratio(&cases.get(*over)?.series, &cases.get(*under)?.series)?;
                Some((name.to_string(), ratio))
            })
            .collect();
        let environment = Environment::detect();
        let noise = self.noise.stop();
        let mut warnings = noise.warnings(environment.machine.cores);
        if environment.machine.is_debug_build() {
            warnings.push("this is a debug build: its figures say nothing about a release".into());
        }
        let named = cases.iter().map(|(name, figure)| (name, &figure.series));
        warnings.extend(named.filter_map(|(name, series)| spread_warning(name, series)));
        FiguresReport {
            benchmark: self.benchmark.into(),
            report_version: REPORT_VERSION,
            cases,
            ratios,
            warnings,
            noise,
            environment,
        }
    }
}

impl fmt::Display for FiguresReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<40} {:>12} {:>12} {:>12}",
            self.benchmark, "median", "min", "max"
        )?;
        for (name, Figure { unit, series: s }) in &self.cases {
            writeln!(
                f,
                "{name:<40} {:>12.2} {:>12.2} {:>12.2}  {unit}",
                s.median, s.min, s.max
            )?;
        }
        for (name, s) in &self.ratios {
            writeln!(
                f,
                "{name:<40} {:>12.3} {:>12.3} {:>12.3}  ratio",
                s.median, s.min, s.max
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "note: {warning}")?;
        }
        Ok(())
    }
}
