//! Several network threads: one port, connections spread over the threads, every packet at the
//! thread that owns its connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{
    Backend, BindError, Channel, CloseCode, CloseReason, ConnId, Event, PeerTarget, Remote, Stoq,
    StoqConfig, StoqHandle,
};

const CHAIN: Digest = Digest([0xc4; 32]);
const KIND: u8 = 16;

fn key(index: usize) -> Arc<KeyPair> {
    static KEYS: OnceLock<Vec<Arc<KeyPair>>> = OnceLock::new();
    KEYS.get_or_init(|| {
        (1..=9)
            .map(|seed| Arc::new(KeyPair::from_seed(Scheme::Falcon512, &[seed; 32])))
            .collect()
    })[index]
        .clone()
}

fn config(identity: Option<usize>, threads: usize) -> StoqConfig {
    let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), CHAIN);
    config.identity = identity.map(key);
    config.io.threads = threads;
    let keys: Vec<Arc<KeyPair>> = (0..9).map(key).collect();
    config
        .trusted
        .replace(keys.iter().map(|pair| pair.public()));
    config
}

fn target(stoq: &Stoq, key_index: usize) -> PeerTarget {
    PeerTarget {
        addr: stoq.local_addr(),
        key: key(key_index).public().clone(),
        persistent: false,
    }
}

/// Backends that this kernel permits.
fn backends() -> Vec<Backend> {
    let permitted = |backend: &Backend| {
        let mut probe = config(None, 1);
        probe.io.backend = *backend;
        match Stoq::bind(probe) {
            Ok(_) => true,
            Err(BindError::Backend { backend, reason }) => {
                println!("skipped for {backend}: {reason}");
                false
            }
            Err(other) => panic!("{other}"),
        }
    };
    [Backend::Mmsg, Backend::Plain, Backend::IoUring]
        .into_iter()
        .filter(permitted)
        .collect()
}

fn connected(events: &Receiver<Event>) -> (ConnId, Remote) {
    match events.recv().expect("the endpoint runs") {
        Event::Connected { conn, remote, .. } => (conn, remote),
        other => panic!("expected a connection, got {other:?}"),
    }
}

/// Sends back every frame on the channel that it came on.
fn echo(stoq: &StoqHandle, event: Event) {
    if let Event::Frame {
        conn,
        channel,
        kind,
        payload,
        ..
    } = event
    {
        stoq.send(conn, channel, kind, payload).unwrap();
    }
}

