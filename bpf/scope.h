/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who serves a network namespace, and which nameservers are left alone there: what the
 * hooks and whoever looks for leaks have to agree about.
 */
#ifndef SCOPE_H
#define SCOPE_H

#include "target.h"

/* listener finds who listens on an address in the network namespace of the context. The
 * source of the tuple is one that no connected socket has, so only listeners match. The
 * caller releases what it gets.
 */
static __always_inline struct bpf_sock *listener(void *ctx, enum protocol protocol,
						 enum family family, const struct endpoint *at)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = sizeof(tuple.ipv4);

	if (family == FAMILY_IPV4) {
		tuple.ipv4.saddr = LOOPBACK4;
		tuple.ipv4.daddr = at->address.word[3];
		tuple.ipv4.dport = at->port;
	} else {
		size = sizeof(tuple.ipv6);
		tuple.ipv6.saddr[3] = LOOPBACK6;
		tuple.ipv6.daddr[0] = at->address.word[0];
		tuple.ipv6.daddr[1] = at->address.word[1];
		tuple.ipv6.daddr[2] = at->address.word[2];
		tuple.ipv6.daddr[3] = at->address.word[3];
		tuple.ipv6.dport = at->port;
	}
	if (protocol == PROTOCOL_TCP)
		return bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	return bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
}

/* carried is the scope that a listener carries, if any. It gives the listener back. The
 * value outlives that: it is freed after this program's RCU section.
 */
static __always_inline struct scope *carried(struct bpf_sock *found)
{
	struct scope *scope = bpf_sk_storage_get(&steer_scope, found, 0, 0);

	bpf_sk_release(found);
	return scope;
}

/* beats tells whether the heart of the scope's process does. Another's word says nothing,
 * whoever had it before.
 */
static __always_inline int beats(const struct scope *scope)
{
	__u32 heart = scope->heart;
	__u64 *word = bpf_map_lookup_elem(&steer_heart, &heart);
	__u64 last, now;

	if (!word)
		return 0;
	last = *(volatile __u64 *)word; /* before the clock, which is never behind it then */
	now = bpf_ktime_get_ns() >> HEART_TICK_BITS & HEART_TIME_MASK;
	return last >> HEART_TIME_BITS == scope->generation &&
	       now - (last & HEART_TIME_MASK) < HEART_LIMIT;
}

/* serving finds the scope of the namespace and tells whether a live, authorised listener
 * serves it: VERDICT_STEERED then, else why not. The scope is on the listener, or, where
 * that is to outlive its resolver, on the seal that only the resolver holds.
 */
static __always_inline enum verdict serving(void *ctx, enum protocol protocol, enum family family,
					    struct scope **scope)
{
	struct endpoint at = loopback(family);
	struct bpf_sock *found = listener(ctx, protocol, family, &at);

	*scope = 0;
	if (!found)
		return VERDICT_NO_LISTENER;
	*scope = carried(found);
	if (!*scope) {
		at = seal(family);
		found = listener(ctx, PROTOCOL_UDP, family, &at);
		if (found)
			*scope = carried(found);
	}
	if (!*scope)
		return VERDICT_STRANGER;
	return beats(*scope) ? VERDICT_STEERED : VERDICT_HUNG;
}

/* serving_foreign goes on where serving found no scope: the namespace may be enrolled by
 * its cookie. The scope is set whenever there is one, so that its owner stays exempt
 * without a listener.
 */
static __always_inline enum verdict serving_foreign(__u64 cookie, enum verdict verdict,
						    struct scope **scope)
{
	*scope = bpf_map_lookup_elem(&steer_enrolled, &cookie);
	if (verdict == VERDICT_STRANGER && *scope && (*scope)->flags & SCOPE_FOREIGN)
		return VERDICT_STEERED;
	return verdict;
}

static __always_inline int left_alone(const struct address *nameserver)
{
	struct nameserver_key key = {.prefix_len = 128, .address = *nameserver};
	enum nameserver_rule *rule = bpf_map_lookup_elem(&steer_nameserv, &key);

	return rule && *rule == NAMESERVER_LEAVE;
}

#endif
