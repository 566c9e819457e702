//! Datagrams: packing, loss, limits, peers that misuse them.

use super::{exchange::pair_with, raw::RawPeer, *};
use crate::{CloseCode, datagram::encode, hello::Role};

const SECONDS: Duration = Duration::from_secs(1);

fn message(i: usize, len: usize) -> Vec<u8> {
    let mut wire = BytesMut::new();
    let mut payload = vec![i as u8; len];
    payload[..8].copy_from_slice(&(i as u64).to_le_bytes());
    encode(&mut wire, 20, &payload);
    wire.to_vec()
}

/// Numbers of the messages that a node received, in order of arrival.
fn received(node: &Node, len: usize) -> Vec<usize> {
    let mut all = Vec::new();
    for event in &node.events {
        if let Event::Datagram { messages, .. } = event {
            for (kind, payload) in messages.iter() {
                assert_eq!((kind, payload.len()), (20, len));
                let number = u64::from_le_bytes(*payload.first_chunk().unwrap());
                assert!(payload[8..].iter().all(|byte| *byte == number as u8));
                all.push(number as usize);
            }
        }
    }
    all
}

fn enabled(_: usize, config: &mut StoqConfig) {
    config.datagrams = true;
}

#[test]
fn a_lone_message_leaves_alone_and_a_burst_in_full_packets() {
    let (mut net, a, _) = pair_with(1, Faults::default(), enabled);
    let before = net.elapsed();
    let now = net.now;
    net.node(0)
        .send_datagram(now, a, &message(0, 64))
        .expect("open");
    assert!(net.run_until(SECONDS, |net| received(net.node(1), 64).len() == 1));
    assert_eq!(net.elapsed() - before, DELAY, "no delay is added");

    let DatagramSize::UpTo(max) = net.node(0).datagram_size(a) else {
        panic!("both sides enabled datagrams");
    };
    assert!(max > 1100 && max < MTU);
    let burst = 2000;
    let now = net.now;
    for i in 1..=burst {
        net.node(0)
            .send_datagram(now, a, &message(i, 64))
            .expect("room");
    }
    assert!(net.run_until(5 * SECONDS, |net| {
        received(net.node(1), 64).len() == 1 + burst
    }));
    let in_order: Vec<usize> = (0..=burst).collect();
    assert_eq!(received(net.node(1), 64), in_order);
    let full = (max / message(0, 64).len()) as u64;
    let datagrams = net.node(0).stats().message_datagrams_out - 1;
    assert_eq!(datagrams, (burst as u64).div_ceil(full));
    assert_eq!(
        net.node(1).stats().payload_bytes_copied,
        (1 + burst as u64) * 64
    );
}

#[test]
fn with_leave_to_wait_messages_share_packets() {
    let wait = Duration::from_micros(200);
    let (mut net, a, _) = pair_with(1, Faults::default(), |index, config| {
        enabled(index, config);
        config.io.flush_after = Some(wait);
    });
    net.run_for(SECONDS);
    let (start, before) = (net.elapsed(), net.node(0).stats().message_datagrams_out);
    for i in 0..3 {
        let now = net.now;
        net.node(0)
            .send_datagram(now, a, &message(i, 64))
            .expect("room");
        net.run_for(wait / 4);
    }
    assert_eq!(net.node(0).stats().message_datagrams_out, before);
    let all = |net: &mut Net, count: usize| received(net.node(1), 64).len() == count;
    assert!(net.run_until(SECONDS, |net| all(net, 3)));
    assert_eq!(
        net.elapsed() - start,
        wait + DELAY,
        "counted from the first"
    );
    assert_eq!(net.node(0).stats().message_datagrams_out, before + 1);

    // Full packets leave at once, only the last one waits.
    let DatagramSize::UpTo(max) = net.node(0).datagram_size(a) else {
        panic!("both sides enabled datagrams");
    };
    let full = max / message(0, 64).len();
    let (start, now) = (net.elapsed(), net.now);
    for i in 3..3 + 2 * full + 1 {
        net.node(0)
            .send_datagram(now, a, &message(i, 64))
            .expect("room");
    }
    assert!(net.run_until(SECONDS, |net| received(net.node(1), 64).len() >= 3 + full));
    assert!(net.elapsed() - start < wait + DELAY);
    assert!(net.run_until(SECONDS, |net| all(net, 4 + 2 * full)));
    assert_eq!(net.elapsed() - start, wait + DELAY);
    assert_eq!(net.node(0).stats().message_datagrams_out, before + 4);
}

#[test]
fn over_a_bad_network_messages_come_whole_and_at_most_once() {
    let faults = Faults {
        lost: 100,
        duplicated: 50,
        corrupted: 20,
        jitter: Duration::from_millis(3),
    };
    for seed in 0..16 {
        let (mut net, a, _) = pair_with(seed, faults, enabled);
        for i in 0..200 {
            let now = net.now;
            let _ = net.node(0).send_datagram(now, a, &message(i, 200));
            net.run_for(Duration::from_millis(1));
        }
        net.run_for(2 * SECONDS);
        let mut got = received(net.node(1), 200);
        assert!(got.len() > 100, "seed {seed}: most arrive");
        got.sort_unstable();
        got.windows(2)
            .for_each(|two| assert_ne!(two[0], two[1], "seed {seed}: twice"));
    }
}

