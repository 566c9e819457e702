//! Connections that end while they begin, at every packet of the handshake.

use super::*;

/// Shorter than QUIC's own timers, so that it is this one which ends the connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// A node that something happens to between a packet and the turn that acts on it.
struct Interrupted {
    node: Node,
    /// Packets until then.
    left: usize,
    what: fn(&mut Node, Instant),
}

impl Host for Interrupted {
    fn datagram(&mut self, now: Instant, from: SocketAddrV6, data: BytesMut) {
        self.node.datagram(now, from, data);
        self.left = self.left.wrapping_sub(1);
        if self.left == 0 {
            (self.what)(&mut self.node, now);
        }
    }

    fn timeout(&mut self, now: Instant) {
        self.node.timeout(now);
    }

    fn next_timeout(&mut self) -> Option<Instant> {
        self.node.next_timeout()
    }

    fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.node.transmit(now, buf)
    }

    fn as_node(&mut self) -> Option<&mut Node> {
        Some(&mut self.node)
    }
}

/// Lets a client dial a server, of which `interrupted` meets `what` after so many packets from the
/// other. Says whether the handshake was over by then.
fn interrupt(interrupted: usize, after: usize, what: fn(&mut Node, Instant)) -> bool {
    let mut net = Net::new(7, Faults::default());
    for index in 0..2 {
        let mut config = config(Some(index), &[0, 1]);
        config.limits.handshake_timeout = HANDSHAKE_TIMEOUT;
        let node = Node::new(config, index as u8);
        if index == interrupted {
            let left = after;
            net.add(Interrupted { node, left, what });
        } else {
            net.add(node);
        }
    }
    let now = net.now;
    net.node(0).dial(now, 1, 1, false);
    net.run_for(Duration::from_secs(60));
    let connected = |event: &Event| matches!(event, Event::Connected { .. });
    let node = net.node(interrupted);
    let was_open = node.events.iter().any(connected);
    assert_eq!(node.stats().connections_handshaking, 0, "after {after}");
    assert_eq!(node.open(), [], "after {after}");
    was_open
}

/// At every packet of a handshake, and some more.
fn at_every_packet(what: fn(&mut Node, Instant)) {
    for interrupted in [0, 1] {
        let over = (1..).find(|after| interrupt(interrupted, *after, what));
        assert!(over.unwrap() > 2, "a handshake takes packets");
    }
}

#[test]
fn an_endpoint_stops_at_any_packet_of_a_handshake() {
    at_every_packet(|node, now| node.command(now, Command::Shutdown));
}

#[test]
fn a_handshakes_time_is_up_at_any_of_its_packets() {
    at_every_packet(|node, now| {
        // The machine stood still between the packet and the turn.
        let late = now + HANDSHAKE_TIMEOUT;
        node.endpoint.handle_timeout(late);
        node.endpoint.advance(late);
        // Connections that were open by then are of no interest.
        node.command(late, Command::Shutdown);
    });
}
