//! What operators see of a validator that runs: metrics, dashboards, log levels, the service
//! manager's view.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use falconet_types::Scheme;
use falconet_validator::metrics::publish;
use serde_json::Value;

use crate::harness::{falconet, wait_for};
use crate::network::Network;

fn in_tree(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of metrics in a query.
fn names_in(query: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    query
        .split(word)
        .filter(|word| word.starts_with("falconet_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dashboard_and_alerts_name_only_what_a_scrape_holds() {
    let mut network = Network::running(2, 1, Scheme::Falcon512);
    let scrape = network.text(0, "/metrics");
    let exported: BTreeSet<String> = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect();

    let dashboard: Value = serde_json::from_str(&in_tree("tools/dashboards/grafana.json")).unwrap();
    let mut checked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            for name in names_in(target["expr"].as_str().unwrap()) {
                assert!(exported.contains(&name), "panel {}: {name}", panel["title"]);
                checked += 1;
            }
        }
    }
    assert!(checked > 60, "{checked}");
    for alert in publish::ALERTS {
        let names = names_in(alert.expression);
        assert!(!names.is_empty() || alert.expression.starts_with("up"));
        for name in names {
            assert!(exported.contains(&name), "alert {}: {name}", alert.name);
        }
    }
    // And the other way round: nothing is exported that the table does not have.
    let known: Vec<String> = publish::rows()
        .into_iter()
        .map(|metric| metric.name)
        .collect();
    for name in exported.iter().filter(|name| *name != "falconet_") {
        let base = ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        assert!(
            known.iter().any(|known| known == base || known == name),
            "{name} is in no table"
        );
    }
    network.stop();
}

#[test]
fn generated_documents_are_current() {
    for (path, current) in [
        ("docs/metrics.md", publish::markdown()),
        ("tools/dashboards/alerts.yml", publish::alerts()),
        ("tools/dashboards/grafana.json", publish::dashboard()),
    ] {
        assert!(
            in_tree(path) == current,
            "{path} is out of date; run: make docs"
        );
    }
}

#[test]
fn the_time_of_every_stage_is_accounted_for() {
    let mut network = Network::running(1, 1, Scheme::Falcon512);
    let live = wait_for("samples", || {
        let (_, live) = network.get(0, "/v1/live");
        (live["samples"].as_array()?.len() >= 2).then_some(live)
    });
    let stages = live["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 6);
    let uptime = live["uptime_s"].as_f64().unwrap();
    for stage in stages {
        let time = |state: &str| stage[state].as_f64().unwrap();
        let threads = stage["threads"].as_f64().unwrap();
        let sum = time("busy_s") + time("waiting_s") + time("back_pressured_s");
        assert!(threads >= 1.0, "{stage}");
        // Threads start a moment before the API counts its uptime.
        assert!(
            sum > 0.5 * uptime * threads && sum < (uptime + 60.0) * threads,
            "{stage} in {uptime} s"
        );
    }
    network.stop();
}

#[test]
fn the_log_level_changes_while_a_validator_runs() {
    let mut network = Network::running(1, 1, Scheme::Falcon512);
    let url = network.url(0);
    let level = |arguments: &[&str]| {
        falconet(
            network.dir(),
            &[&["log-level", "--http", &url], arguments].concat(),
        )
    };
    assert_eq!(level(&[]).ok(), "info\n");
    assert_eq!(
        level(&["info,falconet_validator=trace"]).ok(),
        "info,falconet_validator=trace\n"
    );
    level(&["loud"]).fails_with(&["loud", "debug"]);
    assert_eq!(level(&[]).ok(), "info,falconet_validator=trace\n");

    // SIGHUP: what the file says by now.
    let path = network.home(0).join("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"info\"", "\"warn\"")).unwrap();
    network.hang_up(0);
    wait_for("the level of the file", || {
        (level(&[]).ok() == "warn\n").then_some(())
    });
    network.stop();
}
