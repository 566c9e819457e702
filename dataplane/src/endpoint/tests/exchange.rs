//! Honest endpoints on good and bad networks.

use super::*;
use crate::{CloseCode, CloseReason, Remote};

const SECONDS: Duration = Duration::from_secs(1);

/// Two validators that trust each other, connected.
pub(super) fn pair(seed: u64, faults: Faults) -> (Net, ConnId, ConnId) {
    pair_with(seed, faults, |_, _| {})
}

/// As `pair`, with configurations changed.
pub(super) fn pair_with(
    seed: u64,
    faults: Faults,
    change: impl Fn(usize, &mut StoqConfig),
) -> (Net, ConnId, ConnId) {
    let mut net = Net::new(seed, faults);
    for index in 0..2 {
        let mut config = config(Some(index), &[0, 1]);
        change(index, &mut config);
        net.add(Node::new(config, seed as u8));
    }
    let now = net.now;
    net.node(0).dial(now, 1, 1, true);
    let connected = net.run_until(30 * SECONDS, |net| {
        !net.node(0).open().is_empty() && !net.node(1).open().is_empty()
    });
    assert!(connected, "seed {seed}: no connection");
    let (a, b) = (net.node(0).open()[0], net.node(1).open()[0]);
    (net, a, b)
}

pub(super) fn patterned(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + salt * 7) as u8).collect()
}

#[test]
fn everything_arrives_over_a_lossy_network() {
    let faults = Faults {
        lost: 50,
        duplicated: 20,
        corrupted: 10,
        jitter: Duration::from_millis(3),
    };
    for seed in 0..64 {
        let (mut net, a, b) = pair(seed, faults);
        let (control, bulk) = (100, 10);
        let now = net.now;
        for (node, conn) in [(0, a), (1, b)] {
            for i in 0..control {
                let payload = patterned(i * 13 % 3000, i);
                net.node(node)
                    .send(now, conn, Channel::Control, 20, payload)
                    .unwrap();
            }
            for i in 0..bulk {
                let payload = patterned(40_000 + i, i);
                let pieces: Vec<Bytes> =
                    payload.chunks(9_999).map(Bytes::copy_from_slice).collect();
                net.node(node)
                    .send(now, conn, Channel::Bulk, 21 + i as u8, pieces)
                    .unwrap();
            }
        }
        let all = control + bulk;
        let arrived = net.run_until(120 * SECONDS, |net| {
            (0..2).all(|node| net.node(node).frames().count() == all)
        });
        assert!(arrived, "seed {seed}: frames are missing");
        for node in 0..2 {
            let node = net.node(node);
            let ordered: Vec<Vec<u8>> = node
                .frames()
                .filter(|(_, channel, ..)| *channel == Channel::Control)
                .map(|(.., payload)| payload.to_vec())
                .collect();
            let expected: Vec<Vec<u8>> =
                (0..control).map(|i| patterned(i * 13 % 3000, i)).collect();
            assert_eq!(ordered, expected, "seed {seed}: Control is in order");
            let mut seen = vec![false; bulk];
            for (_, channel, kind, payload) in node.frames() {
                if channel == Channel::Bulk {
                    let i = usize::from(kind - 21);
                    assert_eq!(payload, patterned(40_000 + i, i), "seed {seed}");
                    assert!(!std::mem::replace(&mut seen[i], true), "twice");
                }
            }
            let stats = node.stats();
            assert!(stats.payload_bytes_copied <= stats.payload_bytes_delivered);
        }
    }
}

