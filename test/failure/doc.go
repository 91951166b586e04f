// SPDX-License-Identifier: Apache-2.0

// Package failure breaks dnsteer under load and counts what the clients notice.
//
// A client process asks without a pause, from sockets of every shape, and reports
// each query: when it started and ended, who answered, what error it met. The name
// that it asks for has one address in the name table and another at the nameserver,
// so each answer tells who gave it.
//
//	what is done to dnsteer        what clients may notice
//	kill -9 of the resolver        what it had read gets no answer; all else is answered, by
//	                               its nameserver or, what waits, by the next resolver
//	the same, and it cannot start  connected sockets get no answer for up to 3 s, then that
//	                               of their nameserver
//	SIGSTOP of the resolver        queries of the first two seconds get no answer
//	the same, for --hung-after     it is started again; its nameserver answers until then
//	kill -9 of "dnsteer run"       nothing, but for connected sockets, which are refused
//	                               until the next run, which adopts the datapath
//	SIGTERM                        nothing; nothing is left
//	SIGHUP, a changed file         nothing but other answers
//	--fail-closed, dead or hung    EPERM at once
//	CMD of exec leaves a process   nothing
//	kill -9 of "dnsteer exec"      nothing from the next query on
//
// Bad input, at every edge of the command line, is in input_test.go.
package failure
