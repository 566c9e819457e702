//! What operators see of a validator that runs: metrics, dashboards, log levels, the service
//! manager's view.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use falconet_client::Fate;
use falconet_types::Scheme;
use falconet_validator::metrics::publish;
use serde_json::Value;

use crate::harness::{FALCONET, PATIENCE, Running, falconet, wait_for};
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

/// The same exposition in Prometheus's own text format, where a counter's type is written with its
/// suffix and there are no units.
fn prometheus_text(openmetrics: &str) -> String {
    let counters: BTreeSet<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::new();
    for line in openmetrics.lines() {
        let mut words: Vec<&str> = line.splitn(4, ' ').collect();
        let total;
        match words[..] {
            ["#", "UNIT" | "EOF", ..] => continue,
            ["#", _, name, ..] if counters.contains(name) => {
                total = format!("{name}_total");
                words[2] = &total;
            }
            _ => {}
        }
        text += &words.join(" ");
        text.push('\n');
    }
    text
}

/// Prometheus's own checks of names, types and help texts, and of the alerts' queries.
#[test]
fn promtool_finds_no_fault_with_metrics_and_alerts() {
    let promtool = |arguments: &[&str], input: &Path| {
        Command::new("promtool")
            .args(arguments)
            .stdin(fs::File::open(input).unwrap())
            .output()
    };
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rules = tree.join("tools/dashboards/alerts.yml");
    let checked = match promtool(&["check", "rules", rules.to_str().unwrap()], &rules) {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: promtool does not start: {error}; apt-get install prometheus");
            return;
        }
    };
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{checked:?}");
    assert!(
        said.contains(&format!("{} rules found", publish::ALERTS.len())),
        "{said}"
    );

    let mut network = Network::running(1, 1, Scheme::Falcon512);
    let file = network.dir().join("scrape");
    fs::write(&file, prometheus_text(&network.text(0, "/metrics"))).unwrap();
    let checked = promtool(&["check", "metrics"], &file).unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
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

#[test]
fn the_service_manager_hears_of_start_progress_and_end() {
    let network = Network::new(1, 1, Scheme::Falcon512);
    let path = network.dir().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    // A hang becomes a failure with a line number.
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("something is said");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let running = Running::start_in(
        &network.home(0),
        "config.toml",
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "400000"),
        ],
    );
    assert_eq!(hear(), "READY=1\nSTATUS=validator 0 serves");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    running.terminate();
    let last = loop {
        match hear() {
            message if message == "WATCHDOG=1" => {}
            other => break other,
        }
    };
    assert_eq!(last, "STOPPING=1\nSTATUS=stopping");
    running.ends_well();
}

/// Commits a few transfers, so that heights rise.
fn commit(network: &Network, first_nonce: u64) -> Vec<Fate> {
    let mut wallet = network.wallet_from(0, first_nonce);
    let to = network.account(1);
    let transfers: Vec<_> = (0..3).map(|_| wallet.transfer(to, 1)).collect();
    let mut client = network.client(0);
    client.submit_and_wait(&transfers, PATIENCE).unwrap()
}

#[test]
fn top_shows_progress_of_a_network_and_who_is_down() {
    let mut network = Network::running(4, 2, Scheme::Falcon512);
    let urls: Vec<String> = (0..4).map(|i| network.url(i)).collect();
    let ask = |more: &[&str]| {
        let urls = urls.iter().map(String::as_str);
        let arguments: Vec<&str> = ["top", "--once"]
            .into_iter()
            .chain(more.iter().copied())
            .chain(urls)
            .collect();
        falconet(network.dir(), &arguments)
    };
    let heights = || -> Vec<u64> {
        let answer = ask(&["--json"]).json();
        let validators = answer["validators"].as_array().unwrap();
        let height = |v: &Value| v["live"]["status"]["height"].as_u64();
        validators.iter().map(|v| height(v).unwrap()).collect()
    };
    commit(&network, 1);
    let before = heights();
    commit(&network, 4);
    wait_for("every height to rise", || {
        let now = heights();
        now.iter()
            .zip(&before)
            .all(|(now, old)| now > old)
            .then_some(())
    });
    let text = ask(&[]).ok();
    for part in [
        "validator-3",
        "back-pressured",
        "execute",
        "peers: validator-1",
        "height",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }

    network.kill(3);
    let url = network.url(3);
    let arguments = ["top", "--once", "--json", &network.url(0), &url];
    let answer = falconet(network.dir(), &arguments).json();
    let down = &answer["validators"][1];
    assert!(
        down["error"].as_str().unwrap().contains("cannot reach"),
        "{down}"
    );
    let alone = falconet(network.dir(), &["top", "--once", &url]);
    assert_eq!(alone.code, 1);
    assert!(
        alone.stderr.contains("no validator answers"),
        "{}",
        alone.stderr
    );
    network.stop();
}

