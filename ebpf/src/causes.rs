//! The one list of what the filter can decide. The C header `src/bpf/causes.h` and the table in
//! `docs/xdp.md` are written from it; a test compares them.

use std::fmt;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Goes on to the kernel's network stack, untouched.
    Pass,
    /// Goes to an AF_XDP socket of the node.
    Redirect,
    /// Ends here.
    Drop,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fate::Pass => "pass",
            Fate::Redirect => "redirect",
            Fate::Drop => "drop",
        })
    }
}

macro_rules! causes {
    ($($name:ident = $fate:ident, $text:literal, $meaning:literal;)*) => {
        /// Why the filter decided as it did: one counter each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Cause {
            $(#[doc = $meaning] $name,)*
        }

        impl Cause {
            /// Every cause, in the order of its number.
            pub const ALL: &'static [Cause] = &[$(Cause::$name,)*];

            /// Its name in counters, metrics and the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Cause::$name => $text,)* }
            }

            /// What becomes of the packet.
            #[must_use]
            pub const fn fate(self) -> Fate {
                match self { $(Cause::$name => Fate::$fate,)* }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Cause::$name => $meaning,)* }
            }
        }
    };
}

causes! {
    NotIpv6 = Pass, "not_ipv6", "no IPv6 packet";
    NotOurs = Pass, "not_ours",
        "IPv6, but no UDP to our address and port: ICMPv6, TCP, other ports, and what cannot be delivered";
    LaterFragment = Pass, "later_fragment",
        "a later fragment, which names no port; useless without the first one, which is dropped if it is ours";
    Validator = Pass, "validator", "from an address of the allow list, within its budget";
    Client = Pass, "client", "from anybody else, within the budgets";
    RedirectValidator = Redirect, "redirect_validator", "as `validator`, to an AF_XDP socket";
    RedirectClient = Redirect, "redirect_client", "as `client`, to an AF_XDP socket";
    ExtensionChain = Drop, "extension_chain",
        "more than 8 IPv6 extension headers, or more than 1024 bytes of them, for whatever port";
    Extension = Drop, "extension", "to our port behind IPv6 extension headers, which STOQ never sends";
    Fragment = Drop, "fragment", "a first fragment to our port; QUIC forbids fragments (RFC 9000, section 14)";
    Truncated = Drop, "truncated", "the frame ends before the IPv6 payload does";
    UdpLength = Drop, "udp_length", "the UDP length contradicts the IPv6 payload length";
    UdpSource = Drop, "udp_source", "from UDP port 0, which nobody can answer";
    QuicShort = Drop, "quic_short",
        "less than 21 bytes, the smallest QUIC datagram (RFC 9000, section 10.3)";
    QuicVersion = Drop, "quic_version", "a long header of a version other than 1";
    QuicConnectionId = Drop, "quic_connection_id",
        "a connection id longer than 20 bytes, or one that we cannot have given out or accept (RFC 9000, section 7.2)";
    QuicTruncated = Drop, "quic_truncated",
        "a long header, token or packet that reaches beyond the datagram, or is too short to be protected";
    Blocked = Drop, "blocked", "from a prefix of the block list";
    NotAllowed = Drop, "not_allowed", "from outside the allow list while the door is closed to clients";
    InitialSmall = Drop, "initial_small",
        "an Initial in less than 1200 bytes from outside the allow list (RFC 9000, section 14.1)";
    ValidatorInitials = Drop, "validator_initials", "an allowed address used up its budget of Initials";
    ValidatorPackets = Drop, "validator_packets", "an allowed address used up its budget of packets";
    ClientInitials = Drop, "client_initials", "a source prefix used up its budget of Initials";
    ClientPackets = Drop, "client_packets", "a source prefix used up its budget of packets";
    ClientsInitials = Drop, "clients_initials",
        "all clients together used up the Initials of this core";
    ClientsPackets = Drop, "clients_packets",
        "all clients together used up the packets of this core";
    Internal = Drop, "internal", "the filter's own tables are missing; never seen";
}

/// Number of causes.
pub const CAUSES: usize = Cause::ALL.len();

impl Cause {
    /// Its number in the kernel.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The cause with a number, if there is one.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The C header with the numbers.
#[must_use]
pub fn header() -> String {
    let mut text = String::from(
        "/* Written from src/causes.rs by `make docs`; do not edit. */\n#ifndef FALCONET_CAUSES_H\n\
         #define FALCONET_CAUSES_H\n\nenum cause {\n",
    );
    for cause in Cause::ALL {
        let name = cause.name().to_uppercase();
        text.push_str(&format!("\tCAUSE_{name} = {},\n", cause.index()));
    }
    text.push_str(&format!("\tCAUSES = {CAUSES},\n}};\n\n#endif\n"));
    text
}

/// The table of the documentation.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| counter | fate | when |\n|---|---|---|\n");
    for cause in Cause::ALL {
        text.push_str(&format!(
            "| `{}` | {} | {} |\n",
            cause.name(),
            cause.fate(),
            cause.meaning()
        ));
    }
    text
}
