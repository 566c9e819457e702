//! Which network thread a datagram belongs to.
//!
//! Every connection belongs to one thread. The first byte of each connection identifier that this
//! endpoint issues, modulo the number of threads, is the thread's index; so the first byte of the
//! destination identifier of any packet names the thread, whether the header is long or short. The
//! first packet of a new connection carries an identifier that the peer drew at random, which
//! spreads new connections evenly; all later ones carry identifiers of the thread that accepted it.
//! The fixed bit is not looked at, so greasing it (RFC 9287) changes nothing.
//!
//! The kernel applies the rule with a classic BPF program on the group of sockets that share the
//! port ([`PROGRAM_LEN`] instructions, no privilege needed); [`owner`] is the same rule in user
//! space, for packets that came to another thread anyway: several connections between the same two
//! addresses may be joined by receive offload, and the kernel looks only at the first packet.

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

/// Network threads of one endpoint at most; the index must fit into a part of one byte.
pub(crate) const THREADS_MAX: usize = 64;

/// First byte of the destination identifier in a long header: after the flags, the version and
/// the identifier's length (RFC 8999, section 5.1).
const LONG_HEADER_CID: usize = 6;

/// The same in a short header: after the flags (RFC 8999, section 5.2).
const SHORT_HEADER_CID: usize = 1;

/// The bit that tells a long header (RFC 8999, section 5.1).
const LONG_HEADER_BIT: u8 = 0x80;

/// Instructions of the program.
pub(crate) const PROGRAM_LEN: usize = 7;

/// The thread that an identifier beginning with `first` belongs to.
fn thread_of_cid(first: u8, threads: usize) -> usize {
    usize::from(first) % threads
}

/// The thread that a datagram belongs to. What is too short to name one goes to the first, as in
/// the kernel's program.
pub(crate) fn owner(datagram: &[u8], threads: usize) -> usize {
    let Some(flags) = datagram.first() else {
        return 0;
    };
    let at = if flags & LONG_HEADER_BIT != 0 {
        LONG_HEADER_CID
    } else {
        SHORT_HEADER_CID
    };
    datagram
        .get(at)
        .map_or(0, |first| thread_of_cid(*first, threads))
}

/// The rule as a classic BPF program for SO_ATTACH_REUSEPORT_CBPF, which runs on the UDP payload
/// and returns the index of a socket. A load beyond the end returns 0.
pub(crate) fn program(threads: usize) -> [libc::sock_filter; PROGRAM_LEN] {
    assert!((1..=THREADS_MAX).contains(&threads), "number of threads");
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load_byte = |at: usize| step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, at as u32);
    [
        load_byte(0),
        step(
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            0,
            2,
            LONG_HEADER_BIT.into(),
        ),
        load_byte(LONG_HEADER_CID),
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        load_byte(SHORT_HEADER_CID),
        step(
            libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K,
            0,
            0,
            threads as u32,
        ),
        step(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ]
}

/// Draws identifiers from another generator until one belongs to the thread: on average as many
/// draws as there are threads.
pub(crate) struct Steered<G> {
    inner: G,
    thread: usize,
    threads: usize,
}

impl<G: ConnectionIdGenerator> Steered<G> {
    /// Identifiers of thread `thread` of `threads`.
    pub(crate) fn new(inner: G, thread: usize, threads: usize) -> Self {
        assert!(thread < threads && threads <= THREADS_MAX, "thread index");
        assert!(inner.cid_len() > 0, "identifiers carry the thread");
        Steered {
            inner,
            thread,
            threads,
        }
    }
}

impl<G: ConnectionIdGenerator> ConnectionIdGenerator for Steered<G> {
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let cid = self.inner.generate_cid();
            if thread_of_cid(cid[0], self.threads) == self.thread {
                return cid;
            }
        }
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        // Those of other threads too: after a restart with another number of threads the peers
        // must still learn that their connections are gone.
        self.inner.validate(cid)
    }

    fn cid_len(&self) -> usize {
        self.inner.cid_len()
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        self.inner.cid_lifetime()
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::{HashedConnectionIdGenerator, RandomConnectionIdGenerator};

    use super::*;

    #[test]
    fn issued_identifiers_name_their_thread_in_both_headers() {
        for threads in 1..=8 {
            for thread in 0..threads {
                let inner = HashedConnectionIdGenerator::from_key(7);
                let mut generator = Steered::new(inner, thread, threads);
                for _ in 0..50 {
                    let cid = generator.generate_cid();
                    assert!(generator.validate(&cid).is_ok());
                    for fixed in [0, 0x40] {
                        let mut short = vec![fixed];
                        short.extend_from_slice(&cid);
                        assert_eq!(owner(&short, threads), thread);
                        let mut long = vec![0x80 | fixed, 0, 0, 0, 1, cid.len() as u8];
                        long.extend_from_slice(&cid);
                        assert_eq!(owner(&long, threads), thread);
                    }
                }
            }
        }
    }

    #[test]
    fn random_identifiers_spread() {
        let mut random = RandomConnectionIdGenerator::new(8);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            let mut packet = vec![0xc0, 0, 0, 0, 1, 8];
            packet.extend_from_slice(&random.generate_cid());
            counts[owner(&packet, 4)] += 1;
        }
        assert!(counts.iter().all(|n| (700..1300).contains(n)), "{counts:?}");
    }

    #[test]
    fn stumps_go_to_the_first() {
        for stump in [&[][..], &[0x40], &[0xc0, 9, 9, 9, 9, 9]] {
            assert_eq!(owner(stump, 4), 0);
        }
    }
}
