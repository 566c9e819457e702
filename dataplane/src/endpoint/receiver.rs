//! The receiving half of one connection: streams to frames, with every limit checked on the way.

use std::time::Instant;

use bytes::{Buf, Bytes};
use quinn_proto::{Chunk, Chunks, Connection, Dir, ReadError, ReadableError, RecvStream, StreamId};

use super::{core::Core, sender::Failure};
use crate::{
    Channel, CloseCode, ConnId, Event, channel,
    frame::{Frame, FrameDecoder, FrameError},
    stats::Count,
};

/// The receiving half.
#[derive(Default)]
pub(super) struct Receiver {
    /// Open streams; QUIC's stream limit bounds them.
    streams: Vec<InStream>,
}

/// What reading brought besides events.
#[derive(Debug, Default)]
pub(super) struct ReadOutcome {
    /// The consumer is slow: read on when the budget has room.
    pub(super) paused: bool,
    /// The first frame, while the greeting is awaited.
    pub(super) greeting: Option<Frame>,
}

/// What is permitted at the moment.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    /// Only the first frame of the channel that carries the greeting.
    Greeting(Channel),
    /// Everything that the peer's role permits.
    Open {
        /// Whether the peer may use Control and Bulk.
        validator: bool,
    },
}

struct InStream {
    id: StreamId,
    channel: Option<Channel>,
    decoder: FrameDecoder,
    /// Read from QUIC, not yet decoded.
    pending: Bytes,
    /// When the unfinished frame, or the stream, began. `None` while nothing is owed, or while
    /// it is this side that makes the peer wait.
    begun: Option<Instant>,
    readable: bool,
    ended: bool,
    frames: u64,
}

impl Receiver {
    /// Accepts streams that the peer opened.
    pub(super) fn accept(&mut self, now: Instant, quic: &mut Connection) {
        while let Some(id) = quic.streams().accept(Dir::Uni) {
            self.streams.push(InStream {
                id,
                channel: None,
                decoder: FrameDecoder::new(0, 0),
                pending: Bytes::new(),
                begun: Some(now),
                readable: true,
                ended: false,
                frames: 0,
            });
        }
    }

    /// A stream has data or ended.
    pub(super) fn readable(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.id == id) {
            stream.readable = true;
        }
    }

    /// Since when the peer owes the rest of a frame; the oldest such debt.
    pub(super) fn oldest_debt(&self) -> Option<Instant> {
        self.streams.iter().filter_map(|stream| stream.begun).min()
    }

    /// Reads all streams as far as data and budget go.
    pub(super) fn read(
        &mut self,
        now: Instant,
        conn: ConnId,
        phase: Phase,
        quic: &mut Connection,
        core: &mut Core,
    ) -> Result<ReadOutcome, Failure> {
        let mut outcome = ReadOutcome::default();
        // Control before the rest: its frames must not queue behind a burst of batches.
        self.streams.sort_by_key(|stream| {
            stream
                .channel
                .map_or(1, |c| u8::from(c != Channel::Control))
        });
        let mut i = 0;
        while i < self.streams.len() {
            if !self.streams[i].has_work() {
                i += 1;
                continue;
            }
            self.identify(i, phase, quic, core)?;
            let stream = &mut self.streams[i];
            stream.read(now, conn, phase, quic, core, &mut outcome)?;
            if outcome.greeting.is_some() {
                return Ok(outcome);
            }
            if stream.ended && stream.pending.is_empty() && !stream.readable {
                stream.check_end()?;
                self.streams.remove(i);
            } else {
                i += 1;
            }
        }
        Ok(outcome)
    }

    /// Learns a stream's channel from its first byte and checks that it may exist.
    fn identify(
        &mut self,
        at: usize,
        phase: Phase,
        quic: &mut Connection,
        core: &mut Core,
    ) -> Result<(), Failure> {
        let stream = &mut self.streams[at];
        if stream.channel.is_some() {
            return Ok(());
        }
        if stream.pending.is_empty() {
            stream.fetch(quic)?;
        }
        if stream.pending.is_empty() {
            return Ok(());
        }
        let byte = stream.pending.get_u8();
        let Some(channel) = Channel::from_wire(byte) else {
            return Err((
                CloseCode::BadStream,
                format!("unknown stream type {byte:#04x}"),
            ));
        };
        stream.channel = Some(channel);
        let (max, copy_below) = (
            core.limits.frame_bytes_max(channel),
            core.limits.copy_below_bytes,
        );
        stream.decoder = FrameDecoder::new(max, copy_below);
        if channel == Channel::Bulk && core.bulk_in_pieces {
            stream.decoder = FrameDecoder::new(max, copy_below).in_pieces();
        }
        if channel != Channel::Bulk {
            let same = |stream: &&InStream| stream.channel == Some(channel);
            if self.streams.iter().filter(same).count() > 1 {
                return Err((
                    CloseCode::BadStream,
                    format!("a second {channel:?} stream in one direction"),
                ));
            }
        }
        let permitted = match phase {
            Phase::Greeting(greeting) => greeting == Channel::Control || channel == greeting,
            Phase::Open { validator } => validator || channel == Channel::Client,
        };
        if permitted {
            Ok(())
        } else {
            Err((
                CloseCode::ChannelNotAllowed,
                format!("{channel:?} is for trusted peers"),
            ))
        }
    }
}

impl InStream {
    fn has_work(&self) -> bool {
        self.readable || !self.pending.is_empty()
    }

