//! Which packets go to which AF_XDP socket.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

use falconet_ebpf::dry::DryRun;
use falconet_ebpf::{Fate, FilterConfig, Limits, Mode};

use crate::need_root;
use crate::support::{Frame, PORT, handshake, initial, short};

/// Threads of the endpoint.
const THREADS: u32 = 4;
/// Byte of the destination connection id that names one.
const BYTE: u32 = 2;
/// Where the destination connection id begins.
const CID_IN_SHORT: usize = 1;
const CID_IN_LONG: usize = 6;
/// Longest frame for the sockets.
const BYTES_MAX: u32 = 1792;

/// A socket that may be registered: it has a receive ring.
fn socket() -> OwnedFd {
    // SAFETY: no pointers are passed; the result is checked before it is used.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let entries = 64u32;
    // SAFETY: the option takes an unsigned integer, of which pointer and length are given.
    let set = unsafe {
        let (value, bytes) = ((&raw const entries).cast(), size_of::<u32>() as u32);
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_RX_RING,
            value,
            bytes,
        )
    };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
    fd
}

#[test]
fn connection_ids_name_the_thread() {
    need_root!();
    let mut dry = DryRun::load(&FilterConfig {
        limits: Limits::UNLIMITED,
        ..FilterConfig::new(PORT)
    })
    .unwrap();
    dry.filter().set_net_threads(THREADS, BYTE).unwrap();
    let sockets: Vec<OwnedFd> = (0..THREADS).map(|_| socket()).collect();
    let packets = [
        (short(100), CID_IN_SHORT),
        (handshake(300), CID_IN_LONG),
        (initial(1200), CID_IN_LONG),
    ];
    for (thread, socket) in (0..).zip(&sockets) {
        // Of one queue only one thread has a socket: its packets are redirected, others pass.
        let filter = dry.filter();
        filter
            .register_xsk(0, thread, socket.as_fd(), BYTES_MAX)
            .unwrap();
        for value in 0..=u8::MAX {
            for (datagram, cid_at) in &packets {
                let mut datagram = datagram.clone();
                datagram[cid_at + BYTE as usize] = value;
                let (fate, _) = dry
                    .run(Mode::Native, &Frame::new(datagram).bytes(), 1)
                    .unwrap();
                let is_its = u32::from(value) % THREADS == thread;
                let expected = if is_its { Fate::Redirect } else { Fate::Pass };
                assert_eq!(fate, expected, "{value} and thread {thread}");
            }
        }
        dry.filter().unregister_xsk(0, thread).unwrap();
    }
    // Behind the last thread there is no place.
    let filter = dry.filter();
    assert!(
        filter
            .register_xsk(0, THREADS, sockets[0].as_fd(), BYTES_MAX)
            .is_err()
    );
}

#[test]
fn what_the_sockets_cannot_take_is_left_to_the_stack() {
    need_root!();
    let mut dry = DryRun::load(&FilterConfig::new(PORT)).unwrap();
    let socket = socket();
    let filter = dry.filter();
    filter
        .register_xsk(0, 0, socket.as_fd(), BYTES_MAX)
        .unwrap();
    let headers = Frame::new(Vec::new()).bytes().len();
    let longest = BYTES_MAX as usize - headers;
    let mut tagged = Frame::new(short(100));
    tagged.ethernet.splice(12..12, [0x81, 0, 0, 5]);
    for (frame, expected) in [
        (Frame::new(short(longest)), Fate::Redirect),
        (Frame::new(short(longest + 1)), Fate::Pass),
        (tagged, Fate::Pass),
    ] {
        assert_eq!(
            dry.run(Mode::Native, &frame.bytes(), 1).unwrap().0,
            expected
        );
    }
}
