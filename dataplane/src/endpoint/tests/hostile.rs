//! Peers that break the rules above TLS: each loses its connection with a reason, is counted, and
//! the node goes on.

use quinn_proto::ConnectionError;

use super::{raw::RawPeer, raw::frame, *};
use crate::{CloseCode, hello::Hello, hello::Role};

const SECONDS: Duration = Duration::from_secs(1);
const NODE: usize = 0;
const RAW: usize = 1;
const HONEST: usize = 2;

/// A node, a hostile peer with a finished handshake (as a trusted validator or as an anonymous
/// client), and an honest client.
fn scene(role: Role) -> Net {
    let mut net = Net::new(1, Faults::default());
    let mut node = config(Some(0), &[0, 1]);
    node.limits.idle_timeout_client = 60 * SECONDS;
    net.add(Node::new(node, 1));
    net.add(RawPeer::new());
    net.add(Node::new(config(None, &[]), 3));
    let now = net.now;
    let own = (role == Role::Validator).then_some(1);
    net.raw(RAW).dial(now, NODE, 0, own);
    assert!(net.run_until(5 * SECONDS, |net| net.raw(RAW).is_connected));
    net
}

/// As `scene`, and the peer has greeted.
fn greeted(role: Role) -> (Net, quinn_proto::StreamId) {
    let mut net = scene(role);
    let stream = net.raw(RAW).greet(role);
    assert!(net.run_until(5 * SECONDS, |net| net.node(NODE).open().len() == 1));
    (net, stream)
}

/// The peer is closed with `code` within `limit`, and an honest client is served afterwards.
fn assert_closed(mut net: Net, code: CloseCode, limit: Duration) {
    assert!(
        net.run_until(limit, |net| net.raw(RAW).lost.is_some()),
        "{code:?}: still connected"
    );
    match net.raw(RAW).lost.clone() {
        Some(ConnectionError::ApplicationClosed(close)) => {
            let got = CloseCode::from_wire(close.error_code.into_inner());
            assert_eq!(got, code, "{close}");
            assert!(!close.reason.is_empty(), "a reason is given");
        }
        other => panic!("{code:?}: {other:?}"),
    }
    let stats = net.node(NODE).stats();
    let counted = match code {
        CloseCode::HandshakeTimeout => stats.handshake_timeouts,
        CloseCode::BadHello => stats.refused_bad_hello,
        CloseCode::WrongChain => stats.refused_wrong_chain,
        CloseCode::WrongVersion => stats.refused_wrong_version,
        CloseCode::FrameTooLong => stats.closed_frame_too_long,
        CloseCode::BadFrame => stats.closed_bad_frame,
        CloseCode::BadStream => stats.closed_bad_stream,
        CloseCode::FrameTimeout => stats.closed_frame_timeout,
        CloseCode::ChannelNotAllowed => stats.closed_channel_not_allowed,
        other => panic!("no test expects {other:?}"),
    };
    assert_eq!(counted, 1, "{code:?} is counted");
    let now = net.now;
    net.node(HONEST).dial(now, NODE, 0, false);
    assert!(net.run_until(5 * SECONDS, |net| !net.node(HONEST).open().is_empty()));
    let (now, conn) = (net.now, net.node(HONEST).open()[0]);
    net.node(HONEST)
        .send(now, conn, Channel::Client, 16, vec![1])
        .unwrap();
    assert!(net.run_until(5 * SECONDS, |net| net.node(NODE).frames().count() > 0));
    net.run_for(30 * SECONDS);
    assert_eq!(
        net.node(NODE).open().len(),
        1,
        "only the honest one is left"
    );
}

#[test]
fn frame_too_long() {
    let (mut net, stream) = greeted(Role::Client);
    let max = Limits::default().client_frame_bytes_max;
    net.raw(RAW)
        .write(stream, &crate::frame::header(16, max + 1));
    assert_closed(net, CloseCode::FrameTooLong, SECONDS);
}

