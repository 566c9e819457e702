//! Facts about a machine, as values. No judgement here.

use std::path::PathBuf;
use std::time::Duration;

/// A fact, or why it is not known.
pub type Fact<T> = Result<T, String>;

/// Everything that the checks look at.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// io_uring.
    pub uring: Uring,
    /// This process: rights and limits.
    pub process: Process,
    /// Whether the kernel publishes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: Fact<bool>,
    /// The BPF filesystem.
    pub bpffs: Fact<BpfFs>,
    /// IPv6.
    pub ipv6: Ipv6,
    /// Network devices that are up, without the loopback.
    pub devices: Fact<Vec<Device>>,
    /// Largest receive buffer of a socket without privileges, bytes (`net.core.rmem_max`).
    pub rmem_max_bytes: Fact<u64>,
    /// Largest send buffer of a socket without privileges, bytes (`net.core.wmem_max`).
    pub wmem_max_bytes: Fact<u64>,
    /// The processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Limits of the control group.
    pub cgroup: Fact<Cgroup>,
    /// The clock.
    pub clock: Clock,
    /// The disk of the data directory.
    pub disk: Fact<Disk>,
}

/// The kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Such as `6.12.9-amd64`.
    pub release: Fact<String>,
}

impl Kernel {
    /// Major and minor version.
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let release = self.release.as_ref().ok()?;
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// io_uring.
#[derive(Debug, Clone)]
pub struct Uring {
    /// What happened when a ring was made and used as the network thread does.
    pub probe: UringProbe,
    /// `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub disabled: Fact<u32>,
    /// Whether this process is in `kernel.io_uring_group`, which setting 1 spares.
    pub in_group: bool,
}

/// What a ring could do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UringProbe {
    /// All that is needed.
    Works,
    /// A ring could be made and lacks features or operations.
    Lacks(Vec<String>),
    /// The kernel refused.
    Refused(Refusal),
}

/// A system call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The call.
    pub call: &'static str,
    /// The error number.
    pub errno: i32,
}

/// Rights and limits of this process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Effective user id.
    pub uid: u32,
    /// Effective capabilities, one bit each as `CAP_*` counts them.
    pub capabilities: Fact<u64>,
    /// `Seccomp:` of `/proc/self/status`: 0 none, 1 strict, 2 a filter.
    pub seccomp: Fact<u32>,
    /// Locked memory, bytes.
    pub memlock_bytes: Limit,
    /// Open files.
    pub files: Limit,
}

impl Process {
    /// Whether a capability is effective; unknown counts as absent.
    #[must_use]
    pub fn has(&self, capability: u32) -> bool {
        matches!(self.capabilities, Ok(bits) if bits >> capability & 1 == 1)
    }
}

/// A resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What holds now.
    pub soft: Option<u64>,
    /// What the process may raise it to.
    pub hard: Option<u64>,
}

/// The BPF filesystem at `/sys/fs/bpf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfFs {
    /// Mounted, and this process may write there.
    Writable,
    /// Mounted for others.
    ReadOnly,
    /// The directory is there, not the filesystem.
    NotMounted,
}

/// IPv6.
#[derive(Debug, Clone)]
pub struct Ipv6 {
    /// Whether a UDP socket can be made; the refusal where not.
    pub socket: Result<(), Refusal>,
    /// Number of addresses that others can reach (neither loopback nor link-local).
    pub global_addresses: Fact<usize>,
}

/// A network device.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The driver of the hardware; of a device without hardware, its kind (`veth`, `bridge`).
    pub driver: Fact<String>,
    /// Whether it stands for hardware or for a hypervisor's device.
    pub has_hardware: bool,
    /// Largest packet, bytes.
    pub mtu_bytes: Fact<u32>,
    /// Receive queues.
    pub rx_queues: usize,
    /// `NETDEV_XDP_ACT_*` bits.
    pub xdp_features: Fact<u64>,
    /// Its interrupts.
    pub interrupts: Fact<Vec<Interrupt>>,
    /// Memory node that it hangs on.
    pub numa_node: Option<u32>,
}

/// An interrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// The processors that may serve it, as the kernel lists them (`0-3,8`).
    pub cpus: String,
}

/// The processors.
#[derive(Debug, Clone)]
pub struct Cpu {
    /// Processors that this process may use.
    pub usable: usize,
    /// The widest instructions that the signature verifier can use.
    pub simd: Simd,
    /// Frequency governors, by policy.
    pub governors: Fact<Vec<Governor>>,
    /// Memory nodes.
    pub numa_nodes: Fact<usize>,
}

/// The frequency governor of some processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Governor {
    /// The file that holds it.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// Number of processors.
    pub cpus: usize,
}

/// Vector instructions, as the verifier's kernels need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// AVX-512 with VBMI2 (Ice Lake, Zen 4 and later).
    Avx512,
    /// AVX2 (Haswell, Zen and later).
    Avx2,
    /// Neither, on x86-64.
    Portable,
    /// Another architecture, for which only portable code exists.
    OtherArchitecture,
}

/// Memory.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Memory that programs can still have, bytes.
    pub available_bytes: Fact<u64>,
    /// Reserved huge pages.
    pub huge_pages: Fact<u64>,
    /// Size of one, bytes.
    pub huge_page_bytes: Fact<u64>,
    /// The chosen word of `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent: Fact<String>,
}

/// Limits of the control group and those around it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cgroup {
    /// CPU time per time, in processors.
    pub cpus_max: Option<f64>,
    /// Memory, bytes.
    pub memory_max_bytes: Option<u64>,
}

/// The clock.
#[derive(Debug, Clone)]
pub struct Clock {
    /// The clock source in use.
    pub source: Fact<String>,
    /// Those that the kernel offers.
    pub sources: Vec<String>,
    /// Whether the kernel's clock is being kept in step, and its largest error.
    pub synchronised: Fact<(bool, Duration)>,
}

/// The disk of the data directory.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The directory that was looked at: the data directory, or the nearest that exists above it.
    pub path: PathBuf,
    /// The filesystem's type in words.
    pub filesystem: String,
    /// Whether what is written there survives the loss of power.
    pub is_durable: bool,
    /// Room for this user, bytes.
    pub free_bytes: u64,
    /// The time of writing and syncing a small record.
    pub fsync: Fact<Fsync>,
}

/// Times of `fdatasync` after a small write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fsync {
    /// The median.
    pub median: Duration,
    /// The longest.
    pub max: Duration,
}