/// Many connections between two endpoints with `threads` threads each: all share one pair of
/// addresses, which is the hardest case for steering.
fn all_connections_work(threads: usize, backend: Backend) {
    const CONNS: usize = 12;
    let mut config_server = config(Some(0), threads);
    config_server.io.backend = backend;
    let server = Stoq::bind_with_handler(config_server, echo).unwrap();
    let mut config_client = config(None, threads);
    config_client.io.backend = backend;
    let (client, events) = Stoq::bind(config_client).unwrap();
    assert_eq!(client.handle().threads(), threads);
    for _ in 0..CONNS {
        client.handle().connect(target(&server, 0)).unwrap();
    }
    let conns: Vec<ConnId> = (0..CONNS).map(|_| connected(&events).0).collect();
    let mut expected = HashMap::new();
    for (i, conn) in conns.iter().enumerate() {
        for len in [0, 1, 3000, 100_000] {
            let payload = Bytes::from(vec![i as u8; len]);
            client
                .handle()
                .send(*conn, Channel::Client, KIND, payload)
                .unwrap();
        }
        expected.insert(*conn, (i as u8, vec![100_000, 3000, 1, 0]));
    }
    while !expected.is_empty() {
        match events.recv().unwrap() {
            Event::Frame { conn, payload, .. } => {
                let (fill, lens) = expected.get_mut(&conn).expect("a frame too many");
                assert_eq!(Some(payload.len()), lens.pop(), "frames keep their order");
                assert!(payload.iter().all(|byte| byte == fill));
                if lens.is_empty() {
                    expected.remove(&conn);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let stats = server.handle().stats();
    assert_eq!(stats.connections_anonymous, CONNS as u64);
    assert_eq!(stats.datagrams_forward_dropped, 0);
    // One by one, to whichever thread it is.
    for conn in conns {
        client.handle().close(conn, CloseCode::Done, "").unwrap();
        match events.recv().unwrap() {
            Event::Closed { conn: closed, .. } => assert_eq!(closed, conn),
            other => panic!("{other:?}"),
        }
    }
    client.shutdown();
    server.shutdown();
}

#[test]
fn connections_work_with_one_to_four_threads() {
    for backend in backends() {
        for threads in 1..=4 {
            all_connections_work(threads, backend);
        }
    }
}

#[test]
fn bulk_flows_between_many_threads_and_few() {
    for (near, far) in [(1, 3), (4, 2)] {
        let (server, server_events) = Stoq::bind(config(Some(0), near)).unwrap();
        let (client, events) = Stoq::bind(config(Some(1), far)).unwrap();
        client.handle().connect(target(&server, 0)).unwrap();
        let (conn, remote) = connected(&events);
        assert_eq!(remote, Remote::Validator(key(0).public().id()));
        connected(&server_events);
        for i in 0..20u8 {
            let payload = Bytes::from(vec![i; 1 << 20]);
            client
                .handle()
                .send(conn, Channel::Bulk, KIND, payload)
                .unwrap();
        }
        let mut seen = 0u32;
        while seen != (1 << 20) - 1 {
            match server_events.recv().unwrap() {
                Event::Frame { payload, .. } => {
                    assert_eq!(payload.len(), 1 << 20);
                    seen |= 1 << payload[0];
                }
                other => panic!("{other:?}"),
            }
        }
        let stats = server.handle().stats();
        // With every buffer pinned by reordered data, bytes are copied once more.
        assert!(
            stats.pool_exhausted > 0 || stats.payload_bytes_copied <= stats.payload_bytes_delivered
        );
    }
}

#[test]
fn a_port_of_several_threads_is_not_shared_with_others() {
    for threads in 1..=4 {
        let (first, _events) = Stoq::bind(config(None, threads)).unwrap();
        for also in [1, threads] {
            let mut second = config(None, also);
            second.bind = first.local_addr();
            let error = Stoq::bind(second).map(|_| ()).unwrap_err();
            assert!(matches!(error, BindError::AddressInUse { .. }), "{error}");
        }
        let addr = first.local_addr();
        first.shutdown();
        let mut again = config(None, threads);
        again.bind = addr;
        Stoq::bind(again).expect("the port is free again");
    }
}

#[test]
fn a_senseless_number_of_threads_is_refused() {
    for threads in [0, 65] {
        let error = Stoq::bind(config(None, threads)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("io.threads"), "{error}");
    }
}

#[test]
fn a_newer_connection_replaces_an_older_one_on_any_thread() {
    for threads in 1..=4 {
        let (server, server_events) = Stoq::bind(config(Some(0), threads)).unwrap();
        let mut clients = Vec::new();
        let mut older: Option<ConnId> = None;
        // Each draws its identifiers at random: with several threads most pairs meet on two.
        for _ in 0..6 {
            let (client, events) = Stoq::bind(config(Some(1), 1)).unwrap();
            client.handle().connect(target(&server, 0)).unwrap();
            connected(&events);
            let (mut newer, mut closed) = (None, older.is_none());
            while newer.is_none() || !closed {
                match server_events.recv().unwrap() {
                    Event::Connected { conn, .. } => newer = Some(conn),
                    Event::Closed { conn, reason, .. } => {
                        assert_eq!(Some(conn), older);
                        assert_eq!(reason.code(), Some(CloseCode::Superseded));
                        closed = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
            older = newer;
            clients.push((client, events));
        }
        assert_eq!(server.handle().stats().connections_validators, 1);
    }
}

#[test]
fn trust_that_is_withdrawn_reaches_every_thread() {
    let (server, server_events) = Stoq::bind(config(Some(0), 4)).unwrap();
    let clients: Vec<_> = (1..9)
        .map(|index| {
            let (client, events) = Stoq::bind(config(Some(index), 1)).unwrap();
            client.handle().connect(target(&server, 0)).unwrap();
            connected(&events);
            connected(&server_events);
            (client, events)
        })
        .collect();
    assert_eq!(server.handle().stats().connections_validators, 8);
    server.handle().set_trusted([key(0).public()]);
    for (_, events) in &clients {
        match events.recv().unwrap() {
            Event::Closed { reason, .. } => {
                assert_eq!(reason.code(), Some(CloseCode::Untrusted));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn limits_count_over_all_threads() {
    let mut limited = config(Some(0), 4);
    limited.limits.anonymous_max = 5;
    let (server, server_events) = Stoq::bind(limited).unwrap();
    let (client, events) = Stoq::bind(config(None, 4)).unwrap();
    for _ in 0..5 {
        client.handle().connect(target(&server, 0)).unwrap();
        connected(&events);
        connected(&server_events);
    }
    client.handle().connect(target(&server, 0)).unwrap();
    match events.recv().unwrap() {
        Event::DialFailed { reason, .. } => {
            assert_eq!(reason.code(), Some(CloseCode::TooManyClients), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_end_of_the_receiver_stops_every_thread() {
    let (server, server_events) = Stoq::bind(config(Some(0), 4)).unwrap();
    let (client, events) = Stoq::bind(config(None, 2)).unwrap();
    for _ in 0..6 {
        client.handle().connect(target(&server, 0)).unwrap();
        connected(&events);
        connected(&server_events);
    }
    drop(server_events);
    // The next event finds nobody.
    let closed = client.handle().connect(target(&server, 0)).unwrap();
    let mut ended = 0;
    while ended < 6 {
        match events.recv().unwrap() {
            Event::Closed { reason, .. } => {
                assert_eq!(reason.code(), Some(CloseCode::Shutdown), "{reason}");
                ended += 1;
            }
            Event::Connected { target, .. } => {
                assert_eq!(target, Some(closed));
                ended -= 1;
            }
            Event::DialFailed { target, .. } => assert_eq!(target, closed),
            other => panic!("{other:?}"),
        }
    }
    drop(server);
}

#[test]
fn a_handler_sees_everything_in_order() {
    let seen: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let notes = seen.clone();
    let (done, done_out) = crossbeam_channel::bounded(1);
    let server = Stoq::bind_with_handler(config(Some(0), 2), move |stoq: &StoqHandle, event| {
        let what = match &event {
            Event::Connected { .. } => "connected",
            Event::Frame { .. } => "frame",
            Event::Closed { reason, .. } => {
                assert!(matches!(reason, CloseReason::Peer { .. }), "{reason}");
                done.send(()).unwrap();
                "closed"
            }
            _ => "other",
        };
        notes.lock().unwrap().push(what);
        echo(stoq, event);
    })
    .unwrap();
    let (client, events) = Stoq::bind(config(None, 1)).unwrap();
    client.handle().connect(target(&server, 0)).unwrap();
    let (conn, _) = connected(&events);
    for i in 0..3u8 {
        let handle = client.handle();
        handle.send(conn, Channel::Client, KIND, vec![i]).unwrap();
        match events.recv().unwrap() {
            Event::Frame { payload, .. } => assert_eq!(payload[..], [i]),
            other => panic!("{other:?}"),
        }
    }
    client.handle().close(conn, CloseCode::Done, "").unwrap();
    done_out.recv().unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        ["connected", "frame", "frame", "frame", "closed"]
    );
}
