// SPDX-License-Identifier: Apache-2.0
//
// One program for all probes: what fired, when, in which thread, with which arguments, into one
// ring buffer. The meaning of the arguments is left to user space, which knows the table.
//
// Portable (CO-RE): arguments are read through libbpf's USDT support, which relocates what
// differs between kernels when the program is loaded.
//
// The number of a probe is the cookie that it was attached with. An event that finds the ring
// full is counted, not waited for.

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/usdt.bpf.h>

// As in events.rs.
#define ARGS_MAX 6
#define COMM_BYTES 16

struct event {
	__u64 time_ns; // CLOCK_MONOTONIC
	__u32 probe;
	__u32 thread;
	__u64 args[ARGS_MAX];
	char comm[COMM_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

// Events that found the ring full.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

SEC("usdt")
int on_probe(struct pt_regs *ctx)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		__u32 key = 0;
		__u64 *count = bpf_map_lookup_elem(&lost, &key);
		if (count)
			__sync_fetch_and_add(count, 1);
		return 0;
	}
	event->time_ns = bpf_ktime_get_ns();
	event->probe = bpf_usdt_cookie(ctx);
	event->thread = (__u32)bpf_get_current_pid_tgid();
	int count = bpf_usdt_arg_cnt(ctx);
#pragma unroll
	for (int i = 0; i < ARGS_MAX; i++) {
		long value = 0;
		if (i < count)
			bpf_usdt_arg(ctx, i, &value);
		event->args[i] = value;
	}
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
