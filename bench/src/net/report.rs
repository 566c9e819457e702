//! What a comparison of transports gave, as one JSON object and as text.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{Case, Cores, NetBench, Sample};
use crate::environment::{Environment, Noise, spread_warning};
use crate::series::Series;

/// Version of the JSON form; grows when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;

/// Name of a ratio, and the tasks and contenders that it compares. For round trips lower is
/// better, for all others higher.
const RATIOS: &[(&str, &str, &str)] = &[
    ("bulk_vs_quinn", "bulk_mtu1500.stoq", "bulk_mtu1500.quinn"),
    (
        "bulk_gathered_vs_quinn",
        "bulk_mtu1500.stoq_gathered",
        "bulk_mtu1500.quinn",
    ),
    (
        "bulk_vs_quinn_ack_frequency",
        "bulk_mtu1500.stoq",
        "bulk_mtu1500.quinn_ack_frequency",
    ),
    ("bulk_vs_s2n", "bulk_mtu1500.stoq", "bulk_mtu1500.s2n_quic"),
    (
        "bulk_vs_tcp_tls",
        "bulk_mtu1500.stoq",
        "bulk_mtu1500.tcp_tls",
    ),
    // The target's wording: at 9000 against quinn at 1500. The same MTU follows.
    (
        "bulk_mtu9000_vs_quinn",
        "bulk_mtu9000.stoq",
        "bulk_mtu1500.quinn",
    ),
    (
        "bulk_mtu9000_vs_quinn_mtu9000",
        "bulk_mtu9000.stoq",
        "bulk_mtu9000.quinn",
    ),
    (
        "bulk_mtu9000_vs_s2n_mtu9000",
        "bulk_mtu9000.stoq",
        "bulk_mtu9000.s2n_quic",
    ),
    (
        "bulk_mtu9000_vs_tcp_tls",
        "bulk_mtu9000.stoq",
        "bulk_mtu9000.tcp_tls",
    ),
    (
        "bulk_mtu9000_vs_tcp_tls_mtu64k",
        "bulk_mtu9000.stoq",
        "bulk_mtu64k.tcp_tls",
    ),
    ("rtt_spin_vs_quinn", "rtt_spin.stoq", "rtt_block.quinn"),
    ("rtt_spin_vs_s2n", "rtt_spin.stoq", "rtt_block.s2n_quic"),
    ("rtt_spin_vs_tcp_tls", "rtt_spin.stoq", "rtt_block.tcp_tls"),
    (
        "rtt_spin_vs_tcp_tls_spin",
        "rtt_spin.stoq",
        "rtt_spin.tcp_tls",
    ),
    ("rtt_block_vs_quinn", "rtt_block.stoq", "rtt_block.quinn"),
    ("rtt_block_vs_s2n", "rtt_block.stoq", "rtt_block.s2n_quic"),
    (
        "rtt_block_vs_tcp_tls",
        "rtt_block.stoq",
        "rtt_block.tcp_tls",
    ),
    ("datagram64_vs_quinn", "datagram64.stoq", "datagram64.quinn"),
    (
        "datagram256_vs_quinn",
        "datagram256.stoq",
        "datagram256.quinn",
    ),
    ("uni256_vs_quinn", "uni256.stoq", "uni256.quinn"),
    ("uni256_vs_s2n", "uni256.stoq", "uni256.s2n_quic"),
    (
        "uring_vs_mmsg",
        "bulk_mtu1500.stoq_uring",
        "bulk_mtu1500.stoq_mmsg",
    ),
    (
        "uring_vs_mmsg_mtu9000",
        "bulk_mtu9000.stoq_uring",
        "bulk_mtu9000.stoq_mmsg",
    ),
    (
        "uring_vs_mmsg_datagram64",
        "datagram64.stoq_uring",
        "datagram64.stoq_mmsg",
    ),
    (
        "uring_vs_mmsg_uni256",
        "uni256.stoq_uring",
        "uni256.stoq_mmsg",
    ),
    (
        "paths_adaptive_vs_off",
        "bulk_mtu1500.stoq",
        "bulk_mtu1500.stoq_paths_off",
    ),
    (
        "paths_adaptive_vs_off_mtu9000",
        "bulk_mtu9000.stoq",
        "bulk_mtu9000.stoq_paths_off",
    ),
    (
        "tier_loopback_vs_off",
        "bulk_mtu9000.stoq_tier_loopback",
        "bulk_mtu9000.stoq_paths_off",
    ),
    (
        "tier_lan_vs_off",
        "bulk_mtu9000.stoq_tier_lan",
        "bulk_mtu9000.stoq_paths_off",
    ),
    (
        "tier_metro_vs_off",
        "bulk_mtu9000.stoq_tier_metro",
        "bulk_mtu9000.stoq_paths_off",
    ),
    (
        "tier_wide_vs_off",
        "bulk_mtu9000.stoq_tier_wide",
        "bulk_mtu9000.stoq_paths_off",
    ),
];

