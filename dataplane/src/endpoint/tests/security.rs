//! Resumption, rotation of keys and identifiers, retry, amplification.

use super::{
    exchange::{dial_failures, pair, pair_with, patterned},
    raw::RawPeer,
    *,
};
use crate::{CloseCode, CloseReason, Remote};

const SECONDS: Duration = Duration::from_secs(1);

const BAD_NETWORK: Faults = Faults {
    lost: 80,
    duplicated: 30,
    corrupted: 20,
    jitter: Duration::from_millis(2),
};

/// Ends every connection of `node`, whose persistent targets then dial again.
fn cut(net: &mut Net, node: usize) {
    for conn in net.node(node).open() {
        let now = net.now;
        let reason = "cut by the test".to_owned();
        net.node(node).command(
            now,
            Command::Close {
                conn,
                code: CloseCode::Done,
                reason,
            },
        );
    }
    // The other side hears of it, and nobody has dialled again yet.
    net.run_for(Duration::from_millis(5));
}

/// Who the accepted connections of `node` came from, oldest first.
fn accepted(node: &Node) -> Vec<Remote> {
    node.events
        .iter()
        .filter_map(|event| match event {
            Event::Connected {
                remote,
                initiator: false,
                ..
            } => Some(*remote),
            _ => None,
        })
        .collect()
}

fn validator(index: usize) -> Remote {
    Remote::Validator(key(index).public().id())
}

/// Sends a frame from node 0 to node 1 and waits for it.
fn exchange(net: &mut Net, salt: usize) {
    let (now, conn) = (net.now, net.node(0).open()[0]);
    let before = net.node(1).frames().count();
    net.node(0)
        .send(now, conn, Channel::Control, 20, patterned(5000, salt))
        .unwrap();
    let arrived = net.run_until(20 * SECONDS, |net| net.node(1).frames().count() > before);
    assert!(arrived, "frame {salt} is missing");
    let last = net.node(1).frames().last().unwrap().3.to_vec();
    assert_eq!(last, patterned(5000, salt));
}

#[test]
fn a_session_is_resumed_with_the_same_keys_and_fewer_bytes() {
    let mut net = Net::new(1, Faults::default());
    for index in [4, 5] {
        let mut node = config(None, &[]);
        node.identity = Some(key(index));
        node.trusted.replace([key(4).public(), key(5).public()]);
        net.add(Node::new(node, index as u8));
    }
    let wire = |net: &Net| net.carried.values().sum::<u64>();
    let now = net.now;
    let full_from = wire(&net);
    net.node(0).dial(now, 1, 5, true);
    assert!(
        net.run_until(5 * SECONDS, |net| !net.node(0).open().is_empty()
            && !net.node(1).open().is_empty())
    );
    let full = wire(&net) - full_from;
    net.run_for(SECONDS);
    assert_eq!(net.node(1).stats().handshakes_resumed, 0);
    cut(&mut net, 0);
    let again_from = wire(&net);
    assert!(
        net.run_until(5 * SECONDS, |net| !net.node(0).open().is_empty()
            && !net.node(1).open().is_empty())
    );
    let again = wire(&net) - again_from;
    assert_eq!(net.node(1).stats().handshakes_resumed, 1);
    assert_eq!(accepted(net.node(1)), [validator(4), validator(4)]);
    // Two raw keys and two signatures of FALCON-1024 less, one ticket more.
    assert!(again + 4000 < full, "{again} bytes after {full}");
    exchange(&mut net, 1);
}

#[test]
fn anonymous_clients_resume_and_stay_anonymous() {
    let mut net = Net::new(2, Faults::default());
    net.add(Node::new(config(Some(0), &[0]), 1));
    net.add(Node::new(config(None, &[]), 2));
    for resumed in 0..3 {
        let now = net.now;
        net.node(1).dial(now, 0, 0, false);
        assert!(net.run_until(SECONDS, |net| net.node(0).open().len() == 1));
        net.run_for(SECONDS);
        assert_eq!(net.node(0).stats().handshakes_resumed, resumed);
        cut(&mut net, 1);
    }
    assert_eq!(accepted(net.node(0)), [Remote::Anonymous; 3]);
}

