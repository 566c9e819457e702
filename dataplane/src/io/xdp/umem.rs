//! The memory that an AF_XDP socket shares with the device (UMEM), cut into frames of one packet
//! each, and who owns which frame.
//!
//! A [`Frame`] is the right to use one frame. It cannot be cloned: lending it to the kernel
//! consumes it, and it comes back when the kernel returns its address. Each address that comes
//! back is checked against what was lent, so a frame that the kernel returned twice, or from the
//! wrong ring, is noticed at once instead of corrupting a packet.

use std::io;

use super::rings::Mapping;

/// Space before a received packet that the kernel keeps for XDP programs, bytes
/// (`XDP_PACKET_HEADROOM`).
pub(super) const HEADROOM_BYTES: u32 = 256;

/// Frame sizes, bytes: powers of two, at most a page.
const FRAME_BYTES_MIN: u32 = 2048;
/// See [`FRAME_BYTES_MIN`].
pub(super) const FRAME_BYTES_MAX: u32 = 4096;

/// The exclusive right to one frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame(u32);

/// Which of the kernel's rings has a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loan {
    /// Nobody: a [`Frame`] for it exists.
    None,
    /// Fill ring, then receive ring.
    Receive,
    /// Transmit ring, then completion ring.
    Transmit,
}

/// The memory and its loans.
pub(super) struct Umem {
    memory: Mapping,
    frame_bytes: u32,
    loans: Box<[Loan]>,
}

/// The smallest frame that holds a packet of `packet_bytes`, `None` when none does.
pub(super) fn frame_bytes_for(packet_bytes: u32) -> Option<u32> {
    let needed = packet_bytes.checked_add(HEADROOM_BYTES)?;
    (needed <= FRAME_BYTES_MAX).then(|| needed.next_power_of_two().max(FRAME_BYTES_MIN))
}

impl Umem {
    /// Allocates `count` frames and gives out the right to each.
    pub(super) fn new(count: u32, frame_bytes: u32) -> io::Result<(Self, Vec<Frame>)> {
        assert!(frame_bytes.is_power_of_two());
        assert!((FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame_bytes));
        let umem = Umem {
            memory: Mapping::anonymous(count as usize * frame_bytes as usize)?,
            frame_bytes,
            loans: vec![Loan::None; count as usize].into(),
        };
        Ok((umem, (0..count).map(Frame).collect()))
    }

    /// Address of the memory, for registration.
    pub(super) fn address(&self) -> u64 {
        self.memory.range(0, 0).as_ptr() as u64
    }

    /// Length of the memory, bytes.
    pub(super) fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Size of a frame, bytes.
    pub(super) fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// Lends a frame to the kernel; returns the address to put into a ring.
    pub(super) fn lend(&mut self, frame: Frame, loan: Loan) -> u64 {
        let state = &mut self.loans[frame.0 as usize];
        assert!(*state == Loan::None, "a frame was lent twice");
        *state = loan;
        u64::from(frame.0) * u64::from(self.frame_bytes)
    }

    /// Takes a frame back: `address` is what the kernel put into a ring, which points anywhere
    /// into the frame.
    pub(super) fn take_back(&mut self, address: u64, loan: Loan) -> Frame {
        let index = address / u64::from(self.frame_bytes);
        let state = usize::try_from(index)
            .ok()
            .and_then(|index| self.loans.get_mut(index))
            .expect("the kernel returned an address outside the memory");
        assert!(
            *state == loan,
            "the kernel returned a frame it did not have"
        );
        *state = Loan::None;
        Frame(index as u32)
    }

