// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
//go:build ignore

/* The hooks, and nothing else. All eight are attached, or none: an AF_INET6 socket
 * that sends to a v4-mapped address runs sendmsg4, and its reply recvmsg6.
 */
#include "redirect.h"

/* 0 from a request hook is EPERM for the application: fail closed. The reply hooks
 * may only return 1, the verifier sees to it.
 */
#define SYS_REJECT 0
#define SYS_PROCEED 1

static __always_inline int forward4(struct bpf_sock_addr *ctx, enum call call)
{
	struct endpoint dst = get4(ctx);
	enum verdict verdict = forward(ctx, FAMILY_IPV4, call, &dst);

	if (verdict == VERDICT_DENIED)
		return SYS_REJECT;
	if (verdict == VERDICT_STEERED)
		set4(ctx, &dst);
	if (call == CALL_SENDMSG && to_target4(ctx, &dst))
		reply_to_socket(ctx);
	return SYS_PROCEED;
}

static __always_inline int forward6(struct bpf_sock_addr *ctx, enum call call)
{
	struct endpoint dst = get6(ctx);
	enum verdict verdict = forward(ctx, FAMILY_IPV6, call, &dst);

	if (verdict == VERDICT_DENIED)
		return SYS_REJECT;
	if (verdict == VERDICT_STEERED)
		set6(ctx, &dst);
	return SYS_PROCEED;
}

static __always_inline int reverse4(struct bpf_sock_addr *ctx)
{
	struct endpoint src = get4(ctx);

	if (reverse(ctx, &src))
		set4(ctx, &src);
	return SYS_PROCEED;
}

static __always_inline int reverse6(struct bpf_sock_addr *ctx)
{
	struct endpoint src = get6(ctx);

	if (reverse(ctx, &src))
		set6(ctx, &src);
	return SYS_PROCEED;
}

SEC("cgroup/connect4")
int steer_connect4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, CALL_CONNECT);
}

SEC("cgroup/connect6")
int steer_connect6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, CALL_CONNECT);
}

SEC("cgroup/sendmsg4")
int steer_sendmsg4(struct bpf_sock_addr *ctx)
{
	return forward4(ctx, CALL_SENDMSG);
}

SEC("cgroup/sendmsg6")
int steer_sendmsg6(struct bpf_sock_addr *ctx)
{
	return forward6(ctx, CALL_SENDMSG);
}

SEC("cgroup/recvmsg4")
int steer_recvmsg4(struct bpf_sock_addr *ctx)
{
	return reverse4(ctx);
}

SEC("cgroup/recvmsg6")
int steer_recvmsg6(struct bpf_sock_addr *ctx)
{
	return reverse6(ctx);
}

SEC("cgroup/getpeername4")
int steer_getpeer4(struct bpf_sock_addr *ctx)
{
	return reverse4(ctx);
}

SEC("cgroup/getpeername6")
int steer_getpeer6(struct bpf_sock_addr *ctx)
{
	return reverse6(ctx);
}

char steer_licence[] SEC("license") = "Dual BSD/GPL";
