//! Paths of different kinds: each is measured, acted upon, shown and remembered.

use super::{
    exchange::{pair, pair_with, patterned},
    *,
};
use crate::{PathPolicy, PathTier};

const SECONDS: Duration = Duration::from_secs(1);

/// Sends bulk from node 0 to node 1 and waits for all of it; returns the virtual time it took.
fn bulk(net: &mut Net, conn: ConnId, frames: usize) -> Duration {
    let before = net.elapsed();
    let there = net.node(1).frames().count();
    for i in 0..frames {
        let now = net.now;
        net.node(0)
            .send(now, conn, Channel::Bulk, 20, patterned(100_000, i))
            .unwrap();
    }
    assert!(net.run_until(120 * SECONDS, |net| {
        net.node(1).frames().count() == there + frames
    }));
    net.elapsed() - before
}

fn open_with_delay(delay: Duration, policy: PathPolicy) -> (Net, ConnId) {
    let mut net = Net::new(1, Faults::default());
    net.delay = delay;
    for index in 0..2 {
        let mut config = config(Some(index), &[0, 1]);
        config.io.paths = policy;
        net.add(Node::new(config, 1));
    }
    let now = net.now;
    net.node(0).dial(now, 1, 1, true);
    assert!(
        net.run_until(30 * SECONDS, |net| !net.node(0).open().is_empty()
            && !net.node(1).open().is_empty())
    );
    let conn = net.node(0).open()[0];
    (net, conn)
}

#[test]
fn the_tier_follows_from_the_round_trip_time() {
    for (delay_us, tier) in [
        (100, PathTier::Lan),
        (4_000, PathTier::Metro),
        (60_000, PathTier::Wide),
    ] {
        let (mut net, conn) =
            open_with_delay(Duration::from_micros(delay_us), PathPolicy::Adaptive);
        bulk(&mut net, conn, 4);
        net.run_for(SECONDS);
        bulk(&mut net, conn, 4);
        let path = net.node(0).path(conn);
        assert_eq!(path.tier, tier, "{path:?}");
        assert_eq!(path.segments_max, tier.settings().segments_max);
        assert!(path.mtu >= 1232 && usize::from(path.mtu) <= MTU);
        assert_eq!(path.packets_lost, 0);
        let stats = net.node(0).stats();
        let gauges = [stats.paths_lan, stats.paths_metro, stats.paths_wide];
        assert_eq!(gauges.iter().sum::<u64>(), 1, "one path, of one tier");
        assert_eq!(gauges[tier as usize - 1], 1);
        assert_eq!(
            stats.path_tier_changes,
            u64::from(tier != PathTier::Metro),
            "Metro is assumed"
        );
    }
}

#[test]
fn a_tier_may_be_forced_and_adaptation_be_off() {
    for policy in PathTier::ALL.map(PathPolicy::Fixed) {
        let (mut net, conn) = open_with_delay(Duration::from_millis(4), policy);
        bulk(&mut net, conn, 4);
        net.run_for(SECONDS);
        bulk(&mut net, conn, 1);
        assert_eq!(PathPolicy::Fixed(net.node(0).path(conn).tier), policy);
    }
    let (mut net, conn) = open_with_delay(Duration::from_millis(4), PathPolicy::Off);
    bulk(&mut net, conn, 4);
    assert_eq!(net.node(0).path(conn).segments_max, 10);
    assert_eq!(net.node(0).stats().path_tier_changes, 0);
}

