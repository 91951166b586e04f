// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"encoding/binary"
	"errors"

	"github.com/miekg/dns"
)

const (
	// udpSize is the payload we offer, to clients and upstreams alike: what
	// passes every path without fragments (DNS flag day 2020).
	udpSize = 1232
	// minSize is what every client takes (RFC 1035 section 4.2.1); a smaller
	// number in an OPT record means this one (RFC 6891 section 6.2.3).
	minSize = 512
	// optOrigin asks a dnsteer resolver where its answer came from, and carries
	// the words back. RFC 6891 section 9 leaves 65001 to 65534 to local use; 53
	// is easy to recognise in a dump. It is never forwarded.
	optOrigin = 65053
)

// edns is an OPT record.
type edns struct {
	size     uint16 // payload that the sender takes
	extended uint8  // upper bits of the rcode
	version  uint8
	flags    uint16 // DO and what is yet to be defined
	options  []option
	// cookie is one of ours to an upstream, which goes with the options; nil for none.
	cookie []byte
	// padded hides on an encrypted way how long the query is.
	padded bool
}

type option struct {
	code uint16
	data []byte
}

// edns reads the OPT record of a message, nil if it has none. The options refer
// to the wire.
func (m *message) edns() (*edns, error) {
	if m.opt < 0 {
		return nil, nil
	}
	r := m.records[m.opt]
	ttl := m.wire[r.data-6:]
	e := &edns{size: r.class, extended: ttl[0], version: ttl[1], flags: binary.BigEndian.Uint16(ttl[2:])}
	for data := m.wire[r.data:r.end]; len(data) > 0; {
		if len(data) < 4 {
			return nil, errors.New("OPT record ends inside an option")
		}
		n := 4 + int(binary.BigEndian.Uint16(data[2:]))
		if n > len(data) {
			return nil, errors.New("EDNS option longer than its record")
		}
		e.options = append(e.options, option{code: binary.BigEndian.Uint16(data), data: data[4:n:n]})
		data = data[n:]
	}
	return e, nil
}

// option finds one option in the OPT record of a message, and nothing in a damaged one.
func (m *message) option(code uint16) ([]byte, bool) {
	if m.opt < 0 {
		return nil, false
	}
	for data := m.wire[m.records[m.opt].data:m.records[m.opt].end]; len(data) >= 4; {
		n := 4 + int(binary.BigEndian.Uint16(data[2:]))
		if n > len(data) {
			break
		}
		if binary.BigEndian.Uint16(data) == code {
			return data[4:n], true
		}
		data = data[n:]
	}
	return nil, false
}

// appendTo puts the record behind a message; the caller counts it.
func (e *edns) appendTo(wire []byte) []byte {
	wire = append(wire, 0)
	wire = binary.BigEndian.AppendUint16(wire, dns.TypeOPT)
	wire = binary.BigEndian.AppendUint16(wire, e.size)
	wire = append(wire, e.extended, e.version)
	wire = binary.BigEndian.AppendUint16(wire, e.flags)
	wire = binary.BigEndian.AppendUint16(wire, uint16(e.len()-optFixed))
	for _, o := range e.options {
		wire = binary.BigEndian.AppendUint16(wire, o.code)
		wire = binary.BigEndian.AppendUint16(wire, uint16(len(o.data)))
		wire = append(wire, o.data...)
	}
	return wire
}

// optFixed is the length of an OPT record without options.
const optFixed = 11

func (e *edns) len() int {
	return optFixed + optionsLen(e.options)
}

func optionsLen(options []option) int {
	n := 0
	for _, o := range options {
		n += 4 + len(o.data)
	}
	return n
}

func (e *edns) option(code uint16) (option, bool) {
	for _, o := range e.options {
		if o.code == code {
			return o, true
		}
	}
	return option{}, false
}

// passed is what goes on to the next hop: every option, new and unknown ones
// too, but those that speak of this hop alone.
func (e *edns) passed() []option {
	var kept []option
	for _, o := range e.options {
		if !isHopByHop(o.code) {
			kept = append(kept, o)
		}
	}
	return kept
}

// onward are the options of a query to an upstream.
func (e *edns) onward() []option {
	options := e.passed()
	if e.cookie != nil {
		options = append(options, option{dns.EDNS0COOKIE, e.cookie})
	}
	return options
}

// padBlock is what encrypted queries are padded to a multiple of (RFC 8467 section 4.1).
const padBlock = 128

// hidden is the record for an encrypted query; nil stays nil.
func (e *edns) hidden() *edns {
	if e == nil {
		return nil
	}
	hidden := *e
	hidden.padded = true
	return &hidden
}

// pad makes a message of that length, without this record, one that has the length of
// others (RFC 7830 section 3), as far as there is room.
func (e *edns) pad(length int) {
	if length += e.len() + 4; length <= maxWire {
		e.options = append(e.options, option{dns.EDNS0PADDING, make([]byte, min((padBlock-length%padBlock)%padBlock, maxWire-length))})
	}
}

func isHopByHop(code uint16) bool {
	switch code {
	case dns.EDNS0COOKIE, dns.EDNS0TCPKEEPALIVE, dns.EDNS0PADDING, optOrigin:
		return true
	}
	return false
}

// check refuses what a server must refuse in a query's OPT record. A keepalive
// over UDP is ignored (RFC 7828 section 3.2.1), so its length is no matter there.
func (e *edns) check(tcp bool) error {
	if e.version > 0 {
		return &failure{rcode: dns.RcodeBadVers, ede: dns.ExtendedErrorCodeNotSupported, text: "EDNS version above 0"}
	}
	if o, ok := e.option(dns.EDNS0COOKIE); ok {
		if !isCookie(len(o.data)) {
			return formErr("cookie of a wrong length") // RFC 7873 section 5.2.2
		}
	}
	if o, ok := e.option(dns.EDNS0TCPKEEPALIVE); ok && tcp && len(o.data) != 0 {
		return formErr("keepalive timeout in a query") // RFC 7828 section 3.2.1
	}
	return nil
}

// extendedError is the option of RFC 8914.
func extendedError(code uint16, text string) option {
	return option{dns.EDNS0EDE, append(binary.BigEndian.AppendUint16(nil, code), text...)}
}
