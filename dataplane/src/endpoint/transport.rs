//! QUIC transport parameters from limits and options.

use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use falconet_crypto::hash::hash;
use quinn_proto::{
    AckFrequencyConfig, EndpointConfig, HashedConnectionIdGenerator, IdleTimeout,
    MtuDiscoveryConfig, TransportConfig, VarInt, congestion::CubicConfig,
};

use super::{
    datagrams::{RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES},
    path::PathGuess,
};
use crate::{IoOptions, Limits, steer::Steered};

/// First size of datagrams, bytes: what every IPv6 path carries (RFC 8200, section 5: 1280) less
/// the headers. Discovery raises it. It must stay below 16,384: quinn-proto writes the length of
/// long-header packets in two bytes, and larger ones never connect.
const MTU_INITIAL: u16 = 1280 - 48;

/// Largest UDP payload accepted, bytes.
const DATAGRAM_BYTES_MAX: u16 = 65_527;

/// Who dialled and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The peer dialled.
    Accepting,
    /// This side dialled and proves a key.
    DiallingAsValidator,
    /// This side dialled and proves none.
    DiallingAsClient,
}

/// Parameters of one kind of connection.
pub(super) fn transport_config(
    limits: &Limits,
    io: &IoOptions,
    datagrams: bool,
    side: Side,
    guess: &PathGuess,
) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let (idle, keep_alive) = match side {
        // The dialler keeps the connection alive, and the shorter idle time-out counts.
        Side::Accepting => (limits.idle_timeout_client, None),
        Side::DiallingAsValidator => (
            limits.idle_timeout_validator,
            Some(limits.keep_alive_validator),
        ),
        Side::DiallingAsClient => (limits.idle_timeout_client, Some(limits.keep_alive_client)),
    };
    let idle = IdleTimeout::try_from(idle).expect("idle time-outs are checked when binding");
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(0u32.into())
        // Until the peer's role is known: its greeting, and nothing large.
        .max_concurrent_uni_streams(crate::config::ORDERED_CHANNELS.into())
        .receive_window(limits.anonymous_window_bytes.into())
        .stream_receive_window(limits.stream_window_bytes.into())
        .send_window(limits.send_window_bytes)
        .datagram_receive_buffer_size(datagrams.then_some(RECEIVE_BUFFER_BYTES))
        .datagram_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_mtu(MTU_INITIAL);
    let mtu_cap = if guess.is_loopback {
        io.mtu_max_loopback
    } else {
        io.mtu_max
    };
    // Without a tier: as quinn-proto by default.
    let mut discovery = MtuDiscoveryConfig::default();
    if let Some(tier) = guess.tier {
        let path = tier.settings();
        let mtu_max = mtu_cap.min(path.mtu_max);
        discovery.upper_bound(mtu_max);
        let mtu = guess.mtu.map_or(mtu_max, |mtu| {
            mtu.clamp(MTU_INITIAL, mtu_max.max(MTU_INITIAL))
        });
        let mut ack = AckFrequencyConfig::default();
        ack.ack_eliciting_threshold(path.ack_threshold(mtu).into())
            .max_ack_delay(Some(path.ack_delay_max));
        let mut cubic = CubicConfig::default();
        cubic.initial_window(path.initial_window_bytes);
        config
            .ack_frequency_config(Some(ack))
            .congestion_controller_factory(Arc::new(cubic))
            .initial_rtt(path.initial_rtt);
    }
    config.mtu_discovery_config(Some(discovery));
    Arc::new(config)
}

/// Whether packets to this address stay on this machine.
pub(super) fn is_loopback(ip: &Ipv6Addr) -> bool {
    ip.is_loopback()
}

/// Streams that a trusted peer may have open.
pub(super) fn validator_streams(limits: &Limits) -> VarInt {
    (limits.bulk_streams_max + crate::config::ORDERED_CHANNELS).into()
}

/// A secret for an endpoint without one of its own.
pub(super) fn random_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the system gives random bytes");
    secret
}

/// Parameters of the endpoint of one thread. With the same secret, reset tokens and connection
/// identifiers survive a restart, so that peers learn at once that their connections are gone (RFC
/// 9000, section 10.3).
///
/// A connection identifier is retired after `cid_lifetime` and another one issued: an observer who
/// sees a peer on two paths at different times cannot link them (RFC 9000, section 9.5).
pub(super) fn endpoint_config(
    reset_secret: [u8; 32],
    cid_lifetime: Duration,
    thread: usize,
    threads: usize,
) -> EndpointConfig {
    let reset = hash("falconet stoq reset token", &[&reset_secret]);
    let cid = hash("falconet stoq connection id", &[&reset_secret]);
    let cid_key = u64::from_le_bytes(
        *cid.as_bytes()
            .first_chunk()
            .expect("a digest has more than eight bytes"),
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, reset.as_bytes());
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(move || {
        let mut generator = HashedConnectionIdGenerator::from_key(cid_key);
        generator.set_lifetime(cid_lifetime);
        Box::new(Steered::new(generator, thread, threads))
    });
    config
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .expect("within the range that QUIC permits")
        // A packet filter may then demand the fixed bit (RFC 9287 describes the greasing).
        .grease_quic_bit(false);
    config
}
