//! The whole endpoint over real sockets on loopback. What needs virtual time or a hostile peer is
//! tested beside the endpoint itself.

use std::{
    net::{SocketAddrV6, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{
    Backend, BindError, Channel, CloseCode, CloseReason, ConnId, Event, PeerTarget, Remote,
    SendError, Stoq, StoqConfig,
};

const CHAIN: Digest = Digest([0xc4; 32]);
const KIND: u8 = 16;

/// FALCON-1024 for the first two keys, FALCON-512 for the rest.
fn key(index: usize) -> Arc<KeyPair> {
    static KEYS: OnceLock<Vec<Arc<KeyPair>>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let schemes = [
            Scheme::Falcon1024,
            Scheme::Falcon1024,
            Scheme::Falcon512,
            Scheme::Falcon512,
        ];
        schemes
            .iter()
            .zip(1..)
            .map(|(scheme, seed)| Arc::new(KeyPair::from_seed(*scheme, &[seed; 32])))
            .collect()
    })[index]
        .clone()
}

fn config(identity: Option<usize>, trusted: &[usize]) -> StoqConfig {
    let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), CHAIN);
    config.identity = identity.map(key);
    let trusted: Vec<Arc<KeyPair>> = trusted.iter().map(|index| key(*index)).collect();
    config
        .trusted
        .replace(trusted.iter().map(|pair| pair.public()));
    config
}

fn target(stoq: &Stoq, key_index: usize) -> PeerTarget {
    PeerTarget {
        addr: stoq.local_addr(),
        key: key(key_index).public().clone(),
        persistent: true,
    }
}

type Node = (Stoq, Receiver<Event>);

fn connected(events: &Receiver<Event>) -> (ConnId, Remote) {
    loop {
        match events.recv().expect("the endpoint runs") {
            Event::Connected { conn, remote, .. } => return (conn, remote),
            Event::DialFailed { .. } | Event::Closed { .. } => {}
            other => panic!("expected a connection, got {other:?}"),
        }
    }
}

/// Two connected validators.
fn pair(change: impl Fn(&mut StoqConfig)) -> (Node, Node, ConnId, ConnId) {
    let nodes = [0, 1].map(|index| {
        let mut config = config(Some(index), &[0, 1]);
        change(&mut config);
        Stoq::bind(config).unwrap()
    });
    let [a, b] = nodes;
    a.0.handle().connect(target(&b.0, 1)).unwrap();
    let (conn_a, remote) = connected(&a.1);
    assert_eq!(remote, Remote::Validator(key(1).public().id()));
    let (conn_b, remote) = connected(&b.1);
    assert_eq!(remote, Remote::Validator(key(0).public().id()));
    (a, b, conn_a, conn_b)
}

