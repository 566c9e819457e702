/* Programs beside the filter. One that only directs packets to AF_XDP sockets, for a device without
 * a filter; the rest sends floods and measures. */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOCKETS_MAX 1024

/* The endpoint whose packets are directed, in network order (an address of zeros is every address),
 * and the longest frame that its sockets take. */
struct endpoint {
	__u64 address[2];
	__u32 port;
	__u32 frame_bytes_max;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct endpoint);
} endpoint SEC(".maps");

/* AF_XDP sockets by queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, SOCKETS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* UDP over IPv6 without extension headers to our endpoint goes to the socket of its queue.
 * Everything else, what comes on a queue without socket, and what the kernel joined before this
 * program saw it (generic XDP) is left to the kernel. */
SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct endpoint *to;
	__u64 address[2];
	__u32 zero = 0;

	if ((void *)(udp + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (ethernet->h_proto != bpf_htons(ETH_P_IPV6) || ip->nexthdr != IPPROTO_UDP)
		return XDP_PASS;
	to = bpf_map_lookup_elem(&endpoint, &zero);
	if (!to || udp->dest != to->port || bpf_xdp_get_buff_len(ctx) > to->frame_bytes_max)
		return XDP_PASS;
	if (to->address[0] | to->address[1]) {
		__builtin_memcpy(address, &ip->daddr, sizeof(address));
		if (address[0] != to->address[0] || address[1] != to->address[1])
			return XDP_PASS;
	}
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
}

/* The other end of a veth pair needs an XDP program before redirected frames get there. */
SEC("xdp.frags")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* The least that any filter costs. */
SEC("xdp.frags")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* Run with BPF_F_TEST_XDP_LIVE_FRAMES it sends its input: a packet generator. */
SEC("xdp.frags")
int transmit(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* As `transmit`, each frame from another /64: words 2 and 3 of the source address are random, and
 * words 4 and 5 their complements, which keeps the checksum right when the frame was made so. */
SEC("xdp.frags")
int transmit_forged(struct xdp_md *ctx)
{
	struct ethhdr *ethernet = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(ethernet + 1);
	__u32 random = bpf_get_prandom_u32();

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	ip->saddr.s6_addr32[1] = random;
	ip->saddr.s6_addr32[2] = ~random;
	return XDP_TX;
}

char filter_license[] SEC("license") = "GPL";
