//! Who directs our datagrams to AF_XDP sockets: the filter that `falconet xdp attach` pinned on the
//! device, or where there is none, a program that only directs. A filter is never gone around.
//!
//! That program takes UDP over IPv6 without extension headers for our port (and address, unless bound to `[::]`),
//! and leaves everything else to the kernel. It drops nothing: a packet for a queue without
//! socket goes to the kernel too.
//!
//! It is attached by a link that the process holds, so that it disappears with the process, and
//! never in place of a program that is there already. It is short enough to be written as
//! instructions; `Documentation/bpf/standardization/instruction-set.rst` has the encoding.

use std::{
    io,
    net::SocketAddrV6,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use falconet_ebpf::{Filter, Mode, PIN_ROOT};

use super::{
    packet::{ETHERTYPE_IPV6, HEADERS_BYTES, PROTOCOL_UDP},
    probe::{Device, QUEUES_MAX},
};

/// Where XDP programs run on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before the kernel has made a packet buffer.
    Native,
    /// In the network stack, with any driver; slower.
    Generic,
}

/// The attached program and its map of sockets.
pub(super) enum Steering {
    /// The filter of this device.
    Filter(Box<Filter>),
    /// A program of our own.
    Own {
        map: OwnedFd,
        hook: Hook,
        /// Detaches the program when closed.
        _link: OwnedFd,
    },
}

impl Steering {
    /// Uses the filter of the device, or attaches a program of our own to the driver, or with the
    /// reason why not, to the stack.
    pub(super) fn attach(
        device: &Device,
        addr: &SocketAddrV6,
        is_native_known_missing: bool,
    ) -> Result<(Self, Option<String>), String> {
        if let Some(filter) = filter(device, addr)? {
            return Ok((Steering::Filter(Box::new(filter)), None));
        }
        let map = create_map().map_err(|error| explain("making an XSKMAP", &error))?;
        let program = load(&program(addr, map.as_raw_fd()))
            .map_err(|error| explain("loading the XDP program", &error))?;
        let native = if is_native_known_missing {
            Err("the driver has no XDP".to_owned())
        } else {
            link(&program, device, XDP_FLAGS_DRV_MODE).map_err(|error| explain_attach(&error))
        };
        let (link, hook, why_not_better) = match native {
            Ok(link) => (link, Hook::Native, None),
            Err(reason) => {
                let link = link(&program, device, XDP_FLAGS_SKB_MODE)
                    .map_err(|error| explain_attach(&error))?;
                (link, Hook::Generic, Some(reason))
            }
        };
        let steering = Steering::Own {
            map,
            hook,
            _link: link,
        };
        Ok((steering, why_not_better))
    }

    /// Directs the packets of `queue` to an AF_XDP socket. Undone when the socket is closed.
    pub(super) fn register(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        let failed = |reason: &dyn std::fmt::Display| {
            format!("directing packets to the socket of queue {queue} failed: {reason}")
        };
        match self {
            Steering::Filter(filter) => filter
                .register_xsk(queue, 0, socket)
                .map_err(|error| failed(&error)),
            Steering::Own { map, .. } => {
                update_map(map, queue, socket).map_err(|error| failed(&error))
            }
        }
    }

    /// Where the program runs.
    pub(super) fn hook(&self) -> Hook {
        match self {
            Steering::Filter(filter) => match filter.attachment().mode {
                Mode::Native => Hook::Native,
                Mode::Generic | Mode::Tc => Hook::Generic,
            },
            Steering::Own { hook, .. } => *hook,
        }
    }

    /// Whether packets pass the filter first.
    pub(super) fn is_filtered(&self) -> bool {
        matches!(self, Steering::Filter(_))
    }
}

