//! Real packets between two network namespaces.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use falconet_ebpf::live::{Generator, receive_offload};
use falconet_ebpf::{
    Attach, Cause, Counters, Filter, FilterConfig, FilterError, Mode, Owner, Rate, is_bpffs,
    mount_bpffs,
};

use crate::need_root;
use crate::net::{NEXT, Net, RETRY, Raw, StopOnDrop, ask, client, echo, without_namespaces};
use crate::support::{Frame, HERE, PORT, THERE, handshake, initial, short};

const OTHER_PORT: u16 = 26601;

macro_rules! need_namespaces {
    () => {
        need_root!();
        if let Some(reason) = without_namespaces() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// A BPF filesystem of its own, gone when the value is.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("fnx-bpf-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        mount_bpffs(&path).unwrap();
        assert!(is_bpffs(&path));
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Waits until a counter stands; whoever breaks the filter sees a test that does not end, or one
/// that counts something else.
fn wait_for(filter: &Filter, before: &Counters, cause: Cause, count: u64) -> Counters {
    loop {
        let since = filter.counters().unwrap().since(before);
        if since[cause] >= count {
            return since;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

const MODES: [(Attach, Mode); 3] = [
    (Attach::Native, Mode::Native),
    (Attach::Generic, Mode::Generic),
    (Attach::Tc, Mode::Tc),
];

#[test]
fn honest_traffic_passes_in_every_mode() {
    need_namespaces!();
    let net = Net::new();
    for (how, mode) in MODES {
        let config = FilterConfig::new(PORT);
        let filter = net
            .here(|| Filter::attach("vb", &config, how, None))
            .unwrap();
        assert_eq!(filter.attachment().mode, mode);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| net.here(|| echo(&stop, PORT)));
            scope.spawn(|| net.here(|| echo(&stop, OTHER_PORT)));
            let _stop = StopOnDrop(&stop);
            net.there(|| {
                // The first packet needs neighbour discovery: ICMPv6 passes.
                let socket = client(PORT);
                for datagram in [initial(1200), handshake(300), short(100), short(1400)] {
                    ask(&socket, &datagram);
                }
                // What is not ours may look as it likes.
                let other = client(OTHER_PORT);
                ask(&other, b"no QUIC at all");
            });
        });
        let counters = filter.counters().unwrap();
        assert!(counters[Cause::Client] >= 4, "{counters:?}");
        assert!(counters[Cause::NotOurs] >= 1, "{counters:?}");
        assert_eq!(
            counters.total(falconet_ebpf::Fate::Drop),
            0,
            "{mode}: {counters:?}"
        );
        filter.detach().unwrap();
    }
}

#[test]
fn each_kind_of_junk_is_dropped_under_its_own_cause() {
    need_namespaces!();
    let net = Net::new();
    let extended = |kind: u8, header: [u8; 8]| {
        let mut frame = Frame::new(short(64));
        frame.extensions.push((kind, header.to_vec()));
        frame.bytes()
    };
    let mut chain = Frame::new(short(64));
    chain.extensions = vec![(60, vec![0; 8]); 9];
    let mut truncated = Frame::new(short(200)).bytes();
    truncated.truncate(150);
    let mut length = Frame::new(short(64)).bytes();
    length[58..60].copy_from_slice(&500u16.to_be_bytes());
    let mut source = Frame::new(short(64));
    source.source_port = 0;
    let mut version = initial(1200);
    version[4] = 9;
    let mut cid = initial(1200);
    cid[5] = 21;
    let mut reaching = initial(1200);
    reaching[20..22].copy_from_slice(&0x7fff_u16.to_be_bytes());
    let plain = |datagram: Vec<u8>| Frame::new(datagram).bytes();
    let junk = [
        (Cause::ExtensionChain, chain.bytes()),
        (Cause::Extension, extended(60, [0; 8])),
        (Cause::Fragment, extended(44, [0, 0, 0, 1, 0, 0, 0, 7])),
        (Cause::Truncated, truncated),
        (Cause::UdpLength, length),
        (Cause::UdpSource, source.bytes()),
        (Cause::QuicShort, plain(short(20))),
        (Cause::QuicVersion, plain(version)),
        (Cause::QuicConnectionId, plain(cid)),
        (Cause::QuicTruncated, plain(reaching)),
        (Cause::InitialSmall, plain(initial(1199))),
        (
            Cause::Blocked,
            Frame::new(short(64))
                .from("fd00::bad".parse().unwrap())
                .bytes(),
        ),
    ];
    for (how, mode) in MODES {
        let config = FilterConfig::new(PORT);
        let filter = net
            .here(|| Filter::attach("vb", &config, how, None))
            .unwrap();
        filter.block("fd00::bad".parse().unwrap(), None).unwrap();
        let raw = net.there(|| Raw::open("va"));
        for (cause, frame) in &junk {
            let before = filter.counters().unwrap();
            for _ in 0..5 {
                raw.send(frame);
            }
            let since = wait_for(&filter, &before, *cause, 5);
            for (other, count) in since
                .iter()
                .filter(|(c, _)| c.fate() == falconet_ebpf::Fate::Drop)
            {
                assert_eq!(
                    count,
                    if other == *cause { 5 } else { 0 },
                    "{mode}: {cause}: {other}"
                );
            }
            assert_eq!(since[Cause::Client], 0, "{mode}: {cause}");
        }
        filter.detach().unwrap();
    }
}

#[test]
fn generated_frames_arrive_and_forged_sources_are_many() {
    need_namespaces!();
    let net = Net::new();
    let here = net.here(|| {
        assert!(
            !receive_offload("vb", true).unwrap(),
            "off at first on veth"
        );
        let socket = UdpSocket::bind(SocketAddrV6::new(HERE, PORT, 0, 0)).unwrap();
        socket.set_read_timeout(Some(RETRY)).unwrap();
        socket
    });
    // Words of 0x00 and of 0xff where the generator writes a number and its complement.
    let source: Ipv6Addr = "fd00::ffff:ffff:0:1".parse().unwrap();
    let frame = Frame::new(initial(1200)).from(source).bytes();
    let mut sources = BTreeSet::new();
    net.there(|| {
        let mut forging = Generator::forging("va").unwrap();
        let mut buffer = [0; 2048];
        while sources.len() < 100 {
            forging.send(&frame, 32).unwrap();
            while let Ok((bytes, from)) = here.recv_from(&mut buffer) {
                // The kernel compared the checksum.
                assert_eq!(buffer[..bytes], initial(1200));
                let SocketAddr::V6(from) = from else {
                    panic!("bound to IPv6");
                };
                sources.insert(from.ip().segments()[..4].to_vec());
            }
        }
    });
    // Each of them has a budget of its own.
    let mut config = FilterConfig::new(PORT);
    config.limits.client.initials = Rate::new(1, 1);
    for (how, _) in MODES {
        let filter = net
            .here(|| Filter::attach("vb", &config, how, None))
            .unwrap();
        let counts = net.there(|| {
            Generator::new("va").unwrap().send(&frame, 64).unwrap();
            let one = wait_for(&filter, &Counters::default(), Cause::ClientInitials, 63);
            let before = filter.counters().unwrap();
            Generator::forging("va").unwrap().send(&frame, 64).unwrap();
            let many = wait_for(&filter, &before, Cause::Client, 64);
            [one[Cause::Client], many[Cause::ClientInitials]]
        });
        assert_eq!(counts, [1, 0]);
        filter.detach().unwrap();
    }
}

#[test]
fn a_packet_not_yet_cut_counts_its_segments() {
    need_namespaces!();
    let net = Net::new();
    let config = FilterConfig::new(PORT);
    let filter = net
        .here(|| Filter::attach("vb", &config, Attach::Auto, None))
        .unwrap();
    assert_eq!(
        filter.attachment().mode,
        Mode::Tc,
        "{}",
        filter.attachment()
    );
    let before = filter.counters().unwrap();
    net.there(|| {
        let socket = client(PORT);
        let bytes: libc::c_int = 100;
        // SAFETY: the option takes an int, of which pointer and length are given.
        let set = unsafe {
            let (length, fd) = (size_of::<libc::c_int>() as u32, socket.as_raw_fd());
            libc::setsockopt(
                fd,
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const bytes).cast(),
                length,
            )
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        let segments: Vec<u8> = short(100).repeat(10);
        socket.send(&segments).unwrap();
    });
    let since = wait_for(&filter, &before, Cause::Client, 10);
    assert_eq!(since[Cause::Client], 10);
}

#[test]
fn attaching_and_detaching_under_load_loses_no_conversation() {
    need_namespaces!();
    let net = Net::new();
    // Who answers stays until nobody asks any more.
    let (enough, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| net.here(|| echo(&stop, PORT)));
        let _stop = StopOnDrop(&stop);
        let load = scope.spawn(|| {
            net.there(|| {
                let socket = client(PORT);
                let mut asked = 0u64;
                while !enough.load(Ordering::Relaxed) {
                    let mut datagram = short(200);
                    datagram[9..17].copy_from_slice(&asked.to_be_bytes());
                    ask(&socket, &datagram);
                    asked += 1;
                }
                asked
            })
        });
        let asking = StopOnDrop(&enough);
        for (how, mode) in [MODES, MODES].concat() {
            let config = FilterConfig::new(PORT);
            let filter = net
                .here(|| Filter::attach("vb", &config, how, None))
                .unwrap();
            // The conversation goes on through the filter.
            let since = wait_for(&filter, &Counters::default(), Cause::Client, 20);
            assert_eq!(since.total(falconet_ebpf::Fate::Drop), 0, "{mode}");
            filter.detach().unwrap();
        }
        drop(asking);
        assert!(load.join().unwrap() > 0);
    });
}