/// Cores that two spinning threads keep busy at least when they have one each. With less, other
/// programs hold the cores: a round trip then waits until both threads run at the same time, and
/// when they take turns the median is a multiple of the scheduler's time slice.
const SPINNING_CORES_MIN: f64 = 1.8;

/// One contender at one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseReport {
    /// Of the figures; `us` (microseconds) for the median round trip.
    pub unit: String,
    /// The figures, round by round.
    #[serde(flatten)]
    pub series: Series,
    /// 99th percentiles of round trips, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<Series>,
    /// Cores kept busy, sender and receiver together, median.
    pub cpu_cores: f64,
    /// Payload bytes copied between packet and consumer for each payload byte, median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies_per_byte: Option<f64>,
    /// The I/O backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetReport {
    /// `net`
    pub benchmark: String,
    /// [`REPORT_VERSION`]
    pub report_version: u32,
    /// Medians of the ratios, by name, beside the other fields: what a script looks for.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
    /// The same with their spread.
    pub ratios: BTreeMap<String, Series>,
    /// Absolute figures.
    pub cases: BTreeMap<String, CaseReport>,
    /// Rounds.
    pub rounds: usize,
    /// Length of one window, seconds.
    pub window_s: f64,
    /// Where sender and receiver ran.
    pub cores_used: [usize; 2],
    /// Authentication in every handshake.
    pub signature_scheme: String,
    /// Key exchange and cipher of every contender.
    pub tls: String,
    /// What makes the figures questionable.
    pub warnings: Vec<String>,
    /// How quiet the machine was.
    pub noise: Noise,
    /// Machine and build.
    pub environment: Environment,
}

impl NetReport {
    pub(super) fn new(
        bench: &NetBench,
        cores: Cores,
        cases: &[Case],
        samples: Vec<Vec<Sample>>,
        environment: Environment,
        noise: Noise,
    ) -> Self {
        let cases: BTreeMap<String, CaseReport> = cases
            .iter()
            .zip(samples)
            .filter_map(|(case, samples)| Some((case.name(), case_report(case, &samples)?)))
            .collect();
        let ratios: BTreeMap<String, Series> = RATIOS
            .iter()
            .filter_map(|(name, over, under)| {
                let ratio = Series::ratio(&cases.get(*over)?.series, &cases.get(*under)?.series)?;
                Some((name.to_string(), ratio))
            })
            .collect();
        let mut figures: BTreeMap<String, f64> = ratios
            .iter()
            .map(|(name, ratio)| (name.clone(), ratio.median))
            .collect();
        for (name, case) in [
            // Of a consumer that wants its frames whole, as validators do.
            ("copies_per_byte", "bulk_mtu1500.stoq_gathered"),
            ("copies_per_byte_mtu9000", "bulk_mtu9000.stoq_gathered"),
            ("copies_per_byte_pieces", "bulk_mtu1500.stoq"),
            ("copies_per_byte_uni256", "uni256.stoq"),
        ] {
            if let Some(copies) = cases.get(case).and_then(|case| case.copies_per_byte) {
                figures.insert(name.into(), copies);
            }
        }
        let mut warnings = noise.warnings(environment.machine.cores);
        if environment.machine.is_debug_build() {
            warnings.push("this is a debug build: its figures say nothing about a release".into());
        }
        if !cores.are_two() {
            warnings.push("sender and receiver share one core".into());
        }
        warnings.extend(
            cases
                .iter()
                .filter(|(name, case)| {
                    name.starts_with("rtt_spin") && case.cpu_cores < SPINNING_CORES_MIN
                })
                .map(|(name, case)| {
                    format!(
                        "{name}: two spinning threads had {:.1} of 2 cores; its round trips \
                         may contain time slices of other programs",
                        case.cpu_cores
                    )
                }),
        );
        warnings.extend(
            ratios
                .iter()
                .filter_map(|(name, s)| spread_warning(name, s)),
        );
        Self {
            benchmark: "net".into(),
            report_version: REPORT_VERSION,
            figures,
            ratios,
            cases,
            rounds: bench.rounds,
            window_s: bench.window.as_secs_f64(),
            cores_used: [cores.sender, cores.receiver],
            signature_scheme: "falcon1024".into(),
            tls: "TLS 1.3, X25519MLKEM768, raw public keys both ways, AES-128-GCM".into(),
            warnings,
            noise,
            environment,
        }
    }
}

