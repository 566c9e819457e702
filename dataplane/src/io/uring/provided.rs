//! Receive windows in the hands of the kernel: the ring through which they are provided, and what
//! the kernel puts into them before the payload.

use std::{
    io,
    net::SocketAddrV6,
    sync::atomic::{AtomicU16, Ordering},
};

use bytes::BytesMut;
use io_uring::{IoUring, types};

use crate::{
    io::cmsg::{self, CONTROL_BYTES},
    pool::{WINDOW_BYTES, has_window},
};

/// Receive windows that the kernel holds; a power of two.
pub(super) const RECEIVE_SLOTS: u16 = 16;

/// The provided-buffer group.
pub(super) const GROUP: u16 = 0;

/// What the kernel puts before a received payload: `io_uring_recvmsg_out`, then the name and the
/// control areas at the sizes that the request gave.
const OUT_BYTES: usize = 16;
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
pub(super) const HEADER_BYTES: usize = OUT_BYTES + NAME_BYTES + CONTROL_BYTES;
const _: () = assert!(HEADER_BYTES + 65_536 <= WINDOW_BYTES);
const _: () = assert!(RECEIVE_SLOTS.is_power_of_two());

/// Memory of the provided-buffer ring: one page, entries of 16 bytes, read by the kernel.
#[repr(C, align(4096))]
struct RingPage([u8; 4096]);

const _: () = assert!(RECEIVE_SLOTS as usize * size_of::<types::BufRingEntry>() <= 4096);

/// The provided-buffer ring.
pub(super) struct BufferRing {
    page: Box<RingPage>,
    tail: u16,
}

impl BufferRing {
    /// Registers an empty ring as [`GROUP`].
    ///
    /// # Safety
    ///
    /// `ring` must be closed before the value returned is dropped.
    pub(super) unsafe fn register(ring: &IoUring) -> io::Result<Self> {
        let mut page = Box::new(RingPage([0; 4096]));
        // SAFETY: the page is boxed, aligned and large enough for RECEIVE_SLOTS entries, and is
        // freed only after the ring is closed, as the caller promises; the kernel pins it besides.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                page.0.as_mut_ptr() as u64,
                RECEIVE_SLOTS,
                GROUP,
                0,
            )?;
        }
        Ok(BufferRing { page, tail: 0 })
    }

    /// Gives the kernel the next window of `slot`, which must be empty: writes one entry and
    /// publishes it.
    pub(super) fn provide(&mut self, slot: u16, slab: &mut BytesMut) {
        assert!(slab.is_empty() && has_window(slab), "no window to provide");
        let window = slab.spare_capacity_mut().as_mut_ptr();
        let entries: *mut types::BufRingEntry = self.page.0.as_mut_ptr().cast();
        let at = usize::from(self.tail % RECEIVE_SLOTS);
        // SAFETY: `at` is below RECEIVE_SLOTS, so the entry lies within the page, which is aligned
        // for it; the kernel reads an entry only after the tail below has passed it.
        let entry = unsafe { &mut *entries.add(at) };
        entry.set_addr(window as u64);
        entry.set_len(WINDOW_BYTES as u32);
        entry.set_bid(slot);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies within the first entry of the page, aligned for u16, and is written
        // by this thread only; the kernel reads it with acquire ordering.
        let shared = unsafe { &*types::BufRingEntry::tail(entries).cast::<AtomicU16>() };
        shared.store(self.tail, Ordering::Release);
    }
}

/// Reads what the kernel put before the payload; `None` for what must be dropped.
pub(super) fn parse(window: &[u8]) -> Option<(SocketAddrV6, cmsg::Meta, usize)> {
    let (out, rest) = window.split_first_chunk::<OUT_BYTES>()?;
    let [_, control_len, payload_len, flags] = [0, 4, 8, 12].map(|at| {
        u32::from_ne_bytes(out[at..at + 4].try_into().expect("four bytes of sixteen")) as usize
    });
    let (name, rest) = rest.split_first_chunk::<NAME_BYTES>()?;
    let (control, payload) = rest.split_first_chunk::<CONTROL_BYTES>()?;
    let is_whole = flags & libc::MSG_TRUNC as usize == 0 && payload_len <= payload.len();
    let from = cmsg::address_of_bytes(name).filter(|_| is_whole)?;
    let meta = cmsg::decode(&control[..control_len.min(CONTROL_BYTES)]);
    Some((from, meta, payload_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_headers_are_dropped() {
        for len in 0..HEADER_BYTES + 10 {
            assert_eq!(parse(&vec![0xff; len]), None);
        }
        let mut window = vec![0; HEADER_BYTES + 5];
        window[8] = 5; // payload length
        window[OUT_BYTES..OUT_BYTES + 2].copy_from_slice(&10u16.to_ne_bytes());
        window[OUT_BYTES + 3] = 99; // port, big endian
        let (from, meta, len) = parse(&window).unwrap();
        assert_eq!((from.port(), len), (99, 5));
        assert_eq!(meta, cmsg::Meta::default());
        window[8] = 6;
        assert_eq!(parse(&window), None, "longer than what came");
    }
}