    fn read(
        &mut self,
        now: Instant,
        conn: ConnId,
        phase: Phase,
        quic: &mut Connection,
        core: &mut Core,
        outcome: &mut ReadOutcome,
    ) -> Result<(), Failure> {
        let Some(channel) = self.channel else {
            return Ok(());
        };
        if matches!(phase, Phase::Greeting(greeting) if greeting != channel) {
            // It overtook the greeting; its time comes.
            return Ok(());
        }
        if !self.decode(conn, channel, phase, core, outcome)? {
            return Ok(());
        }
        if self.readable {
            let mut recv = quic.recv_stream(self.id);
            let Some(mut chunks) = self.open(&mut recv) else {
                return Ok(());
            };
            // All that came is taken in one go: beginning to read costs a look-up.
            while self.readable {
                self.take(chunks.next(usize::MAX))?;
                if !self.decode(conn, channel, phase, core, outcome)? {
                    return Ok(());
                }
            }
        }
        // An idle long-lived stream owes nothing; a Bulk stream owes its frame.
        let owes = !self.decoder.is_idle() || (channel == Channel::Bulk && self.frames == 0);
        self.begun = if owes && !self.ended {
            self.begun.or(Some(now))
        } else {
            None
        };
        Ok(())
    }

    /// Decodes what is pending; whether to go on reading.
    fn decode(
        &mut self,
        conn: ConnId,
        channel: Channel,
        phase: Phase,
        core: &mut Core,
        outcome: &mut ReadOutcome,
    ) -> Result<bool, Failure> {
        while !self.pending.is_empty() {
            if !core.budget.has_room(channel) && !core.budget.pause(channel) {
                core.stats.reads_paused.inc();
                outcome.paused = true;
                self.begun = None;
                return Ok(false);
            }
            let frame = self
                .decoder
                .next_frame(&mut self.pending, &mut core.copies)
                .map_err(failure)?;
            let copied = self.decoder.take_copied_bytes();
            if copied > 0 && matches!(phase, Phase::Open { .. }) {
                core.stats.payload_bytes_copied.add(copied);
            }
            let Some(frame) = frame else { continue };
            self.frames += 1;
            self.begun = None;
            if matches!(phase, Phase::Greeting(_)) {
                outcome.greeting = Some(frame);
                return Ok(false);
            }
            deliver(conn, channel, frame, core)?;
        }
        Ok(true)
    }

    /// Begins to read from QUIC; `None` when the stream has ended. Whether a window update is due
    /// when the reading ends does not matter: every turn polls for transmission.
    fn open<'a>(&mut self, recv: &'a mut RecvStream<'_>) -> Option<Chunks<'a>> {
        match recv.read(true) {
            Ok(chunks) => Some(chunks),
            Err(ReadableError::ClosedStream) => {
                self.readable = false;
                self.ended = true;
                None
            }
            Err(ReadableError::IllegalOrderedRead) => {
                unreachable!("streams are only ever read in order")
            }
        }
    }

    /// Takes the next piece from QUIC into `pending`, or learns that there is none now.
    fn fetch(&mut self, quic: &mut Connection) -> Result<(), Failure> {
        let mut recv = quic.recv_stream(self.id);
        let Some(mut chunks) = self.open(&mut recv) else {
            return Ok(());
        };
        self.take(chunks.next(usize::MAX))
    }

    fn take(&mut self, next: Result<Option<Chunk>, ReadError>) -> Result<(), Failure> {
        assert!(self.pending.is_empty(), "fetched before all was decoded");
        match next {
            Ok(Some(chunk)) => self.pending = chunk.bytes,
            Ok(None) => {
                self.readable = false;
                self.ended = true;
            }
            Err(ReadError::Blocked) => self.readable = false,
            Err(ReadError::Reset(code)) => {
                self.readable = false;
                self.ended = true;
                if self.channel != Some(Channel::Bulk) {
                    return Err((
                        CloseCode::BadStream,
                        format!("a long-lived stream was reset with code {code}"),
                    ));
                }
                // The sender gave up what it had not finished; that is its right.
                self.decoder = FrameDecoder::new(0, 0);
                self.frames = self.frames.max(1);
            }
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), Failure> {
        self.decoder.finish().map_err(failure)?;
        match self.channel {
            Some(Channel::Bulk) if self.frames > 0 => Ok(()),
            Some(Channel::Bulk) | None => {
                Err((CloseCode::BadFrame, "a stream ended without a frame".into()))
            }
            Some(channel) => Err((
                CloseCode::BadStream,
                format!("the long-lived {channel:?} stream ended"),
            )),
        }
    }
}

fn deliver(conn: ConnId, channel: Channel, frame: Frame, core: &mut Core) -> Result<(), Failure> {
    if frame.kind < channel::KIND_APPLICATION_MIN {
        return Err((
            CloseCode::BadFrame,
            format!("frame kind {} is reserved", frame.kind),
        ));
    }
    core.stats.frames_in.inc();
    let (kind, payload) = (frame.kind, frame.payload);
    if frame.pieces.is_empty() {
        core.stats.payload_bytes_delivered.add(payload.len() as u64);
        let lease = core.budget.lease(payload.len());
        core.events.push_back(Event::Frame {
            conn,
            channel,
            kind,
            payload,
            lease,
        });
    } else {
        let len = frame.pieces.iter().map(Bytes::len).sum();
        core.stats.payload_bytes_delivered.add(len as u64);
        let lease = core.budget.lease(len);
        core.events.push_back(Event::FramePieces {
            conn,
            kind,
            pieces: frame.pieces,
            lease,
        });
    }
    Ok(())
}

fn failure(error: FrameError) -> Failure {
    let code = match error {
        FrameError::TooLong { .. } => CloseCode::FrameTooLong,
        _ => CloseCode::BadFrame,
    };
    (code, error.to_string())
}