fn case_report(case: &Case, samples: &[Sample]) -> Option<CaseReport> {
    let series = |value: &dyn Fn(&Sample) -> Option<f64>| {
        Series::of(&samples.iter().filter_map(value).collect::<Vec<_>>())
    };
    Some(CaseReport {
        unit: case.work.unit().into(),
        series: series(&|sample| Some(sample.value))?,
        p99_us: series(&|sample| sample.p99_us),
        cpu_cores: series(&|sample| Some(sample.cpu_cores))?.median,
        copies_per_byte: series(&|sample| sample.extra.copies_per_byte).map(|s| s.median),
        backend: samples
            .first()
            .and_then(|sample| sample.extra.backend.clone()),
    })
}

impl fmt::Display for NetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>12} {:>12} {:>12}  {:<11} {:>6}",
            "case", "median", "min", "max", "", "cores"
        )?;
        for (name, case) in &self.cases {
            let s = &case.series;
            let number = |value: f64| match case.unit.as_str() {
                "messages/s" => format!("{value:.0}"),
                _ => format!("{value:.2}"),
            };
            let mut notes = String::new();
            if let Some(p99) = &case.p99_us {
                let _ = write!(notes, "  p99 {:.1} us", p99.median);
            }
            if let Some(copies) = case.copies_per_byte {
                let _ = write!(notes, "  copies/byte {copies:.2}");
            }
            writeln!(
                f,
                "{name:<34} {:>12} {:>12} {:>12}  {:<11} {:>6.2}{notes}",
                number(s.median),
                number(s.min),
                number(s.max),
                case.unit,
                case.cpu_cores,
            )?;
        }
        writeln!(
            f,
            "\n{:<34} {:>12} {:>12} {:>12}",
            "ratio", "median", "min", "max"
        )?;
        for (name, s) in &self.ratios {
            let better = if name.starts_with("rtt") {
                "  lower is better"
            } else {
                ""
            };
            writeln!(
                f,
                "{name:<34} {:>12.3} {:>12.3} {:>12.3}{better}",
                s.median, s.min, s.max
            )?;
        }
        let m = &self.environment.machine;
        writeln!(
            f,
            "\n{}, {} cores, Linux {}",
            m.cpu_model, m.cores, m.kernel
        )?;
        writeln!(
            f,
            "commit {}, {}, {} rounds",
            m.commit, m.profile, self.rounds
        )?;
        for warning in &self.warnings {
            writeln!(f, "note: {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::cases;

    #[test]
    #[cfg(feature = "peers")]
    fn every_ratio_names_cases_that_exist() {
        let names: Vec<String> = cases::all(falconet_dataplane::Backend::Auto)
            .iter()
            .map(Case::name)
            .collect();
        for (ratio, over, under) in RATIOS {
            for case in [over, under] {
                assert!(names.iter().any(|name| name == case), "{ratio}: {case}");
            }
        }
    }

    #[test]
    fn no_two_cases_share_a_name() {
        let cases = cases::all(falconet_dataplane::Backend::Auto);
        let mut names: Vec<String> = cases.iter().map(Case::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }
}
