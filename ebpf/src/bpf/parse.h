/* The parser: from the frame's first byte to the QUIC header. `src/parse.rs` is the same in Rust,
 * step by step, and a test compares the two over generated packets; change both together. */
#ifndef FALCONET_PARSE_H
#define FALCONET_PARSE_H

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "causes.h"

#define VLAN_TAGS_MAX 2
#define EXTENSIONS_MAX 8
#define EXTENSION_BYTES_MAX 1024
/* RFC 9000: sections 17.2 (connection ids), 7.2, 14.1, 10.3 and 5.4.2 of RFC 9001 (sample). */
#define CID_BYTES_MAX 20
#define CID_BYTES_MIN_INITIAL 8
#define INITIAL_BYTES_MIN 1200
#define DATAGRAM_BYTES_MIN 21
#define PROTECTED_BYTES_MIN 20
#define RETRY_TAG_BYTES 16
#define QUIC_VERSION_1 1
/* The verifier knows packet offsets below 64 KB; what lies further is fetched by a helper. */
#define DIRECT_BYTES_MAX 0x4000

enum { LONG_INITIAL = 0, LONG_0RTT = 1, LONG_HANDSHAKE = 2, LONG_RETRY = 3 };

/* A frame at either hook. Of a large packet that the kernel has not cut yet (GSO, GRO) the tc
 * program sees all segments as one, with only the headers in one piece. */
struct frame {
	void *ctx;
	void *data;
	void *end;
	__u32 bytes;
	__u32 segments;
	__u32 segment_bytes;	/* 0: not segmented */
};

/* What the parser found out about a packet of ours that it does not drop. */
struct parsed {
	__u64 source[2];
	__u32 cid_at;		/* offset of the destination connection id */
	__u32 cid_bytes;
	bool starts;		/* may start a connection: Initial or 0-RTT */
	bool small_initial;
	bool tagged;		/* behind a VLAN tag */
};

/* Copies `count` bytes at `at`, wherever they lie; false when the frame ends before. */
static __always_inline bool load(const struct frame *frame, const bool tc, __u32 at, void *to,
				 const __u32 count)
{
	return !(tc ? bpf_skb_load_bytes(frame->ctx, at, to, count)
		    : bpf_xdp_load_bytes(frame->ctx, at, to, count));
}

/* As `load`, and quickly where the bytes lie in the first piece. */
static __always_inline bool get(const struct frame *frame, const bool tc, __u32 at, void *to,
				const __u32 count)
{
	if (at < DIRECT_BYTES_MAX) {
		void *from = frame->data + at;

		if (from + count <= frame->end) {
			__builtin_memcpy(to, from, count);
			return true;
		}
	}
	return at + count <= frame->bytes && load(frame, tc, at, to, count);
}

/* Reads a variable-length integer (RFC 9000, section 16) at `*at` within the datagram that ends at
 * `end`, and moves `*at` behind it. */
static __always_inline bool get_varint(const struct frame *frame, const bool tc, __u32 *at,
				       __u32 end, __u64 *value)
{
	__u32 start = *at;
	__u8 first;

	if (start + 1 > end || !get(frame, tc, start, &first, 1))
		return false;
	switch (first >> 6) {
	case 0:
		*value = first & 0x3f;
		*at = start + 1;
		return true;
	case 1: {
		__be16 two;

		if (start + 2 > end || !get(frame, tc, start, &two, 2))
			return false;
		*value = bpf_ntohs(two) & 0x3fff;
		*at = start + 2;
		return true;
	}
	case 2: {
		__be32 four;

		if (start + 4 > end || !get(frame, tc, start, &four, 4))
			return false;
		*value = bpf_ntohl(four) & 0x3fffffff;
		*at = start + 4;
		return true;
	}
	default: {
		__be64 eight;

		if (start + 8 > end || !get(frame, tc, start, &eight, 8))
			return false;
		*value = bpf_be64_to_cpu(eight) & 0x3fffffffffffffffULL;
		*at = start + 8;
		return true;
	}
	}
}

