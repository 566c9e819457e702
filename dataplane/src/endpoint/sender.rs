//! The sending half of one connection: queues by channel, written to QUIC streams as fast as
//! flow control and the send window permit.
//!
//! Frames that wait together leave together: those of Control and of Client are joined on their
//! streams, small ones of Bulk share a stream. What waits follows from the load, so a frame that
//! comes alone is not held, and a busy connection fills its packets. Only small Bulk frames may be
//! held to fill a packet, where the application permits it, and never behind others that leave.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId};

use super::{
    chunks::{Arena, Chunks, Progress},
    core::Core,
    hold::Hold,
};
use crate::{Channel, CloseCode, Payload, frame::HEADER_BYTES, send::ConnBudget, stats::Count};

/// What makes the connection unusable for sending.
pub(super) type Failure = (CloseCode, String);

/// The sending half.
pub(super) struct Sender {
    control: Ordered,
    client: Ordered,
    bulk: Bulk,
    arena: Arena,
}

impl Sender {
    pub(super) fn new() -> Self {
        Sender {
            control: Ordered::new(Channel::Control),
            client: Ordered::new(Channel::Client),
            bulk: Bulk::default(),
            arena: Arena::default(),
        }
    }

    /// Queues a frame. The caller has checked kind, length and budget.
    pub(super) fn push(&mut self, now: Instant, channel: Channel, kind: u8, payload: Payload) {
        match channel {
            Channel::Control => self.control.queue.push_back((kind, payload)),
            Channel::Client => self.client.queue.push_back((kind, payload)),
            Channel::Bulk => {
                self.bulk.queue.push_back((kind, payload));
                self.bulk.hold.pushed(now);
            }
        }
    }

    /// Until when small Bulk frames wait for company.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.bulk.hold.until()
    }

    /// Queues the greeting, which no budget covers.
    pub(super) fn push_hello(&mut self, channel: Channel, kind: u8, payload: Payload) {
        let ordered = match channel {
            Channel::Control => &mut self.control,
            Channel::Client => &mut self.client,
            Channel::Bulk => unreachable!("a greeting never goes on Bulk"),
        };
        assert!(ordered.queue.is_empty(), "the greeting comes first");
        ordered.queue.push_back((kind, payload));
        ordered.unbudgeted = 1;
    }

    /// Writes what can be written, the urgent first.
    pub(super) fn flush(
        &mut self,
        now: Instant,
        quic: &mut Connection,
        send_window_bytes: u64,
        budget: &ConnBudget,
        core: &mut Core,
    ) -> Result<(), Failure> {
        let bulk_window = send_window_bytes - core.limits.send_window_reserve_bytes;
        // A packet that leaves anyway takes small frames along.
        let has_company = !self.control.queue.is_empty() || !self.client.queue.is_empty();
        let arena = &mut self.arena;
        self.control.flush(quic, budget, arena, core)?;
        self.client.flush(quic, budget, arena, core)?;
        if !has_company && self.bulk.is_held(now, quic, core) {
            return Ok(());
        }
        self.bulk.hold.release();
        self.bulk.flush(quic, bulk_window, budget, arena, core)?;
        if self.bulk.queue.is_empty() {
            self.bulk.hold.end();
        }
        Ok(())
    }

    /// A stream of ours is done: acknowledged in full, or stopped by the peer.
    pub(super) fn stream_ended(&mut self, id: StreamId) -> Result<(), Failure> {
        if self.control.stream == Some(id) || self.client.stream == Some(id) {
            return Err((
                CloseCode::BadStream,
                "the peer stopped a long-lived stream".into(),
            ));
        }
        self.bulk.ended(id);
        Ok(())
    }
}

/// A long-lived stream.
struct Ordered {
    channel: Channel,
    stream: Option<StreamId>,
    queue: VecDeque<(u8, Payload)>,
    /// Frames at the front of the queue that no budget covers.
    unbudgeted: usize,
    chunks: Chunks,
}

/// Frames are joined into one write up to this size, bytes.
const WRITE_BYTES: usize = 64 << 10;

impl Ordered {
    fn new(channel: Channel) -> Self {
        Ordered {
            channel,
            stream: None,
            queue: VecDeque::new(),
            unbudgeted: 0,
            chunks: Chunks::default(),
        }
    }

    fn flush(
        &mut self,
        quic: &mut Connection,
        budget: &ConnBudget,
        arena: &mut Arena,
        core: &Core,
    ) -> Result<(), Failure> {
        if self.queue.is_empty() && self.chunks.bytes() == 0 {
            return Ok(());
        }
        let id = match self.stream {
            Some(id) => id,
            None => {
                let Some(id) = open(quic, self.channel) else {
                    return Ok(());
                };
                self.chunks.push(type_byte(self.channel));
                *self.stream.insert(id)
            }
        };
        loop {
            while self.chunks.bytes() < WRITE_BYTES
                && let Some((kind, payload)) = self.queue.pop_front()
            {
                let len = payload.len();
                self.chunks.push_frame(arena, kind, payload);
                if self.unbudgeted > 0 {
                    self.unbudgeted -= 1;
                } else {
                    budget.give_back(self.channel, len);
                    core.stats.frames_out.inc();
                }
            }
            self.chunks.seal(arena);
            match self.chunks.write(quic, id)? {
                Progress::All if self.queue.is_empty() => return Ok(()),
                Progress::All => {}
                Progress::Blocked => return Ok(()),
                Progress::Stopped => {
                    return Err((
                        CloseCode::BadStream,
                        "the peer stopped a long-lived stream".into(),
                    ));
                }
            }
        }
    }
}

