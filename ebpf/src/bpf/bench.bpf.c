/* Programs to test and to measure with; no part of the product. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

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

char filter_license[] SEC("license") = "GPL";
