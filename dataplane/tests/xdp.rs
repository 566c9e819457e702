//! The AF_XDP backend with real packets between network namespaces. Needs root; without it each
//! test says so and passes.

mod netns;

use std::{
    net::SocketAddrV6,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::hash,
};
use falconet_dataplane::{
    Backend, Channel, ConnId, Event, KIND_APPLICATION_MIN, PeerTarget, Stoq, StoqConfig,
    TrustedKeys,
};
use falconet_ebpf::{Attach, Cause, Filter, FilterConfig, Owner, PIN_ROOT, is_bpffs};
use netns::{Namespace, Pair, at, connect};

const PORT: u16 = 4433;

/// Names of the namespaces made, or the reason printed.
fn or_skip<T>(made: Result<T, String>) -> Option<T> {
    made.inspect_err(|reason| println!("skipped: no network namespaces here: {reason}"))
        .ok()
}

struct Endpoint {
    stoq: Stoq,
    events: Receiver<Event>,
    key: Arc<KeyPair>,
    trusted: TrustedKeys,
}

fn config(bind: SocketAddrV6, backend: Backend, device: Option<&str>) -> StoqConfig {
    let mut config = StoqConfig::new(bind, hash("example chain", &[]));
    config.io.backend = backend;
    config.io.device = device.map(|name| name.parse().unwrap());
    config
}

/// An endpoint with a key of its own, inside `namespace`.
fn endpoint(namespace: &Namespace, bind: SocketAddrV6, backend: Backend) -> Endpoint {
    namespace.enter(|| open(config(bind, backend, None)))
}

fn open(mut config: StoqConfig) -> Endpoint {
    let key = Arc::new(KeyPair::generate(Scheme::Falcon1024));
    config.identity = Some(key.clone());
    let trusted = config.trusted.clone();
    let (stoq, events) = Stoq::bind(config).unwrap();
    println!("{}", stoq.backend());
    Endpoint {
        stoq,
        events,
        key,
        trusted,
    }
}

impl Endpoint {
    fn uses_rings(&self) -> bool {
        self.stoq.backend().starts_with("AF_XDP")
    }

    fn connected(&self) -> ConnId {
        match self.events.recv().unwrap() {
            Event::Connected { conn, .. } => conn,
            other => panic!("{other:?}"),
        }
    }

    fn send(&self, conn: ConnId, channel: Channel, payload: &Bytes) {
        let handle = self.stoq.handle();
        handle
            .send(conn, channel, KIND_APPLICATION_MIN, payload.clone())
            .unwrap();
    }

    fn expect(&self, expected: &Bytes) {
        match self.events.recv().unwrap() {
            Event::Frame { payload, .. } => assert!(payload == *expected, "another frame"),
            other => panic!("{other:?}"),
        }
    }
}

/// `a` dials `b`; both prove their keys.
fn dial(a: &Endpoint, b: &Endpoint, addr: SocketAddrV6) -> (ConnId, ConnId) {
    a.trusted.replace([b.key.public()]);
    b.trusted.replace([a.key.public()]);
    let target = PeerTarget {
        addr,
        key: b.key.public().clone(),
        persistent: false,
    };
    a.stoq.handle().connect(target).unwrap();
    (a.connected(), b.connected())
}

/// Frames of many sizes both ways, each compared.
fn exchange(a: &Endpoint, b: &Endpoint, (at_a, at_b): (ConnId, ConnId)) {
    for (i, size) in [1, 100, 1200, 1500, 20_000, 300_000, 900_000, 64, 1]
        .into_iter()
        .cycle()
        .take(27)
        .enumerate()
    {
        let there = Bytes::from(vec![i as u8; size]);
        let back = Bytes::from(vec![!(i as u8); size]);
        a.send(at_a, Channel::Control, &there);
        b.send(at_b, Channel::Control, &back);
        b.expect(&there);
        a.expect(&back);
    }
    // Several megabytes at once.
    let bulk = Bytes::from(vec![7; 3 << 20]);
    for _ in 0..4 {
        a.send(at_a, Channel::Bulk, &bulk);
        b.send(at_b, Channel::Bulk, &bulk);
    }
    for _ in 0..4 {
        b.expect(&bulk);
        a.expect(&bulk);
    }
}

/// What went through the rings, and that nothing was refused.
fn check_rings(endpoint: &Endpoint) {
    let stats = endpoint.stoq.stats().snapshot();
    println!("{stats:?}");
    if endpoint.uses_rings() {
        assert!(stats.ring_datagrams_in > 100, "{stats:?}");
        assert!(stats.ring_datagrams_out > 100, "{stats:?}");
        // Only what came before the neighbour was known went by the socket.
        assert!(stats.ring_datagrams_out * 10 > stats.datagrams_out * 9);
    } else {
        assert_eq!(stats.ring_datagrams_in + stats.ring_datagrams_out, 0);
    }
    assert_eq!(stats.packets_refused, 0, "{stats:?}");
}

