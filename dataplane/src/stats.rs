//! Counters of an endpoint: one atomic for each cause, so that every drop, refusal and wait has
//! a name. One table yields the struct, the snapshot and the names.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Live counters. All only grow, except those whose description begins with "Now:".
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $doc])+ pub(crate) $name: AtomicU64,)+
        }

        /// Values of all counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StatsSnapshot {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Stats {
            /// Reads all counters. Each is exact; together they are not one instant.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }

        impl StatsSnapshot {
            /// Names and descriptions, in the order of [`StatsSnapshot::values`]. Names are
            /// stable: exported metrics are built from them.
            pub const NAMES: &'static [(&'static str, &'static str)] = &[
                $((stringify!($name), concat!($($doc),+)),)+
            ];

            /// The values, in the order of [`StatsSnapshot::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

impl StatsSnapshot {
    /// How often a delivered payload byte was copied between its packet and the consumer, on
    /// average; `None` before the first. A frame counts when it is delivered. The kernel's copy into the receive buffer is not counted:
    /// what decrypts in place and gathers a frame of several packets once makes 1, a frame within
    /// one packet that stays in its receive buffer 0. Above 1 means that receive buffers ran out
    /// ([`StatsSnapshot::pool_exhausted`]) or that packets come through AF_XDP, whose frames are
    /// copied out.
    pub fn copies_per_byte(&self) -> Option<f64> {
        (self.payload_bytes_delivered > 0)
            .then(|| self.payload_bytes_copied as f64 / self.payload_bytes_delivered as f64)
    }
}

