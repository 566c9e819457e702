//! How much the heap is used in steady state, counted by the allocator for each thread.
//!
//! What is ours alone (receive pool and backend, frame codec) is driven by itself and must not
//! allocate at all. The whole endpoint is compared with bare quinn-proto moving the same streams in
//! memory, which says how much of the rest is QUIC's.

mod bare;
mod counting;
mod exchange;

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use falconet_dataplane::{
    Backend, BindError, Channel, IoOptions,
    frame::{self, FrameDecoder, SmallCopies},
    measure,
};

use self::{
    bare::baseline,
    counting::allocations,
    exchange::{BULK, Load, SMALL, exchange},
};

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
    let (mut decoder, mut copies) = (FrameDecoder::new(1 << 20, 256), SmallCopies::default());
    let before = allocations();
    let mut frames = 0;
    while let Some(frame) = decoder.next_frame(&mut chunk, &mut copies).unwrap() {
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
    let (mut decoder, mut copies) = (FrameDecoder::new(1 << 20, 256), SmallCopies::default());
    let before = allocations();
    let mut whole = None;
    while !wire.is_empty() {
        let mut piece = wire.split_to(wire.len().min(1200));
        whole = decoder
            .next_frame(&mut piece, &mut copies)
            .unwrap()
            .or(whole);
    }
    // The second makes the payload a `Bytes`.
    let allocated = allocations() - before;
    assert!(allocated <= 2, "{allocated}");
    assert_eq!(whole.unwrap().payload, payload);
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
        let datagrams = ours.datagrams;
        let allowed =
            (bare.of_datagram() + SPARE_OF_DATAGRAM) * datagrams + caused as f64 + SPARE_OF_WINDOW;
        println!(
            "{load:?}, {side}: {:.2} allocations for a window of {datagrams:.1} datagrams, \
             {allowed:.2} allowed; bare quinn-proto {:.2} ({:.2} for a datagram)",
            ours.allocations,
            bare.allocations,
            bare.of_datagram(),
        );
        assert!(ours.allocations <= allowed, "{side}");
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
fn small_frames_cost_nothing_at_the_receiver() {
    compare(SMALL, [0, 0]);
}
