// SPDX-License-Identifier: Apache-2.0

// Package soak runs "dnsteer run" under load for a long time, with its names replaced
// every second and its upstream killed and started again, and looks for what is lost and
// what grows.
//
//	make soak                        10 minutes at 70 % of what the resolver can do
//	go test ./test/soak              some seconds at a gentle rate
//	go test ./test/soak -soak 1h
//
// Six queries in ten are for a name of the table, three for one that the cache has, one
// for a name that nobody has asked for. None may be without an answer. Only those of the
// last kind may fail, and only while the upstream is down. Debian's dnsperf asks for names
// of the table beside it, over UDP and TCP, and may lose nothing either. The resolver's
// memory and descriptors may not be more at the end than at the beginning.
package soak