/// The filter pinned for this device, when it can feed us; an error when it is there and cannot,
/// because our own program would go around it.
fn filter(device: &Device, addr: &SocketAddrV6) -> Result<Option<Filter>, String> {
    let name = device.name.as_str();
    // Whether there is one, and whether it is ours to read: without it, our own program is tried,
    // which the kernel attaches in place of none.
    let Ok(filter) = Filter::open(Path::new(PIN_ROOT), name) else {
        return Ok(None);
    };
    let status = filter
        .status()
        .map_err(|error| format!("asking the filter of {name} failed: {error}"))?;
    let attach = format!("`falconet xdp detach {name}`, then attach it again");
    if !status.mode.is_xdp() {
        if !status.alive {
            return Ok(None);
        }
        return Err(format!(
            "the filter of {name} is attached by tc, which cannot feed AF_XDP; {attach} in native \
             or generic mode"
        ));
    }
    // Devices of the same name live in other network namespaces.
    if device.program != Some(status.program) {
        return Ok(None);
    }
    let is_for_us =
        status.port == addr.port() && status.address.is_none_or(|address| address == *addr.ip());
    if !is_for_us {
        return Err(format!(
            "the filter of {name} is for port {}, not for {addr}; {attach} for this address",
            status.port
        ));
    }
    if status.net_threads != 1 {
        return Err(format!(
            "the filter of {name} was attached for {} network threads, and AF_XDP serves one; \
             {attach}",
            status.net_threads
        ));
    }
    Ok(Some(filter))
}

const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Number of the helper `bpf_redirect_map`.
const REDIRECT_MAP: i32 = 51;

/// The verdict that leaves a packet to the kernel.
const XDP_PASS: i32 = 2;

/// # Safety
///
/// `attributes` must be what the command expects: a `#[repr(C)]` structure whose pointers are
/// valid for it.
unsafe fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the pointer and the length describe `attributes`, whose content the caller vouches
    // for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

/// # Safety
///
/// As for [`bpf`], and the command must return a descriptor.
unsafe fn bpf_fd<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller guarantees; the descriptor is new and belongs to nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attributes)?)) }
}

fn create_map() -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        entries: u32,
        flags: u32,
    }
    let create = Create {
        kind: BPF_MAP_TYPE_XSKMAP,
        key_bytes: 4,
        value_bytes: 4,
        entries: QUEUES_MAX,
        flags: 0,
    };
    // SAFETY: the structure is the beginning of what the command expects and has no pointers.
    unsafe { bpf_fd(BPF_MAP_CREATE, &create) }
}

fn update_map(map: &OwnedFd, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = socket.as_raw_fd() as u32;
    let update = Update {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: (&raw const queue) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    // SAFETY: key and value are 4 bytes each, as the map was made, and live through the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &update) }.map(|_| ())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_bytes: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach: u32,
    }
    let license = c"GPL";
    let load = Load {
        kind: BPF_PROG_TYPE_XDP,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"falconet_steer\0\0",
        ifindex: 0,
        expected_attach: BPF_ATTACH_XDP,
    };
    // SAFETY: the structure is the beginning of what the command expects; instructions and
    // license live through the call.
    unsafe { bpf_fd(BPF_PROG_LOAD, &load) }
}

fn link(program: &OwnedFd, device: &Device, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        ifindex: u32,
        attach: u32,
        flags: u32,
    }
    let create = Create {
        program: program.as_raw_fd() as u32,
        ifindex: device.index,
        attach: BPF_ATTACH_XDP,
        flags,
    };
    // SAFETY: the structure is the beginning of what the command expects and has no pointers.
    unsafe { bpf_fd(BPF_LINK_CREATE, &create) }
}

fn explain(what: &str, error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it needs CAP_BPF and CAP_NET_ADMIN (or root): \
             AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK in systemd"
        }
        _ => "",
    };
    format!("{what} failed: {error}{remedy}")
}

