// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* The watch for leaks: what leaves an enrolled namespace for port 53 without having been
 * steered. It is attached only while somebody watches, beside the hooks of steer.c, and
 * lets every packet pass.
 */
#include "leak.h"
#include "scope.h"
#include "socket.h"

#define SKB_PASS 1

/* More than a host puts into a packet by itself. */
#define EXTENSION_HEADERS 6

struct packet {
	struct address server;
	enum family family;
	enum protocol protocol;
	__be16 source_port;
};

/* is_dns reads where the packet goes from offset on, which is behind its IP headers. */
static __always_inline int is_dns(struct __sk_buff *skb, __u32 offset, __u8 next,
				  struct packet *packet)
{
	__be16 ports[2];

	if (next != IPPROTO_UDP && next != IPPROTO_TCP)
		return 0;
	packet->protocol = next == IPPROTO_TCP ? PROTOCOL_TCP : PROTOCOL_UDP;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return 0;
	packet->source_port = ports[0];
	return ports[1] == bpf_htons(DNS_PORT);
}

static __always_inline int is_dns4(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__u8 length; /* and the version */
		__u8 service;
		__be16 total, id, fragment;
		__u8 hops, protocol;
		__be16 checksum;
		__be32 source, destination;
	} header;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return 0;
	/* Fragments are made after this hook; one that is here was made by a raw socket. */
	if (header.fragment & bpf_htons(0x1fff))
		return 0;
	packet->family = FAMILY_IPV4;
	packet->server.word[2] = bpf_htonl(0xffff);
	packet->server.word[3] = header.destination;
	return is_dns(skb, (header.length & 0xf) * 4, header.protocol, packet);
}

static __always_inline int is_dns6(struct __sk_buff *skb, struct packet *packet)
{
	struct {
		__be32 flow;
		__be16 length;
		__u8 next, hops;
		__be32 source[4];
		struct address destination;
	} header;
	__u32 offset = sizeof(header), i;
	__u8 extension[2], next;

	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return 0;
	packet->family = FAMILY_IPV6;
	packet->server = header.destination;
	next = header.next;
#pragma unroll
	for (i = 0; i < EXTENSION_HEADERS; i++) {
		/* Hop-by-hop options, routing, destination options. */
		if (next != 0 && next != 43 && next != 60)
			break;
		if (bpf_skb_load_bytes(skb, offset, extension, sizeof(extension)))
			return 0;
		next = extension[0];
		offset += (extension[1] + 1) * 8;
	}
	return is_dns(skb, offset, next, packet);
}

static __always_inline __u64 namespace_of(struct bpf_sock *sk)
{
	__u64 net = read_pointer(kernel_address(sk), steer_leak_lay.sock_net);

	return read_pointer(net, steer_leak_lay.net_cookie);
}

/* exempt tells whether the packet is the owner's. A TCP socket still sends when it was
 * closed and its file is gone: what it was before holds. Of one that was closed before
 * the watch began nobody can tell, so it does not count.
 */
static __always_inline int exempt(struct bpf_sock *sk, const struct scope *scope, __u64 cred,
				  enum protocol protocol)
{
	struct leaker fresh = {}, *leaker;

	if (cred)
		fresh.owner = exempts(scope, cred) ? OWNER_EXEMPT : OWNER_OTHER;
	if (protocol != PROTOCOL_TCP)
		return fresh.owner != OWNER_OTHER;
	leaker = bpf_sk_storage_get(&steer_leaker, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (!leaker)
		return fresh.owner != OWNER_OTHER;
	if (cred)
		leaker->owner = fresh.owner;
	return leaker->owner != OWNER_OTHER;
}

static __always_inline enum leak_reason reason_of(struct bpf_sock *sk, const struct packet *packet,
						  enum verdict now)
{
	enum verdict *noted, last = VERDICTS;
	int connected = packet->protocol == PROTOCOL_TCP || sk->state == BPF_TCP_ESTABLISHED;

