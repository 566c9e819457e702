//! What a validator counts, from one table.
//!
//! A row of the table below is a name, a help text, a type, a unit and the labels. It yields the
//! field, the registration, a row of [`TABLE`], and from there `docs/metrics.md`, the Grafana
//! dashboard and what alerts may refer to (see [`publish`]). The law of names: prefix `falconet_`,
//! base units, unit last, labels of few values (an index, a stage, a cause; never a key or an
//! address).

pub mod collectors;
pub mod latency;
pub mod publish;
pub mod stages;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use falconet_dataplane::{StatsSnapshot, StoqHandle};
use falconet_types::message::Admission;
use falconet_types::receipt::Outcome;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use self::collectors::{FilterCounters, ProcessFigures, StageTimes, TransportCounters};
use self::latency::LatencyCounts;
use self::stages::Stages;
use crate::filter::{FilterStatus, Guard};
use crate::peers::score::Fault;

/// Label of a counter that is split by cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// A short stable name.
    pub cause: &'static str,
}

/// Label of what is split by validator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// Index of the validator.
    pub validator: u16,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; exported with the suffix `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket; exported as `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// Base unit of a metric; it ends the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// A number of something that the name says.
    Plain,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// Part of the validator that a metric belongs to; a row of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Rounds, commits, signing.
    Consensus,
    /// What clients get.
    Transactions,
    /// Signatures.
    Verification,
    /// Threads and queues.
    Stages,
    /// Log and state on disk.
    Disk,
    /// Connections and frames.
    Network,
    /// The filter before the network stack.
    Filter,
    /// The operating system's view.
    Process,
}

impl Group {
    /// Every group, in the order of the dashboard.
    pub const ALL: [Self; 8] = [
        Self::Consensus,
        Self::Transactions,
        Self::Verification,
        Self::Stages,
        Self::Disk,
        Self::Network,
        Self::Filter,
        Self::Process,
    ];
}

/// One metric as the documents describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Name without prefix, unit and suffix of the type.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its unit.
    pub measure: Measure,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Where it belongs.
    pub group: Group,
}

/// What the type of a field says about its row.
trait Metric {
    const KIND: Kind;
    const LABELS: &'static [&'static str];
}

impl Metric for Gauge {
    const KIND: Kind = Kind::Gauge;
    const LABELS: &'static [&'static str] = &[];
}

impl Metric for Gauge<f64, AtomicU64> {
    const KIND: Kind = Kind::Gauge;
    const LABELS: &'static [&'static str] = &[];
}

impl Metric for Counter {
    const KIND: Kind = Kind::Counter;
    const LABELS: &'static [&'static str] = &[];
}

impl Metric for Histogram {
    const KIND: Kind = Kind::Histogram;
    const LABELS: &'static [&'static str] = &[];
}

impl Metric for Family<Cause, Counter> {
    const KIND: Kind = Kind::Counter;
    const LABELS: &'static [&'static str] = &["cause"];
}

