//! What the programs share with user space: `src/bpf/abi.h` in Rust.

use aya::Pod;

/// Grows with every change of meaning; must equal `ABI_VERSION` in `abi.h`.
pub(crate) const ABI_VERSION: u32 = 2;
/// Bytes of a sampled packet.
pub(crate) const SAMPLE_BYTES_MAX: usize = 128;

pub(crate) const FLAG_ADDRESS: u32 = 1;
pub(crate) const FLAG_BLOCKS: u32 = 2;
pub(crate) const FLAG_CLOSED: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    pub cost_ns: u64,
    pub burst_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawBudgets {
    pub initials: Budget,
    pub packets: Budget,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub client: RawBudgets,
    pub clients: RawBudgets,
    pub validator: RawBudgets,
    /// In network order, as all addresses here.
    pub prefix_mask: [u8; 16],
    pub address: [u8; 16],
    pub flags: u32,
    pub sample_mask: u32,
    pub net_threads: u32,
    pub steer_byte: u32,
    pub xsk_bytes_max: u32,
    pub reserved: u32,
    pub port: [u8; 2],
    pub cid_bytes: u16,
    pub abi: u32,
    pub mode: u32,
    pub owner: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub initials_ns: u64,
    pub packets_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowEntry {
    pub bucket: Bucket,
    pub owner: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawSample {
    pub time_ns: u64,
    pub cause: u32,
    pub frame_bytes: u32,
    pub queue: u32,
    pub held_bytes: u32,
    pub bytes: [u8; SAMPLE_BYTES_MAX],
}

// SAFETY: these types are `repr(C)` of integers without padding (checked below), so every byte is
// initialised and every pattern of bytes is a value.
unsafe impl Pod for Settings {}
// SAFETY: as above.
unsafe impl Pod for Bucket {}
// SAFETY: as above.
unsafe impl Pod for AllowEntry {}

const _: () = {
    assert!(size_of::<Settings>() == 12 * 8 + 2 * 8 * 2 + 6 * 4 + 2 * 2 + 3 * 4);
    assert!(size_of::<Bucket>() == 16);
    assert!(size_of::<AllowEntry>() == 16 + 8);
    assert!(size_of::<RawSample>() == 8 + 4 * 4 + SAMPLE_BYTES_MAX);
};

impl RawSample {
    /// Reads a sample that the program wrote.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        Some(Self {
            time_ns: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
            cause: word(8)?,
            frame_bytes: word(12)?,
            queue: word(16)?,
            held_bytes: word(20)?,
            bytes: bytes.get(24..24 + SAMPLE_BYTES_MAX)?.try_into().ok()?,
        })
    }
}
