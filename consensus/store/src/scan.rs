//! Reads a segment that has no table: the one that was being written, or one whose seal was cut
//! short by a crash.
//!
//! **Torn or damaged?** After a crash the segment may end in anything: the system writes pages
//! back in any order, so of the records after the last completed sync each may be whole, missing
//! or half there. Those records never counted: nothing that depends on them left the node. What
//! was confirmed by a sync must be intact. The two are told apart by sync marks. A mark is
//! written only *after* `fdatasync` returned, so an intact mark says that everything before it
//! was durable. At the first frame that is not intact:
//!
//! * an intact mark follows anywhere behind it, or the segment has a successor (which is made
//!   only once all of its predecessor is durable): what stands there was durable and is damaged.
//!   The store does not open, except when it is the payload of a safety record: then the walk goes
//!   on and the caller learns whether that was the newest one.
//! * no mark follows: the tail is torn; it is dropped from there on.
//!
//! A mark carries the segment's nonce, which no peer knows, so bytes inside a batch cannot
//! imitate one. What remains undecidable: power fails in the instant between `fdatasync` and the
//! mark reaching the disk *and* the medium damages that very turn. Then durable records look
//! like a torn tail.

use crate::error::StoreError;
use crate::frame::{ALIGN, FRAME_HEADER_LEN, Found, Frame, NONCE_LEN, framed_len};
use crate::index::{Entry, Key};
use crate::record::Kind;
use crate::segment::{SEGMENT_HEADER_LEN, Segment};

/// Payload of a sync mark: the segment's nonce.
pub(crate) const MARK_LEN: usize = NONCE_LEN;

/// What a walk through a segment found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The records, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// Where the next record goes.
    pub end: u64,
    /// End of the last sync mark: everything before it is known to be durable.
    pub confirmed: u64,
    /// Bytes behind `end` that were written: up to the last one that is not zero, or in a reused
    /// file, where older bytes stand, up to the end of the last record that was begun.
    pub dropped: u64,
    /// Everything behind `end` is zero.
    pub blank: bool,
}

/// Reads and walks through a segment. `must_end` is where its records end if a later segment says
/// so.
pub(crate) fn scan(segment: &Segment, must_end: Option<u64>) -> Result<Scan, StoreError> {
    let bytes =
        std::fs::read(&segment.path).map_err(|e| StoreError::io("read", &segment.path, e))?;
    walk(segment, &bytes, must_end)
}

/// Walks through the bytes of a segment.
pub(crate) fn walk(
    segment: &Segment,
    bytes: &[u8],
    must_end: Option<u64>,
) -> Result<Scan, StoreError> {
    let mut found = Scan {
        entries: Vec::new(),
        end: SEGMENT_HEADER_LEN as u64,
        confirmed: SEGMENT_HEADER_LEN as u64,
        dropped: 0,
        blank: false,
    };
    let last_mark = last_mark(segment, bytes);
    let durable_to = must_end.unwrap_or(last_mark);
    loop {
        let at = found.end;
        if must_end == Some(at) {
            return Ok(found);
        }
        let damage = match read(segment, bytes, at) {
            Step::Record { entry, next } => {
                found.entries.push(entry);
                found.end = next;
                continue;
            }
            Step::Mark { next } => {
                found.end = next;
                found.confirmed = next;
                continue;
            }
            // The frame is whole, so the walk can go on behind it.
            Step::DamagedSafety { entry, next } if at < durable_to => {
                found.entries.push(entry);
                found.end = next;
                continue;
            }
            Step::DamagedSafety { .. } => "the checksum of a safety record does not match",
            Step::Damaged(what) => what,
        };
        if at < durable_to {
            return Err(segment.corrupt(
                at,
                format!("{damage}, and it was durable: a sync was confirmed at byte {durable_to}"),
            ));
        }
        let written = bytes
            .iter()
            .rposition(|b| *b != 0)
            .map_or(0, |last| last as u64 + 1);
        found.blank = written <= at;
        let written = if segment.reused {
            begun(segment, bytes, at)
        } else {
            written
        };
        found.dropped = written.saturating_sub(at);
        return Ok(found);
    }
}

enum Step {
    Record { entry: Entry, next: u64 },
    Mark { next: u64 },
    DamagedSafety { entry: Entry, next: u64 },
    Damaged(&'static str),
}

fn read(segment: &Segment, bytes: &[u8], at: u64) -> Step {
    let start = usize::try_from(at).expect("a segment fits memory");
    let Some(header) = bytes.get(start..start + FRAME_HEADER_LEN) else {
        return Step::Damaged("the file ends");
    };
    let header = header.try_into().expect("length of the header");
    let frame = match Frame::decode(&segment.nonce, at, header) {
        Found::Frame(frame) => frame,
        Found::Blank => return Step::Damaged("there is no record"),
        Found::Bad(what) => return Step::Damaged(what),
    };
    let payload_at = start + FRAME_HEADER_LEN;
    let Some(payload) = bytes.get(payload_at..payload_at + frame.len as usize) else {
        return Step::Damaged("the file ends inside a record");
    };
    let next = at + frame.framed_len();
    let at = u32::try_from(at).expect("segments are below 4 GiB");
    if crc32c::crc32c(payload) != frame.payload_crc {
        return if frame.kind == Kind::Safety {
            let entry = Entry {
                key: Key::Safety,
                at,
                len: frame.len,
            };
            Step::DamagedSafety { entry, next }
        } else {
            Step::Damaged("a record's checksum does not match")
        };
    }
    match (frame.kind, Key::read(frame.kind, payload)) {
        (Kind::Sync, _) if payload == segment.nonce => Step::Mark { next },
        (Kind::Sync | Kind::Index, _) => Step::Damaged("a mark that does not belong there"),
        (_, Ok(Some(key))) => Step::Record {
            entry: Entry {
                key,
                at,
                len: frame.len,
            },
            next,
        },
        (_, Ok(None) | Err(_)) => Step::Damaged("a record that this build cannot read"),
    }
}

/// End of the last frame at or behind `at` whose header is intact; 0 when there is none.
fn begun(segment: &Segment, bytes: &[u8], at: u64) -> u64 {
    let headers = (at..bytes.len() as u64).step_by(ALIGN as usize);
    let ends = headers.filter_map(|at| {
        let start = usize::try_from(at).expect("a segment fits memory");
        let header = bytes.get(start..start + FRAME_HEADER_LEN)?.try_into();
        let header = header.expect("length of the header");
        match Frame::decode(&segment.nonce, at, header) {
            Found::Frame(frame) => Some(at + frame.framed_len()),
            Found::Blank | Found::Bad(_) => None,
        }
    });
    ends.max().unwrap_or(0)
}

/// Offset of the last intact sync mark; 0 when there is none.
fn last_mark(segment: &Segment, bytes: &[u8]) -> u64 {
    let step = ALIGN as usize;
    let framed = framed_len(MARK_LEN) as usize;
    let mut start = (bytes.len() / step * step).saturating_sub(framed);
    while start >= SEGMENT_HEADER_LEN {
        let candidate = &bytes[start..start + framed];
        if candidate[FRAME_HEADER_LEN..FRAME_HEADER_LEN + MARK_LEN] == segment.nonce
            && matches!(read(segment, bytes, start as u64), Step::Mark { .. })
        {
            return start as u64;
        }
        start -= step;
    }
    0
}