impl Metric for Family<PeerLabel, Gauge> {
    const KIND: Kind = Kind::Gauge;
    const LABELS: &'static [&'static str] = &["validator"];
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $ty:ty = $make:expr, $unit:ident, $group:ident;)+) => {
        /// Live metrics of one validator.
        pub struct Metrics {
            $($(#[doc = $help])+ pub $name: $ty,)+
            /// Time and queues of every stage.
            pub stages: Arc<Stages>,
            /// [`Metrics::commit_latency`] once more, for the live view.
            pub latency: LatencyCounts,
            stoq: StoqHandle,
            filter: Option<Weak<Guard>>,
            registry: Registry,
        }

        /// The rows of the fields of [`Metrics`]; [`publish::rows`] has all.
        pub const TABLE: &[Row] = &[
            $(Row {
                name: stringify!($name),
                help: concat!($($help),+),
                kind: <$ty as Metric>::KIND,
                measure: Measure::$unit,
                labels: <$ty as Metric>::LABELS,
                group: Group::$group,
            },)+
        ];

        impl Metrics {
            /// All metrics at zero, with the figures of transport, filter, stages and process joined
            /// to them. They do not keep the filter, which goes when the validator stops.
            #[must_use]
            pub fn new(stoq: StoqHandle, filter: Option<&Arc<Guard>>) -> Arc<Self> {
                let mut registry = Registry::with_prefix("falconet");
                $(
                    let $name: $ty = $make;
                    let help = concat!($($help),+).trim();
                    match Measure::$unit.unit() {
                        Some(unit) => registry.register_with_unit(
                            stringify!($name), help, unit.clone(), $name.clone(),
                        ),
                        None => registry.register(stringify!($name), help, $name.clone()),
                    }
                )+
                let stages = Arc::new(Stages::default());
                registry.register_collector(Box::new(StageTimes(Arc::clone(&stages))));
                registry.register_collector(Box::new(TransportCounters(stoq.clone())));
                let filter = filter.map(Arc::downgrade);
                registry.register_collector(Box::new(FilterCounters(filter.clone())));
                registry.register_collector(Box::new(ProcessFigures::default()));
                let metrics = Self {
                    $($name,)+
                    stages,
                    latency: LatencyCounts::default(),
                    stoq,
                    filter,
                    registry,
                };
                metrics.name_causes();
                Arc::new(metrics)
            }
        }
    };
}

metrics! {
    /// Round of the HotStuff core.
    round: Gauge = Gauge::default(), Plain, Consensus;
    /// Epoch that this node is in.
    epoch: Gauge = Gauge::default(), Plain, Consensus;
    /// Height of the last committed block.
    committed_height: Gauge = Gauge::default(), Plain, Consensus;
    /// Height of the last executed block.
    executed_height: Gauge = Gauge::default(), Plain, Consensus;
    /// 1 when this validator may sign, 0 when it must not (see /v1/status).
    signing: Gauge = Gauge::default(), Plain, Consensus;
    /// Validators that this one is connected with.
    peers_connected: Gauge = Gauge::default(), Plain, Network;
    /// Clients that are connected.
    clients_connected: Gauge = Gauge::default(), Plain, Network;
    /// Rounds that ended by a timeout certificate.
    rounds_timed_out: Counter = Counter::default(), Plain, Consensus;
    /// Rounds given up at once because rounds of the same leader failed of late (of those that timed
    /// out).
    rounds_passed_over: Counter = Counter::default(), Plain, Consensus;
    /// Base of the round timer, which follows what rounds take.
    round_timer_base: Gauge<f64, AtomicU64> = Gauge::default(), Seconds, Consensus;
    /// Blocks committed, by either rule.
    blocks_committed: Counter = Counter::default(), Plain, Consensus;
    /// Blocks committed by commit votes, before the 2-chain above them could (of those committed).
    blocks_committed_by_votes: Counter = Counter::default(), Plain, Consensus;
    /// Blocks executed.
    blocks_executed: Counter = Counter::default(), Plain, Consensus;
    /// Transactions executed, by outcome.
    transactions: Family<Cause, Counter> = Family::default(), Plain, Transactions;
    /// Submissions answered at the door, by answer.
    admissions: Family<Cause, Counter> = Family::default(), Plain, Transactions;
    /// Transactions that wait in this validator's lane for a batch.
    transactions_pending: Gauge = Gauge::default(), Plain, Transactions;
    /// Time from admission to execution of transactions of this validator's lane.
    commit_latency: Histogram = Histogram::new(LATENCY_S), Seconds, Transactions;
    /// Signatures checked, each of a certificate and of a batch of transactions by itself.
    signatures_verified: Counter = Counter::default(), Plain, Verification;
    /// Signatures that one call of the verifier was given.
    verify_batch_size: Histogram = Histogram::new(SIZES), Plain, Verification;
    /// Time of one call of the verifier.
    verify_time: Histogram = Histogram::new(LATENCY_S), Seconds, Verification;
    /// Messages of peers that were refused, by cause.
    messages_refused: Family<Cause, Counter> = Family::default(), Plain, Verification;
    /// What validators did wrong, by kind; see the operator guide.
    peer_faults: Family<Cause, Counter> = Family::default(), Plain, Network;
    /// Frames of validators that were dropped because they exceeded their allowance.
    frames_throttled: Counter = Counter::default(), Plain, Network;
    /// How a validator stands here: 100 is spotless, 0 is banned.
    peer_score: Family<PeerLabel, Gauge> = Family::default(), Plain, Network;
    /// Validators that are throttled now, and prefixes of clients that are banned now.
    peers_banned: Gauge = Gauge::default(), Plain, Network;
    /// Inputs that one turn of the core took.
    turn_inputs: Histogram = Histogram::new(SIZES), Plain, Stages;
    /// Time that the core spent on one turn.
    turn_time: Histogram = Histogram::new(LATENCY_S), Seconds, Stages;
    /// Time of one fdatasync of the log.
    fsync_time: Histogram = Histogram::new(LATENCY_S), Seconds, Disk;
    /// Turns that shared one fdatasync.
    fsync_turns: Histogram = Histogram::new(SIZES), Plain, Disk;
    /// Bytes appended to the log.
    log_written: Counter = Counter::default(), Bytes, Disk;
    /// Heights that are kept beyond the history that genesis asks for, because no newer snapshot
    /// can be proven yet; 0 as a rule.
    history_held_heights: Gauge = Gauge::default(), Plain, Disk;
    /// Time to execute one block.
    execute_time: Histogram = Histogram::new(LATENCY_S), Seconds, Stages;
    /// Time to hand one block's state to the store.
    state_write_time: Histogram = Histogram::new(LATENCY_S), Seconds, Disk;
    /// Frames that could not be queued for a peer or client because its queue was full.
    frames_dropped: Counter = Counter::default(), Plain, Network;
    /// Requests for history that were dropped because too many were waiting.
    history_requests_dropped: Counter = Counter::default(), Plain, Network;
}

/// 50 us to 26 s in steps of a factor 1.33: fine enough for a p99.9.
const LATENCY_S: [f64; 47] = geometric(50e-6, 1.33);
/// 1 to about 8,000.
const SIZES: [f64; 14] = geometric(1.0, 2.0);

const fn geometric<const N: usize>(first: f64, factor: f64) -> [f64; N] {
    let mut out = [first; N];
    let mut i = 1;
    while i < N {
        out[i] = out[i - 1] * factor;
        i += 1;
    }
    out
}

/// Causes for which a message of a peer or client is refused.
const REFUSALS: [&str; 3] = ["malformed", "signature", "batch"];

impl Measure {
    fn unit(self) -> Option<&'static Unit> {
        static SECONDS: Unit = Unit::Seconds;
        static BYTES: Unit = Unit::Bytes;
        match self {
            Self::Plain => None,
            Self::Seconds => Some(&SECONDS),
            Self::Bytes => Some(&BYTES),
        }
    }

    /// What it adds to a name.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Seconds => "_seconds",
            Self::Bytes => "_bytes",
        }
    }
}

