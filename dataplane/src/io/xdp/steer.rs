//! Who directs our datagrams to AF_XDP sockets: the filter that `falconet xdp attach` pinned on the
//! device, or where there is none, a program that only directs ([`Steer`]). A filter is never gone
//! around. Packets longer than a frame of ours, which the kernel joined before the program saw them
//! (generic XDP comes after receive offload, and a veth pair passes what its sender did not cut),
//! take the way through the socket.

use std::{net::SocketAddrV6, os::fd::BorrowedFd, path::Path};

use falconet_ebpf::{Filter, Mode, PIN_ROOT, Steer};

use super::probe::Device;

/// Where XDP programs run on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before the kernel has made a packet buffer.
    Native,
    /// In the network stack, with any driver; slower.
    Generic,
}

/// The attached program and its map of sockets.
pub(super) enum Steering {
    /// The filter of this device.
    Filter {
        filter: Box<Filter>,
        /// Longest packet for the sockets, with its Ethernet header, bytes.
        packet_bytes_max: u32,
    },
    /// A program of our own.
    Own(Box<Steer>),
}

impl Steering {
    /// Uses the filter of the device, or attaches a program of our own to the driver, or with the
    /// reason why not, to the stack.
    pub(super) fn attach(
        device: &Device,
        addr: &SocketAddrV6,
        packet_bytes_max: u32,
        is_native_known_missing: bool,
    ) -> Result<(Self, Option<String>), String> {
        if let Some(filter) = filter(device, addr)? {
            let steering = Steering::Filter {
                filter: Box::new(filter),
                packet_bytes_max,
            };
            return Ok((steering, None));
        }
        let modes: &[Mode] = match is_native_known_missing {
            true => &[Mode::Generic],
            false => &[Mode::Native, Mode::Generic],
        };
        let (steer, tried) = Steer::attach(
            device.name.as_str(),
            device.index,
            addr,
            packet_bytes_max,
            modes,
        )
        .map_err(|error| error.to_string())?;
        let why_not_better = match tried.into_iter().next() {
            Some((_, reason)) => Some(reason),
            None if is_native_known_missing => Some("the driver has no XDP".to_owned()),
            None => None,
        };
        Ok((Steering::Own(Box::new(steer)), why_not_better))
    }

    /// Directs the packets of `queue` to an AF_XDP socket. Undone when the socket is closed.
    pub(super) fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), String> {
        match self {
            Steering::Filter {
                filter,
                packet_bytes_max,
            } => filter.register_xsk(queue, 0, socket, *packet_bytes_max),
            Steering::Own(steer) => steer.register(queue, socket),
        }
        .map_err(|error| {
            format!("directing packets to the socket of queue {queue} failed: {error}")
        })
    }

    /// Where the program runs.
    pub(super) fn hook(&self) -> Hook {
        let mode = match self {
            Steering::Filter { filter, .. } => filter.attachment().mode,
            Steering::Own(steer) => steer.mode(),
        };
        match mode {
            Mode::Native => Hook::Native,
            Mode::Generic | Mode::Tc => Hook::Generic,
        }
    }

    /// Whether packets pass the filter first.
    pub(super) fn is_filtered(&self) -> bool {
        matches!(self, Steering::Filter { .. })
    }
}

/// The filter pinned for this device, when it can feed us; an error when it is there and cannot,
/// because our own program would go around it.
fn filter(device: &Device, addr: &SocketAddrV6) -> Result<Option<Filter>, String> {
    let name = device.name.as_str();
    // Whether there is one, and whether it is ours to read: without it, our own program is tried,
    // which the kernel attaches in place of none.
    let Ok(filter) = Filter::open(Path::new(PIN_ROOT), name) else {
        return Ok(None);
    };
    let status = filter
        .status()
        .map_err(|error| format!("asking the filter of {name} failed: {error}"))?;
    let attach = format!("`falconet xdp detach {name}`, then attach it again");
    if !status.mode.is_xdp() {
        if !status.alive {
            return Ok(None);
        }
        return Err(format!(
            "the filter of {name} is attached by tc, which cannot feed AF_XDP; {attach} in native \
             or generic mode"
        ));
    }
    // Devices of the same name live in other network namespaces.
    if device.program != Some(status.program) {
        return Ok(None);
    }
    let is_for_us =
        status.port == addr.port() && status.address.is_none_or(|address| address == *addr.ip());
    if !is_for_us {
        return Err(format!(
            "the filter of {name} is for port {}, not for {addr}; {attach} for this address",
            status.port
        ));
    }
    if status.net_threads != 1 {
        return Err(format!(
            "the filter of {name} was attached for {} network threads, and AF_XDP serves one; \
             {attach}",
            status.net_threads
        ));
    }
    Ok(Some(filter))
}
