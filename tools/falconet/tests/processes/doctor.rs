//! `falconet doctor` as users without rights, in containers and in a hurry run it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{FALCONET, Said, falconet};

/// Nobody, by convention.
const NOBODY: u32 = 65_534;

fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().expect("a list")
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let found = findings(report).iter().find(|f| f["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {report}"))
}

/// What the documentation promises of every report.
#[track_caller]
fn is_whole(said: Said) -> Value {
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON, and nothing else");
    assert_eq!(report["version"], 1);
    assert_eq!(said.code, i32::from(report["worst"] == "fail"), "{report}");
    for finding in findings(&report) {
        let severity = finding["severity"].as_str().unwrap();
        assert!(!finding["found"].as_str().unwrap().is_empty(), "{finding}");
        let has_remedy = finding["costs"].is_string() && finding["mend"][0].is_string();
        match severity {
            "note" | "warn" | "fail" => assert!(has_remedy, "{finding}"),
            "ok" | "not_checked" => assert!(finding.get("costs").is_none(), "{finding}"),
            other => panic!("severity {other}"),
        }
    }
    for check in [
        "kernel",
        "io_uring",
        "memlock",
        "open_files",
        "capabilities",
        "btf",
        "bpf_filesystem",
        "ipv6",
        "receive_buffer",
        "send_buffer",
        "processors",
        "simd",
        "governor",
        "numa",
        "memory",
        "huge_pages",
        "clock_source",
        "clock_sync",
        "disk_sync",
        "disk_room",
    ] {
        finding(&report, check);
    }
    report
}

/// Runs the doctor as a user without rights; nothing where that cannot be done.
fn as_nobody(data: &Path) -> Option<Said> {
    let mut command = Command::new(FALCONET);
    command.args(["doctor", "--json", "--data"]).arg(data);
    command.current_dir("/").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(output) => Some(Said::from(&output)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: nobody may not run {FALCONET}: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_user_without_rights_learns_everything_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let Some(said) = as_nobody(dir.path()) else {
        return;
    };
    let report = is_whole(said);
    let capabilities = finding(&report, "capabilities");
    assert_eq!(capabilities["severity"], "note");
    assert!(
        capabilities["found"]
            .as_str()
            .unwrap()
            .contains("absent: CAP_NET_ADMIN")
    );
    let sync = finding(&report, "disk_sync")["found"].as_str().unwrap();
    assert!(sync.contains("median"), "{sync}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_data_directory_that_cannot_be_written_fails() {
    let dir = tempfile::tempdir().unwrap();
    let closed = dir.path().join("data");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let Some(said) = as_nobody(&closed) else {
        return;
    };
    let report = is_whole(said);
    let sync = finding(&report, "disk_sync");
    assert_eq!(
        (&sync["severity"], &report["worst"]),
        (&"fail".into(), &"fail".into())
    );
    assert!(
        sync["mend"][0].as_str().unwrap().contains("chown"),
        "{sync}"
    );
}

#[test]
fn without_a_data_directory_its_disk_is_not_checked_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let report = is_whole(falconet(dir.path(), &["doctor", "--json"]));
    let sync = finding(&report, "disk_sync");
    assert_eq!(sync["severity"], "not_checked");
    assert!(
        sync["found"].as_str().unwrap().contains("--config"),
        "{sync}"
    );
    let text = falconet(dir.path(), &["doctor"]).stdout;
    assert!(
        text.contains("not checked: disk_sync: no data directory"),
        "{text}"
    );
    assert!(text.contains("a validator can"), "{text}");
}

#[test]
fn under_a_seccomp_filter_the_doctor_says_seccomp() {
    let dir = tempfile::tempdir().unwrap();
    let disabled: PathBuf = "/proc/sys/kernel/io_uring_disabled".into();
    let disabled = fs::read_to_string(disabled).unwrap_or_default();
    if !["", "0"].contains(&disabled.trim()) {
        eprintln!("skipped: kernel.io_uring_disabled forbids io_uring already");
        return;
    }
    let mut command = Command::new(FALCONET);
    command.args(["doctor", "--json"]).current_dir(dir.path());
    // SAFETY: between fork and exec the closure makes two system calls with constants and a
    // pointer to a static program; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(refuse_io_uring) };
    let report = is_whole(Said::from(&command.output().unwrap()));
    let uring = finding(&report, "io_uring");
    assert_eq!(uring["severity"], "warn");
    let found = uring["found"].as_str().unwrap();
    assert!(found.contains("a seccomp filter forbids it"), "{found}");
    assert!(
        uring["mend"][0]
            .as_str()
            .unwrap()
            .contains("io_uring_setup")
    );
}

/// Has the kernel answer EPERM to io_uring_setup, as the default profiles of containers do.
fn refuse_io_uring() -> io::Result<()> {
    const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        }
    }
    static PROGRAM: [libc::sock_filter; 4] = [
        // The number of the system call is the first word of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: PROGRAM.len() as u16,
        filter: PROGRAM.as_ptr().cast_mut(),
    };
    // SAFETY: constants only.
    let quiet = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    // SAFETY: `program` and the steps that it points to live during the call, which copies them
    // and writes nothing.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    match (quiet, set) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[test]
fn fixing_asks_first_and_knows_its_names() {
    let dir = tempfile::tempdir().unwrap();
    // No terminal: shown, never made.
    let said = falconet(dir.path(), &["doctor", "--fix"]);
    assert!(!said.stdout.contains("done:"), "{}", said.stdout);
    let report: Value =
        serde_json::from_str(&falconet(dir.path(), &["doctor", "--json"]).stdout).expect("JSON");
    for fix in findings(&report).iter().filter_map(|f| f.get("fix")) {
        let command = fix["commands"][0].as_str().unwrap();
        assert!(
            said.stdout.contains(command),
            "{command} in {}",
            said.stdout
        );
        assert_eq!(
            fix["commands"].as_array().unwrap().len(),
            fix["undo"].as_array().unwrap().len()
        );
    }
    falconet(dir.path(), &["doctor", "--fix", "warp-drive"]).fails_with(&["warp-drive", "here:"]);
}
