//! What a network device is and can do, asked before it is used: addresses and MTU (rtnetlink),
//! receive queues (ethtool), XDP features (the `netdev` family of generic netlink, Linux 6.3).

use std::{
    io,
    net::Ipv6Addr,
    os::fd::{AsFd, AsRawFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{
    netlink::{Netlink, as_u32, attributes, push_attribute},
    packet::Mac,
};
use crate::DeviceName;

/// Queues that one endpoint serves; the size of the map that directs packets to them.
pub(super) const QUEUES_MAX: u32 = 64;

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: DeviceName,
    pub(super) index: u32,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    /// The XDP program that is attached already, by its id in the kernel.
    pub(super) program: Option<u32>,
}

/// What the driver says that XDP can do on a device (`enum netdev_xdp_act`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features(pub(super) u64);

impl Features {
    /// XDP programs run in the driver, with redirection.
    pub(super) fn has_native(self) -> bool {
        self.0 & 0b11 == 0b11
    }

    /// AF_XDP sockets use the device's own queues.
    pub(super) fn has_zero_copy(self) -> bool {
        self.0 & 0b1000 != 0
    }
}

/// Looks the device up and refuses what AF_XDP cannot use, with the reason.
pub(super) fn device(name: DeviceName) -> Result<Device, String> {
    let mut body = vec![0; 16];
    push_attribute(&mut body, libc::IFLA_IFNAME, name.with_nul());
    let mut found = None;
    Netlink::open(libc::NETLINK_ROUTE, 0)
        .and_then(|mut netlink| {
            netlink.request(libc::RTM_GETLINK, 0, &body, |_, message| {
                found = parse_link(name, message);
            })
        })
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => {
                format!("there is no network device {name}; `ip link` lists those that exist")
            }
            _ => format!("asking for device {name} failed: {error}"),
        })?;
    let link = found.ok_or_else(|| format!("the kernel said nothing about device {name}"))?;
    if link.kind != libc::ARPHRD_ETHER {
        return Err(format!(
            "{name} is no Ethernet device (loopback and tunnels have no hardware addresses)"
        ));
    }
    if link.flags & libc::IFF_UP as u32 == 0 {
        return Err(format!("{name} is down; `ip link set {name} up`"));
    }
    Ok(link.device)
}

struct Link {
    device: Device,
    kind: u16,
    flags: u32,
}

/// IFLA_XDP_PROG_ID.
const XDP_PROGRAM_ID: u16 = 4;

fn parse_link(name: DeviceName, message: &[u8]) -> Option<Link> {
    // struct ifinfomsg: family u8, pad, type u16, index i32, flags u32, change u32.
    let (header, rest) = message.split_first_chunk::<16>()?;
    let u32_at = |at: usize| as_u32(&header[at..at + 4]).expect("four bytes");
    let mut link = Link {
        device: Device {
            name,
            index: u32_at(4),
            mac: [0; 6],
            mtu: 0,
            program: None,
        },
        kind: u16::from_ne_bytes([header[2], header[3]]),
        flags: u32_at(8),
    };
    for (kind, value) in attributes(rest) {
        match kind {
            libc::IFLA_ADDRESS => link.device.mac = value.try_into().unwrap_or([0; 6]),
            libc::IFLA_MTU => link.device.mtu = as_u32(value)?,
            libc::IFLA_XDP => {
                link.device.program = attributes(value)
                    .find(|(kind, _)| *kind == XDP_PROGRAM_ID)
                    .and_then(|(_, value)| as_u32(value));
            }
            _ => {}
        }
    }
    Some(link)
}

/// The device on which datagrams to `addr` come: the one that has the address, or for `[::]` the
/// one of the default route.
pub(super) fn device_for(addr: Ipv6Addr) -> Result<DeviceName, String> {
    let failed = |error: io::Error| format!("looking for the device of {addr} failed: {error}");
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE, 0).map_err(failed)?;
    let mut index = None;
    if addr.is_unspecified() {
        // struct rtmsg: family, then zero means "any". A global unicast address decides.
        let mut body = vec![0; 12];
        body[0] = libc::AF_INET6 as u8;
        body[1] = 128;
        push_attribute(&mut body, libc::RTA_DST, &GLOBAL_UNICAST.octets());
        let _ = netlink.request(libc::RTM_GETROUTE, 0, &body, |_, message| {
            index = attributes(message.get(12..).unwrap_or(&[]))
                .find(|(kind, _)| *kind == libc::RTA_OIF)
                .and_then(|(_, value)| as_u32(value));
        });
    } else {
        // struct ifaddrmsg: family, prefix length, flags, scope, index u32.
        let body = [libc::AF_INET6 as u8, 0, 0, 0, 0, 0, 0, 0];
        netlink
            .request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &body, |_, message| {
                let Some((header, rest)) = message.split_first_chunk::<8>() else {
                    return;
                };
                let is_it = attributes(rest)
                    .any(|(kind, value)| kind == libc::IFA_ADDRESS && *value == addr.octets());
                if is_it {
                    index = as_u32(&header[4..8]);
                }
            })
            .map_err(failed)?;
    }
    let index = index.ok_or_else(|| {
        format!("no device is obvious for {addr}: name one (option `device`, or --device)")
    })?;
    name_of(index).map_err(failed)
}

