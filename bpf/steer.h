/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The contract with user space: structs, enums, settings and maps. Package loader
 * reads the same through the Go types that bpf2go makes of them. Addresses are in
 * network byte order; IPv4 is held as ::ffff:a.b.c.d, so that one code path and
 * one key serve both families.
 */
#ifndef STEER_H
#define STEER_H

#include "bpf_abi.h"

#define DNS_PORT 53

/* Goes up whenever a struct or the meaning of a map's content changes, so that no
 * version works on state that it does not understand.
 */
#define LAYOUT 2

/* A heart is the word of a process that serves scopes: its generation, which tells it from
 * those who had the word before, and below that when it last beat, in ticks of 2^20 ns of
 * CLOCK_MONOTONIC. One that has not beaten for this long is hung: the promise is "at most
 * 2 s". It beats four times as often.
 */
#define HEARTS 4096
#define HEART_TICK_BITS 20
#define HEART_TIME_BITS 40
#define HEART_TIME_MASK ((1ULL << HEART_TIME_BITS) - 1)
#define HEART_LIMIT ((2ULL * 1000 * 1000 * 1000) >> HEART_TICK_BITS)

/* How many slots a nameserver's number may be away from its hash. With four, the
 * first refusal is to be expected beyond several thousand distinct nameservers.
 */
#define TAG_PROBES 4
#define TAG_NUMBERS 65536

struct address {
	__be32 word[4];
};

struct endpoint {
	struct address address;
	__be16 port;
	__u16 pad;
};

enum family {
	FAMILY_IPV4,
	FAMILY_IPV6,
	FAMILIES,
};

enum protocol {
	PROTOCOL_UDP,
	PROTOCOL_TCP,
	PROTOCOLS,
};

/* How a socket call left the datapath. */
enum verdict {
	VERDICT_STEERED,     /* now addressed to the target */
	VERDICT_OWNER,	     /* the socket belongs to the exempt UID or GID */
	VERDICT_NO_LISTENER, /* nobody listens on the target in this namespace */
	VERDICT_STRANGER,    /* somebody listens, but is not authorised */
	VERDICT_HUNG,	     /* the heart of the listener's process stands still */
	VERDICT_BOUND,	     /* the socket or message is bound to a device */
	VERDICT_EXCLUDED,    /* this nameserver is not to be steered */
	VERDICT_NO_RECORD,   /* the original destination could not be recorded */
	VERDICT_DENIED,	     /* refused with EPERM: fail closed */
	VERDICT_RESTORED,    /* a reply or peer name shows the original destination */
	VERDICTS,
};

enum scope_flag {
	SCOPE_TAGS_IPV4 = 1, /* the resolver receives on 127.53.0.0/16 */
	SCOPE_TAGS_IPV6 = 2, /* and on the ULA prefix */
	SCOPE_CLOSED = 4,    /* no live listener: EPERM */
	SCOPE_FOREIGN = 8,   /* any listener will do; it has no heart */
	SCOPE_UNTAGGED = 16, /* loopback stands for whatever the socket asked last */
	SCOPE_NODE = 32,     /* enrolled by who serves the node; means nothing to the programs */
};

/* What a namespace's listener carries in its socket storage, and thereby the
 * enrolment of that namespace.
 */
struct scope {
	__u32 heart; /* by which it lives: number and generation of a word */
	__u32 generation;
	enum scope_flag flags;
	__u32 owner_uid; /* exempt, as numbers of the initial user namespace */
	__u32 owner_gid;
	__u32 pad;
	struct address primary[FAMILIES];	 /* nameserver that 127.0.0.1 and ::1 stand for */
	struct address primary_source[FAMILIES]; /* local address of a socket connected to it */
	struct address source[FAMILIES];	 /* and of one connected to any other */
};

/* Socket calls that left with one verdict. */
struct calls {
	__u64 count[FAMILIES][PROTOCOLS];
};

struct nameserver_key {
	__u32 prefix_len; /* of 128 */
	struct address address;
};

enum nameserver_rule {
	NAMESERVER_STEER,
	NAMESERVER_LEAVE,
};

/* What a loaded datapath says of itself to later versions of the loader. */
struct about {
	__u32 layout; /* LAYOUT of the version that loaded it */
	__u32 port;
};

/* Where the running kernel keeps what the stable context does not show, in bytes,
 * from its BTF. All zero if there is none: then the owner is the task's and a
 * per-message interface goes unseen. Written by the loader, constant from then on.
 */
struct kernel_layout {
	__u32 known;
	__u32 sock_socket; /* struct sock.sk_socket */
	__u32 socket_file; /* struct socket.file */
	__u32 file_cred;   /* struct file.f_cred */
	__u32 cred_fsuid;
	__u32 cred_fsgid;
	__u32 inet_uc_index; /* struct inet_sock: IP_UNICAST_IF */
	__u32 inet_pinet6;
	__u32 pinet6_ucast_oif;	 /* struct ipv6_pinfo: IPV6_UNICAST_IF */
	__u32 pinet6_sticky_oif; /* and IPV6_PKTINFO as a socket option */
	__u32 ctx_t_ctx;	 /* struct bpf_sock_addr_kern: the message's source address */
	__s32 msg4_oif;		 /* the message's interface, from there: struct ipcm_cookie */
	__s32 msg6_oif;		 /* struct flowi6 */
};

/* The layout number, for the loader; the programs do not read it. */
volatile const __u32 steer_version = LAYOUT;
volatile const struct kernel_layout steer_layout = {};
/* The target's port, host byte order, and a secret that spreads tag numbers. */
volatile const __u16 steer_port = 15053;
volatile const __u32 steer_seed = 0;

/* Scope settings, on listeners. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct scope);
} steer_scope SEC(".maps");

/* The words of the processes that serve scopes: written by those, by mmap. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HEARTS);
	__type(key, __u32);
	__type(value, __u64);
} steer_heart SEC(".maps");

/* Namespaces enrolled by cookie: a resolver that is not ours, or fail closed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct scope);
} steer_enrolled SEC(".maps");

/* On client sockets: the nameserver that 127.0.0.1 or ::1 stands for there; all
 * zero once the socket has addressed the target itself.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct address);
} steer_origin SEC(".maps");

/* Tag number to nameserver. An entry never changes and never goes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TAG_NUMBERS);
	__type(key, __u32);
	__type(value, struct address);
} steer_tag SEC(".maps");

/* Nameservers to steer or to leave, by longest prefix; those not listed are steered. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct nameserver_key);
	__type(value, enum nameserver_rule);
} steer_nameserv SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, enum verdict);
	__type(value, struct calls);
} steer_verdict SEC(".maps");

/* On client sockets, while somebody watches for leaks: the verdict on the last call to
 * port 53 that was left alone.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, enum verdict);
} steer_last SEC(".maps");

/* Until when somebody watches, CLOCK_MONOTONIC in nanoseconds; a watcher renews it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} steer_watch SEC(".maps");

/* Written by the loader, read by later ones; the programs do not look at it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct about);
} steer_about SEC(".maps");

#endif
