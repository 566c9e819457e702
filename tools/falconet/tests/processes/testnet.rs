//! `falconet testnet` and `falconet bench cluster` from the first key to the JSON object, and
//! what is left behind when they end in one way or another.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{FALCONET, Said, wait_for};
use crate::network::turn;

/// Runs a command whose files and caches stay in `dir`.
pub fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(FALCONET);
    command
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env_remove("XDG_STATE_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("FALCONET_CACHE")
        .stdin(Stdio::null());
    command
}

pub fn run(dir: &Path, arguments: &[&str]) -> Said {
    Said::from(
        &command(dir, arguments)
            .output()
            .expect("the program starts"),
    )
}

/// The last line of standard output, as JSON.
pub fn result(said: Said) -> Value {
    let text = said.ok();
    assert_eq!(
        text.lines().count(),
        1,
        "everything else goes to standard error: {text}"
    );
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
pub fn check(report: &Value, validators: u64, scheme: &str) {
    assert_eq!(report["validators"], validators, "{report}");
    assert_eq!(report["scheme"], scheme, "{report}");
    assert_eq!(report["fsync"], true, "{report}");
    assert_eq!(report["roots_agree"], true, "{report}");
    for (object, field) in [
        (report, "committed"),
        (report, "committed_tps"),
        (&report["latency_ms"], "p50"),
        (&report["latency_ms"], "p99"),
    ] {
        assert!(
            object[field].as_f64().is_some_and(|number| number > 0.0),
            "{field}: {report}"
        );
    }
}

#[test]
fn a_testnet_ends_by_itself_and_reports() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "testnet",
        "--for",
        "5s",
        "--load",
        "200",
        "--json",
        "--base-port",
        "0",
    ];
    check(&result(run(dir.path(), &arguments)), 4, "falcon1024");
    let state = dir.path().join(".local/state/falconet");
    assert_eq!(
        fs::read_dir(state).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn a_testnet_with_a_directory_continues_its_chain() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "testnet", "--dir", "net", "--for", "3s", "--load", "100", "--json",
    ];
    let small = [
        "--validators",
        "1",
        "--scheme",
        "falcon512",
        "--base-port",
        "0",
    ];
    check(
        &result(run(dir.path(), &[&arguments[..], &small].concat())),
        1,
        "falcon512",
    );
    let genesis = fs::read(dir.path().join("net/genesis.json")).unwrap();

    let again = run(
        dir.path(),
        &[&arguments[..], &["--base-port", "0"]].concat(),
    );
    assert!(
        again.stderr.contains("continuing the chain in net"),
        "{}",
        again.stderr
    );
    check(&result(again), 1, "falcon512");
    assert_eq!(
        fs::read(dir.path().join("net/genesis.json")).unwrap(),
        genesis
    );

    run(
        dir.path(),
        &[&arguments[..], &["--validators", "4"]].concat(),
    )
    .fails_with(&["1 validators", "--dir"]);
    run(
        dir.path(),
        &[&arguments[..], &["--scheme", "opaque"]].concat(),
    )
    .fails_with(&["falcon512", "--dir"]);
}

#[test]
fn the_benchmark_reports_signed_and_opaque_transactions() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    for scheme in ["falcon512", "opaque"] {
        let arguments = ["bench", "cluster", "--validators", "2", "--scheme", scheme];
        let more = [
            "--rate",
            "200",
            "--duration",
            "3s",
            "--json",
            "-",
            "--hgrm",
            "table.hgrm",
        ];
        check(
            &result(run(dir.path(), &[&arguments[..], &more].concat())),
            2,
            scheme,
        );
        let table = fs::read_to_string(dir.path().join("table.hgrm")).unwrap();
        assert!(table.contains("Percentile"), "{table}");
        fs::remove_file(dir.path().join("table.hgrm")).unwrap();
    }
}