fn explain_attach(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            "; another XDP program is attached: `ip link show` names it, `ip link set DEV xdp off` \
             detaches it"
        }
        Some(libc::EOPNOTSUPP) => "; the driver has no XDP",
        Some(libc::EINVAL | libc::ERANGE | libc::E2BIG) => {
            "; the driver may refuse XDP at this MTU or with receive offloads (LRO) on"
        }
        _ => return explain("attaching the XDP program", error),
    };
    format!("attaching the XDP program failed: {error}{remedy}")
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Width of a load from the packet.
#[derive(Clone, Copy)]
enum Width {
    U8 = 0x10,
    U16 = 0x08,
    U32 = 0x00,
}

/// Sizes and opcodes of the instructions used.
mod code {
    /// dst = *(size *)(src + offset), to be joined with a size.
    pub(super) const LOAD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const MOVE_IMMEDIATE: u8 = 0xb7;
    pub(super) const ADD_IMMEDIATE: u8 = 0x07;
    /// Jump if dst > src.
    pub(super) const JUMP_GREATER: u8 = 0x2d;
    /// Jump if the low 32 bits of dst differ from the immediate.
    pub(super) const JUMP32_NOT_EQUAL: u8 = 0x56;
    pub(super) const LOAD_IMMEDIATE_64: u8 = 0x18;
    pub(super) const CALL: u8 = 0x85;
    pub(super) const EXIT: u8 = 0x95;
}

/// The program for one address. Registers: 6 context, 2 packet, 3 its end.
fn program(addr: &SocketAddrV6, map: i32) -> Vec<Instruction> {
    let op = |code, to: u8, from: u8, offset: i16, immediate: i32| Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate,
    };
    let load = |to, from, offset, width: Width| op(code::LOAD | width as u8, to, from, offset, 0);
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index.
    let mut all = vec![
        op(code::MOVE, 6, 1, 0, 0),
        load(2, 1, 0, Width::U32),
        load(3, 1, 4, Width::U32),
        op(code::MOVE, 4, 2, 0, 0),
        op(code::ADD_IMMEDIATE, 4, 0, 0, HEADERS_BYTES as i32),
    ];
    // Jumps to the end, filled in below.
    let mut to_pass = vec![all.len()];
    all.push(op(code::JUMP_GREATER, 4, 3, 0, 0));
    let u16_be = |value: u16| i32::from(u16::from_ne_bytes(value.to_be_bytes()));
    let mut expected = vec![
        (12, Width::U16, u16_be(ETHERTYPE_IPV6)),
        (20, Width::U8, i32::from(PROTOCOL_UDP)),
        (56, Width::U16, u16_be(addr.port())),
    ];
    if !addr.ip().is_unspecified() {
        for (i, word) in addr.ip().octets().as_chunks::<4>().0.iter().enumerate() {
            let offset = 38 + 4 * i as i16;
            expected.push((offset, Width::U32, i32::from_ne_bytes(*word)));
        }
    }
    for (offset, width, value) in expected {
        all.push(load(5, 2, offset, width));
        to_pass.push(all.len());
        all.push(op(code::JUMP32_NOT_EQUAL, 5, 0, 0, value));
    }
    all.extend([
        // The map, by descriptor (BPF_PSEUDO_MAP_FD is source register 1); two slots.
        op(code::LOAD_IMMEDIATE_64, 1, 1, 0, map),
        op(0, 0, 0, 0, 0),
        load(2, 6, 16, Width::U32),
        op(code::MOVE_IMMEDIATE, 3, 0, 0, XDP_PASS),
        op(code::CALL, 0, 0, 0, REDIRECT_MAP),
        op(code::EXIT, 0, 0, 0, 0),
    ]);
    let pass = all.len();
    all.extend([
        op(code::MOVE_IMMEDIATE, 0, 0, 0, XDP_PASS),
        op(code::EXIT, 0, 0, 0, 0),
    ]);
    for jump in to_pass {
        all[jump].offset = (pass - jump - 1) as i16;
    }
    all
}