counters! {
    /// Now: network threads.
    net_threads,
    /// UDP datagrams received.
    datagrams_in,
    /// UDP payload bytes received.
    bytes_in,
    /// UDP datagrams sent.
    datagrams_out,
    /// UDP payload bytes sent.
    bytes_out,
    /// Datagrams that belong to no connection and start none (garbage, late, unknown version).
    datagrams_ignored,
    /// Datagrams that came to another network thread than their connection's and were passed on.
    datagrams_forwarded,
    /// Datagrams that could not be passed on because their thread had no room.
    datagrams_forward_dropped,
    /// Datagrams that the kernel refused to send (unreachable, too long for the path, full queue).
    datagrams_send_failed,
    /// UDP datagrams received through the rings of AF_XDP, a part of all received.
    ring_datagrams_in,
    /// UDP datagrams sent through the rings of AF_XDP, a part of all sent.
    ring_datagrams_out,
    /// Packets that AF_XDP received and that are malformed, have a wrong checksum, or are for
    /// another address.
    packets_refused,
    /// Packets that the kernel dropped because the rings of AF_XDP were full.
    packets_dropped,
    /// Responses outside a connection (retry, refusal, version negotiation) sent.
    stateless_responses,
    /// Responses outside a connection dropped because too many were waiting.
    stateless_responses_dropped,
    /// Transmissions that the kernel sent without copying them.
    sends_zero_copy,
    /// Transmissions asked to be sent without a copy that the kernel copied all the same.
    sends_zero_copy_copied,
    /// System calls of the network thread that received.
    syscalls_receive,
    /// System calls of the network thread that sent.
    syscalls_send,
    /// System calls of the network thread that waited.
    syscalls_wait,
    /// Times that the network thread spun instead of sleeping and found work.
    spins_useful,
    /// Payload bytes copied between a packet and the consumer.
    payload_bytes_copied,
    /// Payload bytes delivered to the consumer.
    payload_bytes_delivered,
    /// Frames delivered to the consumer.
    frames_in,
    /// Frames written to QUIC streams.
    frames_out,
    /// Receive buffers allocated; constant in steady state.
    pool_buffers_allocated,
    /// Bytes of receive buffers for which the system was asked for huge pages, and agreed.
    pool_bytes_huge,
    /// Receive buffers taken from the pool again.
    pool_buffers_recycled,
    /// Receptions for which the pool had no buffer, so that their bytes were copied out.
    pool_exhausted,
    /// Bulk streams opened; small frames that wait together share one.
    bulk_streams_out,
    /// Messages taken for sending in QUIC datagrams.
    messages_out,
    /// QUIC datagrams sent; each holds one message or several.
    message_datagrams_out,
    /// Messages received in QUIC datagrams and handed to the consumer.
    messages_in,
    /// QUIC datagrams received; each holds one message or several.
    message_datagrams_in,
    /// Messages received in QUIC datagrams and dropped because the consumer was slow.
    messages_dropped_full,
    /// Messages not sent because the path, or the peer, no longer takes datagrams of their size.
    messages_dropped_size,
    /// Handshakes begun by peers.
    handshakes_in,
    /// Handshakes begun here.
    handshakes_out,
    /// Handshakes that failed, either way.
    handshakes_failed,
    /// Incoming handshakes for which a session of the peer was resumed.
    handshakes_resumed,
    /// Updates of traffic keys begun here.
    key_updates,
    /// Incoming handshakes answered with a stateless retry.
    handshakes_retried,
    /// Incoming handshakes refused because too many were in progress.
    handshakes_refused_busy,
    /// Incoming handshakes refused because too many came from one /64 prefix.
    handshakes_refused_prefix,
    /// Incoming handshakes refused because all connection slots were taken.
    handshakes_refused_full,
    /// Handshakes or greetings not finished in time.
    handshake_timeouts,
    /// Handshakes that ended because the peer's key is not the pinned one or not trusted.
    refused_untrusted,
    /// Greetings refused: another chain.
    refused_wrong_chain,
    /// Greetings refused: another protocol version.
    refused_wrong_version,
    /// Greetings refused: malformed.
    refused_bad_hello,
    /// Anonymous clients refused: all their places taken.
    refused_clients_full,
    /// Anonymous clients refused: their /64 prefix has enough.
    refused_prefix_full,
    /// Connections closed for a frame longer than its channel allows.
    closed_frame_too_long,
    /// Connections closed for a malformed or truncated frame.
    closed_bad_frame,
    /// Connections closed for an unknown or superfluous stream.
    closed_bad_stream,
    /// Connections closed for a frame begun and never completed.
    closed_frame_timeout,
    /// Connections closed for using a channel without the right to.
    closed_channel_not_allowed,
    /// Connections closed because a newer one with the same key replaced them.
    closed_superseded,
    /// Connections that ended by idle time-out.
    closed_timed_out,
    /// Connections that ended by stateless reset.
    closed_reset,
    /// Connections that ended for any other reason.
    closed_other,
    /// Connections that were established.
    connections_opened,
    /// Now: established connections with trusted peers.
    connections_validators,
    /// Now: established connections with anonymous clients.
    connections_anonymous,
    /// Now: connections still in the handshake or greeting.
    connections_handshaking,
    /// Now: established connections to this machine itself.
    paths_loopback,
    /// Now: established connections on a local network, by their round-trip time.
    paths_lan,
    /// Now: established connections within a region, by their round-trip time.
    paths_metro,
    /// Now: established connections to further away, by their round-trip time.
    paths_wide,
    /// Times that the path of a connection turned out to be of another tier.
    path_tier_changes,
    /// Sends refused because the channel's queue was full.
    send_queue_full,
    /// Sends dropped because their connection had ended meanwhile.
    send_after_close,
    /// Times that reading stopped because the consumer was slow.
    reads_paused,
    /// Log lines about peers suppressed by the rate limit.
    log_suppressed,
}

/// Adds to a counter.
pub(crate) trait Count {
    fn add(&self, n: u64);
    fn inc(&self) {
        self.add(1);
    }
    fn dec(&self);
}

impl Count for AtomicU64 {
    fn add(&self, n: u64) {
        self.fetch_add(n, Ordering::Relaxed);
    }
    fn dec(&self) {
        let before = self.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a gauge went below zero");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_a_ratio_once_there_is_something_to_copy() {
        let stats = Stats::default();
        stats.payload_bytes_copied.add(30);
        assert_eq!(stats.snapshot().copies_per_byte(), None);
        stats.payload_bytes_delivered.add(40);
        assert_eq!(stats.snapshot().copies_per_byte(), Some(0.75));
    }

    #[test]
    fn names_and_values_go_together() {
        let stats = Stats::default();
        stats.frames_in.add(7);
        let snapshot = stats.snapshot();
        let names: Vec<&str> = StatsSnapshot::NAMES.iter().map(|(name, _)| *name).collect();
        let values: Vec<(&str, u64)> = snapshot.values().collect();
        assert_eq!(names, values.iter().map(|v| v.0).collect::<Vec<_>>());
        assert!(values.contains(&("frames_in", 7)));
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }
}
