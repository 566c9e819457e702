//! What the BPF program writes: one event a probe hit.

use falconet_probes::PROBES;

/// Arguments of an event; as in `bpf/trace.bpf.c`.
pub const ARGS_MAX: usize = 6;
/// Bytes of a thread's name; as in `bpf/trace.bpf.c`.
const COMM_BYTES: usize = 16;
/// Bytes of an event in the ring.
const EVENT_BYTES: usize = 8 + 4 + 4 + 8 * ARGS_MAX + COMM_BYTES;

/// One probe hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Monotonic clock of the kernel.
    pub time_ns: u64,
    /// Name of the probe.
    pub probe: &'static str,
    /// Id of the thread.
    pub thread: u32,
    /// Arguments; those that the probe lacks are 0.
    pub args: [u64; ARGS_MAX],
    /// Name of the thread.
    pub comm: String,
}

impl Event {
    /// Reads what the BPF program wrote; `None` when it is of another version.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < EVENT_BYTES {
            return None;
        }
        let long = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_ne_bytes(bytes)
        };
        let int = |at: usize| {
            let bytes = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_ne_bytes(bytes)
        };
        let comm = &bytes[EVENT_BYTES - COMM_BYTES..EVENT_BYTES];
        let end = comm.iter().position(|b| *b == 0).unwrap_or(COMM_BYTES);
        Some(Self {
            time_ns: long(0),
            probe: PROBES.get(int(8) as usize)?.name,
            thread: int(12),
            args: std::array::from_fn(|i| long(16 + 8 * i)),
            comm: String::from_utf8_lossy(&comm[..end]).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_and_a_short_or_unknown_one_refused() {
        let mut bytes = vec![0; EVENT_BYTES];
        bytes[0] = 7;
        bytes[8] = 1;
        bytes[12] = 9;
        bytes[16] = 5;
        bytes[EVENT_BYTES - COMM_BYTES] = b'x';
        let event = Event::parse(&bytes).expect("whole");
        assert_eq!((event.time_ns, event.thread, event.args[0]), (7, 9, 5));
        assert_eq!((event.probe, event.comm.as_str()), (PROBES[1].name, "x"));
        assert_eq!(Event::parse(&bytes[1..]), None);
        bytes[8] = 255;
        assert_eq!(Event::parse(&bytes), None);
    }
}
