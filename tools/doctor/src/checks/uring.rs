//! io_uring: whether it works, and if not, who forbids it. The same error number has several
//! causes with different remedies, which are told apart here.

use crate::machine::UringProbe;
use crate::{Change, Finding, Fix, Machine, Refusal, Severity, capability};

const CHECK: &str = "io_uring";
const COSTS: &str =
    "recvmmsg/sendmmsg are used instead: more system calls and wake-ups, higher latency";
/// `SECCOMP_MODE_FILTER` as `/proc` shows it.
const SECCOMP_FILTER: u32 = 2;

pub(super) fn check(machine: &Machine) -> Finding {
    match &machine.uring.probe {
        UringProbe::Works => Finding::ok(
            CHECK,
            "works: deferred task work, multishot receive, rings of buffers",
        ),
        UringProbe::Lacks(what) => {
            let found = format!("this kernel's io_uring lacks {}", what.join(", "));
            Finding::bad(CHECK, Severity::Warn, found, COSTS)
                .mend("install a kernel of Linux 6.1 or later")
        }
        UringProbe::Refused(refusal) => refused(machine, refusal),
    }
}

fn refused(machine: &Machine, refusal: &Refusal) -> Finding {
    let error = std::io::Error::from_raw_os_error(refusal.errno);
    let finding = |why: String| {
        let found = format!("{}: {error}: {why}", refusal.call);
        Finding::bad(CHECK, Severity::Warn, found, COSTS)
    };
    let has_filter = machine.process.seccomp == Ok(SECCOMP_FILTER);
    let seccomp = || {
        finding("a seccomp filter forbids it, as container runtimes do by default".into()).mend(
            "permit io_uring_setup, io_uring_enter and io_uring_register in the profile: docker \
             run --security-opt seccomp=profile.json, Kubernetes securityContext.seccompProfile, \
             systemd SystemCallFilter=@io_uring",
        )
    };
    match refusal.errno {
        libc::EPERM | libc::EACCES => match forbidding_setting(machine) {
            Some(value) => finding(format!("kernel.io_uring_disabled is {value}")).fix(Fix::one(
                "io_uring",
                Change::Sysctl {
                    key: "kernel.io_uring_disabled",
                    from: value.to_string(),
                    to: "0".into(),
                },
            )),
            None if has_filter => seccomp(),
            None => finding("neither kernel.io_uring_disabled nor a seccomp filter explains it".into())
                .mend("look for a security module's refusal: journalctl -k | grep -i -e denied -e io_uring"),
        },
        // A kernel that has the setting has io_uring, so somebody between it and us answers.
        libc::ENOSYS if has_filter && machine.uring.disabled.is_ok() => seccomp(),
        libc::ENOSYS if has_filter => finding(
            "a seccomp filter hides it, or the kernel is built without".into(),
        )
        .mend("permit io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile")
        .mend("or install a kernel of Linux 6.1 or later with CONFIG_IO_URING=y"),
        libc::ENOSYS => finding("this kernel has no io_uring".into())
            .mend("install a kernel of Linux 6.1 or later with CONFIG_IO_URING=y"),
        libc::ENOMEM => finding("the limit of locked memory is too low (memlock)".into())
            .mend("systemd: LimitMEMLOCK=64M; shell: ulimit -l 65536; docker run --ulimit memlock=67108864"),
        _ => finding("an unusual answer".into()).mend("look at the kernel's log: journalctl -k"),
    }
}

/// The setting, if it forbids io_uring to this process: 2 to everybody, 1 to those that are neither
/// privileged nor in `kernel.io_uring_group`.
fn forbidding_setting(machine: &Machine) -> Option<u32> {
    let spared = machine.uring.in_group || machine.process.has(capability::SYS_ADMIN);
    match machine.uring.disabled {
        Ok(1) if !spared => Some(1),
        Ok(2) => Some(2),
        _ => None,
    }
}