#[test]
fn both_sides_must_enable_them() {
    for who in 0..2 {
        let (mut net, a, b) = pair_with(2, Faults::default(), |node, config| {
            config.datagrams = node == who;
        });
        assert_eq!(net.node(0).datagram_size(a), DatagramSize::Unsupported);
        assert_eq!(net.node(1).datagram_size(b), DatagramSize::Unsupported);
        // What slips past that question is dropped and counted.
        let now = net.now;
        net.node(0).send_datagram(now, a, &message(1, 64)).unwrap();
        net.run_for(SECONDS);
        assert_eq!(net.node(0).stats().messages_dropped_size, 1);
        assert_eq!(net.node(0).open(), [a]);
    }
}

#[test]
fn what_no_longer_fits_the_path_is_cut_or_dropped() {
    let (mut net, a, _) = pair_with(3, Faults::default(), enabled);
    let mut wire = Vec::new();
    for i in 0..40 {
        wire.extend_from_slice(&message(i, 100));
        if i == 20 {
            encode_long(&mut wire);
        }
    }
    let now = net.now;
    net.node(0).send_datagram(now, a, &wire).unwrap();
    assert!(net.run_until(SECONDS, |net| received(net.node(1), 100).len() == 40));
    assert_eq!(net.node(0).stats().messages_dropped_size, 1);
    // All of the budget came back: the whole queue is free again.
    let max = net.node(0).limits.datagram_queue_bytes_max;
    let budget = net.node(0).registry.get(a).unwrap();
    budget.take_datagram(max - 1000, max).unwrap();
}

fn encode_long(to: &mut Vec<u8>) {
    let mut wire = BytesMut::new();
    encode(&mut wire, 20, &[0; 9000]);
    to.extend_from_slice(&wire);
}

#[test]
fn a_slow_consumer_loses_datagrams_but_keeps_the_connection() {
    let (mut net, a, _) = pair_with(4, Faults::default(), |_, config| {
        config.datagrams = true;
        config.limits.event_frames_max = 16;
    });
    net.node(1).consumes = false;
    for i in 0..100 {
        let now = net.now;
        net.node(0).send_datagram(now, a, &message(i, 64)).unwrap();
        net.run_for(Duration::from_millis(2));
    }
    let (frames, _) = net.node(1).budget.in_use();
    assert!(frames <= 12, "datagrams get three quarters at most");
    let stats = net.node(1).stats();
    assert_eq!(stats.messages_dropped_full, 100 - stats.messages_in);
    net.node(1).consumes = true;
    net.run_for(SECONDS);
    assert_eq!(net.node(0).open(), [a]);
}

#[test]
fn control_flows_while_datagrams_fill_the_path() {
    let (mut net, a, _) = pair_with(5, Faults::default(), enabled);
    for i in 0..40_000 {
        let now = net.now;
        if net.node(0).send_datagram(now, a, &message(i, 500)) == Err(SendError::Full) {
            break;
        }
    }
    let now = net.now;
    net.node(0)
        .send(now, a, Channel::Control, 16, vec![1; 20_000])
        .unwrap();
    assert!(net.run_until(5 * SECONDS, |net| net.node(1).frames().count() == 1));
    let before_the_frame = received(net.node(1), 500).len();
    net.run_until(20 * SECONDS, |net| {
        net.node(0)
            .registry
            .get(a)
            .is_ok_and(|b| b.take_datagram(1, 2).is_ok())
    });
    net.run_for(SECONDS);
    let all = received(net.node(1), 500).len();
    assert!(
        before_the_frame < all / 2,
        "{before_the_frame} of {all} datagrams went before the frame"
    );
}

#[test]
fn a_malformed_datagram_costs_the_connection() {
    for wire in [&[16, 9, 0, 1][..], &[3, 0, 0], &[16, 1]] {
        let mut net = Net::new(6, Faults::default());
        let mut node = config(Some(0), &[0, 1]);
        node.datagrams = true;
        net.add(Node::new(node, 1));
        net.add(RawPeer::new());
        let now = net.now;
        net.raw(1).dial(now, 0, 0, None);
        assert!(net.run_until(SECONDS, |net| net.raw(1).is_connected));
        net.raw(1).greet(Role::Client);
        assert!(net.run_until(SECONDS, |net| net.node(0).open().len() == 1));
        let wire = Bytes::from_static(wire);
        net.raw(1).quic().datagrams().send(wire, false).unwrap();
        assert!(net.run_until(SECONDS, |net| net.raw(1).lost.is_some()));
        assert_eq!(net.node(0).stats().closed_bad_frame, 1);
        let closed = net.node(0).events.iter().any(|event| {
            matches!(event, Event::Closed { reason, .. }
                if reason.code() == Some(CloseCode::BadFrame))
        });
        assert!(closed);
    }
}
