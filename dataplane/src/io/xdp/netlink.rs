//! As much of netlink (RFC 3549) as AF_XDP needs: one request and its answers, notifications,
//! and attributes. The kernel is the only peer; its messages are parsed defensively all the same.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Longest message read at once, bytes; the kernel's dumps use at most 32 KiB.
const BUFFER_BYTES: usize = 32 << 10;

/// Receptions that one request may take before something must be wrong.
const RECEPTIONS_MAX: usize = 1 << 16;

/// How long the kernel may take to answer a request, milliseconds; it answers at once.
const ANSWER_TIMEOUT_MS: i64 = 2000;

/// Length of `nlmsghdr`, bytes.
const HEADER_BYTES: usize = 16;

/// A netlink socket.
pub(super) struct Netlink {
    fd: OwnedFd,
    buffer: Box<[u8; BUFFER_BYTES]>,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket; `groups` is the bit mask of notification groups to join.
    pub(super) fn open(protocol: i32, groups: u32) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: every field is an integer, for which zero is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = groups;
        // SAFETY: the pointer and the length describe `address`.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as u32,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let timeout = libc::timeval {
            tv_sec: ANSWER_TIMEOUT_MS / 1000,
            tv_usec: ANSWER_TIMEOUT_MS % 1000 * 1000,
        };
        // SAFETY: the pointer and the length describe `timeout`.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                size_of::<libc::timeval>() as u32,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Netlink {
            fd,
            buffer: Box::new([0; BUFFER_BYTES]),
            sequence: 0,
        })
    }

    /// What to poll for notifications.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends a request and hands each answer to `each`, as its type and body. With
    /// `libc::NLM_F_DUMP` in `flags` there may be many. Only for sockets without groups.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        message.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        // SAFETY: the pointer and the length describe `message`; a netlink socket without a
        // destination sends to the kernel.
        let sent = unsafe {
            libc::send(
                self.fd.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let expected = self.sequence;
        for _ in 0..RECEPTIONS_MAX {
            let len = self.receive(0)?;
            for (kind, sequence, body) in Messages(&self.buffer[..len]) {
                if sequence != expected {
                    continue;
                }
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |c| i32::from_ne_bytes(*c));
                        return match code {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
        Err(io::Error::other("the kernel does not end its answer"))
    }

    /// Hands each notification that waits to `each`. `Ok(false)` when some were lost, so that
    /// what was learned from them must be asked for again.
    pub(super) fn notifications(&mut self, mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        for _ in 0..RECEPTIONS_MAX {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(len) => {
                    for (kind, _, body) in Messages(&self.buffer[..len]) {
                        each(kind, body);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        // Come again: the socket stays readable.
        Ok(true)
    }

    fn receive(&mut self, flags: i32) -> io::Result<usize> {
        loop {
            // SAFETY: the pointer and the length describe `buffer`.
            let len = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    BUFFER_BYTES,
                    flags,
                )
            };
            if let Ok(len) = usize::try_from(len) {
                return Ok(len);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// Messages in one reception: type, sequence number, body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.first_chunk::<HEADER_BYTES>()?;
        let len = u32::from_ne_bytes(header[0..4].try_into().expect("four bytes")) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().expect("four bytes"));
        let body = self.0.get(HEADER_BYTES..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, sequence, body))
    }
}

/// Attributes in `bytes`: type and value. Ends at the first malformed one.
pub(super) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

/// See [`attributes`].
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        // The two high bits are flags.
        let kind = u16::from_ne_bytes([k0, k1]) & 0x3fff;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Appends an attribute.
pub(super) fn push_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("attributes are short");
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A 32-bit attribute value.
pub(super) fn as_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = attributes(&bytes).count();
            let _ = Messages(&bytes).count();
        }

        #[test]
        fn attributes_come_back(
            all in proptest::collection::vec(
                (0u16..0x4000, proptest::collection::vec(any::<u8>(), 0..20)),
                0..10,
            ),
        ) {
            let mut body = Vec::new();
            for (kind, value) in &all {
                push_attribute(&mut body, *kind, value);
            }
            prop_assert!(attributes(&body).map(|(kind, value)| (kind, value.to_vec())).eq(all));
        }
    }

    #[test]
    fn an_error_of_the_kernel_is_an_error() {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE, 0).unwrap();
        // A link that does not exist.
        let mut body = vec![0; 16];
        body[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = netlink
            .request(libc::RTM_GETLINK, 0, &body, |_, _| {})
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
