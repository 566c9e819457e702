//! The filter attached and detached under connections with traffic. Needs root; without it each
//! test says so and passes.

mod netns;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::hash,
};
use falconet_dataplane::{
    Channel, CloseCode, CloseReason, ConnId, Event, KIND_APPLICATION_MIN, PeerTarget, Stoq,
    StoqConfig, StoqHandle,
};
use falconet_ebpf::{Attach, Cause, Fate, Filter, FilterConfig, Limits, Mode};
use netns::{Pair, at};

const PORT: u16 = 4433;
/// Connections at once.
const CONNECTIONS: u16 = 3;
/// Frames of one connection on their way there and back.
const WINDOW: u64 = 8;
/// Packets that must pass the filter before it is detached.
const PACKETS: u64 = 500;

/// A frame of its own size and content for each number.
fn frame(number: u64) -> Bytes {
    let size = [16, 900, 5000, 40_000][number as usize % 4];
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(size, number as u8);
    bytes.into()
}

/// Sends every frame back until all clients are done.
fn echo(handle: &StoqHandle, events: &Receiver<Event>) {
    let mut open = CONNECTIONS;
    while open > 0 {
        let event = events.recv().unwrap();
        match event {
            Event::Connected { .. } => {}
            Event::Frame {
                conn,
                channel,
                payload,
                ..
            } => handle
                .send(conn, channel, KIND_APPLICATION_MIN, payload)
                .unwrap(),
            // The clients close when they are done; nothing else may end a connection.
            Event::Closed { reason, .. } => {
                let code = match &reason {
                    CloseReason::Peer { code, .. } => *code,
                    other => panic!("{other}"),
                };
                assert_eq!(code, CloseCode::Shutdown);
                open -= 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Keeps frames on their way on both channels until told to stop, and compares what comes back,
/// complete and in order. Returns how many came.
fn converse((stoq, events): (Stoq, Receiver<Event>), stop: &AtomicBool) -> u64 {
    let conn = match events.recv().unwrap() {
        Event::Connected { conn, .. } => conn,
        other => panic!("{other:?}"),
    };
    let mut sent: HashMap<Channel, u64> = HashMap::new();
    let mut came: HashMap<Channel, u64> = HashMap::new();
    let send = |conn: ConnId, channel: Channel, sent: &mut HashMap<Channel, u64>| {
        let number = sent.entry(channel).or_default();
        let handle = stoq.handle();
        handle
            .send(conn, channel, KIND_APPLICATION_MIN, frame(*number))
            .unwrap();
        *number += 1;
    };
    for channel in [Channel::Control, Channel::Bulk] {
        for _ in 0..WINDOW {
            send(conn, channel, &mut sent);
        }
    }
    while came != sent {
        match events.recv().unwrap() {
            Event::Frame {
                channel, payload, ..
            } => {
                let number = came.entry(channel).or_default();
                assert!(payload == frame(*number), "frame {number} of {channel:?}");
                *number += 1;
                if !stop.load(Ordering::Relaxed) {
                    send(conn, channel, &mut sent);
                }
            }
            other => panic!("{other:?}"),
        }
    }
    stoq.shutdown();
    came.values().sum()
}

/// Ends the conversations, also when the test fails: a scope waits for its threads.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn attaching_and_detaching_under_load_loses_no_connection() {
    let pair = match Pair::new(1500) {
        Ok(pair) => pair,
        Err(reason) => return println!("skipped: no network namespaces here: {reason}"),
    };
    let mut config = FilterConfig::new(PORT);
    config.limits = Limits::UNLIMITED;
    // Validators, who may use the bulk channel.
    let keys: Vec<Arc<KeyPair>> = (0..=CONNECTIONS)
        .map(|_| Arc::new(KeyPair::generate(Scheme::Falcon1024)))
        .collect();
    let open = |addr, key: &Arc<KeyPair>| {
        let mut config = StoqConfig::new(addr, hash("example chain", &[]));
        config.identity = Some(key.clone());
        config.trusted.replace(keys.iter().map(|key| key.public()));
        Stoq::bind(config).unwrap()
    };
    let (key, clients) = keys.split_first().unwrap();
    let (server, server_events) = pair.b.enter(|| open(at(2, PORT), key));
    let clients: Vec<_> = clients
        .iter()
        .map(|key| pair.a.enter(|| open(at(1, 0), key)))
        .collect();
    for (stoq, _) in &clients {
        let target = PeerTarget {
            addr: at(2, PORT),
            key: key.public().clone(),
            persistent: false,
        };
        stoq.handle().connect(target).unwrap();
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let handle = server.handle();
        scope.spawn(move || echo(&handle, &server_events));
        let conversations: Vec<_> = clients
            .into_iter()
            .map(|client| scope.spawn(move || converse(client, stop)))
            .collect();
        let talking = StopOnDrop(stop);
        let modes = [
            (Attach::Native, Mode::Native),
            (Attach::Generic, Mode::Generic),
            (Attach::Tc, Mode::Tc),
        ];
        for (how, mode) in [modes, modes].concat() {
            let attached = pair.b.enter(|| Filter::attach("eth0", &config, how, None));
            let filter = attached.unwrap();
            assert_eq!(filter.attachment().mode, mode);
            // The conversations go on through it.
            while filter.counters().unwrap()[Cause::Client] < PACKETS {
                let is_lost = conversations.iter().any(|one| one.is_finished());
                assert!(!is_lost, "a conversation ended; its own message says why");
                thread::sleep(Duration::from_millis(1));
            }
            let counters = filter.counters().unwrap();
            assert_eq!(counters.total(Fate::Drop), 0, "{mode}: {counters:?}");
            filter.detach().unwrap();
        }
        drop(talking);
        for conversation in conversations {
            let frames = conversation.join().unwrap();
            println!("{frames} frames there and back");
            assert!(frames > 2 * WINDOW);
        }
    });
    server.shutdown();
}
