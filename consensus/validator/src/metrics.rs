//! What a validator counts. Names start with `falconet_`, units are base units, labels have few
//! values. Every stage exports what waits for it, what it did and how long that took.

use std::sync::Arc;

use falconet_dataplane::StoqHandle;
use falconet_types::receipt::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Label of a counter that is split by cause.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Cause {
    /// A short stable name.
    pub cause: &'static str,
}

type Seconds = Histogram;

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $ty:ty = $make:expr, $unit:expr;)+) => {
        /// Live metrics of one validator.
        pub struct Metrics {
            $($(#[doc = $help])+ pub $name: $ty,)+
            registry: Registry,
        }

        impl Metrics {
            /// All metrics at zero, with the transport's counters joined to them.
            #[must_use]
            pub fn new(stoq: StoqHandle) -> Arc<Self> {
                let mut registry = Registry::with_prefix("falconet");
                $(
                    let $name: $ty = $make;
                    let help = concat!($($help),+).trim();
                    match $unit {
                        Some(unit) => registry.register_with_unit(
                            stringify!($name), help, unit, $name.clone(),
                        ),
                        None => registry.register(stringify!($name), help, $name.clone()),
                    }
                )+
                registry.register_collector(Box::new(TransportCounters(stoq)));
                Arc::new(Self { $($name,)+ registry })
            }
        }
    };
}

metrics! {
    /// Round of the HotStuff core.
    round: Gauge = Gauge::default(), None;
    /// Height of the last committed block.
    committed_height: Gauge = Gauge::default(), None;
    /// Height of the last executed block.
    executed_height: Gauge = Gauge::default(), None;
    /// 1 when this validator may sign, 0 when it must not (see /v1/status).
    signing: Gauge = Gauge::default(), None;
    /// Validators that this one is connected with.
    peers_connected: Gauge = Gauge::default(), None;
    /// Clients that are connected.
    clients_connected: Gauge = Gauge::default(), None;
    /// Rounds that ended by a timeout certificate.
    rounds_timed_out: Gauge = Gauge::default(), None;
    /// Blocks executed.
    blocks_executed: Counter = Counter::default(), None;
    /// Transactions executed, by outcome.
    transactions: Family<Cause, Counter> = Family::default(), None;
    /// Submissions answered at the door, by answer.
    admissions: Family<Cause, Counter> = Family::default(), None;
    /// Time from admission to execution of transactions of this validator's lane.
    commit_latency: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Signatures verified.
    signatures_verified: Counter = Counter::default(), None;
    /// Signatures that one call of the verifier was given.
    verify_batch_size: Histogram = Histogram::new(SIZES), None;
    /// Time of one call of the verifier.
    verify_time: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Consensus messages that wait for verification.
    verify_queue_urgent: Gauge = Gauge::default(), None;
    /// Submissions and batches that wait for verification.
    verify_queue_bulk: Gauge = Gauge::default(), None;
    /// Messages of peers that were refused, by cause.
    messages_refused: Family<Cause, Counter> = Family::default(), None;
    /// Inputs that one turn of the core took.
    turn_inputs: Histogram = Histogram::new(SIZES), None;
    /// Time that the core spent on one turn.
    turn_time: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Time of one fdatasync of the log.
    fsync_time: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Turns that shared one fdatasync.
    fsync_turns: Histogram = Histogram::new(SIZES), None;
    /// Bytes appended to the log.
    log_bytes: Counter = Counter::default(), Some(Unit::Bytes);
    /// Time to execute one block.
    execute_time: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Time to hand one block's state to the store.
    state_write_time: Seconds = Histogram::new(LATENCY_S), Some(Unit::Seconds);
    /// Frames that could not be queued for a peer or client because its queue was full.
    frames_dropped: Counter = Counter::default(), None;
    /// Requests for history that were dropped because too many were waiting.
    history_requests_dropped: Counter = Counter::default(), None;
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

impl Metrics {
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

    /// The text that `/metrics` answers (OpenMetrics 1.0).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a String does not fail");
        text
    }
}

/// The transport's own counters, read when somebody asks.
#[derive(Debug)]
struct TransportCounters(StoqHandle);

impl Collector for TransportCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let snapshot = self.0.stats();
        for ((name, help), (_, value)) in falconet_dataplane::StatsSnapshot::NAMES
            .iter()
            .zip(snapshot.values())
        {
            let help = help.trim();
            let full = format!("stoq_{name}");
            if help.starts_with("Now:") {
                let gauge = Gauge::<i64>::default();
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                let metric = encoder.encode_descriptor(&full, help, None, gauge.metric_type())?;
                gauge.encode(metric)?;
            } else {
                let counter = ConstCounter::new(value);
                let metric = encoder.encode_descriptor(&full, help, None, counter.metric_type())?;
                counter.encode(metric)?;
            }
        }
        Ok(())
    }
}
