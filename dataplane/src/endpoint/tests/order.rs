//! What leaves first when more waits than the path takes.

use super::{exchange::pair, *};

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
