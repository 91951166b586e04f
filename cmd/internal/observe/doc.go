// SPDX-License-Identifier: Apache-2.0

// Package observe serves what operators look at, to this host alone:
//
//	/metrics        everything that is counted, for Prometheus
//	/healthz        200 while the resolver answers
//	/readyz         200 while queries are steered to it, too
//	/debug/pprof/   what the process does with its time and memory
//
// The address is one of the loopback interface, or the path of a unix socket that root
// alone may use: there is no authentication, and profiles tell much.
//
// README.md lists the metrics; those of the resolver are in resolver/README.md.
package observe