#[test]
fn a_revoked_key_cannot_resume() {
    let (mut net, _, _) = pair(3, Faults::default());
    net.run_for(SECONDS);
    net.node(1).trusted().replace([key(1).public()]);
    net.run_for(4 * SECONDS);
    assert!(net.node(1).open().is_empty());
    // It came back with its ticket, the session was found, and the trusted set decided.
    let stats = net.node(1).stats();
    assert_eq!(stats.handshakes_resumed, 1);
    assert!(stats.refused_untrusted >= 1);
    assert_eq!(stats.connections_opened, 1, "only the one before");
    let refused = dial_failures(&mut net, 0).into_iter().any(
        |reason| matches!(reason, CloseReason::Peer { code, .. } if code == CloseCode::Untrusted),
    );
    assert!(refused, "the resumed handshake was refused after TLS");
    // Trusted again, it gets in.
    net.node(1)
        .trusted()
        .replace([key(0).public(), key(1).public()]);
    assert!(net.run_until(5 * SECONDS, |net| !net.node(1).open().is_empty()));
}

#[test]
fn a_server_with_another_key_resumes_nothing_of_the_old_one() {
    let (mut net, _, _) = pair(4, Faults::default());
    net.run_for(SECONDS);
    let now = net.now;
    net.node(1).command(now, Command::SetIdentity(key(2)));
    cut(&mut net, 0);
    net.run_for(5 * SECONDS);
    // The ticket names a session of the old key, so the server proves its new key, which is not
    // the one pinned.
    assert_eq!(net.node(1).stats().handshakes_resumed, 0);
    assert!(net.node(0).open().is_empty());
    assert!(dial_failures(&mut net, 0).contains(&CloseReason::UntrustedPeer));
}

/// Node 1 changes from key 1 to key 2 while frames flow; node 0 trusts both.
fn rotate(seed: u64, faults: Faults) {
    let (mut net, a, b) = pair_with(seed, faults, |_, config| {
        config
            .trusted
            .replace([key(0).public(), key(1).public(), key(2).public()]);
    });
    exchange(&mut net, 0);
    let now = net.now;
    net.node(1).command(now, Command::SetIdentity(key(2)));
    // The connection that exists goes on.
    for salt in 1..5 {
        exchange(&mut net, salt);
    }
    assert_eq!(net.node(0).open(), [a], "seed {seed}");
    assert_eq!(net.node(1).open(), [b], "seed {seed}");
    // Dialled anew, node 1 is the owner of key 2 and of nothing else.
    let now = net.now;
    net.node(0).dial(now, 1, 2, true);
    let both = net.run_until(30 * SECONDS, |net| net.node(0).open().len() == 2);
    assert!(both, "seed {seed}: pinned to the new key");
    // Dialling, it proves key 2.
    let third = net.add(Node::new(config(Some(3), &[2]), 99));
    let now = net.now;
    net.node(1).dial(now, third, 3, true);
    assert!(net.run_until(30 * SECONDS, |net| {
        accepted(net.node(third)).contains(&validator(2))
    }));
    // The old connection has never stopped, and may now be given up.
    exchange(&mut net, 5);
    let now = net.now;
    let id = TargetId(1);
    net.node(0).command(now, Command::Disconnect { id });
    assert!(net.run_until(20 * SECONDS, |net| !net.node(1).open().contains(&b)));
    exchange(&mut net, 6);
}

#[test]
fn a_validator_changes_its_key_without_a_gap() {
    rotate(5, Faults::default());
}

#[test]
fn keys_rotate_over_a_bad_network() {
    (0..8).for_each(|seed| rotate(seed, BAD_NETWORK));
}

#[test]
fn a_client_that_gets_a_key_proves_it_from_then_on() {
    let mut net = Net::new(6, Faults::default());
    net.add(Node::new(config(Some(0), &[0, 1]), 1));
    net.add(Node::new(config(None, &[]), 2));
    let now = net.now;
    net.node(1).dial(now, 0, 0, true);
    assert!(net.run_until(SECONDS, |net| net.node(0).open().len() == 1
        && net.node(1).open().len() == 1));
    let (now, first) = (net.now, net.node(1).open()[0]);
    net.node(1).command(now, Command::SetIdentity(key(1)));
    net.node(1)
        .send(now, first, Channel::Client, 16, vec![1])
        .expect("an anonymous connection stays what it is");
    assert!(net.run_until(SECONDS, |net| net.node(0).frames().count() == 1));
    cut(&mut net, 1);
    assert!(net.run_until(5 * SECONDS, |net| accepted(net.node(0)).len() == 2));
    assert_eq!(accepted(net.node(0)), [Remote::Anonymous, validator(1)]);
}

#[test]
fn traffic_keys_are_updated_while_frames_flow() {
    for seed in 0..8 {
        let (mut net, _, _) = pair_with(seed, BAD_NETWORK, |_, config| {
            config.limits.key_update_packets = 20;
        });
        for salt in 0..40 {
            exchange(&mut net, salt);
            net.run_for(SECONDS / 4);
        }
        for node in 0..2 {
            let stats = net.node(node).stats();
            assert!(stats.key_updates >= 4, "seed {seed}: {}", stats.key_updates);
            assert_eq!(stats.connections_opened, 1, "seed {seed}");
        }
    }
}

