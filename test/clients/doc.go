// SPDX-License-Identifier: Apache-2.0

// Package clients asks the same questions with the resolvers that programs really
// have: glibc, musl (old, and one that knows TCP), Go, c-ares, Node, Python, busybox,
// dig and curl.
//
// Each client runs in World.Client, a namespace whose nameserver is 192.0.2.53, in
// a mount namespace of its own whose /etc/resolv.conf says so. Check compares its
// answers with what they must be; who starts the processes is a parameter:
//
//	direct        nothing in between, and a nameserver that knows everything
//	dnsteer run   a steered cgroup, and a nameserver that lacks the table's names
//	dnsteer exec  each command under one of its own, likewise
//
// The answers are the same in all, that is the test. TestSearchList asks as pods do, for
// names that the search list completes, over UDP and TCP, to nameservers of both
// families, and counts what is forwarded on the way.
//
// # What they need
//
//	client          Debian packages
//	getent          libc-bin
//	glibc           gcc, libc6-dev
//	musl            musl-tools; the newest musl is fetched, see musl.go
//	old musl        musl-tools
//	c-ares          gcc, libc-ares-dev
//	node            nodejs
//	python          python3
//	busybox         busybox
//	dig             bind9-dnsutils
//	curl            curl
//
// A machine that lacks one fails the test, which names the package.
package clients