/// Bulk frames with payloads up to this length share a stream with those that follow, bytes.
const SHARE_UP_TO_BYTES: usize = 16 << 10;

/// A Bulk stream takes no further frame once it holds this much, bytes.
const STREAM_BYTES: usize = 256 << 10;

/// Streams of one large frame or several small ones.
#[derive(Default)]
struct Bulk {
    queue: VecDeque<(u8, Payload)>,
    /// Streams not yet written in full, at most `bulk_streams_max`.
    writing: Vec<(StreamId, u64, Chunks)>,
    /// Streams written and not yet acknowledged in full, with their lengths.
    unacked: Vec<(StreamId, u64)>,
    /// Bytes in `writing` and `unacked`.
    in_flight_bytes: u64,
    /// Streams opened since none was in flight.
    opened: i32,
    hold: Hold,
}

impl Bulk {
    /// Whether the queue waits for company: small frames that fill no packet, and no stream that
    /// must be written on.
    fn is_held(&mut self, now: Instant, quic: &Connection, core: &Core) -> bool {
        if self.queue.is_empty() || !self.writing.is_empty() {
            return false;
        }
        let packet = usize::from(quic.current_mtu());
        let is_full = || {
            let mut sum = 0;
            self.queue.iter().any(|(_, payload)| {
                sum += HEADER_BYTES + payload.len();
                sum >= packet || payload.len() > SHARE_UP_TO_BYTES
            })
        };
        self.hold.is_on(now, core.flush_after, is_full)
    }

    fn flush(
        &mut self,
        quic: &mut Connection,
        window: u64,
        budget: &ConnBudget,
        arena: &mut Arena,
        core: &Core,
    ) -> Result<(), Failure> {
        loop {
            // In order: an older frame gets the window before a younger one.
            let mut i = 0;
            while i < self.writing.len() {
                let (id, len, chunks) = &mut self.writing[i];
                match chunks.write(quic, *id)? {
                    Progress::All => {
                        // Fails only when the peer stopped it meanwhile; `ended` comes then.
                        let _ = quic.send_stream(*id).finish();
                        self.unacked.push((*id, *len));
                    }
                    Progress::Blocked => {
                        i += 1;
                        continue;
                    }
                    Progress::Stopped => self.in_flight_bytes -= *len,
                }
                self.writing.remove(i);
            }
            let (frames, len) = self.next_stream();
            if frames == 0
                || self.writing.len() >= core.limits.bulk_streams_max as usize
                || (self.in_flight_bytes > 0 && self.in_flight_bytes + len > window)
            {
                return Ok(());
            }
            if self.in_flight_bytes == 0 {
                self.opened = 0;
            }
            // A frame finished early is worth more than many frames half done, so an older stream
            // goes first. (quinn-proto without fairness would do the same, but not let Control pass
            // a stream that is begun.)
            let priority = Channel::Bulk.priority().saturating_sub(self.opened);
            let Some(id) = open_at(quic, priority) else {
                return Ok(());
            };
            self.opened = self.opened.saturating_add(1);
            let mut chunks = Chunks::default();
            chunks.push(type_byte(Channel::Bulk));
            for (kind, payload) in self.queue.drain(..frames) {
                budget.give_back(Channel::Bulk, payload.len());
                chunks.push_frame(arena, kind, payload);
            }
            chunks.seal(arena);
            assert_eq!(chunks.bytes() as u64, len, "counted before");
            core.stats.frames_out.add(frames as u64);
            core.stats.bulk_streams_out.inc();
            self.in_flight_bytes += len;
            self.writing.push((id, len, chunks));
        }
    }

    /// How many frames from the front of the queue go on the next stream, and their bytes there.
    fn next_stream(&self) -> (usize, u64) {
        let (mut frames, mut len) = (0, 1);
        for (_, payload) in &self.queue {
            let payload = payload.len();
            if frames > 0 && (payload > SHARE_UP_TO_BYTES || len >= STREAM_BYTES) {
                break;
            }
            frames += 1;
            len += HEADER_BYTES + payload;
            if payload > SHARE_UP_TO_BYTES {
                break;
            }
        }
        (frames, len as u64)
    }

    fn ended(&mut self, id: StreamId) {
        if let Some(at) = self.unacked.iter().position(|(stream, _)| *stream == id) {
            let (_, len) = self.unacked.swap_remove(at);
            self.in_flight_bytes -= len;
        } else if let Some(at) = self.writing.iter().position(|(stream, ..)| *stream == id) {
            let (_, len, _) = self.writing.remove(at);
            self.in_flight_bytes -= len;
        }
    }
}

fn type_byte(channel: Channel) -> Bytes {
    const TYPES: &[u8] = &[1, 2, 3];
    let piece = Bytes::from_static(&TYPES[channel.index()..=channel.index()]);
    assert_eq!(piece[0], channel.to_wire(), "stream type table");
    piece
}

fn open(quic: &mut Connection, channel: Channel) -> Option<StreamId> {
    open_at(quic, channel.priority())
}

fn open_at(quic: &mut Connection, priority: i32) -> Option<StreamId> {
    let id = quic.streams().open(Dir::Uni)?;
    quic.send_stream(id)
        .set_priority(priority)
        .expect("a stream just opened exists");
    Some(id)
}
