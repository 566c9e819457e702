//! Under which conditions a figure was taken: machine, build, and how quiet it was.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::series::Series;

/// Share of the time that a hypervisor may take before a run is called noisy.
const STEAL_SHARE_MAX: f64 = 0.01;
/// Half the distance between quartiles, as a share of the median, before a figure is called noisy.
const SPREAD_MAX: f64 = 0.1;
/// Features that decide which code runs, as the kernel names them.
const CPU_FEATURES: [&str; 14] = [
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "sha_ni",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "bmi2",
    "adx",
];

/// Machine and build, in more detail than [`Machine`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Machine and build.
    #[serde(flatten)]
    pub machine: Machine,
    /// CPU features that decide which code runs.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// Frequency governor of the first core, where the kernel tells.
    pub governor: Option<String>,
    /// Memory, MiB.
    #[serde(default)]
    pub memory_mib: u64,
    /// Whether the CPU says that it is a virtual one.
    #[serde(default)]
    pub virtual_machine: bool,
}

impl Environment {
    /// Looks at the machine that this runs on.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
        let flags = flags(&cpuinfo);
        Self {
            machine: Machine::detect(),
            cpu_features: CPU_FEATURES
                .iter()
                .filter(|feature| flags.contains(feature))
                .map(ToString::to_string)
                .collect(),
            governor: fs::read_to_string(governor)
                .ok()
                .map(|text| text.trim().to_owned()),
            memory_mib: total_kib(&meminfo).unwrap_or(0) >> 10,
            virtual_machine: flags.contains(&"hypervisor"),
        }
    }
}

fn flags(cpuinfo: &str) -> Vec<&str> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| matches!(key.trim(), "flags" | "Features"))
        .map(|(_, flags)| flags.split_whitespace().collect())
        .unwrap_or_default()
}

fn total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// How quiet the machine was during a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Noise {
    /// Share of the CPU time that the hypervisor gave to others.
    pub steal_share: f64,
    /// Share of the CPU time in which nothing ran.
    pub idle_share: f64,
    /// Processes that wanted a core at the start, averaged over the minute before.
    pub load_before: f64,
}

impl Noise {
    /// What makes the figures questionable, in words.
    #[must_use]
    pub fn warnings(&self, cores: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.steal_share > STEAL_SHARE_MAX {
            warnings.push(format!(
                "the hypervisor took {:.1} % of the CPU time: other machines disturb this one",
                self.steal_share * 100.0
            ));
        }
        if self.load_before > cores as f64 / 2.0 {
            warnings.push(format!(
                "the machine was busy before the start (load {:.1} on {cores} cores): other \
                 programs disturb the figures",
                self.load_before
            ));
        }
        warnings
    }
}

/// A warning when the rounds of a figure differ too much for its median to say much.
#[must_use]
pub fn spread_warning(name: &str, series: &Series) -> Option<String> {
    (series.spread() > SPREAD_MAX).then(|| {
        format!(
            "{name} moved by ± {:.0} % between rounds: take more rounds, or quieten the machine",
            series.spread() * 100.0
        )
    })
}

/// Watches the CPU time of the whole machine during a measurement.
#[derive(Debug, Clone, Copy)]
pub struct NoiseMeter {
    began: CpuTimes,
    load_before: f64,
}

impl NoiseMeter {
    /// Begins.
    #[must_use]
    pub fn start() -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let first = load.split_whitespace().next().unwrap_or_default();
        Self {
            began: CpuTimes::read(),
            load_before: first.parse().unwrap_or(0.0),
        }
    }

    /// Ends.
    #[must_use]
    pub fn stop(self) -> Noise {
        let now = CpuTimes::read();
        let total = now.total.saturating_sub(self.began.total).max(1) as f64;
        Noise {
            steal_share: now.steal.saturating_sub(self.began.steal) as f64 / total,
            idle_share: now.idle.saturating_sub(self.began.idle) as f64 / total,
            load_before: self.load_before,
        }
    }
}

/// The first line of `/proc/stat`, ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTimes {
    total: u64,
    idle: u64,
    steal: u64,
}

impl CpuTimes {
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&stat).unwrap_or_default()
    }

    /// user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        Some(Self {
            total: fields.iter().sum(),
            idle: fields.get(3)? + fields.get(4)?,
            steal: *fields.get(7)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_are_those_of_the_kernel() {
        let times = CpuTimes::parse("cpu  10 1 5 70 10 0 2 2 9 9\ncpu0 1 1\n").unwrap();
        assert_eq!((times.total, times.idle, times.steal), (100, 80, 2));
        assert_eq!(CpuTimes::parse("cpu  1 2 3"), None);
        assert!(CpuTimes::read().total > 0);
    }

    #[test]
    fn features_are_read_from_the_first_cpu() {
        let found = flags("model name : x\nflags\t\t: fpu avx2 hypervisor\nflags : none\n");
        assert_eq!(found, ["fpu", "avx2", "hypervisor"]);
        assert_eq!(total_kib("MemTotal:  2048 kB\nMemFree: 1 kB\n"), Some(2048));
        assert!(Environment::detect().memory_mib > 0);
    }

    #[test]
    fn noise_is_told_in_words() {
        let quiet = Noise {
            load_before: 0.5,
            ..Noise::default()
        };
        assert!(quiet.warnings(2).is_empty());
        let loud = Noise {
            steal_share: 0.05,
            load_before: 1.5,
            ..quiet
        };
        assert_eq!(loud.warnings(2).len(), 2);
        let moving = Series::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(
            spread_warning("bulk", &moving)
                .unwrap()
                .contains("bulk moved")
        );
        let steady = Series::of(&[1.0, 1.01, 0.99]).unwrap();
        assert_eq!(spread_warning("bulk", &steady), None);
    }
}
