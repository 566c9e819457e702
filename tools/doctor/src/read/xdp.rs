//! What the kernel says about XDP on each device: the generic-netlink family `netdev`
//! (`Documentation/netlink/specs/netdev.yaml`), since Linux 6.3.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::machine::Fact;

/// Answers read for one request; a machine with more devices is cut off.
const MESSAGES_MAX: usize = 1024;
const BUFFER_BYTES: usize = 32 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_HEADER_BYTES: usize = 16;
const GENL_HEADER_BYTES: usize = 4;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// Flags in an attribute's type (nested, byte order).
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// Interface index and `NETDEV_XDP_ACT_*` bits of every device in this network namespace.
pub(super) fn features() -> Fact<Vec<(u32, u64)>> {
    let family = request(
        &message(GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY, &family_name()),
        |attributes| find(attributes, CTRL_ATTR_FAMILY_ID).and_then(u16_of),
    )?;
    let family = *family
        .first()
        .ok_or("the kernel does not tell (netlink family netdev, Linux 6.3)")?;
    request(
        &message(family, NLM_F_DUMP, NETDEV_CMD_DEV_GET, &[]),
        |attributes| {
            let index = find(attributes, NETDEV_A_DEV_IFINDEX)?;
            let bits = find(attributes, NETDEV_A_DEV_XDP_FEATURES)?;
            let index = u32::from_ne_bytes(index.try_into().ok()?);
            Some((index, u64::from_ne_bytes(bits.try_into().ok()?)))
        },
    )
}

/// The attribute that asks for the family `netdev`.
fn family_name() -> Vec<u8> {
    let name = b"netdev\0";
    let mut attribute = Vec::new();
    attribute.extend((4 + name.len() as u16).to_ne_bytes());
    attribute.extend(CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    attribute.extend(name);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn message(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = NLMSG_HEADER_BYTES + GENL_HEADER_BYTES + attributes.len();
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len).expect("a short request").to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    message
}

/// Sends a request and takes something out of the attributes of each answer.
fn request<T>(message: &[u8], take: impl Fn(&[u8]) -> Option<T>) -> Fact<Vec<T>> {
    let failed = |call: &str| {
        let call = call.to_owned();
        move |errno: rustix::io::Errno| format!("netlink {call}: {errno}")
    };
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::GENERIC),
    )
    .map_err(failed("socket"))?;
    send(&socket, message, SendFlags::empty()).map_err(failed("send"))?;
    let is_dump = u16::from_ne_bytes([message[6], message[7]]) & NLM_F_DUMP == NLM_F_DUMP;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut found = Vec::new();
    for _ in 0..MESSAGES_MAX {
        // The kernel answers within send, or within recv while it dumps; it never makes us wait.
        let (len, _) =
            recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT).map_err(failed("recv"))?;
        let (mut more, mut rest) = (is_dump, &buffer[..len]);
        while let Some((kind, body, next)) = split(rest) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    match -code {
                        0 => more = false,
                        libc::ENOENT => return Ok(found),
                        errno => {
                            let error = std::io::Error::from_raw_os_error(errno);
                            return Err(format!("netlink: {error}"));
                        }
                    }
                }
                _ => found.extend(body.get(GENL_HEADER_BYTES..).and_then(&take)),
            }
            rest = next;
        }
        if !more {
            return Ok(found);
        }
    }
    Ok(found)
}

/// Kind and body of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(NLMSG_HEADER_BYTES..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The value of the first attribute of a type.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..len)?;
        if kind & ATTRIBUTE_TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_broken_ones_end_the_search() {
        let bytes = family_name();
        assert_eq!(find(&bytes, CTRL_ATTR_FAMILY_NAME), Some(&b"netdev\0"[..]));
        assert_eq!(find(&bytes, CTRL_ATTR_FAMILY_ID), None);
        for len in 0..11 {
            assert_eq!(find(&bytes[..len], CTRL_ATTR_FAMILY_NAME), None, "{len}");
        }
        assert_eq!(find(&[0, 0, 9, 0], 1), None, "an attribute without length");
    }

    #[test]
    fn messages_split_and_broken_ones_do_not() {
        let two = [message(7, 0, 1, &[]), message(8, 0, 2, &[1, 2, 3, 4])].concat();
        let (kind, body, rest) = split(&two).unwrap();
        assert_eq!((kind, body), (7, &[1, 1, 0, 0][..]));
        let (kind, body, rest) = split(rest).unwrap();
        assert_eq!((kind, body.len(), rest.len()), (8, 8, 0));
        assert!(split(&two[..19]).is_none() && split(&[0; 16]).is_none());
    }
}
