// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"os"

	"github.com/dnsteer/dnsteer/resolver"
)

// roleDnsteer is our resolver, as dnsteer run has it: metrics on, query log off.
const roleDnsteer = "bench-dnsteer"

// dnsteerMain serves: address, upstream, file of names.
func dnsteerMain(args []string) int {
	addr, up := netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1])
	udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return fail("dnsteer", err)
	}
	tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return fail("dnsteer", err)
	}
	s, err := resolver.New(resolver.Config{Upstreams: []netip.AddrPort{up}})
	if err != nil {
		return fail("dnsteer", err)
	}
	data, err := os.ReadFile(args[2])
	if err != nil {
		return fail("dnsteer", err)
	}
	table, err := resolver.ParseTable(resolver.Source{Path: args[2], Data: data, Format: resolver.FormatHosts})
	if err != nil {
		return fail("dnsteer", err)
	}
	s.SetTable(table)
	return fail("dnsteer", s.Serve(context.Background(), resolver.Listeners{UDP: []*net.UDPConn{udp}, TCP: []*net.TCPListener{tcp}}))
}
