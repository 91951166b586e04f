/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The only code that touches the address in the context: between the two faces,
 * IPv4 and IPv6, and the one endpoint that everything else works with.
 */
#ifndef SOCKADDR_H
#define SOCKADDR_H

#include "steer.h"

static __always_inline struct endpoint get4(struct bpf_sock_addr *ctx)
{
	struct endpoint endpoint = {
		.address.word = {0, 0, bpf_htonl(0xffff), ctx->user_ip4},
		.port = (__be16)ctx->user_port,
	};

	return endpoint;
}

static __always_inline void set4(struct bpf_sock_addr *ctx, const struct endpoint *endpoint)
{
	ctx->user_ip4 = endpoint->address.word[3];
	ctx->user_port = endpoint->port;
}

static __always_inline struct endpoint get6(struct bpf_sock_addr *ctx)
{
	struct endpoint endpoint = {
		.address.word = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
				 ctx->user_ip6[3]},
		.port = (__be16)ctx->user_port,
	};

	return endpoint;
}

static __always_inline void set6(struct bpf_sock_addr *ctx, const struct endpoint *endpoint)
{
	ctx->user_ip6[0] = endpoint->address.word[0];
	ctx->user_ip6[1] = endpoint->address.word[1];
	ctx->user_ip6[2] = endpoint->address.word[2];
	ctx->user_ip6[3] = endpoint->address.word[3];
	ctx->user_port = endpoint->port;
}

/* A v4-mapped destination travels as IPv4, whatever the socket's family. */
static __always_inline enum family family_of(const struct address *address)
{
	if (!address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff))
		return FAMILY_IPV4;
	return FAMILY_IPV6;
}

static __always_inline int same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline int is_zero(const struct address *a)
{
	return !a->word[0] && !a->word[1] && !a->word[2] && !a->word[3];
}

static __always_inline int is_unspecified(const struct address *a)
{
	return !a->word[3] && !a->word[0] && !a->word[1] &&
	       (!a->word[2] || a->word[2] == bpf_htonl(0xffff));
}

static __always_inline int is_loopback(const struct address *a)
{
	if (family_of(a) == FAMILY_IPV4)
		return (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

static __always_inline enum protocol protocol_of(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP ? PROTOCOL_TCP : PROTOCOL_UDP;
}

#endif
