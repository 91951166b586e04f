/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the watch for leaks tells user space. It has programs and maps of its own, and
 * shares those of steer.h with the datapath that it watches.
 */
#ifndef LEAK_H
#define LEAK_H

#include "steer.h"

/* How a packet to port 53 came to leave an enrolled namespace. */
enum leak_reason {
	LEAK_CONNECTED, /* its socket was connected while nobody served */
	LEAK_BOUND,	/* the rest as the verdicts of the same name: */
	LEAK_EXCLUDED,
	LEAK_NO_RECORD,
	LEAK_HUNG,
	LEAK_UNSERVED, /* nobody listened, or a stranger, at the moment of the call */
	LEAK_RAW,      /* a raw socket, which no hook sees */
	LEAK_UNKNOWN,  /* no hook saw a call to port 53: others made it that */
	LEAK_UNTOLD,   /* no reason: the event of a leak found no room */
	LEAK_REASONS,
};

/* The first packet that a socket leaks for one reason. */
struct leak {
	__u64 cookie;	 /* of the socket */
	__u64 namespace; /* cookie of the network namespace, 0 before it has one */
	__u64 cgroup;	 /* id of the socket's */
	struct address server;
	enum leak_reason reason;
	enum family family; /* of the packet */
	enum protocol protocol;
	__u32 uid; /* whose socket it is, as number of the initial user namespace */
	__u32 pid; /* of the process that sends, 0 if it is not known */
	__be16 source_port;
	__u16 pad;
	char command[16]; /* of its thread */
};

/* What is known of a socket that leaks. */
struct leaker {
	__u32 owner; /* OWNER_... */
	__u32 told;  /* a bit for each reason that user space knows */
};

#define OWNER_EXEMPT 1
#define OWNER_OTHER 2

/* As struct kernel_layout, for what only the watch reads. */
struct leak_layout {
	__u32 sock_net;	  /* struct sock_common.skc_net */
	__u32 net_cookie; /* struct net */
	__u32 task_tgid;  /* struct task_struct */
	__u32 task_comm;
};

volatile const struct leak_layout steer_leak_lay = {};
/* Whether anybody reads events; counters are kept in any case. */
volatile const __u32 steer_tells = 1;
/* Nobody reads it: it gives the type to bpf2go, for a ring buffer has none. */
volatile const struct leak steer_leak_type = {};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LEAK_REASONS);
	__type(key, enum leak_reason);
	__type(value, struct calls);
} steer_leaks SEC(".maps");

/* Packets by the cookie of their network namespace, for those that leaked of late: more
 * than a node has pods.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} steer_leak_ns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct leaker);
} steer_leaker SEC(".maps");

/* Of struct leak. Some hundred events, for a reader that is not scheduled for a while. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} steer_event SEC(".maps");

#endif