/// The load of a testnet goes to who is a validator, not to who was one at genesis.
#[test]
fn the_load_of_a_testnet_turns_to_a_validator_that_joins() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let mut testnet = command(dir.path(), &["testnet", "--validators", "1"])
        .args(["--followers", "1", "--param", "epoch_heights=48"])
        .args(["--load", "50", "--scheme", "falcon512"])
        .args(["--base-port", "0", "--dir", "net"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(testnet.stdout.take().unwrap()).lines();
    let mut after = |what: &str| {
        let mut lines = lines.by_ref().map(Result::unwrap);
        lines
            .find_map(|line| Some(line.split_once(what)?.1.trim().to_owned()))
            .expect("the testnet ended early")
    };
    let status = after("follower 0: ");
    let join = after("make it a validator: falconet ");
    after("tx/s committed");
    // Somebody must read on, or the pipe fills up.
    std::thread::spawn(move || lines.for_each(drop));
    let join: Vec<&str> = join.split_whitespace().collect();
    run(dir.path(), &join).ok();
    let ask = || -> Option<Value> {
        let mut answer = ureq::get(&status).call().ok()?;
        serde_json::from_slice(&answer.body_mut().read_to_vec().ok()?).ok()
    };
    wait_for("the follower to be a validator with a client", || {
        let status = ask()?;
        (status["follower"] == false && status["clients"].as_u64() > Some(0)).then_some(())
    });
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&testnet),
        rustix::process::Signal::INT,
    )
    .unwrap();
    assert_eq!(testnet.wait().unwrap().code(), Some(0));
}

#[cfg(not(feature = "danger-byzantine"))]
#[test]
fn a_program_without_byzantine_validators_says_which_has_them() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [
        &["bench", "cluster", "--byzantine", "flooder"][..],
        &["bench", "faults"],
    ] {
        let said = run(dir.path(), arguments);
        assert_ne!(said.code, 0);
        assert!(
            said.stderr.contains("--features danger-byzantine"),
            "{}",
            said.stderr
        );
    }
}

/// A testnet that runs, and its validators.
pub struct Started {
    parent: Child,
    pub validators: Vec<u32>,
    _dir: tempfile::TempDir,
}

impl Started {
    /// Starts a testnet and waits until it commits.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let arguments = [
            "testnet",
            "--validators",
            "2",
            "--load",
            "50",
            "--base-port",
            "0",
            "--dir",
            "net",
        ];
        let mut parent = command(dir.path(), &arguments)
            .args(["--scheme", "falcon512"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
        let committing = lines
            .by_ref()
            .any(|line| line.unwrap().contains("tx/s committed"));
        assert!(committing, "the testnet ended early");
        // Somebody must read on, or the pipe fills up.
        std::thread::spawn(move || lines.for_each(drop));
        let validators = children(parent.id());
        assert_eq!(validators.len(), 2);
        Self {
            parent,
            validators,
            _dir: dir,
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.parent);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until no process is left; the parent's exit code, if no signal ended it.
    fn gone(mut self) -> Option<i32> {
        let status = wait_for("the testnet to end", || self.parent.try_wait().unwrap());
        for pid in &self.validators {
            let path = PathBuf::from(format!("/proc/{pid}"));
            wait_for("the validators to end", || (!path.exists()).then_some(()));
        }
        status.code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

/// Processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = |status: &str| -> Option<u32> {
        status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))?
            .trim()
            .parse()
            .ok()
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter(|entry| {
            let status = fs::read_to_string(entry.path().join("status"));
            status.is_ok_and(|status| parent(&status) == Some(pid))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[test]
fn ctrl_c_stops_everything_in_order() {
    let _turn = turn();
    let testnet = Started::new();
    testnet.signal(rustix::process::Signal::INT);
    assert_eq!(testnet.gone(), Some(0));
}

#[test]
fn a_second_ctrl_c_stops_everything_at_once() {
    let _turn = turn();
    let testnet = Started::new();
    testnet.signal(rustix::process::Signal::INT);
    testnet.signal(rustix::process::Signal::INT);
    // The two may arrive as one, or the first may be done already; then the end is an orderly one.
    let code = testnet.gone();
    assert!(code == Some(130) || code == Some(0), "{code:?}");
}

#[test]
fn validators_do_not_outlive_a_testnet_that_is_killed() {
    let _turn = turn();
    let testnet = Started::new();
    testnet.signal(rustix::process::Signal::KILL);
    assert_eq!(testnet.gone(), None);
}

#[test]
fn a_validator_that_dies_ends_the_testnet_with_a_failure() {
    let _turn = turn();
    let testnet = Started::new();
    let victim = rustix::process::Pid::from_raw(testnet.validators[1] as i32).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    assert_eq!(testnet.gone(), Some(1));
}
