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
// helper processes count. All servers of a row run at the same time, in a network
// namespace without a way out, on the first processor; the load, and the upstream of
// those who forward, on another. Each takes its turn within each round; a figure is the
// median of the rounds, and a ratio the median of the ratios of each round, with the range
// that the median of more rounds would be in. What disturbs a round disturbs both in it.
//
//	table      one name that the server knows itself, over UDP and TCP
//	cache      one name that an upstream has answered before
//	forward    ever other names, which an upstream answers with TTL 0
//	p99        of the latency at 5,000 queries a second, table over UDP; and what each of
//	           these queries costs, which comes alone ("alone")
//	thousand   a thousand names that the server knows itself, asked for evenly, over UDP
//	million    the same of a million
//
// The last two say what the size of a table costs. Each is of a server of its own that
// knows so many names and no more, and is asked for all of them: a million of which few
// are asked for would be as near to the processor as those few alone. Names are drawn
// with the round's number as seed, so that all servers have the same questions, and no
// name is warm from the round before. A server's two turns follow each other. These
// servers start when all else is measured; memory (MiB) is that of the server with one
// name. The load packs half a million questions before it begins, for either row: the
// server that only echoes has the same figure in both, or the load is at fault. A server
// that keeps answers (CoreDNS, its cache) has all of a thousand at hand, of a million few.
// Left out are dnsdist, which tries one rule after the other, and dnsmasq
// and PowerDNS recursor, which had not read a million names after two minutes of a busy
// machine; of the others, one that has not after five is left out, and the report says so.
//
// The load of all but p99 keeps a hundred queries on their way, 25 on each of four
// sockets, and writes each with a call of its own, as clients do: a load that sent many
// with one call would hand whole batches to servers that read them. Debian's dnsperf
// does the same and gives the same figures, but does not end at times when answers were
// lost (2.10), and tells no percentiles. That of p99 sends on time and looks
// for answers without sleeping, to each server for a tenth of a second in turn: p99 is of
// all answers of all rounds, its ratio that of each round's, to the peer to which ours
// compares worst; what the machine does to some it does to all alike. What
// is on its way when the load itself is held up is not counted.
//
//	main.go       flags
//	rounds.go     who takes turns, and when
//	server.go     what is measured: how to start each server
//	peers.go      the servers of others
//	dnsteer.go, echo.go, upstream.go   ours, the limit, whom they ask
//	table.go      the names that they know, and questions for them
//	load.go       turns; flood.go and pace.go are the loads
//	result.go     medians and ratios; print.go, how they look
//	batch.go      recvmmsg and sendmmsg for the ends
package main
