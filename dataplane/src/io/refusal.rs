//! Why the kernel refuses io_uring, and what would help. Several causes share an error number, so
//! the sysctl and this process' seccomp state are looked at as well.

use std::{fmt, io};

/// The oldest kernel that has everything: multishot receive with provided buffers, DEFER_TASKRUN.
const KERNEL_NEEDED: &str = "Linux 6.1";

/// A cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// `kernel.io_uring_disabled` is 1 or 2.
    Sysctl(u8),
    /// A seccomp filter, usual in containers.
    Seccomp,
    /// The limit of locked memory.
    LockedMemory,
    /// The limit of open files.
    OpenFiles,
    /// The kernel was built without it.
    NotBuilt,
    /// The kernel lacks an operation or a flag.
    OldKernel,
    /// Anything else.
    Other,
}

/// What is known of this process and its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// `kernel.io_uring_disabled`; `None` where the kernel has no such setting (before 6.6).
    pub(super) disabled: Option<u8>,
    /// Whether a seccomp filter is active in this thread.
    pub(super) seccomp: bool,
}

impl Surroundings {
    fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        Surroundings {
            disabled: read("/proc/sys/kernel/io_uring_disabled")
                .and_then(|text| text.trim().parse().ok()),
            seccomp: read("/proc/thread-self/status").is_some_and(|text| has_filter(&text)),
        }
    }
}

/// Reads the line `Seccomp:` of a status file; 2 means a filter (proc_pid_status(5)).
fn has_filter(status: &str) -> bool {
    status
        .lines()
        .filter_map(|line| line.strip_prefix("Seccomp:"))
        .any(|mode| mode.trim() == "2")
}

/// Finds the cause of an error.
pub(super) fn classify(errno: Option<i32>, around: Surroundings) -> Cause {
    match (errno, around.disabled) {
        // The kernel checks the sysctl itself, but a seccomp filter comes first; both answer EPERM.
        (Some(libc::EPERM), Some(disabled @ 1..)) => Cause::Sysctl(disabled),
        (Some(libc::EPERM | libc::EACCES), _) => Cause::Seccomp,
        // A kernel that has the setting has io_uring.
        (Some(libc::ENOSYS), Some(_)) => Cause::Seccomp,
        (Some(libc::ENOSYS), None) if around.seccomp => Cause::Seccomp,
        (Some(libc::ENOSYS), None) => Cause::NotBuilt,
        (Some(libc::ENOMEM), _) => Cause::LockedMemory,
        (Some(libc::EMFILE | libc::ENFILE), _) => Cause::OpenFiles,
        (Some(libc::EINVAL | libc::EOPNOTSUPP), _) => Cause::OldKernel,
        _ => Cause::Other,
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Sysctl(value) => write!(
                f,
                "sysctl kernel.io_uring_disabled is {value}; set it to 0, or with 1 add this \
                 process' group to kernel.io_uring_group"
            ),
            Cause::Seccomp => f.write_str(
                "a seccomp filter forbids it, as container runtimes do by default; permit \
                 io_uring_setup, io_uring_enter and io_uring_register in the profile",
            ),
            Cause::LockedMemory => f.write_str(
                "the limit of locked memory (memlock) or of the control group is too low; raise \
                 it (ulimit -l, LimitMEMLOCK=, MemoryMax=)",
            ),
            Cause::OpenFiles => f.write_str(
                "no more files may be opened; raise the limit (ulimit -n, LimitNOFILE=)",
            ),
            Cause::NotBuilt => {
                f.write_str("this kernel has no io_uring; use one built with CONFIG_IO_URING")
            }
            Cause::OldKernel => write!(
                f,
                "this kernel's io_uring lacks what is needed; {KERNEL_NEEDED} or later has it"
            ),
            Cause::Other => f.write_str("the cause is not known"),
        }
    }
}

/// What failed, why, and what would help.
pub(super) fn explain(call: &str, error: &io::Error) -> String {
    let cause = classify(error.raw_os_error(), Surroundings::look());
    format!("{call}: {error}: {cause}")
}

/// The same for what the kernel said it lacks.
pub(super) fn lacks(what: &str) -> String {
    format!("{what} is missing: {}", Cause::OldKernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(errno: i32, disabled: Option<u8>, seccomp: bool) -> Cause {
        classify(Some(errno), Surroundings { disabled, seccomp })
    }

    #[test]
    fn causes_that_share_an_error_are_told_apart() {
        assert_eq!(cause(libc::EPERM, Some(2), false), Cause::Sysctl(2));
        assert_eq!(cause(libc::EPERM, Some(1), true), Cause::Sysctl(1));
        assert_eq!(cause(libc::EPERM, Some(0), true), Cause::Seccomp);
        assert_eq!(cause(libc::EPERM, None, false), Cause::Seccomp);
        assert_eq!(cause(libc::EACCES, Some(0), true), Cause::Seccomp);
        assert_eq!(cause(libc::ENOSYS, Some(0), false), Cause::Seccomp);
        assert_eq!(cause(libc::ENOSYS, None, true), Cause::Seccomp);
        assert_eq!(cause(libc::ENOSYS, None, false), Cause::NotBuilt);
        assert_eq!(cause(libc::ENOMEM, Some(0), false), Cause::LockedMemory);
        assert_eq!(cause(libc::EMFILE, Some(0), false), Cause::OpenFiles);
        assert_eq!(cause(libc::EINVAL, Some(0), false), Cause::OldKernel);
        assert_eq!(cause(libc::EIO, Some(0), false), Cause::Other);
    }

    #[test]
    fn each_cause_says_what_to_do() {
        let words = [
            (Cause::Sysctl(2), "kernel.io_uring_disabled is 2"),
            (Cause::Seccomp, "permit io_uring_setup"),
            (Cause::LockedMemory, "ulimit -l"),
            (Cause::OpenFiles, "ulimit -n"),
            (Cause::NotBuilt, "CONFIG_IO_URING"),
            (Cause::OldKernel, "6.1 or later"),
        ];
        for (cause, word) in words {
            assert!(cause.to_string().contains(word), "{cause}");
        }
        assert!(lacks("NODROP").contains("6.1"));
    }

    #[test]
    fn the_status_file_tells_of_a_filter() {
        assert!(has_filter("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!has_filter("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t2\n"));
        assert!(!has_filter(""));
    }
}
