//! `GET /v1/live`: everything that the web page and `falconet top` show.
//!
//! A sampler takes the figures once a second and keeps the last minutes of them. Its answer is
//! made once and handed to whoever asks, so a viewer costs a copy of some kilobytes a second,
//! however many there are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Api, Shared, health};
use crate::filter::FilterStatus;
use crate::metrics::latency::LatencySnapshot;
use crate::metrics::stages::{QueueStatus, StageStatus};
use crate::metrics::{PeerLabel, collectors};
use crate::status::{BlockSummary, Status};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Samples that are kept: three minutes.
pub const SAMPLES_MAX: usize = 180;
/// Samples over which the latency of an answer is taken.
const LATENCY_WINDOW: usize = 10;

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveAnswer {
    /// As `GET /v1/status`.
    pub status: Status,
    /// `None` when the validator is ready; otherwise why not, as `GET /readyz` says it.
    pub not_ready: Option<String>,
    /// Seconds since the process started.
    pub uptime_s: f64,
    /// Memory in RAM, bytes.
    pub resident_bytes: u64,
    /// Where the time of every stage went.
    pub stages: Vec<StageStatus>,
    /// What waits between them.
    pub queues: Vec<QueueStatus>,
    /// Time from admission to execution over the last [`LATENCY_WINDOW`] samples.
    pub latency: LatencyStatus,
    /// The transport's counters.
    pub transport: BTreeMap<String, u64>,
    /// The filter before the network stack, where `[xdp]` asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<FilterStatus>,
    /// One entry a second, oldest first.
    pub samples: Vec<Sample>,
    /// The blocks executed last, newest first.
    pub blocks: Vec<BlockSummary>,
}

/// Latency of the transactions that were submitted here, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Transactions that this speaks of.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_ms: Option<f64>,
    /// 999 of 1000 took no longer.
    pub p999_ms: Option<f64>,
}

impl LatencyStatus {
    fn of(window: &LatencySnapshot) -> Self {
        Self {
            count: window.count(),
            p50_ms: window.quantile_ms(0.5),
            p99_ms: window.quantile_ms(0.99),
            p999_ms: window.quantile_ms(0.999),
        }
    }
}

/// One second of a validator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it ended, milliseconds since 1970.
    pub time_ms: u64,
    /// Round.
    pub round: u64,
    /// Height of the last committed block.
    pub height: u64,
    /// Transactions executed, a second.
    pub tx_per_s: f64,
    /// Blocks executed, a second.
    pub blocks_per_s: f64,
    /// Half of the transactions submitted here took no longer, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer, milliseconds.
    pub p99_ms: Option<f64>,
    /// UDP payload received, bytes a second.
    pub in_bytes_per_s: f64,
    /// UDP payload sent, bytes a second.
    pub out_bytes_per_s: f64,
    /// CPU time a second: 1 is one core.
    pub cpu_cores: f64,
}

/// Where the sampler leaves its answer.
#[derive(Default)]
pub struct LiveBoard(Mutex<Bytes>);

pub(super) async fn live(State(api): Shared) -> impl IntoResponse {
    let answer = api.live.0.lock().clone();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, answer)
}

/// Counters that only grow, at one moment.
#[derive(Clone, Copy)]
struct Totals {
    at: Instant,
    transactions: u64,
    blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
    cpu: Duration,
}

impl Totals {
    fn now(api: &Api) -> Self {
        let transport = api.metrics.transport();
        Self {
            at: Instant::now(),
            transactions: api.metrics.transactions_total(),
            blocks: api.metrics.blocks_executed.get(),
            bytes_in: transport.bytes_in,
            bytes_out: transport.bytes_out,
            cpu: collectors::cpu_time(),
        }
    }
}

/// Takes the figures once a second.
pub(super) struct Sampler {
    api: Arc<Api>,
    last: Totals,
    samples: VecDeque<Sample>,
    /// Latency counts at the end of the last samples.
    latencies: VecDeque<LatencySnapshot>,
}

impl Sampler {
    pub(super) fn new(api: Arc<Api>) -> Self {
        let mut sampler = Self {
            last: Totals::now(&api),
            samples: VecDeque::with_capacity(SAMPLES_MAX),
            latencies: VecDeque::from([api.metrics.latency.snapshot()]),
            api,
        };
        sampler.scores();
        sampler.publish();
        sampler
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await; // the first is at once
        loop {
            ticks.tick().await;
            self.sample();
            self.publish();
        }
    }

    /// Scores change by themselves, so they are put among the metrics when there is a sample.
    fn scores(&self) {
        let (standing, metrics) = (&self.api.standing, &self.api.metrics);
        for validator in self.api.chain.set().iter() {
            let label = PeerLabel {
                validator: validator.index.0,
            };
            let score = i64::from(standing.of(validator.index).score);
            metrics.peer_score.get_or_create(&label).set(score);
        }
        let (validators, prefixes) = standing.banned();
        metrics.peers_banned.set((validators + prefixes) as i64);
    }

    fn sample(&mut self) {
        self.scores();
        let (before, now) = (self.last, Totals::now(&self.api));
        self.last = now;
        let seconds = (now.at - before.at).as_secs_f64();
        let rate = |now: u64, before: u64| (now.saturating_sub(before)) as f64 / seconds;
        let counts = self.api.metrics.latency.snapshot();
        let newest = self.latencies.back().cloned().unwrap_or_default();
        let latency = LatencyStatus::of(&counts.since(&newest));
        if self.latencies.len() > LATENCY_WINDOW {
            self.latencies.pop_front();
        }
        self.latencies.push_back(counts);
        let core = self.api.board.core.lock();
        let sample = Sample {
            time_ms: crate::clock::wall_ms(),
            round: core.hotstuff.round.0,
            height: core.hotstuff.committed_height.0,
            tx_per_s: rate(now.transactions, before.transactions),
            blocks_per_s: rate(now.blocks, before.blocks),
            p50_ms: latency.p50_ms,
            p99_ms: latency.p99_ms,
            in_bytes_per_s: rate(now.bytes_in, before.bytes_in),
            out_bytes_per_s: rate(now.bytes_out, before.bytes_out),
            cpu_cores: now.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds,
        };
        drop(core);
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    fn publish(&mut self) {
        let api = &self.api;
        let oldest = self.latencies.front().cloned().unwrap_or_default();
        let window = api.metrics.latency.snapshot().since(&oldest);
        let answer = LiveAnswer {
            status: health::status_of(api),
            not_ready: health::not_ready(api).map(|(_, reason)| reason),
            uptime_s: api.started.elapsed().as_secs_f64(),
            resident_bytes: collectors::resident_bytes(),
            stages: api.metrics.stages.report(),
            queues: api.metrics.stages.queues(),
            latency: LatencyStatus::of(&window),
            transport: api
                .metrics
                .transport()
                .values()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            xdp: api.metrics.filter(),
            samples: self.samples.iter().copied().collect(),
            blocks: api.board.recent_blocks(),
        };
        let text = serde_json::to_vec(&answer).expect("plain data becomes JSON");
        *api.live.0.lock() = text.into();
    }
}
