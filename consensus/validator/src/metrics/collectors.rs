//! Figures that are read when somebody asks: the transport's counters, the stages' clocks, and
//! what the operating system knows of the process.

use std::fmt::Error;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use falconet_dataplane::{StatsSnapshot, StoqHandle};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::stages::{Stages, State};
use super::{Group, Kind, Measure, Row};
use crate::filter::Guard;

/// Prefix of the transport's counters.
const STOQ: &str = "stoq_";
/// How the description of a transport counter begins that goes up and down.
const NOW: &str = "Now:";

/// The transport's ratio of copied to delivered bytes.
const COPIES: &str = "stoq_copies_per_byte";

/// The filter's packets.
const XDP_PACKETS: &str = "xdp_packets";
/// Whether there is a filter.
const XDP_ATTACHED: &str = "xdp_attached";

/// The transport's counters of bytes, and how they are published: the unit ends the name.
const TRANSPORT_BYTES: [(&str, &str); 5] = [
    ("bytes_in", "received"),
    ("bytes_out", "sent"),
    ("payload_bytes_copied", "payload_copied"),
    ("payload_bytes_delivered", "payload_delivered"),
    ("pool_bytes_huge", "pool_huge"),
];

/// Rows of the figures in this module, without the transport's.
pub const TABLE: &[Row] = &[
    Row {
        name: "stage_time",
        help: "Time of the threads of a stage, by state: busy, waiting (for input) or back_pressured (the next stage has no room).",
        kind: Kind::Counter,
        measure: Measure::Seconds,
        labels: &["stage", "state"],
        group: Group::Stages,
    },
    Row {
        name: "stage_threads",
        help: "Threads of a stage.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &["stage"],
        group: Group::Stages,
    },
    Row {
        name: "queue_depth",
        help: "Entries in a queue between two stages, when it was last touched.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &["queue"],
        group: Group::Stages,
    },
    Row {
        name: "queue_limit",
        help: "Entries that fit into a queue between two stages.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &["queue"],
        group: Group::Stages,
    },
    Row {
        name: COPIES,
        help: "How often a delivered payload byte was copied between its packet and the consumer, on average since the start; above 1, receive buffers ran out or AF_XDP is in use.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &[],
        group: Group::Network,
    },
    Row {
        name: XDP_ATTACHED,
        help: "1 while this validator's filter is attached, 0 without one.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &[],
        group: Group::Filter,
    },
    Row {
        name: XDP_PACKETS,
        help: "Packets that the filter before the network stack decided on since it was attached, by fate (pass, redirect, drop) and cause, see docs/xdp.md.",
        kind: Kind::Counter,
        measure: Measure::Plain,
        labels: &["fate", "cause"],
        group: Group::Filter,
    },
    Row {
        name: "process_start_time",
        help: "When the process started, since 1970.",
        kind: Kind::Gauge,
        measure: Measure::Seconds,
        labels: &[],
        group: Group::Process,
    },
    Row {
        name: "process_cpu",
        help: "CPU time of the process, in user mode and in the kernel.",
        kind: Kind::Counter,
        measure: Measure::Seconds,
        labels: &[],
        group: Group::Process,
    },
    Row {
        name: "process_resident_memory",
        help: "Memory of the process that is in RAM.",
        kind: Kind::Gauge,
        measure: Measure::Bytes,
        labels: &[],
        group: Group::Process,
    },
    Row {
        name: "process_open_files",
        help: "File descriptors that are open.",
        kind: Kind::Gauge,
        measure: Measure::Plain,
        labels: &[],
        group: Group::Process,
    },
];

/// Rows of the transport's counters; names are joined with [`STOQ`] by the caller.
pub fn transport_rows() -> impl Iterator<Item = Row> {
    StatsSnapshot::NAMES.iter().map(|&(name, help)| {
        let bytes = TRANSPORT_BYTES.iter().find(|(of, _)| *of == name);
        Row {
            name: bytes.map_or(name, |(_, published)| published),
            help,
            kind: if help.trim().starts_with(NOW) {
                Kind::Gauge
            } else {
                Kind::Counter
            },
            measure: bytes.map_or(Measure::Plain, |_| Measure::Bytes),
            labels: &[],
            group: Group::Network,
        }
    })
}

/// The whole name of a transport counter, without `falconet_`.
#[must_use]
pub fn transport_name(name: &str) -> String {
    format!("{STOQ}{name}")
}

/// The transport's own counters.
#[derive(Debug)]
pub(super) struct TransportCounters(pub(super) StoqHandle);

