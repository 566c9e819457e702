//! A peer that speaks QUIC and our TLS correctly and everything above as the test wishes.

use std::{net::SocketAddr, sync::Arc};

use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir,
    EndpointConfig, Event, StreamId, TransportConfig,
};

use super::*;
use crate::{hello::Hello, hello::Role, tls};

/// The peer.
pub(in super::super) struct RawPeer {
    endpoint: quinn_proto::Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    pub(super) is_connected: bool,
    pub(super) lost: Option<ConnectionError>,
}

impl RawPeer {
    pub(super) fn new() -> Self {
        let config = Arc::new(EndpointConfig::default());
        RawPeer {
            endpoint: quinn_proto::Endpoint::new(config, None, true, None),
            conn: None,
            is_connected: false,
            lost: None,
        }
    }

    /// Dials `to`, which owns key `server`, with or without a key of its own.
    pub(super) fn dial(&mut self, now: Instant, to: usize, server: usize, own: Option<usize>) {
        let own = own.map(key);
        let crypto = tls::client_config(own.as_ref(), key(server).public()).unwrap();
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        transport.initial_mtu(1232).mtu_discovery_config(None);
        transport.keep_alive_interval(Some(Duration::from_secs(3)));
        config.transport_config(Arc::new(transport));
        let addr = SocketAddr::V6(address(to));
        let conn = self.endpoint.connect(now, config, addr, "stoq").unwrap();
        self.conn = Some(conn);
    }

    pub(super) fn quic(&mut self) -> &mut Connection {
        &mut self.conn.as_mut().expect("dialled").1
    }

    /// Opens a stream and writes `data`.
    pub(super) fn open(&mut self, data: &[u8]) -> StreamId {
        let quic = self.quic();
        let id = quic.streams().open(Dir::Uni).expect("stream credit");
        self.write(id, data);
        id
    }

    pub(super) fn write(&mut self, id: StreamId, data: &[u8]) {
        let written = self.quic().send_stream(id).write(data).expect("writable");
        assert_eq!(written, data.len(), "the window is too small for the test");
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        self.quic().send_stream(id).finish().expect("open");
    }

    /// Greets as an honest peer would; returns the greeting's stream.
    pub(super) fn greet(&mut self, role: Role) -> StreamId {
        let channel = match role {
            Role::Validator => Channel::Control,
            Role::Client => Channel::Client,
        };
        let hello = Hello {
            chain_id: CHAIN,
            role,
        };
        let mut data = vec![channel.to_wire()];
        data.extend_from_slice(&frame(0, &hello.encode()));
        self.open(&data)
    }
}

/// A frame on the wire.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = crate::frame::header(kind, payload.len() as u32).to_vec();
    wire.extend_from_slice(payload);
    wire
}

impl Host for RawPeer {
    fn datagram(&mut self, now: Instant, from: SocketAddrV6, data: BytesMut) {
        let mut response = Vec::new();
        let from = SocketAddr::V6(from);
        let event = self
            .endpoint
            .handle(now, from, None, None, data, &mut response);
        if let (Some(DatagramEvent::ConnectionEvent(_, event)), Some((_, conn))) =
            (event, &mut self.conn)
        {
            conn.handle_event(event);
        }
    }

    fn timeout(&mut self, now: Instant) {
        let Some((handle, conn)) = &mut self.conn else {
            return;
        };
        if conn.poll_timeout().is_some_and(|at| at <= now) {
            conn.handle_timeout(now);
        }
        while let Some(event) = conn.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
        while let Some(event) = conn.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                conn.handle_event(event);
            }
        }
    }

    fn next_timeout(&mut self) -> Option<Instant> {
        self.conn.as_mut()?.1.poll_timeout()
    }

    fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.conn.as_mut()?.1.poll_transmit(now, 1, buf)
    }

    fn as_raw(&mut self) -> Option<&mut RawPeer> {
        Some(self)
    }
}