fn between(a: Backend, b: Backend) {
    let Some(pair) = or_skip(Pair::new(1500)) else {
        return;
    };
    let ends = [
        endpoint(&pair.a, at(1, 0), a),
        endpoint(&pair.b, at(2, PORT), b),
    ];
    for (end, backend) in ends.iter().zip([a, b]) {
        assert_eq!(end.uses_rings(), backend == Backend::Xdp);
    }
    let [a, b] = ends;
    let connection = dial(&a, &b, at(2, PORT));
    exchange(&a, &b, connection);
    // The kernel forgets its neighbours; the connection lives on.
    pair.a.ip("neighbour flush dev eth0");
    pair.b.ip("neighbour flush dev eth0");
    exchange(&a, &b, connection);
    check_rings(&a);
    check_rings(&b);
}

#[test]
fn both_ends_on_af_xdp() {
    between(Backend::Xdp, Backend::Xdp);
}

#[test]
fn the_dialling_end_on_af_xdp() {
    between(Backend::Xdp, Backend::Auto);
}

#[test]
fn the_listening_end_on_af_xdp() {
    between(Backend::Mmsg, Backend::Xdp);
}

#[test]
fn a_closed_endpoint_can_be_opened_again_at_once() {
    let Some(pair) = or_skip(Pair::new(1500)) else {
        return;
    };
    let a = endpoint(&pair.a, at(1, 0), Backend::Auto);
    for _ in 0..3 {
        let b = endpoint(&pair.b, at(2, PORT), Backend::Xdp);
        assert!(b.uses_rings());
        let (at_a, at_b) = dial(&a, &b, at(2, PORT));
        let payload = Bytes::from_static(b"again");
        a.send(at_a, Channel::Control, &payload);
        b.expect(&payload);
        b.send(at_b, Channel::Control, &payload);
        a.expect(&payload);
        drop(b);
        match a.events.recv().unwrap() {
            Event::Closed { conn, .. } => assert_eq!(conn, at_a),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_gateway_is_used() {
    let made = Namespace::new("router").and_then(|router| {
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        connect(&a, "eth0", &router, "eth1", 1500)?;
        connect(&b, "eth0", &router, "eth2", 1500)?;
        Ok((a, router, b))
    });
    let Some((a, router, b)) = or_skip(made) else {
        return;
    };
    a.ip("address add fd00:1::2/64 dev eth0 nodad");
    b.ip("address add fd00:2::2/64 dev eth0 nodad");
    router.ip("address add fd00:1::1/64 dev eth1 nodad");
    router.ip("address add fd00:2::1/64 dev eth2 nodad");
    // A router solicits neighbours from its link-local addresses.
    router.ip("address add fe80::1/64 dev eth1 nodad");
    router.ip("address add fe80::1/64 dev eth2 nodad");
    a.ip("route add default via fd00:1::1");
    b.ip("route add default via fd00:2::1");
    router.enter(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    });
    // Bound to any address: the device is that of the default route, the source address is the
    // kernel's choice.
    let any = |port: u16| SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, port, 0, 0);
    let ends = [
        endpoint(&a, any(0), Backend::Xdp),
        endpoint(&b, any(PORT), Backend::Xdp),
    ];
    let connection = dial(&ends[0], &ends[1], "[fd00:2::2]:4433".parse().unwrap());
    exchange(&ends[0], &ends[1], connection);
    for end in &ends {
        assert!(end.uses_rings());
        check_rings(end);
    }
}

#[test]
fn what_the_program_does_not_see_arrives_too() {
    let Some(pair) = or_skip(Pair::new(1500)) else {
        return;
    };
    // Both in one namespace: the packets travel over loopback.
    let b = endpoint(&pair.b, at(2, PORT), Backend::Xdp);
    let a = endpoint(&pair.b, at(2, 0), Backend::Auto);
    assert!(b.uses_rings());
    let connection = dial(&a, &b, at(2, PORT));
    exchange(&a, &b, connection);
    let stats = b.stoq.stats().snapshot();
    assert_eq!(stats.ring_datagrams_in + stats.ring_datagrams_out, 0);
}

#[test]
fn a_device_that_is_taken_is_left_alone() {
    let Some(pair) = or_skip(Pair::new(1500)) else {
        return;
    };
    let first = endpoint(&pair.b, at(2, PORT), Backend::Xdp);
    let second = endpoint(&pair.b, at(2, PORT + 1), Backend::Xdp);
    assert!(first.uses_rings());
    assert!(!second.uses_rings(), "{}", second.stoq.backend());
    let a = endpoint(&pair.a, at(1, 0), Backend::Xdp);
    let connection = dial(&a, &second, at(2, PORT + 1));
    exchange(&a, &second, connection);
    drop(second);
    let a = endpoint(&pair.a, at(1, 0), Backend::Auto);
    let connection = dial(&a, &first, at(2, PORT));
    exchange(&a, &first, connection);
    check_rings(&first);
}

/// A pinned filter, which would outlive a failed test.
struct Pinned {
    filter: Filter,
    device: String,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = Filter::remove(Path::new(PIN_ROOT), &self.device);
    }
}

