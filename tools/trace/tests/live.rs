//! The tool on a running network. Needs root and a `falconet` program, whose path is in the
//! environment variable `FALCONET` (`make test` sets it); else skipped with its reason.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A network of two validators under load.
struct Network {
    parent: Child,
    validator: String,
    dir: std::path::PathBuf,
}

impl Network {
    fn start(program: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("falconet-trace-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut parent = Command::new(program)
            .args([
                "testnet",
                "--validators",
                "2",
                "--load",
                "100",
                "--scheme",
                "falcon512",
            ])
            .args(["--base-port", "0", "--dir", "net"])
            .current_dir(&dir)
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(parent.stdout.take().expect("piped")).lines();
        let committing = lines
            .by_ref()
            .any(|line| line.expect("text").contains("tx/s committed"));
        assert!(committing, "the network ended early");
        // Somebody must read on, or the pipe fills up.
        std::thread::spawn(move || lines.for_each(drop));
        let children = format!("/proc/{0}/task/{0}/children", parent.id());
        let children = std::fs::read_to_string(children).expect("a list of children");
        let validator = children.split_whitespace().next().expect("a validator");
        Self {
            validator: validator.into(),
            parent,
            dir,
        }
    }

    fn trace(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_falconet-trace"))
            .arg(&self.validator)
            .args(args)
            .output()
            .expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).expect("text")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Validators end with their parent.
        let _ = self.parent.kill();
        let _ = self.parent.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Why nothing can be traced here.
fn obstacle() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let root = status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Some("not root");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no type information (CONFIG_DEBUG_INFO_BTF)");
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        return Some("the kernel has no uprobes");
    }
    None
}

#[test]
fn batches_pass_all_stages_and_the_trace_is_whole() {
    let Ok(program) = std::env::var("FALCONET") else {
        eprintln!("skipped: FALCONET does not name a falconet program");
        return;
    };
    if let Some(reason) = obstacle() {
        eprintln!("skipped: {reason}");
        return;
    }
    let network = Network::start(&program);

    let report: Value = serde_json::from_str(&network.trace(&["--once", "--json"])).expect("JSON");
    for field in ["blocks_executed", "batches_whole", "txs_finished"] {
        assert!(report[field].as_u64() > Some(0), "{field}: {report}");
    }
    let steps = report["steps"].as_array().expect("a list");
    assert_eq!(steps.len(), 12);
    for step in steps {
        assert!(step["count"].as_u64() > Some(0), "{step}");
        assert!(step["p50_us"].as_f64() <= step["p99_us"].as_f64(), "{step}");
        let buckets = step["histogram"].as_array().expect("a list");
        let sum: u64 = buckets.iter().filter_map(|b| b["count"].as_u64()).sum();
        assert_eq!(Some(sum), step["count"].as_u64(), "{step}");
    }

    let file = network.dir.join("second.json");
    network.trace(&["--perfetto", file.to_str().expect("text")]);
    let text = std::fs::read_to_string(file).expect("the trace was written");
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let rows = trace["traceEvents"].as_array().expect("a list");
    let named: BTreeSet<u64> = rows
        .iter()
        .filter(|row| row["name"] == "thread_name")
        .filter_map(|row| row["tid"].as_u64())
        .collect();
    let mut phases = BTreeSet::new();
    for row in rows {
        let phase = row["ph"].as_str().expect("every row has a phase");
        phases.insert(phase);
        assert!(row["name"].is_string() && row["pid"].is_u64(), "{row}");
        if phase == "M" {
            continue;
        }
        assert!(row["ts"].as_f64() > Some(0.0), "{row}");
        let thread = row["tid"].as_u64().expect("a thread");
        assert!(named.contains(&thread), "{row}");
        match phase {
            "X" => assert!(row["dur"].as_f64() >= Some(0.0), "{row}"),
            "b" | "n" | "e" => assert!(row["id"].is_string() && row["cat"] == "batch", "{row}"),
            "i" => assert_eq!(row["s"], "t", "{row}"),
            _ => panic!("{row}"),
        }
    }
    assert_eq!(phases, BTreeSet::from(["M", "X", "b", "e", "i", "n"]));
}