#[test]
fn top_draws_in_a_terminal_ends_on_q_and_gives_the_terminal_back() {
    if !Command::new("script")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!("skipped: script (util-linux), which makes a terminal, is not installed");
        return;
    }
    let mut network = Network::running(1, 1, Scheme::Falcon512);
    let inner = format!(
        "stty rows 24 cols 80; exec {FALCONET} top {}",
        network.url(0)
    );
    let transcript = network.dir().join("screen");
    let mut child = Command::new("script")
        .args(["-qefc", &inner])
        .arg(&transcript)
        .env("TERM", "xterm-256color")
        .env_remove("FALCONET_HTTP")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let seen = || String::from_utf8_lossy(&fs::read(&transcript).unwrap_or_default()).into_owned();
    wait_for("the screen", || {
        seen().contains("validator-0").then_some(())
    });
    let mut keys = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut keys, b"jkq").unwrap();
    let status = wait_for("the end", || child.try_wait().unwrap());
    drop(keys);
    assert!(status.success(), "{status}");
    // The alternate screen is left, the cursor is shown.
    let all = seen();
    assert!(
        all.contains("\x1b[?1049h") && all.contains("\x1b[?1049l"),
        "{all:?}"
    );
    assert!(all.rfind("\x1b[?1049l") > all.rfind("\x1b[?1049h"));
    network.stop();
}

/// A browser without a window, if there is one.
fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    candidates.into_iter().find(|file| file.is_file())
}

/// The page after its script has run for some seconds.
fn dom(browser: &Path, network: &Network, address: &str) -> String {
    let home = tempfile::tempdir_in(network.dir()).unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--virtual-time-budget=4000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(address)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Text of the element with an id.
fn shown<'a>(dom: &'a str, id: &str) -> &'a str {
    let start = dom
        .find(&format!("id=\"{id}\""))
        .unwrap_or_else(|| panic!("{id}: {dom}"));
    let text = &dom[start + dom[start..].find('>').unwrap() + 1..];
    &text[..text.find("</").unwrap()]
}

#[test]
fn the_page_shows_rising_heights_and_the_path_of_a_transaction() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium in PATH; install it with: apt-get install chromium");
        return;
    };
    let mut network = Network::running(2, 2, Scheme::Falcon512);
    let height = |dom: &str| -> u64 { shown(dom, "height").replace(',', "").parse().unwrap() };
    let page = format!("{}/", network.url(0));
    commit(&network, 1);
    // The page shows what the sampler saw, up to a second ago.
    wait_for("the sampler to see a ready validator and a block", || {
        let (_, live) = network.get(0, "/v1/live");
        let risen = live["status"]["height"].as_u64() > Some(0);
        (live["not_ready"].is_null() && risen).then_some(())
    });
    let first = dom(&browser, &network, &page);
    assert_eq!(shown(&first, "state"), "ready");
    assert_eq!(shown(&first, "reached"), "2 of 2");
    assert!(height(&first) > 0);
    let fates = commit(&network, 4);
    let id = fates[0].receipt().expect("committed").tx_id;
    let second = wait_for("a higher block on the page", || {
        let next = dom(&browser, &network, &format!("{page}#{id}"));
        (height(&next) > height(&first)).then_some(next)
    });
    let path = &second[second.find("id=\"path\"").unwrap()..];
    for part in [
        "Admitted by validator-0",
        "Batched",
        "Ordered: block",
        "Executed: executed",
        "Provable",
    ] {
        assert!(path.contains(part), "{part:?} is missing:\n{path}");
    }
    assert!(
        second.contains("<path class=\"line a\""),
        "the charts are drawn"
    );
    network.stop();
}
