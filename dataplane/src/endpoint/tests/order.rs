//! What leaves first when more waits than the path takes.

use super::{
    exchange::{pair, pair_with, patterned},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes on a path of about 100 Mbit/s, with so many Bulk frames of 1 MiB on their way that the
/// path is full for half a second.
fn busy_path(seed: u64) -> (Net, ConnId) {
    let (mut net, a, _) = pair(seed, Faults::default());
    net.gap = Duration::from_micros(115);
    let now = net.now;
    for i in 0..6 {
        let payload = vec![i; 1 << 20];
        net.node(0)
            .send(now, a, Channel::Bulk, 20, payload)
            .unwrap();
    }
    net.run_for(Duration::from_millis(30));
    assert_eq!(net.node(1).frames().count(), 0, "the first frame is begun");
    (net, a)
}

fn kinds(net: &mut Net) -> Vec<Channel> {
    net.node(1)
        .frames()
        .map(|(_, channel, ..)| channel)
        .collect()
}

#[test]
fn control_passes_a_bulk_frame_that_is_begun() {
    let (mut net, a) = busy_path(20);
    let (sent, now) = (net.elapsed(), net.now);
    net.node(0)
        .send(now, a, Channel::Control, 16, vec![1; 2000])
        .unwrap();
    assert!(net.run_until(5 * SECOND, |net| !kinds(net).is_empty()));
    assert_eq!(kinds(&mut net), [Channel::Control], "before any Bulk frame");
    // What the network holds goes first, the rest of the frame does not.
    let took = net.elapsed() - sent;
    assert!(took < Duration::from_millis(60), "{took:?}");
}

#[test]
fn bulk_frames_are_finished_in_their_order() {
    let (mut net, _) = busy_path(21);
    let mut finished = Vec::new();
    let start = net.elapsed();
    while finished.len() < 6 {
        let known = finished.len();
        assert!(net.run_until(5 * SECOND, |net| kinds(net).len() > known));
        finished.push(net.elapsed() - start);
    }
    let order: Vec<u8> = net.node(1).frames().map(|frame| frame.3[0]).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    // One after the other, not all at the end.
    assert!(finished[0] < finished[5] / 3, "{finished:?}");
}

#[test]
fn bulk_frames_come_in_pieces_where_that_is_wanted() {
    let (mut net, a, _) = pair_with(22, Faults::default(), |_, config| {
        config.bulk_in_pieces = true;
    });
    let now = net.now;
    let sent = patterned(300_000, 1);
    let node = net.node(0);
    node.send(now, a, Channel::Bulk, 20, sent.clone()).unwrap();
    node.send(now, a, Channel::Control, 21, sent.clone())
        .unwrap();
    assert!(net.run_until(5 * SECOND, |net| {
        let events = &net.node(1).events;
        let has = |wanted: fn(&Event) -> bool| events.iter().any(wanted);
        has(|event| matches!(event, Event::FramePieces { .. }))
            && has(|event| matches!(event, Event::Frame { .. }))
    }));
    let node = net.node(1);
    let pieces = node.events.iter().find_map(|event| match event {
        Event::FramePieces { kind, pieces, .. } => Some((*kind, pieces.clone())),
        _ => None,
    });
    let (kind, pieces) = pieces.expect("waited for");
    assert_eq!((kind, pieces.concat()), (20, sent.clone()));
    assert!(pieces.len() > 100, "one for each packet");
    assert_eq!(node.frames().next().expect("Control is gathered").3, sent);
    // Both hold their share of the budget until they are dropped.
    assert_eq!(node.budget.in_use(), (2, 600_000));
    let stats = node.stats();
    assert_eq!(stats.payload_bytes_delivered, 600_000);
    let most = 300_000 + 3 * crate::frame::PIECE_BYTES_MIN as u64;
    assert!(stats.payload_bytes_copied <= most, "{stats:?}");
    node.events.clear();
    assert_eq!(node.budget.in_use(), (0, 0));
}
