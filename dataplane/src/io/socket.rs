//! The UDP socket that every backend uses: IPv6 only, large buffers, no fragmentation.

use std::{
    io,
    net::SocketAddrV6,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};

use crate::{BindError, IoOptions, steer};

/// How often binding to a port in use is tried again.
const BIND_RETRIES_MAX: usize = 10;

/// Delay between two tries.
const BIND_RETRY_DELAY: Duration = Duration::from_millis(30);

/// A bound socket and what it was bound to.
pub(crate) struct Socket {
    pub(super) fd: OwnedFd,
    pub(crate) addr: SocketAddrV6,
}

/// Binds one socket for each of `options.threads` threads, all to the same port, and has the kernel
/// give each datagram to the socket of the thread that it belongs to (see `steer`).
///
/// Only one at a time of several processes may listen on a port, although SO_REUSEPORT would let
/// those of one user share it: the first socket is bound without the option, and the last one gives
/// it up after binding, which shuts the group.
pub(crate) fn bind_group(
    addr: SocketAddrV6,
    options: &IoOptions,
) -> Result<Vec<Socket>, BindError> {
    let first = bind(addr, options, false)?;
    let addr = first.addr;
    let mut group = vec![first];
    if options.threads == 1 {
        return Ok(group);
    }
    let share = |fd: &OwnedFd, on| {
        set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, on)
            .map_err(|source| system_io("setsockopt SO_REUSEPORT", addr, source))
    };
    share(&group[0].fd, 1)?;
    for _ in 1..options.threads {
        group.push(bind(addr, options, true)?);
    }
    attach(&group[0].fd, options.threads)
        .map_err(|source| system_io("setsockopt SO_ATTACH_REUSEPORT_CBPF", addr, source))?;
    // Looking up a datagram's socket begins with the first of the group, so that the last may lack
    // the option.
    share(&group[options.threads - 1].fd, 0)?;
    Ok(group)
}

/// Gives the group of sockets the program that chooses among them.
fn attach(fd: &OwnedFd, threads: usize) -> io::Result<()> {
    let mut steps = steer::program(threads);
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the descriptor is open; `program` points at `steps`, which has as many instructions
    // as it says and outlives the call; the kernel copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens and binds one socket; `shared` joins those that have the port already.
fn bind(addr: SocketAddrV6, options: &IoOptions, shared: bool) -> Result<Socket, BindError> {
    let system = |call| {
        move |errno: Errno| BindError::System {
            call,
            addr,
            source: errno.into(),
        }
    };
    // Blocking: io_uring arms its own polling only then; the others ask with MSG_DONTWAIT.
    let flags = SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)
        .map_err(system("socket"))?;
    sockopt::set_ipv6_v6only(&fd, true).map_err(system("setsockopt IPV6_V6ONLY"))?;
    grow_buffers(&fd, options.socket_buffer_bytes);
    set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
        .map_err(|source| system_io("setsockopt IPV6_RECVTCLASS", addr, source))?;
    // Without these, path MTU discovery would measure the kernel's fragmentation.
    set(
        &fd,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::IPV6_PMTUDISC_PROBE,
    )
    .map_err(|source| system_io("setsockopt IPV6_MTU_DISCOVER", addr, source))?;
    set(&fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
        .map_err(|source| system_io("setsockopt IPV6_DONTFRAG", addr, source))?;
    if addr.ip().is_unspecified() {
        // Answers must leave from the address that was asked.
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
            .map_err(|source| system_io("setsockopt IPV6_RECVPKTINFO", addr, source))?;
    }
    if shared {
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
            .map_err(|source| system_io("setsockopt SO_REUSEPORT", addr, source))?;
    }
    bind_patiently(&fd, addr).map_err(|errno| match errno {
        Errno::ADDRINUSE => BindError::AddressInUse { addr },
        Errno::ADDRNOTAVAIL => BindError::AddressNotAvailable { addr },
        other => system("bind")(other),
    })?;
    let local = rustix::net::getsockname(&fd).map_err(system("getsockname"))?;
    let local = SocketAddrV6::try_from(local).map_err(system("getsockname"))?;
    Ok(Socket { fd, addr: local })
}

/// A process that used io_uring and was killed keeps its port for some milliseconds, until the
/// kernel has torn its ring down; its successor must not fail for that.
fn bind_patiently(fd: &OwnedFd, addr: SocketAddrV6) -> Result<(), Errno> {
    for _ in 0..BIND_RETRIES_MAX {
        match rustix::net::bind(fd, &addr) {
            Err(Errno::ADDRINUSE) => std::thread::sleep(BIND_RETRY_DELAY),
            other => return other,
        }
    }
    rustix::net::bind(fd, &addr)
}

/// Turns on receive offload; `false` when the kernel has none.
pub(super) fn enable_gro(fd: &OwnedFd) -> bool {
    set(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
}

/// Whether the kernel has segmentation offload.
pub(super) fn has_gso(fd: &OwnedFd) -> bool {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, `value` and `len` are valid for writes of their sizes, and
    // `len` holds the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    result == 0
}

/// Asks for large kernel buffers, beyond the system's maximum where privileges permit.
fn grow_buffers(fd: &OwnedFd, wished: usize) {
    if sockopt::set_socket_recv_buffer_size_force(fd, wished).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(fd, wished);
    }
    let value = libc::c_int::try_from(wished).unwrap_or(libc::c_int::MAX);
    if set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(fd, wished);
    }
    let granted = sockopt::socket_recv_buffer_size(fd).unwrap_or(0) / 2;
    if granted < wished {
        tracing::info!(
            wished,
            granted,
            "the kernel grants a smaller receive buffer; bursts may be dropped \
             (raise net.core.rmem_max)"
        );
    }
}

fn system_io(call: &'static str, addr: SocketAddrV6, source: io::Error) -> BindError {
    BindError::System { call, addr, source }
}

fn set(fd: &OwnedFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open and `value` is valid for reads of its size.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