/// A veth pair with the filter on its end in the second namespace. That end has a name that no
/// other test uses, because filters are pinned by device name.
fn filtered(how: Attach) -> Result<(Namespace, Namespace, Pinned), String> {
    let root = Path::new(PIN_ROOT);
    if !is_bpffs(root) {
        return Err("no BPF filesystem on /sys/fs/bpf".into());
    }
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let device = format!("fx{}-{number}", std::process::id());
    connect(&a, "eth0", &b, &device, 1500)?;
    let [at_a, at_b] = [1, 2].map(netns::address);
    a.ip(&format!("address add {at_a}/64 dev eth0 nodad"));
    b.ip(&format!("address add {at_b}/64 dev {device} nodad"));
    let config = FilterConfig::new(PORT);
    let filter = b
        .enter(|| Filter::attach(&device, &config, how, Some(root)))
        .map_err(|error| error.to_string())?;
    Ok((a, b, Pinned { filter, device }))
}

#[test]
fn packets_pass_the_filter_first() {
    let Some((at_a, at_b, pinned)) = or_skip(filtered(Attach::Native)) else {
        return;
    };
    let b = endpoint(&at_b, at(2, PORT), Backend::Xdp);
    assert!(b.uses_rings());
    assert!(b.stoq.backend().contains("behind the filter"));
    let a = endpoint(&at_a, at(1, 0), Backend::Auto);
    let filter = &pinned.filter;
    filter.allow(netns::address(1), Owner::Node).unwrap();
    let connection = dial(&a, &b, at(2, PORT));
    exchange(&a, &b, connection);
    check_rings(&b);
    let redirected = filter.counters().unwrap()[Cause::RedirectValidator];
    let received = b.stoq.stats().snapshot().ring_datagrams_in;
    assert!(redirected >= received, "{redirected} and {received}");
    // For another port the filter is not gone around.
    let other = endpoint(&at_b, at(2, PORT + 1), Backend::Xdp);
    assert!(!other.uses_rings(), "{}", other.stoq.backend());
}

#[test]
fn what_the_kernel_joined_takes_the_way_through_the_stack() {
    let Some((at_a, at_b, pinned)) = or_skip(filtered(Attach::Generic)) else {
        return;
    };
    let b = endpoint(&at_b, at(2, PORT), Backend::Xdp);
    assert!(b.uses_rings());
    // On veth, segments that a sender leaves to the device arrive uncut.
    let a = endpoint(&at_a, at(1, 0), Backend::Auto);
    let connection = dial(&a, &b, at(2, PORT));
    exchange(&a, &b, connection);
    let counters = pinned.filter.counters().unwrap();
    assert!(counters[Cause::RedirectClient] > 0, "{counters:?}");
    assert!(counters[Cause::Client] > 0, "{counters:?}");
    let stats = b.stoq.stats().snapshot();
    assert_eq!((stats.packets_dropped, stats.packets_refused), (0, 0));
}

#[test]
fn jumbo_frames_that_do_not_fit_are_left_to_the_next_backend() {
    let Some(pair) = or_skip(Pair::new(9000)) else {
        return;
    };
    let end = endpoint(&pair.a, at(1, 0), Backend::Xdp);
    assert!(!end.uses_rings(), "{}", end.stoq.backend());
}

#[test]
fn larger_frames_are_used_for_a_larger_mtu() {
    let Some(pair) = or_skip(Pair::new(3000)) else {
        return;
    };
    let a = endpoint(&pair.a, at(1, 0), Backend::Xdp);
    let b = endpoint(&pair.b, at(2, PORT), Backend::Xdp);
    assert!(a.uses_rings() && b.uses_rings());
    let connection = dial(&a, &b, at(2, PORT));
    exchange(&a, &b, connection);
    check_rings(&a);
}

/// Needs no rights: the reasons come before anything privileged.
#[test]
fn impossible_devices_give_way_to_the_next_backend() {
    for device in [Some("lo"), Some("absent-device"), None] {
        let bind = "[::1]:0".parse().unwrap();
        let a = open(config(bind, Backend::Xdp, device));
        let b = open(config(bind, Backend::Auto, None));
        assert!(!a.uses_rings(), "{}", a.stoq.backend());
        let connection = dial(&b, &a, a.stoq.local_addr());
        let payload = Bytes::from_static(b"by another way");
        b.send(connection.0, Channel::Control, &payload);
        a.expect(&payload);
    }
}