/// The label of an answer to a submission.
#[must_use]
pub fn admission_name(admission: Admission) -> &'static str {
    match admission {
        Admission::Accepted => "accepted",
        Admission::Duplicate => "duplicate",
        Admission::Busy { .. } => "busy",
        Admission::Refused(outcome) => outcome.name(),
    }
}

impl Metrics {
    /// Makes every label value exist from the start: a rate over a counter that appears with its
    /// first event misses that event.
    fn name_causes(&self) {
        for cause in REFUSALS {
            drop(self.messages_refused.get_or_create(&Cause { cause }));
        }
        for cause in Fault::ALL.map(Fault::name) {
            drop(self.peer_faults.get_or_create(&Cause { cause }));
        }
        let answers = [
            Admission::Accepted,
            Admission::Duplicate,
            Admission::Busy { retry_after_ms: 0 },
        ];
        let refused = Outcome::ALL.map(Admission::Refused);
        for cause in answers.into_iter().chain(refused).map(admission_name) {
            drop(self.admissions.get_or_create(&Cause { cause }));
        }
        for outcome in Outcome::ALL {
            let cause = outcome.name();
            drop(self.transactions.get_or_create(&Cause { cause }));
        }
    }

    /// Counts one refused message.
    pub fn refused(&self, cause: &'static str) {
        self.messages_refused.get_or_create(&Cause { cause }).inc();
    }

    /// Counts executed transactions.
    pub fn outcome(&self, outcome: Outcome, count: u64) {
        self.transactions
            .get_or_create(&Cause {
                cause: outcome.name(),
            })
            .inc_by(count);
    }

    /// Transactions that took effect so far.
    #[must_use]
    pub fn executed_transactions(&self) -> u64 {
        self.transactions
            .get_or_create(&Cause {
                cause: Outcome::Executed.name(),
            })
            .get()
    }

    /// Transactions executed so far, whatever their outcome.
    #[must_use]
    pub fn transactions_total(&self) -> u64 {
        Outcome::ALL
            .iter()
            .map(|o| {
                self.transactions
                    .get_or_create(&Cause { cause: o.name() })
                    .get()
            })
            .sum()
    }

    /// The transport's counters.
    #[must_use]
    pub fn transport(&self) -> StatsSnapshot {
        self.stoq.stats()
    }

    /// The filter before the network stack, where there is one.
    #[must_use]
    pub fn filter(&self) -> Option<FilterStatus> {
        let guard = self.filter.as_ref()?.upgrade()?;
        Some(guard.status())
    }

    /// The text that `/metrics` answers (OpenMetrics 1.0).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        text
    }
}