    /// The whole frame, for writing.
    pub(super) fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        let size = self.frame_bytes as usize;
        let at = self.memory.range(frame.0 as usize * size, size);
        // SAFETY: `range` checked the bounds, mapped memory is initialised, and the `Frame` is
        // the only right to these bytes: the kernel does not have them, and the borrows last as
        // long as the result.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), size) }
    }

    /// The packet of `len` bytes at `address`, which the kernel returned together with `frame`.
    pub(super) fn packet<'a>(&'a self, frame: &'a Frame, address: u64, len: u32) -> &'a [u8] {
        let start = u64::from(frame.0) * u64::from(self.frame_bytes);
        let end = start + u64::from(self.frame_bytes);
        assert!(
            start <= address && address + u64::from(len) <= end,
            "the kernel returned a packet outside its frame"
        );
        let at = self.memory.range(address as usize, len as usize);
        // SAFETY: the bytes are inside the frame, see above, and `Frame` is the only right to
        // them for as long as the result lives.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), len as usize) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_fit_their_packets() {
        assert_eq!(frame_bytes_for(1514), Some(2048));
        assert_eq!(frame_bytes_for(1792), Some(2048));
        assert_eq!(frame_bytes_for(1793), Some(4096));
        assert_eq!(frame_bytes_for(3840), Some(4096));
        assert_eq!(frame_bytes_for(3841), None);
        assert_eq!(frame_bytes_for(u32::MAX), None);
    }

    proptest! {
        /// Whatever the order of lending and returning, each frame exists exactly once, and what
        /// was written into it is still there.
        #[test]
        fn each_frame_has_one_owner(
            choices in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..300),
        ) {
            const COUNT: u32 = 16;
            let (mut umem, mut own) = Umem::new(COUNT, 2048).unwrap();
            for frame in &mut own {
                let mark = frame.0 as u8;
                umem.bytes_mut(frame).fill(mark);
            }
            let (mut receive, mut transmit) = (Vec::new(), Vec::new());
            for (choice, which) in choices {
                let (from, to, loan) = match choice {
                    0 | 1 if own.is_empty() => continue,
                    0 | 1 => {
                        let frame = own.swap_remove(which.index(own.len()));
                        let (to, loan) = if choice == 0 {
                            (&mut receive, Loan::Receive)
                        } else {
                            (&mut transmit, Loan::Transmit)
                        };
                        to.push(umem.lend(frame, loan));
                        continue;
                    }
                    2 => (&mut receive, &mut own, Loan::Receive),
                    _ => (&mut transmit, &mut own, Loan::Transmit),
                };
                if from.is_empty() {
                    continue;
                }
                let address = from.swap_remove(which.index(from.len())) + 256;
                let frame = umem.take_back(address, loan);
                let packet = umem.packet(&frame, address, 1500);
                prop_assert!(packet.iter().all(|byte| u32::from(*byte) == frame.0));
                to.push(frame);
            }
            prop_assert_eq!(own.len() + receive.len() + transmit.len(), COUNT as usize);
            let mut all: Vec<u64> = own.iter().map(|frame| u64::from(frame.0)).collect();
            all.extend(receive.iter().chain(&transmit).map(|address| address / 2048));
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..u64::from(COUNT)));
        }
    }

    fn lent() -> (Umem, u64) {
        let (mut umem, mut frames) = Umem::new(4, 2048).unwrap();
        let address = umem.lend(frames.remove(2), Loan::Receive);
        (umem, address)
    }

    #[test]
    #[should_panic(expected = "did not have")]
    fn a_frame_returned_twice_is_noticed() {
        let (mut umem, address) = lent();
        let _frame = umem.take_back(address, Loan::Receive);
        umem.take_back(address + 100, Loan::Receive);
    }

    #[test]
    #[should_panic(expected = "did not have")]
    fn a_frame_from_the_wrong_ring_is_noticed() {
        let (mut umem, address) = lent();
        umem.take_back(address, Loan::Transmit);
    }

    #[test]
    #[should_panic(expected = "outside its frame")]
    fn a_packet_beyond_its_frame_is_noticed() {
        let (mut umem, address) = lent();
        let frame = umem.take_back(address, Loan::Receive);
        umem.packet(&frame, address + 256, 1793);
    }

    #[test]
    #[should_panic(expected = "outside the memory")]
    fn an_address_beyond_the_memory_is_noticed() {
        lent().0.take_back(4 * 2048, Loan::Receive);
    }
}
