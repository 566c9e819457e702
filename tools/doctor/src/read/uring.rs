//! Makes a ring the way the network thread does, and looks at what it can do.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::files::Files;
use crate::machine::{Refusal, Uring, UringProbe};

const ENTRIES: u32 = 8;
/// Entries of the ring of buffers; a power of two.
const BUFFERS: u16 = 8;
const GROUP: u16 = 0;

pub(super) fn read(files: &Files) -> Uring {
    let group: Result<i64, _> = files.number("/proc/sys/kernel/io_uring_group");
    Uring {
        probe: probe(),
        disabled: files.number("/proc/sys/kernel/io_uring_disabled"),
        in_group: group.is_ok_and(is_member),
    }
}

fn is_member(group: i64) -> bool {
    let Ok(group) = u32::try_from(group) else {
        return false;
    };
    let groups = rustix::process::getgroups().unwrap_or_default();
    rustix::process::getegid().as_raw() == group || groups.iter().any(|g| g.as_raw() == group)
}

fn probe() -> UringProbe {
    match try_all() {
        Ok(lacking) if lacking.is_empty() => UringProbe::Works,
        Ok(lacking) => UringProbe::Lacks(lacking),
        Err((call, error)) => match error.raw_os_error() {
            Some(errno) => UringProbe::Refused(Refusal { call, errno }),
            None => UringProbe::Lacks(vec![format!("{call}: {error}")]),
        },
    }
}

fn try_all() -> Result<Vec<String>, (&'static str, io::Error)> {
    let mut lacking = Vec::new();
    let best = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(2 * ENTRIES)
        .build(ENTRIES);
    let ring = match best {
        // The kernel does not know the flags: Linux before 6.1.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            lacking.push("deferred task work (Linux 6.1)".into());
            IoUring::new(ENTRIES).map_err(|error| ("io_uring_setup", error))?
        }
        other => other.map_err(|error| ("io_uring_setup", error))?,
    };
    for (has, what) in [
        (
            ring.params().is_feature_nodrop(),
            "completions without loss",
        ),
        (
            ring.params().is_feature_ext_arg(),
            "waiting with a time-out",
        ),
    ] {
        if !has {
            lacking.push(what.into());
        }
    }
    let mut known = Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|error| ("io_uring_register", error))?;
    for (code, name) in [
        (opcode::RecvMsgMulti::CODE, "recvmsg"),
        (opcode::SendMsg::CODE, "sendmsg"),
        (opcode::PollAdd::CODE, "poll"),
    ] {
        if !known.is_supported(code) {
            lacking.push(format!("operation {name}"));
        }
    }
    if let Err(error) = register_buffers(&ring) {
        match error.raw_os_error() {
            Some(libc::EINVAL) => lacking.push("rings of buffers (Linux 5.19)".into()),
            _ => return Err(("io_uring_register (ring of buffers)", error)),
        }
    }
    ring.submitter()
        .submit()
        .map_err(|error| ("io_uring_enter", error))?;
    Ok(lacking)
}

/// Registers an empty ring of buffers and takes it back.
fn register_buffers(ring: &IoUring) -> io::Result<()> {
    /// The kernel wants a page, aligned.
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Box::new(Page([0; 4096]));
    // SAFETY: the page is aligned, larger than the entries, and lives until the ring of buffers is
    // unregistered below; no request uses it.
    unsafe {
        ring.submitter()
            .register_buf_ring_with_flags(page.0.as_mut_ptr() as u64, BUFFERS, GROUP, 0)
    }?;
    ring.submitter().unregister_buf_ring(GROUP)
}
