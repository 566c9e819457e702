//! The kernel's version and its BPF parts.

use super::unknown;
use crate::{BpfFs, Change, Finding, Fix, Machine, Severity};

/// UDP segmentation offload on receive, without which nothing here was tested.
const VERSION_MIN: (u32, u32) = (5, 0);
/// io_uring with deferred task work.
const VERSION_URING: (u32, u32) = (6, 1);
/// The filter attached by link on tc (TCX).
const VERSION_TCX: (u32, u32) = (6, 6);

pub(super) fn version(machine: &Machine) -> Finding {
    const CHECK: &str = "kernel";
    let release = match &machine.kernel.release {
        Ok(release) => release,
        Err(reason) => return unknown(CHECK, reason),
    };
    let Some(version) = machine.kernel.version() else {
        return unknown(CHECK, &format!("{release:?} is no version"));
    };
    let found = format!("Linux {release}");
    let upgrade = "install a kernel of Linux 6.6 or later, such as that of Debian 13";
    if version < VERSION_MIN {
        let costs = "validators do not run on kernels before 5.0";
        Finding::bad(CHECK, Severity::Fail, found, costs).mend(upgrade)
    } else if version < VERSION_URING {
        let costs = "io_uring is not used before 6.1: more system calls a packet, higher latency";
        Finding::bad(CHECK, Severity::Warn, found, costs).mend(upgrade)
    } else if version < VERSION_TCX {
        let costs = "the packet filter on virtual devices needs 6.6 (TCX links)";
        Finding::bad(CHECK, Severity::Note, found, costs).mend(upgrade)
    } else {
        Finding::ok(CHECK, found)
    }
}

pub(super) fn btf(machine: &Machine) -> Finding {
    const CHECK: &str = "btf";
    match &machine.btf {
        Err(reason) => unknown(CHECK, reason),
        Ok(true) => Finding::ok(CHECK, "/sys/kernel/btf/vmlinux is there"),
        Ok(false) => Finding::bad(
            CHECK,
            Severity::Note,
            "the kernel does not publish its types (/sys/kernel/btf/vmlinux)",
            "tracing tools do not load; the packet filter itself does without",
        )
        .mend("install a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions build it"),
    }
}

pub(super) fn bpffs(machine: &Machine) -> Finding {
    const CHECK: &str = "bpf_filesystem";
    const AT: &str = "/sys/fs/bpf";
    let costs = "the packet filter cannot be kept beyond one process or inspected from another";
    match &machine.bpffs {
        Err(reason) => unknown(CHECK, reason),
        Ok(BpfFs::Writable) => Finding::ok(CHECK, format!("{AT} is mounted and writable")),
        Ok(BpfFs::ReadOnly) => Finding::bad(
            CHECK,
            Severity::Note,
            format!("{AT} is mounted and not writable for this user"),
            costs,
        )
        .mend("run what attaches the filter as root: sudo falconet xdp attach"),
        Ok(BpfFs::NotMounted) => Finding::bad(
            CHECK,
            Severity::Note,
            format!("no BPF filesystem on {AT}"),
            costs,
        )
        .fix(Fix::one("bpffs", Change::MountBpf { at: AT.into() }))
        .mend("to keep it: echo 'bpf /sys/fs/bpf bpf defaults 0 0' >> /etc/fstab"),
    }
}