#[test]
fn a_pinned_filter_outlives_its_process_and_leaves_nothing_behind() {
    need_namespaces!();
    let net = Net::new();
    let bpffs = Bpffs::new();
    let root = bpffs.0.join("falconet");
    let foreign = bpffs.0.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    net.here(|| {
        let config = FilterConfig {
            owner: Owner::Node,
            ..FilterConfig::new(PORT)
        };
        for how in [Attach::Native, Attach::Tc] {
            assert!(matches!(
                Filter::open(&root, "vb"),
                Err(FilterError::NotAttached { .. })
            ));
            let filter = Filter::attach("vb", &config, how, Some(&root)).unwrap();
            filter.allow(THERE, Owner::Node).unwrap();
            drop(filter); // as a crash would
            assert!(matches!(
                Filter::attach("vb", &config, how, Some(&root)),
                Err(FilterError::AlreadyAttached { .. })
            ));
            assert_eq!(Filter::devices(&root).unwrap(), ["vb"]);
            let filter = Filter::open(&root, "vb").unwrap();
            let status = filter.status().unwrap();
            assert!(status.alive && status.owner == Owner::Node && status.port == PORT);
            assert_eq!(filter.allowed().unwrap().len(), 1);
            net.there(|| Raw::open("va"))
                .send(&Frame::new(short(20)).bytes());
            wait_for(&filter, &Counters::default(), Cause::QuicShort, 1);
            filter.detach().unwrap();
            assert!(!root.exists());
        }
        // Not pinned, it goes with its process, so that another can come.
        drop(Filter::attach("vb", &config, Attach::Native, None).unwrap());
        drop(Filter::attach("vb", &config, Attach::Native, None).unwrap());
    });
    assert!(foreign.exists());
}

#[test]
fn what_is_wrong_is_said_with_its_remedy() {
    need_namespaces!();
    let net = Net::new();
    net.here(|| {
        let config = FilterConfig::new(PORT);
        let somewhere = std::env::temp_dir();
        let error = Filter::attach("vb", &config, Attach::Auto, Some(&somewhere)).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        let first = Filter::attach("vb", &config, Attach::Native, None).unwrap();
        let error = Filter::attach("vb", &config, Attach::Native, None).unwrap_err();
        assert!(error.to_string().contains("another XDP program"), "{error}");
        drop(first);
        let error = Filter::attach("nowhere", &config, Attach::Auto, None).unwrap_err();
        assert!(error.to_string().contains("ip link"), "{error}");
    });
}
