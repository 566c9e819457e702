/* The door of a Falconet node: decides about every packet that arrives on a device, before the
 * network stack spends memory or a lock on it. One source, two programs: XDP for network cards, tc
 * (TCX ingress) where XDP would cost more than it saves (veth, loopback: XDP turns off GSO).
 *
 * What is not UDP to our port passes untouched. Of what is, the malformed is dropped first, because
 * that costs least; then come the block list, the allow list and the budgets. */
#include "parse.h"

#define SOURCES_DEFAULT 65536
#define ALLOWED_MAX 1024
#define BLOCKED_MAX 16384
#define XSK_MAX 1024
#define SAMPLES_BYTES (256 * 1024)
/* Cores that fight for one bucket: after so many lost races the packet goes through and is
 * charged without looking. */
#define RACES_MAX 4

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CAUSES);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Bounded by eviction of whoever was silent longest. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SOURCES_DEFAULT);
	__type(key, struct address);
	__type(value, struct bucket);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bucket);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ALLOWED_MAX);
	__type(key, struct address);
	__type(value, struct allowed);
} allow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, BLOCKED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct block_key);
	__type(value, struct blocked);
} block SEC(".maps");

/* AF_XDP sockets: queue * net_threads + thread. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, XSK_MAX);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SAMPLES_BYTES);
} samples SEC(".maps");

/* Counts, and of what is dropped keeps the first and then one in sample_mask + 1 for diagnosis. */
static __always_inline void count(const struct frame *frame, const bool tc,
				  const struct settings *conf, __u32 queue, __u32 cause)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &cause);
	struct sample *sample;
	__u64 before;
	__u32 held;

	if (!counter)
		return;
	before = *counter;
	*counter = before + frame->segments;
	if (cause < CAUSE_EXTENSION_CHAIN || before & conf->sample_mask)
		return;
	sample = bpf_ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample)
		return;
	held = frame->bytes < SAMPLE_BYTES_MAX ? frame->bytes : SAMPLE_BYTES_MAX;
	sample->time_ns = bpf_ktime_get_ns();
	sample->cause = cause;
	sample->frame_bytes = frame->bytes;
	sample->queue = queue;
	__builtin_memset(sample->bytes, 0, sizeof(sample->bytes));
	if (held < 1 || held > SAMPLE_BYTES_MAX ||
	    (tc ? bpf_skb_load_bytes(frame->ctx, 0, sample->bytes, held)
		: bpf_xdp_load_bytes(frame->ctx, 0, sample->bytes, held)))
		held = 0;
	sample->held_bytes = held;
	/* Whoever watches polls: no wake-up on this path. */
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP);
}

/* Takes `segments` packets out of a bucket that several cores may use; false when it is empty. */
static __always_inline bool take(__u64 *due_ns, __u64 now_ns, const struct budget *budget,
				 __u32 segments)
{
	__u64 earliest, old, next, cost;

	if (!budget->cost_ns)
		return true;
	cost = budget->cost_ns * segments;
	earliest = now_ns > budget->burst_ns ? now_ns - budget->burst_ns : 0;
#pragma unroll
	for (int i = 0; i < RACES_MAX; i++) {
		old = *(volatile __u64 *)due_ns;
		next = (old < earliest ? earliest : old) + cost;
		if (next > now_ns)
			return false;
		if (__sync_val_compare_and_swap(due_ns, old, next) == old)
			return true;
	}
	__sync_fetch_and_add(due_ns, cost);
	return true;
}