#[test]
fn jumbo_frames_are_found_near_and_not_looked_for_far_away() {
    for (policy, mtu) in [
        (PathPolicy::Fixed(PathTier::Loopback), 60_000..65_489),
        (PathPolicy::Fixed(PathTier::Lan), 8_900..8_953),
        (PathPolicy::Fixed(PathTier::Wide), 1_400..1_453),
        (PathPolicy::Off, 1_400..1_453),
    ] {
        let mut net = Net::new(2, Faults::default());
        net.mtu = 65_535;
        for index in 0..2 {
            let mut config = config(Some(index), &[0, 1]);
            config.io.paths = policy;
            config.io.mtu_max = if policy == PathPolicy::Fixed(PathTier::Loopback) {
                crate::MTU_LOOPBACK
            } else {
                crate::MTU_JUMBO
            };
            net.add(Node::new(config, 1));
        }
        let now = net.now;
        net.node(0).dial(now, 1, 1, true);
        assert!(
            net.run_until(5 * SECONDS, |net| !net.node(1).open().is_empty()
                && !net.node(0).open().is_empty())
        );
        let conn = net.node(0).open()[0];
        bulk(&mut net, conn, 10);
        net.run_for(SECONDS);
        bulk(&mut net, conn, 1);
        let found = net.node(0).path(conn).mtu;
        assert!(mtu.contains(&found), "{policy:?}: {found}");
    }
}

/// Datagrams that node 1 sent back while node 0 sent bulk: acknowledgements, mostly.
fn answers(policy: PathPolicy) -> u64 {
    let (mut net, conn) = open_with_delay(Duration::from_micros(100), policy);
    bulk(&mut net, conn, 20);
    net.run_for(SECONDS);
    // A gigabit: datagrams come one after the other, not all at once.
    net.gap = Duration::from_micros(12);
    let count = |net: &mut Net| net.node(0).stats().datagrams_in;
    let before = count(&mut net);
    bulk(&mut net, conn, 60);
    count(&mut net) - before
}

#[test]
fn a_near_path_needs_fewer_acknowledgements() {
    let (lan, off) = (
        answers(PathPolicy::Fixed(PathTier::Lan)),
        answers(PathPolicy::Off),
    );
    assert!(lan * 3 < off, "{lan} datagrams back, {off} without");
}

#[test]
fn what_was_measured_serves_the_next_connection() {
    let (mut net, conn) = open_with_delay(Duration::from_micros(100), PathPolicy::Adaptive);
    bulk(&mut net, conn, 4);
    net.run_for(SECONDS);
    bulk(&mut net, conn, 4);
    assert_eq!(net.node(0).stats().path_tier_changes, 1);
    let now = net.now;
    net.node(1).command(
        now,
        Command::Close {
            conn: ConnId(1),
            code: crate::CloseCode::Done,
            reason: "to come again".into(),
        },
    );
    let again = net.run_until(5 * SECONDS, |net| {
        net.node(0).open().first().is_some_and(|c| *c != conn)
    });
    assert!(again);
    let conn = net.node(0).open()[0];
    assert_eq!(net.node(0).path(conn).tier, PathTier::Lan);
    assert_eq!(
        net.node(0).stats().path_tier_changes,
        1,
        "known from before"
    );
    assert_eq!(net.node(0).stats().paths_lan, 1);
}

#[test]
fn bursts_are_shorter_on_a_lossy_path() {
    let (mut net, conn, _) = pair(3, Faults::default());
    bulk(&mut net, conn, 10);
    net.run_for(SECONDS);
    bulk(&mut net, conn, 10);
    let clean = net.node(0).path(conn).segments_max;
    net.faults.lost = 100;
    for _ in 0..4 {
        net.run_for(SECONDS);
        bulk(&mut net, conn, 5);
    }
    let path = net.node(0).path(conn);
    assert!(path.packets_lost > 0);
    assert!(path.segments_max * 3 < clean, "{path:?} after {clean}");
    net.faults.lost = 0;
    for _ in 0..4 {
        net.run_for(SECONDS);
        bulk(&mut net, conn, 10);
    }
    assert_eq!(net.node(0).path(conn).segments_max, clean);
}

