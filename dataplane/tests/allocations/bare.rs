//! The same load over bare quinn-proto in memory: what of the cost is QUIC's.

use std::{
    net::SocketAddrV6,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use falconet_dataplane::{Channel, MTU_LOOPBACK, TrustedKeys, frame, tls};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, MtuDiscoveryConfig, ServerConfig, StreamId, TransportConfig,
};

use crate::{
    counting::allocations,
    exchange::{Cost, Load, MEASURED, Spent, WARM_UP, key},
};

/// Bare quinn-proto, in memory and in virtual time, with buffers used again.
struct Bare {
    endpoint: Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    addr: SocketAddrV6,
    transmit: Vec<u8>,
    /// Where received datagrams are cut from.
    slab: BytesMut,
    cost: Spent,
    /// The stream that asks for more, and that of small frames.
    long_lived: Option<StreamId>,
    received: usize,
}

const SLAB_BYTES: usize = 256 << 10;

impl Bare {
    fn new(addr: &str, server: Option<ServerConfig>) -> Self {
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(65_527).unwrap();
        Bare {
            endpoint: Endpoint::new(Arc::new(config), server.map(Arc::new), true, None),
            conn: None,
            addr: addr.parse().unwrap(),
            transmit: Vec::with_capacity(SLAB_BYTES),
            slab: BytesMut::with_capacity(SLAB_BYTES),
            cost: Spent::default(),
            long_lived: None,
            received: 0,
        }
    }

    /// Charges this side with what `work` allocates.
    fn charged<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = allocations();
        let result = work(self);
        self.cost.allocations += allocations() - before;
        result
    }

    fn quic(&mut self) -> &mut Connection {
        &mut self.conn.as_mut().expect("connected").1
    }

    fn receive(&mut self, now: Instant, from: SocketAddrV6, datagram: &[u8]) {
        if self.slab.capacity() - self.slab.len() < datagram.len()
            && !self.slab.try_reclaim(SLAB_BYTES)
        {
            self.slab = BytesMut::with_capacity(SLAB_BYTES);
        }
        self.slab.extend_from_slice(datagram);
        let data = self.slab.split();
        self.charged(|side| {
            let mut response = std::mem::take(&mut side.transmit);
            let event = side
                .endpoint
                .handle(now, from.into(), None, None, data, &mut response);
            match event {
                Some(DatagramEvent::ConnectionEvent(_, event)) => side.quic().handle_event(event),
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = side.endpoint.accept(incoming, now, &mut response, None);
                    side.conn = accepted.ok();
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
            side.transmit = response;
        });
        self.cost.datagrams += 1;
    }

    /// Writes one window of frames.
    fn write(&mut self, load: Load, frame: &Bytes) {
        self.charged(|side| match load.channel {
            Channel::Bulk => {
                for _ in 0..load.frames {
                    let id = side
                        .quic()
                        .streams()
                        .open(Dir::Uni)
                        .expect("enough streams");
                    let mut stream = side.quic().send_stream(id);
                    let written = stream.write_chunks(&mut [frame.clone()]).unwrap();
                    assert_eq!(written.bytes, frame.len());
                    stream.finish().unwrap();
                }
            }
            // Joined beforehand, as one piece.
            _ => side.write_long_lived(frame),
        });
    }

    fn write_long_lived(&mut self, piece: &Bytes) {
        if self.long_lived.is_none() {
            self.long_lived = self.quic().streams().open(Dir::Uni);
        }
        let id = self.long_lived.expect("one stream is permitted");
        let written = self
            .quic()
            .send_stream(id)
            .write_chunks(&mut [piece.clone()]);
        assert_eq!(written.unwrap().bytes, piece.len());
    }

    /// Reads everything there is.
    fn read(&mut self, streams: &mut Vec<StreamId>) {
        self.charged(|side| {
            let (_, quic) = side.conn.as_mut().expect("connected");
            while quic.poll().is_some() {}
            while let Some(id) = quic.streams().accept(Dir::Uni) {
                streams.push(id);
            }
            streams.retain(|id| {
                let mut stream = quic.recv_stream(*id);
                let Ok(mut chunks) = stream.read(true) else {
                    return false;
                };
                let is_open = loop {
                    match chunks.next(usize::MAX) {
                        Ok(Some(chunk)) => side.received += chunk.bytes.len(),
                        Ok(None) => break false,
                        Err(_) => break true,
                    }
                };
                let _ = chunks.finalize();
                is_open
            });
        });
    }

    /// Sends everything there is to `peer`; whether there was something.
    fn transmit(&mut self, now: Instant, peer: &mut Bare) -> bool {
        if self.conn.is_none() {
            return false;
        }
        self.charged(|side| {
            let (handle, quic) = side.conn.as_mut().expect("looked at above");
            if quic.poll_timeout().is_some_and(|at| at <= now) {
                quic.handle_timeout(now);
            }
            while let Some(event) = quic.poll_endpoint_events() {
                if let Some(event) = side.endpoint.handle_event(*handle, event) {
                    quic.handle_event(event);
                }
            }
        });
        let mut any = false;
        loop {
            self.transmit.clear();
            let transmit = self.charged(|side| {
                let mut buf = std::mem::take(&mut side.transmit);
                let segments = (65_507 / usize::from(side.quic().current_mtu())).max(1);
                let transmit = side.quic().poll_transmit(now, segments, &mut buf);
                side.transmit = buf;
                transmit
            });
            let Some(transmit) = transmit else {
                return any;
            };
            any = true;
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for datagram in self.transmit[..transmit.size].chunks(segment) {
                self.cost.datagrams += 1;
                if datagram.len() <= usize::from(MTU_LOOPBACK) {
                    peer.receive(now, self.addr, datagram);
                }
            }
        }
    }
}