#[test]
fn roles_are_what_tls_proved() {
    let mut net = Net::new(1, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    net.add(Node::new(config(Some(1), &[0, 1]), 2));
    net.add(Node::new(config(None, &[]), 3));
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    net.node(2).dial(now, 0, 0, false);
    assert!(
        net.run_until(5 * SECONDS, |net| net.node(0).open().len() == 2
            && net.node(2).open().len() == 1)
    );
    let remotes: Vec<(Remote, bool)> = net
        .node(0)
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Connected {
                remote, initiator, ..
            } => Some((*remote, *initiator)),
            _ => None,
        })
        .collect();
    assert!(remotes.contains(&(Remote::Validator(key(1).public().id()), false)));
    assert!(remotes.contains(&(Remote::Anonymous, false)));
    let client_sees = match &net.node(2).events[0] {
        Event::Connected {
            remote, initiator, ..
        } => (*remote, *initiator),
        other => panic!("{other:?}"),
    };
    assert_eq!(client_sees, (Remote::Validator(key(0).public().id()), true));
    // And the client may use its channel only.
    let (now, conn) = (net.now, net.node(2).open()[0]);
    let node = net.node(2);
    let refused = node.send(now, conn, Channel::Bulk, 16, vec![1]);
    assert_eq!(refused, Err(SendError::ChannelNotAllowed));
    node.send(now, conn, Channel::Client, 16, vec![1, 2, 3])
        .unwrap();
    assert!(net.run_until(SECONDS, |net| {
        net.node(0).frames().any(|(_, channel, kind, payload)| {
            (channel, kind, payload) == (Channel::Client, 16, &[1, 2, 3][..])
        })
    }));
}

