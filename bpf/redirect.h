/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The two decisions: forward, where a query goes, and reverse, what a reply is shown
 * to come from. Neither knows the family of the hook that asks.
 */
#ifndef REDIRECT_H
#define REDIRECT_H

#include "scope.h"
#include "socket.h"
#include "target.h"

/* How a hook was reached: connect binds what sendmsg addresses once. */
enum call {
	CALL_SENDMSG,
	CALL_CONNECT,
};

static __always_inline void count(struct bpf_sock_addr *ctx, enum verdict verdict,
				  enum family family)
{
	struct calls *calls = bpf_map_lookup_elem(&steer_verdict, &verdict);

	/* A program may be preempted, and its successor on this CPU counts too. */
	if (calls)
		__sync_fetch_and_add(&calls->count[family][protocol_of(ctx)], 1);
}

/* authorise is serving for the socket's namespace, which may be enrolled by its cookie
 * too.
 */
static __always_inline enum verdict authorise(struct bpf_sock_addr *ctx, enum family family,
					      struct scope **scope)
{
	enum verdict verdict = serving(ctx, protocol_of(ctx), family, scope);

	if (*scope)
		return verdict;
	return serving_foreign(bpf_get_netns_cookie(ctx), verdict, scope);
}

/* claim records on the client's socket that its loopback address stands for this
 * nameserver, and tells whether it does: the first claim holds for good, so that
 * every reply in flight keeps its meaning.
 */
static __always_inline int claim(struct bpf_sock_addr *ctx, struct address *nameserver)
{
	struct address *origin =
		bpf_sk_storage_get(&steer_origin, ctx->sk, nameserver, BPF_SK_STORAGE_GET_F_CREATE);

	return origin && same(origin, nameserver);
}

/* reclaim is claim for a resolver that receives on loopback alone: the last holds. */
static __always_inline int reclaim(struct bpf_sock_addr *ctx, struct address *nameserver)
{
	struct address *origin =
		bpf_sk_storage_get(&steer_origin, ctx->sk, nameserver, BPF_SK_STORAGE_GET_F_CREATE);

	if (!origin)
		return 0;
	*origin = *nameserver;
	return 1;
}

/* pick chooses the target for a nameserver and records what it stands for. */
static __always_inline int pick(struct bpf_sock_addr *ctx, const struct scope *scope,
				enum family family, struct address *nameserver,
				struct endpoint *target)
{
	__u32 tags = family == FAMILY_IPV4 ? SCOPE_TAGS_IPV4 : SCOPE_TAGS_IPV6;
	__u32 chosen;

	*target = loopback(family);
	if (scope->flags & SCOPE_UNTAGGED)
		return reclaim(ctx, nameserver);
	if (same(nameserver, &scope->primary[family]) && claim(ctx, nameserver))
		return 1;
	if (!(scope->flags & tags))
		return 0;
	chosen = number(nameserver);
	if (chosen == TAG_NUMBERS)
		return 0;
	*target = tag(family, chosen);
	return 1;
}

/* keep_source gives a socket that is about to connect the local address that it would
 * have had: programs connect to a nameserver and read getsockname to learn it. What
 * the application has bound itself stays. If the address is gone the kernel refuses,
 * and the socket gets the source that leads to the target: the query matters more.
 */
static __always_inline void keep_source(struct bpf_sock_addr *ctx, const struct scope *scope,
					enum family family, const struct address *nameserver)
{
	struct address source = scope->source[family];
	struct sockaddr_in in4 = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

	if (has_address(ctx))
		return;
	if (is_loopback(nameserver)) {
		/* From 127.0.0.1, which the kernel chooses by itself for any target. */
		if (family == FAMILY_IPV4)
			return;
		source = loopback(family).address;
	} else if (same(nameserver, &scope->primary[family])) {
		source = scope->primary_source[family];
	}
	if (is_zero(&source))
		return;
	if (ctx->sk->family == AF_INET) {
		in4.sin_addr = source.word[3];
		bpf_bind(ctx, &in4, sizeof(in4));
		return;
	}
	in6.sin6_addr[0] = source.word[0];
	in6.sin6_addr[1] = source.word[1];
	in6.sin6_addr[2] = source.word[2];
	in6.sin6_addr[3] = source.word[3];
	bpf_bind(ctx, &in6, sizeof(in6));
}

