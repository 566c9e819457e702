//! The judgement: from facts to findings. Pure; one module a subject.

mod cpu;
mod kernel;
mod network;
mod rights;
mod storage;
mod uring;

use crate::{Finding, Machine, Report};

/// Judges a machine: every check, whatever the others found.
#[must_use]
pub fn check(machine: &Machine) -> Report {
    let mut findings = vec![
        kernel::version(machine),
        uring::check(machine),
        rights::memlock(machine),
        rights::files(machine),
        rights::capabilities(machine),
        kernel::btf(machine),
        kernel::bpffs(machine),
        network::ipv6(machine),
        network::receive_buffer(machine),
        network::send_buffer(machine),
    ];
    findings.extend(network::devices(machine));
    findings.extend([
        cpu::cores(machine),
        cpu::simd(machine),
        cpu::governor(machine),
        cpu::numa(machine),
        cpu::memory(machine),
        cpu::huge_pages(machine),
        cpu::transparent_huge_pages(machine),
        storage::clock_source(machine),
        storage::clock_sync(machine),
    ]);
    findings.extend(storage::disk(machine));
    Report::new(findings)
}

/// A size that people can read.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = bytes;
    while rest >= 10 << 10 && unit + 1 < UNITS.len() {
        rest >>= 10;
        unit += 1;
    }
    format!("{rest} {}", UNITS[unit])
}

/// The finding where a fact is not known.
fn unknown(check: &'static str, reason: &str) -> Finding {
    Finding::not_checked(check, reason)
}