	if (sk->type == SOCK_RAW)
		return LEAK_RAW;
	noted = bpf_sk_storage_get(&steer_last, sk, 0, 0);
	if (noted)
		last = *noted;
	if (last == VERDICT_NO_RECORD)
		return LEAK_NO_RECORD;
	/* Neither option nor list changes by itself, so they tell of sockets too that were
	 * connected before the watch began.
	 */
	if (last == VERDICT_BOUND || tied(sk, packet->family) || is_link_local(&packet->server))
		return LEAK_BOUND;
	if (last == VERDICT_EXCLUDED || left_alone(&packet->server))
		return LEAK_EXCLUDED;
	if (last == VERDICT_HUNG && (!connected || now == VERDICT_HUNG))
		return LEAK_HUNG;
	if (connected)
		return LEAK_CONNECTED;
	if (last == VERDICT_NO_LISTENER || last == VERDICT_STRANGER)
		return LEAK_UNSERVED;
	return LEAK_UNKNOWN;
}

static __always_inline void count(enum leak_reason reason, const struct packet *packet, __u32 n)
{
	struct calls *calls = bpf_map_lookup_elem(&steer_leaks, &reason);

	if (calls)
		__sync_fetch_and_add(&calls->count[packet->family][packet->protocol], n);
}

static __always_inline void count_in(__u64 namespace, __u64 n)
{
	__u64 none = 0, *packets;

	packets = bpf_map_lookup_elem(&steer_leak_ns, &namespace);
	if (!packets) {
		bpf_map_update_elem(&steer_leak_ns, &namespace, &none, BPF_NOEXIST);
		packets = bpf_map_lookup_elem(&steer_leak_ns, &namespace);
	}
	if (packets)
		__sync_fetch_and_add(packets, n);
}

/* tell sends an event for the first packet of a socket. The sender is the current task:
 * sending is synchronous, but for TCP, whose first packet is sent by connect.
 */
static __always_inline void tell(struct __sk_buff *skb, struct bpf_sock *sk, __u64 cred,
				 const struct packet *packet, enum leak_reason reason)
{
	struct leaker fresh = {.owner = OWNER_OTHER}, *leaker;
	struct leak leak = {};
	__u64 task;

	leaker = bpf_sk_storage_get(&steer_leaker, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	if (leaker) {
		if (leaker->told & (1U << reason))
			return;
		leaker->told |= 1U << reason;
	}
	leak.cookie = bpf_get_socket_cookie(skb);
	leak.namespace = namespace_of(sk);
	leak.cgroup = bpf_skb_cgroup_id(skb);
	leak.server = packet->server;
	leak.reason = reason;
	leak.family = packet->family;
	leak.protocol = packet->protocol;
	leak.uid = cred ? read_number(cred, steer_layout.cred_fsuid) : bpf_get_socket_uid(skb);
	leak.source_port = packet->source_port;
	if (packet->protocol != PROTOCOL_TCP || sk->state == BPF_TCP_SYN_SENT) {
		task = bpf_get_current_task();
		leak.pid = read_number(task, steer_leak_lay.task_tgid);
		bpf_probe_read_kernel(leak.command, sizeof(leak.command),
				      (const void *)(task + steer_leak_lay.task_comm));
	}
	if (bpf_ringbuf_output(&steer_event, &leak, sizeof(leak), 0))
		count(LEAK_UNTOLD, packet, 1);
}

static __always_inline void look(struct __sk_buff *skb, const struct packet *packet)
{
	struct bpf_sock *sk = skb->sk;
	enum leak_reason reason;
	enum verdict verdict;
	struct scope *scope;
	__u32 packets;
	__u64 cred;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	verdict = serving(skb, packet->protocol, packet->family, &scope);
	if (!scope)
		verdict = serving_foreign(namespace_of(sk), verdict, &scope);
	if (!scope)
		return;
	cred = credentials(sk);
	if (exempt(sk, scope, cred, packet->protocol))
		return;
	reason = reason_of(sk, packet, verdict);
	packets = skb->gso_segs ? skb->gso_segs : 1;
	count(reason, packet, packets);
	count_in(namespace_of(sk), packets);
	if (steer_tells)
		tell(skb, sk, cred, packet, reason);
}

SEC("cgroup_skb/egress")
int steer_leak(struct __sk_buff *skb)
{
	struct packet packet = {};

	/* What stays on this host leaves by lo, also what is for an address of its own. */
	if (skb->ifindex == LOOPBACK_IFINDEX)
		return SKB_PASS;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (!is_dns4(skb, &packet))
			return SKB_PASS;
	} else if (!is_dns6(skb, &packet)) { /* the hook is for these two alone */
		return SKB_PASS;
	}
	look(skb, &packet);
	return SKB_PASS;
}

char steer_licence[] SEC("license") = "Dual BSD/GPL";