/// An address that only a default route reaches (the first of 2000::/3).
const GLOBAL_UNICAST: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);

fn name_of(index: u32) -> io::Result<DeviceName> {
    let mut buffer = [0u8; libc::IFNAMSIZ];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the function demands.
    let result = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr().cast()) };
    if result.is_null() {
        return Err(io::Error::last_os_error());
    }
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(0);
    let name = str::from_utf8(&buffer[..end]).unwrap_or_default();
    name.parse().map_err(io::Error::other)
}

/// Receive queues in use: packets arrive on any of them. 1 when the driver does not say.
pub(super) fn queues(device: &Device) -> u32 {
    /// `struct ethtool_channels`.
    #[repr(C)]
    #[derive(Default)]
    struct Channels {
        command: u32,
        max: [u32; 4],
        receive: u32,
        transmit: u32,
        other: u32,
        combined: u32,
    }
    /// ETHTOOL_GCHANNELS.
    const GET_CHANNELS: u32 = 0x3c;
    let mut channels = Channels {
        command: GET_CHANNELS,
        ..Channels::default()
    };
    let socket = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let Ok(socket) = socket else { return 1 };
    // SAFETY: every field is an integer, a pointer or an array of integers, for which zero is a
    // value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.name.with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: the request names a device and points at a structure of the size that the command
    // demands; both live through the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_fd().as_raw_fd(),
            libc::SIOCETHTOOL as _,
            &raw mut request,
        )
    };
    let count = channels.receive.saturating_add(channels.combined);
    if result < 0 { 1 } else { count.max(1) }
}

/// What XDP can do on the device, `None` when the kernel cannot say (before 6.3).
pub(super) fn features(device: &Device) -> Option<Features> {
    /// CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME.
    const GET_FAMILY: u8 = 3;
    const FAMILY_ID: u16 = 1;
    const FAMILY_NAME: u16 = 2;
    /// NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES.
    const DEVICE_GET: u8 = 1;
    const INDEX: u16 = 1;
    const XDP_FEATURES: u16 = 3;
    /// Length of `genlmsghdr`, bytes: command, version, reserved.
    const GENERIC_BYTES: usize = 4;

    let mut netlink = Netlink::open(libc::NETLINK_GENERIC, 0).ok()?;
    let mut body = vec![GET_FAMILY, 1, 0, 0];
    push_attribute(&mut body, FAMILY_NAME, b"netdev\0");
    let mut family = None;
    netlink
        .request(libc::GENL_ID_CTRL as u16, 0, &body, |_, message| {
            family = attributes(message.get(GENERIC_BYTES..).unwrap_or(&[]))
                .find(|(kind, _)| *kind == FAMILY_ID)
                .and_then(|(_, value)| value.try_into().ok().map(u16::from_ne_bytes));
        })
        .ok()?;
    let mut body = vec![DEVICE_GET, 1, 0, 0];
    push_attribute(&mut body, INDEX, &device.index.to_ne_bytes());
    let mut features = None;
    netlink
        .request(family?, 0, &body, |_, message| {
            features = attributes(message.get(GENERIC_BYTES..).unwrap_or(&[]))
                .find(|(kind, _)| *kind == XDP_FEATURES)
                .and_then(|(_, value)| value.try_into().ok().map(u64::from_ne_bytes));
        })
        .ok()?;
    features.map(Features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_refused_with_a_reason() {
        let reason = device("lo".parse().unwrap()).unwrap_err();
        assert!(reason.contains("no Ethernet device"), "{reason}");
    }

    #[test]
    fn a_missing_device_is_named() {
        let reason = device("absent-device".parse().unwrap()).unwrap_err();
        assert!(
            reason.contains("no network device absent-device"),
            "{reason}"
        );
    }

    #[test]
    fn the_device_of_an_address_is_found() {
        assert_eq!(
            device_for(Ipv6Addr::LOCALHOST).unwrap(),
            "lo".parse().unwrap()
        );
        let reason = device_for("2001:db8::dead".parse().unwrap()).unwrap_err();
        assert!(reason.contains("--device"), "{reason}");
    }
}