/* The QUIC header of a datagram of `bytes` bytes at `at` (RFC 9000, section 17). The fixed bit is
 * not looked at: peers may grease it (RFC 9287). */
static __always_inline int parse_quic(const struct frame *frame, const bool tc,
				      const struct settings *settings, __u32 at, __u32 bytes,
				      struct parsed *out)
{
	struct {
		__u8 first;
		__u8 version[4];
		__u8 dcid_bytes;
	} __attribute__((packed)) head;
	__u32 end = at + bytes;
	__u32 cursor;
	__u64 length;
	__u8 scid_bytes;
	__u8 type;

	if (bytes < DATAGRAM_BYTES_MIN)
		return CAUSE_QUIC_SHORT;
	if (!get(frame, tc, at, &head, sizeof(head)))
		return CAUSE_QUIC_TRUNCATED;
	if (!(head.first & 0x80)) {
		/* Also what a stateless reset looks like, so there is nothing more to demand. */
		out->cid_at = at + 1;
		out->cid_bytes = settings->cid_bytes;
		return CAUSE_CLIENT;
	}
	if (head.version[0] | head.version[1] | head.version[2] ||
	    head.version[3] != QUIC_VERSION_1)
		return CAUSE_QUIC_VERSION;
	type = head.first >> 4 & 3;
	if (head.dcid_bytes > CID_BYTES_MAX)
		return CAUSE_QUIC_CONNECTION_ID;
	out->starts = type == LONG_INITIAL || type == LONG_0RTT;
	/* A client makes up the first destination id, of at least 8 bytes; after that it is ours. */
	if (head.dcid_bytes != settings->cid_bytes &&
	    !(out->starts && head.dcid_bytes >= CID_BYTES_MIN_INITIAL))
		return CAUSE_QUIC_CONNECTION_ID;
	out->cid_at = at + 6;
	out->cid_bytes = head.dcid_bytes;
	cursor = at + 6 + head.dcid_bytes;
	if (cursor + 1 > end || !get(frame, tc, cursor, &scid_bytes, 1))
		return CAUSE_QUIC_TRUNCATED;
	if (scid_bytes > CID_BYTES_MAX)
		return CAUSE_QUIC_CONNECTION_ID;
	cursor += 1 + scid_bytes;
	if (type == LONG_RETRY)
		return cursor + RETRY_TAG_BYTES > end ? CAUSE_QUIC_TRUNCATED : CAUSE_CLIENT;
	if (type == LONG_INITIAL) {
		__u64 token_bytes;

		if (!get_varint(frame, tc, &cursor, end, &token_bytes) ||
		    cursor + token_bytes > end)
			return CAUSE_QUIC_TRUNCATED;
		cursor += token_bytes;
		out->small_initial = bytes < INITIAL_BYTES_MIN;
	}
	if (!get_varint(frame, tc, &cursor, end, &length) || length < PROTECTED_BYTES_MIN ||
	    cursor + length > end)
		return CAUSE_QUIC_TRUNCATED;
	return CAUSE_CLIENT;
}

static __always_inline bool is_our_address(const struct settings *settings,
					   const struct ipv6hdr *ip)
{
	__u64 to[2];

	if (!(settings->flags & FLAG_ADDRESS))
		return true;
	__builtin_memcpy(to, &ip->daddr, sizeof(to));
	return to[0] == settings->address[0] && to[1] == settings->address[1];
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_AH || next == IPPROTO_DSTOPTS;
}

/* The verdict on a packet whose payload at `at` is no UDP: walks through the extension headers
 * (RFC 8200, section 4). None of them leads to a packet that STOQ would have sent. By helper calls
 * only: this is rare, and the verifier would have to follow direct access through all chains. */
