// SPDX-License-Identifier: Apache-2.0

// Package resolver is the DNS server behind a steered socket. It answers the
// names of its table itself and forwards every other message, whole, to the
// nameserver that the client meant (RFC 5625).
//
// It listens on sockets that are handed to it and neither knows nor cares in
// which network namespace they live. The local address at which a query arrives
// says which nameserver was meant; [Config.Origin] translates it.
//
// A message is parsed once, from the wire, into a layout of offsets
// (message.go). What is forwarded stays wire: only the ID and what EDNS calls hop
// by hop change. Answers out of the table are written on the wire (writer.go).
//
// The words, the chain and the table of behaviours with their tests are in
// README.md.
package resolver
