//! Processors and memory.

use super::{size, unknown};
use crate::{Change, Finding, Fix, Machine, Severity, Simd};

/// Network, consensus, log, execution and one that verifies have a processor each then.
const CORES_WISHED: usize = 4;
/// Below this a validator under load is likely to be killed.
const MEMORY_MIN_BYTES: u64 = 1 << 30;
/// Huge pages wished: packet memory of one AF_XDP queue, 64 MiB.
const HUGE_BYTES_WISHED: u64 = 64 << 20;

pub(super) fn cores(machine: &Machine) -> Finding {
    const CHECK: &str = "processors";
    let usable = machine.cpu.usable;
    let quota = machine
        .cgroup
        .as_ref()
        .ok()
        .and_then(|group| group.cpus_max);
    if let Some(quota) = quota.filter(|quota| *quota < usable as f64) {
        return Finding::bad(
            CHECK,
            Severity::Warn,
            format!("{usable}, of which the control group grants the time of {quota:.2}"),
            "the process is halted for up to 100 ms whenever the time is used up: votes come late",
        )
        .mend("give whole processors instead of a quota: docker run --cpuset-cpus=0-3 (no --cpus), Kubernetes static CPU manager, systemd AllowedCPUs= instead of CPUQuota=");
    }
    let found = format!("{usable} that this process may use");
    if usable < CORES_WISHED {
        let costs = "network, consensus and verification share processors: less throughput, \
                     and load delays votes";
        return Finding::bad(CHECK, Severity::Note, found, costs).mend(format!(
            "a machine with {CORES_WISHED} or more, or taskset/cpuset with more"
        ));
    }
    Finding::ok(CHECK, found)
}

pub(super) fn simd(machine: &Machine) -> Finding {
    const CHECK: &str = "simd";
    let wanted = "a CPU with AVX-512 VBMI2 (Ice Lake, Zen 4 or later); in a virtual machine, \
                  give the guest the host's CPU model (-cpu host)";
    match machine.cpu.simd {
        Simd::Avx512 => Finding::ok(CHECK, "AVX-512: eight signatures at a time"),
        Simd::Avx2 => Finding::bad(
            CHECK,
            Severity::Note,
            "AVX2, no AVX-512",
            "signatures are verified at roughly half the rate",
        )
        .mend(wanted),
        Simd::Portable => Finding::bad(
            CHECK,
            Severity::Warn,
            "neither AVX2 nor AVX-512",
            "signatures are verified at a fraction of the rate, by portable code",
        )
        .mend(wanted),
        Simd::OtherArchitecture => Finding::bad(
            CHECK,
            Severity::Note,
            format!("architecture {}", std::env::consts::ARCH),
            "signatures are verified by portable code",
        )
        .mend("x86-64 with AVX-512, for the highest rates"),
    }
}

pub(super) fn governor(machine: &Machine) -> Finding {
    const CHECK: &str = "governor";
    let governors = match &machine.cpu.governors {
        Ok(governors) => governors,
        Err(reason) => return unknown(CHECK, reason),
    };
    let slow = || {
        governors
            .iter()
            .filter(|governor| governor.name != "performance")
    };
    if slow().next().is_none() {
        return Finding::ok(CHECK, "performance");
    }
    let words: Vec<String> = slow()
        .map(|governor| format!("{} on {} processor(s)", governor.name, governor.cpus))
        .collect();
    Finding::bad(
        CHECK,
        Severity::Note,
        words.join(", "),
        "processors clock up only after load has come: tens of percent on short work, and \
         latencies that vary",
    )
    .fix(Fix {
        name: "governor".into(),
        changes: slow()
            .map(|governor| Change::Setting {
                path: governor.file.clone(),
                from: governor.name.clone(),
                to: "performance".into(),
            })
            .collect(),
    })
}

pub(super) fn numa(machine: &Machine) -> Finding {
    const CHECK: &str = "numa";
    match &machine.cpu.numa_nodes {
        Err(reason) => unknown(CHECK, reason),
        Ok(1) => Finding::ok(CHECK, "one memory node"),
        Ok(nodes) => Finding::bad(
            CHECK,
            Severity::Note,
            format!("{nodes} memory nodes"),
            "threads on different nodes reach each other's memory more slowly",
        )
        .mend("keep a validator on the node of its network device: numactl --cpunodebind=N --membind=N"),
    }
}

pub(super) fn memory(machine: &Machine) -> Finding {
    const CHECK: &str = "memory";
    let limit = machine
        .cgroup
        .as_ref()
        .ok()
        .and_then(|group| group.memory_max_bytes);
    let available = match (&machine.memory.available_bytes, limit) {
        (Ok(available), Some(limit)) => limit.min(*available),
        (Ok(available), None) => *available,
        (Err(_), Some(limit)) => limit,
        (Err(reason), None) => return unknown(CHECK, reason),
    };
    let found = format!("{} available", size(available));
    if available >= MEMORY_MIN_BYTES {
        return Finding::ok(CHECK, found);
    }
    let costs = "under load the kernel may end the validator (out of memory)";
    Finding::bad(CHECK, Severity::Warn, found, costs).mend(
        "give the machine or its control group 1 GiB or more: docker run --memory=2g, systemd \
         MemoryMax=2G",
    )
}

pub(super) fn huge_pages(machine: &Machine) -> Finding {
    const CHECK: &str = "huge_pages";
    let memory = &machine.memory;
    let (pages, bytes) = match (&memory.huge_pages, &memory.huge_page_bytes) {
        (Ok(pages), Ok(bytes)) => (*pages, (*bytes).max(1)),
        (Err(reason), _) | (_, Err(reason)) => return unknown(CHECK, reason),
    };
    let wished = HUGE_BYTES_WISHED.div_ceil(bytes);
    let found = format!("{pages} of {} reserved", size(bytes));
    if pages >= wished {
        return Finding::ok(CHECK, found);
    }
    Finding::bad(
        CHECK,
        Severity::Note,
        found,
        "packet memory of AF_XDP lies in normal pages: a few percent of CPU at high packet rates; \
         without AF_XDP nothing",
    )
    .fix(Fix::one(
        "hugepages",
        Change::Sysctl {
            key: "vm.nr_hugepages",
            from: pages.to_string(),
            to: wished.to_string(),
        },
    ))
}

pub(super) fn transparent_huge_pages(machine: &Machine) -> Finding {
    const CHECK: &str = "transparent_huge_pages";
    match machine.memory.transparent.as_deref() {
        Err(reason) => unknown(CHECK, reason),
        Ok("never") => Finding::bad(
            CHECK,
            Severity::Note,
            "never",
            "large buffers and databases lie in 4 KiB pages: more address translation misses",
        )
        .fix(Fix::one(
            "thp",
            Change::Setting {
                path: "/sys/kernel/mm/transparent_hugepage/enabled".into(),
                from: "never".into(),
                to: "madvise".into(),
            },
        )),
        Ok(mode) => Finding::ok(CHECK, mode),
    }
}
