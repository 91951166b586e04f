// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

// Offsets and bits of the header, RFC 1035 section 4.1.1.
const (
	headerLen = 12
	maxWire   = 65535 // what the length prefix of TCP can say

	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitAD = 1 << 5
	bitCD = 1 << 4

	countQD = 4
	countAN = 6
	countNS = 8
	countAR = 10
)

// Sections of records; the question is none.
const (
	inAnswer = iota
	inAuthority
	inAdditional
)

// message is a wire message with the places of what is in it. It refers to the
// wire and never changes it.
type message struct {
	wire []byte // exactly the message: trailing octets are cut off
	// question is the end of the question section, which begins at headerLen.
	question int
	// name, qtype and qclass are the first question's; name is empty without one.
	name          wireName
	qtype, qclass uint16

	records []record
	opt     int // index of the OPT record in records, or -1
	signed  bool
}

// record is the place of one resource record in a message.
type record struct {
	section          int
	start, data, end int // owner, RDATA, and behind it
	typ, class       uint16
}

var (
	errShort    = errors.New("message shorter than its header")
	errCut      = errors.New("message ends inside a record")
	errName     = errors.New("malformed name")
	errTrailing = errors.New("octets behind the message")
)

// parseMessage finds the parts of a wire message, or says why it is none.
// Octets behind the last record are not part of the message.
func parseMessage(wire []byte) (*message, error) {
	m, err := parseQuestion(wire)
	if err != nil {
		return nil, err
	}
	if err := m.parseRecords(); err != nil {
		return nil, err
	}
	return m, nil
}

// parseQuestion reads as far as the question section; records stay unread.
func parseQuestion(wire []byte) (*message, error) {
	m := new(message)
	if err := m.begin(wire, ""); err != nil {
		return nil, err
	}
	return m, nil
}

// begin is parseQuestion into a message that was used before. The name that is expected
// costs no memory.
func (m *message) begin(wire []byte, expected wireName) error {
	*m = message{wire: wire, opt: -1, question: headerLen, records: m.records[:0]}
	if len(wire) < headerLen {
		return errShort
	}
	for i := range m.count(countQD) {
		end, err := skipName(wire, m.question)
		if err != nil {
			return fmt.Errorf("question: %w", err)
		}
		if end+4 > len(wire) {
			return errCut
		}
		if i == 0 {
			if err := m.readQuestion(end, expected); err != nil {
				return err
			}
		}
		m.question = end + 4
	}
	return nil
}

func (m *message) readQuestion(end int, expected wireName) error {
	var buf [maxName]byte
	name := buf[:copy(buf[:], m.wire[headerLen:end])]
	// A first name has nothing before it to point at.
	if name[len(name)-1] != 0 {
		return fmt.Errorf("question: %w", errName)
	}
	lower(name)
	if m.name = expected; wireName(name) != expected {
		m.name = wireName(name)
	}
	m.qtype = binary.BigEndian.Uint16(m.wire[end:])
	m.qclass = binary.BigEndian.Uint16(m.wire[end+2:])
	return nil
}

func (m *message) parseRecords() error {
	off := m.question
	for section, at := range []int{countAN, countNS, countAR} {
		for range m.count(at) {
			r, err := readRecord(m.wire, off)
			if err != nil {
				return err
			}
			r.section = section
			if err := m.note(r); err != nil {
				return err
			}
			m.records = append(m.records, r)
			off = r.end
		}
	}
	m.wire = m.wire[:off:off]
	return m.checkMovable()
}

// clone is a copy that shares nothing with a message.
func (m *message) clone() *message {
	if m == nil {
		return nil
	}
	own := *m
	own.wire, own.records = bytes.Clone(m.wire), slices.Clone(m.records)
	return &own
}

// checkMovable refuses a message whose OPT record could not be taken out: one has
// to build names out of pieces of opaque RDATA, or of the OPT record itself, for
// that. Almost always the record is the last, and there is nothing to check.
func (m *message) checkMovable() error {
	if m.opt < 0 || m.opt == len(m.records)-1 {
		return nil
	}
	if _, err := parseMessage(m.withoutOPT(0)); err != nil {
		return fmt.Errorf("behind the OPT record: %w", err)
	}
	return nil
}