#[test]
fn connection_identifiers_are_replaced() {
    let (mut net, a, _) = pair_with(8, Faults::default(), |_, config| {
        config.limits.connection_id_lifetime = 10 * SECONDS;
    });
    for salt in 0..12 {
        exchange(&mut net, salt);
        net.run_for(5 * SECONDS);
    }
    for node in 0..2 {
        let from = address(node);
        let used = net.identifiers.iter().filter(|(f, _)| *f == from).count();
        assert!(used >= 4, "{used} identifiers in a minute");
    }
    assert_eq!(net.node(0).open(), [a]);
}

#[test]
fn a_forged_address_gets_at_most_three_times_what_came_from_it() {
    // The largest flight there is: FALCON-1024, and a client that says nothing after its first.
    for seed in 0..16 {
        let mut net = Net::new(seed, BAD_NETWORK);
        let mut node = config(None, &[]);
        node.identity = Some(key(4));
        net.add(Node::new(node, 1));
        let mut peer = RawPeer::new();
        peer.dial(net.now, 0, 4, Some(1));
        let (now, from) = (net.now, address(77));
        let mut buf = Vec::new();
        while let Some(transmit) = peer.transmit(now, &mut buf) {
            net.carry(from, address(0), &buf[..transmit.size]);
            buf.clear();
        }
        net.run_for(15 * SECONDS);
        let there = net.carried[&(from, address(0))];
        let back = net.carried.get(&(address(0), from)).copied().unwrap_or(0);
        // What the network duplicated counts as received.
        assert!(back <= 3 * 2 * there, "seed {seed}: {back} for {there}");
        let received = net.node(0).stats().bytes_in;
        assert!(back <= 3 * received, "seed {seed}: {back} for {received}");
        assert!(seed > 3 || back > 0, "seed {seed}: the test sees an answer");
    }
}

#[test]
fn falcon_1024_on_both_sides_connects_within_the_budget() {
    for seed in 0..8 {
        let mut net = Net::new(seed, BAD_NETWORK);
        for index in 0..2 {
            let mut node = config(None, &[]);
            node.identity = Some(key(4 + index));
            node.trusted.replace([key(4).public(), key(5).public()]);
            net.add(Node::new(node, seed as u8));
        }
        let now = net.now;
        net.node(0).dial(now, 1, 5, true);
        let open = net.run_until(30 * SECONDS, |net| !net.node(1).open().is_empty());
        assert!(open, "seed {seed}");
    }
}

#[test]
fn retry_and_resumption_work_over_a_bad_network() {
    let mut resumed = 0;
    for seed in 0..16 {
        let (mut net, _, _) = pair_with(seed, BAD_NETWORK, |_, config| {
            config.limits.handshakes_before_retry = 0;
        });
        for salt in 0..4 {
            exchange(&mut net, salt);
            cut(&mut net, 0);
            let again = net.run_until(60 * SECONDS, |net| {
                !net.node(0).open().is_empty() && !net.node(1).open().is_empty()
            });
            assert!(again, "seed {seed}: not connected again");
        }
        let stats = net.node(1).stats();
        assert!(
            stats.handshakes_retried >= 5,
            "seed {seed}: each began with a retry"
        );
        resumed += stats.handshakes_resumed;
    }
    assert!(resumed >= 32, "{resumed} of 64 resumed");
}

#[test]
fn one_prefix_cannot_take_all_handshakes() {
    let mut net = Net::new(9, Faults::default());
    let mut node = config(Some(0), &[0, 1]);
    node.limits.handshakes_per_prefix_max = 5;
    net.add(Node::new(node, 1));
    net.add(Node::new(config(None, &[]), 2));
    for port in 0..20 {
        let mut peer = RawPeer::new();
        peer.dial(net.now, 0, 0, None);
        let mut from = address(77);
        from.set_port(1000 + port);
        let (now, mut buf) = (net.now, Vec::new());
        while let Some(transmit) = peer.transmit(now, &mut buf) {
            net.carry(from, address(0), &buf[..transmit.size]);
            buf.clear();
        }
    }
    net.run_for(SECONDS / 10);
    let stats = net.node(0).stats();
    assert_eq!(stats.connections_handshaking, 5);
    assert!(stats.handshakes_refused_prefix >= 15);
    let now = net.now;
    net.node(1).dial(now, 0, 0, false);
    assert!(net.run_until(SECONDS, |net| net.node(0).open().len() == 1));
}
