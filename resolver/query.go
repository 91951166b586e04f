// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Answer is what a resolver said, for people to read.
type Answer struct {
	Rcode      string   `json:"rcode"`   // "NOERROR"
	Flags      string   `json:"flags"`   // "qr aa rd ra"
	Records    []string `json:"records"` // the answer section, as in a zone file
	Authority  []string `json:"authority"`
	Additional []string `json:"additional"`
	// Origin says where the answer came from, if a dnsteer resolver gave it:
	// "table names.yaml:12", "upstream 192.0.2.53:53 over udp in 3ms", "cache, 12s
	// after upstream 192.0.2.53:53".
	Origin string `json:"origin"`
	// Error is the extended error, or several, "No Reachable Authority: upstream …".
	Error string `json:"error"`
	// Network is what brought it: udp, or tcp when asked for or after truncation.
	Network string `json:"network"`
}

// Query asks a server for a name and type ("A", "HTTPS", "TYPE65280"; for PTR an
// address will do for the name). A truncated answer is fetched over TCP.
func Query(ctx context.Context, server netip.AddrPort, name, qtype string, tcp bool) (*Answer, error) {
	req, err := newQuestion(name, qtype)
	if err != nil {
		return nil, err
	}
	req.TCP = tcp
	reply, network, err := askAnswer(ctx, server, req)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("ask %s for %s %s: %w", server, name, qtype, err)
	}
	var msg dns.Msg
	if err := msg.Unpack(reply.wire); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", server, err)
	}
	answer := newAnswer(&msg)
	answer.Network = network
	return answer, nil
}

func askAnswer(ctx context.Context, server netip.AddrPort, req *Request) (*message, string, error) {
	if req.TCP {
		reply, err := askTCP(ctx, server, req, nil)
		return reply, "tcp", err
	}
	reply, err := askUDP(ctx, server, req, nil)
	if err != nil || !reply.isTruncated() {
		return reply, "udp", err
	}
	reply, err = askTCP(ctx, server, req, nil)
	return reply, "tcp", err
}

// newQuestion builds a query with the option that asks for the origin. This is the
// hop it is meant for, so it leaves as it is.
func newQuestion(name, qtype string) (*Request, error) {
	typ, err := parseType(qtype)
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(name); err == nil && typ == dns.TypePTR {
		if name, err = dns.ReverseAddr(addr.String()); err != nil {
			return nil, fmt.Errorf("reverse name of %s: %w", addr, err)
		}
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, fmt.Errorf("%q is not a domain name", name)
	}
	msg := new(dns.Msg).SetQuestion(dns.Fqdn(name), typ)
	msg.SetEdns0(udpSize, false)
	msg.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: optOrigin}}
	wire, err := msg.Pack()
	if err != nil {
		return nil, fmt.Errorf("build the query for %s: %w", name, err)
	}
	m, err := parseMessage(wire)
	if err != nil {
		return nil, fmt.Errorf("build the query for %s: %w", name, err)
	}
	return &Request{msg: m, verbatim: true}, nil
}

func parseType(s string) (uint16, error) {
	upper := strings.ToUpper(s)
	if typ, ok := dns.StringToType[upper]; ok {
		return typ, nil
	}
	if number, ok := strings.CutPrefix(upper, "TYPE"); ok {
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			return uint16(n), nil
		}
	}
	return 0, fmt.Errorf("%q is not a record type", s)
}

func newAnswer(msg *dns.Msg) *Answer {
	a := &Answer{
		Rcode:     dns.RcodeToString[msg.Rcode],
		Flags:     flagWords(msg.MsgHdr),
		Records:   texts(msg.Answer),
		Authority: texts(msg.Ns),
	}
	if a.Rcode == "" {
		a.Rcode = "RCODE" + strconv.Itoa(msg.Rcode)
	}
	for _, rr := range msg.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			a.Additional = append(a.Additional, rr.String())
			continue
		}
		for _, o := range opt.Option {
			a.option(o)
		}
	}
	return a
}

func (a *Answer) option(o dns.EDNS0) {
	switch o := o.(type) {
	case *dns.EDNS0_LOCAL:
		if o.Code == optOrigin {
			a.Origin = string(o.Data)
		}
	case *dns.EDNS0_EDE:
		text := dns.ExtendedErrorCodeToString[o.InfoCode]
		if o.ExtraText != "" {
			text += ": " + o.ExtraText
		}
		if a.Error != "" {
			text = a.Error + "; " + text
		}
		a.Error = text
	}
}

func texts(rrs []dns.RR) []string {
	var lines []string
	for _, rr := range rrs {
		lines = append(lines, rr.String())
	}
	return lines
}

func flagWords(h dns.MsgHdr) string {
	var words []string
	for _, f := range []struct {
		set  bool
		word string
	}{
		{h.Response, "qr"}, {h.Authoritative, "aa"}, {h.Truncated, "tc"}, {h.RecursionDesired, "rd"},
		{h.RecursionAvailable, "ra"}, {h.AuthenticatedData, "ad"}, {h.CheckingDisabled, "cd"},
	} {
		if f.set {
			words = append(words, f.word)
		}
	}
	return strings.Join(words, " ")
}
