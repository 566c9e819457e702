//! Which ports the validators of a local network listen on.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};

/// Where ports begin by convention: STOQ of validator i at `BASE_PORT + i`.
pub const BASE_PORT: u16 = 26_600;
/// Distance from a validator's STOQ port to its HTTP port.
pub const HTTP_PORT_OFFSET: u16 = 100;

/// The addresses of one validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) stoq: SocketAddrV6,
    pub(super) http: SocketAddrV6,
}

/// Addresses counted up from a port; nothing when they do not fit below 65,536 or overlap.
pub(super) fn counted(base: u16, validators: usize) -> Option<Vec<Addresses>> {
    if validators > usize::from(HTTP_PORT_OFFSET) {
        return None;
    }
    (0..validators)
        .map(|index| {
            let stoq = base.checked_add(u16::try_from(index).ok()?)?;
            let http = stoq.checked_add(HTTP_PORT_OFFSET)?;
            Some(Addresses {
                stoq: loopback(stoq),
                http: loopback(http),
            })
        })
        .collect()
}

/// Addresses that nobody listens on right now. They are all held until the last is found, so no
/// two are the same; another program may still take one before its validator starts, which the
/// validator then says.
pub(super) fn free(validators: usize) -> std::io::Result<Vec<Addresses>> {
    let mut held = Vec::with_capacity(validators);
    for _ in 0..validators {
        let (udp, tcp) = (
            UdpSocket::bind(loopback(0))?,
            TcpListener::bind(loopback(0))?,
        );
        let addresses = Addresses {
            stoq: loopback(port(udp.local_addr()?)),
            http: loopback(port(tcp.local_addr()?)),
        };
        held.push((udp, tcp, addresses));
    }
    Ok(held
        .into_iter()
        .map(|(_, _, addresses)| addresses)
        .collect())
}

fn loopback(port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)
}

fn port(addr: SocketAddr) -> u16 {
    addr.port()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn counted_ports_are_where_people_expect_them() {
        let addresses = counted(BASE_PORT, 4).unwrap();
        assert_eq!(addresses[0].stoq.to_string(), "[::1]:26600");
        assert_eq!(addresses[3].http.to_string(), "[::1]:26703");
        assert!(counted(65_500, 4).is_none(), "HTTP ports would pass 65,535");
        assert!(
            counted(1_000, 101).is_none(),
            "STOQ and HTTP ports would overlap"
        );
    }

    #[test]
    fn free_ports_are_distinct() {
        let addresses = free(16).unwrap();
        let stoq: HashSet<u16> = addresses.iter().map(|a| a.stoq.port()).collect();
        let http: HashSet<u16> = addresses.iter().map(|a| a.http.port()).collect();
        assert_eq!((stoq.len(), http.len()), (16, 16));
        assert!(!stoq.contains(&0) && !http.contains(&0));
    }
}
