//! Metrics, logs and spans to an OpenTelemetry collector: OTLP 1.x over HTTP with JSON bodies.
//!
//! Behind the feature `otel`, and only when `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector. The
//! usual client libraries are over a hundred crates; what is needed of the protocol is three
//! documents and one `POST` each, so they are made here from the same exposition that `/metrics`
//! answers. Nothing waits for the collector: logs and spans that find their queue full are dropped
//! and counted, and a collector that is away costs one line in the log.
//!
//! Field names: `opentelemetry/proto/metrics/v1/metrics.proto`, `logs/v1/logs.proto` and
//! `trace/v1/trace.proto`, in the JSON mapping of the OTLP specification (64-bit integers as strings).

pub mod spans;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::metrics::{Kind, Measure, publish};

/// Log records that may wait for the next export.
const RECORDS_MAX: usize = 4096;
/// Spans that may wait for the next export.
const SPANS_MAX: usize = 8192;
/// Share of blocks and transactions that have spans unless `OTEL_TRACES_SAMPLER_ARG` says
/// otherwise.
const SAMPLED: f64 = 0.01;
/// Bytes of one log record's text that are sent.
const RECORD_BYTES_MAX: usize = 4096;
/// Time between two exports unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const INTERVAL: Duration = Duration::from_secs(10);
/// Longest wait for the collector.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The way from the layer to the exporter. One exporter a process.
static RECORDS: OnceLock<Sender<Value>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Where and how often.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address of the collector, such as `http://[::1]:4318`.
    pub endpoint: String,
    /// Time between two exports.
    pub interval: Duration,
    /// `service.name`
    pub service: String,
    /// Share of blocks and transactions that have spans: 0 none, 1 all.
    pub sampled: f64,
}

impl Settings {
    /// What the environment says; `None` without an endpoint.
    #[must_use]
    pub fn from_env() -> Option<Self> {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = var("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        if !endpoint.starts_with("http://") {
            tracing::warn!(
                endpoint,
                "only http:// collectors can be used; nothing is exported"
            );
            return None;
        }
        let interval = var("OTEL_METRIC_EXPORT_INTERVAL")
            .and_then(|text| text.parse().ok())
            .filter(|ms| *ms > 0)
            .map_or(INTERVAL, Duration::from_millis);
        Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            interval,
            sampled: var("OTEL_TRACES_SAMPLER_ARG")
                .and_then(|text| text.parse().ok())
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .unwrap_or(SAMPLED),
            service: var("OTEL_SERVICE_NAME").unwrap_or_else(|| "falconet".into()),
        })
    }
}

/// Exports until the returned sender is dropped, and once more then. `encode` gives the text of
/// `/metrics`, `instance` tells validators apart.
pub fn start(
    settings: Settings,
    instance: String,
    encode: impl Fn() -> String + Send + 'static,
) -> std::io::Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = bounded::<()>(0);
    let (sender, records) = bounded(RECORDS_MAX);
    // A second exporter in one process gets no logs: whose would they be?
    let _ = RECORDS.set(sender);
    let (sender, spans) = bounded(SPANS_MAX);
    spans::start(settings.sampled, &instance, sender);
    let exporter = Exporter {
        agent: ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .build()
            .into(),
        resource: json!({ "attributes": [
            attribute("service.name", &settings.service),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", &instance),
        ] }),
        settings,
        start_ns: now_ns(),
        records,
        spans,
        reached: true,
    };
    let thread = std::thread::Builder::new()
        .name("otel".into())
        .spawn(move || exporter.run(&stopped, encode))?;
    Ok((stop, thread))
}

struct Exporter {
    agent: ureq::Agent,
    settings: Settings,
    resource: Value,
    start_ns: u64,
    records: Receiver<Value>,
    spans: Receiver<Value>,
    /// Whether the last export arrived; a change is logged.
    reached: bool,
}

