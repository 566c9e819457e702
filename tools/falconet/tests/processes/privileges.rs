//! What rights a running validator has: none that it does not need.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use falconet_types::Scheme;

use crate::harness::{FALCONET, Said};
use crate::network::Network;

/// Nobody, by convention.
const NOBODY: u32 = 65_534;
/// `CAP_DAC_OVERRIDE`, as a bit.
const DAC_OVERRIDE: u64 = 1 << 1;

/// The union of the effective, permitted, inheritable and ambient capabilities of all threads.
/// Each must have given up getting any again.
#[track_caller]
pub fn held(pid: u32) -> u64 {
    let mut all = 0;
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value
                .unwrap_or_else(|| panic!("no {name} in {status}"))
                .trim()
                .to_owned()
        };
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            all |= u64::from_str_radix(&field(set), 16).unwrap();
        }
        assert_eq!(field("NoNewPrivs:"), "1", "{status}");
        threads += 1;
    }
    assert!(
        threads > 5,
        "network, core, log, execute and others: {threads}"
    );
    all
}

#[test]
fn no_thread_of_a_running_validator_has_a_capability() {
    let mut network = Network::running(1, 0, Scheme::Falcon512);
    assert_eq!(held(network.pid(0)), 0);
    network.stop();
}

#[test]
fn root_keeps_the_right_to_write_data_of_somebody_else_and_no_other() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: giving a directory to another user needs root");
        return;
    }
    let mut network = Network::new(1, 0, Scheme::Falcon512);
    let data = network.home(0).join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    network.start(0);
    assert_eq!(held(network.pid(0)), DAC_OVERRIDE);
    network.stop();
}

#[test]
fn a_machine_that_cannot_run_a_validator_is_refused_before_anything_else() {
    let network = Network::new(1, 0, Scheme::Falcon512);
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40; exec \"$0\" run --config config.toml",
            FALCONET,
        ])
        .current_dir(network.home(0))
        .output()
        .unwrap();
    Said::from(&output).fails_with(&["cannot run a validator", "open_files", "LimitNOFILE"]);
    assert!(!network.home(0).join("data").exists(), "nothing was made");
}