/* steer decides on one call to port 53 and, if the verdict is VERDICT_STEERED, has
 * put the target into *dst. It records first and rewrites second: a query that could
 * not be answered under its own address must not be steered.
 */
static __always_inline enum verdict steer(struct bpf_sock_addr *ctx, enum family face,
					  enum call call, enum family family, struct endpoint *dst)
{
	struct endpoint target;
	struct scope *scope;
	enum verdict verdict = authorise(ctx, family, &scope);

	if (!scope)
		return verdict;
	if (owned(ctx, scope))
		return VERDICT_OWNER;
	if (verdict != VERDICT_STEERED)
		return scope->flags & SCOPE_CLOSED ? VERDICT_DENIED : verdict;
	if (bound(ctx, face, &dst->address, call == CALL_CONNECT))
		return VERDICT_BOUND;
	if (left_alone(&dst->address))
		return VERDICT_EXCLUDED;
	if (!pick(ctx, scope, family, &dst->address, &target))
		return scope->flags & SCOPE_CLOSED ? VERDICT_DENIED : VERDICT_NO_RECORD;
	if (call == CALL_CONNECT)
		keep_source(ctx, scope, family, &dst->address);
	*dst = target;
	return VERDICT_STEERED;
}

/* note keeps for who watches for leaks why a call was left alone: with the packet that
 * follows, there is nobody left to ask.
 */
static __always_inline void note(struct bpf_sock_addr *ctx, enum verdict verdict)
{
	__u32 only = 0;
	__u64 *until = bpf_map_lookup_elem(&steer_watch, &only);
	enum verdict *last;

	if (verdict == VERDICT_STEERED || !until || !*until || *until < bpf_ktime_get_ns())
		return;
	last = bpf_sk_storage_get(&steer_last, ctx->sk, &verdict, BPF_SK_STORAGE_GET_F_CREATE);
	if (last)
		*last = verdict;
}

/* note_direct sees to it that a socket which addresses the target itself is shown the
 * target in replies. A connected socket repeats its peer on every send (AF_INET6 with
 * a v4-mapped peer), which says nothing new.
 */
static __always_inline void note_direct(struct bpf_sock_addr *ctx, enum family family,
					enum call call, const struct endpoint *dst)
{
	struct endpoint target = loopback(family);
	struct address none = {};
	struct address *origin;

	if (!same(&dst->address, &target.address))
		return;
	if (call == CALL_SENDMSG && ctx->sk->state == BPF_TCP_ESTABLISHED)
		return;
	origin = bpf_sk_storage_get(&steer_origin, ctx->sk, &none, BPF_SK_STORAGE_GET_F_CREATE);
	if (origin)
		*origin = none;
}

/* forward is the request side. It returns the verdict on a call to port 53, and
 * VERDICTS, which is not counted, for every other.
 */
static __always_inline enum verdict forward(struct bpf_sock_addr *ctx, enum family face,
					    enum call call, struct endpoint *dst)
{
	enum family family = family_of(&dst->address);
	enum verdict verdict;

	if (dst->port == bpf_htons(steer_port))
		note_direct(ctx, family, call, dst);
	if (dst->port != bpf_htons(DNS_PORT))
		return VERDICTS;
	/* To the kernel, the unspecified address is this host. */
	if (is_unspecified(&dst->address))
		dst->address = loopback(family).address;
	verdict = steer(ctx, face, call, family, dst);
	count(ctx, verdict, family);
	note(ctx, verdict);
	return verdict;
}

/* reverse is the reply side: from a target back to the nameserver, or nothing at all.
 * It needs no listener and no scope, so replies keep their sender while those go.
 */
static __always_inline int reverse(struct bpf_sock_addr *ctx, struct endpoint *src)
{
	enum family family = family_of(&src->address);
	struct endpoint target = loopback(family);
	struct address *origin;
	__u32 number;

	if (src->port != target.port)
		return 0;
	if (same(&src->address, &target.address)) {
		origin = bpf_sk_storage_get(&steer_origin, ctx->sk, 0, 0);
		if (!origin || is_zero(origin))
			return 0;
	} else {
		number = tag_of(&src->address);
		origin = bpf_map_lookup_elem(&steer_tag, &number);
		if (!origin)
			return 0;
	}
	src->address = *origin;
	src->port = bpf_htons(DNS_PORT);
	count(ctx, VERDICT_RESTORED, family);
	return 1;
}

#endif
