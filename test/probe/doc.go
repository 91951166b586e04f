// SPDX-License-Identifier: Apache-2.0

// Package probe asks nameservers the way applications do, one system call at a time,
// and reports what the application saw.
//
// A Spec is one sequence of calls on one socket: how the socket is made and who owns
// it, then the calls. A Result is what came back: the text and the sender of each
// answer, peer name, local name, the first error. A Child runs Specs in a process of
// its own, which a test puts into a cgroup and a network namespace:
//
//	parent                      child (role "probe")          maker (role "probe-maker")
//	  | -- Spec, JSON, stdin -->  |  a thread for each owner    |  UID 1337
//	  | <- Result, JSON, stdout - |  <---- SCM_RIGHTS ---------- |  sockets for owner "passed"
//
// The role "probe" also takes Specs as arguments and then ends, which is the way to try
// one by hand.
//
// Calls are made with package unix and never with package net: that one caches the peer
// name, retries, and picks among addresses. Each owner has a thread of its
// own, because a thread is what the kernel gives credentials to.
//
// Questions are DNS queries for TXT, each for a name of its own, so an answer says
// which question it belongs to. Every receive has a deadline: a query that vanishes is
// the error EAGAIN, never a hang.
package probe
