//! What the benchmarks print fits the schemas in `bench/schema`, by a checker of the keywords that
//! these use: type, enum, minimum, required, properties, additionalProperties, items.

use std::time::Duration;

use falconet_bench::cluster::RootsCheck;
use falconet_bench::costs::{Costs, Counts};
use falconet_bench::course;
use falconet_bench::environment::{Environment, Noise};
use falconet_bench::load::{Counters, Interval, LoadOutcome, SurgeSeen};
use falconet_bench::net::{NetBench, compare};
use falconet_bench::process::ThreadTimes;
use falconet_bench::report::{Byzantine, Report, Subject, Usage};
use falconet_bench::sweep::{Limits, Step, Sweep, why_not_held};
use falconet_bench::{hlog, html, ledger, store};
use falconet_dataplane::Backend;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

fn schema(name: &str) -> Value {
    let path = format!("{}/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Where a value does not fit its schema.
fn problems(at: &str, value: &Value, schema: &Value) -> Vec<String> {
    const KEYWORDS: [&str; 9] = [
        "$schema",
        "title",
        "type",
        "enum",
        "minimum",
        "required",
        "properties",
        "additionalProperties",
        "items",
    ];
    let mut found = Vec::new();
    for keyword in schema.as_object().unwrap().keys() {
        assert!(
            KEYWORDS.contains(&keyword.as_str()),
            "unknown keyword {keyword}"
        );
    }
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("unknown type {other}"),
    };
    let fits = match &schema["type"] {
        Value::Array(types) => types.iter().any(is),
        one => is(one),
    };
    if !fits {
        found.push(format!("{at}: {value} is not {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        found.push(format!("{at}: {number} is below {least}"));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                found.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, inner) in object {
            let of = match schema["properties"].get(name) {
                Some(of) => of,
                None if schema["additionalProperties"].is_object() => {
                    &schema["additionalProperties"]
                }
                None if schema["properties"].is_object() => {
                    found.push(format!("{at}.{name} is not in the schema"));
                    continue;
                }
                None => continue,
            };
            found.extend(problems(&format!("{at}.{name}"), inner, of));
        }
    }
    if let (Some(items), true) = (value.as_array(), schema["items"].is_object()) {
        for (n, item) in items.iter().enumerate() {
            found.extend(problems(&format!("{at}[{n}]"), item, &schema["items"]));
        }
    }
    found
}

#[track_caller]
fn check(name: &str, report: &impl serde::Serialize) {
    // Through text, as a reader gets it.
    let text = serde_json::to_string(report).unwrap();
    let found = problems(name, &serde_json::from_str(&text).unwrap(), &schema(name));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_checker_finds_what_does_not_fit() {
    let good = json!({"benchmark": "net", "report_version": -1, "ratios": {"x": 1}});
    let found = problems("net", &good, &schema("net")).join("\n");
    for part in [
        "\"cases\" is missing",
        "-1 is below 0",
        "net.ratios.x: 1 is not",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
}

#[test]
fn a_comparison_of_transports_fits() {
    let bench = NetBench {
        rounds: 1,
        settle: Duration::from_millis(100),
        window: Duration::from_millis(200),
        only: Some("uni256.stoq".into()),
        ..NetBench::quick(Backend::Mmsg)
    };
    match compare(&bench, &|_, _, _| {}) {
        Ok(report) => check("net", &report),
        // The contender that names io_uring needs a kernel that permits it.
        Err(error) if error.to_string().contains("io_uring") => {
            println!("skipped: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// A run of one validator that committed two transactions.
fn cluster() -> Report {
    let mut latency_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).unwrap();
    for us in [5_000, 9_000] {
        latency_us.record(us).unwrap();
    }
    let interval = Interval {
        end_s: 1.0,
        committed: 2,
        p50_ms: 5.0,
        p99_ms: 9.0,
        max_ms: 9.0,
    };
    let outcome = LoadOutcome {
        offered_tps: 2,
        duration_s: 1.0,
        committed: 2,
        committed_tps: 2.0,
        send_delay_us: latency_us.clone(),
        accepted_us: latency_us.clone(),
        hlog: vec![hlog::Entry::new(0.0, 1.0, &latency_us)],
        latency_us,
        counters: Counters::default(),
        intervals: vec![interval; course::SECONDS_MIN],
        surge: Some(SurgeSeen::default()),
    };
    let subject = Subject {
        validators: 1,
        scheme: "falcon1024".into(),
        transaction_bytes: 1_412,
        params: vec!["fee_min=2".into()],
        fsync: true,
        roots: RootsCheck {
            agree: true,
            height: Some(1),
            answers: vec![Some(("id".into(), "state".into()))],
        },
        usage: vec![Some(Usage::default()), None],
        generator_cpu_cores: 0.1,
        died: vec![],
        crashed: vec![],
        byzantine: Some(Byzantine {
            kind: "flooder".into(),
            count: 1,
        }),
        memory: falconet_bench::memory::Memory::default(),
        costs: Costs::of(
            &Counts::default(),
            2,
            0.1,
            &ThreadTimes::of(std::process::id()),
        ),
        noise: Noise::default(),
    };
    Report::new(subject, &outcome, Environment::detect())
}

#[test]
fn a_load_and_a_sweep_fit_and_become_a_page() {
    let report = cluster();
    check("cluster", &report);
    assert_eq!(
        report
            .latency_histogram
            .iter()
            .map(|b| b.count)
            .sum::<u64>(),
        2
    );
    let limits = Limits::default();
    let step = Step {
        not_held: why_not_held(&report, &limits),
        report: report.clone(),
    };
    assert_eq!(step.not_held, None);
    let sweep = Sweep::new(vec![step], limits, Environment::detect());
    assert_eq!(sweep.knee_tps, 2);
    check("sweep", &sweep);
    for page in [html::cluster(&report), html::sweep(&sweep)] {
        assert!(page.contains("<svg") && !page.contains("NaN"));
    }
}

#[test]
fn store_and_ledger_fit() {
    let dir = tempfile::tempdir().unwrap();
    check("figures", &store::measure(dir.path(), 1, &|_| {}).unwrap());
    let dir = tempfile::tempdir().unwrap();
    check("figures", &ledger::measure(dir.path(), 1, &|_| {}).unwrap());
}

/// The measurement takes a minute, so the report is made of what it must hold.
#[cfg(feature = "peers")]
#[test]
fn a_report_of_crypto_fits_its_schema() {
    let required = schema("crypto")["required"].as_array().unwrap().clone();
    let names = required.iter().map(|name| name.as_str().unwrap());
    let is_figure = |name: &&str| name.contains("_vs_") || name.ends_with("_ns");
    let report = falconet_bench::crypto::Comparison {
        figures: names
            .filter(is_figure)
            .map(|name| (name.into(), 2.5))
            .collect(),
        cpu_features: vec!["avx2"],
        ..Default::default()
    };
    let report: Value = serde_json::from_str(&report.to_json()).unwrap();
    check("crypto", &report);
}
