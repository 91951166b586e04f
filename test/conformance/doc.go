// SPDX-License-Identifier: Apache-2.0

// Package conformance holds the tests of what an application under dnsteer sees, call
// by call, against the real kernel. It has no code but its tests.
//
//	shape_test.go      the sequences of calls that applications make
//	expect_test.go     what each must give: the rules, as one function
//	table_test.go      every shape, family, owner and state of the resolver
//	world_test.go      namespaces, nameservers, datapath and resolver of a state
//	resolver_test.go   the smallest resolver that answers from tags
//	agent_test.go      the table in a pod of dnsteer-agent (go test -tags agent)
//	transition_test.go sockets that live through a change of state
//	leak_test.go       what a watch for leaks counts, and what it does not
//	tag_test.go        tags of many servers, sockets and processes never mix
//	kernel_test.go     what the kernel does, on which the datapath relies
//
// A row states all that there is to see: the text of each answer (which server gave
// it), its sender, peer name, local name, the error, and the exact change of every
// verdict counter. What cannot be right is in the table as what it is, with the reason:
// grep "limit:".
package conformance
