// SPDX-License-Identifier: Apache-2.0

// Package dnsteer runs the real binary, built from this tree, for tests: Service is
// "dnsteer run", Exec is "dnsteer exec".
//
// Both run in a Place: a network namespace, a cgroup, and a resolv.conf of its own
// (package etc, whose Roles a binary that uses this one needs). Service tells a test what it cannot
// see from outside: when the resolver is ready (as a service manager learns it),
// the worker's process, the verdict counters, and whether anything is left behind
// at the end.
package dnsteer