/// The reasons of failed attempts to dial.
pub(super) fn dial_failures(net: &mut Net, node: usize) -> Vec<CloseReason> {
    net.node(node)
        .events
        .iter()
        .filter_map(|event| match event {
            Event::DialFailed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn keys_that_are_not_expected_are_refused() {
    // Node 1 has key 1, but node 0 trusts only key 0; then node 0 pins a wrong key.
    let mut net = Net::new(2, Faults::default());
    net.add(Node::new(config(Some(0), &[0]), 1));
    net.add(Node::new(config(Some(1), &[0, 1]), 2));
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    net.run_for(2 * SECONDS);
    assert_eq!(dial_failures(&mut net, 1), [CloseReason::RefusedByPeer]);
    assert_eq!(net.node(0).stats().refused_untrusted, 1);

    let now = net.now;
    net.node(0).dial(now, 1, 2, false);
    net.run_for(2 * SECONDS);
    assert_eq!(dial_failures(&mut net, 0), [CloseReason::UntrustedPeer]);
    for node in 0..2 {
        let stats = net.node(node).stats();
        assert_eq!(stats.connections_opened, 0);
        assert_eq!(stats.connections_handshaking, 0);
    }
}

#[test]
fn another_chain_is_refused() {
    let mut net = Net::new(3, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    let mut other = config(Some(1), &[0, 1]);
    other.chain_id = Digest([9; 32]);
    net.add(Node::new(other, 2));
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    net.run_for(2 * SECONDS);
    let failures = dial_failures(&mut net, 1);
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].code(), Some(CloseCode::WrongChain));
    let refused: u64 = (0..2)
        .map(|node| net.node(node).stats().refused_wrong_chain)
        .sum();
    assert!(refused >= 1);
    assert!(net.node(0).open().is_empty());
}

#[test]
fn a_persistent_target_is_dialled_until_it_answers() {
    let mut net = Net::new(4, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    let now = net.now;
    net.node(0).dial(now, 1, 1, true);
    net.run_for(25 * SECONDS);
    assert!(!dial_failures(&mut net, 0).is_empty());
    net.add(Node::new(config(Some(1), &[0, 1]), 2));
    assert!(net.run_until(15 * SECONDS, |net| !net.node(0).open().is_empty()));
}

#[test]
fn a_restarted_peer_is_noticed_at_once() {
    let (mut net, a, _) = pair(5, Faults::default());
    // The same key, so the same reset secret; no memory of the connection.
    net.hosts[1].1 = Box::new(Node::new(config(Some(1), &[0, 1]), 77));
    let before = net.elapsed();
    let now = net.now;
    net.node(0)
        .send(now, a, Channel::Control, 16, vec![1])
        .unwrap();
    assert!(
        net.run_until(20 * SECONDS, |net| net.node(1).open().len() == 1
            && net.node(0).open().len() == 1
            && net.node(0).open()[0] != a)
    );
    assert!(net.elapsed() - before < SECONDS, "not by idle time-out");
    assert_eq!(net.node(0).stats().closed_reset, 1);
}

#[test]
fn a_key_that_leaves_the_trusted_set_loses_its_connection() {
    let (mut net, _, _) = pair(6, Faults::default());
    net.node(1).trusted().replace([key(1).public()]);
    // A turn follows with the next keep-alive at the latest.
    net.run_for(4 * SECONDS);
    assert!(net.node(1).open().is_empty());
    assert!(net.node(0).events.iter().any(|event| matches!(
        event,
        Event::Closed { reason, .. } if reason.code() == Some(CloseCode::Untrusted)
    )));
    assert!(
        dial_failures(&mut net, 0).contains(&CloseReason::RefusedByPeer),
        "and does not get in again"
    );
}

#[test]
fn a_newer_connection_of_a_key_replaces_the_older() {
    let (mut net, _, b) = pair(7, Faults::default());
    // A twin of node 0: the same key from elsewhere.
    net.add(Node::new(config(Some(0), &[0, 1]), 9));
    let now = net.now;
    net.node(2).dial(now, 1, 1, false);
    assert!(net.run_until(5 * SECONDS, |net| !net.node(2).open().is_empty()));
    assert!(!net.node(1).open().contains(&b));
    assert!(net.node(1).stats().closed_superseded >= 1);
}

#[test]
fn a_slow_consumer_stops_the_sender_and_loses_nothing() {
    let mut net = Net::new(8, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    let mut slow = config(Some(1), &[0, 1]);
    slow.limits.event_frames_max = 64;
    slow.limits.event_bytes_max = 1 << 20;
    let limits = slow.limits.clone();
    net.add(Node::new(slow, 2));
    let now = net.now;
    net.node(0).dial(now, 1, 1, true);
    assert!(
        net.run_until(5 * SECONDS, |net| !net.node(0).open().is_empty()
            && !net.node(1).open().is_empty())
    );
    let conn = net.node(0).open()[0];
    net.node(1).consumes = false;

    // Until the whole path is full.
    let mut sent = 0;
    loop {
        let now = net.now;
        match net
            .node(0)
            .send(now, conn, Channel::Bulk, 16, patterned(100_000, sent))
        {
            Ok(()) => sent += 1,
            Err(SendError::Full) if net.elapsed() > 30 * SECONDS => break,
            Err(SendError::Full) => net.run_for(SECONDS),
            Err(other) => panic!("{other}"),
        }
    }
    let (frames, bytes) = net.node(1).budget.in_use();
    assert!(frames <= limits.event_frames_max);
    assert!(bytes <= limits.event_bytes_max + limits.bulk_frame_bytes_max as usize);
    assert!(net.node(1).stats().reads_paused > 0);
    assert!(
        net.node(0).open() == [conn],
        "waiting for a slow consumer is no frame time-out"
    );

    // Control still comes through, beside the waiting Bulk.
    let now = net.now;
    net.node(0)
        .send(now, conn, Channel::Control, 17, vec![5; 10])
        .unwrap();
    net.run_for(SECONDS);
    net.node(1).consumes = true;
    let mut bulk = 0;
    let mut control = 0;
    net.run_until(60 * SECONDS, |net| {
        for event in net.node(1).events.drain(..) {
            match event {
                Event::Frame {
                    channel: Channel::Bulk,
                    ..
                } => bulk += 1,
                Event::Frame {
                    channel: Channel::Control,
                    ..
                } => control += 1,
                _ => {}
            }
        }
        bulk == sent && control == 1
    });
    assert_eq!((bulk, control), (sent, 1));
}

#[test]
fn shutdown_tells_the_peers() {
    let (mut net, _, _) = pair(9, Faults::default());
    let now = net.now;
    net.node(1).command(now, Command::Shutdown);
    net.run_for(SECONDS);
    assert!(net.node(0).events.iter().any(|event| matches!(
        event,
        Event::Closed {
            reason: CloseReason::Peer {
                code: CloseCode::Shutdown,
                ..
            },
            ..
        }
    )));
    assert!(net.node(1).endpoint.is_drained());
}

#[test]
fn a_lone_bulk_frame_has_its_stream_and_small_ones_share() {
    let (mut net, a, _) = pair(10, Faults::default());
    let send = |net: &mut Net, range: std::ops::Range<usize>, len: usize| {
        let now = net.now;
        for i in range {
            net.node(0)
                .send(now, a, Channel::Bulk, 20, patterned(len, i))
                .unwrap();
        }
    };
    send(&mut net, 0..1, 256);
    net.run_for(SECONDS);
    assert_eq!(net.node(0).stats().bulk_streams_out, 1);
    send(&mut net, 1..1001, 256);
    net.run_for(SECONDS);
    assert_eq!(
        net.node(0).stats().bulk_streams_out,
        1 + 2,
        "264 KB of small frames on two streams"
    );
    send(&mut net, 1001..1004, 20_000);
    net.run_for(SECONDS);
    assert_eq!(
        net.node(0).stats().bulk_streams_out,
        3 + 3,
        "large ones do not share"
    );
    let mut got: Vec<Vec<u8>> = net.node(1).frames().map(|f| f.3.to_vec()).collect();
    let mut sent: Vec<Vec<u8>> = (0..1001)
        .map(|i| patterned(256, i))
        .chain((1001..1004).map(|i| patterned(20_000, i)))
        .collect();
    got.sort_unstable();
    sent.sort_unstable();
    assert_eq!(got, sent);
}

#[test]
fn with_leave_to_wait_small_bulk_frames_share_a_stream() {
    let wait = Duration::from_micros(200);
    let second = Duration::from_secs(1);
    let (mut net, a, _) = pair_with(1, Faults::default(), |_, config| {
        config.io.flush_after = Some(wait);
    });
    net.run_for(second);
    let send = |net: &mut Net, channel, len: usize| {
        let now = net.now;
        let payload = patterned(len, len);
        net.node(0)
            .send(now, a, channel, 20, payload)
            .expect("room");
    };
    let frames = |net: &mut Net| net.node(1).frames().count();
    let streams = |net: &mut Net| net.node(0).stats().bulk_streams_out;

    let start = net.elapsed();
    for _ in 0..3 {
        send(&mut net, Channel::Bulk, 100);
        net.run_for(wait / 4);
    }
    assert_eq!((frames(&mut net), streams(&mut net)), (0, 0));
    assert!(net.run_until(second, |net| frames(net) == 3));
    assert_eq!(
        net.elapsed() - start,
        wait + DELAY,
        "counted from the first"
    );
    assert_eq!(streams(&mut net), 1);

    // Control leaves at once and takes along what waits.
    let start = net.elapsed();
    send(&mut net, Channel::Bulk, 100);
    send(&mut net, Channel::Control, 100);
    assert!(net.run_until(second, |net| frames(net) == 5));
    assert_eq!(net.elapsed() - start, DELAY);

    // So does Bulk that fills a packet, and so do large frames.
    net.run_for(second);
    for len in [MTU, 100_000] {
        let (start, before) = (net.elapsed(), frames(&mut net));
        send(&mut net, Channel::Bulk, 100);
        send(&mut net, Channel::Bulk, len);
        let first = streams(&mut net);
        assert!(net.run_until(second, |net| frames(net) > before));
        assert!(net.elapsed() - start < wait + DELAY);
        assert!(streams(&mut net) > first);
        assert!(net.run_until(second, |net| frames(net) == before + 2));
    }
}
