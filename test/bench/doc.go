// SPDX-License-Identifier: Apache-2.0

// Package bench measures what dnsteer costs, in sockets and in queries.
//
//	make bench
//	go test -run '^$' -bench . -count 10 ./test/bench | benchstat -
//
// Every figure is of two sides that take turns within one benchmark, a few hundred
// calls each, so that whatever else the machine does, it does to both. A figure is the
// median of the turns.
//
//	Hook    one system call of a process in a cgroup with the datapath ("with") and of
//	        one in a cgroup without ("without"), in the same network namespace. The
//	        datagrams of both are dropped by a filter on a socket on loopback.
//	Watch   the same, of packets to another port that leave by a device, while somebody
//	        watches for leaks ("with") and while nobody does.
//	Beat    what it costs a process to say that it lives, for 250 scopes.
//	Query   one question for a name that the resolver inside the pod knows, brought to
//	        it by netfilter, by netfilter with conntrack zones, or by dnsteer, and
//	        asked of it directly. The resolver is the same in all, but for the last:
//	        dnsteer with its own. CPU is that of the pod: client, resolver, and what
//	        the kernel does for them.
//
// These are commands, not timed tests: what fails them is a wrong answer, never a slow
// one.
package bench
