//! A generator of packets at the rate of the kernel: the same frame again and again
//! (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). For floods on networks of
//! one's own, and for measuring.
//!
//! Frames leave a device as its driver sends redirected ones. On a veth pair the other end must
//! take them without a packet buffer: it has an XDP program, or generic receive offload is on
//! ([`receive_offload`]). All that the other end does for them before a socket it does on the
//! generator's core.
//!
//! The kernel uses the memory of frames again. What the other end passed on to a socket may have
//! changed it: some thousand of millions arrive damaged then.
//!
//! A call waits for other cores twice, 10 to 20 ms without using the processor (the kernel changes
//! and restores a jump to the program). So a high rate needs many frames a call: with 16,384 no
//! generator sends more than about 0.6 million a second.

use std::net::SocketAddrV6;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};

use crate::device::Device;
use crate::error::words;
use crate::{FilterError, plain, sys};

/// Frames that the kernel sends before it looks at interrupts.
const BATCH: u32 = 64;
/// Length of a UDP header, bytes, and its protocol number.
const UDP_BYTES: usize = 8;
const UDP: u8 = 17;
/// Longest frame, bytes: one page less what the kernel keeps around it.
pub const FRAME_BYTES_MAX: usize = crate::dry::FRAME_BYTES_MAX;
/// Frames that one call sends at most: about a second.
pub const FRAMES_MAX: u32 = 1 << 20;

/// Sends frames out of a device.
#[derive(Debug)]
pub struct Generator {
    ebpf: Ebpf,
    program: &'static str,
    device_index: u32,
}

impl Generator {
    /// A generator on a device of the current network namespace, in which its threads must stay.
    ///
    /// # Errors
    /// Missing rights, or no such device.
    pub fn new(device: &str) -> Result<Self, FilterError> {
        Self::with("transmit", device)
    }

    /// As [`Generator::new`]; each frame gets another source /64: bytes 4 to 8 of the source
    /// address are random, and bytes 8 to 12 their complement. A checksum over an address with
    /// four bytes 0x00 and four bytes 0xff there stays right.
    ///
    /// # Errors
    /// As for [`Generator::new`].
    pub fn forging(device: &str) -> Result<Self, FilterError> {
        Self::with("transmit_forged", device)
    }

    fn with(name: &'static str, device: &str) -> Result<Self, FilterError> {
        let mut ebpf = plain::load_object()?;
        plain::program(&mut ebpf, name)?;
        Ok(Self {
            ebpf,
            program: name,
            device_index: Device::find(device)?.index,
        })
    }

    /// Sends a frame `count` times, as fast as it goes.
    ///
    /// # Panics
    /// When the frame is longer than [`FRAME_BYTES_MAX`] or the count above [`FRAMES_MAX`].
    ///
    /// # Errors
    /// The kernel refuses: the calling thread left the namespace, or the device is gone.
    pub fn send(&mut self, frame: &[u8], count: u32) -> Result<(), FilterError> {
        assert!(frame.len() <= FRAME_BYTES_MAX && count <= FRAMES_MAX);
        if count == 0 {
            return Ok(());
        }
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
        let context = [0, frame.len() as u32, 0, self.device_index, 0, 0].map(u32::to_ne_bytes);
        plain::program(&mut self.ebpf, self.program)?
            .test_run(TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(context.as_flattened()),
                repeat: count,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })
            .map_err(|error| FilterError::Generate(words(&error)))?;
        Ok(())
    }
}

/// An Ethernet frame with a UDP datagram over IPv6 whose checksum is right; `macs` are source and
/// destination.
///
/// # Panics
/// When the datagram is longer than IPv6 allows.
#[must_use]
pub fn udp_frame(
    macs: [[u8; 6]; 2],
    from: SocketAddrV6,
    to: SocketAddrV6,
    datagram: &[u8],
) -> Vec<u8> {
    let len = u16::try_from(UDP_BYTES + datagram.len()).expect("a datagram of IPv6");
    let mut udp = Vec::with_capacity(len.into());
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(datagram);
    // RFC 8200, section 8.1: the pseudo header, then the datagram.
    let mut summed = [from.ip().octets(), to.ip().octets()].concat();
    summed.extend(u32::from(len).to_be_bytes());
    summed.extend([0, 0, 0, UDP]);
    summed.extend(&udp);
    let mut sum: u32 = summed
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 => 0xffff,
        checksum => checksum,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = [macs[1], macs[0]].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([UDP, 64]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    frame.extend(udp);
    frame
}

/// Turns generic receive offload of a device on or off; returns how it was. A veth device takes
/// frames of a [`Generator`] when it is on, whether or not it has an XDP program.
///
/// # Errors
/// Missing rights, or the driver has no such switch.
pub fn receive_offload(device: &str, on: bool) -> Result<bool, FilterError> {
    sys::receive_offload(device, on).map_err(|source| FilterError::Device {
        device: device.into(),
        source,
    })
}
