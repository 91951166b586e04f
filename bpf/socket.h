/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the kernel knows of the calling socket: who owns it, and whether it is tied
 * to an interface. Most of it is outside the stable context and is read at the
 * offsets that the loader found in the kernel's BTF. A read that faults yields zero.
 */
#ifndef SOCKET_H
#define SOCKET_H

#include "sockaddr.h"

#define LOOPBACK_IFINDEX 1

/* kernel_address turns a context pointer, on which the verifier forbids arithmetic,
 * into a number: it is put on the stack and read back from there.
 */
static __always_inline __u64 kernel_address(const void *pointer)
{
	const void *volatile spilled = pointer;
	__u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), (const void *)&spilled);
	return address;
}

static __always_inline __u64 read_pointer(__u64 base, __u32 offset)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (const void *)(base + offset));
	return value;
}

static __always_inline __u32 read_number(__u64 base, __s32 offset)
{
	__u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (const void *)(base + offset));
	return value;
}

/* credentials returns the address of those with which the socket's file was opened,
 * whoever holds it now: what netfilter's owner match looks at. A kernel socket has no
 * file, nor has one that was closed and still has something to send; then it is 0.
 */
static __always_inline __u64 credentials(struct bpf_sock *sk)
{
	__u64 socket = read_pointer(kernel_address(sk), steer_layout.sock_socket);
	__u64 file = socket ? read_pointer(socket, steer_layout.socket_file) : 0;

	return file ? read_pointer(file, steer_layout.file_cred) : 0;
}

static __always_inline int exempts(const struct scope *scope, __u64 cred)
{
	return read_number(cred, steer_layout.cred_fsuid) == scope->owner_uid ||
	       read_number(cred, steer_layout.cred_fsgid) == scope->owner_gid;
}

/* owned tells what netfilter's owner match tells. Without kernel layout the ids are
 * those of the calling task.
 */
static __always_inline int owned(struct bpf_sock_addr *ctx, const struct scope *scope)
{
	__u64 cred, ids;

	if (!steer_layout.known) {
		ids = bpf_get_current_uid_gid();
		return (__u32)ids == scope->owner_uid || (__u32)(ids >> 32) == scope->owner_gid;
	}
	cred = credentials(ctx->sk);
	return cred && exempts(scope, cred);
}

static __always_inline int elsewhere(__u32 ifindex)
{
	return ifindex && ifindex != LOOPBACK_IFINDEX;
}

/* msg_bound tells whether this one message names an interface (IP_PKTINFO,
 * IPV6_PKTINFO). The hook is handed the address of the message's source, which the
 * kernel keeps beside its interface.
 */
static __always_inline int msg_bound(struct bpf_sock_addr *ctx, enum family face)
{
	__s32 offset = face == FAMILY_IPV4 ? steer_layout.msg4_oif : steer_layout.msg6_oif;
	__u64 source = read_pointer(kernel_address(ctx), steer_layout.ctx_t_ctx);

	return elsewhere(read_number(source, offset));
}

/* connected_elsewhere tells whether the socket takes packets from its peer alone and
 * that is no target: one that was connected before there was a live resolver. Only a
 * call that names an address gets here, and every send of an AF_INET6 socket with a
 * v4-mapped peer does.
 */
static __always_inline int connected_elsewhere(struct bpf_sock_addr *ctx)
{
	return ctx->sk->state == BPF_TCP_ESTABLISHED && ctx->sk->dst_port != bpf_htons(steer_port);
}

/* tied tells whether an option of the socket makes the kernel obey an interface. family
 * is the destination's: the options of IPv6 mean nothing to a v4-mapped one, nor the
 * other way round.
 */
static __always_inline int tied(struct bpf_sock *sk, enum family family)
{
	__u64 sock, pinet6;

	if (elsewhere(sk->bound_dev_if))
		return 1;
	if (!steer_layout.known)
		return 0;
	sock = kernel_address(sk);
	if (family == FAMILY_IPV4)
		return elsewhere(read_number(sock, steer_layout.inet_uc_index));
	pinet6 = read_pointer(sock, steer_layout.inet_pinet6);
	return elsewhere(read_number(pinet6, steer_layout.pinet6_ucast_oif)) ||
	       elsewhere(read_number(pinet6, steer_layout.pinet6_sticky_oif));
}

/* A link-local address means nothing without its interface. */
static __always_inline int is_link_local(const struct address *address)
{
	return (address->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* bound tells whether the answer to a steered query could not arrive: routing would
 * ignore the loopback address that we put in and use an interface, or the socket would
 * take the answer for a stranger's.
 */
static __always_inline int bound(struct bpf_sock_addr *ctx, enum family face,
				 const struct address *nameserver, int connects)
{
	if (is_link_local(nameserver) || tied(ctx->sk, family_of(nameserver)))
		return 1;
	if (connects)
		return 0;
	return connected_elsewhere(ctx) || (steer_layout.known && msg_bound(ctx, face));
}

/* has_address tells whether the socket has a local address or port already: the
 * application's choice, or the kernel's, which is for good. An AF_INET6 socket that is
 * bound to an IPv6 address has a stand-in for it in its IPv4 half.
 */
static __always_inline int has_address(struct bpf_sock_addr *ctx)
{
	return (ctx->sk->src_port | ctx->sk->src_ip4) != 0;
}

/* to_target4 tells whether a message goes to a target over IPv4. One of a connected
 * socket that has a control message and no name comes without an address.
 */
static __always_inline int to_target4(struct bpf_sock_addr *ctx, const struct endpoint *dst)
{
	struct bpf_sock *sk = ctx->sk;

	if (dst->port)
		return dst->port == bpf_htons(steer_port) && is_loopback(&dst->address);
	return sk->state == BPF_TCP_ESTABLISHED && sk->dst_port == bpf_htons(steer_port) &&
	       (sk->dst_ip4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

/* reply_to_socket sees to it that a message to IPv4 loopback has a source at which its
 * socket receives. A control message without one (IP_PKTINFO) makes the kernel choose
 * by the destination, 127.0.0.1, whatever the socket is bound to. IPv6 has no such gap.
 */
static __always_inline void reply_to_socket(struct bpf_sock_addr *ctx)
{
	if (!ctx->msg_src_ip4 && ctx->sk->src_ip4)
		ctx->msg_src_ip4 = ctx->sk->src_ip4;
}

#endif