#[test]
fn unknown_frame_version() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).write(stream, &[9, 16, 0, 0, 1, 0, 0, 0, 5]);
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn garbage_on_a_stream() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).write(stream, &[0xff; 300]);
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn reserved_frame_kind() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).write(stream, &frame(15, b"x"));
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn second_hello() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).write(stream, &frame(0, &[0; 40]));
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn truncated_frame() {
    let (mut net, _) = greeted(Role::Validator);
    let mut wire = vec![Channel::Bulk.to_wire()];
    wire.extend_from_slice(&frame(16, &[7; 100])[..50]);
    let stream = net.raw(RAW).open(&wire);
    net.raw(RAW).finish(stream);
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn bulk_stream_without_a_frame() {
    let (mut net, _) = greeted(Role::Validator);
    let stream = net.raw(RAW).open(&[Channel::Bulk.to_wire()]);
    net.raw(RAW).finish(stream);
    assert_closed(net, CloseCode::BadFrame, SECONDS);
}

#[test]
fn bulk_stream_that_ends_within_its_second_frame() {
    let (mut net, _) = greeted(Role::Validator);
    let mut wire = vec![Channel::Bulk.to_wire()];
    wire.extend_from_slice(&frame(16, b"one"));
    wire.extend_from_slice(&frame(16, b"two")[..9]);
    let stream = net.raw(RAW).open(&wire);
    net.raw(RAW).finish(stream);
    assert_closed_after_frame(net, CloseCode::BadFrame);
}

/// As `assert_closed` where a valid frame came before the broken rule.
fn assert_closed_after_frame(mut net: Net, code: CloseCode) {
    net.run_for(SECONDS);
    assert_eq!(net.node(NODE).frames().count(), 1);
    net.node(NODE)
        .events
        .retain(|event| !matches!(event, Event::Frame { .. }));
    assert_closed(net, code, SECONDS);
}

#[test]
fn unknown_stream_type() {
    let (mut net, _) = greeted(Role::Validator);
    net.raw(RAW).open(&[0x7f, 1, 2, 3]);
    assert_closed(net, CloseCode::BadStream, SECONDS);
}

#[test]
fn second_control_stream() {
    let (mut net, _) = greeted(Role::Validator);
    net.raw(RAW).open(&[Channel::Control.to_wire()]);
    assert_closed(net, CloseCode::BadStream, SECONDS);
}

#[test]
fn long_lived_stream_ended() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).finish(stream);
    assert_closed(net, CloseCode::BadStream, SECONDS);
}

#[test]
fn long_lived_stream_reset() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW)
        .quic()
        .send_stream(stream)
        .reset(3u32.into())
        .unwrap();
    assert_closed(net, CloseCode::BadStream, SECONDS);
}

#[test]
fn bulk_of_an_anonymous_client() {
    let (mut net, _) = greeted(Role::Client);
    let mut wire = vec![Channel::Bulk.to_wire()];
    wire.extend_from_slice(&frame(16, b"x"));
    net.raw(RAW).open(&wire);
    assert_closed(net, CloseCode::ChannelNotAllowed, SECONDS);
}

#[test]
fn control_of_an_anonymous_client() {
    let mut net = scene(Role::Client);
    net.raw(RAW).open(&[Channel::Control.to_wire()]);
    assert_closed(net, CloseCode::ChannelNotAllowed, SECONDS);
}

#[test]
fn no_greeting() {
    let net = scene(Role::Client);
    assert_closed(net, CloseCode::HandshakeTimeout, 11 * SECONDS);
}

#[test]
fn frame_before_the_greeting() {
    let mut net = scene(Role::Client);
    let mut wire = vec![Channel::Client.to_wire()];
    wire.extend_from_slice(&frame(16, b"x"));
    net.raw(RAW).open(&wire);
    assert_closed(net, CloseCode::BadHello, SECONDS);
}

/// Greets with a changed byte.
fn greet_changed(role: Role, at: usize) -> Net {
    let mut net = scene(role);
    let hello = Hello {
        chain_id: CHAIN,
        role,
    };
    let mut payload = hello.encode();
    payload[at] ^= 3;
    let channel = match role {
        Role::Validator => Channel::Control,
        Role::Client => Channel::Client,
    };
    let mut wire = vec![channel.to_wire()];
    wire.extend_from_slice(&frame(0, &payload));
    net.raw(RAW).open(&wire);
    net
}

#[test]
fn greeting_of_another_version() {
    let net = greet_changed(Role::Client, 0);
    assert_closed(net, CloseCode::WrongVersion, SECONDS);
}

#[test]
fn greeting_for_another_chain() {
    let net = greet_changed(Role::Validator, 20);
    assert_closed(net, CloseCode::WrongChain, SECONDS);
}

#[test]
fn client_that_claims_to_be_a_validator() {
    let net = greet_changed(Role::Client, 2);
    assert_closed(net, CloseCode::BadHello, SECONDS);
}

#[test]
fn frame_never_finished() {
    let (mut net, stream) = greeted(Role::Client);
    net.raw(RAW).write(stream, &frame(16, &[7; 1000])[..500]);
    net.run_for(9 * SECONDS);
    assert!(net.raw(RAW).lost.is_none(), "it has ten seconds");
    assert_closed(net, CloseCode::FrameTimeout, 3 * SECONDS);
}