// note keeps OPT and signatures, and refuses them where the RFCs do.
func (m *message) note(r record) error {
	if m.signed {
		return errors.New("record behind the signature")
	}
	switch r.typ {
	case dns.TypeOPT:
		if m.opt >= 0 {
			return errors.New("two OPT records")
		}
		if r.section != inAdditional || m.wire[r.start] != 0 {
			return errors.New("misplaced OPT record")
		}
		m.opt = len(m.records)
	case dns.TypeTSIG:
		if r.section != inAdditional {
			return errors.New("misplaced TSIG record")
		}
		m.signed = true // RFC 8945 section 5.1: it is the last record
	case dns.TypeSIG:
		// SIG(0), RFC 2931: type covered is zero.
		m.signed = r.section == inAdditional && r.end-r.data >= 2 && m.wire[r.data] == 0 && m.wire[r.data+1] == 0
	}
	return nil
}

func readRecord(wire []byte, off int) (record, error) {
	end, err := skipName(wire, off)
	if err != nil {
		return record{}, err
	}
	if end+10 > len(wire) {
		return record{}, errCut
	}
	r := record{
		start: off,
		data:  end + 10,
		typ:   binary.BigEndian.Uint16(wire[end:]),
		class: binary.BigEndian.Uint16(wire[end+2:]),
	}
	r.end = r.data + int(binary.BigEndian.Uint16(wire[end+8:]))
	if r.end > len(wire) {
		return record{}, errCut
	}
	return r, nil
}

// skipName returns the offset behind the name at off, after a walk through the
// whole name, pointers too: a name that loops or is too long is refused here, so
// that nothing behind has to fear it. Pointers must point backwards, and are few, which
// bounds the walk: thousands of names that all begin with the same chain of thousands of
// pointers would cost a client nothing, and us a tenth of a second.
func skipName(wire []byte, off int) (int, error) {
	end, length, limit, pointers := 0, 0, off, 0
	for {
		if off >= len(wire) {
			return 0, errCut
		}
		c := int(wire[off])
		switch {
		case c == 0:
			if end == 0 {
				end = off + 1
			}
			return end, nil
		case c <= maxLabel:
			off += 1 + c
			if length += 1 + c; length+1 > maxName {
				return 0, errName
			}
		case c >= 0xc0:
			if off+1 >= len(wire) {
				return 0, errCut
			}
			if end == 0 {
				end = off + 2
			}
			off = (c&0x3f)<<8 | int(wire[off+1])
			// The header is no name.
			if pointers++; off >= limit || off < headerLen || pointers > maxHops {
				return 0, errName
			}
			limit = off
		default: // 0x40 and 0x80 never came into use
			return 0, errName
		}
	}
}

// owner returns the owner of a record, uncompressed and in lower case.
func (m *message) owner(r record) wireName {
	var name []byte
	for off := r.start; ; {
		c := int(m.wire[off])
		if c >= 0xc0 {
			off = (c&0x3f)<<8 | int(m.wire[off+1])
			continue
		}
		name = append(name, m.wire[off:off+1+c]...)
		if c == 0 {
			lower(name)
			return wireName(name)
		}
		off += 1 + c
	}
}

func (m *message) id() uint16         { return binary.BigEndian.Uint16(m.wire) }
func (m *message) flags() uint16      { return binary.BigEndian.Uint16(m.wire[2:]) }
func (m *message) opcode() int        { return int(m.flags()>>11) & 0xf }
func (m *message) count(at int) int   { return int(binary.BigEndian.Uint16(m.wire[at:])) }
func (m *message) isResponse() bool   { return m.flags()&bitQR != 0 }
func (m *message) isTruncated() bool  { return m.flags()&bitTC != 0 }
func (m *message) questions() []byte  { return m.wire[headerLen:m.question] }
func setID(wire []byte, id uint16)    { binary.BigEndian.PutUint16(wire, id) }
func setFlags(wire []byte, f uint16)  { binary.BigEndian.PutUint16(wire[2:], f) }
func setCount(wire []byte, at, n int) { binary.BigEndian.PutUint16(wire[at:], uint16(n)) }

// rcode is the low four bits of the header and, with EDNS, eight more.
func (m *message) rcode() int {
	low := int(m.flags()) & 0xf
	if m.opt < 0 {
		return low
	}
	return int(m.wire[m.records[m.opt].data-6])<<4 | low
}
