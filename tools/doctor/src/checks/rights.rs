//! Limits and capabilities of this process.

use super::{size, unknown};
use crate::{Finding, Limit, Machine, Severity, capability};

/// UMEM of one AF_XDP queue with its rings, rounded up, bytes.
const MEMLOCK_WISHED_BYTES: u64 = 64 << 20;
/// Below this a validator cannot hold its sockets, logs and databases open.
const FILES_MIN: u64 = 64;
/// Room for HTTP clients and log segments besides.
const FILES_WISHED: u64 = 1024;

pub(super) fn memlock(machine: &Machine) -> Finding {
    const CHECK: &str = "memlock";
    let limit = machine.process.memlock_bytes;
    if machine.process.has(capability::IPC_LOCK) {
        return Finding::ok(CHECK, "no limit (CAP_IPC_LOCK)");
    }
    if reaches(limit, MEMLOCK_WISHED_BYTES) {
        return Finding::ok(CHECK, words(limit, size));
    }
    Finding::bad(
        CHECK,
        Severity::Note,
        format!(
            "{} may be locked, {} wished",
            words(limit, size),
            size(MEMLOCK_WISHED_BYTES)
        ),
        "AF_XDP cannot register its packet memory (ENOBUFS) and falls back to io_uring",
    )
    .mend("systemd: LimitMEMLOCK=infinity; shell: ulimit -l unlimited, or a line in /etc/security/limits.conf; or give CAP_IPC_LOCK")
}

pub(super) fn files(machine: &Machine) -> Finding {
    const CHECK: &str = "open_files";
    let limit = machine.process.files;
    let found = format!("{} files may be open", words(limit, |n| n.to_string()));
    let mend = "systemd: LimitNOFILE=65536; shell: ulimit -n 65536";
    if !reaches(limit, FILES_MIN) {
        let costs = "a validator cannot open its databases, logs and sockets";
        Finding::bad(CHECK, Severity::Fail, found, costs).mend(mend)
    } else if !reaches(limit, FILES_WISHED) {
        let costs = "many HTTP clients at once are refused, and the log may fail to open a segment";
        Finding::bad(CHECK, Severity::Warn, found, costs).mend(mend)
    } else {
        Finding::ok(CHECK, found)
    }
}

pub(super) fn capabilities(machine: &Machine) -> Finding {
    const CHECK: &str = "capabilities";
    /// Bit, name, what for.
    const WISHED: [(u32, &str, &str); 4] = [
        (
            capability::NET_ADMIN,
            "CAP_NET_ADMIN",
            "attach the packet filter, and exceed net.core.rmem_max",
        ),
        (
            capability::BPF,
            "CAP_BPF",
            "load the packet filter and change its maps",
        ),
        (capability::NET_RAW, "CAP_NET_RAW", "open AF_XDP sockets"),
        (
            capability::IPC_LOCK,
            "CAP_IPC_LOCK",
            "lock packet memory beyond the memlock limit",
        ),
    ];
    if let Err(reason) = &machine.process.capabilities {
        return unknown(CHECK, reason);
    }
    let process = &machine.process;
    // CAP_SYS_ADMIN stands in for CAP_BPF, as before Linux 5.8.
    let has =
        |bit| process.has(bit) || (bit == capability::BPF && process.has(capability::SYS_ADMIN));
    let (present, missing): (Vec<_>, Vec<_>) = WISHED.iter().partition(|(bit, ..)| has(*bit));
    let names = |list: &[&(u32, &'static str, &'static str)]| {
        let names: Vec<&str> = list.iter().map(|(_, name, _)| *name).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    let present = names(&present);
    if missing.is_empty() {
        return Finding::ok(
            CHECK,
            format!("{present}; a validator drops them after set-up"),
        );
    }
    let list = names(&missing);
    let lost: Vec<String> = missing
        .iter()
        .map(|(_, name, what)| format!("without {name} a validator cannot {what}"))
        .collect();
    let costs = format!("consensus needs none of them; {}", lost.join("; "));
    let lower = list.to_lowercase().replace(", ", ",");
    Finding::bad(
        CHECK,
        Severity::Note,
        format!("present: {present}; absent: {list}"),
        costs,
    )
    .mend(format!(
        "systemd: AmbientCapabilities={}",
        list.replace(", ", " ")
    ))
    .mend(format!(
        "or sudo setcap {lower}+ep \"$(command -v falconet)\""
    ))
    .mend("a validator drops them after set-up")
}

fn reaches(limit: Limit, wished: u64) -> bool {
    limit.soft.is_none_or(|soft| soft >= wished)
}

fn words(limit: Limit, show: impl Fn(u64) -> String) -> String {
    limit.soft.map_or_else(|| "any number of".into(), show)
}
