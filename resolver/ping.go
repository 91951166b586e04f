// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// pingQuestion is "ping.dnsteer. CH TXT". CHAOS is the class for questions about
// the server itself (as version.bind), so no name of the Internet is touched.
const pingQuestion = "\x04ping\x07dnsteer\x00\x00\x10\x00\x03"

// pongText is the answer that no other server would give by chance.
const pongText = "the loop of a dnsteer socket runs"

// isPing reports a query for pingQuestion.
func isPing(wire []byte) bool {
	return len(wire) >= headerLen+len(pingQuestion) && wire[2]&(bitQR>>8) == 0 &&
		bytes.HasPrefix(wire[headerLen:], []byte(pingQuestion)) && wire[countQD] == 0 && wire[countQD+1] == 1
}

// pong answers a ping, nil for anything else. It runs in the loop that reads the
// socket, and nowhere else: whoever hears it knows that this loop turns.
func pong(wire []byte) []byte {
	if !isPing(wire) {
		return nil
	}
	out := append([]byte(nil), wire[:headerLen+len(pingQuestion)]...)
	setFlags(out, bitQR|bitAA)
	setCount(out, countAN, 1)
	setCount(out, countNS, 0)
	setCount(out, countAR, 0)
	out = append(out, 0xc0, headerLen, 0, dnsTXT, 0, dnsCHAOS, 0, 0, 0, 0, 0, byte(1+len(pongText)), byte(len(pongText)))
	return append(out, pongText...)
}

const (
	dnsTXT   = byte(dns.TypeTXT)
	dnsCHAOS = byte(dns.ClassCHAOS)
)

// Ping asks a dnsteer resolver whether the loop of its UDP socket turns. It sends
// one query and returns nil for the right answer, an error for another, or when ctx
// ends first.
func Ping(ctx context.Context, server netip.AddrPort) error {
	wire := make([]byte, headerLen, headerLen+len(pingQuestion))
	setCount(wire, countQD, 1)
	wire = append(wire, pingQuestion...)
	m, err := parseMessage(wire)
	if err != nil {
		return fmt.Errorf("ping %s: %w", server, err)
	}
	reply, err := askUDP(ctx, server, &Request{msg: m}, nil)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("ping %s: %w", server, err)
	}
	if !bytes.HasSuffix(reply.wire, []byte(pongText)) {
		return fmt.Errorf("ping %s: %w", server, errors.New("answered by another server"))
	}
	return nil
}