#[test]
fn bulk_stream_never_begun() {
    let (mut net, _) = greeted(Role::Validator);
    net.raw(RAW).open(&[Channel::Bulk.to_wire()]);
    assert_closed(net, CloseCode::FrameTimeout, 12 * SECONDS);
}

#[test]
fn one_byte_at_a_time() {
    let (mut net, stream) = greeted(Role::Client);
    let wire = frame(16, &[7; 1000]);
    for byte in &wire[..20] {
        if net.raw(RAW).lost.is_some() {
            break;
        }
        net.raw(RAW).write(stream, &[*byte]);
        net.run_for(SECONDS);
    }
    assert_closed(net, CloseCode::FrameTimeout, SECONDS);
}

#[test]
fn a_peer_that_stops_reading_costs_bounded_memory_and_keeps_its_place_only_while_alive() {
    let (mut net, _) = greeted(Role::Validator);
    let conn = net.node(NODE).open()[0];
    let limits = Limits::default();
    // The peer acknowledges packets and never reads a stream.
    let mut taken = [0usize; 2];
    let channels = [Channel::Bulk, Channel::Control];
    let mut refusals = 0;
    for round in 0..400 {
        for (channel, taken) in channels.iter().zip(&mut taken) {
            let now = net.now;
            match net
                .node(NODE)
                .send(now, conn, *channel, 16, vec![7; 200_000])
            {
                Ok(()) => *taken += 200_000,
                Err(SendError::Full) => refusals += 1,
                Err(other) => panic!("round {round}: {other}"),
            }
        }
        net.run_for(Duration::from_millis(10));
    }
    assert!(refusals > 0, "the queues are bounded");
    let slack = 400_000 + limits.send_window_bytes as usize;
    assert!(taken[0] <= limits.bulk_queue_bytes_max + slack, "{taken:?}");
    assert!(
        taken[1] <= limits.control_queue_bytes_max + slack,
        "{taken:?}"
    );
    // Others are served meanwhile.
    let now = net.now;
    net.node(HONEST).dial(now, NODE, 0, false);
    assert!(net.run_until(SECONDS, |net| !net.node(HONEST).open().is_empty()));
    // And little is sent to someone who takes nothing.
    let sent = |net: &Net| net.carried[&(address(NODE), address(RAW))];
    let before = sent(&net);
    net.run_for(10 * SECONDS);
    assert!(sent(&net) - before < 20_000, "no data, at most keep-alive");
}

#[test]
fn a_peer_that_opens_every_stream_gets_what_is_permitted_and_is_closed() {
    for role in [Role::Validator, Role::Client] {
        let (mut net, _) = greeted(role);
        // Until the credit that its role brings has come.
        net.run_for(SECONDS);
        let mut opened = 1;
        while let Some(id) = net.raw(RAW).quic().streams().open(quinn_proto::Dir::Uni) {
            // A frame begun on each, the longest there is.
            let wire = match role {
                Role::Validator => {
                    let mut wire = vec![Channel::Bulk.to_wire()];
                    wire.extend_from_slice(&crate::frame::header(16, 4 << 20));
                    wire
                }
                Role::Client => vec![],
            };
            if !wire.is_empty() {
                net.raw(RAW).write(id, &wire);
            }
            opened += 1;
        }
        let permitted = match role {
            Role::Validator => Limits::default().bulk_streams_max + 2,
            Role::Client => 2,
        };
        assert_eq!(opened, permitted);
        match role {
            Role::Validator => assert_closed(net, CloseCode::FrameTimeout, 12 * SECONDS),
            Role::Client => {
                net.run_for(30 * SECONDS);
                assert_eq!(
                    net.node(NODE).open().len(),
                    1,
                    "streams without a byte cost nothing"
                );
            }
        }
    }
}

#[test]
fn a_peer_that_sends_complete_frames_byte_by_byte_costs_one_turn_each() {
    let (mut net, stream) = greeted(Role::Client);
    let wire = frame(16, &[7; 40]);
    let before = net.node(NODE).stats().datagrams_in;
    for byte in &wire {
        net.raw(RAW).write(stream, &[*byte]);
        net.run_for(Duration::from_millis(5));
    }
    let stats = net.node(NODE).stats();
    assert_eq!(net.node(NODE).frames().count(), 1, "slow is not forbidden");
    let datagrams = stats.datagrams_in - before;
    assert!(datagrams <= 3 * wire.len() as u64, "{datagrams}");
    assert_eq!(stats.payload_bytes_copied, 40, "each byte copied once");
}
