//! Both sides dial each other: one connection is kept, the same on both sides.

use super::{exchange::dial_failures, *};
use crate::{CloseCode, CloseReason};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes that trust each other; of the keys, the first is the one with the lower identifier.
fn scene(seed: u64, faults: Faults) -> (Net, [usize; 2]) {
    let mut keys = [0, 1];
    keys.sort_by_key(|index| key(*index).public().id());
    let mut net = Net::new(seed, faults);
    for index in keys {
        net.add(Node::new(
            config(Some(index), &[0, 1]),
            seed as u8 + index as u8,
        ));
    }
    (net, keys)
}

fn dial(net: &mut Net, keys: [usize; 2], from: usize, persistent: bool) {
    let now = net.now;
    net.node(from)
        .dial(now, 1 - from, keys[1 - from], persistent);
}

/// Whether each side has exactly one connection, dialled by node 0, the lower key.
fn is_settled(net: &mut Net) -> bool {
    [0, 1].into_iter().all(|index| {
        let open = net.node(index).open();
        open.len() == 1
            && net.node(index).events.iter().any(|event| {
                matches!(event, Event::Connected { conn, initiator, .. }
                    if open.contains(conn) && *initiator == (index == 0))
            })
    })
}

#[test]
fn when_both_dial_at_once_the_connection_of_the_lower_key_is_kept() {
    for seed in 0..12 {
        let faults = Faults {
            lost: 10 * (seed % 4),
            jitter: Duration::from_millis(seed),
            ..Faults::default()
        };
        let (mut net, keys) = scene(seed, faults);
        let order = if seed % 2 == 0 { [0, 1] } else { [1, 0] };
        for from in order {
            // Who means to stay connected and has the higher key would wait.
            dial(&mut net, keys, from, from == 0);
            net.run_for(Duration::from_millis(seed / 4));
        }
        assert!(net.run_until(30 * SECOND, is_settled), "seed {seed}");
        // And so it stays: nothing is dialled that would be closed again.
        net.run_for(2 * SECOND);
        let opened = net.node(0).stats().connections_opened;
        net.run_for(20 * SECOND);
        assert!(is_settled(&mut net), "seed {seed}");
        assert_eq!(
            net.node(0).stats().connections_opened,
            opened,
            "seed {seed}"
        );
        let now = net.now;
        for index in [0, 1] {
            let conn = net.node(index).open()[0];
            let sent = net
                .node(index)
                .send(now, conn, Channel::Control, 16, vec![9]);
            sent.unwrap();
        }
        assert!(net.run_until(5 * SECOND, |net| {
            [0, 1]
                .iter()
                .all(|index| net.node(*index).frames().count() == 1)
        }));
    }
}

#[test]
fn the_higher_key_dials_when_the_lower_does_not_and_only_then() {
    let (mut net, keys) = scene(42, Faults::default());
    for from in [1, 0] {
        dial(&mut net, keys, from, true);
    }
    assert!(net.run_until(10 * SECOND, is_settled));
    net.run_for(10 * SECOND);
    assert_eq!(net.node(1).stats().handshakes_out, 0);

    let (mut net, keys) = scene(43, Faults::default());
    dial(&mut net, keys, 1, true);
    let connected = |net: &mut Net| net.node(0).open().len() == 1 && net.node(1).open().len() == 1;
    assert!(net.run_until(2 * SECOND, connected));
}

#[test]
fn a_target_waits_while_its_owners_connection_is_kept() {
    let (mut net, keys) = scene(40, Faults::default());
    dial(&mut net, keys, 0, false);
    assert!(net.run_until(10 * SECOND, is_settled));
    dial(&mut net, keys, 1, true);
    net.run_for(5 * SECOND);
    let superseded = |reason: &CloseReason| reason.code() == Some(CloseCode::Superseded);
    let failures = dial_failures(&mut net, 1);
    assert_eq!(
        failures.iter().filter(|r| superseded(r)).count(),
        1,
        "said once"
    );
    assert_eq!(
        net.node(1).stats().handshakes_out,
        0,
        "known before dialling"
    );
    // The peer gives its connection up, so the other is wanted.
    let now = net.now;
    net.node(0)
        .command(now, Command::Disconnect { id: TargetId(1) });
    assert!(
        net.run_until(3 * SECOND, |net| net.node(1).stats().handshakes_out > 0
            && net.node(1).open().len() == 1
            && net.node(0).open().len() == 1)
    );
}

#[test]
fn a_kept_connection_that_comes_later_replaces_the_other() {
    let (mut net, keys) = scene(41, Faults::default());
    dial(&mut net, keys, 1, false);
    assert!(net.run_until(10 * SECOND, |net| net.node(0).open().len() == 1));
    let first = net.node(0).open()[0];
    dial(&mut net, keys, 0, true);
    assert!(net.run_until(10 * SECOND, is_settled));
    assert!(!net.node(0).open().contains(&first));
    let closed = net.node(1).events.iter().any(|event| {
        matches!(event, Event::Closed { reason, .. }
            if reason.code() == Some(CloseCode::Superseded))
    });
    assert!(closed, "the one not kept is closed in words");
}
