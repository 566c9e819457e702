//! Many at once: handshakes, clients, garbage.

use super::{raw::RawPeer, *};
use crate::{CloseCode, Remote};

const SECONDS: Duration = Duration::from_secs(1);

#[test]
fn garbage_datagrams_are_counted_and_cost_nothing() {
    let mut net = Net::new(1, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    let rounds = 2000;
    for i in 0..rounds {
        let len = 1 + net.random() as usize % 1400;
        let mut data: Vec<u8> = (0..len).map(|_| net.random() as u8).collect();
        if i % 3 == 0 {
            data[0] |= 0xc0; // long header
        }
        if i % 9 == 0 && len > 5 {
            data[1..5].copy_from_slice(&[0, 0, 0, 1]); // version 1
        }
        net.carry(address(9), address(0), &data);
    }
    net.run_for(SECONDS);
    let stats = net.node(0).stats();
    assert_eq!(stats.datagrams_in, rounds);
    assert_eq!(
        stats.datagrams_ignored + stats.handshakes_in + stats.handshakes_failed,
        rounds
    );
    net.run_for(20 * SECONDS);
    assert!(net.node(0).endpoint.by_id.is_empty(), "nothing is kept");
    assert_eq!(net.node(0).stats().connections_handshaking, 0);
}

/// First flights from forged addresses: many handshakes that never go on.
#[test]
fn a_flood_of_handshakes_is_bounded_and_validators_get_in() {
    let mut net = Net::new(2, Faults::default());
    let mut node = config(Some(0), &[0, 1]);
    node.limits.handshakes_max = 40;
    node.limits.handshakes_before_retry = 10;
    node.limits.handshakes_per_prefix_max = 20;
    net.add(Node::new(node, 1));
    net.add(Node::new(config(Some(1), &[0, 1]), 2));
    for i in 0..200u16 {
        let mut peer = RawPeer::new();
        peer.dial(net.now, 0, 0, None);
        let mut buf = Vec::new();
        let from = address(1000 + usize::from(i % 50));
        let now = net.now;
        while let Some(transmit) = peer.transmit(now, &mut buf) {
            net.carry(from, address(0), &buf[..transmit.size]);
            buf.clear();
        }
    }
    net.run_for(SECONDS / 2);
    let stats = net.node(0).stats();
    assert!(stats.connections_handshaking <= 10, "beyond that: retry");
    assert!(stats.handshakes_retried >= 190);
    // A validator answers the retry and gets in at once.
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    assert!(net.run_until(SECONDS, |net| !net.node(1).open().is_empty()));
    net.run_for(30 * SECONDS);
    assert_eq!(net.node(0).stats().connections_handshaking, 0);
}

#[test]
fn anonymous_clients_are_bounded_and_leave_room_for_validators() {
    let mut net = Net::new(3, Faults::default());
    let mut node = config(Some(0), &[0, 1]);
    node.limits.anonymous_max = 3;
    net.add(Node::new(node, 1));
    net.add(Node::new(config(Some(1), &[0, 1]), 2));
    for i in 0..5 {
        let client = net.add(Node::new(config(None, &[]), 10 + i));
        let now = net.now;
        net.node(client).dial(now, 0, 0, false);
        net.run_for(SECONDS);
    }
    assert_eq!(net.node(0).open().len(), 3);
    assert_eq!(net.node(0).stats().refused_clients_full, 2);
    let refused = net.node(6).events.iter().any(|event| {
        matches!(event, Event::DialFailed { reason, .. }
            if reason.code() == Some(CloseCode::TooManyClients))
    });
    assert!(refused, "the client learns why");
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    assert!(net.run_until(SECONDS, |net| net.node(0).open().len() == 4));
    let validators = net.node(0).events.iter().filter(|event| {
        matches!(
            event,
            Event::Connected {
                remote: Remote::Validator(_),
                ..
            }
        )
    });
    assert_eq!(validators.count(), 1);
    // A place that becomes free is used again.
    let (now, conn) = (net.now, net.node(2).open()[0]);
    net.node(2).command(
        now,
        Command::Close {
            conn,
            code: CloseCode::Done,
            reason: "done".into(),
        },
    );
    net.run_for(5 * SECONDS);
    let now = net.now;
    net.node(6).dial(now, 0, 0, false);
    assert!(net.run_until(5 * SECONDS, |net| !net.node(6).open().is_empty()));
}

#[test]
fn one_prefix_cannot_take_all_client_places() {
    let mut net = Net::new(4, Faults::default());
    let mut node = config(Some(0), &[0]);
    node.limits.anonymous_per_prefix_max = 2;
    net.add(Node::new(node, 1));
    let client = net.add(Node::new(config(None, &[]), 2));
    for _ in 0..4 {
        let now = net.now;
        net.node(client).dial(now, 0, 0, false);
    }
    net.run_for(3 * SECONDS);
    assert_eq!(net.node(0).open().len(), 2);
    assert_eq!(net.node(0).stats().refused_prefix_full, 2);
}