static __always_inline int parse_extended(const struct frame *frame, const bool tc,
					  const struct settings *settings, __u32 at,
					  const struct ipv6hdr *ip)
{
	const __u32 at_max = at + EXTENSION_BYTES_MAX;
	bool fragment = false;
	__u8 next = ip->nexthdr;
	struct udphdr udp;

	for (int i = 0; i < EXTENSIONS_MAX && is_extension(next); i++) {
		__u8 header[8];
		__u32 unit, units;

		if (at > at_max)
			return CAUSE_EXTENSION_CHAIN;
		/* Each of them is at least 8 bytes long. */
		if (!load(frame, tc, at, header, sizeof(header)))
			return CAUSE_NOT_OURS;
		if (next == IPPROTO_FRAGMENT) {
			if (header[2] | (header[3] & 0xf8))
				return CAUSE_LATER_FRAGMENT;
			fragment = true;
			at += sizeof(header);
		} else {
			unit = next == IPPROTO_AH ? 4 : 8;
			units = next == IPPROTO_AH ? header[1] + 2 : header[1] + 1;
			at += units * unit;
		}
		next = header[0];
	}
	if (is_extension(next) || at > at_max)
		return CAUSE_EXTENSION_CHAIN;
	if (next != IPPROTO_UDP || !load(frame, tc, at, &udp, sizeof(udp)) ||
	    udp.dest != settings->port || !is_our_address(settings, ip))
		return CAUSE_NOT_OURS;
	return fragment ? CAUSE_FRAGMENT : CAUSE_EXTENSION;
}

/* Returns CAUSE_CLIENT for a packet of ours that is well formed: who sent it, and how much of that,
 * is not the parser's business. Any other cause is final. */
static __always_inline int parse(const struct frame *frame, const bool tc,
				 const struct settings *settings, struct parsed *out)
{
	struct ethhdr ethernet;
	struct ipv6hdr ip;
	struct udphdr udp;
	__u32 at = sizeof(ethernet);
	__u32 udp_bytes, ip_bytes, payload_at;
	__be16 protocol;

	if (!get(frame, tc, 0, &ethernet, sizeof(ethernet)))
		return CAUSE_NOT_IPV6;
	protocol = ethernet.h_proto;
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		__be16 tag[2];

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if (!get(frame, tc, at, tag, sizeof(tag)))
			return CAUSE_NOT_IPV6;
		protocol = tag[1];
		at += sizeof(tag);
		out->tagged = true;
	}
	if (protocol != bpf_htons(ETH_P_IPV6))
		return CAUSE_NOT_IPV6;
	if (!get(frame, tc, at, &ip, sizeof(ip)))
		return CAUSE_NOT_OURS;
	at += sizeof(ip);
	payload_at = at;
	__builtin_memcpy(out->source, &ip.saddr, sizeof(out->source));
	if (ip.nexthdr != IPPROTO_UDP)
		return parse_extended(frame, tc, settings, at, &ip);
	if (!get(frame, tc, at, &udp, sizeof(udp)) || udp.dest != settings->port)
		return CAUSE_NOT_OURS;
	if (!is_our_address(settings, &ip))
		return CAUSE_NOT_OURS;
	ip_bytes = bpf_ntohs(ip.payload_len);
	udp_bytes = bpf_ntohs(udp.len);
	if (payload_at + ip_bytes > frame->bytes)
		return CAUSE_TRUNCATED;
	if (udp_bytes < sizeof(udp) || udp_bytes != ip_bytes)
		return CAUSE_UDP_LENGTH;
	if (!udp.source)
		return CAUSE_UDP_SOURCE;
	udp_bytes -= sizeof(udp);
	if (frame->segment_bytes && frame->segment_bytes < udp_bytes)
		udp_bytes = frame->segment_bytes;
	return parse_quic(frame, tc, settings, at + sizeof(udp), udp_bytes, out);
}

#endif
