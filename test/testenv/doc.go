// SPDX-License-Identifier: Apache-2.0

// Package testenv gives a test a small world of its own: network namespaces,
// cgroups, BPF file systems, nameservers and processes, made for one test and
// gone when it ends.
//
// Every helper takes a testing.TB, ends the test if it cannot do its work, and
// undoes what it did with tb.Cleanup. None returns an error, none skips: a test
// that lacks a privilege or a package fails and names it.
//
//	func TestMain(m *testing.M) { testenv.Main(m, nil) }
//
//	func TestQuery(t *testing.T) {
//		client, server := testenv.NewLink(t)
//		ns := testenv.Nameserver(t, server, netip.MustParseAddrPort("192.0.2.53:53"), nil)
//		client.Do(func() { ... ask 192.0.2.53 ... })
//		... ns.Count("www.example.org.") ...
//	}
//
// # The link
//
// NewLink joins two namespaces; each line is an address and its owner:
//
//	client  192.0.2.1/24   2001:db8::1/64
//	server  192.0.2.53  192.0.2.54  192.0.2.7  2001:db8::53  2001:db8::54
//
// The client's default routes lead to the server, so no packet of a test can
// leave the two namespaces.
//
// # Invariants
//
//   - Namespaces have no name; descriptors and processes hold them.
//   - Scratch cgroups are called dnsteer-test-PID-*, so that a leak has an owner.
//   - Files live below the run directory, a TMPDIR that Main makes and removes.
//   - Nothing sleeps; Eventually alone polls, with a deadline.
//   - Main fails a run that leaks a mount, cgroup, pin, process, goroutine or
//     descriptor, even if every test passed.
package testenv
