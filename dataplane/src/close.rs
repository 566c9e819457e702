//! Why a connection ended: codes that travel in QUIC's CONNECTION_CLOSE, and what the local
//! consumer is told.

use std::fmt;

/// Application error code of a STOQ connection close (RFC 9000, section 20.2). Codes below
/// [`CloseCode::APPLICATION_MIN`] belong to STOQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// Nothing is wrong; the closer needs the connection no longer.
    Done,
    /// The closer's process stops.
    Shutdown,
    /// The handshake or the greeting did not finish in time.
    HandshakeTimeout,
    /// The first frame was not a well-formed HELLO, or a second HELLO came.
    BadHello,
    /// The peer serves another chain.
    WrongChain,
    /// The peer speaks another version of STOQ.
    WrongVersion,
    /// A frame announced more bytes than its channel allows.
    FrameTooLong,
    /// A frame header was malformed, or a stream ended within a frame.
    BadFrame,
    /// Unknown stream type, or a second stream where only one may exist.
    BadStream,
    /// A frame was begun and not completed in time.
    FrameTimeout,
    /// All places for anonymous clients are taken.
    TooManyClients,
    /// All places for anonymous clients of one /64 address prefix are taken.
    TooManyFromPrefix,
    /// A newer connection with the same key replaces this one.
    Superseded,
    /// The peer's key is not, or no longer, in the trusted set.
    Untrusted,
    /// The peer used a channel that it has no right to.
    ChannelNotAllowed,
    /// A code that an application above STOQ defines.
    Application(u32),
}

impl CloseCode {
    /// First code that applications may use.
    pub const APPLICATION_MIN: u32 = 0x100;

    /// Every code of STOQ itself with its number on the wire.
    const TABLE: [(CloseCode, u32); 15] = [
        (CloseCode::Done, 0x00),
        (CloseCode::Shutdown, 0x01),
        (CloseCode::HandshakeTimeout, 0x02),
        (CloseCode::BadHello, 0x03),
        (CloseCode::WrongChain, 0x04),
        (CloseCode::WrongVersion, 0x05),
        (CloseCode::FrameTooLong, 0x06),
        (CloseCode::BadFrame, 0x07),
        (CloseCode::BadStream, 0x08),
        (CloseCode::FrameTimeout, 0x09),
        (CloseCode::TooManyClients, 0x0a),
        (CloseCode::TooManyFromPrefix, 0x0b),
        (CloseCode::Superseded, 0x0c),
        (CloseCode::Untrusted, 0x0d),
        (CloseCode::ChannelNotAllowed, 0x0e),
    ];

    /// Number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            CloseCode::Application(code) => code,
            known => Self::TABLE
                .iter()
                .find(|(code, _)| *code == known)
                .map(|(_, wire)| *wire)
                .expect("every code of STOQ is in the table"),
        }
    }

    /// The code behind a number on the wire; unknown numbers stay as they are.
    pub fn from_wire(wire: u64) -> Self {
        Self::TABLE
            .iter()
            .find(|(_, number)| u64::from(*number) == wire)
            .map_or(
                CloseCode::Application(u32::try_from(wire).unwrap_or(u32::MAX)),
                |(code, _)| *code,
            )
    }
}

/// Why a connection, or an attempt at one, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it: on request, or because the peer broke a rule.
    Local {
        /// The code sent to the peer.
        code: CloseCode,
        /// The words sent to the peer.
        reason: String,
    },
    /// The peer closed it.
    Peer {
        /// The code that the peer sent.
        code: CloseCode,
        /// The peer's words, at most [`REASON_BYTES_MAX`] bytes of them.
        reason: String,
    },
    /// The peer proved a key that is not the pinned one, or not in the trusted set.
    UntrustedPeer,
    /// The peer does not accept the key of this endpoint, or not as the one that it expects.
    RefusedByPeer,
    /// TLS or QUIC failed otherwise: no common algorithm, protocol violation, refusal.
    Transport(String),
    /// Nothing came for longer than the idle time-out.
    TimedOut,
    /// The peer forgot the connection, most likely because it restarted.
    Reset,
}

/// Longest close reason that is kept from a peer and that is sent to one, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

impl CloseReason {
    /// The close code, where one was exchanged.
    pub fn code(&self) -> Option<CloseCode> {
        match self {
            CloseReason::Local { code, .. } | CloseReason::Peer { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Local { code, reason } => write!(f, "closed here: {code:?}: {reason}"),
            CloseReason::Peer { code, reason } => {
                write!(f, "closed by the peer: {code:?}: {reason}")
            }
            CloseReason::UntrustedPeer => {
                f.write_str("the peer's key is not the expected one or not trusted")
            }
            CloseReason::RefusedByPeer => {
                f.write_str("the peer does not trust the key of this endpoint")
            }
            CloseReason::Transport(reason) => write!(f, "transport: {reason}"),
            CloseReason::TimedOut => f.write_str("timed out"),
            CloseReason::Reset => f.write_str("reset: the peer forgot the connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for (code, wire) in CloseCode::TABLE {
            assert_eq!(code.to_wire(), wire);
            assert_eq!(CloseCode::from_wire(wire.into()), code);
            assert!(wire < CloseCode::APPLICATION_MIN);
        }
        let application = CloseCode::Application(0x100);
        assert_eq!(
            CloseCode::from_wire(application.to_wire().into()),
            application
        );
    }
}
