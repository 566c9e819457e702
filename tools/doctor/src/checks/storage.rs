//! The clock and the disk: what consensus stands on.

use std::time::Duration;

use super::{size, unknown};
use crate::{Change, Disk, Finding, Fix, Machine, Severity};

/// Validators refuse proposals that are further from their clock than genesis permits (2 s by
/// default); half of it is a reason to warn.
const CLOCK_ERROR_MAX: Duration = Duration::from_secs(1);
/// Sources that user space reads without a system call.
const FAST_SOURCES: [&str; 4] = [
    "tsc",
    "kvm-clock",
    "arch_sys_counter",
    "hyperv_clocksource_tsc_page",
];
/// A turn of consensus waits for one sync; beyond this it is felt, beyond the second it hurts.
const SYNC_NOTED: Duration = Duration::from_millis(2);
const SYNC_WARNED: Duration = Duration::from_millis(15);
/// The log cannot take a segment any more.
const FREE_MIN_BYTES: u64 = 64 << 20;
const FREE_WISHED_BYTES: u64 = 2 << 30;

pub(super) fn clock_source(machine: &Machine) -> Finding {
    const CHECK: &str = "clock_source";
    let source = match &machine.clock.source {
        Ok(source) => source,
        Err(reason) => return unknown(CHECK, reason),
    };
    if FAST_SOURCES.contains(&source.as_str()) {
        return Finding::ok(CHECK, source);
    }
    let better = machine
        .clock
        .sources
        .iter()
        .find(|offered| FAST_SOURCES.contains(&offered.as_str()));
    let finding = Finding::bad(
        CHECK,
        Severity::Warn,
        source,
        "every look at the clock is a system call and a slow device read, several times a packet",
    );
    match better {
        Some(better) => finding.fix(Fix::one(
            "clocksource",
            Change::Setting {
                path: "/sys/devices/system/clocksource/clocksource0/current_clocksource".into(),
                from: source.clone(),
                to: better.clone(),
            },
        )),
        None => finding
            .mend("the kernel offers none that is faster; journalctl -k | grep -i tsc says why"),
    }
}

pub(super) fn clock_sync(machine: &Machine) -> Finding {
    const CHECK: &str = "clock_sync";
    let (in_step, error) = match &machine.clock.synchronised {
        Ok(answer) => *answer,
        Err(reason) => return unknown(CHECK, reason),
    };
    let costs = "a clock that is off by more than clock_drift_ms_max of genesis (2 s by default) \
                 has its proposals refused, and refuses those of others";
    let mend = "systemctl enable --now systemd-timesyncd, or apt-get install chrony; then chronyc \
                tracking";
    if !in_step {
        let found = "the kernel knows of nothing that keeps the clock in step";
        Finding::bad(CHECK, Severity::Warn, found, costs).mend(mend)
    } else if error > CLOCK_ERROR_MAX {
        let found = format!(
            "kept in step, with an error of up to {} ms",
            error.as_millis()
        );
        Finding::bad(CHECK, Severity::Warn, found, costs).mend(mend)
    } else {
        let found = format!("kept in step, error at most {} ms", error.as_millis());
        Finding::ok(CHECK, found)
    }
}

pub(super) fn disk(machine: &Machine) -> Vec<Finding> {
    let disk = match &machine.disk {
        Ok(disk) => disk,
        Err(reason) => return vec![unknown("disk_sync", reason), unknown("disk_room", reason)],
    };
    let subject = disk.path.display().to_string();
    [durability(disk), sync(disk), room(disk)]
        .into_iter()
        .map(|finding| finding.of(&subject))
        .collect()
}

fn durability(disk: &Disk) -> Finding {
    const CHECK: &str = "disk_filesystem";
    let name = &disk.filesystem;
    let local = "put data = \"…\" of the configuration on a local disk with ext4 or xfs";
    if !disk.is_durable {
        let costs = "what was signed is forgotten when the machine restarts, and the validator \
                     may then contradict itself";
        return Finding::bad(CHECK, Severity::Warn, format!("{name}, in memory"), costs)
            .mend(local);
    }
    if ["nfs", "cifs", "smb2", "9p", "fuse"].contains(&name.as_str()) {
        let costs = "every turn of consensus waits for another machine; locks may not hold";
        return Finding::bad(CHECK, Severity::Warn, format!("{name}, not local"), costs)
            .mend(local);
    }
    if name == "overlay" {
        let costs =
            "the data is deleted with the container, and the key must then not be used again";
        return Finding::bad(CHECK, Severity::Warn, "overlay, of a container", costs)
            .mend("mount a volume there: docker run -v /srv/falconet:/data");
    }
    Finding::ok(CHECK, name)
}

fn sync(disk: &Disk) -> Finding {
    const CHECK: &str = "disk_sync";
    let times = match &disk.fsync {
        Ok(times) => times,
        Err(reason) => {
            let costs = "a validator cannot store what it promises";
            return Finding::bad(CHECK, Severity::Fail, reason, costs).mend(format!(
                "give the directory to the user who runs the validator: chown -R USER {}",
                disk.path.display()
            ));
        }
    };
    let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let found = format!(
        "fdatasync takes {} (median), {} at most",
        millis(times.median),
        millis(times.max)
    );
    let costs = "each vote and each batch waits for a sync: it is part of every latency";
    let severity = match times.median {
        median if median > SYNC_WARNED => Severity::Warn,
        median if median > SYNC_NOTED => Severity::Note,
        _ => return Finding::ok(CHECK, found),
    };
    Finding::bad(CHECK, severity, found, costs)
        .mend("a local NVMe disk with power-loss protection, without other writers")
}

fn room(disk: &Disk) -> Finding {
    const CHECK: &str = "disk_room";
    let found = format!("{} free", size(disk.free_bytes));
    let mend = format!("make room on the disk of {}", disk.path.display());
    if disk.free_bytes < FREE_MIN_BYTES {
        let costs = "the log cannot grow; a validator whose log fails stops signing";
        Finding::bad(CHECK, Severity::Fail, found, costs).mend(mend)
    } else if disk.free_bytes < FREE_WISHED_BYTES {
        let costs =
            "the log fills it within hours under load, and the validator then stops signing";
        Finding::bad(CHECK, Severity::Warn, found, costs).mend(mend)
    } else {
        Finding::ok(CHECK, found)
    }
}
