//! Packets at a high rate: the kernel sends the same frame again and again
//! (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18).

use std::{
    io,
    net::SocketAddrV6,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_LINK_CREATE: i32 = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_XDP: u32 = 37;
const LIVE_FRAMES: u32 = 1 << 1;
/// XDP_FLAGS_DRV_MODE.
const NATIVE: u32 = 1 << 2;

/// Verdict that leaves a packet to the kernel.
pub const XDP_PASS: i32 = 2;
/// Verdict that sends a packet out of the device.
const XDP_TX: i32 = 3;

/// Frames sent by one call.
const FRAMES: u32 = 1 << 14;

fn bpf<T>(command: i32, attributes: &T) -> io::Result<i32> {
    // SAFETY: every caller passes the structure that its command expects, with pointers that live
    // through the call.
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

/// Loads a program that answers every packet with `verdict`.
fn constant_program(verdict: i32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_flags: u64,
        name: [u8; 16],
        ifindex: u32,
        attach: u32,
    }
    // r0 = verdict; exit.
    let instructions = [0xb7 | (verdict as u64) << 32, 0x95];
    let load = Load {
        kind: BPF_PROG_TYPE_XDP,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        version_flags: 0,
        name: *b"falconet_rate\0\0\0",
        ifindex: 0,
        attach: BPF_ATTACH_XDP,
    };
    let fd = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program that passes everything: frames that XDP sends into a veth pair arrive only
/// where the other end has a program. Detached when dropped.
pub fn attach_pass(ifindex: u32) -> io::Result<OwnedFd> {
    let program = constant_program(XDP_PASS)?;
    let fd = bpf(
        BPF_LINK_CREATE,
        &[program.as_raw_fd() as u32, ifindex, BPF_ATTACH_XDP, NATIVE],
    )?;
    // SAFETY: the kernel just opened this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one frame from a device again and again.
pub struct Generator {
    program: OwnedFd,
    frame: Vec<u8>,
    ifindex: u32,
}

impl Generator {
    pub fn new(ifindex: u32, frame: Vec<u8>) -> io::Result<Self> {
        Ok(Generator {
            program: constant_program(XDP_TX)?,
            frame,
            ifindex,
        })
    }

    /// Sends some thousand frames.
    pub fn send(&self) -> io::Result<()> {
        #[repr(C)]
        struct TestRun {
            program: u32,
            result: u32,
            data_in_bytes: u32,
            data_out_bytes: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context_in_bytes: u32,
            context_out_bytes: u32,
            context_in: u64,
            context_out: u64,
            flags: u32,
            cpu: u32,
            batch: u32,
            pad: u32,
        }
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
        let context = [0, self.frame.len() as u32, 0, self.ifindex, 0, 0];
        let run = TestRun {
            program: self.program.as_raw_fd() as u32,
            result: 0,
            data_in_bytes: self.frame.len() as u32,
            data_out_bytes: 0,
            data_in: self.frame.as_ptr() as u64,
            data_out: 0,
            repeat: FRAMES,
            duration: 0,
            context_in_bytes: size_of_val(&context) as u32,
            context_out_bytes: 0,
            context_in: context.as_ptr() as u64,
            context_out: 0,
            flags: LIVE_FRAMES,
            cpu: 0,
            batch: 64,
            pad: 0,
        };
        bpf(BPF_PROG_TEST_RUN, &run).map(|_| ())
    }
}

/// An Ethernet frame with a UDP datagram of `payload_bytes`.
pub fn frame(
    macs: [[u8; 6]; 2],
    from: SocketAddrV6,
    to: SocketAddrV6,
    payload_bytes: usize,
) -> Vec<u8> {
    let len = (8 + payload_bytes) as u16;
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend((0..payload_bytes).map(|i| i as u8));
    let mut summed = [from.ip().octets(), to.ip().octets()].concat();
    summed.extend(u32::from(len).to_be_bytes());
    summed.extend([0, 0, 0, 17]);
    summed.extend(&udp);
    let mut sum: u32 = summed
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    udp[6..8].copy_from_slice(&(!sum as u16).to_be_bytes());
    let mut frame = [macs[1], macs[0]].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([17, 64]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    frame.extend(udp);
    frame
}
