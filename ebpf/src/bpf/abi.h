/* What the filter shares with user space. `src/abi.rs` holds the same layouts; loading fails when
 * the sizes differ, and ABI_VERSION must grow with every change of meaning. */
#ifndef FALCONET_ABI_H
#define FALCONET_ABI_H

#include <linux/types.h>

#define ABI_VERSION 2
#define SAMPLE_BYTES_MAX 128

/* Bits of settings.flags. */
#define FLAG_ADDRESS 1	/* only packets to settings.address are ours */
#define FLAG_BLOCKS 2	/* the block list was written to: look there */
#define FLAG_CLOSED 4	/* only the allow list may enter */

/* A token bucket kept as one number, the generic cell rate algorithm (ITU-T I.371): a packet costs
 * `cost_ns`, and at most `burst_ns` worth of packets may come at once. A cost of 0 is no limit. */
struct budget {
	__u64 cost_ns;
	__u64 burst_ns;
};

/* Budgets of one class of senders. Initials are dear: each one may start a handshake. */
struct budgets {
	struct budget initials;
	struct budget packets;
};

struct settings {
	struct budgets client;		/* each source prefix outside the allow list */
	struct budgets clients;		/* all of them together, on each core */
	struct budgets validator;	/* each address of the allow list */
	__u64 prefix_mask[2];		/* network order: what of an address names a source */
	__u64 address[2];		/* network order, with FLAG_ADDRESS */
	__u32 flags;
	__u32 sample_mask;		/* of each cause one packet in sample_mask + 1 is sampled */
	__u32 net_threads;		/* sockets on each queue, at least 1 */
	__u32 steer_byte;		/* byte of the connection id that names the thread */
	__u32 xsk_bytes_max;		/* longest frame that the sockets take; 0 without sockets */
	__u32 reserved;
	__u16 port;			/* network order */
	__u16 cid_bytes;		/* length of the connection ids that this node gives out */
	/* For user space only. */
	__u32 abi;
	__u32 mode;
	__u32 owner;
};

/* When the next packet of each kind is due, nanoseconds of CLOCK_MONOTONIC. */
struct bucket {
	__u64 initials_ns;
	__u64 packets_ns;
};

struct allowed {
	struct bucket bucket;
	__u32 owner;			/* bits: who asked for it */
	__u32 reserved;
};

struct block_key {
	__u32 prefix_bits;
	__u8 address[16];
};

struct blocked {
	__u64 expires_ns;		/* CLOCK_MONOTONIC; 0 is never */
};

struct address {
	__u64 words[2];			/* network order */
};

struct sample {
	__u64 time_ns;			/* CLOCK_MONOTONIC */
	__u32 cause;
	__u32 frame_bytes;
	__u32 queue;
	__u32 held_bytes;
	__u8 bytes[SAMPLE_BYTES_MAX];
};

#endif