static __always_inline int admit(const struct settings *conf, const struct parsed *packet,
				 __u32 segments)
{
	struct address source;
	struct allowed *allowed;
	struct bucket *bucket, *total;
	bool starts = packet->starts;
	__u32 zero = 0;
	__u64 now_ns;

	if (conf->flags & FLAG_BLOCKS) {
		struct block_key key = { .prefix_bits = 128 };
		struct blocked *blocked;

		__builtin_memcpy(key.address, packet->source, sizeof(key.address));
		blocked = bpf_map_lookup_elem(&block, &key);
		if (blocked && (!blocked->expires_ns || bpf_ktime_get_ns() < blocked->expires_ns))
			return CAUSE_BLOCKED;
	}
	now_ns = bpf_ktime_get_ns();
	source.words[0] = packet->source[0];
	source.words[1] = packet->source[1];
	allowed = bpf_map_lookup_elem(&allow, &source);
	if (allowed) {
		if (starts)
			return take(&allowed->bucket.initials_ns, now_ns,
				    &conf->validator.initials, segments)
				       ? CAUSE_VALIDATOR
				       : CAUSE_VALIDATOR_INITIALS;
		return take(&allowed->bucket.packets_ns, now_ns, &conf->validator.packets,
			    segments)
			       ? CAUSE_VALIDATOR
			       : CAUSE_VALIDATOR_PACKETS;
	}
	if (conf->flags & FLAG_CLOSED)
		return CAUSE_NOT_ALLOWED;
	if (packet->small_initial)
		return CAUSE_INITIAL_SMALL;
	source.words[0] &= conf->prefix_mask[0];
	source.words[1] &= conf->prefix_mask[1];
	bucket = bpf_map_lookup_elem(&sources, &source);
	if (!bucket) {
		struct bucket fresh = {};

		/* Another core may be first, and a full table may refuse: then it goes unlimited
		 * once, and the budget of the core still counts it. */
		bpf_map_update_elem(&sources, &source, &fresh, BPF_NOEXIST);
		bucket = bpf_map_lookup_elem(&sources, &source);
	}
	total = bpf_map_lookup_elem(&totals, &zero);
	if (!total)
		return CAUSE_INTERNAL;
	if (starts) {
		if (bucket && !take(&bucket->initials_ns, now_ns, &conf->client.initials, segments))
			return CAUSE_CLIENT_INITIALS;
		if (!take(&total->initials_ns, now_ns, &conf->clients.initials, segments))
			return CAUSE_CLIENTS_INITIALS;
	} else {
		if (bucket && !take(&bucket->packets_ns, now_ns, &conf->client.packets, segments))
			return CAUSE_CLIENT_PACKETS;
		if (!take(&total->packets_ns, now_ns, &conf->clients.packets, segments))
			return CAUSE_CLIENTS_PACKETS;
	}
	return CAUSE_CLIENT;
}

/* The socket for a packet: of those on its queue the one whose thread the connection id names. */
static __always_inline __u32 xsk_index(const struct frame *frame, const struct settings *conf,
				       const struct parsed *packet, __u32 queue)
{
	__u8 thread = 0;

	if (conf->net_threads <= 1)
		return queue;
	if (conf->steer_byte >= packet->cid_bytes ||
	    !get(frame, false, packet->cid_at + conf->steer_byte, &thread, 1))
		thread = 0;
	return queue * conf->net_threads + thread % conf->net_threads;
}

SEC("xdp.frags")
int falconet_xdp(struct xdp_md *ctx)
{
	struct frame frame = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.bytes = bpf_xdp_get_buff_len(ctx),
		.segments = 1,
	};
	__u32 queue = ctx->rx_queue_index;
	struct parsed packet = {};
	struct settings *conf;
	__u32 zero = 0, index;
	int cause;

	conf = bpf_map_lookup_elem(&settings, &zero);
	if (!conf)
		return XDP_PASS;
	cause = parse(&frame, false, conf, &packet);
	if (cause == CAUSE_CLIENT) {
		cause = admit(conf, &packet, 1);
		/* Longer than a frame of the sockets is what the kernel joined before this program
		 * saw it (generic XDP), or a driver split: the stack takes it. */
		if ((cause == CAUSE_CLIENT || cause == CAUSE_VALIDATOR) && !packet.tagged &&
		    frame.bytes <= conf->xsk_bytes_max) {
			index = xsk_index(&frame, conf, &packet, queue);
			if (bpf_redirect_map(&xsks, index, XDP_PASS) == XDP_REDIRECT) {
				count(&frame, false, conf, queue,
				      cause == CAUSE_CLIENT ? CAUSE_REDIRECT_CLIENT
							    : CAUSE_REDIRECT_VALIDATOR);
				return XDP_REDIRECT;
			}
		}
	}
	count(&frame, false, conf, queue, cause);
	return cause >= CAUSE_EXTENSION_CHAIN ? XDP_DROP : XDP_PASS;
}

/* From linux/pkt_cls.h; TCX_NEXT lets the programs of others run as well. */
#define TCX_NEXT -1
#define TC_ACT_SHOT 2

SEC("classifier")
int falconet_tc(struct __sk_buff *ctx)
{
	struct frame frame = {
		.ctx = ctx,
		.data = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.bytes = ctx->len,
		.segments = ctx->gso_segs > 1 ? ctx->gso_segs : 1,
		.segment_bytes = ctx->gso_size,
	};
	struct parsed packet = {};
	struct settings *conf;
	__u32 zero = 0;
	int cause;

	conf = bpf_map_lookup_elem(&settings, &zero);
	if (!conf)
		return TCX_NEXT;
	cause = parse(&frame, true, conf, &packet);
	if (cause == CAUSE_CLIENT)
		cause = admit(conf, &packet, frame.segments);
	count(&frame, true, conf, ctx->queue_mapping, cause);
	return cause >= CAUSE_EXTENSION_CHAIN ? TC_ACT_SHOT : TCX_NEXT;
}

char filter_license[] SEC("license") = "GPL";