/// The same load over bare quinn-proto.
pub fn baseline(load: Load) -> (Cost, Cost) {
    let server_key = key(2);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_LOOPBACK);
    let mut ack = AckFrequencyConfig::default();
    ack.ack_eliciting_threshold(2u32.into())
        .max_ack_delay(Some(Duration::from_millis(2)));
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(1232)
        .send_window(24 << 20)
        .stream_receive_window((2u32 << 20).into())
        .receive_window((64u32 << 20).into())
        .ack_frequency_config(Some(ack))
        .mtu_discovery_config(Some(discovery));
    let transport = Arc::new(transport);
    let crypto = tls::server_config(&server_key, &TrustedKeys::default()).unwrap();
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport.clone());
    let mut server = Bare::new("[::1]:2", Some(server));
    let crypto = tls::client_config(None, server_key.public()).unwrap();
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport);
    let mut client = Bare::new("[::1]:1", None);
    let mut now = Instant::now();
    let connection = client
        .endpoint
        .connect(now, config, server.addr.into(), "any")
        .unwrap();
    client.conn = Some(connection);

    // What two sides do until neither has anything to send; a step takes virtual time.
    let mut streams = [Vec::with_capacity(64), Vec::with_capacity(64)];
    let mut settle =
        |client: &mut Bare, server: &mut Bare, until: &dyn Fn(&Bare, &Bare) -> bool| {
            while !until(client, server) {
                now += Duration::from_micros(100);
                client.transmit(now, server);
                server.transmit(now, client);
                for (side, streams) in [&mut *client, &mut *server].into_iter().zip(&mut streams) {
                    if side.conn.is_some() {
                        side.read(streams);
                    }
                }
            }
        };
    settle(&mut client, &mut server, &|client, server| {
        [client, server].iter().all(|side| {
            let conn = side.conn.as_ref();
            conn.is_some_and(|(_, quic)| !quic.is_handshaking())
        })
    });
    let header = frame::HEADER_BYTES;
    let (piece, sum) = match load.channel {
        Channel::Bulk => (
            load.frame_bytes + header,
            (load.frame_bytes + header) * load.frames,
        ),
        _ => {
            let joined = (load.frame_bytes + header) * load.frames;
            (joined, joined)
        }
    };
    let piece = Bytes::from(vec![5; piece]);
    let more = Bytes::from_static(b"header..more");
    let mut from = [Spent::default(); 2];
    for window in 0..WARM_UP + MEASURED {
        if window == WARM_UP {
            from = [client.cost, server.cost];
        }
        (client.received, server.received) = (0, 0);
        client.write(load, &piece);
        settle(&mut client, &mut server, &|_, server| {
            server.received == sum
        });
        server.charged(|side| side.write_long_lived(&more));
        settle(&mut client, &mut server, &|client, _| {
            client.received == more.len()
        });
    }
    let windows = MEASURED as f64;
    let spent = |side: &Bare, from: Spent| Cost {
        allocations: (side.cost.allocations - from.allocations) as f64 / windows,
        datagrams: (side.cost.datagrams - from.datagrams) as f64 / windows,
    };
    (spent(&client, from[0]), spent(&server, from[1]))
}
