// SPDX-License-Identifier: Apache-2.0

// Command resolver measures dnsteer's resolver beside the DNS servers that people run,
// and beside the limit: a server that only moves octets.
//
//	make bench-resolver
//	go run ./test/bench/resolver -h
//
// The figure is processor time of the server, user and system, for each query that it
// has answered: the kernel accounts it exactly, and a busy machine changes it far less
// than queries per second. It is read from the cgroup that the server runs in, so
// helper processes count. All servers run at the same time, in a network namespace
// without a way out, on the first processor; the load, and the upstream of those who
// forward, on another. Each takes its turn within each round; a figure is the median
// of the rounds, and a ratio the median of the ratios of each round.
//
//	table      one name that the server knows itself, over UDP and TCP
//	cache      one name that an upstream has answered before
//	forward    ever other names, which an upstream answers with TTL 0
//	p99        of the latency at 5,000 queries a second, table over UDP
//
// The load of the first three keeps a hundred queries on their way, 25 on each of four
// sockets, and writes each with a call of its own, as clients do: a load that sent many
// with one call would hand whole batches to servers that read them. Debian's dnsperf
// does the same and gives the same figures, but does not end at times when answers were
// lost (2.10), and tells no percentiles. The load of the fourth sends on time and looks
// for answers without sleeping.
//
//	main.go       flags, rounds
//	server.go     what is measured: how to start each server
//	peers.go      the servers of others
//	dnsteer.go, echo.go, upstream.go   ours, the limit, whom they ask
//	load.go       turns; flood.go and pace.go are the loads
//	result.go     medians and ratios; print.go, how they look
//	batch.go      recvmmsg and sendmmsg for the ends
package main
