//! Reads the facts of this machine: `/proc`, `/sys`, and a few harmless probes.

mod clock;
mod cpu;
mod device;
mod disk;
mod files;
mod process;
mod uring;
mod xdp;

use std::path::PathBuf;

use rustix::fs::{Access, statfs};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

pub(crate) use self::files::Files;
use crate::machine::{BpfFs, Fact, Ipv6, Kernel, Machine, Refusal};

/// Capabilities that the checks name, as `linux/capability.h` counts them.
pub mod capability {
    /// Read and write files of others.
    pub const DAC_OVERRIDE: u32 = 1;
    /// Set up the network: attach filters, exceed socket buffer limits.
    pub const NET_ADMIN: u32 = 12;
    /// Raw sockets, AF_XDP among them.
    pub const NET_RAW: u32 = 13;
    /// Lock memory beyond the limit.
    pub const IPC_LOCK: u32 = 14;
    /// Nearly everything.
    pub const SYS_ADMIN: u32 = 21;
    /// Load BPF programs.
    pub const BPF: u32 = 39;
}

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What to look at beside the machine itself.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The data directory, present or not: its disk is looked at and its sync time measured.
    pub data_dir: Option<PathBuf>,
}

impl Machine {
    /// Looks at this machine. Needs no privileges; takes some milliseconds, most of them for
    /// syncing a few small writes in the data directory.
    #[must_use]
    pub fn read(options: &ReadOptions) -> Self {
        let files = Files::system();
        Self {
            kernel: Kernel {
                release: files.text("/proc/sys/kernel/osrelease"),
            },
            uring: uring::read(&files),
            process: process::read(&files),
            btf: Ok(files.exists("/sys/kernel/btf/vmlinux")),
            bpffs: bpffs(&files),
            ipv6: ipv6(&files),
            devices: device::read(&files),
            rmem_max_bytes: files.number("/proc/sys/net/core/rmem_max"),
            wmem_max_bytes: files.number("/proc/sys/net/core/wmem_max"),
            cpu: cpu::read(&files),
            memory: cpu::memory(&files),
            cgroup: process::cgroup(&files),
            clock: clock::read(&files),
            disk: match &options.data_dir {
                Some(dir) => disk::read(dir),
                None => Err("no data directory is known; give --config FILE or --data DIR".into()),
            },
        }
    }
}

fn bpffs(files: &Files) -> Fact<BpfFs> {
    let at = files.path("/sys/fs/bpf");
    let stat = statfs(&at).map_err(|errno| format!("{}: {errno}", at.display()))?;
    if stat.f_type as u64 != BPF_FS_MAGIC {
        return Ok(BpfFs::NotMounted);
    }
    let writable = rustix::fs::access(&at, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    Ok(if writable {
        BpfFs::Writable
    } else {
        BpfFs::ReadOnly
    })
}

fn ipv6(files: &Files) -> Ipv6 {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None);
    Ipv6 {
        socket: socket.map(drop).map_err(|errno| Refusal {
            call: "socket(AF_INET6)",
            errno: errno.raw_os_error(),
        }),
        global_addresses: files
            .text("/proc/net/if_inet6")
            .map(|table| global_addresses(&table)),
    }
}

/// The fourth column is the scope: 0 global, 0x10 host (loopback), 0x20 link.
fn global_addresses(table: &str) -> usize {
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("00"))
        .count()
}

#[cfg(test)]
mod tests;