/// Everything that the network can do, in proportions that the seed chooses: what arrives is
/// whole, once and in order on each channel; nothing is missing unless the connection ended.
#[test]
fn two_hundred_networks_chosen_by_seed() {
    let (mut missing, mut whole) = (Vec::new(), 0);
    for seed in 0..200u64 {
        let pick =
            |salt: u64, max: u64| seed.wrapping_mul(0x9e37_79b9).rotate_left(salt as u32) % max;
        let faults = Faults {
            lost: pick(7, 200),
            duplicated: pick(13, 100),
            corrupted: pick(19, 50),
            jitter: Duration::from_micros(pick(29, 20_000)),
        };
        let policy = match seed % 6 {
            0 => PathPolicy::Off,
            tier @ 1..=4 => PathPolicy::Fixed(PathTier::ALL[tier as usize - 1]),
            _ => PathPolicy::Adaptive,
        };
        let (mut net, a, _) = pair_with(seed, faults, |_, config| {
            config.io.paths = policy;
            config.limits.handshakes_before_retry = if seed % 2 == 0 { 0 } else { 64 };
            config.limits.key_update_packets = 30;
            config.limits.connection_id_lifetime = 10 * SECONDS;
        });
        net.delay = Duration::from_micros(pick(37, 30_000));
        net.mtu = 1_280 + pick(41, 8_000) as usize;
        let frames = 30;
        for i in 0..frames {
            let now = net.now;
            let node = net.node(0);
            // An ended connection takes no more; that is checked below.
            let _ = node.send(now, a, Channel::Control, 20, patterned(i * 100, i));
            let _ = node.send(now, a, Channel::Bulk, 21, patterned(i * 1000, i));
        }
        let all = |net: &mut Net| net.node(1).frames().count() == 2 * frames;
        let arrived = net.run_until(120 * SECONDS, all);
        let ended: Vec<String> = (0..2)
            .flat_map(|node| {
                let reasons = net
                    .node(node)
                    .events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Closed { reason, .. } => Some(reason.to_string()),
                        _ => None,
                    });
                reasons.collect::<Vec<_>>()
            })
            .collect();
        whole += usize::from(arrived);
        if !arrived && ended.is_empty() {
            let (path, got) = (net.node(0).path(a), net.node(1).frames().count());
            let (delay, mtu) = (net.delay, net.mtu);
            missing.push(format!(
                "seed {seed}: {faults:?} {policy:?} {delay:?} mtu {mtu} {path:?} {got} frames"
            ));
        }
        let node = net.node(1);
        let control: Vec<Vec<u8>> = of(node, Channel::Control);
        let expected: Vec<Vec<u8>> = (0..frames).map(|i| patterned(i * 100, i)).collect();
        assert_eq!(control, expected[..control.len()], "seed {seed}: in order");
        let mut bulk = of(node, Channel::Bulk);
        bulk.sort_by_key(Vec::len);
        let mut lens: Vec<usize> = bulk.iter().map(Vec::len).collect();
        lens.dedup();
        assert_eq!(lens.len(), bulk.len(), "seed {seed}: once");
        for payload in bulk {
            let i = payload.len() / 1000;
            assert_eq!(payload, patterned(i * 1000, i), "seed {seed}: whole");
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(whole >= 190, "only {whole} of 200 connections lasted");
}

fn of(node: &Node, wanted: Channel) -> Vec<Vec<u8>> {
    node.frames()
        .filter(|(_, channel, ..)| *channel == wanted)
        .map(|(.., payload)| payload.to_vec())
        .collect()
}

#[test]
fn a_connection_that_lingers_after_its_end_is_no_longer_counted() {
    // The path becomes shorter, and the connection ends, at any time between two looks at it.
    for pause_ms in (0..120).step_by(4) {
        let (mut net, conn) = open_with_delay(Duration::from_millis(4), PathPolicy::Adaptive);
        net.run_for(Duration::from_millis(pause_ms));
        net.delay = Duration::from_micros(100);
        bulk(&mut net, conn, 1);
        let now = net.now;
        net.node(0).command(
            now,
            Command::Close {
                conn,
                code: crate::CloseCode::Done,
                reason: String::new(),
            },
        );
        net.run_for(5 * SECONDS);
        for index in 0..2 {
            let node = net.node(index);
            let (stats, open) = (node.stats(), node.open().len() as u64);
            let near = stats.paths_loopback + stats.paths_lan;
            assert_eq!(near + stats.paths_metro + stats.paths_wide, open);
        }
    }
}
