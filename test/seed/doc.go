// SPDX-License-Identifier: Apache-2.0

// Package seed tells the story that dnsteer exists for, with real packets in
// network namespaces of its own: a sidecar captures DNS with netfilter, source
// ports repeat, and conntrack answers for the rules.
//
//	client namespace                              server namespace
//	  application ──┐ asks 192.0.2.53               192.0.2.53: knows *.shop.example.org,
//	                ▼                                 not the other cluster
//	  proxy 127.0.0.1:15053, UID and GID 1337 ──▶
//	    knows reviews.cluster2.example.org
//
// Source ports are forced to collide in both directions, Pairs times each. A pair
// is two questions of the application, the second within milliseconds:
//
//	direction     first question                  second question, the collision
//	application   local name, which the proxy     table name from port P: inherits
//	              forwards from its port P        "no NAT" and is NXDOMAIN
//	proxy         table name from port P, which   local name, which the proxy forwards
//	              is redirected                   from port P: inherits the redirect, a loop
//
// A name "pN.shop.example.org" tells the proxy to forward it from port N; no
// other agreement is needed. What stands between application and proxy is an
// Interceptor:
//
//	direct                   nothing
//	netfilter                the three rules of a sidecar, in nat/OUTPUT
//	zones                    the same, with conntrack zones
//	dnsteer                  "dnsteer run", whose own resolver has the proxy's names
//	dnsteer, mesh resolver   "dnsteer run --resolver=none", the proxy answers
//	... + netfilter          either, with the three rules in place below it
//
// dnsteer's own resolver takes a random port for each query, which cannot be forced;
// it has to choose from the application's ports instead, so that some collide.
package seed