/// Sends, waiting while the queue is full.
fn send(stoq: &Stoq, conn: ConnId, channel: Channel, payload: Bytes) {
    let handle = stoq.handle();
    loop {
        match handle.send(conn, channel, KIND, payload.clone()) {
            Ok(()) => return,
            Err(SendError::Full) => std::thread::sleep(Duration::from_micros(200)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn next_frame(events: &Receiver<Event>) -> (Channel, Bytes) {
    match events.recv().expect("the endpoint runs") {
        Event::Frame {
            channel, payload, ..
        } => (channel, payload),
        other => panic!("expected a frame, got {other:?}"),
    }
}

/// Runs a test over each I/O backend that this kernel permits.
fn each_backend(test: impl Fn(Backend)) {
    for backend in [Backend::Mmsg, Backend::Plain, Backend::IoUring] {
        let mut probe = config(None, &[]);
        probe.io.backend = backend;
        match Stoq::bind(probe) {
            Ok(_) => test(backend),
            Err(BindError::Backend { backend, reason }) => {
                println!("skipped for {backend}: {reason}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn validators_authenticate_and_exchange_frames() {
    each_backend(|backend| {
        let (a, b, conn_a, conn_b) = pair(|config| config.io.backend = backend);
        for (from, to, conn) in [(&a, &b, conn_a), (&b, &a, conn_b)] {
            for channel in Channel::ALL {
                for len in [0, 1, 100, 5000, 200_000] {
                    let payload = Bytes::from(vec![len as u8; len]);
                    send(&from.0, conn, channel, payload.clone());
                    assert_eq!(next_frame(&to.1), (channel, payload));
                }
            }
        }
        let stats = a.0.handle().stats();
        assert_eq!(stats.connections_validators, 1);
        assert!(stats.payload_bytes_copied <= stats.payload_bytes_delivered);
    });
}

#[test]
fn gathered_payloads_arrive_as_one() {
    let (a, b, conn, _) = pair(|_| {});
    let pieces: Vec<Bytes> = (0..10).map(|i| Bytes::from(vec![i; 777])).collect();
    let whole = pieces.concat();
    a.0.handle()
        .send(conn, Channel::Bulk, KIND, pieces)
        .unwrap();
    assert_eq!(next_frame(&b.1).1, whole);
}

#[test]
fn anonymous_clients_are_served() {
    let (server, server_events) = Stoq::bind(config(Some(2), &[])).unwrap();
    let (client, client_events) = Stoq::bind(config(None, &[])).unwrap();
    client.handle().connect(target(&server, 2)).unwrap();
    let (client_conn, _) = connected(&client_events);
    let (server_conn, remote) = connected(&server_events);
    assert_eq!(remote, Remote::Anonymous);
    send(
        &client,
        client_conn,
        Channel::Client,
        Bytes::from_static(b"submit"),
    );
    assert_eq!(next_frame(&server_events).1, "submit");
    send(
        &server,
        server_conn,
        Channel::Client,
        Bytes::from_static(b"receipt"),
    );
    assert_eq!(next_frame(&client_events).1, "receipt");
    client
        .handle()
        .close(client_conn, CloseCode::Application(0x123), "enough")
        .unwrap();
    match server_events.recv().unwrap() {
        Event::Closed { reason, .. } => assert_eq!(
            reason,
            CloseReason::Peer {
                code: CloseCode::Application(0x123),
                reason: "enough".into()
            }
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_keys_are_refused() {
    let (server, _events) = Stoq::bind(config(Some(0), &[0])).unwrap();
    // A key outside the trusted set.
    let (stranger, events) = Stoq::bind(config(Some(3), &[])).unwrap();
    stranger.handle().connect(target(&server, 0)).unwrap();
    match events.recv().unwrap() {
        Event::DialFailed {
            reason, retry_in, ..
        } => {
            assert_eq!(reason, CloseReason::RefusedByPeer);
            assert!(retry_in.is_some(), "the target is persistent");
        }
        other => panic!("{other:?}"),
    }
    // A server that is not the expected one.
    let (client, events) = Stoq::bind(config(None, &[])).unwrap();
    client.handle().connect(target(&server, 1)).unwrap();
    match events.recv().unwrap() {
        Event::DialFailed { reason, .. } => assert_eq!(reason, CloseReason::UntrustedPeer),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.handle().stats().connections_opened, 0);
}

#[test]
fn a_peer_that_restarts_is_found_again() {
    let (a, b, conn_a, _) = pair(|_| {});
    let addr = b.0.local_addr();
    b.0.shutdown();
    match a.1.recv().unwrap() {
        Event::Closed { conn, reason, .. } => {
            assert_eq!(conn, conn_a);
            assert_eq!(reason.code(), Some(CloseCode::Shutdown));
        }
        other => panic!("{other:?}"),
    }
    let mut again = config(Some(1), &[0, 1]);
    again.bind = addr;
    let b = Stoq::bind(again).expect("the port is free again");
    let (conn_a, _) = connected(&a.1);
    send(&a.0, conn_a, Channel::Control, Bytes::from_static(b"again"));
    connected(&b.1);
    assert_eq!(next_frame(&b.1).1, "again");
}

#[test]
fn a_port_in_use_is_named() {
    let (first, _events) = Stoq::bind(config(None, &[])).unwrap();
    let mut second = config(None, &[]);
    second.bind = first.local_addr();
    let error = Stoq::bind(second).map(|_| ()).unwrap_err();
    assert!(matches!(error, BindError::AddressInUse { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&first.local_addr().to_string()), "{text}");
    assert!(text.contains("another port"), "{text}");

    let mut elsewhere = config(None, &[]);
    elsewhere.bind = "[2001:db8::1]:0".parse().unwrap();
    let error = Stoq::bind(elsewhere).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, BindError::AddressNotAvailable { .. }),
        "{error}"
    );
}

#[test]
fn garbage_datagrams_do_not_disturb() {
    let (a, b, conn, _) = pair(|_| {});
    let noise = UdpSocket::bind("[::1]:0").unwrap();
    for i in 0..2000u32 {
        let mut data = vec![(i * 7) as u8; 1 + (i as usize * 37) % 1400];
        if i % 2 == 0 {
            data[0] |= 0xc0;
        }
        // The kernel may drop some: that is the network's right.
        let _ = noise.send_to(&data, a.0.local_addr());
        let _ = noise.send_to(&data, b.0.local_addr());
    }
    send(
        &a.0,
        conn,
        Channel::Control,
        Bytes::from_static(b"still here"),
    );
    assert_eq!(next_frame(&b.1).1, "still here");
    assert!(b.0.handle().stats().datagrams_ignored > 0);
}

#[test]
fn control_is_answered_during_a_bulk_transfer() {
    const FRAME: usize = 1 << 20;
    const FRAMES: usize = 100;
    let (a, b, conn_a, conn_b) = pair(|_| {});
    let answerer = std::thread::spawn(move || {
        let mut bulk = 0;
        while bulk < FRAME * FRAMES {
            match next_frame(&b.1) {
                (Channel::Control, payload) => send(&b.0, conn_b, Channel::Control, payload),
                (_, payload) => bulk += payload.len(),
            }
        }
        (b, bulk)
    });
    let handle = a.0.handle();
    let payload = Bytes::from(vec![7u8; FRAME]);
    let (mut sent, mut round_trips, mut waiting) = (0, 0, false);
    while sent < FRAMES || !answerer.is_finished() {
        if sent < FRAMES {
            match handle.send(conn_a, Channel::Bulk, KIND, payload.clone()) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if !waiting {
            handle
                .send(conn_a, Channel::Control, KIND, vec![1u8])
                .expect("Control has a budget of its own");
            waiting = true;
        }
        if let Ok(event) = a.1.recv_timeout(Duration::from_micros(100)) {
            assert!(matches!(event, Event::Frame { .. }), "{event:?}");
            round_trips += 1;
            waiting = false;
        }
    }
    let (b, bulk) = answerer.join().unwrap();
    assert_eq!(bulk, FRAME * FRAMES);
    assert!(
        round_trips > 5,
        "only {round_trips} answers during the transfer"
    );
    let stats = b.0.handle().stats();
    assert!(stats.payload_bytes_copied <= stats.payload_bytes_delivered);
}

#[test]
fn a_consumer_that_sleeps_bounds_memory() {
    let (a, b, conn, _) = pair(|config| {
        config.limits.event_bytes_max = 4 << 20;
        config.limits.bulk_queue_bytes_max = 4 << 20;
    });
    let handle = a.0.handle();
    let payload = Bytes::from(vec![1u8; 100_000]);
    // Full for a while: the windows, the queue and the event budget are used up.
    let (mut sent, mut full) = (0, 0);
    while full < 100 {
        match handle.send(conn, Channel::Bulk, KIND, payload.clone()) {
            Ok(()) => (sent, full) = (sent + 1, 0),
            Err(SendError::Full) => {
                full += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let (_, bytes) = b.0.handle().events_in_use();
    assert!(bytes <= (4 << 20) + 100_000, "{bytes}");
    for _ in 0..sent {
        assert_eq!(next_frame(&b.1).1.len(), 100_000);
    }
}

#[test]
fn notify_is_called_and_the_receiver_may_go() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut server = config(Some(0), &[]);
    let count = calls.clone();
    server.notify = Some(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let (server, server_events) = Stoq::bind(server).unwrap();
    let (client, events) = Stoq::bind(config(None, &[])).unwrap();
    client.handle().connect(target(&server, 0)).unwrap();
    let (conn, _) = connected(&events);
    connected(&server_events);
    assert!(calls.load(Ordering::SeqCst) > 0);
    // Without a consumer the endpoint stops and tells its peers.
    drop(server_events);
    send(
        &client,
        conn,
        Channel::Client,
        Bytes::from_static(b"anyone?"),
    );
    match events.recv().unwrap() {
        Event::Closed { reason, .. } => assert_eq!(reason.code(), Some(CloseCode::Shutdown)),
        other => panic!("{other:?}"),
    }
    let handle = server.handle();
    server.shutdown();
    assert_eq!(
        handle.send(conn, Channel::Client, KIND, vec![1]),
        Err(SendError::Closed)
    );
}

#[test]
fn a_wildcard_bind_answers_from_the_address_asked() {
    let mut server = config(Some(0), &[]);
    server.bind = "[::]:0".parse().unwrap();
    let (server, server_events) = Stoq::bind(server).unwrap();
    let (client, events) = Stoq::bind(config(None, &[])).unwrap();
    client
        .handle()
        .connect(PeerTarget {
            addr: SocketAddrV6::new("::1".parse().unwrap(), server.local_addr().port(), 0, 0),
            key: key(0).public().clone(),
            persistent: false,
        })
        .unwrap();
    connected(&events);
    connected(&server_events);
}

#[test]
fn datagrams_arrive_packed_over_every_backend() {
    each_backend(|backend| {
        let (a, b, conn, _) = pair(|config| {
            config.io.backend = backend;
            config.datagrams = true;
        });
        let handle = a.0.handle();
        let max = handle.datagram_payload_bytes_max(conn).expect("enabled");
        assert!(max > 1100);
        assert!(matches!(
            handle.send_datagram(conn, KIND, vec![0; 70_000]),
            Err(SendError::TooLong { len: 70_000, .. })
        ));
        assert_eq!(
            handle.send_datagram(conn, 15, []),
            Err(SendError::ReservedKind(15))
        );

        // In lots that the receiver confirms, so that nothing overruns a queue and none is lost.
        let (lots, lot) = (50u64, 200u64);
        for first in (0..lots).map(|i| i * lot) {
            let payloads: Vec<[u8; 64]> = (first..first + lot)
                .map(|i| std::array::from_fn(|at| i.to_le_bytes()[at % 8]))
                .collect();
            let taken = handle.send_datagrams(conn, payloads.iter().map(|p| (KIND, p)));
            assert_eq!(taken, Ok(payloads.len()));
            let mut got = Vec::new();
            while got.len() < payloads.len() {
                match b.1.recv().expect("the endpoint runs") {
                    Event::Datagram { messages, .. } => {
                        got.extend(messages.iter_bytes().map(|(_, payload)| payload));
                    }
                    other => panic!("expected a datagram, got {other:?}"),
                }
            }
            let got: Vec<&[u8]> = got.iter().map(|payload| &payload[..]).collect();
            let sent: Vec<&[u8]> = payloads.iter().map(|payload| &payload[..]).collect();
            assert_eq!(got, sent);
        }
        let stats = a.0.stats().snapshot();
        assert_eq!(stats.messages_out, lots * lot);
        assert!(stats.message_datagrams_out <= lots * lot / 5, "packed");
    });
}

#[test]
fn the_key_log_has_the_secrets_of_the_session_and_one_reader() {
    use std::os::unix::fs::PermissionsExt;

    let path = std::env::temp_dir().join(format!("stoq-key-log-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (a, b, _, _) = pair(|config| config.danger_log_keys_to(&path).unwrap());
    drop((a, b));
    let log = std::fs::read_to_string(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(mode & 0o777, 0o600);
    // Both sides write the same secrets, so each line comes twice.
    for label in [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ] {
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.split(' ').next() == Some(label))
            .collect();
        assert_eq!(lines.len(), 2, "{label}");
        assert_eq!(lines[0], lines[1], "{label}");
        let fields: Vec<&str> = lines[0].split(' ').collect();
        assert_eq!(fields.len(), 3);
        assert_eq!(fields[1].len(), 64, "the client random");
        assert!(fields[2].len() >= 64, "the secret");
        let is_hex = |c: char| c.is_ascii_hexdigit();
        assert!(fields[1..].iter().all(|f| f.chars().all(is_hex)));
    }
}
