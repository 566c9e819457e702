//! Beginnings of dropped packets, for diagnosis.

use std::os::fd::OwnedFd;

use aya::maps::{MapData, RingBuf};

use crate::Cause;
use crate::abi::RawSample;

/// A dropped packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Why.
    pub cause: Cause,
    /// Length of the frame, bytes.
    pub frame_bytes: u32,
    /// Receive queue.
    pub queue: u32,
    /// The first bytes of the frame, 128 at most.
    pub bytes: Vec<u8>,
}

/// The reader of a filter's samples; there is one at a time.
pub struct Samples<'a> {
    ring: RingBuf<&'a MapData>,
    _lock: Option<OwnedFd>,
}

impl<'a> Samples<'a> {
    pub(crate) fn new(ring: RingBuf<&'a MapData>, lock: Option<OwnedFd>) -> Self {
        Self { ring, _lock: lock }
    }
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    /// The next sample that is there; `None` may become `Some` later.
    fn next(&mut self) -> Option<Sample> {
        loop {
            let item = self.ring.next()?;
            let Some(raw) = RawSample::from_bytes(&item) else {
                continue;
            };
            let Some(cause) = Cause::from_index(raw.cause as usize) else {
                continue;
            };
            let held = (raw.held_bytes as usize).min(raw.bytes.len());
            return Some(Sample {
                time_ns: raw.time_ns,
                cause,
                frame_bytes: raw.frame_bytes,
                queue: raw.queue,
                bytes: raw.bytes[..held].to_vec(),
            });
        }
    }
}
