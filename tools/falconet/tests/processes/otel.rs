//! A running validator exports metrics, logs and spans to a collector that listens here.
//!
//! `cargo test -p falconet --features otel --test processes otel`

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use falconet_types::Scheme;
use serde_json::Value;

use crate::harness::{PATIENCE, Running, wait_for};
use crate::network::Network;

/// What arrived: paths and bodies.
type Taken = Arc<Mutex<Vec<(String, Value)>>>;

/// Answers one request after the other until the connection ends.
fn serve(stream: &TcpStream, taken: &Taken) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let path = first.split(' ').nth(1).expect("a request line").to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).expect("JSON");
        taken.lock().unwrap().push((path, body));
        (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")?;
    }
}

fn collector() -> (String, Taken) {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let taken = Taken::default();
    let all = taken.clone();
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, all) = (stream.unwrap(), all.clone());
            // A validator that stops may break off.
            thread::spawn(move || drop(serve(&stream, &all)));
        }
    });
    (endpoint, taken)
}

#[test]
fn a_collector_sees_metrics_logs_and_what_a_transaction_went_through() {
    let network = Network::new(1, 2, Scheme::Falcon512);
    let (endpoint, taken) = collector();
    let validator = Running::start_in(
        &network.home(0),
        "config.toml",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_TRACES_SAMPLER_ARG", "1"),
        ],
    );
    let transfer = network.wallet(0).transfer(network.account(1), 1);
    let id = transfer.id().to_string();
    let mut client = network.client(0);
    client.submit_and_wait(&[transfer], PATIENCE).unwrap();

    let spans = wait_for("the spans of a block and of the transaction", || {
        let taken = taken.lock().unwrap();
        let spans: Vec<Value> = taken
            .iter()
            .filter(|(path, _)| path == "/v1/traces")
            .flat_map(|(_, body)| {
                let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
                spans.as_array().expect("a list").clone()
            })
            .collect();
        let whole = |root: &str| spans.iter().any(|span| span["name"] == root);
        (whole("block") && whole("transaction")).then_some(spans)
    });
    let of = |root: &str| -> (Value, BTreeSet<String>) {
        let root = spans.iter().find(|span| span["name"] == root).unwrap();
        let children = spans
            .iter()
            .filter(|span| span["parentSpanId"] == root["spanId"]);
        let names = children.map(|span| span["name"].as_str().unwrap().to_owned());
        (root.clone(), names.collect())
    };
    let (root, stages) = of("transaction");
    assert_eq!(root["traceId"], id[..32]);
    for stage in ["sealed", "committed", "executed"] {
        assert!(stages.contains(stage), "{stage}: {stages:?}");
    }
    let (_, stages) = of("block");
    for stage in [
        "voted",
        "committed",
        "execution begun",
        "executed",
        "state written",
    ] {
        assert!(stages.contains(stage), "{stage}: {stages:?}");
    }
    for span in &spans {
        let time = |key: &str| -> u64 { span[key].as_str().unwrap().parse().unwrap() };
        assert!(
            time("startTimeUnixNano") <= time("endTimeUnixNano"),
            "{span}"
        );
        assert_eq!(span["traceId"].as_str().unwrap().len(), 32);
        assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
    }
    let taken = taken.lock().unwrap();
    for path in ["/v1/metrics", "/v1/logs"] {
        assert!(taken.iter().any(|(of, _)| of == path), "{path}");
    }
    drop(taken);
    drop(client);
    validator.terminate();
    validator.ends_well();
}
