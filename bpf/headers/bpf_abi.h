/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The part of the kernel's BPF ABI that the datapath uses: types, contexts and
 * helper numbers, as the kernel promises never to change them. Held here so that
 * a build needs clang and this checkout, and so that no build host's kernel
 * headers decide anything. A field that the datapath does not read keeps its
 * place and its name.
 */
#ifndef BPF_ABI_H
#define BPF_ABI_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

/* How libbpf and cilium/ebpf read a map's shape from its BTF. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "only little-endian targets are built"
#endif
#define bpf_htons(x) ((__be16)__builtin_bswap16((__u16)(x)))
#define bpf_htonl(x) ((__be32)__builtin_bswap32((__u32)(x)))
#define bpf_ntohl(x) ((__u32)__builtin_bswap32((__be32)(x)))

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define SOCK_RAW 3

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27, /* 5.8 */
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1 << 10, /* 5.5 */
	BPF_SK_STORAGE_GET_F_CREATE = 1,
};

/* bpf_sk_*_lookup: the namespace of the calling socket. */
#define BPF_F_CURRENT_NETNS ((__u64)-1)

/* States of struct bpf_sock; a connected UDP socket is "established" too. */
#define BPF_TCP_ESTABLISHED 1
#define BPF_TCP_SYN_SENT 2

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__u32 src_ip4;
	__u32 src_ip6[4];
	__u32 src_port; /* host byte order */
	__be16 dst_port;
	__u16 : 16;
	__u32 dst_ip4;
	__u32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	union {
		struct bpf_sock *sk;
		__u64 : 64;
	};
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__be32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__u32 remote_ip4;
	__u32 local_ip4;
	__u32 remote_ip6[4];
	__u32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	__u64 flow_keys;
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs; /* 5.1 */
	union {
		struct bpf_sock *sk; /* 5.1 */
		__u64 : 64;
	};
};

struct bpf_sock_tuple {
	union {
		struct {
			__be32 saddr;
			__be32 daddr;
			__be16 sport;
			__be16 dport;
		} ipv4;
		struct {
			__be32 saddr[4];
			__be32 daddr[4];
			__be16 sport;
			__be16 dport;
		} ipv6;
	};
};

struct sockaddr_in {
	__u16 sin_family;
	__be16 sin_port;
	__be32 sin_addr;
	__u8 zero[8];
};

struct sockaddr_in6 {
	__u16 sin6_family;
	__be16 sin6_port;
	__be32 sin6_flowinfo;
	__be32 sin6_addr[4];
	__u32 sin6_scope_id;
};

/* Helpers, with the first kernel that offers each to cgroup sock_addr programs, or to
 * cgroup_skb programs if those alone use it.
 */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value,
				   __u64 flags) = (void *)2;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u64 (*bpf_get_current_uid_gid)(void) = (void *)15;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to,
				  __u32 len) = (void *)26;		/* 4.10 */
static __u64 (*bpf_get_current_task)(void) = (void *)35;		/* 5.8 */
static __u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)46;		/* 4.12 */
static __u32 (*bpf_get_socket_uid)(struct __sk_buff *skb) = (void *)47; /* 4.12 */
static long (*bpf_bind)(struct bpf_sock_addr *ctx, void *addr,
			int addr_len) = (void *)64;		       /* 4.17 */
static __u64 (*bpf_skb_cgroup_id)(struct __sk_buff *skb) = (void *)79; /* 5.7 */
static struct bpf_sock *(*bpf_sk_lookup_tcp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					     __u64 netns, __u64 flags) = (void *)84; /* 4.20 */
static struct bpf_sock *(*bpf_sk_lookup_udp)(void *ctx, struct bpf_sock_tuple *tuple, __u32 size,
					     __u64 netns, __u64 flags) = (void *)85; /* 4.20 */
static long (*bpf_sk_release)(void *sk) = (void *)86;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95; /* 5.1 */
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value,
				   __u64 flags) = (void *)107; /* 5.2 */
static long (*bpf_probe_read_kernel)(void *dst, __u32 size,
				     const void *src) = (void *)113; /* 5.5 */
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, __u64 size,
				  __u64 flags) = (void *)130;  /* 5.8 */
static __u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)122; /* 5.7 */

#endif
