//! How much the heap is used in steady state, counted by the allocator for each thread.
//!
//! What is ours alone (receive pool and backend, frame codec) is driven by itself and must not
//! allocate at all. The whole endpoint is compared with bare quinn-proto moving the same streams in
//! memory, which says how much of the rest is QUIC's.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::{SocketAddr, SocketAddrV6, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, bounded};
use falconet_crypto::{
    falcon::{KeyPair, Scheme},
    hash::Digest,
};
use falconet_dataplane::{
    Backend, BindError, Channel, ConnId, Event, IoOptions, MTU_LOOPBACK, PeerTarget, StatsSnapshot,
    Stoq, StoqConfig, StoqHandle, TrustedKeys,
    frame::{self, FrameDecoder},
    measure, tls,
};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint,
    EndpointConfig, MtuDiscoveryConfig, ServerConfig, StreamId, TransportConfig,
};

/// Counts allocations of the calling thread; growing in place counts as one.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends may allocate after its counter is gone; nobody asks then.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// Allocations of this thread so far.
fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: every call goes to the system allocator unchanged; the counter is a plain cell of the
// thread, initialised without allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; the block came from the system allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises; the block came from the system allocator.
        unsafe { System.realloc(block, layout, len) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_allocator_counts() {
    let before = allocations();
    let block = std::hint::black_box(Box::new([0u8; 64]));
    assert_eq!(allocations(), before + 1);
    drop(block);
    assert_eq!(allocations(), before + 1);
}

#[test]
fn receiving_allocates_nothing() {
    for backend in [Backend::IoUring, Backend::Mmsg, Backend::Plain] {
        let options = IoOptions {
            backend,
            ..IoOptions::default()
        };
        // Nobody else's: the receiver reports no address, so one is found for it.
        let free = UdpSocket::bind("[::1]:0").unwrap();
        let SocketAddr::V6(addr) = free.local_addr().unwrap() else {
            unreachable!("bound to IPv6");
        };
        drop(free);
        let mut receiver = match measure::Receiver::open(addr, &options) {
            Ok(receiver) => receiver,
            Err(BindError::Backend { backend, reason }) => {
                println!("skipped for {backend}: {reason}");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let done = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let done = done.clone();
            move || {
                let socket = UdpSocket::bind("[::1]:0").unwrap();
                let datagram = vec![7; 1400];
                while !done.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        let _ = socket.send_to(&datagram, addr);
                    }
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let mut receive = |datagrams: u64| {
            let mut received = 0;
            while received < datagrams {
                let (time, patience) = (Duration::from_millis(5), Duration::from_secs(3600));
                received += receiver.receive(time, patience).unwrap().datagrams;
            }
            received
        };
        // All slabs are allocated, and used again, after a few times their sum.
        receive(20_000);
        let before = allocations();
        let received = receive(20_000);
        let allocated = allocations() - before;
        done.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        println!(
            "{}: {allocated} for {received} datagrams",
            receiver.backend()
        );
        assert_eq!(allocated, 0, "{}", receiver.backend());
        let stats = receiver.stats();
        assert!(stats.pool_buffers_recycled > 0, "slabs were not used again");
        assert_eq!(stats.payload_bytes_copied, 0);
    }
}

#[test]
fn frames_within_a_piece_are_decoded_without_allocating() {
    const FRAMES: usize = 1000;
    let mut wire = Vec::new();
    for i in 0..FRAMES {
        let payload = vec![i as u8; 256 + i];
        wire.extend_from_slice(&frame::header(16, payload.len() as u32));
        wire.extend_from_slice(&payload);
    }
    let mut chunk = Bytes::from(wire);
    // The first slice makes the buffer shared, once.
    let _shared = chunk.slice(..1);
    let mut decoder = FrameDecoder::new(1 << 20, 256);
    let before = allocations();
    let mut frames = 0;
    while let Some(frame) = decoder.next_frame(&mut chunk).unwrap() {
        assert_eq!(frame.payload.len(), 256 + frames);
        frames += 1;
    }
    assert_eq!(allocations(), before);
    assert_eq!((frames, decoder.take_copied_bytes()), (FRAMES, 0));
}

#[test]
fn a_frame_in_many_pieces_is_gathered_with_one_allocation() {
    let payload = vec![3; 1 << 20];
    let mut wire = frame::header(16, payload.len() as u32).to_vec();
    wire.extend_from_slice(&payload);
    let mut wire = Bytes::from(wire);
    let _shared = wire.slice(..1);
    let mut decoder = FrameDecoder::new(1 << 20, 256);
    let before = allocations();
    let mut whole = None;
    while !wire.is_empty() {
        let mut piece = wire.split_to(wire.len().min(1200));
        whole = decoder.next_frame(&mut piece).unwrap().or(whole);
    }
    // The second makes the payload a `Bytes`.
    let allocated = allocations() - before;
    assert!(allocated <= 2, "{allocated}");
    assert_eq!(whole.unwrap().payload, payload);
}

/// Frames that go one way before the other side asks for more.
#[derive(Clone, Copy, Debug)]
struct Load {
    channel: Channel,
    frame_bytes: usize,
    frames: usize,
}

const BULK: Load = Load {
    channel: Channel::Bulk,
    frame_bytes: 512 << 10,
    frames: 8,
};

const SMALL: Load = Load {
    channel: Channel::Control,
    frame_bytes: 300,
    frames: 400,
};

/// Windows of a load before and while it is measured. Queues and buffers have grown by then.
const WARM_UP: usize = 150;
const MEASURED: usize = 300;

/// What moving a load cost one side.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    allocations: u64,
    datagrams: u64,
}

impl Cost {
    fn of_window(self) -> f64 {
        self.allocations as f64 / MEASURED as f64
    }

    fn of_datagram(self) -> f64 {
        self.allocations as f64 / self.datagrams as f64
    }
}

/// Takes the difference between the end of the warm-up and the end.
#[derive(Default)]
struct Meter {
    windows: usize,
    from: Cost,
}

impl Meter {
    /// A window is over; the cost of the measured ones when those are.
    fn window(&mut self, datagrams: u64) -> Option<Cost> {
        self.windows += 1;
        let now = Cost {
            allocations: allocations(),
            datagrams,
        };
        if self.windows == WARM_UP {
            self.from = now;
        }
        (self.windows == WARM_UP + MEASURED).then(|| Cost {
            allocations: now.allocations - self.from.allocations,
            datagrams: now.datagrams - self.from.datagrams,
        })
    }
}

const GO_ON: u8 = 17;
const FRAME: u8 = 16;

fn key(seed: u8) -> Arc<KeyPair> {
    Arc::new(KeyPair::from_seed(Scheme::Falcon512, &[seed; 32]))
}

/// Moves a load between two endpoints over loopback. Both consume in their network threads, where
/// the counting is done; returns the costs of the sender and of the receiver, and what the
/// receiver counted meanwhile.
fn exchange(load: Load) -> (Cost, Cost, StatsSnapshot) {
    let keys = [key(1), key(2)];
    let trusted = TrustedKeys::new(keys.iter().map(|pair| pair.public()));
    let config = |own: usize| {
        let mut config = StoqConfig::new("[::1]:0".parse().unwrap(), Digest([0xc4; 32]));
        config.identity = Some(keys[own].clone());
        config.trusted = trusted.clone();
        config
    };
    let (results, result): (Sender<(bool, Cost)>, Receiver<_>) = bounded(2);
    let datagrams = |stoq: &StoqHandle| {
        let stats = stoq.stats();
        stats.datagrams_in + stats.datagrams_out
    };

    let receiver = {
        let state = Mutex::new((0, Meter::default()));
        let results = results.clone();
        Stoq::bind_with_handler(config(1), move |stoq: &StoqHandle, event: Event| {
            let Event::Frame {
                conn,
                kind,
                payload,
                ..
            } = event
            else {
                return;
            };
            assert_eq!((kind, payload.len()), (FRAME, load.frame_bytes));
            let (frames, meter) = &mut *state.lock().unwrap();
            *frames += 1;
            if *frames < load.frames {
                return;
            }
            *frames = 0;
            if let Some(cost) = meter.window(datagrams(stoq)) {
                results.send((false, cost)).unwrap();
            }
            stoq.send(conn, Channel::Control, GO_ON, Bytes::from_static(b"more"))
                .unwrap();
        })
        .unwrap()
    };
    let sender = {
        let meter = Mutex::new(Meter::default());
        let payload = Bytes::from(vec![5; load.frame_bytes]);
        let window = move |stoq: &StoqHandle, conn: ConnId| {
            for _ in 0..load.frames {
                stoq.send(conn, load.channel, FRAME, payload.clone())
                    .unwrap();
            }
        };
        Stoq::bind_with_handler(
            config(0),
            move |stoq: &StoqHandle, event: Event| match event {
                Event::Connected { conn, .. } => window(stoq, conn),
                Event::Frame { conn, kind, .. } => {
                    assert_eq!(kind, GO_ON);
                    match meter.lock().unwrap().window(datagrams(stoq)) {
                        Some(cost) => results.send((true, cost)).unwrap(),
                        None => window(stoq, conn),
                    }
                }
                _ => {}
            },
        )
        .unwrap()
    };
    sender
        .handle()
        .connect(PeerTarget {
            addr: receiver.local_addr(),
            key: keys[1].public().clone(),
            persistent: true,
        })
        .unwrap();
    let mut costs = [Cost::default(); 2];
    for _ in 0..2 {
        let (is_sender, cost) = result.recv().expect("both sides finish");
        costs[usize::from(is_sender)] = cost;
    }
    (costs[1], costs[0], receiver.handle().stats())
}

/// Bare quinn-proto, in memory and in virtual time, with buffers used again.
struct Bare {
    endpoint: Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    addr: SocketAddrV6,
    transmit: Vec<u8>,
    /// Where received datagrams are cut from.
    slab: BytesMut,
    cost: Cost,
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
            cost: Cost::default(),
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
fn baseline(load: Load) -> (Cost, Cost) {
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
    let mut from = [Cost::default(); 2];
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
    let spent = |side: &Bare, from: Cost| Cost {
        allocations: side.cost.allocations - from.allocations,
        datagrams: side.cost.datagrams - from.datagrams,
    };
    (spent(&client, from[0]), spent(&server, from[1]))
}

/// Payloads below 4 KiB are joined in blocks of this size, two allocations each, bytes.
const JOINED_BYTES: usize = 64 << 10;

/// Allocations of ours beyond QUIC's and those that have a cause: some for a window, and one for
/// so many datagrams. Lists and queues that grow a little more.
const SPARE_OF_WINDOW: f64 = 4.0;
const SPARE_OF_DATAGRAM: f64 = 1.0 / 8.0;

/// Compares the endpoint with bare quinn-proto. What ours may allocate besides is `of_frame` for
/// each frame, sender and receiver, and the blocks of joined small frames.
fn compare(load: Load, of_frame: [usize; 2]) {
    let (sender, receiver, stats) = exchange(load);
    let (bare_sender, bare_receiver) = baseline(load);
    let blocks = match load.channel {
        Channel::Bulk => 0,
        _ => (load.frames * (load.frame_bytes + frame::HEADER_BYTES)).div_ceil(JOINED_BYTES),
    };
    let sides = [
        (
            "sender",
            sender,
            bare_sender,
            of_frame[0] * load.frames + 2 * blocks,
        ),
        (
            "receiver",
            receiver,
            bare_receiver,
            of_frame[1] * load.frames,
        ),
    ];
    for (side, ours, bare, caused) in sides {
        let datagrams = ours.datagrams as f64 / MEASURED as f64;
        let allowed =
            (bare.of_datagram() + SPARE_OF_DATAGRAM) * datagrams + caused as f64 + SPARE_OF_WINDOW;
        println!(
            "{load:?}, {side}: {:.2} allocations for a window of {datagrams:.1} datagrams, \
             {allowed:.2} allowed; bare quinn-proto {:.2} ({:.2} for a datagram)",
            ours.of_window(),
            bare.of_window(),
            bare.of_datagram(),
        );
        assert!(ours.of_window() <= allowed, "{side}");
    }
    assert_eq!(stats.pool_exhausted, 0, "slabs come back in time");
    let copies = stats.copies_per_byte().expect("frames came");
    assert!(copies <= 1.0, "{copies} copies for each byte");
    assert!(stats.pool_buffers_recycled > stats.pool_buffers_allocated);
}

#[test]
fn bulk_frames_cost_little_more_than_their_packets() {
    // The sender's lists of pieces, ours and QUIC's, are longer by the header; the receiver gathers.
    compare(BULK, [2, 1]);
}

#[test]
fn small_frames_cost_one_copy_at_the_receiver() {
    compare(SMALL, [0, 1]);
}