impl Collector for TransportCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let snapshot = self.0.stats();
        for (row, (_, value)) in transport_rows().zip(snapshot.values()) {
            let (name, help) = (transport_name(row.name), row.help.trim());
            if row.kind == Kind::Gauge {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                let (unit, kind) = (row.measure.unit(), MetricType::Gauge);
                gauge.encode(encoder.encode_descriptor(&name, help, unit, kind)?)?;
            } else {
                let counter = ConstCounter::new(value);
                let (unit, kind) = (row.measure.unit(), MetricType::Counter);
                counter.encode(encoder.encode_descriptor(&name, help, unit, kind)?)?;
            }
        }
        let copies = snapshot.copies_per_byte().unwrap_or(0.0);
        ConstGauge::new(copies).encode(open(&mut encoder, row_of(COPIES))?)
    }
}

/// A row of [`TABLE`].
fn row_of(name: &str) -> &'static Row {
    let row = TABLE.iter().find(|row| row.name == name);
    row.expect("named by a constant of this module")
}

/// What the filter before the network stack counted; zeros where there is none.
pub(super) struct FilterCounters(pub(super) Option<Weak<Guard>>);

impl std::fmt::Debug for FilterCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FilterCounters").finish_non_exhaustive()
    }
}

impl Collector for FilterCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let guard = self.0.as_ref().and_then(Weak::upgrade);
        let counters = guard.and_then(|guard| guard.counters());
        let attached = ConstGauge::new(i64::from(counters.is_some()));
        attached.encode(open(&mut encoder, row_of(XDP_ATTACHED))?)?;
        let mut family = open(&mut encoder, row_of(XDP_PACKETS))?;
        for (cause, packets) in counters.unwrap_or_default().iter() {
            let fate = cause.fate().to_string();
            let labels = [("fate", fate.as_str()), ("cause", cause.name())];
            ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Time and queues of the stages.
#[derive(Debug)]
pub(super) struct StageTimes(pub(super) Arc<Stages>);

impl Collector for StageTimes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let [time, threads, depth, limit, ..] = TABLE else {
            unreachable!("the table is longer");
        };
        let report = self.0.report();
        let mut family = open(&mut encoder, time)?;
        for stage in &report {
            let spent = [stage.busy_s, stage.waiting_s, stage.back_pressured_s];
            for (state, spent) in State::ALL.into_iter().zip(spent) {
                let labels = [("stage", stage.stage.as_str()), ("state", state.name())];
                ConstCounter::new(spent).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut family = open(&mut encoder, threads)?;
        for stage in &report {
            let labels = [("stage", stage.stage.as_str())];
            ConstGauge::new(stage.threads as i64).encode(family.encode_family(&labels)?)?;
        }
        let queues = self.0.queues();
        let mut family = open(&mut encoder, depth)?;
        for queue in &queues {
            let labels = [("queue", queue.queue.as_str())];
            ConstGauge::new(queue.depth as i64).encode(family.encode_family(&labels)?)?;
        }
        let mut family = open(&mut encoder, limit)?;
        for queue in &queues {
            let labels = [("queue", queue.queue.as_str())];
            ConstGauge::new(queue.limit as i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn open<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    row: &Row,
) -> Result<prometheus_client::encoding::MetricEncoder<'a>, Error> {
    let kind = match row.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    encoder.encode_descriptor(row.name, row.help, row.measure.unit(), kind)
}

/// What the operating system knows of this process. A figure that cannot be read is zero.
#[derive(Debug)]
pub(super) struct ProcessFigures {
    started_s: f64,
}

impl Default for ProcessFigures {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started_s: since.unwrap_or_default().as_secs_f64(),
        }
    }
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let [.., started, cpu, memory, files] = TABLE else {
            unreachable!("the table is longer");
        };
        ConstGauge::new(self.started_s).encode(open(&mut encoder, started)?)?;
        ConstCounter::new(cpu_time().as_secs_f64()).encode(open(&mut encoder, cpu)?)?;
        ConstGauge::new(resident_bytes() as i64).encode(open(&mut encoder, memory)?)?;
        ConstGauge::new(open_files() as i64).encode(open(&mut encoder, files)?)
    }
}

/// CPU time of this process.
#[must_use]
pub fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(spent.tv_sec).unwrap_or(0),
        u32::try_from(spent.tv_nsec).unwrap_or(0),
    )
}

/// Resident memory of this process, from the second field of `/proc/self/statm`, in pages.
#[must_use]
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