impl Exporter {
    fn run(mut self, stopped: &Receiver<()>, encode: impl Fn() -> String) {
        loop {
            let waited = stopped.recv_timeout(self.settings.interval);
            self.export(&encode());
            if waited != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn export(&mut self, exposition: &str) {
        let scope = json!({ "name": "falconet", "version": env!("CARGO_PKG_VERSION") });
        let metrics = metrics(exposition, self.start_ns, now_ns());
        let body = json!({ "resourceMetrics": [{
            "resource": self.resource,
            "scopeMetrics": [{ "scope": scope, "metrics": metrics }],
        }] });
        let mut done = self.post("/v1/metrics", &body);
        let records: Vec<Value> = self.records.try_iter().take(RECORDS_MAX).collect();
        if !records.is_empty() {
            let body = json!({ "resourceLogs": [{
                "resource": self.resource,
                "scopeLogs": [{ "scope": scope, "logRecords": records }],
            }] });
            done = done.and_then(|()| self.post("/v1/logs", &body));
        }
        let spans: Vec<Value> = self.spans.try_iter().take(SPANS_MAX).collect();
        if !spans.is_empty() {
            let body = json!({ "resourceSpans": [{
                "resource": self.resource,
                "scopeSpans": [{ "scope": scope, "spans": spans }],
            }] });
            done = done.and_then(|()| self.post("/v1/traces", &body));
        }
        match done {
            Ok(()) if !self.reached => tracing::info!("the OpenTelemetry collector answers again"),
            Err(ref error) if self.reached => tracing::warn!(
                %error,
                endpoint = self.settings.endpoint,
                "the OpenTelemetry collector does not take metrics, logs and spans"
            ),
            _ => {}
        }
        self.reached = done.is_ok();
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "log records were not exported: too many at a time");
        }
        let dropped = spans::DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "spans were not exported: too many at a time; lower OTEL_TRACES_SAMPLER_ARG"
            );
        }
    }

    fn post(&self, path: &str, body: &Value) -> Result<(), ureq::Error> {
        let request = self.agent.post(format!("{}{path}", self.settings.endpoint));
        let request = request.content_type("application/json");
        request.send(body.to_string()).map(drop)
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// Buckets of one histogram with one set of labels.
#[derive(Default)]
struct Buckets {
    /// Upper bound and how many are at or below it.
    cumulative: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

/// The `metrics` of an OTLP request, from the text of `/metrics`.
fn metrics(exposition: &str, start_ns: u64, now_ns: u64) -> Vec<Value> {
    let samples: Vec<Sample<'_>> = exposition.lines().filter_map(Sample::parse).collect();
    let times = |mut point: Value| {
        point["startTimeUnixNano"] = start_ns.to_string().into();
        point["timeUnixNano"] = now_ns.to_string().into();
        point
    };
    let mut out = Vec::new();
    for metric in publish::rows() {
        let plain = metric.sample();
        let data = match metric.row.kind {
            Kind::Gauge | Kind::Counter => {
                let points: Vec<Value> = samples
                    .iter()
                    .filter(|sample| sample.name == plain)
                    .map(|s| times(json!({ "attributes": s.attributes(), "asDouble": s.value })))
                    .collect();
                match (points.is_empty(), metric.row.kind) {
                    (true, _) => continue,
                    (false, Kind::Gauge) => ("gauge", json!({ "dataPoints": points })),
                    (false, _) => (
                        "sum",
                        json!({ "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": points }),
                    ),
                }
            }
            Kind::Histogram => {
                let points: Vec<Value> = histograms(&samples, &metric.name)
                    .into_values()
                    .map(times)
                    .collect();
                if points.is_empty() {
                    continue;
                }
                (
                    "histogram",
                    json!({ "aggregationTemporality": 2, "dataPoints": points }),
                )
            }
        };
        let unit = match metric.row.measure {
            Measure::Plain => "1",
            Measure::Seconds => "s",
            Measure::Bytes => "By",
        };
        let mut value = json!({ "name": metric.name, "description": metric.help, "unit": unit });
        value[data.0] = data.1;
        out.push(value);
    }
    out
}

/// Data points of a histogram, by its labels without `le`.
fn histograms(samples: &[Sample<'_>], name: &str) -> BTreeMap<String, Value> {
    let mut found: BTreeMap<String, (Buckets, Vec<Value>)> = BTreeMap::new();
    for sample in samples {
        let Some(part) = sample.name.strip_prefix(name) else {
            continue;
        };
        let others: Vec<_> = sample
            .labels
            .iter()
            .filter(|(key, _)| *key != "le")
            .collect();
        let mut key = String::new();
        for (label, value) in &others {
            write!(key, "{label}={value},").expect("memory");
        }
        let attributes = || {
            others
                .iter()
                .map(|(key, value)| attribute(key, value))
                .collect()
        };
        let (buckets, _) = found
            .entry(key)
            .or_insert_with(|| (Buckets::default(), attributes()));
        match part {
            "_sum" => buckets.sum = sample.value,
            "_count" => buckets.count = sample.value as u64,
            "_bucket" => {
                let bound = sample.labels.iter().find(|(key, _)| *key == "le");
                let bound = bound.and_then(|(_, le)| le.parse().ok());
                buckets
                    .cumulative
                    .push((bound.unwrap_or(f64::INFINITY), sample.value as u64));
            }
            _ => {}
        }
    }
    let point = |(buckets, attributes): (Buckets, Vec<Value>)| {
        let mut below = 0;
        let mut counts = Vec::new();
        for (_, cumulative) in &buckets.cumulative {
            counts.push(cumulative.saturating_sub(below).to_string());
            below = *cumulative;
        }
        let bounds: Vec<f64> = buckets.cumulative.iter().map(|(bound, _)| *bound).collect();
        let bounds: Vec<f64> = bounds
            .into_iter()
            .filter(|bound| bound.is_finite())
            .collect();
        json!({
            "attributes": attributes,
            "count": buckets.count.to_string(),
            "sum": buckets.sum,
            "bucketCounts": counts,
            "explicitBounds": bounds,
        })
    };
    found
        .into_iter()
        .map(|(key, found)| (key, point(found)))
        .collect()
}

/// One line of an exposition. Label values of ours hold neither quotes nor commas.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        let value = value.parse().ok()?;
        Some(Self {
            name,
            labels,
            value,
        })
    }

    fn attributes(&self) -> Vec<Value> {
        let labels = self.labels.iter();
        labels.map(|(key, value)| attribute(key, value)).collect()
    }
}

/// Hands log events to the exporter.
pub struct LogLayer;

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(records) = RECORDS.get() else {
            return;
        };
        let metadata = event.metadata();
        // The exporter's own HTTP client would write about each export.
        if metadata.target().starts_with("ureq") {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
            .attributes
            .push(attribute("target", metadata.target()));
        let level = *metadata.level();
        let record = json!({
            "timeUnixNano": now_ns().to_string(),
            "severityNumber": severity(level),
            "severityText": level.as_str(),
            "body": { "stringValue": fields.message },
            "attributes": fields.attributes,
        });
        if records.try_send(record).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::TRACE => 1,
        Level::DEBUG => 5,
        Level::INFO => 9,
        Level::WARN => 13,
        Level::ERROR => 17,
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    attributes: Vec<Value>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(RECORD_BYTES_MAX).collect();
        if field.name() == "message" {
            self.message = value;
        } else {
            self.attributes.push(attribute(field.name(), &value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::trace::Moment;

    const EXPOSITION: &str = "\
# HELP falconet_round Round.
falconet_round 7
falconet_rounds_timed_out_total 2
falconet_stage_time_seconds_total{stage=\"core\",state=\"busy\"} 1.5
falconet_fsync_time_seconds_sum 0.25
falconet_fsync_time_seconds_count 3
falconet_fsync_time_seconds_bucket{le=\"0.1\"} 1
falconet_fsync_time_seconds_bucket{le=\"0.2\"} 3
falconet_fsync_time_seconds_bucket{le=\"+Inf\"} 3
# EOF
";

    /// Takes one request; its path and body.
    fn take(listener: &TcpListener) -> (String, Value) {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        reader.into_inner().write_all(answer).unwrap();
        (path, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_collector_receives_metrics_and_logs() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let settings = Settings {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            interval: Duration::from_secs(3600),
            service: "test".into(),
            sampled: 1.0,
        };
        let (stop, thread) = start(settings, "validator-0".into(), || EXPOSITION.into()).unwrap();
        let subscriber = tracing_subscriber::registry().with(LogLayer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(height = 9, "something happened");
        });
        let block = falconet_types::Digest([3; 32]);
        for moment in [Moment::Proposed, Moment::Committed, Moment::StateWritten] {
            spans::block(moment, &block, Some(9), None);
        }
        drop(stop); // the last export is made at once
        let (path, body) = take(&listener);
        assert_eq!(path, "/v1/metrics");
        let resource = &body["resourceMetrics"][0];
        assert_eq!(
            resource["resource"]["attributes"][2]["value"]["stringValue"],
            "validator-0"
        );
        let metrics = resource["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let named = |name: &str| metrics.iter().find(|m| m["name"] == name).unwrap();
        assert_eq!(metrics.len(), 4);
        assert_eq!(
            named("falconet_round")["gauge"]["dataPoints"][0]["asDouble"],
            7.0
        );
        let sum = &named("falconet_rounds_timed_out")["sum"];
        assert_eq!(
            (&sum["isMonotonic"], &sum["aggregationTemporality"]),
            (&json!(true), &json!(2))
        );
        let stage = &named("falconet_stage_time_seconds")["sum"]["dataPoints"][0];
        assert_eq!(stage["attributes"][1]["value"]["stringValue"], "busy");
        let fsync = &named("falconet_fsync_time_seconds")["histogram"]["dataPoints"][0];
        assert_eq!(fsync["bucketCounts"], json!(["1", "2", "0"]));
        assert_eq!(fsync["explicitBounds"], json!([0.1, 0.2]));
        assert_eq!(
            (&fsync["count"], &fsync["sum"]),
            (&json!("3"), &json!(0.25))
        );

        let (path, body) = take(&listener);
        assert_eq!(path, "/v1/logs");
        let record = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["body"]["stringValue"], "something happened");
        assert_eq!(record["severityNumber"], 13);
        assert_eq!(record["attributes"][0], attribute("height", "9"));

        let (path, body) = take(&listener);
        assert_eq!(path, "/v1/traces");
        let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array();
        let spans = spans.unwrap();
        assert_eq!((spans[0]["name"].as_str(), spans.len()), (Some("block"), 3));
        assert_eq!(spans[2]["name"], "state written");
        thread.join().unwrap();
    }
}
