//! The scripts in `tools/bpftrace/` attach to a running network and count something.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{FALCONET, wait_for};
use crate::network::turn;
use crate::testnet::Started;

/// How long a script looks, at first; a busy machine gets longer looks.
const LOOK: Duration = Duration::from_secs(3);

/// How long bpftrace may take to print before it is taken to have missed that it was interrupted.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(15);

/// A script, and the maps that must not be empty afterwards: its header names them.
struct Script {
    path: PathBuf,
    maps: Vec<String>,
    /// Whether it takes a process id instead of the program's path.
    by_pid: bool,
}

fn scripts() -> Vec<Script> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bpftrace");
    let mut scripts: Vec<Script> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "bt"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let line = text.lines().find_map(|l| l.strip_prefix("// Counts: "));
            let line = line.unwrap_or_else(|| panic!("{}: no `// Counts:`", path.display()));
            Script {
                maps: line.split_whitespace().map(str::to_owned).collect(),
                by_pid: !text.contains("usdt:$1"),
                path,
            }
        })
        .collect();
    scripts.sort_by(|a, b| a.path.cmp(&b.path));
    scripts
}

/// Why bpftrace cannot be used here; `None` when it can.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    if !Path::new("/sys/kernel/tracing/events").exists() {
        // Containers start without it; failing is told by bpftrace below.
        let _ = Command::new("mount")
            .args(["-t", "tracefs", "tracefs", "/sys/kernel/tracing"])
            .stderr(Stdio::null())
            .status();
    }
    // The program under test itself: listing is not enough, the kernel must let it attach.
    let trial = format!("usdt:{FALCONET}:falconet:voted {{ @ = count(); }} BEGIN {{ exit(); }}");
    let sched = "tracepoint:sched:sched_switch { @ = count(); } BEGIN { exit(); }";
    for program in [trial.as_str(), sched] {
        match Command::new("bpftrace").args(["-e", program]).output() {
            Err(error) => return Some(format!("bpftrace does not start: {error}")),
            Ok(output) if !output.status.success() => {
                return Some(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            Ok(_) => {}
        }
    }
    None
}

/// What a script printed in `look`.
fn run(script: &Script, pid: u32, look: Duration) -> String {
    let mut command = Command::new("bpftrace");
    if script.by_pid {
        command.arg(&script.path).arg(pid.to_string());
    } else {
        command.args(["-p", &pid.to_string()]);
        command.arg(&script.path).arg(FALCONET);
    }
    self::look(command, look)
}

/// What bpftrace, started by `command`, printed in `time`: not all of it where it took so long that
/// it was interrupted twice.
pub fn look(mut command: Command, time: Duration) -> String {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It prints what it counted when it is interrupted. The pipe holds what it prints until then.
    let bpftrace = Pid::from_child(&child);
    let (running, ended) = mpsc::channel::<()>();
    let interrupt = std::thread::spawn(move || {
        let mut wait = time;
        // It notices a signal only while it waits for events, and forgets one that comes while it
        // still attaches; a second one while it prints ends it. So the next is a long time off.
        while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            kill_process(bpftrace, Signal::INT).unwrap();
            wait = INTERRUPT_AGAIN;
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(running);
    interrupt.join().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let interrupted = output.status.signal() == Some(Signal::INT.as_raw());
    assert!(
        output.status.success() || interrupted,
        "{command:?}: {stderr}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a map was printed with something in it.
fn counted(output: &str, map: &str) -> bool {
    output.lines().any(|line| {
        line.strip_prefix(map)
            .is_some_and(|rest| rest.starts_with(['[', ':']) && !rest.ends_with(": 0"))
    })
}

#[test]
fn every_bpftrace_script_counts_something_in_a_running_network() {
    let scripts = scripts();
    assert!(scripts.len() >= 10);
    if let Some(reason) = obstacle() {
        eprintln!("skipped: {reason}");
        return;
    }
    let _turn = turn();
    let testnet = Started::new();
    let [pid, other] = testnet.validators[..] else {
        panic!("two validators");
    };
    let other = Pid::from_raw(other.cast_signed()).unwrap();
    for script in scripts {
        let mut look = LOOK;
        let name = script.path.file_stem().unwrap().to_str().unwrap();
        wait_for(&format!("counts of {name}"), || {
            // Rounds are given up only when somebody is missing.
            let disturbed = name == "timeouts";
            let disturber = std::thread::spawn(move || {
                if disturbed {
                    std::thread::sleep(look / 3);
                    kill_process(other, Signal::STOP).unwrap();
                    std::thread::sleep(look / 3);
                    kill_process(other, Signal::CONT).unwrap();
                }
            });
            let output = run(&script, pid, look);
            disturber.join().unwrap();
            look *= 2;
            let complete = script.maps.iter().all(|map| counted(&output, map));
            if !complete {
                eprintln!("{name}: not yet: {output}");
            }
            complete.then_some(())
        });
    }
}

/// Inlined, a probe would have several sites, and tools that look at the first only would miss
/// hits; optimised away, it would have none.
#[test]
fn each_probe_has_one_site_in_the_program() {
    let program = fs::read(FALCONET).unwrap();
    for probe in falconet_probes::PROBES {
        // A note holds provider and name, each ended by a zero.
        let names = format!("falconet\0{}\0", probe.name);
        let sites = program
            .windows(names.len())
            .filter(|window| *window == names.as_bytes())
            .count();
        assert_eq!(sites, 1, "{}", probe.name);
    }
}
